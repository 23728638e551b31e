//! Makes a deployment of all shards of a source, or adds them to an existing one. Nothing is embedded, and all
//! data are verified.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::shard::{
    MANIFEST, SHARD_ITEMS, Shard, ShardManifest, belongs_to_shard, refused_as_shard,
};
use crate::deployment::backup::archive::{self, ArchiveError, Progress};
use crate::deployment::enrolment::refused::RefusedItem;
use crate::deployment::temporary::TemporaryFolder;
use crate::deployment::{DeploymentError, Folder};
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::merge::{GalleryMerge, MergedGallery, TakenItems, digest_together};

/// The highest number of missing shards that are named.
const NAMED_MAX: usize = 20;
/// How often progress is reported while a shard is unpacked.
const STEP: Duration = Duration::from_millis(100);

/// The settings of a merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeSettings<'a> {
    /// Archives of shards, or folders with such archives.
    pub shards: &'a [PathBuf],
    /// The deployment's folder.
    pub deployment: &'a Path,
    /// Whether to add to an existing deployment instead of making a new one.
    pub into: bool,
    /// The name of a new deployment, if it differs from that of its folder.
    pub name: Option<&'a str>,
    /// The model's folder on this machine, if it differs from the one on the machine that built the shards.
    pub model: Option<&'a Path>,
}

/// The result of a merge.
#[derive(Clone, Debug, Serialize)]
pub struct MergeReport {
    /// The deployment's folder.
    pub deployment: PathBuf,
    /// Number of shards.
    pub shards: usize,
    /// SHA-256 of the list that the shards were built from.
    pub list_sha256: String,
    /// Name of the model that embedded the items.
    pub model: String,
    /// Its fingerprint.
    pub model_fingerprint: String,
    /// Number of items whose id was new.
    pub inserted: usize,
    /// Number of items that replaced another item with the same id.
    pub replaced: usize,
    /// Number of items that already existed with identical content.
    pub unchanged: usize,
    /// Rows of the list that could not be used when the shards were built, with the reasons.
    pub failed: Vec<RefusedItem>,
    /// Number of items in the gallery now.
    pub items: usize,
    /// Digest of the gallery's content: the same items give the same digest.
    pub gallery_digest: String,
    /// The labels in the shards.
    #[serde(skip)]
    pub labels: BTreeSet<String>,
}

/// The archives of one set, each with its manifest, in order of their numbers.
struct ShardSet {
    shards: Vec<ShardArchive>,
}

struct ShardArchive {
    path: PathBuf,
    manifest: ShardManifest,
}

/// Makes a deployment of all shards of a source, or adds them to an existing one. All shards are taken or none,
/// even if the process crashes.
///
/// # Errors
/// Returns an error if a shard is missing, repeated, damaged, or belongs to another list, model or number of
/// shards; if the deployment already exists, or does not exist when it should be added to; if the disk fails;
/// or if the work was stopped.
pub fn merge(
    settings: MergeSettings<'_>,
    progress: Progress<'_>,
) -> Result<MergeReport, DeploymentError> {
    let set = ShardSet::read(settings.shards)?;
    if settings.into {
        return set.add_to(&settings, progress);
    }
    set.make(&settings, progress)
}

impl ShardSet {
    fn read(paths: &[PathBuf]) -> Result<Self, DeploymentError> {
        let mut shards = Vec::new();
        for path in paths {
            for path in archives_at(path)? {
                let manifest = ShardManifest::read(&path)?;
                shards.push(ShardArchive { path, manifest });
            }
        }
        // The order of the arguments has no effect.
        shards.sort_by(|a, b| (a.index(), &a.path).cmp(&(b.index(), &b.path)));
        let set = Self { shards };
        set.check()?;
        Ok(set)
    }

    fn first(&self) -> Result<&ShardArchive, DeploymentError> {
        self.shards
            .first()
            .ok_or_else(|| DeploymentError::Argument {
                argument: "SHARDS",
                problem: "name no shard".to_owned(),
            })
    }

