//! The folder of a deployment: `deployment.json`, and the path of the gallery's file.
//!
//! `deployment.json` records which parts belong together. It is replaced as a whole (write a temporary file,
//! sync, rename, sync the folder) and has its own checksum. Operating points are named by a hash of their
//! content.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DeploymentError;
use crate::clock::now_rfc_3339;
use crate::files::{read_file, replace_file};
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery, remove_unfinished};

/// Version of the folder's layout that this build writes and reads.
const FORMAT: u32 = 1;
/// The file of the gallery.
pub(super) const GALLERY_FILE: &str = "items.db";
pub(super) const RECORD_FILE: &str = "deployment.json";
pub(super) const OPERATING_POINTS: &str = "operating-points";
/// The number of earlier active operating points that can be restored.
const HISTORY_MAX: usize = 50;
/// The highest size of the record in bytes; a larger file was not written by this program.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// The parts of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the folder's layout.
    pub format: u32,
    /// The name that it is served under, unless the server is given another.
    pub name: String,
    /// When it was made, as an RFC 3339 time in UTC.
    pub created: String,
    /// The one model that embeds its items.
    pub model: ModelReference,
    /// Id of its gallery.
    pub gallery_id: String,
    /// Id of the active operating point.
    pub active_operating_point: Option<String>,
    /// The number of times that the active operating point has changed, which is the etag.
    pub activations: u64,
    /// The ids of operating points that were active before, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<String>,
    /// The SHA-256 of the snapshot that this was restored from, which marks it as a copy; `None` if it was
    /// built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
}

/// The model that embeds the items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelReference {
    /// The model's name.
    pub name: String,
    /// The model's fingerprint, which has to match.
    pub fingerprint: String,
    /// The model's folder when the deployment was built, which is only a hint. Empty if there is none.
    pub folder: PathBuf,
    /// The precision of the model; `None` for its own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// The number of components of vectors that are made elsewhere; `None` if a model makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    record: Record,
    /// SHA-256 of the record as compact JSON.
    sha256: String,
}

/// An open deployment folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    record: Record,
}

impl Folder {
    /// Whether there is a deployment at this path.
    #[must_use]
    pub fn exists(path: &Path) -> bool {
        // A record that cannot be looked at is not taken for none.
        let found = path.join(RECORD_FILE).try_exists();
        found.unwrap_or(true)
    }

    /// Makes the folder of a new deployment without its record, which [`Folder::save`] adds last. The folder
    /// may exist, but must not contain a deployment.
    ///
    /// # Errors
    /// Returns an error if the name cannot be used in requests, if there is a deployment already, or if the
    /// disk fails.
    pub(super) fn prepare(
        path: &Path,
        name: &str,
        model: ModelReference,
    ) -> Result<Self, DeploymentError> {
        check_name(name)?;
        if Self::exists(path) {
            return Err(DeploymentError::Folder {
                path: path.to_owned(),
                problem: "holds a deployment already".to_owned(),
            });
        }
        let points = path.join(OPERATING_POINTS);
        fs::create_dir_all(&points).map_err(|cause| DeploymentError::io(&points, &cause))?;
        let record = Record {
            format: FORMAT,
            name: name.to_owned(),
            created: now_rfc_3339(),
            model,
            gallery_id: uuid::Uuid::now_v7().to_string(),
            active_operating_point: None,
            activations: 0,
            history: Vec::new(),
            restored_from: None,
        };
        let folder = Self {
            path: path.to_owned(),
            record,
        };
        folder.remove_unfinished_gallery()?;
        Ok(folder)
    }

