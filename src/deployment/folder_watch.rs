//! Notices when others change the folder of a deployment that is open for reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{DeploymentError, Folder};
use crate::telemetry;
use matchpoint_gallery::Gallery;

/// Compares a folder with what was opened from it.
#[derive(Debug)]
pub(super) struct FolderWatch {
    deployment: String,
    opened: Folder,
    gallery: Arc<Gallery>,
    changed: AtomicBool,
}

impl FolderWatch {
    pub(super) fn new(deployment: &str, opened: &Folder, gallery: &Arc<Gallery>) -> Self {
        Self {
            deployment: deployment.to_owned(),
            opened: opened.clone(),
            gallery: Arc::clone(gallery),
            changed: AtomicBool::new(false),
        }
    }

    /// Looks whether items or active operating point are others there now, and says so.
    pub(super) fn look(&self) {
        // Read again in a moment.
        let Ok(changed) = self.compare() else {
            return;
        };
        if self.changed.swap(changed, Ordering::Relaxed) == changed {
            return;
        }
        self.publish();
        if changed {
            tracing::warn!(
                deployment = self.deployment,
                folder = %self.opened.path().display(),
                "the folder has changed since it was opened: reload it; until then what was opened decides, and nothing is promised"
            );
        }
    }

    /// Shows whether it has changed.
    pub(super) fn publish(&self) {
        telemetry::folder_changed(&self.deployment, self.has_changed());
    }

    /// Whether the folder had changed when it was last looked at.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn compare(&self) -> Result<bool, DeploymentError> {
        let now = Folder::open(self.opened.path())?;
        let point = |folder: &Folder| folder.record().active_operating_point.clone();
        Ok(point(&now) != point(&self.opened) || self.gallery.is_outdated()?)
    }
}
