//! SVG by hand: a canvas to which shapes are appended, and the strip plot of outages. Self-contained, no scripts.
//!
//! Coordinates are in pixels, from the upper left corner. All text is escaped here, nowhere else.

use std::fmt::Write as _;

use super::stats::{Summary, axis_end};

/// Colours, by what they say.
pub mod colour {
    /// Axes and text.
    pub const INK: &str = "#333";
    /// Lines that only guide the eye.
    pub const GRID: &str = "#ddd";
    /// A measured value within its bound.
    pub const GOOD: &str = "#2b6cb0";
    /// One beyond it, and outages.
    pub const BAD: &str = "#c53030";
    /// The bound.
    pub const BOUND: &str = "#b7791f";
}

/// A picture under construction.
#[derive(Debug)]
pub struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

/// What a text is aligned to its point with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

impl Canvas {
    /// An empty picture.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A line from `from` to `to`.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{}"/>"#,
            escape(colour)
        );
    }

    /// A filled box with a text that shows under the pointer.
    pub fn bar(&mut self, at: (f64, f64), size: (f64, f64), colour: &str, title: &str) {
        let ((x, y), (width, height)) = (at, size);
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{}"><title>{}</title></rect>"#,
            escape(colour),
            escape(title)
        );
    }

    /// A half-transparent dot with a text that shows under the pointer.
    pub fn dot(&mut self, at: (f64, f64), radius: f64, colour: &str, title: &str) {
        let (x, y) = at;
        let _ = writeln!(
            self.body,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" fill="{}" fill-opacity="0.6"><title>{}</title></circle>"#,
            escape(colour),
            escape(title)
        );
    }

    /// A text.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{}">{}</text>"#,
            escape(colour),
            escape(text)
        );
    }

    /// The whole picture, fit for a file of its own and for HTML.
    #[must_use]
    pub fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0}\" height=\"{1:.0}\" viewBox=\"0 0 {0:.0} {1:.0}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n{2}</svg>\n",
            self.width, self.height, self.body
        )
    }
}

/// Makes any text fit for XML: markup is escaped, and control characters, which XML forbids, become blanks.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(letter),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// A row of a strip plot.
#[derive(Debug, Clone)]
pub struct Strip {
    /// Its name.
    pub label: String,
    /// The values.
    pub values: Vec<f64>,
    /// What they may not exceed.
    pub bound: f64,
}

const LABELS: f64 = 150.0;
const PLOT: f64 = 640.0;
const FIGURES: f64 = 190.0;
const ROW: f64 = 24.0;
const TOP: f64 = 26.0;

/// One row of dots for each strip on a common axis in `unit`, with the median, and the bound as a mark.
#[must_use]
pub fn strips(rows: &[Strip], unit: &str) -> String {
    let largest = rows.iter().flat_map(|row| row.values.iter().chain([&row.bound])).copied().fold(0.0, f64::max);
    let end = axis_end(largest);
    let x = |value: f64| LABELS + PLOT * (value / end).clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let y = |row: usize| TOP + ROW * (row as f64 + 0.5);
    let bottom = y(rows.len()) - ROW / 2.0;
    let mut canvas = Canvas::new(LABELS + PLOT + FIGURES, bottom + 8.0);
    for tick in 0..=5 {
        let value = end * f64::from(tick) / 5.0;
        canvas.line((x(value), TOP), (x(value), bottom), colour::GRID);
        canvas.text((x(value), TOP - 8.0), Anchor::Middle, colour::INK, &format!("{value} {unit}"));
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = y(index);
        canvas.text((LABELS - 10.0, middle + 4.0), Anchor::End, colour::INK, &row.label);
        let bound = format!("bound {} {unit}", row.bound);
        canvas.bar((x(row.bound) - 1.0, middle - 9.0), (2.0, 18.0), colour::BOUND, &bound);
        for value in &row.values {
            let colour = if *value > row.bound { colour::BAD } else { colour::GOOD };
            canvas.dot((x(*value), middle), 4.0, colour, &format!("{value:.1} {unit}"));
        }
        let summary = Summary::of(row.values.iter().copied());
        canvas.line((x(summary.median), middle - 7.0), (x(summary.median), middle + 7.0), colour::INK);
        let figures = format!("median {:.0}, max {:.0}, n {}", summary.median, summary.most, summary.count);
        canvas.text((LABELS + PLOT + 14.0, middle + 4.0), Anchor::Start, colour::INK, &figures);
    }
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_picture() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.text((0.0, 0.0), Anchor::Start, colour::INK, "a <b> & \"c\" \u{1}");
        let svg = canvas.finish();
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;  </text>"), "{svg}");
    }

    #[test]
    fn a_strip_shows_each_value_where_it_belongs_and_marks_those_beyond_the_bound() {
        let row = Strip { label: "cut".into(), values: vec![0.0, 250.0, 500.0], bound: 400.0 };
        let svg = strips(&[row], "ms");
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches(&format!("fill=\"{}\" fill-opacity", colour::BAD)).count(), 1, "{svg}");
        let half = LABELS + PLOT / 2.0;
        assert!(svg.contains(&format!(r#"<circle cx="{half:.1}""#)), "250 of 500 is in the middle: {svg}");
        assert!(svg.contains("median 250, max 500, n 3"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_plot_of_nothing_is_still_a_picture() {
        assert!(strips(&[], "ms").contains("</svg>"));
        let nothing = Strip { label: "none".into(), values: vec![], bound: 0.0 };
        assert!(!strips(&[nothing], "ms").contains("NaN"));
    }
}