    /// Opens a deployment folder and verifies its record.
    ///
    /// # Errors
    /// Returns an error if there is no deployment, if the record was changed or damaged, or if the layout has
    /// another version.
    pub fn open(path: &Path) -> Result<Self, DeploymentError> {
        let file = path.join(RECORD_FILE);
        let damaged = |problem: String| DeploymentError::Damaged {
            path: file.clone(),
            problem,
        };
        let length = match fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Err(DeploymentError::Folder {
                    path: path.to_owned(),
                    problem: format!(
                        "holds no deployment (there is no {RECORD_FILE}); make one with `matchpoint build`"
                    ),
                });
            }
            Err(cause) => return Err(DeploymentError::io(&file, &cause)),
        };
        if length > RECORD_BYTES_MAX {
            return Err(damaged(format!(
                "it has {length} bytes, which no record has"
            )));
        }
        let text = read_file(&file).map_err(|cause| DeploymentError::io(&file, &cause))?;
        check_format(&text).map_err(&damaged)?;
        let sealed: Sealed =
            serde_json::from_slice(&text).map_err(|cause| damaged(cause.to_string()))?;
        if seal(&sealed.record)? != sealed.sha256 {
            return Err(damaged(
                "its checksum does not match its content".to_owned(),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            record: sealed.record,
        })
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record of the deployment.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Records the snapshot that this was restored from, and the model's folder on this machine if it is not
    /// the recorded one.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub(super) fn set_origin(
        &mut self,
        snapshot: &str,
        model: Option<PathBuf>,
    ) -> Result<(), DeploymentError> {
        self.record.restored_from = Some(snapshot.to_owned());
        if let Some(model) = model {
            self.record.model.folder = model;
        }
        self.save()
    }

    /// Tells this folder from all others, also from its copies.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub(super) fn identity(&self) -> Result<String, DeploymentError> {
        let failed = |cause| DeploymentError::io(&self.path, &cause);
        let about = fs::metadata(&self.path).map_err(failed)?;
        let created = about.created().ok();
        let created = created.and_then(|created| created.duration_since(UNIX_EPOCH).ok());
        Ok(match created {
            Some(created) => format!("{} {}", about.ino(), created.as_nanos()),
            // Not every file system knows when it was made.
            None => {
                let path = fs::canonicalize(&self.path).map_err(failed)?;
                format!("{} {}", about.ino(), path.display())
            }
        })
    }

    /// The path of the gallery's file.
    #[must_use]
    pub fn gallery_file(&self) -> PathBuf {
        self.path.join(GALLERY_FILE)
    }

    /// Checks that a gallery is the one that belongs to this deployment.
    ///
    /// # Errors
    /// Returns an error if it belongs to another deployment.
    pub fn check_gallery(&self, id: &str) -> Result<(), DeploymentError> {
        if id == self.record.gallery_id {
            return Ok(());
        }
        Err(DeploymentError::GalleryMismatch {
            path: self.gallery_file(),
            expected: self.record.gallery_id.clone(),
            found: id.to_owned(),
        })
    }

    /// Opens the items for reading, also while the deployment is served. Searches in them use no index.
    ///
    /// # Errors
    /// Returns an error if the items are missing or damaged, or belong to another deployment.
    pub fn open_items(&self) -> Result<Gallery, DeploymentError> {
        let params = IndexParams {
            graph_from_items: usize::MAX,
            ..IndexParams::default()
        };
        let gallery = Gallery::open(&self.gallery_file(), Access::ReadOnly, params)?;
        self.check_gallery(gallery.id())?;
        Ok(gallery)
    }

    /// Makes `id` the active operating point.
    ///
    /// # Errors
    /// Returns an error if the etag is out of date, if there is no such operating point, or if the disk fails.
    pub fn activate(&mut self, id: &str, etag: Option<&str>) -> Result<(), DeploymentError> {
        self.check_etag(etag)?;
        self.operating_point(id)?;
        let before = self.record.clone();
        let last = self.record.active_operating_point.replace(id.to_owned());
        if let Some(last) = last.filter(|last| last != id) {
            self.record.history.push(last);
            let excess = self.record.history.len().saturating_sub(HISTORY_MAX);
            self.record.history.drain(..excess);
        }
        self.record.activations += 1;
        self.save().inspect_err(|_| self.record = before)
    }

    /// Activates the operating point that was active before the present one, which is removed from the
    /// history but stays stored. Returns its id.
    ///
    /// # Errors
    /// Returns an error if the etag is out of date, if there was no earlier operating point, or if the disk
    /// fails.
    pub fn roll_back(&mut self, etag: Option<&str>) -> Result<String, DeploymentError> {
        let earlier = self.record.history.last().cloned();
        let id = earlier.ok_or(DeploymentError::NothingToRollBackTo)?;
        self.check_etag(etag)?;
        self.operating_point(&id)?;
        let before = self.record.clone();
        self.record.history.pop();
        self.record.active_operating_point = Some(id.clone());
        self.record.activations += 1;
        self.save().inspect_err(|_| self.record = before)?;
        Ok(id)
    }

    /// Deactivates the operating point, so that nothing is accepted any more.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn deactivate(&mut self) -> Result<(), DeploymentError> {
        let before = self.record.clone();
        self.record.active_operating_point = None;
        self.record.activations += 1;
        self.save().inspect_err(|_| self.record = before)
    }

    /// The etag of the active operating point.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("activation-{}", self.record.activations)
    }

    pub(super) fn check_etag(&self, etag: Option<&str>) -> Result<(), DeploymentError> {
        let present = self.etag();
        match etag.filter(|etag| *etag != present) {
            None => Ok(()),
            Some(etag) => Err(DeploymentError::EtagMismatch {
                sent: etag.to_owned(),
                present,
            }),
        }
    }

    /// Removes the empty gallery that a crash leaves while a deployment is being made. A gallery with items has
    /// lost its record, and stays.
    fn remove_unfinished_gallery(&self) -> Result<(), DeploymentError> {
        let removed = remove_unfinished(&self.gallery_file());
        if let Err(GalleryError::Exists { .. }) = removed {
            return Err(DeploymentError::Folder {
                path: self.path.clone(),
                problem: format!(
                    "holds a gallery ({GALLERY_FILE}) without its {RECORD_FILE}; restore that file \
                     from a backup, or move {GALLERY_FILE} away to begin again without its items"
                ),
            });
        }
        Ok(removed?)
    }

    /// Writes the record, completely or not at all.
    pub(super) fn save(&self) -> Result<(), DeploymentError> {
        self.copy_record(&self.path.join(RECORD_FILE))
    }

    /// Writes the record to a file, in place of the existing one.
    pub(super) fn copy_record(&self, path: &Path) -> Result<(), DeploymentError> {
        let sealed = Sealed {
            sha256: seal(&self.record)?,
            record: self.record.clone(),
        };
        let text =
            serde_json::to_vec_pretty(&sealed).map_err(|cause| DeploymentError::Damaged {
                path: path.to_owned(),
                problem: cause.to_string(),
            })?;
        Ok(replace_file(path, &text)?)
    }
}

/// Checks a name, which is used in requests, metrics and paths.
pub(super) fn check_name(name: &str) -> Result<(), DeploymentError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Names of temporary folders start with a dot.
    let hidden = name.starts_with('.');
    if name.is_empty() || hidden || name.len() > 64 || !name.chars().all(allowed) {
        return Err(DeploymentError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Checks the version first, so that a record of a later version is refused because of its version and not
/// because of unknown fields.
fn check_format(text: &[u8]) -> Result<(), String> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    match value
        .pointer("/record/format")
        .and_then(serde_json::Value::as_u64)
    {
        Some(format) if format == u64::from(FORMAT) => Ok(()),
        Some(format) => Err(format!(
            "it has layout version {format}, and this build reads version {FORMAT}; use the Matchpoint that wrote it"
        )),
        None => Err("it states no layout version".to_owned()),
    }
}

fn seal(record: &Record) -> Result<String, DeploymentError> {
    let text = serde_json::to_vec(record).map_err(|cause| DeploymentError::Damaged {
        path: PathBuf::from(RECORD_FILE),
        problem: cause.to_string(),
    })?;
    Ok(encode_string(&Sha256::digest(&text)))
}
