//! What is asked for, as Python writes it down.

use pyo3::PyErr;
use serde::Deserialize;

use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::analysis::AnalysisError;
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::procedure::{Assured, ThresholdSettings, VectorSource};
use matchpoint_calibration::stated_target::StatedTarget;

pyo3::create_exception!(
    matchpoint_calibration,
    InputError,
    pyo3::exceptions::PyValueError,
    "What was given cannot be calibrated: says what, where, and how to mend it."
);

/// The settings of one calibration, by the names of the command's flags.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the command")]
pub(super) struct Request {
    name: String,
    created: String,
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
    pub(super) pairs_max: Option<u64>,
}

/// What errors cost, and how often there is something to find.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedCosts {
    false_accept: f64,
    false_reject: f64,
    prior_mated: f64,
}

impl Request {
    pub(super) fn parse(json: &str) -> Result<Self, PyErr> {
        serde_json::from_str(json).map_err(|cause| InputError::new_err(cause.to_string()))
    }

    pub(super) fn source(&self, digest: String) -> VectorSource {
        VectorSource {
            name: self.name.clone(),
            digest,
            created: self.created.clone(),
        }
    }

    pub(super) fn settings(&self) -> Result<ThresholdSettings, PyErr> {
        let review = self.review_frr;
        let review = review.map(|frr| TargetFrr::new(frr, self.confidence));
        Ok(ThresholdSettings {
            target: self
                .target()
                .checked(self.confidence)
                .map_err(|error| wrong(&error))?,
            seed: self.seed,
            grow_to_items: self.grow_to,
            assured: Assured {
                labels_as_they_are: self.labels_as_they_are,
                strangers_are_distinct: self.strangers_are_distinct,
            },
            worst_group_of: self.worst_group_of.clone(),
            review: review.transpose().map_err(|error| wrong(&error))?,
        })
    }

    /// Python has seen to it that there is exactly one.
    fn target(&self) -> StatedTarget {
        if let Some(rate) = self.target_far {
            let estimated = self.estimated;
            return StatedTarget::Far { rate, estimated };
        }
        if let Some(rate) = self.target_frr {
            return StatedTarget::Frr(rate);
        }
        let costs = self.costs.filter(|_| !self.equal_error);
        costs.map_or(StatedTarget::EqualError, |costs| StatedTarget::Cost {
            false_accept: costs.false_accept,
            false_reject: costs.false_reject,
            prior_mated: costs.prior_mated,
        })
    }
}

/// Input that cannot be calibrated.
fn wrong(error: &CalibrationError) -> PyErr {
    InputError::new_err(error.to_string())
}

/// The same of an analysis.
pub(super) fn not_analysed(error: &AnalysisError) -> PyErr {
    InputError::new_err(error.to_string())
}
