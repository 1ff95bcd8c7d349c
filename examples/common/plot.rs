//! Curves in a PNG. The font comes with the example, so that it draws on a machine without any.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;

/// A named line.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const COLORS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(204, 51, 51),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// Draws lines with a legend; the y axis is logarithmic.
pub(crate) fn lines(path: &Path, title: &str, x: &str, y: &str, curves: &[Curve]) -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, include_bytes!("../fonts/DejaVuSansMono.ttf"))
        .map_err(|_| anyhow!("the font in examples/fonts can not be read"))?;
    let points = || curves.iter().flat_map(|c| &c.points).filter(|p| p.1.is_finite() && p.1 > 0.0);
    let right = points().map(|p| p.0).fold(1.0, f64::max);
    let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.1).fold(0.0, f64::max);
    let (low, high) = if low < high { (low * 0.95, high * 1.05) } else { (0.1, 10.0) };
    let root = BitMapBackend::new(path, (1200, 800)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 26))
        .margin(20)
        .x_label_area_size(50)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..right, (low..high).log_scale())?;
    let label = ("sans-serif", 18);
    chart.configure_mesh().x_desc(x).y_desc(y).label_style(label).axis_desc_style(label).draw()?;
    for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(16)
        .legend_area_size(32)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .label_font(label)
        .draw()?;
    root.present()?;
    Ok(())
}
