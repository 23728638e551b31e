//! Snapshots: a deployment in one file, taken while it serves, and restored.
//!
//! A snapshot contains the record, the items, every operating point with its recording, and the cohorts:
//! everything that answers and decisions depend on, except the model, which is identified by its fingerprint.
//! The index is derived from the items; it is included on request, so that a server of a copy need not build
//! it. A snapshot is verified before it is packed, and a restored deployment before it gets its name.

pub(super) mod archive;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

use self::archive::{ArchiveDigest, ArchiveError};
use crate::deployment::folder::{GALLERY_FILE, OPERATING_POINTS, RECORD_FILE};
use crate::deployment::points::files::{CALIBRATED_ITEMS, CALIBRATED_TRAFFIC, COHORTS, RECORDINGS};
use crate::deployment::temporary::{TemporaryFolder, publish};
use crate::deployment::{DeploymentError, Folder, ModelReference};
use matchpoint_calibration::adjustment::Adjustment;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery, copy_items};

pub use self::archive::Progress;

const INDEX: &str = "items.graph";
/// Folders whose files are part of a snapshot, with the suffix of these files.
const KEPT: [(&str, &str); 5] = [
    (OPERATING_POINTS, "json"),
    (RECORDINGS, "json"),
    (COHORTS, "cohort"),
    (CALIBRATED_ITEMS, "items"),
    (CALIBRATED_TRAFFIC, "json"),
];

/// A description of a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotReport {
    /// The archive.
    pub archive: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its `SHA256SUMS`, which identifies the content: 64 hexadecimal digits.
    pub sha256: String,
    /// Name of the deployment.
    pub deployment: String,
    /// Name of the model that embedded the items.
    pub model: String,
    /// Its fingerprint.
    pub model_fingerprint: String,
    /// Number of items.
    pub items: usize,
    /// Number of labels.
    pub labels: usize,
    /// The gallery's generation.
    pub generation: u64,
    /// Digest of the items.
    pub gallery_digest: String,
    /// Number of operating points.
    pub operating_points: usize,
    /// Id of the active operating point, if there is one.
    pub active_operating_point: Option<String>,
    /// Whether the snapshot has an index.
    pub index: PackedIndex,
}

/// The index of a snapshot or of a restored deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PackedIndex {
    /// There is no index. The server builds one if there are enough items.
    None,
    /// It is included and matches the items.
    Whole,
    /// The snapshot has an index that was left out, because the server would have to build it again; with the
    /// reason.
    LeftOut(String),
}

impl Folder {
    /// Takes a snapshot, also of a deployment that another process serves and changes meanwhile.
    ///
    /// Until it is done it needs space for a second copy of the items in addition to the archive.
    ///
    /// # Errors
    /// Returns an error if an archive of this name exists, if the deployment or its index is damaged, if the
    /// disk fails, or if the work was stopped.
    pub fn take_snapshot(
        &self,
        to: &Path,
        with_index: bool,
        progress: Progress<'_>,
    ) -> Result<SnapshotReport, DeploymentError> {
        if to.symlink_metadata().is_ok() {
            return Err(ArchiveError::Exists(to.to_owned()).into());
        }
        let copy = TemporaryFolder::new(to)?;
        let copied = copy.path();
        // The record is copied first, because the files that it names exist and never change.
        self.copy_record(&copied.join(RECORD_FILE))?;
        copy_items(&self.gallery_file(), &copied.join(GALLERY_FILE))?;
        let mut names = BTreeSet::from([RECORD_FILE.to_owned(), GALLERY_FILE.to_owned()]);
        // The index is only ever replaced as a whole, and it can only be used with the items whose checksums it
        // contains.
        let index = Gallery::index_file(&self.gallery_file());
        if with_index && index.is_file() {
            link_or_copy(&index, &copied.join(INDEX))?;
            names.insert(INDEX.to_owned());
        }
        for (folder, _) in KEPT {
            let into = copied.join(folder);
            fs::create_dir(&into).map_err(|cause| DeploymentError::io(&into, &cause))?;
            // A file that is still being written has another suffix.
            let kept = list(&self.path().join(folder))?.into_iter();
            names.extend(
                kept.map(|name| format!("{folder}/{name}"))
                    .filter(|name| belongs(name)),
            );
        }
        for name in names.iter().filter(|name| name.contains('/')) {
            link_or_copy(&self.path().join(name), &copied.join(name))?;
        }
        let found = examine(&Folder::open(copied)?)?;
        if let PackedIndex::LeftOut(problem) = &found.index {
            return Err(DeploymentError::Folder {
                path: index,
                problem: format!(
                    "cannot be packed: {problem}; `matchpoint compact` builds it again, or take the snapshot without it"
                ),
            });
        }
        let packed = copied.join("packed");
        let digest = archive::pack(copied, &names, &packed, progress)
            .map_err(|cause| ArchiveError::of(to, "write", cause))?;
        publish(&packed, to).map_err(|cause| {
            if cause.kind() == io::ErrorKind::AlreadyExists {
                return ArchiveError::Exists(to.to_owned());
            }
            ArchiveError::of(to, "write", cause)
        })?;
        Ok(found.of(to, digest))
    }

