//! A small chart of the last minutes as SVG: a line, the area below it, its last value and its peak.
//!
//! Must not know: what is drawn, colours.

use std::fmt::Write as _;

use super::html::Html;
use super::numbers::scaled;

/// One chart.
pub(super) struct Chart<'a> {
    /// What it shows: "Connections".
    pub(super) title: &'static str,
    /// A unit: "b" for bits.
    pub(super) unit: &'static str,
    /// Oldest first.
    pub(super) values: &'a [f64],
    /// Seconds that the chart spans.
    pub(super) span: u64,
}

impl Chart<'_> {
    /// Writes it.
    pub(super) fn write(&self, html: &mut Html) {
        let values: Vec<f64> =
            self.values.iter().map(|v| if v.is_finite() { v.max(0.0) } else { 0.0 }).collect();
        let peak = values.iter().copied().fold(0.0, f64::max);
        let last = values.last().copied().unwrap_or(0.0);
        let unit = format!("{}/s", self.unit);
        html.raw("<figure class=\"chart\"><figcaption>").text(self.title);
        html.raw(" <b>").text(scaled(last, &unit)).raw("</b> <span>peak ");
        html.text(scaled(peak, &unit)).raw("</span></figcaption>");
        html.raw(
            "<svg viewBox=\"0 0 120 28\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
        );
        html.text(self.title).raw(" per second over the last ").text(self.span.div_ceil(60));
        html.raw(" minutes: now ").text(scaled(last, &unit)).raw(", at most ");
        html.text(scaled(peak, &unit)).raw("\">");
        let line = line(&values, peak);
        if !line.is_empty() {
            html.raw("<path class=\"area\" d=\"M").text(&line).raw(" L120,28 L");
            html.text(start(values.len())).raw(",28 Z\"/><path class=\"line\" d=\"M").text(&line);
            html.raw("\"/>");
        }
        html.raw("</svg></figure>");
    }
}

/// A short history begins on the right, where now is.
fn start(count: usize) -> f64 {
    120.0 - step() * (count.clamp(1, SAMPLES) - 1) as f64
}

fn step() -> f64 {
    120.0 / (SAMPLES - 1) as f64
}

fn line(values: &[f64], peak: f64) -> String {
    let values = &values[values.len().saturating_sub(SAMPLES)..];
    if values.len() < 2 {
        return String::new();
    }
    let mut line = String::new();
    for (at, value) in values.iter().enumerate() {
        let x = start(values.len()) + step() * at as f64;
        let y = if peak > 0.0 { 27.0 - 25.0 * value / peak } else { 27.0 };
        let before = if at == 0 { "" } else { " L" };
        // Writing to a string does not fail.
        let _written = write!(line, "{before}{x:.1},{y:.1}");
    }
    line
}

/// Points of a full history.
const SAMPLES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_left_to_right_and_its_peak_is_on_top() {
        assert_eq!(line(&[], 0.0), "");
        assert_eq!(line(&[1.0], 1.0), "");
        assert_eq!(line(&[0.0, 10.0], 10.0), "118.0,27.0 L120.0,2.0");
        assert_eq!(line(&[0.0, 0.0], 0.0), "118.0,27.0 L120.0,27.0");
        let many = vec![5.0; 100];
        let line = line(&many, 5.0);
        assert!(line.starts_with("0.0,2.0 L") && line.ends_with("L120.0,2.0"), "{line}");
        assert_eq!(line.split('L').count(), SAMPLES);
    }

    #[test]
    fn odd_values_draw_nothing_odd() {
        let values = [f64::NAN, f64::INFINITY, -5.0, 2.0];
        let mut html = Html::default();
        Chart { title: "Connections", unit: "", values: &values, span: 300 }.write(&mut html);
        let html = html.finish();
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        assert!(html.contains("over the last 5 minutes: now 2/s"), "{html}");
    }
}
