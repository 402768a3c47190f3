//! How well generated pictures obey a control map.

use std::path::Path;

use serde::Serialize;

use crate::error::{DataError, Result};

/// Label of pixels that do not count.
pub const IGNORED_LABEL: u8 = 255;

/// Agreement of two binary maps, such as the edges of a generated picture and of the one that it should
/// follow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EdgeScores {
    /// Mean absolute difference, maps taken as 0 and 1: the share of pixels that differ.
    pub l1: f64,
    /// Intersection over union; 1 if both maps are empty.
    pub iou: f64,
    /// Share of found edges that are wanted; 1 if none were found.
    pub precision: f64,
    /// Share of wanted edges that were found; 1 if none are wanted.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 1 if both maps are empty.
    pub f1: f64,
}

/// Counts over binary maps: pixels other than 0 are edges. Over a set of pictures it gives the scores of all
/// pixels together, in which pictures with many edges weigh more than in a mean over pictures.
///
/// ```
/// use temper_datasets::images::EdgeCounts;
///
/// let mut counts = EdgeCounts::default();
/// counts.add(&[255, 255, 0, 0], &[255, 0, 255, 0])?;
/// counts.add(&[255, 255, 0, 0], &[255, 255, 0, 0])?;
/// assert_eq!((counts.scores().l1, counts.scores().iou), (0.25, 0.6));
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EdgeCounts {
    both: u64,
    found: u64,
    wanted: u64,
    pixels: u64,
}

impl EdgeCounts {
    /// Counts a map that was found against the one that is wanted.
    ///
    /// # Errors
    /// If the maps have different lengths or are empty.
    pub fn add(&mut self, found: &[u8], wanted: &[u8]) -> Result<()> {
        same_length(found, wanted)?;
        for (found, wanted) in found.iter().zip(wanted) {
            self.both += u64::from(*found > 0 && *wanted > 0);
            self.found += u64::from(*found > 0);
            self.wanted += u64::from(*wanted > 0);
        }
        self.pixels += found.len() as u64;
        Ok(())
    }

    /// Adds the counts of other pictures.
    pub fn join(&mut self, other: &Self) {
        self.both += other.both;
        self.found += other.found;
        self.wanted += other.wanted;
        self.pixels += other.pixels;
    }

    /// The scores so far; without a pixel those of empty maps.
    pub fn scores(&self) -> EdgeScores {
        let ratio = |part: u64, whole: u64| match whole {
            0 => 1.0,
            _ => part as f64 / whole as f64,
        };
        let either = self.found + self.wanted - self.both;
        EdgeScores {
            l1: (either - self.both) as f64 / self.pixels.max(1) as f64,
            iou: ratio(self.both, either),
            precision: ratio(self.both, self.found),
            recall: ratio(self.both, self.wanted),
            f1: ratio(2 * self.both, self.found + self.wanted),
        }
    }
}

/// Compares binary maps: pixels other than 0 are edges.
///
/// # Errors
/// If the maps have different lengths or are empty.
///
/// ```
/// use temper_datasets::images::edge_scores;
///
/// let scores = edge_scores(&[255, 255, 0, 0], &[255, 0, 255, 0])?;
/// assert_eq!((scores.l1, scores.iou, scores.f1), (0.5, 1.0 / 3.0, 0.5));
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
pub fn edge_scores(found: &[u8], wanted: &[u8]) -> Result<EdgeScores> {
    let mut counts = EdgeCounts::default();
    counts.add(found, wanted)?;
    Ok(counts.scores())
}

/// Scores of label maps, each in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelScores {
    /// Mean over classes of intersection over union; classes that occur in neither map are left out.
    pub miou: f64,
    /// Mean over the classes of the true map of the share of their pixels that are right.
    pub macc: f64,
    /// Share of all pixels that are right.
    pub aacc: f64,
    /// Intersection over union of each class, nothing for those in neither map.
    pub iou: Vec<Option<f64>>,
}

/// Counts over a set of label maps: scores are taken over all pixels of the set, as is customary for ADE20K.
///
/// ```
/// use temper_datasets::images::LabelCounts;
///
/// let mut counts = LabelCounts::new(2);
/// counts.add(&[0, 0, 1, 1], &[0, 1, 1, 255])?;
/// let scores = counts.scores();
/// assert_eq!((scores.miou, scores.macc, scores.aacc), (0.5, 0.75, 2.0 / 3.0));
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCounts {
    /// Pixels that are right, by class.
    right: Vec<u64>,
    /// Pixels that got the class.
    predicted: Vec<u64>,
    /// Pixels that have the class.
    wanted: Vec<u64>,
}

