//! How well pictures follow their control maps (arXiv 2306.07280, table 2): edges found in them by the method that made the maps,
//! and label maps of them by the user's segmenter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use temper_datasets::images::{
    EdgeCounts, EdgeScores, IGNORED_LABEL, LabelCounts, LabelScores, by_stem, canny, fit, list,
    read, read_labels, read_map, stem,
};

use super::files::{LeftOut, LeftOuts, Unfit, open};
use super::mean::Figure;
use super::prompts::{control_of, sheet};
use crate::eval::EvalError;
use crate::run::note;

/// Brightness from which a pixel of a control map is an edge.
const EDGE: u8 = 128;

/// Pictures that should have the edges of maps.
#[derive(Clone, Debug)]
pub(crate) struct EdgeRequest {
    pub(crate) generated: PathBuf,
    pub(crate) control: PathBuf,
    /// Thresholds of the edges.
    pub(crate) low: f32,
    pub(crate) high: f32,
    /// The control files are photographs; their edges are the maps.
    pub(crate) photographs: bool,
    /// Maps of another size are brought to that of the picture.
    pub(crate) resize: bool,
}

/// Label maps of pictures, and those that they should have.
#[derive(Clone, Debug)]
pub(crate) struct LabelRequest {
    pub(crate) labels: PathBuf,
    pub(crate) predicted: PathBuf,
    pub(crate) classes: u8,
    pub(crate) ignore: u8,
    /// As in [`EdgeRequest`].
    pub(crate) resize: bool,
}

/// Agreement of edges.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EdgeSummary {
    /// Pictures that count.
    pub pictures: u64,
    /// Those that do not.
    pub left_out: LeftOuts,
    /// Thresholds of the edges of the pictures.
    pub thresholds: [f32; 2],
    /// From this brightness on a pixel of a control map is an edge.
    pub map_threshold: u8,
    /// Control maps with other values than black and white.
    pub grey_maps: u64,
    /// Control maps without an edge, where a picture without edges is right.
    pub blank_maps: u64,
    /// Control maps without a picture.
    pub unused_maps: u64,
    /// Share of pixels that differ, mean over pictures.
    pub l1: Option<Figure>,
    /// Intersection over union, mean over pictures.
    pub iou: Option<Figure>,
    /// Harmonic mean of precision and recall, mean over pictures.
    pub f1: Option<Figure>,
    /// The same over the pixels of all pictures together.
    pub pooled: EdgeScores,
}

/// Agreement of label maps, over the pixels of all of them together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelSummary {
    /// Maps.
    pub pictures: u64,
    /// Classes.
    pub classes: u8,
    /// Pixels with this true label do not count.
    pub ignored: u8,
    /// Mean intersection over union, mean accuracy, accuracy of pixels, and each class.
    #[serde(flatten)]
    pub scores: LabelScores,
}

/// What `temper eval --task control` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ControlSummary {
    /// `control`.
    pub task: &'static str,
    /// Of edges, where control maps were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edges: Option<EdgeSummary>,
    /// Of label maps, where they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelSummary>,
}

/// A line of `pictures.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EdgeRow {
    /// The picture.
    pub file: PathBuf,
    /// Its control map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<PathBuf>,
    /// Its scores.
    #[serde(flatten)]
    pub scores: Option<EdgeScores>,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Unfit>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl EdgeSummary {
    /// Says what of the maps the scores alone do not show.
    fn tell_maps(&self) {
        if self.grey_maps > 0 {
            note(&format!(
                "{} control maps are not black and white: pixels from brightness {EDGE} on are taken as edges",
                self.grey_maps
            ));
        }
        if self.blank_maps > 0 {
            note(&format!(
                "warning: {} of {} control maps have no edge; a picture without edges scores 1 there, whatever it shows",
                self.blank_maps, self.pictures
            ));
        }
    }
}

