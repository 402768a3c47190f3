//! Summaries as text for a terminal.

use std::fmt::Write as _;

use super::perplexity::PerplexitySummary;
use super::summary::{ByGrader, GRADERS, Group, Score, Summary};

/// The table on stdout.
pub(crate) fn summary_table(summary: &Summary) -> String {
    let mut text = format!("{}: {} problems", summary.task, summary.problems);
    if summary.skipped > 0 {
        let _ = write!(
            text,
            ", {} rows without a true answer left out",
            summary.skipped
        );
    }
    text.push_str("\n\n");
    text.push_str(&score_table(&summary.graders, summary.problems));
    let groups = [
        ("level", &summary.by_level),
        ("subject", &summary.by_subject),
        ("question length", &summary.by_question_length),
    ];
    for (title, groups) in groups {
        if !groups.is_empty() {
            text.push_str(&group_table(title, groups));
        }
    }
    let finish: Vec<String> = summary
        .finish
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let tokens = &summary.tokens;
    let _ = write!(
        text,
        "\nconventions disagree on {} completions\nended by: {}\ntokens: {} read, {} written, {:.1} a completion",
        summary.disagreements,
        finish.join(", "),
        tokens.prompt,
        tokens.completion,
        tokens.mean_completion
    );
    text
}

/// Accuracy under each convention.
pub(crate) fn score_table(graders: &ByGrader<Score>, problems: u64) -> String {
    let mut text = format!(
        "{:<18}{:>16}{:>12}{:>12}{:>12}\n",
        "grading", "correct", "accuracy", "std error", "no answer"
    );
    for (name, score) in graders.named() {
        let _ = writeln!(
            text,
            "{name:<18}{:>16}{:>12}{:>12}{:>12}",
            format!("{} / {problems}", score.correct),
            percent(score.accuracy),
            score.standard_error.map_or("-".to_owned(), percent),
            percent(score.no_answer_rate),
        );
    }
    text
}

fn group_table(title: &str, groups: &[Group]) -> String {
    let width = groups.iter().map(|group| group.name.chars().count());
    let width = width.max().unwrap_or(0).max(title.len()) + 2;
    let mut text = format!("\n{title:<width$}{:>10}", "problems");
    for name in GRADERS {
        let _ = write!(text, "{name:>18}");
    }
    text.push('\n');
    for group in groups {
        let _ = write!(text, "{:<width$}{:>10}", group.name, group.problems);
        for (_, score) in group.graders.named() {
            let _ = write!(text, "{:>18}", percent(score.accuracy));
        }
        text.push('\n');
    }
    text
}

/// The table of a perplexity.
pub(crate) fn perplexity_table(summary: &PerplexitySummary) -> String {
    let PerplexitySummary {
        rows,
        cut,
        skipped,
        tokens,
        ..
    } = summary;
    format!(
        "loss         {:>14.6}  nats a token\nperplexity   {:>14.4}\ntokens       {tokens:>14}  predicted\n\
         rows         {rows:>14}  ({cut} cut, {skipped} left out)",
        summary.loss, summary.perplexity
    )
}

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
