//! Why a target is not supported, and how many labels it needs.

use serde::Serialize;

use crate::CalibrationError;

/// Why a target is not supported.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// `CALIBRATION_UNDERPOWERED`, `CALIBRATION_UNATTAINABLE` if more labels would not help, or
    /// `STRANGERS_UNNAMED`.
    pub reason: &'static str,
    /// Labels that count as independent trials.
    pub independent_trials: Option<u64>,
    /// How many are necessary; `None` if that is unknown.
    pub needed: Option<u64>,
    /// The lowest rate of the kind asked for that these data can support.
    pub best_supported: Option<f64>,
    /// In words.
    pub message: String,
}

impl Refusal {
    /// `None` if the error is not a refusal of the target.
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