impl EdgeRow {
    fn scored(picture: &Path, map: &Path, scores: EdgeScores) -> Self {
        Self {
            file: picture.to_owned(),
            control: Some(map.to_owned()),
            scores: Some(scores),
            ..Self::default()
        }
    }

    fn left_out(one: &LeftOut) -> Self {
        Self {
            file: one.file.clone(),
            left_out: Some(one.why),
            reason: Some(one.reason.clone()),
            ..Self::default()
        }
    }
}

/// What comes of one picture.
enum Compared {
    LeftOut(LeftOut),
    Scored(EdgeCounts, MapKind),
}

/// What a control map is like.
#[derive(Clone, Copy, Debug)]
struct MapKind {
    /// It has other values than black and white.
    grey: bool,
    /// It has no edge.
    blank: bool,
}

/// Compares edges. Rows are in the order of the pictures.
pub(crate) fn measure_edges(
    request: &EdgeRequest,
) -> Result<(EdgeSummary, Vec<EdgeRow>), EvalError> {
    let maps = by_stem(&request.control)?;
    let (mut left_out, mut pairs, mut rows) = (LeftOuts::default(), Vec::new(), Vec::new());
    for picture in list(&request.generated, true)? {
        match sheet(&picture) {
            Some(one) => {
                rows.push(EdgeRow::left_out(&one));
                left_out.add(one);
            }
            None => pairs.push((map_of(&picture, request, &maps)?, picture)),
        }
    }
    let compared: Vec<Compared> = pairs
        .par_iter()
        .map(|(map, picture)| compare(picture, map, request))
        .collect::<Result<_, EvalError>>()?;
    let (mut all, mut pooled) = (Vec::new(), EdgeCounts::default());
    let [mut grey_maps, mut blank_maps] = [0; 2];
    for ((map, picture), compared) in pairs.iter().zip(compared) {
        match compared {
            Compared::LeftOut(one) => {
                rows.push(EdgeRow::left_out(&one));
                left_out.add(one);
            }
            Compared::Scored(counts, kind) => {
                rows.push(EdgeRow::scored(picture, map, counts.scores()));
                pooled.join(&counts);
                grey_maps += u64::from(kind.grey);
                blank_maps += u64::from(kind.blank);
                all.push(counts.scores());
            }
        }
    }
    rows.sort_by(|a, b| a.file.cmp(&b.file));
    left_out.tell();
    if all.is_empty() {
        return Err(left_out.nothing_to_score(&request.generated));
    }
    let used: BTreeSet<&Path> = pairs.iter().map(|(map, _)| *map).collect();
    let figure = |of: fn(&EdgeScores) -> f64| Figure::of(all.iter().map(of));
    let summary = EdgeSummary {
        pictures: all.len() as u64,
        left_out,
        thresholds: [request.low, request.high],
        map_threshold: EDGE,
        grey_maps,
        blank_maps,
        unused_maps: (maps.len() - used.len()) as u64,
        l1: figure(|scores| scores.l1),
        iou: figure(|scores| scores.iou),
        f1: figure(|scores| scores.f1),
        pooled: pooled.scores(),
    };
    summary.tell_maps();
    Ok((summary, rows))
}

/// The map with the name of the picture, or else with that of the control picture that `temper sample` drew after.
fn map_of<'a>(
    picture: &Path,
    request: &EdgeRequest,
    maps: &'a BTreeMap<PathBuf, PathBuf>,
) -> Result<&'a Path, EvalError> {
    let drawn_after = || {
        let control = control_of(picture)?;
        maps.get(Path::new(control.file_stem()?))
    };
    let found = maps
        .get(&stem(picture, &request.generated))
        .or_else(drawn_after);
    found.map(PathBuf::as_path).ok_or_else(|| EvalError::NoMap {
        picture: picture.to_owned(),
        path: request.control.clone(),
    })
}

