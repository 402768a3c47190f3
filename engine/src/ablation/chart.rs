//! The results as bars: a group per variant, a bar per exam, a dot per seed.

use plotters::prelude::*;

use super::summary::{AblationSummary, ExamSummary};
use crate::run::RunError;
use crate::run::chart::{Area, DrawError, INK, font, svg};

const GROUP: i32 = 150;
const BAR: i32 = 34;
const LEFT: i32 = 64;
const TOP: i32 = 50;
const BOTTOM: i32 = 350;
const HEIGHT: u32 = 392;
const COLOURS: [RGBColor; 4] = [
    RGBColor(21, 84, 150),
    RGBColor(214, 84, 18),
    RGBColor(90, 158, 90),
    RGBColor(130, 90, 160),
];

/// Draws the summary as SVG text.
pub(super) fn render(summary: &AblationSummary) -> Result<String, RunError> {
    let group = GROUP.max(summary.exams.len() as i32 * (BAR + 6) + 40);
    let width = LEFT + summary.rows().count() as i32 * group + 20;
    svg((width as u32, HEIGHT), |area| {
        draw(area, summary, group, width)
    })
}

fn draw(
    area: &Area<'_>,
    summary: &AblationSummary,
    group: i32,
    width: i32,
) -> Result<(), DrawError> {
    for percent in (0..=100).step_by(20) {
        let y = height(f64::from(percent) / 100.0);
        area.draw(&PathElement::new(
            [(LEFT, y), (width - 12, y)],
            INK.mix(0.15),
        ))?;
        area.draw(&Text::new(format!("{percent:>3} %"), (18, y - 6), font(12)))?;
    }
    for (place, name) in (0..).zip(&summary.exams) {
        let x = LEFT + place * 130;
        area.draw(&Rectangle::new(
            [(x, 14), (x + 12, 26)],
            colour(place).filled(),
        ))?;
        area.draw(&Text::new(name.clone(), (x + 18, 13), font(14)))?;
    }
    for (number, arm) in (0..).zip(summary.rows()) {
        let bars = arm.results.len() as i32 * (BAR + 6) - 6;
        let x = LEFT + number * group + (group - bars) / 2;
        for (place, result) in (0..).zip(&arm.results) {
            bar(area, x + place * (BAR + 6), colour(place), result)?;
        }
        area.draw(&Text::new(arm.name.clone(), (x, BOTTOM + 10), font(14)))?;
    }
    Ok(())
}

fn bar(area: &Area<'_>, x: i32, colour: RGBColor, result: &ExamSummary) -> Result<(), DrawError> {
    let top = height(result.mean);
    area.draw(&Rectangle::new(
        [(x, top), (x + BAR, BOTTOM)],
        colour.mix(0.75).filled(),
    ))?;
    let middle = x + BAR / 2;
    let spread = result.standard_deviation.unwrap_or(0.0);
    let ends = [height(result.mean + spread), height(result.mean - spread)];
    area.draw(&PathElement::new(
        ends.map(|y| (middle, y)),
        INK.stroke_width(2),
    ))?;
    for accuracy in &result.accuracies {
        area.draw(&Circle::new((middle, height(*accuracy)), 3, INK.filled()))?;
    }
    let label = format!("{:.1}", 100.0 * result.mean);
    area.draw(&Text::new(label, (x + 4, ends[0].min(top) - 20), font(12)))?;
    Ok(())
}

fn colour(place: i32) -> RGBColor {
    COLOURS[place as usize % COLOURS.len()]
}

fn height(share: f64) -> i32 {
    BOTTOM - (f64::from(BOTTOM - TOP) * share.clamp(0.0, 1.0)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::summary;

    #[test]
    fn bars_are_as_high_as_their_accuracy_and_names_are_escaped() {
        let svg = super::render(&summary()).unwrap();
        for height in [75, 150, 300] {
            assert!(
                svg.contains(&format!("height=\"{height}\"")),
                "{height}: {svg}"
            );
        }
        assert!(svg.contains("+ &lt;SV&gt; &amp; FOBAR") && !svg.contains("<SV>"));
        assert!(svg.contains("forward") && svg.trim_end().ends_with("</svg>"));
        // A dot per seed and exam, and one per exam for the base.
        assert_eq!(svg.matches("<circle").count(), 2 * (1 + 3 + 3));
    }
}