    /// Lists files of the folder that belong to nothing: files left by a crash, and recordings or cohorts
    /// without an operating point.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn orphans(&self, points: &[OperatingPoint]) -> Result<Vec<String>, DeploymentError> {
        let mut belong = BTreeSet::new();
        for point in points {
            belong.insert(format!("{OPERATING_POINTS}/{}.json", point.id()));
            belong.insert(format!("{RECORDINGS}/{}.json", point.id()));
            belong.insert(format!("{CALIBRATED_TRAFFIC}/{}.json", point.id()));
            belong.insert(format!("{CALIBRATED_ITEMS}/{}.items", point.id()));
            let adjustment = point.content().adjustment.as_ref();
            if let Some(cohort) = adjustment.and_then(Adjustment::cohort) {
                belong.insert(format!("{COHORTS}/{cohort}.cohort"));
            }
        }
        let mut orphans = Vec::new();
        for folder in std::iter::once("").chain(KEPT.map(|(folder, _)| folder)) {
            let names = list(&self.path().join(folder))?;
            let is_known = |name: &str| match folder {
                "" => !name.ends_with(".tmp"),
                _ => belong.contains(&format!("{folder}/{name}")),
            };
            let names = names.into_iter().filter(|name| !is_known(name));
            orphans.extend(names.map(|name| match folder {
                "" => name,
                _ => format!("{folder}/{name}"),
            }));
        }
        Ok(orphans)
    }

    /// Lists damaged files of monitoring that a server has set aside.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn set_aside(&self) -> Result<Vec<String>, DeploymentError> {
        let mut names = list(self.path())?;
        names.retain(|name| name.contains(".damaged-"));
        Ok(names)
    }
}

/// Copies a file that never changes, by a link if possible.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), DeploymentError> {
    fs::hard_link(from, to)
        .or_else(|_no_links_here| fs::copy(from, to).map(drop))
        .map_err(|cause| DeploymentError::io(from, &cause))
}