fn compare(picture: &Path, map: &Path, request: &EdgeRequest) -> Result<Compared, EvalError> {
    let photo = match open(picture) {
        Ok(photo) => photo,
        Err(one) => return Ok(Compared::LeftOut(one)),
    };
    let size = (photo.width, photo.height);
    let (wanted, grey) = if request.photographs {
        let control = fit(&read(map)?, size.0, size.1);
        (canny(&control, request.low, request.high)?, false)
    } else {
        let control = read_map(map)?;
        let luma = control.luma();
        let grey = luma.iter().any(|value| !matches!(value, 0 | 255));
        let edges: Vec<u8> = luma.iter().map(|value| u8::from(*value >= EDGE)).collect();
        let from = (control.width, control.height);
        (
            matched((map, edges, from), (picture, size), request.resize)?,
            grey,
        )
    };
    let found = canny(&photo, request.low, request.high)?;
    let kind = MapKind {
        grey,
        blank: wanted.iter().all(|edge| *edge == 0),
    };
    let mut counts = EdgeCounts::default();
    counts.add(&found, &wanted)?;
    Ok(Compared::Scored(counts, kind))
}

/// Compares label maps.
pub(crate) fn measure_labels(request: &LabelRequest) -> Result<LabelSummary, EvalError> {
    let wanted = by_stem(&request.labels)?;
    let predicted = list(&request.predicted, true)?;
    let mut counts = LabelCounts::new(request.classes);
    for file in &predicted {
        let truth =
            wanted
                .get(&stem(file, &request.predicted))
                .ok_or_else(|| EvalError::NoMap {
                    picture: file.clone(),
                    path: request.labels.clone(),
                })?;
        let (width, height, mut labels) = read_labels(truth)?;
        for label in &mut labels {
            if *label == request.ignore {
                *label = IGNORED_LABEL;
            }
        }
        let (from_width, from_height, found) = read_labels(file)?;
        let found = matched(
            (file, found, (from_width, from_height)),
            (truth, (width, height)),
            request.resize,
        )?;
        counts
            .add(&found, &labels)
            .map_err(|error| EvalError::BadLabels {
                picture: file.clone(),
                truth: truth.clone(),
                reason: error.to_string(),
            })?;
    }
    let scores = counts.scores();
    if scores.iou.iter().all(Option::is_none) {
        return Err(EvalError::NothingToScore {
            path: request.labels.clone(),
            counts: format!(": every pixel has the ignored label {}", request.ignore),
        });
    }
    Ok(LabelSummary {
        pictures: predicted.len() as u64,
        classes: request.classes,
        ignored: request.ignore,
        scores,
    })
}

/// A map at another size, each pixel that of the nearest centre; refused unless that is asked for.
fn matched(
    (file, map, from): (&Path, Vec<u8>, (usize, usize)),
    (other, to): (&Path, (usize, usize)),
    resize: bool,
) -> Result<Vec<u8>, EvalError> {
    if from == to {
        return Ok(map);
    }
    if !resize {
        return Err(EvalError::SizesDiffer {
            map: file.to_owned(),
            size: from,
            picture: other.to_owned(),
            expected: to,
        });
    }
    let at = |place: usize, to: usize, from: usize| (2 * place + 1) * from / (2 * to);
    let row = |y: usize| at(y, to.1, from.1) * from.0;
    let pixels = (0..to.1).flat_map(|y| (0..to.0).map(move |x| (x, y)));
    Ok(pixels
        .map(|(x, y)| map[row(y) + at(x, to.0, from.0)])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_another_size_is_refused_or_sampled_at_the_nearest_pixels() {
        let (file, other) = (Path::new("map.png"), Path::new("picture.png"));
        let map = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let to = |size, resize| matched((file, map.clone(), (4, 2)), (other, size), resize);
        assert_eq!(to((4, 2), false).unwrap(), map);
        let said = to((2, 2), false).unwrap_err().to_string();
        assert!(said.contains("map.png") && said.contains("4 × 2"), "{said}");
        assert_eq!(to((2, 1), true).unwrap(), [6, 8]);
        assert_eq!(
            to((8, 2), true).unwrap(),
            [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
        );
    }
}
