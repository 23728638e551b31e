//! One part of the report below the verdict, whatever it is about.

use super::contents::View;
use super::estimate::Estimate;
use super::markup::Markup;
use super::numbers::confidences;

/// One part: a heading with its explanation, and what it shows.
#[derive(Debug)]
pub(super) struct ReportPart {
    /// For links within the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What its rates are rates of; `None` if it has none.
    pub(super) view: Option<View>,
    /// The explanation, a paragraph each.
    pub(super) notes: Vec<String>,
    pub(super) body: Markup,
}

/// A sentence about the intervals of a part; `None` if it has none.
pub(super) fn interval_note(estimates: impl Iterator<Item = Estimate>) -> Option<String> {
    let spans = estimates.filter_map(|estimate| estimate.interval);
    confidences(spans).map(|confidence| {
        format!("Intervals cover the true rate with {confidence} confidence, over labels.")
    })
}
