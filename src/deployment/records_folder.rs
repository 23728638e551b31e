//! Where the records of a deployment are stored: in its folder, or elsewhere if that may not be written.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::DeploymentError;

/// A folder that only this process records in.
#[derive(Debug)]
pub(super) struct RecordsFolder {
    path: PathBuf,
    /// `None` in a deployment's own folder, whose writer is alone anyway.
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

    /// A folder below `journal_dir` for the deployment in `folder`, which is only read.
    ///
    /// # Errors
    /// Another process records there, or the disk failed.
    pub(super) fn below(
        journal_dir: &Path,
        folder: &Path,
        name: &str,
    ) -> Result<Self, DeploymentError> {
        // Each deployment's folder has its own: a switch opens one while the other is in use.
        let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let told_apart: String = encode_string(&digest).chars().take(8).collect();
        let path = journal_dir.join(format!("{name}-{told_apart}"));
        let failed = |cause: std::io::Error| DeploymentError::io(&path, &cause);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DeploymentError::Folder {
                    path,
                    problem: "is where another server records its decisions; give each server a journal_dir of its own".to_owned(),
                });
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
