//! The numbers as a table: the kinds side by side, as in the paper's table 1, and what became of the rest.

use std::collections::BTreeSet;

use super::results::{Counts, KindResults, Results};
use crate::train::grouped;

/// Lays out the results; the last column is the sum.
pub(super) fn table(name: &str, results: &Results) -> String {
    let kinds: Vec<&KindResults> = results.kinds.iter().collect();
    let heads = kinds.iter().map(|kind| kind.name.clone());
    let mut lines = vec![Line::head(heads.collect())];
    let mut add = |label: &str, count: &dyn Fn(&KindResults) -> u64| {
        lines.push(Line::summed(
            label,
            kinds.iter().map(|kind| count(kind)).collect(),
        ));
    };
    add(name, &|kind| kind.written);
    add("planned", &|kind| kind.planned);
    add("accepted", &|kind| kind.accepted);
    add("duplicates among them", &|kind| kind.duplicates);
    for reason in reasons(&kinds, |kind| &kind.rejected) {
        add(&format!("rejected: {reason}"), &|kind| {
            of(&kind.rejected, reason)
        });
    }
    for reason in reasons(&kinds, |kind| &kind.failed) {
        add(&format!("failed: {reason}"), &|kind| {
            of(&kind.failed, reason)
        });
    }
    if kinds.iter().any(|kind| kind.left > 0) {
        add("not come to", &|kind| kind.left);
    }
    render(&lines)
}

fn of(counts: &Counts, reason: &str) -> u64 {
    counts.get(reason).copied().unwrap_or(0)
}

fn reasons<'a>(
    kinds: &[&'a KindResults],
    counts: impl Fn(&'a KindResults) -> &'a Counts,
) -> BTreeSet<&'a str> {
    let names = kinds.iter().flat_map(|&kind| counts(kind).keys());
    names.map(String::as_str).collect()
}

/// A label and cells.
pub(super) struct Line(Vec<String>);

impl Line {
    pub(super) fn head(names: Vec<String>) -> Self {
        let cells = names.into_iter().chain(["total".to_owned()]);
        Self(std::iter::once(String::new()).chain(cells).collect())
    }

    /// Numbers and their sum.
    pub(super) fn summed(label: &str, mut numbers: Vec<u64>) -> Self {
        numbers.push(numbers.iter().sum());
        Self::numbers(label, &numbers)
    }

    pub(super) fn numbers(label: &str, numbers: &[u64]) -> Self {
        let cells = numbers.iter().map(|&number| grouped(number));
        Self(std::iter::once(label.to_owned()).chain(cells).collect())
    }
}

/// Labels to the left, numbers to the right.
pub(super) fn render(lines: &[Line]) -> String {
    let columns = lines.iter().map(|line| line.0.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.0.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let text: Vec<String> = lines
        .iter()
        .map(|line| {
            let cells = line.0.iter().zip(&widths).enumerate();
            let cells: Vec<String> = cells
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_side_by_side_with_their_sum() {
        let kind = |name: &str, planned, accepted, reason: &str| KindResults {
            name: name.to_owned(),
            planned,
            accepted,
            written: accepted,
            rejected: [(reason.to_owned(), planned - accepted)].into(),
            ..KindResults::default()
        };
        let results = Results {
            kinds: vec![
                kind("GSM_AnsAug", 74_730, 60_000, "other answer"),
                kind("GSM_SV", 3, 2, "no answer"),
            ],
            ..Results::default()
        };
        let expected = [
            "                        GSM_AnsAug  GSM_SV   total",
            "gsm8k                       60,000       2  60,002",
            "planned                     74,730       3  74,733",
            "accepted                    60,000       2  60,002",
            "duplicates among them            0       0       0",
            "rejected: no answer              0       1       1",
            "rejected: other answer      14,730       0  14,730",
        ];
        assert_eq!(table("gsm8k", &results), expected.join("\n"));
    }
}
