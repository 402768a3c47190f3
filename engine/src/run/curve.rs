//! The loss curve as a picture that any browser shows.

use std::path::Path;

use plotters::prelude::*;

use super::chart::{Area, DrawError, draw_names, frame, style_axes, svg};
use super::{Row, RunError, write_atomic};

const SIZE: (u32, u32) = (960, 540);
/// More points than this are averaged in groups: nobody sees more, and the file stays small.
const POINTS: usize = 1500;
const TRAIN: RGBColor = RGBColor(158, 192, 224);
const SMOOTH: RGBColor = RGBColor(21, 84, 150);
const EVAL: RGBColor = RGBColor(214, 84, 18);

type Point = (u64, f64);

/// Draws the curve and replaces the file at `path` in one step.
///
/// # Errors
/// [`RunError`] if it cannot be drawn or written.
pub fn write_curve(path: &Path, title: &str, rows: &[Row]) -> Result<(), RunError> {
    write_atomic(path, render_curve(title, rows)?.as_bytes())
}

/// Draws training loss (thin), its moving average and the evaluation points as SVG text. Values
/// that are not finite are left out; without any value the axes stay empty.
///
/// ```
/// let svg = temper_engine::run::render_curve("my run", &[])?;
/// assert!(svg.starts_with("<svg"));
/// # Ok::<(), temper_engine::run::RunError>(())
/// ```
///
/// # Errors
/// [`RunError::Chart`] if the drawing library fails.
pub fn render_curve(title: &str, rows: &[Row]) -> Result<String, RunError> {
    let train = |row: &Row| match row {
        Row::Train(row) => Some((row.step, row.loss)),
        Row::Eval(_) | Row::Task(_) => None,
    };
    let eval = |row: &Row| match row {
        Row::Eval(row) => Some((row.step, row.eval_loss)),
        Row::Train(_) | Row::Task(_) => None,
    };
    let finite = |point: &Point| point.1.is_finite();
    let train: Vec<Point> = rows.iter().filter_map(train).filter(finite).collect();
    let eval: Vec<Point> = rows.iter().filter_map(eval).filter(finite).collect();
    let lines = Lines {
        smooth: thin_out(&smooth(&train)),
        train: thin_out(&train),
        eval,
    };
    svg(SIZE, |area| draw(area, title, &lines))
}

struct Lines {
    train: Vec<Point>,
    smooth: Vec<Point>,
    eval: Vec<Point>,
}

fn draw(area: &Area<'_>, title: &str, lines: &Lines) -> Result<(), DrawError> {
    let (steps, losses) = ranges(lines);
    let mut chart = frame(area, title, 64).build_cartesian_2d(steps, losses)?;
    let mut mesh = chart.configure_mesh();
    style_axes(&mut mesh);
    mesh.x_desc("step").y_desc("loss").draw()?;
    let few = lines.train.len() <= 2;
    for (name, points, color, width) in [
        ("train", &lines.train, TRAIN, 1),
        ("train, smoothed", &lines.smooth, SMOOTH, 2),
        ("eval", &lines.eval, EVAL, 1),
    ] {
        if points.is_empty() {
            continue;
        }
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        if name == "eval" || few {
            chart.draw_series(points.iter().map(|&at| Circle::new(at, 4, color.filled())))?;
        }
    }
    draw_names(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Axes that hold every point, with a margin, and are never of zero length.
fn ranges(lines: &Lines) -> (std::ops::Range<u64>, std::ops::Range<f64>) {
    let all = || lines.train.iter().chain(&lines.eval);
    let first = all().map(|point| point.0).min().unwrap_or(0);
    let last = all().map(|point| point.0).max().unwrap_or(1);
    let low = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = if low < high {
        (high - low) * 0.05
    } else {
        high.abs().max(1e-3) * 0.1
    };
    let steps = if first == last {
        first.saturating_sub(1)..last + 1
    } else {
        first..last
    };
    (steps, low - margin..high + margin)
}

/// Centred moving average over about a twentieth of the run, narrower towards the ends so that it
/// neither lags nor leans.
fn smooth(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / 40;
    let average = |(index, &(step, _)): (usize, &Point)| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let around = &points[index - reach..=index + reach];
        (
            step,
            around
                .iter()
                .map(|point| point.1 / around.len() as f64)
                .sum(),
        )
    };
    points.iter().enumerate().map(average).collect()
}

fn thin_out(points: &[Point]) -> Vec<Point> {
    let group = points.len().div_ceil(POINTS).max(1);
    let mean = |group: &[Point]| {
        let mean = group.iter().map(|point| point.1 / group.len() as f64).sum();
        (group[group.len() / 2].0, mean)
    };
    points.chunks(group).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{EvalMetric, Items, Metric};

    fn train(step: u64, loss: f64) -> Row {
        Row::Train(Metric {
            step,
            loss,
            lr: 0.0,
            grad_norm: 0.0,
            items: Items::default(),
            memory_bytes: 0,
            seconds: 0.0,
        })
    }

    fn eval(step: u64, eval_loss: f64) -> Row {
        Row::Eval(EvalMetric {
            step,
            eval_loss,
            eval_tokens: 1,
            seconds: 0.0,
            scores: [].into(),
        })
    }

    #[test]
    fn curve_names_its_axes_and_lines() {
        let rows: Vec<Row> = (1..200)
            .map(|step| train(step, 3.0 / step as f64))
            .collect();
        let svg = render_curve("a <b> & c", &[rows, vec![eval(100, 0.5)]].concat()).unwrap();
        for text in [
            "step",
            "loss",
            "train, smoothed",
            "eval",
            "a &lt;b&gt; &amp; c",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn no_point_one_point_and_equal_points_are_drawn() {
        for rows in [
            vec![],
            vec![train(1, 2.0)],
            vec![eval(0, 2.0)],
            vec![train(1, 2.0), train(2, 2.0)],
            vec![train(1, 0.0)],
            vec![train(1, 1e300), train(2, -1e300)],
            vec![train(u64::MAX - 1, 1.0)],
        ] {
            let svg = render_curve("t", &rows).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{rows:?}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let rows = [
            train(1, 2.0),
            train(2, f64::NAN),
            train(3, f64::INFINITY),
            train(4, 1.0),
        ];
        let finite = [train(1, 2.0), train(4, 1.0)];
        assert_eq!(
            render_curve("t", &rows).unwrap(),
            render_curve("t", &finite).unwrap()
        );
    }

    #[test]
    fn long_runs_stay_small() {
        let rows: Vec<Row> = (1..200_000)
            .map(|step| train(step, (step as f64).sin()))
            .collect();
        assert!(render_curve("t", &rows).unwrap().len() < 200_000);
    }

    #[test]
    fn smoothing_keeps_a_constant() {
        let points: Vec<Point> = (0..100).map(|step| (step, 2.0)).collect();
        assert!(
            smooth(&points)
                .iter()
                .all(|point| (point.1 - 2.0).abs() < 1e-12)
        );
    }
}
