//! An operating point with the searches that were recorded with it, and what these show by themselves.

use crate::deployment::{DeploymentError, Folder};
use matchpoint_calibration::analysis::{Analysis, JudgedSearches};
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::recording::Recording;

/// An operating point whose searches are judged.
#[derive(Clone, Debug)]
pub struct JudgedPoint {
    /// The operating point.
    pub point: OperatingPoint,
    /// The rate that was asked for.
    pub asked: CalibrationTarget,
    /// The searches.
    pub recording: Recording,
    /// What they show. Everything that needs vectors is left out.
    pub analysis: Analysis,
}

impl JudgedPoint {
    /// Judges the searches of an operating point; of the active one without an id.
    ///
    /// # Errors
    /// Returns an error if the operating point is missing or damaged, or if its searches were not stored.
    pub fn of(folder: &Folder, id: Option<&str>) -> Result<Self, DeploymentError> {
        let point = folder.operating_point_or_active(id)?;
        let missing = || DeploymentError::RecordingMissing {
            id: point.id().to_owned(),
        };
        let recording = folder.recording(point.id())?.ok_or_else(missing)?;
        let asked = point.content().asked().ok_or_else(missing)?;
        let analysis = JudgedSearches {
            recording: &recording,
            threshold: point.threshold(),
            target: asked,
            seed: point.content().seed,
        }
        .analyse();
        Ok(Self {
            point,
            asked,
            recording,
            analysis,
        })
    }
}
