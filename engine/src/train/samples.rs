//! Completions before and after training, side by side: the quickest way to see what a run changed.

use std::io::Write;

use serde::{Deserialize, Serialize};
use temper_datasets::Dataset;
use temper_models::Llama;

use super::setup::Setup;
use crate::Failure;
use crate::generate::{Limits, Prompt, Sampling, generate};
use crate::recipe::Recipe;
use crate::run::RunDir;

const FILE: &str = "samples.json";
const WIDTH: usize = 52;

/// One prompt and what the model wrote.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sample {
    prompt: String,
    ids: Vec<u32>,
    before: Option<String>,
    after: Option<String>,
}

/// The samples of a run.
#[derive(Debug)]
pub(super) struct Samples {
    samples: Vec<Sample>,
    sampling: Sampling,
}

impl Samples {
    /// Prompts from the recipe, else from the held-out rows, else from the training rows; those of an earlier start on resume.
    pub(super) fn open(
        recipe: &Recipe,
        directory: &RunDir,
        setup: &Setup,
        resumed: bool,
    ) -> Result<Self, Failure> {
        let sample = &recipe.sample;
        let sampling = Sampling {
            temperature: sample.temperature,
            max_new_tokens: sample.max_new_tokens,
            seed: recipe.seed,
            ..Sampling::default()
        };
        if resumed && let Ok(text) = std::fs::read_to_string(directory.path().join(FILE)) {
            return Ok(Self {
                samples: serde_json::from_str(&text)?,
                sampling,
            });
        }
        let prompts: Vec<Vec<u32>> = if let Some(texts) = &sample.prompts {
            let encode = |text: &String| setup.tokenizer.encode(text, true);
            texts.iter().map(encode).collect::<Result<_, _>>()?
        } else {
            let held_out = setup.learner.eval.as_ref().unwrap_or(&setup.learner.train);
            from_rows(held_out.dataset(), sample.count)
        };
        let limit = setup.learner.model.config().max_position_embeddings;
        let fits = |ids: &Vec<u32>| !ids.is_empty() && ids.len() + sample.max_new_tokens <= limit;
        let samples = prompts
            .into_iter()
            .filter(fits)
            .map(|ids| {
                let prompt = setup.tokenizer.decode(&ids, true).unwrap_or_default();
                Sample {
                    prompt,
                    ids,
                    ..Sample::default()
                }
            })
            .collect();
        Ok(Self { samples, sampling })
    }

    /// Completes every prompt with the model as it is before the first step.
    pub(super) fn before(&mut self, model: &Llama, setup: &Setup) -> Result<(), Failure> {
        let texts = self.complete(model, setup)?;
        self.samples
            .iter_mut()
            .zip(texts)
            .for_each(|(sample, text)| sample.before = Some(text));
        Ok(())
    }

    /// Completes every prompt with the trained model.
    pub(super) fn after(&mut self, model: &Llama, setup: &Setup) -> Result<(), Failure> {
        let texts = self.complete(model, setup)?;
        self.samples
            .iter_mut()
            .zip(texts)
            .for_each(|(sample, text)| sample.after = Some(text));
        Ok(())
    }

    fn complete(&self, model: &Llama, setup: &Setup) -> Result<Vec<String>, Failure> {
        if self.samples.is_empty() {
            return Ok(Vec::new());
        }
        let prompts: Vec<Prompt> = self
            .samples
            .iter()
            .enumerate()
            .map(|(row, sample)| Prompt {
                row: row as u64,
                ids: sample.ids.clone(),
            })
            .collect();
        let completions = generate(
            model,
            Some(&setup.tokenizer),
            &prompts,
            &self.sampling,
            Limits::default(),
            &mut |_, _| (),
        )
        .map_err(Failure::run)?;
        Ok(completions
            .into_iter()
            .map(|completion| completion.text)
            .collect())
    }

    /// Leaves `samples.json` in the run directory.
    pub(super) fn save(&self, directory: &RunDir) -> Result<(), Failure> {
        Ok(directory.write_json(&directory.path().join(FILE), &self.samples)?)
    }

    /// Prints before and after next to each other.
    pub(super) fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for (index, sample) in self.samples.iter().enumerate() {
            writeln!(
                out,
                "prompt {}: {}",
                index + 1,
                shorten(&sample.prompt, 2 * WIDTH - 8)
            )?;
            writeln!(out, "{:<WIDTH$} | after", "before")?;
            let wrap = |text: &Option<String>| wrapped(text.as_deref().unwrap_or(""), WIDTH);
            let (before, after) = (wrap(&sample.before), wrap(&sample.after));
            for line in 0..before.len().max(after.len()) {
                let empty = String::new();
                let left = before.get(line).unwrap_or(&empty);
                let padding = " ".repeat(WIDTH.saturating_sub(left.chars().count()));
                writeln!(
                    out,
                    "{left}{padding} | {}",
                    after.get(line).unwrap_or(&empty)
                )?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// The tokens before the first target of the first `count` rows.
fn from_rows(rows: &Dataset, count: usize) -> Vec<Vec<u32>> {
    let prompt = |index: usize| {
        let example = rows.example(index);
        let end = example
            .labels
            .iter()
            .position(|&label| label >= 0)
            .unwrap_or(0);
        // Rows without a prompt (plain text): their first quarter is one.
        let end = if end <= 1 {
            (example.input_ids.len() / 4).max(1)
        } else {
            end
        };
        example.input_ids[..end].to_vec()
    };
    (0..rows.len().min(count)).map(prompt).collect()
}

/// The end of a text that is too long: prompts share their beginning.
fn shorten(text: &str, width: usize) -> String {
    let flat: Vec<char> = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .collect();
    if flat.len() <= width {
        return flat.into_iter().collect();
    }
    let tail: String = flat[flat.len() - width..].iter().collect();
    format!("…{tail}")
}

/// Lines of at most `width` characters, broken at spaces where there are some.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let mut word = word.to_owned();
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            while word.chars().count() > width {
                let rest = word.chars().skip(width).collect();
                lines.push(word.chars().take(width).collect());
                word = rest;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_at_spaces_and_long_words_break_anywhere() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("a\nb", 9), ["a", "b"]);
    }

    #[test]
    fn prompts_show_their_end() {
        assert_eq!(shorten("a  b\nc", 9), "a b c");
        assert_eq!(shorten("abcdef", 3), "…def");
    }
}
