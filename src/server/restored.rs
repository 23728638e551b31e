//! Restores deployments that are configured by the address of a snapshot, unless they already exist on this
//! machine.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::error::ServeError;
use crate::config::ServerConfig;
use crate::deployment::{DeploymentError, Folder, TemporaryFile, check_snapshot, restore};
use matchpoint_stores::{FilePlace, StoreError, fetch, version};

/// Number of characters of a snapshot's version in the name of its folder.
const VERSION_LEN: usize = 16;

/// The configuration with a local folder in place of each address.
pub(super) fn with_folders(config: &ServerConfig) -> Result<ServerConfig, ServeError> {
    let mut config = config.clone();
    for (name, place) in &mut config.deployments {
        let address = place.clone();
        let Some(text) = address.to_str().filter(|text| text.contains("://")) else {
            continue;
        };
        // The configuration has this folder if it has an address.
        let below = config.restore_dir.clone().unwrap_or_default();
        let stem = Path::new(text).file_stem().and_then(|stem| stem.to_str());
        let called = name.as_deref().or(stem).unwrap_or("deployment");
        *place = restored(
            &FilePlace::parse(&address).map_err(StoreError::from)?,
            &below,
            called,
        )?;
    }
    Ok(config)
}

/// The folder of a snapshot, which is restored now unless it already was.
fn restored(from: &FilePlace, below: &Path, name: &str) -> Result<PathBuf, ServeError> {
    let mut step = |_, _| ControlFlow::Continue(());
    let version = match from {
        FilePlace::Object(address) => version(address)?,
        FilePlace::File(archive) => check_snapshot(archive, &mut step)?.1,
    };
    let version = version.get(..VERSION_LEN).unwrap_or(&version);
    let folder = below.join(format!("{name}-{version}"));
    if Folder::exists(&folder) {
        tracing::info!(folder = %folder.display(), "this snapshot was restored before");
        return Ok(folder);
    }
    let failed = |cause: std::io::Error| DeploymentError::Io {
        path: folder.clone(),
        cause: cause.to_string(),
    };
    std::fs::create_dir_all(below).map_err(failed)?;
    let mut fetched;
    let archive = match from {
        FilePlace::File(archive) => archive,
        FilePlace::Object(address) => {
            tracing::info!(%address, folder = %folder.display(), "a snapshot is fetched");
            fetched = TemporaryFile::new(&folder).map_err(failed)?;
            fetch(address, fetched.file(), &mut step)?;
            fetched.path()
        }
    };
    let report = restore(archive, &folder, &|_| Ok(None), &mut step)?;
    tracing::info!(folder = %folder.display(), bytes = report.bytes, items = report.items, "a snapshot is restored");
    Ok(folder)
}
