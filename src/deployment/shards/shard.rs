//! One of N parts of a source, which is built independently of the others. Its archive's bytes depend only on
//! the content.
//!
//! The id of an item determines its shard. The archive is a tar like a snapshot, with a manifest and the items
//! in the order of their ids. It appears completely or not at all, and replaces nothing. If two attempts build
//! the same shard, the first one counts, and the second checks that its own is identical.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::deployment::backup::archive::{self, ArchiveError, Progress};
use crate::deployment::enrolment::refused::RefusedItem;
use crate::deployment::folder::ModelReference;
use crate::deployment::temporary::{TemporaryFolder, publish};
use crate::deployment::{DeploymentError, Folder};
use matchpoint_gallery::merge::GalleryMerge;

/// The manifest's name is the first in order, so that it can be read without the rest.
pub(in crate::deployment) const MANIFEST: &str = "MANIFEST.json";
pub(in crate::deployment) const SHARD_ITEMS: &str = "items.db";
/// Version of the archive's content.
const FORMAT: u32 = 1;
/// The highest size of a manifest in bytes, for the reasons of a million unusable images. A larger one was not
/// written by this program.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// The highest number of shards.
const SHARDS_MAX: u32 = 100_000;

/// The number of a part, from 0, and the number of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// Part `index` of `of`.
    ///
    /// # Errors
    /// Returns a message if there is no such part.
    pub fn new(index: u32, of: u32) -> Result<Self, String> {
        if !(1..=SHARDS_MAX).contains(&of) {
            return Err(format!("of {of} shards; there can be 1 to {SHARDS_MAX}"));
        }
        if of <= index {
            return Err(format!(
                "shard {index} of {of}; shards are counted from 0, so the last one is {}/{of}",
                of - 1
            ));
        }
        Ok(Self { index, of })
    }

    /// The number of parts.
    #[must_use]
    pub fn of(self) -> u32 {
        self.of
    }

    /// The number of this part, from 0.
    #[must_use]
    pub fn index(self) -> u32 {
        self.index
    }

    /// Whether an item with this id belongs to this part. Its part is the first 8 bytes of the SHA-256 of the
    /// id, as a little-endian number, modulo the number of parts.
    #[must_use]
    pub fn takes(self, id: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        let number = hash.first_chunk().copied().map_or(0, u64::from_le_bytes);
        number % u64::from(self.of) == u64::from(self.index)
    }

    /// The name of its archive.
    #[must_use]
    pub fn archive_name(self) -> String {
        format!("shard-{}-of-{}.tar", self.index, self.of)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no shard; say its number, from 0, and how many there are, such as 3/64"
            )
        };
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_no_number| wrong());
        Self::new(number(index)?, number(of)?)
    }
}

/// The hash of a whole source. The same list gives the same hash on every machine.
#[derive(Clone, Debug)]
pub struct SourceList {
    hash: Sha256,
    rows: usize,
}

impl Default for SourceList {
    fn default() -> Self {
        let mut list = Self {
            hash: Sha256::new(),
            rows: 0,
        };
        list.field("matchpoint source list 1");
        list
    }
}

impl SourceList {
    /// Adds one row, as texts in a fixed order. The location of its image is left out, because it differs
    /// between machines.
    pub fn add<'a, I: IntoIterator<Item = &'a str>>(&mut self, fields: I) {
        self.rows += 1;
        for field in fields {
            self.field(field);
        }
        // Marks the end of the row with a value that is never a length.
        self.hash.update(u64::MAX.to_le_bytes());
    }

    fn field(&mut self, text: &str) {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
    }
}

/// The source that a shard is built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardSource {
    /// The part.
    pub shard: Shard,
    /// SHA-256 of the whole list: of every row's id, label and metadata.
    pub list_sha256: String,
    /// Number of rows in the whole list, including those that cannot be used.
    pub list_rows: usize,
    /// Whether images are stored.
    pub keeps_images: bool,
}

impl ShardSource {
    /// A part of a list.
    #[must_use]
    pub fn new(shard: Shard, list: SourceList, keeps_images: bool) -> Self {
        Self {
            shard,
            list_sha256: encode_string(&list.hash.finalize()),
            list_rows: list.rows,
            keeps_images,
        }
    }
}