    /// Checks that all shards belong to one source, and that each occurs once.
    fn check(&self) -> Result<(), DeploymentError> {
        let first = self.first()?;
        for shard in &self.shards {
            if let Some(problem) = shard.manifest.differs_from(&first.manifest, &first.path) {
                return Err(shard.refused(&format!(
                    "{problem}; they are no parts of one gallery: leave out what does not belong to it, or build that shard again"
                )));
            }
        }
        for pair in self.shards.windows(2) {
            if let [one, other] = pair
                && one.index() == other.index()
            {
                let (one, shard) = (one.path.display(), other.manifest.source.shard);
                return Err(other.refused(&format!(
                    "is shard {shard}, and so is {one}; leave one of them out"
                )));
            }
        }
        let there: BTreeSet<u32> = self.shards.iter().map(ShardArchive::index).collect();
        let of = first.manifest.source.shard.of();
        let missing: Vec<String> = (0..of)
            .filter(|index| !there.contains(index))
            .filter_map(|index| Shard::new(index, of).ok())
            .map(|shard| shard.to_string())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let named: Vec<&str> = missing.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = if NAMED_MAX < missing.len() {
            ", …"
        } else {
            ""
        };
        Err(first.refused(&format!(
            "is one of {of} shards, and {} of them are missing: {}{more}; build each by `matchpoint build` with --shard",
            missing.len(),
            named.join(", ")
        )))
    }

