//! Accuracies as bars with their standard errors.

use plotters::prelude::*;

use super::summary::{GRADERS, Group, Score, Summary};
use super::table::percent;
use crate::run::RunError;
use crate::run::chart::{Area, DrawError, INK, font, svg};

const WIDTH: i32 = 880;
/// Where bars begin and end: 0 and 100 %.
const LEFT: i32 = 250;
const RIGHT: i32 = 800;
const BAR: i32 = 13;
const GAP: i32 = 14;
const TOP: i32 = 34;
const STEP: i32 = 3 * BAR + GAP;
const COLOURS: [RGBColor; 3] = [
    RGBColor(21, 84, 150),
    RGBColor(214, 84, 18),
    RGBColor(90, 158, 90),
];

/// Draws all problems and every group as SVG text.
pub(crate) fn render_accuracy(summary: &Summary) -> Result<String, RunError> {
    let all = Group {
        name: "all".to_owned(),
        problems: summary.problems,
        graders: summary.graders,
    };
    let groups: Vec<&Group> = std::iter::once(&all)
        .chain(&summary.by_level)
        .chain(&summary.by_subject)
        .chain(&summary.by_question_length)
        .collect();
    let height = TOP + groups.len() as i32 * STEP + 24;
    svg((WIDTH as u32, height as u32), |area| {
        draw(area, &groups, height)
    })
}

fn draw(area: &Area<'_>, groups: &[&Group], height: i32) -> Result<(), DrawError> {
    for tenth in (0..=10).step_by(2) {
        let x = position(f64::from(tenth) / 10.0);
        area.draw(&PathElement::new(
            [(x, TOP - 6), (x, height - 20)],
            INK.mix(0.2),
        ))?;
        let label = format!("{} %", tenth * 10);
        area.draw(&Text::new(label, (x - 12, height - 16), font(12)))?;
    }
    for (name, (place, colour)) in GRADERS.into_iter().zip((0..).zip(COLOURS)) {
        let x = LEFT + place * 160;
        area.draw(&Rectangle::new([(x, 6), (x + 12, 18)], colour.filled()))?;
        area.draw(&Text::new(name.to_owned(), (x + 18, 6), font(13)))?;
    }
    for (row, group) in (0..).zip(groups) {
        let y = TOP + row * STEP;
        let label = format!("{} ({})", group.name, group.problems);
        area.draw(&Text::new(label, (6, y + BAR), font(14)))?;
        for (place, (_, score)) in (0..).zip(group.graders.named()) {
            let colour = COLOURS[place as usize];
            bar(area, y + place * BAR, score, colour)?;
        }
    }
    Ok(())
}

fn bar(area: &Area<'_>, y: i32, score: &Score, colour: RGBColor) -> Result<(), DrawError> {
    let corners = [(LEFT, y + 1), (position(score.accuracy), y + BAR - 1)];
    area.draw(&Rectangle::new(corners, colour.mix(0.8).filled()))?;
    let error = score.standard_error.unwrap_or(0.0);
    let (low, high) = (
        position(score.accuracy - error),
        position(score.accuracy + error),
    );
    let middle = y + BAR / 2;
    area.draw(&PathElement::new(
        [(low, middle), (high, middle)],
        INK.stroke_width(2),
    ))?;
    area.draw(&Text::new(
        percent(score.accuracy),
        (high + 6, y + 1),
        font(11),
    ))?;
    Ok(())
}

fn position(share: f64) -> i32 {
    LEFT + (f64::from(RIGHT - LEFT) * share.clamp(0.0, 1.0)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::super::summary::ByGrader;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_accuracy_and_names_are_escaped() {
        let score = |accuracy| Score {
            accuracy,
            standard_error: Some(0.1),
            ..Score::default()
        };
        let graders = ByGrader {
            metamath: score(0.5),
            lm_eval_strict: score(0.0),
            lm_eval_flexible: score(1.0),
        };
        let summary = Summary {
            problems: 9,
            graders,
            by_subject: vec![Group {
                name: "<b>Counting</b> & Probability".to_owned(),
                problems: 3,
                graders,
            }],
            ..Summary::default()
        };
        let svg = render_accuracy(&summary).unwrap();
        assert!(
            svg.contains("&lt;b&gt;Counting&lt;/b&gt; &amp; Probability (3)"),
            "{svg}"
        );
        assert!(!svg.contains("<b>"));
        for width in [275, 550] {
            assert!(svg.contains(&format!("width=\"{width}\"")), "{width}");
        }
        assert!(svg.contains("50.00 %") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn an_evaluation_of_nothing_is_drawn() {
        let svg = render_accuracy(&Summary::default()).unwrap();
        assert!(!svg.contains("NaN"));
    }
}
