//! Predicts the FAR in a gallery that has grown.

use crate::growth::{FpirAt, predicted};
use crate::operating_point::Content;

/// The predicted FAR of an operating point in a gallery of some size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictedFar {
    /// The prediction from the FAR that the calibration measured.
    pub estimate: f64,
    /// The prediction from the upper bound of the calibration: its certified bound, or else the upper end of
    /// the interval.
    pub upper: f64,
}

/// Predicts the FAR in a gallery of `items` from what was measured at calibration; `None` if none was
/// measured, or if the gallery is empty.
///
/// Only the number of items is taken into account. The prediction assumes that strangers and pictures are
/// still of the same kind, and that strangers resemble new items as much as the old ones ([`predicted`]).
#[must_use]
pub fn predicted_far(content: &Content, items: u64) -> Option<PredictedFar> {
    let measured = content.measured.far?;
    let at = |fpir| {
        let now = FpirAt {
            items: content.binding.gallery_items,
            fpir,
        };
        predicted(now, items).ok().map(|found| found.fpir)
    };
    Some(PredictedFar {
        estimate: at(measured.estimate)?,
        upper: at(content.far_bound().unwrap_or(measured.interval.upper))?,
    })
}
