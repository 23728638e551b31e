//! What the FAR is predicted to be in a gallery that has grown.

use crate::growth::{FpirAt, predicted};
use crate::operating_point::Content;

/// The FAR that a gallery of some size is predicted to have under an operating point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictedFar {
    /// From what its calibration measured.
    pub estimate: f64,
    /// From the bound that its calibration gives, or the upper end of the interval it measured.
    pub upper: f64,
}

/// Predicts the FAR in a gallery of `items` from what was measured at calibration; `None` if none was
/// measured, or if the gallery is empty.
///
/// Blind to everything but the number of items: strangers and pictures are taken as they were, and
/// new items as alike to strangers as the old ones ([`predicted`]).
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
