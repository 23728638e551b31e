//! The reason why a target is not supported, with the number of labels that it would need.

use serde::Serialize;

use crate::CalibrationError;

/// The reason why the data do not support a target.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A code: `CALIBRATION_UNDERPOWERED` if there are too few labels, `CALIBRATION_UNATTAINABLE`
    /// if more labels would not help, or `STRANGERS_UNNAMED`.
    pub reason: &'static str,
    /// Number of labels, each of which counts as one independent trial.
    pub independent_trials: Option<u64>,
    /// Number of labels that the target needs; `None` if that is unknown.
    pub needed: Option<u64>,
    /// The lowest rate of the kind asked for (FAR or FRR) that so many labels can support. A FAR goes by their number
    /// alone. An FRR goes by what they showed, so that asking for it takes new labels.
    pub best_supported: Option<f64>,
    /// The reason as text.
    pub message: String,
}

impl Refusal {
    /// Converts an error; `None` if it does not refuse the target.
    #[must_use]
    pub fn of(error: &CalibrationError) -> Option<Self> {
        let reason = error.refusal()?;
        let trials = error.trials_needed();
        Some(Self {
            reason,
            independent_trials: trials.map(|(_, present)| present),
            needed: trials.and_then(|(needed, _)| needed),
            best_supported: error.best_supported(),
            message: error.to_string(),
        })
    }
}
