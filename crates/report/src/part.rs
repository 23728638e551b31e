//! A part of the report below the verdict.

use super::contents::View;
use super::estimate::Estimate;
use super::markup::Markup;
use super::numbers::confidences;

/// A part: a heading, an explanation, and the content.
#[derive(Debug)]
pub(super) struct ReportPart {
    /// The anchor for links within the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// The kind of trial that its rates belong to; `None` if it has no rates.
    pub(super) view: Option<View>,
    /// The explanation, as paragraphs.
    pub(super) notes: Vec<String>,
    pub(super) body: Markup,
}

/// A sentence about the intervals of a part; `None` if it has no intervals.
pub(super) fn interval_note(estimates: impl Iterator<Item = Estimate>) -> Option<String> {
    let spans = estimates.filter_map(|estimate| estimate.interval);
    confidences(spans).map(|confidence| {
        format!("Intervals cover the true rate with {confidence} confidence, over labels.")
    })
}
