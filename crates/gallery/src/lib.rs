//! Stores items durably, and searches them with exact scores.
//!
//! Items are stored in one `SQLite` file, and all of them are also in memory. A write is durable when it is
//! acknowledged. Opening reads every item and compares it with its checksum. It also compares all items with a
//! digest that each write updates in the same transaction, so that a changed, lost or foreign row is found.
//! Searches run on an immutable [`GalleryView`] and never wait for a writer.
//!
//! One kind of damage cannot be detected. After a crash, the last writes are in the log next to the file
//! (`-wal`) until the next opening. `SQLite` treats damage in the log like a write that the crash cut off, and
//! drops that write and all later ones.
//!
//! ```
//! use matchpoint_gallery::item::Item;
//! use matchpoint_gallery::params::IndexParams;
//! use matchpoint_gallery::view::Probe;
//! use matchpoint_gallery::{Access, Gallery};
//! use matchpoint_vector::Embedding;
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("items.db");
//! let gallery = Gallery::create(&path, 2, "fingerprint of the model", "gallery-1")?;
//! gallery.upsert(vec![Item {
//!     id: "mug-1".to_owned(),
//!     label: "mug".to_owned(),
//!     metadata: [("colour".to_owned(), "blue".to_owned())].into(),
//!     embedding: Embedding::normalise(vec![3.0, 4.0])?,
//!     source_sha256: None,
//!     image: None,
//! }])?;
//! let query = Embedding::normalise(vec![4.0, 3.0])?;
//! let found = gallery.view().nearest(&query, &Probe::nearest(1))?;
//! assert_eq!(found[0].item.label, "mug");
//! assert!((found[0].score.get() - 0.96).abs() < 1e-6);
//! # drop(gallery);
//! // What was acknowledged is there again, and compared with its checksums.
//! let again = Gallery::open(&path, Access::ReadOnly, IndexParams::default())?;
//! assert_eq!(again.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod error;
pub mod filter;
pub mod index;
pub mod item;
pub mod item_set;
pub mod mapped_vectors;
pub mod merge;
pub mod params;
pub mod proposed;
pub mod repeated;
pub mod view;

mod base_segment;
mod blocks;
mod connection;
mod format;
mod gallery_index;
mod identity;
mod images;
mod item_table;
mod items_before;
mod load;
mod lock;
mod maintenance;
mod paths;
mod rows;
mod store;
mod unfinished;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;

use crate::error::GalleryError;
use crate::format::{About, GalleryState, NewRow};
use crate::identity::FileIdentity;
use crate::index::bits::Bits;
use crate::item::{
    BATCH_MAX, DIMENSION_MAX, ID_BYTES_MAX, Item, ItemHead, check_batch, embedding_bytes,
    name_problem,
};
use crate::item_set::ItemSet;
use crate::item_table::ItemTable;
use crate::load::WithoutIndexFile;
use crate::lock::WriterLock;
use crate::mapped_vectors::Vector;
use crate::params::IndexParams;
use crate::paths::with_suffix;
use crate::store::ItemStore;
use crate::view::{GalleryView, LiveIndex};

pub use images::{KeptImages, KeptItem, check_images};
pub use unfinished::remove_unfinished;

/// The access that a handle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Searches and reads the items that existed at opening. It can be used while another process writes.
    ReadOnly,
    /// Writes as well. Only one such handle can exist at a time.
    ReadWrite,
}

/// The effect of an upsert on an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upserted {
    /// Its id was new.
    Inserted,
    /// It replaced an item with the same id.
    Replaced,
}

/// An open gallery. Writes wait for each other; searches never wait.
pub struct Gallery {
    path: PathBuf,
    /// The identity of the file in the file system.
    identity: FileIdentity,
    about: About,
    params: IndexParams,
    writer: Mutex<Option<GalleryWriter>>,
    item_table: RwLock<ItemTable>,
    keeps_images: AtomicBool,
    current: ArcSwap<GalleryView>,
    /// Locked while a graph is built, so that two builds cannot run at once.
    building: Mutex<()>,
}

/// The parts needed for writing; a handle for reading has none.
struct GalleryWriter {
    store: ItemStore,
    // Declared after the store, so that the file is closed before another process can open it.
    _lock: WriterLock,
}

impl fmt::Debug for Gallery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gallery")
            .field("path", &self.path)
            .field("id", &self.about.id)
            .finish_non_exhaustive()
    }
}

