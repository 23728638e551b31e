//! Settings for choosing a threshold as a program states them, by the names of the command's flags.

use serde::Deserialize;

use super::settings::{Assured, ThresholdSettings};
use crate::CalibrationError;
use crate::certify_frr::TargetFrr;
use crate::stated_target::StatedTarget;

/// Settings for choosing a threshold, with numbers that are not checked yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the command")]
pub struct StatedSettings {
    target_far: Option<f64>,
    estimated: bool,
    target_frr: Option<f64>,
    equal_error: bool,
    costs: Option<StatedCosts>,
    confidence: f64,
    seed: u64,
    grow_to: Option<u64>,
    labels_as_they_are: bool,
    strangers_are_distinct: bool,
    worst_group_of: Option<String>,
    review_frr: Option<f64>,
}

/// What errors cost, and how often there is something to find.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedCosts {
    false_accept: f64,
    false_reject: f64,
    prior_mated: f64,
}

impl StatedSettings {
    /// The settings, if they can be used.
    ///
    /// # Errors
    /// Returns an error if a rate, the confidence, a cost or a share is out of range, and unless there is exactly one
    /// target.
    pub fn checked(&self) -> Result<ThresholdSettings, CalibrationError> {
        let review = self.review_frr;
        let review = review.map(|frr| TargetFrr::new(frr, self.confidence));
        Ok(ThresholdSettings {
            target: self.target()?.checked(self.confidence)?,
            seed: self.seed,
            grow_to_items: self.grow_to,
            assured: Assured {
                labels_as_they_are: self.labels_as_they_are,
                strangers_are_distinct: self.strangers_are_distinct,
            },
            worst_group_of: self.worst_group_of.clone(),
            review: review.transpose()?,
        })
    }

    fn target(&self) -> Result<StatedTarget, CalibrationError> {
        let estimated = self.estimated;
        match (
            self.target_far,
            self.target_frr,
            self.equal_error,
            self.costs,
        ) {
            (Some(rate), None, false, None) => Ok(StatedTarget::Far { rate, estimated }),
            (None, Some(rate), false, None) => Ok(StatedTarget::Frr(rate)),
            (None, None, true, None) => Ok(StatedTarget::EqualError),
            (None, None, false, Some(costs)) => Ok(StatedTarget::Cost {
                false_accept: costs.false_accept,
                false_reject: costs.false_reject,
                prior_mated: costs.prior_mated,
            }),
            _ => Err(CalibrationError::NotOneTarget),
        }
    }
}
