//! The results as a Markdown table.

use super::summary::{AblationSummary, ExamSummary};

/// Rows are variants, columns exams; percent, mean ± standard deviation over seeds.
pub(super) fn render(summary: &AblationSummary) -> String {
    let header = std::iter::once("variant".to_owned()).chain(summary.exams.iter().cloned());
    let mut rows = vec![header.collect::<Vec<String>>()];
    for arm in summary.rows() {
        let cells = arm.results.iter().map(cell);
        rows.push(std::iter::once(escaped(&arm.name)).chain(cells).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<String>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let body: String = rows[1..].iter().map(line).collect();
    let seeds = summary.seeds.len();
    let plural = if seeds == 1 { "" } else { "s" };
    format!(
        "{}|{}|\n{body}\nSolved, in percent: mean ± standard deviation over {seeds} seed{plural}.\n",
        line(&rows[0]),
        rule.join("|"),
    )
}

/// A bar would end the cell.
fn escaped(name: &str) -> String {
    name.replace('|', "\\|")
}

fn cell(result: &ExamSummary) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    match result.standard_deviation {
        Some(deviation) => format!("{} ± {}", percent(result.mean), percent(deviation)),
        None => percent(result.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::summary;

    #[test]
    fn table_is_aligned_markdown() {
        let expected = "\
| variant        | forward     | backward    |
|----------------|-------------|-------------|
| base           | 25.0        | 0.0         |
| SFT            | 50.0 ± 10.0 | 10.0 ± 10.0 |
| + <SV> & FOBAR | 100.0 ± 0.0 | 50.0 ± 0.0  |

Solved, in percent: mean ± standard deviation over 3 seeds.
";
        assert_eq!(super::render(&summary()), expected);
    }
}