impl Gallery {
    /// Creates an empty gallery in a new file and opens it for writing, with default index
    /// parameters.
    ///
    /// # Errors
    /// Returns an error if a file or its log exists at the path, if `dimension` is outside 1 to
    /// [`DIMENSION_MAX`], or if `model_fingerprint` or `gallery_id` is empty or too long.
    pub fn create(
        path: &Path,
        dimension: usize,
        model_fingerprint: &str,
        gallery_id: &str,
    ) -> Result<Self, GalleryError> {
        if !(1..=DIMENSION_MAX).contains(&dimension) {
            let problem = format!("is {dimension}; it must be 1 to {DIMENSION_MAX}");
            return Err(GalleryError::Description {
                field: "dimension",
                problem,
            });
        }
        let names = [("id", gallery_id), ("model fingerprint", model_fingerprint)];
        for (field, name) in names {
            if let Some(problem) = name_problem(name, ID_BYTES_MAX) {
                return Err(GalleryError::Description { field, problem });
            }
        }
        let path =
            std::path::absolute(path).map_err(|source| GalleryError::not_found(path, source))?;
        let lock = WriterLock::take(&path)?;
        // A log without its file would be replayed into the new file.
        for suffix in ["", "-wal", "-journal"] {
            let path = with_suffix(&path, suffix);
            if path.symlink_metadata().is_ok() {
                return Err(GalleryError::Exists { path });
            }
        }
        let about = About {
            id: gallery_id.to_owned(),
            model_fingerprint: model_fingerprint.to_owned(),
            dimension,
        };
        ItemStore::create(&path, &about)?;
        Self::open_locked(
            path,
            Some(lock),
            IndexParams::default(),
            WithoutIndexFile::BuildAndWrite,
        )
    }

    /// Opens a gallery and verifies every item. If `params` ask for an index, it is read from its file;
    /// otherwise it is built in order of id, and its file is written.
    ///
    /// # Errors
    /// Returns [`GalleryError::Damaged`] if anything differs from what was acknowledged, and
    /// [`GalleryError::InUse`] if another writer exists.
    pub fn open(path: &Path, access: Access, params: IndexParams) -> Result<Self, GalleryError> {
        params.check()?;
        // Resolves links, so that two names of one file share one lock.
        let path = path
            .canonicalize()
            .map_err(|source| GalleryError::not_found(path, source))?;
        let (lock, otherwise) = match access {
            Access::ReadOnly => (None, WithoutIndexFile::Build),
            Access::ReadWrite => (
                Some(WriterLock::take(&path)?),
                WithoutIndexFile::BuildAndWrite,
            ),
        };
        Self::open_locked(path, lock, params, otherwise)
    }

    /// Opens a gallery for reading with the stored index, and verifies both. It builds no index, and fails if
    /// that would be necessary.
    ///
    /// # Errors
    /// Returns the errors of [`Gallery::open`], and [`GalleryError::IndexFile`] if the index is missing,
    /// damaged, outgrown, or belongs to other items or parameters.
    pub fn open_with_its_index(path: &Path, params: IndexParams) -> Result<Self, GalleryError> {
        params.check()?;
        let path = path
            .canonicalize()
            .map_err(|source| GalleryError::not_found(path, source))?;
        // This holds even if the parameters say that there are too few items for an index.
        let params = IndexParams {
            graph_from_items: 0,
            ..params
        };
        Self::open_locked(path, None, params, WithoutIndexFile::Refuse)
    }

    /// The path of the file with a gallery's index, which need not exist.
    #[must_use]
    pub fn index_file(gallery: &Path) -> PathBuf {
        paths::index_file(gallery)
    }

    fn open_locked(
        path: PathBuf,
        lock: Option<WriterLock>,
        params: IndexParams,
        otherwise: WithoutIndexFile,
    ) -> Result<Self, GalleryError> {
        let mut store = ItemStore::open(&path, lock.is_some())?;
        let identity =
            FileIdentity::of(&path).map_err(|source| GalleryError::not_found(&path, source))?;
        let about = store.about().clone();
        let keeps_images = AtomicBool::new(store.keeps_images());
        let loaded = load::load(&mut store, &path, params, otherwise)?;
        let (item_table, generation) = (loaded.items, loaded.state.generation);
        let view = GalleryView::of(&item_table, about.dimension, generation, loaded.index);
        let view = view.proposed_elsewhere(params.elsewhere);
        Ok(Self {
            path,
            identity,
            about,
            params,
            writer: Mutex::new(lock.map(|lock| GalleryWriter { store, _lock: lock })),
            item_table: RwLock::new(item_table),
            keeps_images,
            current: ArcSwap::from_pointee(view),
            building: Mutex::new(()),
        })
    }