/// The manifest in the archive of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    /// Version of the archive's content.
    pub format: u32,
    /// The source that it was built from.
    pub source: ShardSource,
    /// The model that embedded its items; its folder is only a hint.
    pub model: ModelReference,
    /// The preprocessing of images, with one line for each key; empty for vectors that are made elsewhere.
    pub preprocessing: String,
    /// Number of components of every embedding.
    pub dimension: usize,
    /// Number of its items.
    pub items: usize,
    /// The digest of its items. The sum of the digests of all shards, modulo 2^256, is that of the merged
    /// gallery.
    pub digest: String,
    /// Its rows that cannot be used, with the reasons.
    pub failed: Vec<RefusedItem>,
}

impl ShardManifest {
    /// Reads only the manifest of an archive.
    ///
    /// # Errors
    /// Returns an error if the file is not the archive of a shard, has another version, is damaged, or cannot
    /// be read.
    pub fn read(archive: &Path) -> Result<Self, DeploymentError> {
        let text = archive::read_first(archive, MANIFEST, MANIFEST_BYTES_MAX)
            .map_err(|cause| refused_as_shard(archive, cause))?;
        let refused = |problem: String| {
            let path = archive.to_owned();
            DeploymentError::from(ArchiveError::Refused { path, problem })
        };
        let manifest: Self = serde_json::from_slice(&text).map_err(|cause| {
            refused(format!(
                "has a manifest that this version cannot read ({cause}); build the shard again with this version"
            ))
        })?;
        let Shard { index, of } = manifest.source.shard;
        match (manifest.format, Shard::new(index, of)) {
            (FORMAT, Ok(_)) => Ok(manifest),
            (FORMAT, Err(problem)) => Err(refused(format!("says that it is {problem}"))),
            (other, _) => Err(refused(format!(
                "is a shard in format {other}, and this version reads format {FORMAT}; build the shard again with this version"
            ))),
        }
    }

    /// Why two shards cannot be parts of one gallery, as words that follow the name of this one; `None` if they
    /// can be.
    pub(in crate::deployment) fn differs_from(&self, other: &Self, name: &Path) -> Option<String> {
        let (mine, theirs, name) = (&self.source, &other.source, name.display());
        if mine.shard.of != theirs.shard.of {
            let (of, n) = (mine.shard.of, theirs.shard.of);
            return Some(format!("is one of {of} shards, and {name} one of {n}"));
        }
        if (&mine.list_sha256, mine.list_rows) != (&theirs.list_sha256, theirs.list_rows) {
            return Some(format!(
                "is of a list of {} rows with hash {}, and {name} of one of {} rows with hash {}",
                mine.list_rows, mine.list_sha256, theirs.list_rows, theirs.list_sha256
            ));
        }
        if self.model.name == other.model.name && self.preprocessing != other.preprocessing {
            let both = self.preprocessing.lines().zip(other.preprocessing.lines());
            let line = both.into_iter().find(|(mine, theirs)| mine != theirs);
            let (mine, theirs) = line.unwrap_or(("more keys", "others"));
            return Some(format!(
                "was embedded with other preprocessing than {name}: `{mine}` and `{theirs}`"
            ));
        }
        if (&self.model.fingerprint, self.dimension) != (&other.model.fingerprint, other.dimension)
        {
            let (mine, theirs) = (&self.model, &other.model);
            return Some(format!(
                "was embedded by model `{}` (fingerprint {}), and {name} by `{}` (fingerprint {})",
                mine.name, mine.fingerprint, theirs.name, theirs.fingerprint
            ));
        }
        (mine.keeps_images != theirs.keeps_images).then(|| {
            let keeps = |one: bool| if one { "keeps images" } else { "keeps none" };
            format!(
                "{}, and {name} {}",
                keeps(mine.keeps_images),
                keeps(theirs.keeps_images)
            )
        })
    }

    /// The id of the gallery, which is the same in every attempt.
    fn gallery_id(&self) -> Result<String, DeploymentError> {
        let text = serde_json::to_vec(&(&self.source, &self.model.fingerprint));
        let text = text.map_err(|cause| unwritable(&cause))?;
        let hash: [u8; 32] = Sha256::digest(text).into();
        let bytes = hash.first_chunk().copied().unwrap_or_default();
        Ok(uuid::Builder::from_custom_bytes(bytes)
            .into_uuid()
            .to_string())
    }
}

fn unwritable(cause: &serde_json::Error) -> DeploymentError {
    DeploymentError::Broken {
        reason: cause.to_string(),
    }
}

