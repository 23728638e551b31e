//! Finds the folder for the records of a deployment: its own folder, or another one if it may not be written.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::DeploymentError;

/// A folder that only this process records in.
#[derive(Debug)]
pub(super) struct RecordsFolder {
    path: PathBuf,
    /// `None` in a deployment's own folder, which only one process may write anyway.
    _lock: Option<File>,
}

impl RecordsFolder {
    /// A deployment's own folder, which this process may write.
    pub(super) fn within(folder: &Path) -> Self {
        Self {
            path: folder.to_owned(),
            _lock: None,
        }
    }

    /// A folder below `journal_dir` for the deployment in `folder`, which is only read. If that is opened
    /// `again`, in place of one that still records, there is a second one beside it.
    ///
    /// # Errors
    /// Returns an error if another process records there, or if the disk fails.
    pub(super) fn below(
        journal_dir: &Path,
        folder: &Path,
        name: &str,
        again: bool,
    ) -> Result<Self, DeploymentError> {
        // Each deployment folder has its own records folder, because a switch opens one deployment while the
        // other is in use.
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let told_apart: String = encode_string(&digest).chars().take(8).collect();
        let path = journal_dir.join(format!("{name}-{told_apart}"));
        let failed = |cause: std::io::Error| DeploymentError::io(&path, &cause);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            // If the one before that is still closing, both are in use for a moment.
            Err(TryLockError::WouldBlock) if again => {
                return Self::below(journal_dir, folder, &format!("{name}-again"), false);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(DeploymentError::RecordsInUse { path });
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        tracing::info!(deployment = name, journal = %path.display(), "decisions are recorded outside the deployment's folder");
        Ok(Self {
            path,
            _lock: Some(lock),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