impl LabelCounts {
    /// Counts for labels from 0 to `classes - 1`; at most 255 classes.
    pub fn new(classes: u8) -> Self {
        let zeros = vec![0; usize::from(classes)];
        Self {
            right: zeros.clone(),
            predicted: zeros.clone(),
            wanted: zeros,
        }
    }

    /// Counts a map against the true one; pixels whose true label is [`IGNORED_LABEL`] are left out.
    ///
    /// # Errors
    /// If the maps have different lengths, are empty, or hold a label that is no class.
    pub fn add(&mut self, predicted: &[u8], wanted: &[u8]) -> Result<()> {
        same_length(predicted, wanted)?;
        let classes = self.right.len();
        let pairs = || {
            predicted
                .iter()
                .zip(wanted)
                .filter(|(_, wanted)| **wanted != IGNORED_LABEL)
        };
        let beyond = pairs()
            .flat_map(|(a, b)| [*a, *b])
            .find(|label| usize::from(*label) >= classes);
        if let Some(label) = beyond {
            let reason = format!("has the label {label}, but there are {classes} classes");
            return Err(DataError::setting("label map", reason));
        }
        for (predicted, wanted) in pairs() {
            self.predicted[usize::from(*predicted)] += 1;
            self.wanted[usize::from(*wanted)] += 1;
            self.right[usize::from(*wanted)] += u64::from(predicted == wanted);
        }
        Ok(())
    }

    /// The scores so far; 0 if nothing was counted.
    pub fn scores(&self) -> LabelScores {
        let counts = || self.right.iter().zip(&self.predicted).zip(&self.wanted);
        let share = |right: u64, all: u64| (all > 0).then(|| right as f64 / all as f64);
        let iou: Vec<Option<f64>> = counts()
            .map(|((right, predicted), wanted)| share(*right, predicted + wanted - right))
            .collect();
        let accuracy: Vec<Option<f64>> = counts()
            .map(|((right, _), wanted)| share(*right, *wanted))
            .collect();
        LabelScores {
            miou: mean(&iou),
            macc: mean(&accuracy),
            aacc: share(self.right.iter().sum(), self.wanted.iter().sum()).unwrap_or(0.0),
            iou,
        }
    }
}

fn mean(values: &[Option<f64>]) -> f64 {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    match known.len() {
        0 => 0.0,
        count => known.iter().sum::<f64>() / count as f64,
    }
}

fn same_length(a: &[u8], b: &[u8]) -> Result<()> {
    if a.len() == b.len() && !a.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "have {} and {} pixels; they must have the same number, not 0",
        a.len(),
        b.len()
    );
    Err(DataError::setting("maps", reason))
}

/// Labels of each pixel: the index of a palette PNG, or the value of a grey one; `(width, height, labels)`.
///
/// # Errors
/// If the file cannot be read, is no PNG, has colours instead of labels, or has more than 8 bits.
pub fn read_labels(path: impl AsRef<Path>) -> Result<(usize, usize, Vec<u8>)> {
    let path = path.as_ref();
    let options = super::ReadOptions::default();
    let bytes = super::read::load(path, &options)?;
    let (width, height) = super::read::dimensions(&bytes, path, &options)?;
    let bad = |error: png::DecodingError| DataError::image(path, error.to_string());
    let mut decoder = png::Decoder::new(std::io::Cursor::new(&bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(bad)?;
    let (colour, depth) = reader.output_color_type();
    let labels = matches!(colour, png::ColorType::Indexed | png::ColorType::Grayscale);
    if !labels || depth == png::BitDepth::Sixteen {
        let reason =
            format!("it is {colour:?} of {depth:?} bits; label maps are palette or grey PNG of 8");
        return Err(DataError::image(path, reason));
    }
    let size = reader.output_buffer_size().unwrap_or(0);
    let mut packed = vec![0; size];
    reader.next_frame(&mut packed).map_err(bad)?;
    let bits = depth as usize;
    let line = (width * bits).div_ceil(8);
    let pixel = |row: &[u8], x: usize| {
        let shift = 8 - bits - (x * bits) % 8;
        (row[x * bits / 8] >> shift) & (u8::MAX >> (8 - bits))
    };
    let rows = packed.chunks_exact(line.max(1)).take(height);
    let labels: Vec<u8> = rows
        .flat_map(|row| (0..width).map(move |x| pixel(row, x)))
        .collect();
    Ok((width, height, labels))
}
