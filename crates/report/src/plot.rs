//! The frame that charts are drawn in.
//!
//! Positions are percentages of the frame. Lines are drawn in a square that is stretched to the frame, so that
//! a chart fits every width while letters and line widths keep their size.

use super::axis::ChartAxis;
use super::markup::Markup;

/// A chart under construction.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) x: ChartAxis,
    pub(super) y: ChartAxis,
    /// Lines and areas, in a square of 1000 by 1000 units that is stretched to the frame.
    marks: Markup,
    /// Text and dots, which are not stretched.
    notes: Markup,
}

/// The side of its position on which a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextAnchor {
    Left,
    Middle,
    Right,
}

impl TextAnchor {
    /// The side with more space, at `at` of the width.
    pub(super) fn with_room(at: f64) -> Self {
        if 0.55 < at { Self::Left } else { Self::Right }
    }

    /// The alignment of text on this side, `below` pixels below its position.
    fn anchor(self, below: &'static str) -> Anchor {
        let (end, right) = match self {
            Self::Left => ("end", "-8"),
            Self::Middle => ("middle", "0"),
            Self::Right => ("start", "8"),
        };
        Anchor { end, right, below }
    }
}

/// The names of the axes.
#[derive(Clone, Copy)]
pub(super) struct AxisNames<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// The position of text above the frame, in pixels below its upper edge.
const ABOVE: &str = "-7";

/// The alignment of text at its position.
#[derive(Clone, Copy)]
struct Anchor {
    /// The end of the text that is at the position: `start`, `middle` or `end`.
    end: &'static str,
    /// Offset to the right, in pixels.
    right: &'static str,
    /// Offset downwards, in pixels.
    below: &'static str,
}

impl Plot {
    pub(super) fn new(x: ChartAxis, y: ChartAxis) -> Self {
        Self {
            x,
            y,
            marks: Markup::default(),
            notes: Markup::default(),
        }
    }

    /// A line through points, interrupted where one is unknown.
    pub(super) fn curve(
        &mut self,
        points: impl Iterator<Item = (f64, Option<f64>)>,
        class: &'static str,
        title: &str,
    ) {
        let mut path = String::new();
        let mut pen_down = false;
        for (x, y) in points {
            let position = self.x.at(x).zip(y.and_then(|y| self.y.at(y)));
            if let Some((x, y)) = position {
                path.push(if pen_down { 'L' } else { 'M' });
                push_point(&mut path, x, y);
            }
            pen_down = position.is_some();
        }
        self.path(&path, class, title);
    }

    /// The area between an upper and a lower edge.
    pub(super) fn area(&mut self, upper: &[(f64, f64)], lower: &[(f64, f64)], class: &'static str) {
        let mut path = String::new();
        for &(x, y) in upper.iter().chain(lower.iter().rev()) {
            if let Some((x, y)) = self.x.at(x).zip(self.y.at(y)) {
                path.push(if path.is_empty() { 'M' } else { 'L' });
                push_point(&mut path, x, y);
            }
        }
        if !path.is_empty() {
            path.push('Z');
        }
        self.path(&path, class, "");
    }

    fn path(&mut self, path: &str, class: &'static str, title: &str) {
        if path.is_empty() {
            return;
        }
        self.marks
            .element("path", &[("class", class), ("d", path)], |inner| {
                if !title.is_empty() {
                    inner.line("title", "", title);
                }
            });
    }

    /// A vertical line across the chart at a value of x, with a label above the frame.
    pub(super) fn vertical(&mut self, x: f64, class: &'static str, label: &str) {
        let Some(at) = self.x.at(x).filter(|_| self.x.holds(x)) else {
            return;
        };
        self.rule((at, at), (0.0, 1.0), class);
        let side = if at < 0.2 {
            TextAnchor::Right
        } else if 0.8 < at {
            TextAnchor::Left
        } else {
            TextAnchor::Middle
        };
        let anchor = Anchor {
            right: "0",
            ..side.anchor(ABOVE)
        };
        self.letters((at, 1.0), anchor, "note", label);
    }

    /// Labels for the left and the right end, above the frame.
    pub(super) fn ends(&mut self, left: &str, right: &str) {
        for (x, end, text) in [(0.0, "start", left), (1.0, "end", right)] {
            let anchor = Anchor {
                end,
                right: "0",
                below: ABOVE,
            };
            self.letters((x, 1.0), anchor, "note", text);
        }
    }

    /// A horizontal line across the chart at a value of y, with a label above one end of it.
    pub(super) fn horizontal(
        &mut self,
        y: f64,
        class: &'static str,
        label: &str,
        side: TextAnchor,
    ) {
        let Some(at) = self.y.at(y).filter(|_| self.y.holds(y)) else {
            return;
        };
        self.rule((0.0, 1.0), (at, at), class);
        let (x, end, right) = match side {
            TextAnchor::Left => (0.0, "start", "4"),
            TextAnchor::Middle => (0.5, "middle", "0"),
            TextAnchor::Right => (1.0, "end", "-4"),
        };
        let anchor = Anchor {
            end,
            right,
            below: "-5",
        };
        self.letters((x, at), anchor, "note", label);
    }

