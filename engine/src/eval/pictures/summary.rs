//! What an evaluation of subjects says.

use std::path::PathBuf;

use serde::Serialize;

use super::files::{LeftOut, LeftOuts, Unfit};
use super::judges::JudgeIds;
use super::mean::Figure;
use crate::run::note;

/// Scores of pictures, each a `T`, and their diversity; without those whose model was not given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores<T = Figure, D = T> {
    /// Mean cosine of the embeddings of generated and real pictures by CLIP: how much they show the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<T>,
    /// Mean cosine of picture and prompt by CLIP: how much they show what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_t: Option<T>,
    /// As `clip_i`, by DINO, which tells things of one class apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<T>,
    /// Mean distance of pictures of the same subject and prompt: how different they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<D>,
}

impl<T, D> Default for Scores<T, D> {
    fn default() -> Self {
        Self {
            clip_i: None,
            clip_t: None,
            dino: None,
            lpips: None,
        }
    }
}

/// Figures of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptScores {
    /// The prompt.
    pub prompt: String,
    /// Pictures with it.
    pub pictures: u64,
    /// Over its pictures; the mean distance of its pairs.
    #[serde(flatten)]
    pub scores: Scores<Figure, f64>,
}

/// Figures of one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OneSubject {
    /// Its folder, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Generated pictures that count.
    pub pictures: u64,
    /// Photographs that count.
    pub real_pictures: u64,
    /// Generated pictures whose prompt is not known.
    pub without_prompt: u64,
    /// Pictures that do not count, generated and real.
    pub left_out: LeftOuts,
    /// Pictures with the same pixels as an earlier one: the later and the earlier file. They count.
    pub duplicates: Vec<(PathBuf, PathBuf)>,
    /// Over its pictures.
    pub scores: Scores,
    /// Of its photographs among each other; no picture is compared with itself, and none has a prompt.
    pub real: Scores,
    /// By prompt, in the order of the pictures.
    pub prompts: Vec<PromptScores>,
}

impl OneSubject {
    pub(super) fn tell_duplicates(&self) {
        if let Some((copy, original)) = self.duplicates.first() {
            note(&format!(
                "warning: {} pictures are copies of others, such as `{}` of `{}`",
                self.duplicates.len(),
                copy.display(),
                original.display()
            ));
        }
    }
}

/// What `temper eval --task subject` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubjectSummary {
    /// `subject`.
    pub task: &'static str,
    /// What measured.
    pub models: JudgeIds,
    /// Where it ran.
    pub device: String,
    /// Generated pictures that count.
    pub pictures: u64,
    /// Photographs that count.
    pub real_pictures: u64,
    /// Generated pictures whose prompt is not known.
    pub without_prompt: u64,
    /// Pictures that do not count, generated and real.
    pub left_out: LeftOuts,
    /// Those of the one subject, or means over subjects with errors over subjects.
    pub scores: Scores,
    /// The same of the photographs.
    pub real: Scores,
    /// Each subject.
    pub subjects: Vec<OneSubject>,
}

/// A line of `pictures.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PictureRow {
    /// Folder of the subject, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The picture.
    pub file: PathBuf,
    /// What it was to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Its cosines, and its mean distance from the other pictures of the same prompt.
    #[serde(flatten)]
    pub scores: Scores<f64>,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Unfit>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PictureRow {
    pub(super) fn left_out(one: &LeftOut) -> Self {
        Self {
            file: one.file.clone(),
            left_out: Some(one.why),
            reason: Some(one.reason.clone()),
            ..Self::default()
        }
    }
}

/// The figure of the one subject, or the mean over several with its error over subjects.
fn joined(figures: impl ExactSizeIterator<Item = Option<Figure>>) -> Option<Figure> {
    let single = figures.len() == 1;
    let figures: Vec<Figure> = figures.flatten().collect();
    if single {
        return figures.first().copied();
    }
    Figure::of(figures.iter().map(|figure| figure.mean))
}

/// Each score over the subjects, taken from where `of` finds it.
pub(super) fn over_subjects(subjects: &[OneSubject], of: fn(&OneSubject) -> &Scores) -> Scores {
    let over =
        |score: fn(&Scores) -> Option<Figure>| joined(subjects.iter().map(|one| score(of(one))));
    Scores {
        clip_i: over(|scores| scores.clip_i),
        clip_t: over(|scores| scores.clip_t),
        dino: over(|scores| scores.dino),
        lpips: over(|scores| scores.lpips),
    }
}
