//! Tables that become lists on a narrow screen.

use super::estimate::{Estimate, RateInterval};
use super::markup::Markup;
use super::numbers::{UNKNOWN, events, percent, percent_span};
use super::plot::across;

/// The kind of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableColumn {
    /// Text.
    Words,
    /// Numbers, aligned to the right.
    Number,
    /// A rate with its interval, as a drawing and as text.
    Rate,
}

impl TableColumn {
    fn class(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Number => "number",
            Self::Rate => "rate",
        }
    }
}

/// A table under construction. The first column names the row.
#[derive(Debug)]
pub(super) struct HtmlTable {
    caption: String,
    columns: Vec<(String, TableColumn)>,
    rows: Markup,
}

impl HtmlTable {
    pub(super) fn new(caption: &str, columns: &[(&str, TableColumn)]) -> Self {
        Self {
            caption: caption.to_owned(),
            columns: columns
                .iter()
                .map(|(name, column)| ((*name).to_owned(), *column))
                .collect(),
            rows: Markup::default(),
        }
    }

    /// Adds a row with one cell for each column.
    pub(super) fn row(&mut self, cells: Vec<Markup>) {
        self.marked_row("", cells);
    }

    /// Adds a row with a CSS class.
    pub(super) fn marked_row(&mut self, class: &'static str, cells: Vec<Markup>) {
        let columns = &self.columns;
        self.rows.element("tr", &[("class", class)], |row| {
            for (index, (cell, (name, column))) in cells.into_iter().zip(columns).enumerate() {
                if index == 0 {
                    row.element("th", &[("scope", "row"), ("data-name", name)], |inner| {
                        inner.append(cell);
                    });
                } else {
                    row.element(
                        "td",
                        &[("class", column.class()), ("data-name", name)],
                        |inner| inner.append(cell),
                    );
                }
            }
        });
    }

    /// Adds a row that has only a name, and one cell across all other columns.
    pub(super) fn short_row(&mut self, name: Markup, said: Markup) {
        let others = self.columns.len().saturating_sub(1).to_string();
        let head = self.columns.first().map(|(name, _)| name.as_str());
        let head = head.unwrap_or_default();
        self.rows.element("tr", &[("class", "")], |row| {
            row.element("th", &[("scope", "row"), ("data-name", head)], |inner| {
                inner.append(name);
            });
            row.element("td", &[("colspan", &others)], |inner| inner.append(said));
        });
    }

    /// Adds a sentence about the previous row, across all columns.
    pub(super) fn sentence(&mut self, sentence: &str) {
        let columns = self.columns.len().to_string();
        self.rows.element("tr", &[("class", "sentence")], |row| {
            row.element("td", &[("colspan", &columns)], |cell| cell.text(sentence));
        });
    }

    pub(super) fn finish(self) -> Markup {
        let mut table = Markup::default();
        let class = if self.columns.len() <= 3 { "few" } else { "" };
        table.element("table", &[("class", class)], |table| {
            table.line("caption", "", &self.caption);
            table.element("thead", &[], |head| {
                head.element("tr", &[], |row| {
                    for (name, column) in &self.columns {
                        row.element(
                            "th",
                            &[("scope", "col"), ("class", column.class())],
                            |inner| inner.text(name),
                        );
                    }
                });
            });
            table.element("tbody", &[], |body| body.append(self.rows));
        });
        table
    }

    /// The table, closed until the reader opens it: the numbers behind a chart.
    pub(super) fn folded(self) -> Markup {
        let summary = self.caption.clone();
        let mut folded = Markup::default();
        folded.element("details", &[], |details| {
            details.line("summary", "", &summary);
            details.append(self.finish());
        });
        folded
    }
}

/// A cell of text.
pub(super) fn cell(text: &str) -> Markup {
    let mut cell = Markup::default();
    if text == UNKNOWN {
        cell.line("span", "unknown", text);
    } else {
        cell.text(text);
    }
    cell
}

/// A cell with text from data.
pub(super) fn datum(text: &str) -> Markup {
    let mut cell = Markup::default();
    cell.datum(text);
    cell
}

/// A cell with a name and its meaning.
pub(super) fn named(name: &str, meaning: &str) -> Markup {
    let mut cell = datum(name);
    if !meaning.is_empty() {
        cell.line("span", "small", meaning);
    }
    cell
}

/// A cell with a rate: the number, its interval as a line on a scale from 0 to `most`, and the counts.
pub(super) fn rate(estimate: Estimate, most: f64) -> Markup {
    let mut cell = Markup::default();
    value(&mut cell, estimate);
    if let Some(value) = estimate.value.filter(|value| value.is_finite())
        && 0.0 < most
    {
        whisker(&mut cell, value / most, estimate.interval, most);
    }
    if estimate.interval.is_some() {
        cell.line("span", "small", &percent_span(estimate.interval));
    }
    if estimate.events.is_some() || estimate.trials.is_some() {
        cell.line("span", "small", &events(estimate));
    }
    cell
}

/// Adds the number alone.
pub(super) fn value(cell: &mut Markup, estimate: Estimate) {
    let class = if estimate.value.is_some() {
        "value"
    } else {
        "unknown"
    };
    cell.line("span", class, &percent(estimate.value));
}

fn whisker(cell: &mut Markup, at: f64, interval: Option<RateInterval>, most: f64) {
    cell.element(
        "svg",
        &[("class", "whiskers"), ("aria-hidden", "true")],
        |drawing| {
            drawing.shape(
                "line",
                &[
                    ("class", "grid"),
                    ("x1", "0%"),
                    ("x2", "100%"),
                    ("y1", "50%"),
                    ("y2", "50%"),
                ],
            );
            if let Some(span) = interval {
                let end = |end: f64| across((end / most).clamp(0.0, 1.0));
                drawing.shape(
                    "line",
                    &[
                        ("class", "whisker"),
                        ("x1", &end(span.lower)),
                        ("x2", &end(span.upper)),
                        ("y1", "50%"),
                        ("y2", "50%"),
                    ],
                );
            }
            let centre = across(at.clamp(0.0, 1.0));
            drawing.shape(
                "circle",
                &[
                    ("class", "dot"),
                    ("cx", &centre),
                    ("cy", "50%"),
                    ("r", "3.5"),
                ],
            );
        },
    );
}

/// The end of a column's scale: the highest upper end of an interval.
pub(super) fn most(estimates: impl Iterator<Item = Estimate>) -> f64 {
    estimates
        .filter_map(|estimate| estimate.interval.map(|span| span.upper).or(estimate.value))
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}
