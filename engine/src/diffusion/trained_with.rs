//! How a run saw its model, where the files of the model say something else.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use temper_models::{ModelError, SchedulerConfig};

use crate::Failure;
use crate::run::ADAPTERS;

/// What drawing with the result of a run must repeat: its adapter and its configuration do not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct TrainedWith {
    /// `epsilon`, `v_prediction` or `sample`; `None` is what the model's scheduler says.
    pub(crate) prediction_type: Option<String>,
    /// Last layers of the text encoder that were left out; `None` is none.
    pub(crate) clip_skip: Option<usize>,
    /// The noise process ended without a signal.
    pub(crate) zero_terminal_snr: bool,
}

impl TrainedWith {
    /// What the recipe says of the run that `result` is, or lies in. `None` when there is no run.
    pub(crate) fn of(result: &Path) -> Option<Self> {
        section_of(result)
    }

    /// What all these results were trained with, where `asked` leaves it open. Places that are of no run say nothing.
    ///
    /// # Errors
    /// If two runs disagree.
    pub(crate) fn of_all<'a>(
        results: impl IntoIterator<Item = &'a Path>,
        asked: &Self,
    ) -> Result<Self, Failure> {
        let mut first: Option<(&Path, Self)> = None;
        for result in results {
            let Some(found) = Self::of(result) else {
                continue;
            };
            let found = Self {
                prediction_type: asked.prediction_type.clone().or(found.prediction_type),
                clip_skip: asked.clip_skip.or(found.clip_skip),
                ..found
            };
            match &first {
                Some((other, earlier)) if *earlier != found => {
                    return Err(Failure::usage(format!(
                        "the runs of `{}` and `{}` were trained on other noise processes or other layers of the text encoder: {earlier}, and {found}",
                        other.display(),
                        result.display()
                    )));
                }
                Some(_) => {}
                None => first = Some((result, found)),
            }
        }
        Ok(first.map_or_else(|| asked.clone(), |(_, found)| found))
    }

    /// Whether drawing must be told.
    pub(crate) fn is_of_note(&self) -> bool {
        self.prediction_type.is_some() || self.clip_skip.unwrap_or(0) > 0 || self.zero_terminal_snr
    }

    /// What `temper sample` must be given where it cannot see the run.
    pub(crate) fn flags(&self) -> String {
        let prediction = self.prediction_type.iter();
        let skip = self.clip_skip.iter().filter(|skip| **skip > 0);
        let mut flags: Vec<String> = prediction
            .map(|prediction| format!("--prediction {prediction}"))
            .chain(skip.map(|skip| format!("--clip-skip {skip}")))
            .collect();
        if self.zero_terminal_snr {
            flags.push(
                "a model whose scheduler has `rescale_betas_zero_snr` and trailing timesteps"
                    .to_owned(),
            );
        }
        flags.join(" and ")
    }

    /// A scheduler with the noise process of the run.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub(crate) fn noise_process(
        &self,
        own: &SchedulerConfig,
    ) -> Result<SchedulerConfig, ModelError> {
        let mut json = own.to_json();
        if let Some(prediction) = &self.prediction_type {
            json["prediction_type"] = prediction.as_str().into();
        }
        if self.zero_terminal_snr {
            json["rescale_betas_zero_snr"] = true.into();
            json["timestep_spacing"] = "trailing".into();
        }
        SchedulerConfig::from_json(&json)
    }
}

/// The thresholds of the edges that the run learned to follow, of which `result` is or in which it lies.
pub(crate) fn edges_of(result: &Path) -> Option<(f32, f32)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Edges {
        control: Option<String>,
        canny_low: f32,
        canny_high: f32,
    }
    let edges: Edges = section_of(result)?;
    let is_canny = edges.control.as_deref() == Some("canny");
    is_canny.then_some((edges.canny_low, edges.canny_high))
}

/// The section `diffusion` of a run's recipe.
fn section_of<T: DeserializeOwned + Default>(result: &Path) -> Option<T> {
    #[derive(Deserialize)]
    struct Recipe<T> {
        diffusion: Option<T>,
    }
    // A file for other tools lies in the adapter of its run; anywhere else it is of no run.
    let places = if result.is_file() {
        let adapter = result
            .parent()
            .filter(|folder| folder.ends_with(ADAPTERS[0]));
        [adapter.and_then(Path::parent), None]
    } else {
        [Some(result), result.parent()]
    };
    let text = places
        .into_iter()
        .flatten()
        .find_map(|place| std::fs::read_to_string(place.join("recipe.toml")).ok())?;
    // The recipe of a run was written by us, with every mistake reported; one of a language model has no such section.
    let recipe: Recipe<T> = toml::from_str(&text).ok()?;
    Some(recipe.diffusion.unwrap_or_default())
}

impl fmt::Display for TrainedWith {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prediction = self.prediction_type.as_deref().unwrap_or("the model's own");
        write!(
            out,
            "prediction_type {prediction}, clip_skip {}",
            self.clip_skip.unwrap_or(0)
        )?;
        if self.zero_terminal_snr {
            write!(out, ", zero_terminal_snr")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(diffusion: &str) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        let text = format!("device = \"cpu\"\n[diffusion]\n{diffusion}\n[train]\nsteps = 3\n");
        std::fs::write(run.path().join("recipe.toml"), text).unwrap();
        std::fs::create_dir(run.path().join("adapter")).unwrap();
        run
    }

    #[test]
    fn a_run_and_its_adapter_say_how_it_was_trained_and_the_command_line_says_it_better() {
        let run =
            run("prediction_type = \"v_prediction\"\nclip_skip = 1\nzero_terminal_snr = true");
        let adapter = run.path().join("adapter");
        let found = TrainedWith::of(&adapter).unwrap();
        assert_eq!(TrainedWith::of(run.path()), Some(found.clone()));
        let own = SchedulerConfig::stable_diffusion("ddim").unwrap();
        let json = found.noise_process(&own).unwrap().to_json();
        assert_eq!(json["prediction_type"], "v_prediction");
        assert_eq!(json["rescale_betas_zero_snr"], true);
        assert_eq!(json["timestep_spacing"], "trailing");
        let asked = TrainedWith {
            clip_skip: Some(0),
            ..TrainedWith::default()
        };
        let all = TrainedWith::of_all([adapter.as_path()], &asked).unwrap();
        assert_eq!(all.clip_skip, Some(0));
        assert_eq!(all.prediction_type, found.prediction_type);
    }

    #[test]
    fn runs_that_disagree_are_refused_and_files_of_no_run_say_nothing() {
        let (one, other) = (run("clip_skip = 1"), run(""));
        let nothing = TrainedWith::default();
        let both = TrainedWith::of_all([one.path(), other.path()], &nothing);
        let said = both.unwrap_err().to_string();
        assert!(said.contains("clip_skip 1, and"), "{said}");
        let none = tempfile::tempdir().unwrap();
        let found = TrainedWith::of_all([none.path(), one.path()], &nothing).unwrap();
        assert_eq!(found.clip_skip, Some(1));
        assert_eq!(TrainedWith::of(none.path()), None);
        let asked = TrainedWith {
            prediction_type: Some("epsilon".to_owned()),
            clip_skip: Some(0),
            ..nothing
        };
        assert!(TrainedWith::of_all([one.path(), other.path()], &asked).is_ok());
    }
}
