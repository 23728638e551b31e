//! Snapshots in object stores, which go through a file on this machine.

use std::fs::File;
use std::path::Path;

use anyhow::Context;

use crate::deployment::{Progress, TemporaryFile, TemporaryFolder};
use matchpoint_stores::{ObjectAddress, StoreError, fetch, publish, version};

/// Has a snapshot written to a file, and uploads it as an object. `take` returns what to show, and the
/// SHA-256 that identifies the content.
pub(crate) fn publish_archive<T>(
    address: &ObjectAddress,
    progress: Progress<'_>,
    take: impl FnOnce(&Path, Progress<'_>) -> anyhow::Result<(T, String)>,
) -> anyhow::Result<T> {
    // Checked before the work; an object that appears meanwhile is noticed too.
    match version(address) {
        Err(StoreError::NotFound(_)) => {}
        Ok(_) => return Err(StoreError::Exists(address.clone()).into()),
        Err(error) => return Err(error.into()),
    }
    let folder = TemporaryFolder::new(&std::env::temp_dir().join("snapshot"))?;
    let archive = folder.path().join("snapshot");
    let (taken, sha256) = take(&archive, progress)?;
    let file =
        File::open(&archive).with_context(|| format!("cannot read {}", archive.display()))?;
    publish(&file, &sha256, address, progress)?;
    Ok(taken)
}

/// A snapshot that was fetched from a store; its file is removed when this is dropped.
pub(crate) struct FetchedArchive(TemporaryFile);

impl FetchedArchive {
    /// Fetches one to a file beside a path, or where temporary files are.
    pub(crate) fn fetch(
        address: &ObjectAddress,
        beside: Option<&Path>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Self> {
        let elsewhere = std::env::temp_dir().join("snapshot");
        let beside = std::path::absolute(beside.unwrap_or(&elsewhere))?;
        if let Some(parent) = beside.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let mut file = TemporaryFile::new(&beside)
            .with_context(|| format!("cannot write beside {}", beside.display()))?;
        fetch(address, file.file(), progress)?;
        Ok(Self(file))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}