    /// The id that the gallery got at creation.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// Number of components of every embedding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.about.dimension
    }

    /// The fingerprint of the model that made every embedding.
    #[must_use]
    pub fn model_fingerprint(&self) -> &str {
        &self.about.model_fingerprint
    }

    /// The current state, which no later write changes.
    #[must_use]
    pub fn view(&self) -> Arc<GalleryView> {
        self.current.load_full()
    }

    /// From now on, every state counts how many items of `set` are present unchanged
    /// ([`GalleryView::in_common_with`]); `None` ends this.
    ///
    /// # Errors
    /// Returns an error if an earlier write failed, so that the state of the items is not known.
    pub fn compare_with(&self, set: Option<Arc<ItemSet>>) -> Result<(), GalleryError> {
        let _no_write = self.writer()?;
        let mut items = self
            .item_table
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        items.compare_with(set);
        let mut compared = GalleryView::clone(&self.current.load());
        compared.in_common = items.in_common();
        drop(items);
        self.current.store(Arc::new(compared));
        Ok(())
    }

    /// Digest of the current items; see [`GalleryView::digest`].
    #[must_use]
    pub fn digest(&self) -> String {
        self.current.load().digest()
    }

    /// Number of current items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current.load().len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of distinct labels.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.current.load().label_count()
    }

    /// Whether an item has this label.
    #[must_use]
    pub fn has_label(&self, label: &str) -> bool {
        self.item_table().has_label(label)
    }

    /// The labels for which `wanted` is true, with the number of items of each.
    #[must_use]
    pub fn label_counts(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
        let table = self.item_table();
        let counts = table.label_counts().filter(|(label, _)| wanted(label));
        counts
            .map(|(label, count)| (label.to_owned(), count as u64))
            .collect()
    }

    /// The present method of finding the nearest items; see [`GalleryView::index_description`].
    #[must_use]
    pub fn index_description(&self) -> String {
        self.current.load().index_description()
    }

    /// The current item of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<ItemHead>> {
        self.item_table().head(id)
    }

    /// The current item of this id, together with its embedding, of unit length.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<(Arc<ItemHead>, Vector)> {
        self.item_table().item(id)
    }

    /// The item of this id in a view, if the view still holds the current one.
    #[must_use]
    pub fn item_of(&self, view: &GalleryView, id: &str) -> Option<(Arc<ItemHead>, Vector)> {
        let table = self.item_table();
        // Slots are never used twice: a view with this slot has the item that is in it now.
        view.slot(table.find(id)?.slot)?;
        table.item(id)
    }

    /// The hash of the image that the item of this id was made from, if known.
    #[must_use]
    pub fn source_sha256(&self, id: &str) -> Option<[u8; 32]> {
        self.get(id)?.source_sha256
    }

    /// At most `limit` items in order of id, starting after `after_id`.
    ///
    /// If a caller continues with the last id of each page, it sees every item that exists all the time exactly
    /// once, whatever else is written.
    #[must_use]
    pub fn list(&self, after_id: Option<&str>, limit: usize) -> Vec<Arc<ItemHead>> {
        self.item_table().page(after_id, limit)
    }

    /// Checks everything that [`Gallery::upsert`] would refuse in these items.
    ///
    /// # Errors
    /// Returns an error if one item exceeds a limit or an id occurs twice.
    pub fn check(&self, items: &[Item]) -> Result<(), GalleryError> {
        check_batch(items, self.about.dimension)
    }

    /// Enrols items, or replaces those with the same id: all of them or none. When it returns, they are on the
    /// disk and in every later view. The results are in the order of `items`.
    ///
    /// # Errors
    /// Returns an error, and writes nothing, if one item exceeds a limit or an id occurs twice.
    pub fn upsert(&self, items: Vec<Item>) -> Result<Vec<Upserted>, GalleryError> {
        check_batch(&items, self.about.dimension)?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        // Hashes are computed before the lock is taken.
        let mut rows: Vec<NewRow> = items.into_iter().map(new_row).collect();
        let mut guard = self.writer()?;
        let writer = self.writable(&mut guard)?;
        let mut state = self.state();
        let mut outcomes = Vec::with_capacity(rows.len());
        {
            let item_table = self.item_table();
            let mut last_row = item_table.last_row;
            for row in &mut rows {
                state.digest.add(&row.checksum);
                if let Some(place) = item_table.find(&row.head.id) {
                    state.digest.subtract(&place.checksum);
                    row.number = place.row;
                    outcomes.push(Upserted::Replaced);
                } else {
                    state.items += 1;
                    last_row = last_row
                        .checked_add(1)
                        .ok_or_else(|| writer.store.out_of_rows())?;
                    row.number = last_row;
                    outcomes.push(Upserted::Inserted);
                }
            }
        }
        self.check_place()?;
        writer.store.write(&rows, &[], state)?;
        // If the file was deleted, anything written to it would be lost with this process.
        self.check_place()?;
        self.apply(rows, &[], state.generation);
        Ok(outcomes)
    }

    /// Removes the items with these ids in one transaction, and returns for each whether it existed. Removed
    /// data are also overwritten in the file, at the latest when it is closed.
    ///
    /// # Errors
    /// Returns an error for more than [`BATCH_MAX`] ids at once.
    pub fn delete(&self, ids: &[String]) -> Result<Vec<bool>, GalleryError> {
        if BATCH_MAX < ids.len() {
            return Err(GalleryError::Batch {
                found: ids.len(),
                max: BATCH_MAX,
            });
        }
        let mut guard = self.writer()?;
        let writer = self.writable(&mut guard)?;
        let mut state = self.state();
        let mut removed = HashMap::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        {
            let item_table = self.item_table();
            for id in ids {
                let place = item_table.find(id).filter(|_| !removed.contains_key(id));
                outcomes.push(place.is_some());
                if let Some(place) = place {
                    state.items -= 1;
                    state.digest.subtract(&place.checksum);
                    removed.insert(id, place.row);
                }
            }
        }
        if removed.is_empty() {
            return Ok(outcomes);
        }
        let rows: Vec<i64> = removed.values().copied().collect();
        self.check_place()?;
        writer.store.write(&[], &rows, state)?;
        self.check_place()?;
        self.apply(Vec::new(), ids, state.generation);
        Ok(outcomes)
    }

    /// Rewrites the file of the items and that of the index without removed data. Searches continue meanwhile.
    ///
    /// # Errors
    /// Returns an error if the handle is for reading only or the disk fails. Nothing is lost then.
    pub fn compact(&self) -> Result<(), GalleryError> {
        let mut writer = self.writer()?;
        self.writable(&mut writer)?.store.compact()?;
        drop(writer);
        self.reindex()
    }

    fn writer(&self) -> Result<MutexGuard<'_, Option<GalleryWriter>>, GalleryError> {
        // The lock is poisoned, so a write may be on the disk but not in memory.
        let unusable = |_poisoned| GalleryError::Unusable {
            path: self.path.clone(),
        };
        self.writer.lock().map_err(unusable)
    }

    fn writable<'a>(
        &self,
        writer: &'a mut Option<GalleryWriter>,
    ) -> Result<&'a mut GalleryWriter, GalleryError> {
        writer.as_mut().ok_or_else(|| GalleryError::ReadOnly {
            path: self.path.clone(),
        })
    }

    fn item_table(&self) -> RwLockReadGuard<'_, ItemTable> {
        self.item_table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The state that is visible from now on.
    fn view_of(
        &self,
        item_table: &ItemTable,
        generation: u64,
        index: Option<LiveIndex>,
    ) -> GalleryView {
        let view = GalleryView::of(item_table, self.about.dimension, generation, index);
        view.proposed_elsewhere(self.params.elsewhere)
    }

    /// The state that the next write starts from, with the next generation.
    fn state(&self) -> GalleryState {
        let now = self.current.load();
        GalleryState {
            items: now.len,
            generation: now.generation + 1,
            digest: now.digest,
        }
    }

    /// Makes visible what was written to the disk.
    fn apply(&self, rows: Vec<NewRow>, removed: &[String], generation: u64) {
        let index = self.current.load().index.clone();
        let mut item_table = self
            .item_table
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let upserted = rows.iter().map(|row| &row.head.id);
        let gone = removed.iter().chain(upserted);
        let gone = gone.filter_map(|id| item_table.find(id).map(|place| place.slot));
        let index = index.map(|(index, live)| {
            let live = without(&live, gone.filter_map(|slot| index.base.row(slot)));
            (index, live)
        });
        removed.iter().for_each(|id| item_table.remove(id));
        for NewRow {
            number,
            head,
            embedding,
            checksum,
            image: _,
        } in rows
        {
            let vector = Vector::in_memory(embedding.as_slice().into());
            item_table.put(head, vector, number, checksum);
        }
        if let Some((index, _)) = &index {
            item_table.encode_from(index.first(), self.about.dimension, index.width());
        }
        let view = self.view_of(&item_table, generation, index);
        drop(item_table);
        self.current.store(Arc::new(view));
    }
}

/// A copy of the set of rows without some of them.
fn without(live: &Arc<Bits>, gone: impl Iterator<Item = usize>) -> Arc<Bits> {
    let mut live = Arc::clone(live);
    for row in gone {
        Arc::make_mut(&mut live).set(row, false);
    }
    live
}

/// Writes a copy of a gallery's items, as of one moment, to a new file. It can run while this or another
/// process writes.
///
/// # Errors
/// Returns an error if there is no gallery, if it is damaged, or if the disk fails.
pub fn copy_items(gallery: &Path, to: &Path) -> Result<(), GalleryError> {
    let gallery = gallery
        .canonicalize()
        .map_err(|source| GalleryError::not_found(gallery, source))?;
    ItemStore::copy(&gallery, to)
}

fn new_row(mut item: Item) -> NewRow {
    let image = item.image.take();
    let (head, embedding) = item.split();
    NewRow {
        number: 0,
        checksum: head.checksum(&embedding_bytes(embedding.as_slice())),
        head,
        embedding,
        image,
    }
}
