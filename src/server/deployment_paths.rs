//! Finds the folders that are served: those of the configuration, and those below `data_dir`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::ServeError;
use super::services::snapshots;
use crate::config::ServerConfig;
use crate::deployment::{DeploymentError, Folder};

/// Resolves links, so that what is served does not change with a link.
pub(super) fn real(folder: &Path) -> Result<PathBuf, DeploymentError> {
    let missing = |cause: std::io::Error| DeploymentError::Folder {
        path: folder.to_owned(),
        problem: format!("cannot be opened: {cause}; make a deployment with `matchpoint build`"),
    };
    folder.canonicalize().map_err(missing)
}

/// A deployment that is to be served.
pub(super) struct ToServe {
    /// Its name; `None` for the one in its record.
    pub(super) name: Option<String>,
    pub(super) place: PathBuf,
    /// Whether the server must not start if this deployment cannot be served: it is configured, and was not
    /// just found below `data_dir`.
    pub(super) required: bool,
}

/// The deployments that are configured, and those below `data_dir`.
pub(super) fn all_deployments(config: &ServerConfig) -> Result<Vec<ToServe>, ServeError> {
    let configured = config.deployments.iter();
    let mut all: Vec<ToServe> = configured
        .map(|(name, place)| ToServe {
            name: name.clone(),
            place: place.clone(),
            required: true,
        })
        .collect();
    let Some(folder) = config.data_dir.as_deref().map(snapshots::deployments) else {
        return Ok(all);
    };
    let failed = |cause: std::io::Error| ServeError::DataDir {
        path: folder.clone(),
        cause,
    };
    let entries = match std::fs::read_dir(&folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let link = entry.file_type().map_err(failed)?.is_symlink();
        found.extend(DeploymentPath::new(entry.path(), link));
    }
    found.sort_unstable();
    let mut taken: BTreeSet<PathBuf> = all.iter().filter_map(|one| real(&one.place).ok()).collect();
    for place in found {
        if !taken.insert(place.leads_to) {
            // If it were opened twice, the second opening would be refused because the first one is writing to
            // it.
            let path = place.path.display();
            tracing::info!(%path, "not served by itself: a link beside it leads there, or it is configured");
        } else if place.kind != PathKind::Aside {
            all.push(ToServe {
                name: Some(place.name),
                place: place.path,
                required: false,
            });
        }
    }
    Ok(all)
}

/// A deployment below `data_dir`. The order decides which path is used if several lead to one folder.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct DeploymentPath {
    kind: PathKind,
    name: String,
    path: PathBuf,
    leads_to: PathBuf,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathKind {
    /// A link that is served, as changed by `matchpoint switch`.
    Link,
    /// A link to what was served before, or to a shadow deployment. Neither the link nor its target is served.
    Aside,
    Folder,
}

impl DeploymentPath {
    fn new(path: PathBuf, link: bool) -> Option<Self> {
        // A folder that is being made, or was left by a crash.
        let hidden = path.file_name()?.to_str()?.starts_with('.');
        if hidden {
            return None;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        let kind = match (link, ending) {
            (true, Some("previous" | "shadow")) => PathKind::Aside,
            (true, _) => PathKind::Link,
            (false, _) => PathKind::Folder,
        };
        // Without a record it is not a deployment.
        let leads_to = real(&path).ok().filter(|_| Folder::exists(&path))?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Self {
            kind,
            name,
            path,
            leads_to,
        })
    }
}
