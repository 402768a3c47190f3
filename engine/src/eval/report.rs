//! `report.html`: one file without scripts or outside sources, everything in it escaped.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use super::chart::render_accuracy;
use super::perplexity::{PerplexitySummary, RowLoss};
use super::summary::{GRADERS, Summary, disagree};
use super::table::percent;
use super::traces::Trace;
use super::{EvalConfig, EvalError};

const TEMPLATE: &str = include_str!("report.html.jinja");

/// What a report is about.
#[derive(Debug)]
pub(crate) struct Report<'a, S> {
    pub(crate) config: &'a EvalConfig,
    pub(crate) summary: &'a S,
}

/// Completions that are alike in what they need of the reader.
#[derive(Debug, Serialize)]
struct Cases<'a> {
    title: &'static str,
    explanation: &'static str,
    count: usize,
    shown: Vec<&'a Trace>,
}

/// The cases in the order in which they deserve a look, each with how many of them the page shows.
const ORDER: [(&str, &str, usize); 4] = [
    (
        "Conventions disagree",
        "One convention calls the completion correct, another does not: the score depends on the grader.",
        200,
    ),
    (
        "No answer found",
        "Under none of the conventions is it correct, and MetaMath's finds no answer: the format was not learned, or the completion was cut.",
        100,
    ),
    (
        "Wrong",
        "All conventions agree that the answer is wrong.",
        100,
    ),
    (
        "Correct",
        "All conventions agree that the answer is right.",
        20,
    ),
];

fn kind(trace: &Trace) -> usize {
    if disagree(trace) {
        0
    } else if trace.graders.metamath.correct {
        3
    } else if trace.graders.metamath.extracted.is_none() {
        1
    } else {
        2
    }
}

fn cases(traces: &[Trace]) -> Vec<Cases<'_>> {
    let of = |(place, (title, explanation, most))| {
        let all = || traces.iter().filter(move |trace| kind(trace) == place);
        Cases {
            title,
            explanation,
            count: all().count(),
            shown: all().take(most).collect(),
        }
    };
    (0..).zip(ORDER).map(of).collect()
}

/// The report of graded completions.
pub(crate) fn render(report: &Report<'_, Summary>, traces: &[Trace]) -> Result<String, EvalError> {
    let summary = report.summary;
    let groups = [
        ("Level", &summary.by_level),
        ("Subject", &summary.by_subject),
        ("Length of the question", &summary.by_question_length),
    ];
    let page = context! {
        config => value(report.config),
        settings => settings(report.config),
        summary => value(summary),
        graders => value(GRADERS),
        groups => value(groups),
        chart => render_accuracy(summary)?,
        cases => value(cases(traces)),
        prompt => traces.first().map(|trace| trace.prompt.as_str()),
    };
    render_page(page)
}

/// The report of a perplexity: the most surprising rows first.
pub(crate) fn render_perplexity(
    report: &Report<'_, PerplexitySummary>,
    mut rows: Vec<RowLoss>,
) -> Result<String, EvalError> {
    rows.sort_by(|a, b| b.loss().total_cmp(&a.loss()));
    let rows: Vec<(u64, u64, String, &str)> = rows
        .iter()
        .take(200)
        .map(|row| {
            (
                row.index,
                row.tokens,
                format!("{:.4}", row.loss()),
                row.text.as_str(),
            )
        })
        .collect();
    let page = context! {
        config => value(report.config),
        settings => settings(report.config),
        perplexity => value(report.summary),
        rows => value(rows),
    };
    render_page(page)
}

fn settings(config: &EvalConfig) -> String {
    serde_json::to_string_pretty(config).unwrap_or_default()
}

fn value(data: impl Serialize) -> Value {
    Value::from(Serde(data))
}

fn render_page(page: Value) -> Result<String, EvalError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("percent", percent);
    environment.add_template("report", TEMPLATE)?;
    Ok(environment.get_template("report")?.render(page)?)
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::super::summary::tests::trace;
    use super::*;

    fn page(traces: &[Trace]) -> String {
        let (config, summary) = (config(), Summary::of("gsm8k", 1, traces));
        let report = Report {
            config: &config,
            summary: &summary,
        };
        render(&report, traces).unwrap()
    }

    #[test]
    fn confusing_cases_come_first() {
        let (right, wrong) = (Some(true), Some(false));
        let html = page(&[
            trace(0, "solved", [right; 3]),
            trace(1, "failed", [wrong; 3]),
            trace(2, "silent", [None; 3]),
            trace(3, "disputed", [right, None, right]),
        ]);
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("no {text}"));
        assert!(at("disputed") < at("silent"));
        assert!(at("silent") < at("failed"));
        assert!(at("failed") < at("solved</div>"), "{html}");
        assert!(html.contains("75.00 %") || html.contains("50.00 %"));
    }

    #[test]
    fn hostile_text_is_text() {
        let bad = "</script><script>alert(1)</script>\u{0}'\" {{ 7 * 7 }} <img onerror=alert(1)>";
        let mut hostile = trace(0, bad, [None; 3]);
        hostile.completion = bad.to_owned();
        hostile.answer = bad.to_owned();
        hostile.level = Some(bad.to_owned());
        hostile.prompt = bad.to_owned();
        let html = page(&[hostile]);
        assert!(
            !html.contains("<script") && !html.contains("<img"),
            "{html}"
        );
        assert!(html.contains("{{ 7 * 7 }}"));
        assert!(
            !html.contains("src=") && !html.contains("href="),
            "no outside sources"
        );
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let traces: Vec<Trace> = (0..150)
            .map(|index| trace(index, "same", [Some(false); 3]))
            .collect();
        let html = page(&traces);
        assert!(html.contains("the first 100 of 150"), "the count is stated");
        assert_eq!(html.matches("<details class=\"case\"").count(), 100);
    }
}