/// Says what is wrong with a shard's archive, and how to fix it.
pub(in crate::deployment) fn refused_as_shard(archive: &Path, cause: io::Error) -> DeploymentError {
    let error = match ArchiveError::of(archive, "read", cause) {
        ArchiveError::Refused { path, problem } => ArchiveError::Refused {
            path,
            problem: format!("{problem}; if there is none, remove it and build this shard again"),
        },
        other @ (ArchiveError::Exists(_) | ArchiveError::Io { .. } | ArchiveError::Cancelled) => {
            other
        }
    };
    error.into()
}

/// Whether a file of this name is part of a shard.
pub(in crate::deployment) fn belongs_to_shard(name: &str) -> bool {
    [MANIFEST, SHARD_ITEMS].contains(&name)
}

/// The folder in which a shard is built. A later attempt continues in it; if another attempt is using it, a
/// temporary folder is used instead.
#[derive(Debug)]
pub struct ShardWork {
    source: ShardSource,
    archive: PathBuf,
    place: WorkPlace,
}

#[derive(Debug)]
enum WorkPlace {
    Kept {
        path: PathBuf,
        #[expect(dead_code, reason = "kept for its lock")]
        lock: File,
    },
    Own(TemporaryFolder),
}

/// The result of building a shard.
#[derive(Clone, Debug, Serialize)]
pub struct PublishedShard {
    /// The archive.
    pub archive: PathBuf,
    /// Its manifest.
    pub manifest: ShardManifest,
    /// Whether another attempt had already published it with the same content.
    pub was_there: bool,
}

impl ShardWork {
    /// Takes the folder in which the shard for `folder` is built, and starts with what exists: the remains of
    /// an earlier attempt, or the finished shard, which then only has to be compared with its images.
    ///
    /// # Errors
    /// Returns an error if the folder contains a deployment or another shard with this name, or if the disk
    /// fails.
    pub fn begin(folder: &Path, source: ShardSource) -> Result<Self, DeploymentError> {
        if Folder::exists(folder) {
            return Err(DeploymentError::Argument {
                argument: "DIR",
                problem: format!(
                    "{} holds a deployment; shards go to a folder of their own, and `matchpoint merge` makes a deployment of them",
                    folder.display()
                ),
            });
        }
        fs::create_dir_all(folder).map_err(|cause| DeploymentError::io(folder, &cause))?;
        let name = source.shard.archive_name();
        let work = Self {
            place: WorkPlace::take(&folder.join(format!(".{name}.work")))?,
            archive: folder.join(name),
            source,
        };
        let items_are_gone = |left: Folder| !left.gallery_file().exists();
        if Folder::open(work.path()).is_ok_and(items_are_gone) {
            // A crash interrupted the removal after it was done.
            work.begin_again()?;
        } else {
            work.begin_with_published()?;
        }
        Ok(work)
    }

