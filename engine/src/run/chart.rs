//! What the pictures of results have in common.

use plotters::chart::MeshStyle;
use plotters::coord::{CoordTranslate, Shift};
use plotters::prelude::*;

use super::RunError;

/// The colour of text and axes.
pub(crate) const INK: RGBColor = RGBColor(60, 60, 60);

pub(crate) type DrawError = Box<dyn std::error::Error>;
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A white picture of `size` with what `draw` puts on it, as SVG text.
pub(crate) fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), DrawError>,
) -> Result<String, RunError> {
    let mut svg = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let filled = area.fill(&WHITE).map_err(DrawError::from);
        filled
            .and_then(|()| draw(&area))
            .and_then(|()| Ok(area.present()?))
    };
    drawn.map_err(|error| RunError::Chart {
        reason: error.to_string(),
    })?;
    Ok(svg)
}

pub(crate) fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// The frame of a chart of lines, `left` pixels of it for the labels of its y axis.
pub(crate) fn frame<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    left: u32,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut frame = ChartBuilder::on(area);
    frame
        .caption(title, font(22))
        .margin(16)
        .margin_right(28)
        .x_label_area_size(46)
        .y_label_area_size(left);
    frame
}

/// Gives the axes of a chart of lines their look.
pub(crate) fn style_axes<X: Ranged, Y: Ranged>(mesh: &mut MeshStyle<'_, '_, X, Y, SVGBackend<'_>>) {
    mesh.label_style(font(14))
        .axis_desc_style(font(16))
        .axis_style(INK.mix(0.5))
        .bold_line_style(INK.mix(0.12))
        .light_line_style(TRANSPARENT);
}

/// Draws the names of the lines.
pub(crate) fn draw_names<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    position: SeriesLabelPosition,
) -> Result<(), DrawError> {
    chart
        .configure_series_labels()
        .position(position)
        .label_font(font(14))
        .background_style(WHITE.mix(0.85))
        .border_style(INK.mix(0.25))
        .draw()?;
    Ok(())
}
