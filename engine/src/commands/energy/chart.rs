//! Lines in one picture, as SVG.

use std::ops::Range;

use plotters::prelude::*;

use crate::run::RunError;
use crate::run::chart::{Area, DrawError, draw_names, frame, style_axes, svg};

const SIZE: (u32, u32) = (960, 540);
/// Distinct for most eyes, and in grey.
const COLOURS: [RGBColor; 6] = [
    RGBColor(21, 84, 150),
    RGBColor(214, 84, 18),
    RGBColor(40, 130, 80),
    RGBColor(140, 70, 150),
    RGBColor(120, 100, 20),
    RGBColor(90, 90, 90),
];

/// One line.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// What is drawn.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) series: Vec<Series>,
}

impl Chart {
    /// The picture as SVG text. Values that are not finite are left out.
    pub(super) fn render(&self) -> Result<String, RunError> {
        svg(SIZE, |area| self.draw(area))
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), DrawError> {
        let points = || {
            let all = self.series.iter().flat_map(|series| &series.points);
            all.copied().filter(|(_, y)| y.is_finite())
        };
        let (x, y) = (range(points().map(|p| p.0)), range(points().map(|p| p.1)));
        let mut chart = frame(area, &self.title, 92).build_cartesian_2d(x, y)?;
        let mut mesh = chart.configure_mesh();
        style_axes(&mut mesh);
        mesh.x_desc(self.x)
            .y_desc(self.y)
            .y_label_formatter(&|value| label(*value))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.into_iter().cycle()) {
            let finite = series.points.iter().copied().filter(|(_, y)| y.is_finite());
            chart
                .draw_series(LineSeries::new(finite.clone(), colour.stroke_width(2)))?
                .label(&series.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2))
                });
            chart.draw_series(finite.map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        draw_names(&mut chart, SeriesLabelPosition::UpperLeft)
    }
}

/// Short, whatever the size.
fn label(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    match value.abs() {
        1e-3..1e5 => {
            let text = format!("{value:.6}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.1e}"),
    }
}

/// An axis that holds every value, with a margin, and is never of zero length.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return 0.0..1.0;
    }
    let margin = if low < high {
        (high - low) * 0.05
    } else {
        (high.abs() * 0.01).max(1e-6)
    };
    low - margin..high + margin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> String {
        let chart = Chart {
            title: "t <1>".to_owned(),
            x: "step",
            y: "energy",
            series: vec![Series {
                name: "oft".to_owned(),
                points: points.to_vec(),
            }],
        };
        chart.render().unwrap()
    }

    #[test]
    fn axes_lines_and_title_are_named() {
        let svg = chart(&[(0.0, 199.95), (10.0, 199.95), (20.0, 200.1)]);
        for text in ["step", "energy", "oft", "t &lt;1&gt;"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn no_point_one_point_and_flat_lines_are_drawn() {
        for points in [
            vec![],
            vec![(0.0, 0.0)],
            vec![(0.0, 2.0), (1.0, 2.0)],
            vec![(0.0, f64::NAN), (1.0, 1.0)],
        ] {
            let svg = chart(&points);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}");
        }
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(label(199.95), "199.95");
        assert_eq!(label(0.0), "0");
        assert_eq!(label(-2.5e-7), "-2.5e-7");
    }
}
