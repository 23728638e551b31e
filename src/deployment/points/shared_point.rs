//! An operating point as the store keeps it: the content of its files.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{CALIBRATED_ITEMS, CALIBRATED_TRAFFIC, COHORTS, RECORDINGS};
use crate::deployment::folder::OPERATING_POINTS;
use crate::deployment::{DeploymentError, Folder};
use crate::files::{read_file, replace_file};
use matchpoint_calibration::adjustment::Adjustment;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_remote::{SharedPoint, SharedPointFile};

/// The file of the operating point itself, which is written last.
const POINT: &str = "point";
/// The searches that it was made from.
const RECORDING: &str = "recording";
/// The largest file that is put into a store. Without a recording, operating points cannot be compared there.
const BYTES_MAX: usize = 1 << 28;

impl Folder {
    /// The files of an operating point.
    ///
    /// # Errors
    /// Returns an error if there is no operating point with this id, if it is damaged, or if the disk fails.
    pub(in crate::deployment) fn shared_point(
        &self,
        id: &str,
    ) -> Result<SharedPoint, DeploymentError> {
        let point = self.operating_point(id)?;
        let mut files = Vec::new();
        for (kind, path) in self.files_of(&point) {
            match read_file(&path) {
                Ok(bytes) if BYTES_MAX < bytes.len() && kind == RECORDING => {}
                Ok(bytes) => files.push(SharedPointFile {
                    kind: kind.to_owned(),
                    bytes,
                }),
                // Operating points of earlier versions have not all.
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => return Err(DeploymentError::io(&path, &cause)),
            }
        }
        let id = id.to_owned();
        Ok(SharedPoint { id, files })
    }

    /// Stores an operating point that another server has shared, without activating it.
    ///
    /// # Errors
    /// Returns an error if it is not what its id says, or if the disk fails.
    pub(in crate::deployment) fn add_shared_point(
        &self,
        shared: &SharedPoint,
    ) -> Result<OperatingPoint, DeploymentError> {
        let bytes_of = |kind: &str| {
            let mut files = shared.files.iter();
            files.find(|file| file.kind == kind).map(|file| &file.bytes)
        };
        let damaged = |problem: String| DeploymentError::Damaged {
            path: PathBuf::from(format!("{} in the store", shared.id)),
            problem,
        };
        let bytes = bytes_of(POINT).ok_or_else(|| damaged("it has no content".to_owned()))?;
        let point = OperatingPoint::parse(bytes).map_err(|cause| damaged(cause.to_string()))?;
        if point.id() != shared.id {
            return Err(damaged(format!("it holds {}", point.id())));
        }
        for (kind, path) in self.files_of(&point) {
            let folder = path.parent().unwrap_or_else(|| Path::new(""));
            if folder.parent() != Some(self.path()) {
                return Err(damaged(format!("its {kind} would be elsewhere")));
            }
            if let Some(bytes) = bytes_of(kind)
                && !path.exists()
            {
                fs::create_dir_all(folder).map_err(|cause| DeploymentError::io(folder, &cause))?;
                replace_file(&path, bytes)?;
            }
        }
        Ok(point)
    }

    /// Makes the operating point that another server has chosen the active one. If it was active before the present
    /// one, this is taken back, so that no later rollback activates what was withdrawn.
    ///
    /// # Errors
    /// Returns an error if there is no such operating point, or if the disk fails.
    pub(in crate::deployment) fn activate_shared(
        &mut self,
        id: &str,
    ) -> Result<(), DeploymentError> {
        if self.record().history.last().is_some_and(|last| last == id) {
            return self.roll_back(None).map(drop);
        }
        self.activate(id, None)
    }

    /// What an operating point consists of, and where each part is; itself last.
    fn files_of(&self, point: &OperatingPoint) -> Vec<(&'static str, PathBuf)> {
        let (id, content) = (point.id(), point.content());
        let at = |folder: &str, name: String| self.path().join(folder).join(name);
        let mut files = vec![
            (RECORDING, at(RECORDINGS, format!("{id}.json"))),
            // Under "items" stores have lists that another calibration of the same gallery may have replaced.
            (
                "items-of-point",
                at(CALIBRATED_ITEMS, format!("{id}.items")),
            ),
            ("traffic", at(CALIBRATED_TRAFFIC, format!("{id}.json"))),
        ];
        if let Some(Adjustment::Normalised { cohort, .. }) = &content.adjustment {
            files.push(("cohort", at(COHORTS, format!("{cohort}.cohort"))));
        }
        files.push((POINT, at(OPERATING_POINTS, format!("{id}.json"))));
        files
    }
}