    fn make(
        &self,
        settings: &MergeSettings<'_>,
        progress: Progress<'_>,
    ) -> Result<MergeReport, DeploymentError> {
        let into = settings.deployment;
        let taken = || {
            DeploymentError::Folder {
            path: into.to_owned(),
            problem: "exists already; choose another folder, or say --into to add to the deployment in it".to_owned(),
        }
        };
        if into.symlink_metadata().is_ok() {
            return self.made_before(settings)?.ok_or_else(taken);
        }
        let into = std::path::absolute(into).map_err(|cause| DeploymentError::io(into, &cause))?;
        let parent = into.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|cause| DeploymentError::io(parent, &cause))?;
        let made = TemporaryFolder::new(&into)?;
        let first = self.first()?;
        let mut model = first.manifest.model.clone();
        if let Some(folder) = settings.model {
            model.folder = folder
                .canonicalize()
                .map_err(|cause| DeploymentError::io(folder, &cause))?;
        }
        let name = into.file_name().and_then(|name| name.to_str());
        let name = settings.name.or(name).unwrap_or("default");
        let folder = Folder::prepare(made.path(), name, model)?;
        let (items, id) = (folder.gallery_file(), &folder.record().gallery_id);
        let ShardManifest {
            dimension, model, ..
        } = &first.manifest;
        let mut gallery = GalleryMerge::create(&items, *dimension, &model.fingerprint, id)?;
        let totals = self.take_all(&mut gallery, &into, progress)?;
        let gallery = gallery.finish()?;
        if self.digest().as_ref() != Some(&gallery.digest) {
            return Err(first.refused(
                "and the other shards hold items whose digests do not add up to that of all of them: an id is in two shards; build them again",
            ));
        }
        folder.save()?;
        made.publish(&into).map_err(|cause| {
            if cause.kind() == std::io::ErrorKind::AlreadyExists {
                return taken();
            }
            DeploymentError::io(&into, &cause)
        })?;
        self.report(settings, totals, gallery)
    }

    /// The digest of the items in all shards.
    fn digest(&self) -> Option<String> {
        let digests = self.shards.iter().map(|one| &*one.manifest.digest);
        digest_together(&digests.collect::<Vec<_>>())
    }

    /// The report for a deployment that already consists of exactly these shards. This happens if a task is
    /// started again after its last step, and works also if the deployment is served meanwhile. `None` for any
    /// other deployment; a damaged one is an error.
    fn made_before(
        &self,
        settings: &MergeSettings<'_>,
    ) -> Result<Option<MergeReport>, DeploymentError> {
        if !Folder::exists(settings.deployment) {
            return Ok(None);
        }
        let folder = Folder::open(settings.deployment)?;
        if folder.record().model.fingerprint != self.first()?.manifest.model.fingerprint {
            return Ok(None);
        }
        let digest = self.digest().unwrap_or_default();
        let found = match MergedGallery::with_digest(&folder.gallery_file(), &digest) {
            Err(GalleryError::NotFound { .. }) => None,
            found => found?,
        };
        let Some(gallery) = found else {
            return Ok(None);
        };
        let unchanged = MergeTotals {
            unchanged: gallery.items,
            ..MergeTotals::default()
        };
        self.report(settings, unchanged, gallery).map(Some)
    }

    fn add_to(
        &self,
        settings: &MergeSettings<'_>,
        progress: Progress<'_>,
    ) -> Result<MergeReport, DeploymentError> {
        let folder = Folder::open(settings.deployment)?;
        let (first, model) = (self.first()?, &folder.record().model);
        let theirs = &first.manifest.model;
        if theirs.fingerprint != model.fingerprint {
            return Err(DeploymentError::OtherVectors {
                problem: format!(
                    "{} was embedded by model `{}` (fingerprint {}), and the deployment in {} by `{}` (fingerprint {}); their embeddings cannot be compared: merge into one of the same model, or into a new one",
                    first.path.display(),
                    theirs.name,
                    theirs.fingerprint,
                    settings.deployment.display(),
                    model.name,
                    model.fingerprint
                ),
            });
        }
        let mut gallery = GalleryMerge::into_existing(&folder.gallery_file())?;
        folder.check_gallery(gallery.gallery_id())?;
        let totals = self.take_all(&mut gallery, settings.deployment, progress)?;
        let gallery = gallery.finish()?;
        self.report(settings, totals, gallery)
    }

    /// Adds the items of each shard, which is unpacked next to the deployment.
    fn take_all(
        &self,
        gallery: &mut GalleryMerge,
        beside: &Path,
        progress: Progress<'_>,
    ) -> Result<MergeTotals, DeploymentError> {
        let first = self.first()?;
        if first.manifest.source.keeps_images {
            gallery.keep_images()?;
        }
        let mut all = 0;
        for shard in &self.shards {
            let about = fs::metadata(&shard.path);
            all += about
                .map_err(|cause| DeploymentError::io(&shard.path, &cause))?
                .len();
        }
        let unpacking = &Unpacking::default();
        let goes_on = &mut || progress(unpacking.done.load(Ordering::Relaxed), all);
        let totals = thread::scope(|scope| {
            // The next shard is unpacked while the present one is read.
            let (ready, unpacked) = mpsc::sync_channel(0);
            let unpack = move || {
                let mut shards = self.shards.iter();
                let unpacked = |shard: &ShardArchive| shard.unpack(beside, unpacking);
                // After a refusal, nobody waits for more shards.
                shards.all(|shard| ready.send(unpacked(shard)).is_ok())
            };
            let thread = thread::Builder::new().name("unpacking".to_owned());
            thread
                .spawn_scoped(scope, unpack)
                .map_err(|cause| DeploymentError::io(beside, &cause))?;
            let taken = self.take_unpacked(gallery, &unpacked, goes_on);
            unpacking.stops.store(true, Ordering::Relaxed);
            drop(unpacked);
            taken
        })?;
        let failed = self.shards.iter().map(|shard| shard.manifest.failed.len());
        let rows = totals.items() + failed.sum::<usize>();
        let expected = first.manifest.source.list_rows;
        if rows != expected {
            return Err(first.refused(&format!(
                "and the other shards account for {rows} rows, and their list has {expected}: an id stands in it twice, or a shard is not whole; mend the list, and build them again"
            )));
        }
        Ok(totals)
    }

    fn take_unpacked(
        &self,
        gallery: &mut GalleryMerge,
        unpacked: &Receiver<Result<TemporaryFolder, DeploymentError>>,
        goes_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<MergeTotals, DeploymentError> {
        let mut totals = MergeTotals::default();
        for shard in &self.shards {
            let folder = loop {
                match unpacked.recv_timeout(STEP) {
                    Ok(folder) => break folder?,
                    Err(RecvTimeoutError::Timeout) if goes_on().is_continue() => {}
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                        return Err(DeploymentError::Cancelled);
                    }
                }
            };
            let taken = shard.take(gallery, &folder, &mut totals, goes_on)?;
            totals.add(&taken);
        }
        Ok(totals)
    }

    fn report(
        &self,
        settings: &MergeSettings<'_>,
        totals: MergeTotals,
        gallery: MergedGallery,
    ) -> Result<MergeReport, DeploymentError> {
        let first = &self.first()?.manifest;
        let failed = self.shards.iter().flat_map(|one| &one.manifest.failed);
        Ok(MergeReport {
            deployment: settings.deployment.to_owned(),
            shards: self.shards.len(),
            list_sha256: first.source.list_sha256.clone(),
            model: first.model.name.clone(),
            model_fingerprint: first.model.fingerprint.clone(),
            inserted: totals.inserted,
            replaced: totals.replaced,
            unchanged: totals.unchanged,
            failed: failed.cloned().collect(),
            items: gallery.items,
            gallery_digest: gallery.digest,
            labels: totals.labels,
        })
    }
}

/// Progress of the unpacking thread, and whether it should stop.
#[derive(Default)]
struct Unpacking {
    /// Number of bytes of archives that are done.
    done: AtomicU64,
    stops: AtomicBool,
}