    /// The path where it is built: a deployment's folder, which may not exist yet.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &self.place {
            WorkPlace::Kept { path, .. } => path,
            WorkPlace::Own(folder) => folder.path(),
        }
    }

    /// The path of the archive.
    #[must_use]
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// Discards the remains of an earlier attempt, for example embeddings of another model, and starts again.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn begin_again(&self) -> Result<(), DeploymentError> {
        let path = self.path();
        let failed = |cause: io::Error| DeploymentError::io(path, &cause);
        for entry in fs::read_dir(path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path).map_err(failed)?;
            } else {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        self.begin_with_published()
    }

    /// Starts with the embeddings of the published shard, so that they are not computed again.
    fn begin_with_published(&self) -> Result<(), DeploymentError> {
        if Folder::exists(self.path()) || !self.archive.exists() {
            return Ok(());
        }
        let manifest = ShardManifest::read(&self.archive)?;
        if manifest.source != self.source {
            return Err(self.another(&format!(
                "its manifest says shard {}, {} rows with hash {}, {} images kept",
                manifest.source.shard,
                manifest.source.list_rows,
                manifest.source.list_sha256,
                if manifest.source.keeps_images {
                    "with"
                } else {
                    "no"
                }
            )));
        }
        let unpacked = TemporaryFolder::new(&self.path().join("published"))?;
        let on = &mut |_, _| ControlFlow::Continue(());
        archive::read(&self.archive, Some(unpacked.path()), belongs_to_shard, on)
            .map_err(|cause| refused_as_shard(&self.archive, cause))?;
        let folder = Folder::prepare(self.path(), "shard", manifest.model)?;
        let items = unpacked.path().join(SHARD_ITEMS);
        let id = &folder.record().gallery_id;
        let mut into = GalleryMerge::create_like(&items, &folder.gallery_file(), id)?;
        if self.source.keeps_images {
            into.keep_images()?;
        }
        into.take(&items, &mut |_| ControlFlow::Continue(true))?;
        into.finish()?;
        folder.save()
    }

    fn another(&self, what: &str) -> DeploymentError {
        ArchiveError::Refused {
            path: self.archive.clone(),
            problem: format!(
                "is there already, and is another shard ({what}); move it away, or write to another folder"
            ),
        }
        .into()
    }

    /// Packs what was built, and publishes it under its name. Refused rows and unusable images are left out and
    /// listed.
    ///
    /// # Errors
    /// Returns an error if another shard has the name, if the disk fails, or if the work was stopped.
    pub fn publish(
        self,
        preprocessing: String,
        refused: Vec<RefusedItem>,
        unusable: Vec<RefusedItem>,
        progress: Progress<'_>,
    ) -> Result<PublishedShard, DeploymentError> {
        let built = Folder::open(self.path())?;
        let left_out: BTreeSet<String> = unusable.iter().map(|one| one.item.clone()).collect();
        let mut manifest = ShardManifest {
            format: FORMAT,
            source: self.source.clone(),
            model: built.record().model.clone(),
            preprocessing,
            dimension: 0,
            items: 0,
            digest: String::new(),
            failed: refused.into_iter().chain(unusable).collect(),
        };
        let made = TemporaryFolder::new(&self.path().join("made"))?;
        let (from, items) = (built.gallery_file(), made.path().join(SHARD_ITEMS));
        let mut into = GalleryMerge::create_like(&from, &items, &manifest.gallery_id()?)?;
        manifest.dimension = into.dimension();
        if self.source.keeps_images {
            into.keep_images()?;
        }
        // An earlier attempt may have been able to use these rows.
        let mut flow = ControlFlow::Continue(());
        let mut steps = 0_u64;
        into.take(&from, &mut |head| {
            steps += 1;
            // Not for every row, because it is printed.
            if steps.is_multiple_of(1000) {
                flow = progress(0, 0);
            }
            flow.map_continue(|()| !left_out.contains(&*head.id))
        })?;
        if flow.is_break() {
            return Err(DeploymentError::Cancelled);
        }
        let gallery = into.finish()?;
        (manifest.items, manifest.digest) = (gallery.items, gallery.digest);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|cause| unwritable(&cause))?;
        made.write(Path::new(MANIFEST), &text)?;
        let names = [MANIFEST, SHARD_ITEMS].map(str::to_owned).into();
        let packed = made.path().join("packed");
        archive::pack(made.path(), &names, &packed, progress)
            .map_err(|cause| ArchiveError::of(&self.archive, "write", cause))?;
        let was_there = match publish(&packed, &self.archive) {
            Ok(()) => false,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                self.check_published(&manifest)?;
                true
            }
            Err(cause) => return Err(ArchiveError::of(&self.archive, "write", cause).into()),
        };
        drop(made);
        if let WorkPlace::Kept { path, .. } = &self.place {
            // The next attempt, if there is one, removes what is left.
            drop(fs::remove_dir_all(path));
        }
        Ok(PublishedShard {
            archive: self.archive,
            manifest,
            was_there,
        })
    }

    /// Checks that the shard of another attempt is identical, except for the model's folder.
    fn check_published(&self, own: &ShardManifest) -> Result<(), DeploymentError> {
        let mut theirs = ShardManifest::read(&self.archive)?;
        theirs.model.folder.clone_from(&own.model.folder);
        if theirs == *own {
            return Ok(());
        }
        let what = theirs.differs_from(own, Path::new("what was built now"));
        Err(self.another(&what.unwrap_or_else(|| {
            format!(
                "{} items with digest {}, and {} with digest {} were built now: the images were changed, or the machines compute differently",
                theirs.items, theirs.digest, own.items, own.digest
            )
        })))
    }
}

impl WorkPlace {
    fn take(path: &Path) -> Result<Self, DeploymentError> {
        fs::create_dir_all(path).map_err(|cause| DeploymentError::io(path, &cause))?;
        let lock = File::open(path).map_err(|cause| DeploymentError::io(path, &cause))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self::Kept {
                path: path.to_owned(),
                lock,
            }),
            Err(TryLockError::WouldBlock) => {
                tracing::info!(
                    "another attempt at this shard is under way; this one begins from nothing beside it"
                );
                TemporaryFolder::new(path).map(Self::Own)
            }
            // Without support for locks, remains of earlier attempts cannot be used.
            Err(TryLockError::Error(_)) => TemporaryFolder::new(path).map(Self::Own),
        }
    }
}
