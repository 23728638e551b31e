//! A target as a caller states it, with numbers that are not checked yet.

use super::CalibrationError;
use super::certify::TargetFar;
use super::certify_frr::TargetFrr;
use super::cost::{CostModel, Costs};
use super::evidence::Prior;
use super::policy::CalibrationTarget;

/// The target of a threshold, as flags, a message or a program state it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StatedTarget {
    /// A false accept rate.
    Far {
        /// The rate, per search.
        rate: f64,
        /// Whether an estimated bound suffices, which certifies nothing.
        estimated: bool,
    },
    /// A false reject rate, per search.
    Frr(f64),
    /// Both error rates equal.
    EqualError,
    /// The lowest expected cost.
    Cost {
        /// The cost of a false accept.
        false_accept: f64,
        /// The cost of a false reject, in the same unit.
        false_reject: f64,
        /// The share of searches that are mated.
        prior_mated: f64,
    },
}

impl StatedTarget {
    /// Checks the target. A target rate gets this confidence.
    ///
    /// # Errors
    /// Returns an error if a rate, the confidence, a cost or a share is out of range.
    pub fn checked(self, confidence: f64) -> Result<CalibrationTarget, CalibrationError> {
        Ok(match self {
            Self::Far { rate, estimated } => {
                let far = TargetFar::new(rate, confidence)?;
                if estimated {
                    CalibrationTarget::FarEstimated(far)
                } else {
                    CalibrationTarget::Far(far)
                }
            }
            Self::Frr(rate) => CalibrationTarget::Frr(TargetFrr::new(rate, confidence)?),
            Self::EqualError => CalibrationTarget::EqualError,
            Self::Cost {
                false_accept,
                false_reject,
                prior_mated,
            } => CalibrationTarget::Cost(CostModel::new(Costs {
                false_accept,
                false_reject,
                prior_mated: Prior::new(prior_mated)?,
            })?),
        })
    }
}