/// The totals over all shards so far.
#[derive(Default)]
struct MergeTotals {
    inserted: usize,
    replaced: usize,
    unchanged: usize,
    labels: BTreeSet<String>,
}

impl MergeTotals {
    fn add(&mut self, taken: &TakenItems) {
        self.inserted += taken.inserted;
        self.replaced += taken.replaced;
        self.unchanged += taken.unchanged;
    }

    fn items(&self) -> usize {
        self.inserted + self.replaced + self.unchanged
    }
}

impl ShardArchive {
    fn index(&self) -> u32 {
        self.manifest.source.shard.index()
    }

    fn refused(&self, problem: &str) -> DeploymentError {
        ArchiveError::Refused {
            path: self.path.clone(),
            problem: problem.to_owned(),
        }
        .into()
    }

    /// Unpacks an archive into a temporary folder, and verifies its checksums.
    fn unpack(
        &self,
        beside: &Path,
        unpacking: &Unpacking,
    ) -> Result<TemporaryFolder, DeploymentError> {
        let folder = TemporaryFolder::new(beside)?;
        let before = unpacking.done.load(Ordering::Relaxed);
        let step = &mut |done, _| {
            unpacking.done.store(before + done, Ordering::Relaxed);
            if unpacking.stops.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let digest = archive::read(&self.path, Some(folder.path()), belongs_to_shard, step)
            .map_err(|cause| refused_as_shard(&self.path, cause))?;
        unpacking
            .done
            .store(before + digest.bytes, Ordering::Relaxed);
        Ok(folder)
    }

    /// Adds the items of an unpacked shard, and compares them with its manifest.
    fn take(
        &self,
        gallery: &mut GalleryMerge,
        unpacked: &TemporaryFolder,
        totals: &mut MergeTotals,
        goes_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<TakenItems, DeploymentError> {
        let Self { path: _, manifest } = self;
        // The archive was read twice, and somebody may have replaced it in between.
        let again = fs::read(unpacked.path().join(MANIFEST)).ok();
        let again = again.and_then(|text| serde_json::from_slice::<ShardManifest>(&text).ok());
        if again.as_ref() != Some(manifest) {
            return Err(self.refused("was replaced while it was read; merge again"));
        }
        let shard = manifest.source.shard;
        let (mut foreign, mut stopped, mut rows) = (None, false, 0_u64);
        let taken = gallery.take(
            &unpacked.path().join(SHARD_ITEMS),
            &mut |head: &ItemHead| {
                rows += 1;
                stopped = rows.is_multiple_of(1000) && goes_on().is_break();
                if !shard.takes(&head.id) {
                    foreign = Some(head.id.clone());
                }
                if stopped || foreign.is_some() {
                    return ControlFlow::Break(());
                }
                if !totals.labels.contains(&head.label) {
                    totals.labels.insert(head.label.clone());
                }
                ControlFlow::Continue(true)
            },
        );
        let taken = taken.map_err(|error| {
            if matches!(
                error,
                GalleryError::Damaged { .. }
                    | GalleryError::NotAGallery { .. }
                    | GalleryError::Format { .. }
            ) {
                let problem =
                    format!("holds no items that can be taken ({error}); build this shard again");
                return self.refused(&problem);
            }
            DeploymentError::from(error)
        })?;
        if stopped {
            return Err(DeploymentError::Cancelled);
        }
        if let Some(id) = foreign {
            return Err(self.refused(&format!(
                "holds item `{}`, which belongs to another shard; build this one again",
                id.escape_debug()
            )));
        }
        let found = taken.digest();
        if (taken.items(), &found) != (manifest.items, &manifest.digest) {
            return Err(self.refused(&format!(
                "holds {} items with digest {found}, and its manifest says {} with digest {}; build this shard again",
                taken.items(),
                manifest.items,
                manifest.digest
            )));
        }
        Ok(taken)
    }
}

/// The archives that an argument names: the file itself, or all archives in a folder.
fn archives_at(path: &Path) -> Result<Vec<PathBuf>, DeploymentError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |cause: std::io::Error| DeploymentError::io(path, &cause);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("shard-") && name.ends_with(".tar")) {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(DeploymentError::Folder {
            path: path.to_owned(),
            problem:
                "holds no shard (shard-I-of-N.tar); build them by `matchpoint build` with --shard"
                    .to_owned(),
        });
    }
    Ok(found)
}
