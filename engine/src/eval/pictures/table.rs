//! Figures as text for a terminal.

use std::fmt::Write as _;

use super::control::{ControlSummary, EdgeSummary, LabelSummary};
use super::mean::Figure;
use super::summary::{Scores, SubjectSummary};

/// Tables of prompts are shown up to this length.
const PROMPTS: usize = 40;

/// Names and prompts are shown up to this many characters.
const NAME: usize = 60;

/// The tables of `--task subject`.
pub(crate) fn subject_table(summary: &SubjectSummary) -> String {
    let mut text = format!(
        "{} pictures against {} photographs{}\n\n",
        summary.pictures,
        summary.real_pictures,
        summary.left_out.counts()
    );
    let several = summary.subjects.len() > 1;
    let of = if several { "mean of subjects" } else { "" };
    let (scores, real) = (&summary.scores, &summary.real);
    let _ = writeln!(text, "{of:<18}{:>20}{:>22}", "generated", "photographs");
    for (name, ours, theirs) in [
        ("CLIP-I", scores.clip_i, real.clip_i),
        ("DINO", scores.dino, real.dino),
        ("CLIP-T", scores.clip_t, real.clip_t),
        ("LPIPS diversity", scores.lpips, real.lpips),
    ] {
        if ours.is_some() || theirs.is_some() {
            let _ = writeln!(text, "{name:<18}{:>20}{:>22}", shown(ours), shown(theirs));
        }
    }
    if several {
        let rows = summary.subjects.iter().map(|one| {
            let name = one.subject.clone().unwrap_or_default();
            let lpips = mean(one.scores.lpips);
            (name, one.pictures, columns(&one.scores, lpips))
        });
        text.push_str(&rows_table("subject", rows.collect()));
    }
    let prompts: usize = summary.subjects.iter().map(|one| one.prompts.len()).sum();
    if (1..=PROMPTS).contains(&prompts) {
        let rows = summary.subjects.iter().flat_map(|one| {
            one.prompts.iter().map(|prompt| {
                let name = match &one.subject {
                    Some(subject) => format!("{subject}: {}", prompt.prompt),
                    None => prompt.prompt.clone(),
                };
                let lpips = prompt.scores.lpips;
                (name, prompt.pictures, columns(&prompt.scores, lpips))
            })
        });
        text.push_str(&rows_table("prompt", rows.collect()));
    }
    text.trim_end().to_owned()
}

fn mean(figure: Option<Figure>) -> Option<f64> {
    figure.map(|figure| figure.mean)
}

fn columns<D>(scores: &Scores<Figure, D>, lpips: Option<f64>) -> [Option<f64>; 4] {
    [
        mean(scores.clip_i),
        mean(scores.dino),
        mean(scores.clip_t),
        lpips,
    ]
}

type TableRow = (String, u64, [Option<f64>; 4]);

fn rows_table(title: &str, mut rows: Vec<TableRow>) -> String {
    for (name, ..) in &mut rows {
        if let Some((cut, _)) = name.char_indices().nth(NAME) {
            name.truncate(cut);
            name.push('…');
        }
    }
    let length = |row: &TableRow| row.0.chars().count();
    let width = rows.iter().map(length).max().unwrap_or(0);
    let width = width.max(title.len()) + 2;
    let mut text = format!(
        "\n{title:<width$}{:>9}{:>10}{:>10}{:>10}{:>10}\n",
        "pictures", "CLIP-I", "DINO", "CLIP-T", "LPIPS"
    );
    for (name, pictures, columns) in rows {
        let _ = write!(text, "{name:<width$}{pictures:>9}");
        for value in columns {
            let _ = write!(text, "{:>10}", number(value));
        }
        text.push('\n');
    }
    text
}

/// The tables of `--task control`.
pub(crate) fn control_table(summary: &ControlSummary) -> String {
    let mut text = String::new();
    if let Some(edges) = &summary.edges {
        text.push_str(&edge_table(edges));
    }
    if let Some(labels) = &summary.labels {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&label_table(labels));
    }
    text.trim_end().to_owned()
}

fn edge_table(edges: &EdgeSummary) -> String {
    let [low, high] = edges.thresholds;
    let mut text = format!(
        "edges of {} pictures{}; thresholds {low} and {high}\n\n{:<18}{:>20}{:>14}\n",
        edges.pictures,
        edges.left_out.counts(),
        "",
        "mean of pictures",
        "all pixels"
    );
    for (name, figure, pooled) in [
        ("L1", edges.l1, edges.pooled.l1),
        ("IoU", edges.iou, edges.pooled.iou),
        ("F1", edges.f1, edges.pooled.f1),
    ] {
        let _ = writeln!(text, "{name:<18}{:>20}{pooled:>14.4}", shown(figure));
    }
    if edges.unused_maps > 0 {
        let _ = writeln!(text, "{} control maps have no picture", edges.unused_maps);
    }
    text
}

fn label_table(labels: &LabelSummary) -> String {
    let scores = &labels.scores;
    let counted = scores.iou.iter().flatten().count();
    format!(
        "labels of {} pictures; {counted} of {} classes occur, {} does not count\n\n\
         mIoU{:>14.4}\nmAcc{:>14.4}\naAcc{:>14.4}\n",
        labels.pictures, labels.classes, labels.ignored, scores.miou, scores.macc, scores.aacc
    )
}

fn shown(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(figure) => match figure.standard_error {
            None => number(Some(figure.mean)),
            Some(error) => format!("{:.4} ± {error:.4}", figure.mean),
        },
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}
