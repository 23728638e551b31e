//! What a calibration came to, as Python takes it apart.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::procedure::{
    CalibratedSizes, ThresholdSettings, VectorCalibration, VectorFindings, VectorSource,
};
use matchpoint_report::calibrated::page_of_vectors;
use matchpoint_report::render;

/// What a calibration came to.
#[pyclass(frozen, get_all, module = "matchpoint_calibration._native")]
pub(super) struct Outcome {
    /// What `matchpoint calibrate --embeddings --json` prints.
    findings: String,
    /// The operating point's record; `None` if the target is refused.
    record: Option<String>,
    /// Its id.
    id: Option<String>,
    /// What it promises or aims at, in words.
    goal: Option<String>,
    /// The searches that it was made from, as a deployment keeps them.
    recording: String,
    /// The report, one HTML file.
    page: String,
}

impl Outcome {
    pub(super) fn of(
        source: &VectorSource,
        settings: &ThresholdSettings,
        sizes: CalibratedSizes,
        found: VectorCalibration,
    ) -> PyResult<Self> {
        let page = render(&page_of_vectors(source, settings, &found));
        let point = found
            .outcome
            .as_ref()
            .ok()
            .map(|supported| &supported.point);
        let id = point.map(|point| point.id().to_owned());
        let goal = point.map(|point| point.content().goal());
        let record = point.map(OperatingPoint::to_json).transpose();
        let recording = found.trials.recording.to_json();
        let findings = serde_json::to_string(&VectorFindings::of(sizes, found));
        Ok(Self {
            findings: findings.map_err(|cause| unwritten(&cause))?,
            record: record.map_err(|cause| unwritten(&cause))?,
            id,
            goal,
            recording: String::from_utf8_lossy(&recording.map_err(|cause| unwritten(&cause))?)
                .into_owned(),
            page,
        })
    }
}

/// Every result has a JSON form: this is a mistake of ours.
fn unwritten(cause: &dyn std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(format!("the result could not be written: {cause}"))
}
