//! What is asked for, as Python writes it down.

use pyo3::PyErr;
use serde::Deserialize;

use matchpoint_calibration::analysis::AnalysisError;
use matchpoint_calibration::procedure::{StatedSettings, ThresholdSettings, VectorSource};

pyo3::create_exception!(
    matchpoint_calibration,
    InputError,
    pyo3::exceptions::PyValueError,
    "What was given cannot be calibrated: says what, where, and how to mend it."
);

/// One calibration that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    name: String,
    created: String,
    pub(super) pairs_max: Option<u64>,
    settings: StatedSettings,
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
        let settings = self.settings.checked();
        settings.map_err(|error| InputError::new_err(error.to_string()))
    }
}

/// Input that cannot be analysed.
pub(super) fn not_analysed(error: &AnalysisError) -> PyErr {
    InputError::new_err(error.to_string())
}
