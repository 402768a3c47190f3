//! What an evaluation of subjects says.

use std::path::PathBuf;

use serde::Serialize;

use super::files::{LeftOut, LeftOuts, Unfit};
use super::judges::JudgeIds;
use super::mean::Figure;
use crate::run::note;

/// Figures of generated pictures; without those whose model was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Mean cosine of the embeddings of generated and real pictures by CLIP: how much they show the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<Figure>,
    /// Mean cosine of picture and prompt by CLIP: how much they show what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_t: Option<Figure>,
    /// As `clip_i`, by DINO, which tells things of one class apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<Figure>,
    /// Mean distance of pictures of the same subject and prompt: how different they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<Figure>,
}

/// The same figures of the photographs among each other; no picture is compared with itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RealScores {
    /// Mean cosine by CLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<Figure>,
    /// Mean cosine by DINO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<Figure>,
    /// Mean distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<Figure>,
}

/// Figures of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptScores {
    /// The prompt.
    pub prompt: String,
    /// Pictures with it.
    pub pictures: u64,
    /// As in [`Scores`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<Figure>,
    /// As in [`Scores`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_t: Option<Figure>,
    /// As in [`Scores`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<Figure>,
    /// Mean distance of its pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
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
    /// Of its photographs.
    pub real: RealScores,
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
    pub real: RealScores,
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
    /// Mean cosine with the photographs by CLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_i: Option<f64>,
    /// Cosine with the prompt by CLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_t: Option<f64>,
    /// Mean cosine with the photographs by DINO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dino: Option<f64>,
    /// Mean distance from the other pictures of the same prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
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

pub(super) fn over_subjects(subjects: &[OneSubject]) -> Scores {
    let over = |figure: fn(&Scores) -> Option<Figure>| {
        joined(subjects.iter().map(|one| figure(&one.scores)))
    };
    Scores {
        clip_i: over(|scores| scores.clip_i),
        clip_t: over(|scores| scores.clip_t),
        dino: over(|scores| scores.dino),
        lpips: over(|scores| scores.lpips),
    }
}

pub(super) fn over_subjects_real(subjects: &[OneSubject]) -> RealScores {
    let over = |figure: fn(&RealScores) -> Option<Figure>| {
        joined(subjects.iter().map(|one| figure(&one.real)))
    };
    RealScores {
        clip_i: over(|scores| scores.clip_i),
        dino: over(|scores| scores.dino),
        lpips: over(|scores| scores.lpips),
    }
}