/// The names of files in a folder; none if there is no folder.
fn list(folder: &Path) -> Result<Vec<String>, DeploymentError> {
    let failed = |cause: io::Error| DeploymentError::io(folder, &cause);
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        names.extend(name.filter(|_| path.is_file()).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// Finds the folder of the model that embedded a snapshot's items; `None` to use the folder in its record.
pub type PlaceOfModel<'a> = &'a dyn Fn(&ModelReference) -> Result<Option<PathBuf>, DeploymentError>;

/// Makes a new deployment at `into` from a snapshot. `into` must not exist or must be an empty folder.
///
/// A snapshot is untrusted data, so anything unexpected in it is refused. Its record names a model folder of
/// the machine where it was taken; a caller that does not trust it gives another by `model`.
///
/// # Errors
/// Returns an error if `into` is not empty, if the archive or its content is damaged or does not belong to a
/// deployment, if `model` refuses, if the disk fails, or if the work was stopped.
pub fn restore(
    archive: &Path,
    into: &Path,
    model: PlaceOfModel<'_>,
    progress: Progress<'_>,
) -> Result<SnapshotReport, DeploymentError> {
    let taken = || DeploymentError::Folder {
        path: into.to_owned(),
        problem: "exists and is not empty; restore to another, or remove it".to_owned(),
    };
    let is_free = match fs::read_dir(into) {
        Ok(mut entries) => entries.next().is_none(),
        Err(cause) => cause.kind() == io::ErrorKind::NotFound,
    };
    if !is_free {
        return Err(taken());
    }
    let into = std::path::absolute(into).map_err(|cause| DeploymentError::io(into, &cause))?;
    let parent = into.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|cause| DeploymentError::io(parent, &cause))?;
    let unpacked = TemporaryFolder::new(&into)?;
    let digest = archive::read(archive, Some(unpacked.path()), belongs, progress)
        .map_err(|cause| ArchiveError::of(archive, "unpack", cause))?;
    let mut folder = Folder::open(unpacked.path())?;
    let written = archive::within(unpacked.path())
        .map_err(|cause| DeploymentError::io(unpacked.path(), &cause))?;
    let found = sync_and_examine(&folder, &written)?;
    if let PackedIndex::LeftOut(problem) = &found.index {
        let index = unpacked.path().join(INDEX);
        tracing::warn!(
            problem,
            "the snapshot has no index: the server that serves it builds one"
        );
        fs::remove_file(&index).map_err(|cause| DeploymentError::io(&index, &cause))?;
    }
    let place = model(&folder.record().model)?;
    folder.set_origin(&digest.sha256, place)?;
    fs::rename(unpacked.path(), &into).map_err(|cause| {
        use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
        if matches!(cause.kind(), AlreadyExists | DirectoryNotEmpty) {
            return taken();
        }
        DeploymentError::io(&into, &cause)
    })?;
    archive::sync(parent).map_err(|cause| DeploymentError::io(parent, &cause))?;
    Ok(found.of(archive, digest))
}

/// Verifies a folder that was just written, while the disk stores its files.
fn sync_and_examine(
    folder: &Folder,
    written: &[PathBuf],
) -> Result<SnapshotReport, DeploymentError> {
    let sync = || archive::sync_all(written);
    let (synced, found) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("syncing".to_owned());
        let syncing = thread.spawn_scoped(scope, sync);
        let found = examine(folder);
        let synced = match syncing {
            Ok(syncing) => syncing
                .join()
                .unwrap_or_else(|_panicked| Err(io::ErrorKind::Other.into())),
            // The system cannot start a thread.
            Err(_) => sync(),
        };
        (synced, found)
    });
    // This is checked first, because data that the disk did not store can look like damage.
    synced.map_err(|cause| DeploymentError::io(folder.path(), &cause))?;
    found
}

/// Whether a file of this name is part of a snapshot.
fn belongs(name: &str) -> bool {
    let path = Path::new(name);
    let in_folder = |(folder, ending): (&str, &str)| {
        path.parent() == Some(Path::new(folder))
            && path.extension().is_some_and(|found| found == ending)
    };
    [RECORD_FILE, GALLERY_FILE, INDEX].contains(&name) || KEPT.into_iter().any(in_folder)
}

/// Reads all of a snapshot and compares it with its checksums; writes nothing. Returns its length and the
/// SHA-256 that identifies its content, as in [`SnapshotReport`].
///
/// # Errors
/// Returns an error if it is not a snapshot or is damaged.
pub fn check_snapshot(
    archive: &Path,
    progress: Progress<'_>,
) -> Result<(u64, String), DeploymentError> {
    let digest = archive::read(archive, None, belongs, progress)
        .map_err(|cause| ArchiveError::of(archive, "read", cause))?;
    Ok((digest.bytes, digest.sha256))
}

/// Describes a folder after verifying all of it. Its archive is not known yet.
fn examine(folder: &Folder) -> Result<SnapshotReport, DeploymentError> {
    let (gallery, index) = open_to_examine(&folder.gallery_file())?;
    folder.check_gallery(gallery.id())?;
    let points = folder.operating_points()?;
    for point in &points {
        folder.adjuster(point)?;
    }
    folder.active_operating_point()?;
    let (record, state) = (folder.record(), gallery.view());
    Ok(SnapshotReport {
        archive: PathBuf::new(),
        bytes: 0,
        sha256: String::new(),
        deployment: record.name.clone(),
        model: record.model.name.clone(),
        model_fingerprint: record.model.fingerprint.clone(),
        items: state.len(),
        labels: state.label_count(),
        generation: state.generation(),
        gallery_digest: state.digest(),
        operating_points: points.len(),
        active_operating_point: record.active_operating_point.clone(),
        index,
    })
}

