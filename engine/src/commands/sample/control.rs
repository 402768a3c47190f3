//! A picture that steers the layout of those that are drawn (arXiv 2306.07280, section 5, controllable generation).

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};
use temper_datasets::images::{Photo, canny, fit, read, read_map};
use temper_models::ControlEncoder;

use crate::Failure;
use crate::diffusion::{AdapterChoice, Pipeline, control_of, edges_of};
use crate::run::note;

/// Arguments of `temper sample` on control.
#[derive(Debug, clap::Args)]
pub(crate) struct ControlArgs {
    /// Picture that steers the layout, such as edges; scaled and cropped to the size of what is drawn
    #[arg(long, value_name = "IMAGE")]
    control: Option<PathBuf>,
    /// Its encoder; by default `control` beside an adapter, or in a merged pipeline
    #[arg(long, value_name = "DIR", requires = "control")]
    control_model: Option<PathBuf>,
    /// Take the edges of the picture, found with these two thresholds
    #[arg(long, value_name = "LOW,HIGH", requires = "control", value_parser = thresholds)]
    canny: Option<(f32, f32)>,
}

fn thresholds(text: &str) -> Result<(f32, f32), String> {
    let numbers = text
        .split_once(',')
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    numbers
        .filter(|(low, high)| 0.0 <= *low && low <= high)
        .ok_or_else(|| "expected two thresholds, the lower first, such as 100,200".to_owned())
}

/// What was loaded.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) encoder: ControlEncoder,
    pub(super) hint: Tensor<4>,
}

impl ControlArgs {
    /// The encoder and the hint, if there is one.
    pub(super) fn load(
        &self,
        adapters: &[AdapterChoice],
        pipeline: &Pipeline,
        size: (usize, usize),
    ) -> Result<Option<Loaded>, Failure> {
        let Some(file) = &self.control else {
            if let Some(unused) = adapters.iter().find_map(|one| control_of(&one.path)) {
                note(&format!(
                    "warning: `{}` was trained with the adapter to follow a picture; without --control it is not used",
                    unused.display()
                ));
            }
            return Ok(None);
        };
        let directory = self.directory(adapters, pipeline)?;
        let device = &pipeline.device.device;
        let encoder = ControlEncoder::load(&directory, pipeline.compute, device)?;
        let photo = match self.canny {
            Some((low, high)) => {
                let photo = fit(&read(file)?, size.0, size.1);
                let edges = canny(&photo, low, high)?;
                Photo::from_grey(photo.width, photo.height, &edges)?
            }
            None => fit(&read_map(file)?, size.0, size.1),
        };
        if self.canny.is_none() {
            note_of_edges(file, &photo, adapters);
        }
        let data = TensorData::new(photo.to_unit(), [1, 3, photo.height, photo.width]);
        Ok(Some(Loaded {
            encoder,
            hint: Tensor::from_data(data, device),
        }))
    }

    fn directory(
        &self,
        adapters: &[AdapterChoice],
        pipeline: &Pipeline,
    ) -> Result<PathBuf, Failure> {
        if let Some(directory) = &self.control_model {
            return Ok(directory.clone());
        }
        // `temper merge` leaves it with the pipeline.
        let merged = pipeline.index().directory().join("control");
        let merged = merged.join("config.json").is_file().then_some(merged);
        let mut trained: Vec<PathBuf> = adapters
            .iter()
            .filter_map(|adapter| control_of(&adapter.path))
            .collect();
        trained.dedup();
        if let [first, _, ..] = &trained[..] {
            note(&format!(
                "warning: several adapters were trained with an encoder of control pictures; that in `{}` is used: choose with --control-model",
                first.display()
            ));
        }
        trained.into_iter().next().or(merged).ok_or_else(|| {
            Failure::usage("--control needs the encoder that was trained with the adapter")
                .with_hint("name its directory with --control-model; a run leaves it in `control`")
        })
    }

    /// For the recipe of a picture.
    pub(super) fn describe(&self) -> Value {
        match &self.control {
            None => Value::Null,
            Some(file) => json!({
                "image": file,
                "model": self.control_model,
                "canny": self.canny.map(|(low, high)| [low, high]),
            }),
        }
    }
}

/// What the run learned to follow were edges, and this is something else.
fn note_of_edges(file: &Path, map: &Photo, adapters: &[AdapterChoice]) {
    let mut edges = adapters.iter().filter_map(|one| edges_of(&one.path));
    if let (Some((low, high)), false) = (edges.next(), is_drawn_in_black_and_white(map)) {
        note(&format!(
            "warning: the run learned to follow edges, and `{}` is followed as it is: for the edges of a photograph add --canny {low},{high}",
            file.display()
        ));
    }
}

/// Whether nearly all of a picture is black or white, as an edge map is; scaling makes some grey.
fn is_drawn_in_black_and_white(map: &Photo) -> bool {
    let grey = map.rgb.iter().filter(|value| (48..208).contains(*value));
    10 * grey.count() < map.rgb.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_two_numbers_in_order() {
        assert_eq!(thresholds("100, 200"), Ok((100.0, 200.0)));
        for wrong in ["", "100", "200,100", "-1,5", "a,b", "1,NaN"] {
            assert!(thresholds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hint_has_the_size_of_the_picture_and_shows_its_middle() {
        let mut photo = Photo::filled(40, 10, [0; 3]);
        let middle = (5 * 40 + 20) * 3;
        photo.rgb[middle] = 255;
        let hint = fit(&photo, 10, 10);
        assert_eq!((hint.width, hint.height), (10, 10));
        assert_eq!(hint.rgb[(5 * 10 + 5) * 3], 255);
        let hint = fit(&photo, 16, 24);
        assert_eq!((hint.width, hint.height), (16, 24));
    }
}
