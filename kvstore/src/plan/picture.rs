//! The curve of hits over size, as SVG.

use std::fmt::Write;

use super::{Plan, Point};
use crate::config::format_size;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// A picture that reads on light and dark ground.
pub(crate) fn svg(plan: &Plan) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text{{fill:#444}}line{{stroke:#ccc}}@media(prefers-color-scheme:dark){{text{{fill:#ccc}}line{{stroke:#444}}}}</style>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Blocks hit by the size of the largest tier</text>\n"
    );
    for tenth in [0, 2, 4, 6, 8, 10] {
        let y = height(f64::from(tenth) / 10.0);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            tenth * 10
        );
    }
    let range = Range::of(&plan.points);
    for (index, point) in plan.points.iter().enumerate() {
        if index % (plan.points.len() / 8 + 1) == 0 {
            let x = range.x(point.bytes);
            let _ = writeln!(
                text,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 20.0,
                format_size(point.bytes)
            );
        }
    }
    let most = height(plan.hit_ratio_most);
    let _ = writeln!(
        text,
        "<path d=\"M{LEFT} {most:.1}H{}\" stroke=\"#a85a00\" stroke-dasharray=\"5 4\" fill=\"none\"/>\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">most: {:.1} %</text>",
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        most - 6.0,
        plan.hit_ratio_most * 100.0
    );
    curve(&mut text, &plan.points, &range);
    if plan.gpu.bytes > 0 && plan.gpu.bytes >= range.first {
        let (x, y) = (range.x(plan.gpu.bytes), height(plan.gpu.hit_ratio));
        let _ = writeln!(
            text,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#0f8a6d\"/><text x=\"{:.1}\" y=\"{:.1}\">GPU {}</text>",
            x + 9.0,
            y + 16.0,
            format_size(plan.gpu.bytes)
        );
    }
    text.push_str("</svg>\n");
    text
}

fn curve(text: &mut String, points: &[Point], range: &Range) {
    text.push_str("<polyline fill=\"none\" stroke=\"#2563c9\" stroke-width=\"2.5\" points=\"");
    for point in points {
        let _ = write!(
            text,
            "{:.1},{:.1} ",
            range.x(point.bytes),
            height(point.hit_ratio)
        );
    }
    text.push_str("\"/>\n");
}

fn height(ratio: f64) -> f64 {
    TOP + (1.0 - ratio) * (HEIGHT - TOP - BOTTOM)
}

/// Sizes from left to right, each doubling as wide as the next.
struct Range {
    first: u64,
    last: u64,
}

impl Range {
    fn of(points: &[Point]) -> Self {
        let bytes = points.iter().map(|point| point.bytes.max(1));
        Self {
            first: bytes.clone().min().unwrap_or(1),
            last: bytes.max().unwrap_or(1),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
    fn x(&self, bytes: u64) -> f64 {
        let place = |bytes: u64| (bytes.max(1) as f64).log2();
        let width = (place(self.last) - place(self.first)).max(1.0);
        let part = ((place(bytes) - place(self.first)) / width).clamp(0.0, 1.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Requests, Shape};

    #[test]
    fn the_curve_ends_where_all_is_hit() {
        let requests = Requests {
            blocks: (0..8).map(|turn| vec![turn % 4]).collect(),
            tokens_per_block: 1,
        };
        let plan = Plan::new(
            &requests,
            Shape {
                bytes_per_token: 1024,
            },
            2048,
            &[],
        );
        let text = svg(&plan);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        // Half of eight blocks are hit by four kilobytes, the last size.
        let points = text.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(points.trim_end().ends_with("700.0,180.0"), "{points}");
        assert!(
            text.contains("GPU 2.00KiB") || text.contains("GPU 2KiB"),
            "{text}"
        );
    }
}