    /// A straight line between two points, in fractions of the frame.
    pub(super) fn rule(&mut self, x: (f64, f64), y: (f64, f64), class: &'static str) {
        self.notes.shape(
            "line",
            &[
                ("class", class),
                ("x1", &across(x.0)),
                ("x2", &across(x.1)),
                ("y1", &down(y.0)),
                ("y2", &down(y.1)),
            ],
        );
    }

    /// A dot at a point, which shows `title` under the mouse pointer.
    pub(super) fn dot(&mut self, point: (f64, f64), class: &'static str, title: &str) {
        let Some((x, y)) = self.x.at(point.0).zip(self.y.at(point.1)) else {
            return;
        };
        let radius = match class {
            "hover" => "7",
            "operating" => "5.5",
            _ => "3.5",
        };
        self.notes.element(
            "circle",
            &[
                ("class", class),
                ("cx", &across(x.clamp(0.0, 1.0))),
                ("cy", &down(y.clamp(0.0, 1.0))),
                ("r", radius),
            ],
            |inner| inner.line("title", "", title),
        );
    }

    /// A text next to a position, which is given in fractions of the frame.
    pub(super) fn label(
        &mut self,
        at: (f64, f64),
        side: TextAnchor,
        class: &'static str,
        text: &str,
    ) {
        let at = (at.0.clamp(0.0, 1.0), at.1.clamp(0.0, 1.0));
        self.letters(at, side.anchor("4"), class, text);
    }

    /// The same, one line of text lower.
    pub(super) fn label_below(&mut self, at: (f64, f64), side: TextAnchor, text: &str) {
        let at = (at.0.clamp(0.0, 1.0), at.1.clamp(0.0, 1.0));
        self.letters(at, side.anchor("21"), "note", text);
    }

    fn letters(&mut self, at: (f64, f64), anchor: Anchor, class: &'static str, text: &str) {
        self.notes.element(
            "text",
            &[
                ("class", class),
                ("x", &across(at.0)),
                ("y", &down(at.1)),
                ("dx", anchor.right),
                ("dy", anchor.below),
                ("text-anchor", anchor.end),
            ],
            |inner| inner.text(text),
        );
    }

    /// Finishes the chart. `class` determines its shape, and screen readers read `summary` instead.
    pub(super) fn finish(self, class: &'static str, names: AxisNames<'_>, summary: &str) -> Markup {
        let y_gap = if class.contains("low") { 0.2 } else { 0.09 };
        let mut chart = Markup::default();
        chart.element("div", &[("class", class)], |chart| {
            chart.line("div", "y-name", names.y);
            chart.element("div", &[("class", "frame")], |frame| {
                frame.element(
                    "svg",
                    &[("role", "img"), ("aria-label", summary)],
                    |drawing| {
                        grid(drawing, &self.x.ticks(0.15), &self.y.ticks(y_gap));
                        drawing.element(
                            "svg",
                            &[
                                ("viewBox", "0 0 1000 1000"),
                                ("preserveAspectRatio", "none"),
                                ("width", "100%"),
                                ("height", "100%"),
                            ],
                            |square| square.append(self.marks),
                        );
                        drawing.append(self.notes);
                    },
                );
            });
            chart.line("div", "x-name", names.x);
        });
        chart
    }
}

fn grid(drawing: &mut Markup, x: &[(f64, String)], y: &[(f64, String)]) {
    for (at, name) in x.iter().map(|(at, name)| (*at, name)) {
        drawing.shape(
            "line",
            &[
                ("class", "grid"),
                ("x1", &across(at)),
                ("x2", &across(at)),
                ("y1", "0%"),
                ("y2", "100%"),
            ],
        );
        let place = [
            ("class", "tick"),
            ("x", &across(at)),
            ("y", "100%"),
            ("dy", "18"),
            ("text-anchor", "middle"),
        ];
        drawing.element("text", &place, |inner| inner.text(name));
    }
    for (at, name) in y.iter().map(|(at, name)| (*at, name)) {
        drawing.shape(
            "line",
            &[
                ("class", "grid"),
                ("x1", "0%"),
                ("x2", "100%"),
                ("y1", &down(at)),
                ("y2", &down(at)),
            ],
        );
        let place = [
            ("class", "tick"),
            ("x", "0%"),
            ("dx", "-8"),
            ("y", &down(at)),
            ("dy", "4"),
            ("text-anchor", "end"),
        ];
        drawing.element("text", &place, |inner| inner.text(name));
    }
    let foot = [("class", "foot"), ("x1", "0%"), ("x2", "100%")];
    let height = [("y1", "100%"), ("y2", "100%")];
    let all: Vec<_> = foot.into_iter().chain(height).collect();
    drawing.shape("line", &all);
}

/// A fraction of the width as an SVG coordinate.
pub(super) fn across(fraction: f64) -> String {
    format!("{:.2}%", fraction * 100.0)
}

/// A fraction of the height, measured from the bottom, as an SVG coordinate.
fn down(fraction: f64) -> String {
    format!("{:.2}%", (1.0 - fraction) * 100.0)
}

fn push_point(path: &mut String, x: f64, y: f64) {
    path.push_str(&format!("{:.1} {:.1}", x * 1000.0, (1.0 - y) * 1000.0));
}