/// Opens a gallery and verifies it, with its index if that is valid and otherwise without one.
fn open_to_examine(items: &Path) -> Result<(Gallery, PackedIndex), DeploymentError> {
    let mut index = PackedIndex::None;
    if Gallery::index_file(items).exists() {
        match Gallery::open_with_its_index(items, IndexParams::default()) {
            Ok(gallery) => return Ok((gallery, PackedIndex::Whole)),
            Err(GalleryError::IndexFile { what, .. }) => index = PackedIndex::LeftOut(what),
            Err(error) => return Err(error.into()),
        }
    }
    let no_graph = IndexParams {
        graph_from_items: usize::MAX,
        ..IndexParams::default()
    };
    Ok((Gallery::open(items, Access::ReadOnly, no_graph)?, index))
}

impl SnapshotReport {
    /// The same description with another archive name.
    #[must_use]
    pub fn called(self, archive: PathBuf) -> Self {
        Self { archive, ..self }
    }

    fn of(self, archive: &Path, digest: ArchiveDigest) -> Self {
        Self {
            archive: archive.to_owned(),
            bytes: digest.bytes,
            sha256: digest.sha256,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    #[test]
    fn a_snapshot_that_brings_anything_else_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for foreign in [
            "model/model.onnx",
            "items.graph.tmp",
            "recordings/a.onnx",
            "recordings/a.cohort",
            "cohorts/a/b.cohort",
        ] {
            let source = tempfile::tempdir().unwrap();
            let names = BTreeSet::from([RECORD_FILE, GALLERY_FILE, foreign].map(str::to_owned));
            for name in &names {
                let path = source.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "x").unwrap();
            }
            let archive = at("a.snapshot");
            let step = &mut |_, _| ControlFlow::Continue(());
            archive::pack(source.path(), &names, &archive, step).unwrap();
            let refused = restore(&archive, &at("made"), &|_| Ok(None), step).unwrap_err();
            assert!(refused.to_string().contains(foreign), "{refused}");
            check_snapshot(&archive, step).unwrap_err();
            fs::remove_file(&archive).unwrap();
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_index_that_is_not_that_of_the_items_is_left_out_of_what_is_restored() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let model = ModelReference {
            name: "x".to_owned(),
            fingerprint: "fingerprint".to_owned(),
            folder: PathBuf::new(),
            precision: None,
            vectors: Some(2),
        };
        let folder = Folder::prepare(&at("source"), "shop", model).unwrap();
        let id = &folder.record().gallery_id;
        drop(Gallery::create(&folder.gallery_file(), 2, "fingerprint", id).unwrap());
        folder.save().unwrap();
        fs::write(at("source").join(INDEX), "no index").unwrap();
        let step = &mut |_, _| ControlFlow::Continue(());
        let refused = folder.take_snapshot(&at("a"), true, step).unwrap_err();
        assert!(
            refused.to_string().contains("cannot be packed"),
            "{refused}"
        );
        assert!(!at("a").exists());

        let names = BTreeSet::from([RECORD_FILE, GALLERY_FILE, INDEX].map(str::to_owned));
        archive::pack(&at("source"), &names, &at("b"), step).unwrap();
        let made = restore(&at("b"), &at("made"), &|_| Ok(None), step).unwrap();
        assert!(matches!(made.index, PackedIndex::LeftOut(_)), "{made:?}");
        assert!(!at("made").join(INDEX).exists());
    }

    #[test]
    fn a_disk_that_fails_is_named_before_what_looks_damaged() {
        let root = tempfile::tempdir().unwrap();
        let model = ModelReference {
            name: "x".to_owned(),
            fingerprint: "fingerprint".to_owned(),
            folder: PathBuf::new(),
            precision: None,
            vectors: Some(2),
        };
        let folder = Folder::prepare(&root.path().join("made"), "shop", model).unwrap();
        let damaged = sync_and_examine(&folder, &[]).unwrap_err();
        assert!(matches!(damaged, DeploymentError::Gallery(_)), "{damaged}");
        let named = sync_and_examine(&folder, &[root.path().join("gone")]).unwrap_err();
        assert!(!matches!(named, DeploymentError::Gallery(_)), "{named}");
    }

    #[test]
    fn every_file_that_is_packed_belongs_to_a_snapshot() {
        let names = [
            RECORD_FILE,
            GALLERY_FILE,
            INDEX,
            "operating-points/op-1.json",
            "recordings/op-1.json",
            "cohorts/ab.cohort",
        ];
        assert!(names.into_iter().all(belongs));
    }
}
