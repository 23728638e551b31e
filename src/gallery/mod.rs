//! Durable items and exact-scored search.
//!
//! Items live in one `SQLite` file and, all of them, in memory. A write is durable when it is
//! acknowledged. Opening reads every item and compares it with its checksum, and all of them with
//! a digest that each write updates in the same transaction, so that a changed, lost or foreign
//! row is found. Searches run on an immutable [`Snapshot`] and wait for no writer.
//!
//! One thing cannot be found: after a crash, the last writes are in the log beside the file
//! (`-wal`) until the next opening. `SQLite` takes damage in the log for a write that the crash cut
//! off, and drops that write and those after it.

pub mod error;
pub mod filter;
pub mod graph;
pub mod item;
pub mod snapshot;

mod catalogue;
mod format;
mod lock;
mod settled;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::ArcSwap;

use crate::gallery::catalogue::Catalogue;
use crate::gallery::error::GalleryError;
use crate::gallery::format::{About, NewRow, State};
use crate::gallery::graph::{Index, IndexParams};
use crate::gallery::item::{
    BATCH_MAX, DIMENSION_MAX, Hash, ID_BYTES_MAX, Item, ItemHead, check_batch, name_problem,
};
use crate::gallery::lock::{WriterLock, beside};
use crate::gallery::settled::Settled;
use crate::gallery::snapshot::Snapshot;
use crate::gallery::store::Store;
use crate::index::bits::Bits;

/// What a handle may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Search and read the items there were at opening. Works beside a writer.
    ReadOnly,
    /// Write as well. One at a time.
    ReadWrite,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upserted {
    /// Its id was new.
    Inserted,
    /// It took the place of an item with the same id.
    Replaced,
}

/// An open gallery. Writes wait for each other; searches wait for nothing.
pub struct Gallery {
    path: PathBuf,
    about: About,
    params: IndexParams,
    writer: Mutex<Option<Writer>>,
    catalogue: RwLock<Catalogue>,
    current: ArcSwap<Snapshot>,
    /// Held while a graph is built, so that it is not built twice at once.
    building: Mutex<()>,
}

/// The means to write, absent from a handle for reading.
struct Writer {
    store: Store,
    // After the store, so that the file is closed before another may open it.
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
    /// Refuses a path where a file or a log of one exists, a `dimension` outside 1 to
    /// [`DIMENSION_MAX`], and an empty or overlong `model_fingerprint` or `gallery_id`.
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
        let path = std::path::absolute(path).map_err(|source| file_error(path, source))?;
        let lock = WriterLock::take(&path)?;
        // A log without its file would be replayed into the new one.
        for suffix in ["", "-wal", "-journal"] {
            let path = beside(&path, suffix);
            if path.symlink_metadata().is_ok() {
                return Err(GalleryError::Exists { path });
            }
        }
        let about = About {
            id: gallery_id.to_owned(),
            model_fingerprint: model_fingerprint.to_owned(),
            dimension,
        };
        Store::create(&path, &about)?;
        Self::open_locked(path, Some(lock), IndexParams::default())
    }

    /// Opens a gallery and verifies every item. Where `params` ask for an index, it is taken from
    /// its file, or built, in order of id, and the file written.
    ///
    /// # Errors
    /// [`GalleryError::Damaged`] where anything differs from what was acknowledged, and
    /// [`GalleryError::InUse`] for a second writer.
    pub fn open(path: &Path, access: Access, params: IndexParams) -> Result<Self, GalleryError> {
        params.check()?;
        // Through links, so that two names of one file share one lock.
        let path = path
            .canonicalize()
            .map_err(|source| file_error(path, source))?;
        let lock = match access {
            Access::ReadOnly => None,
            Access::ReadWrite => Some(WriterLock::take(&path)?),
        };
        Self::open_locked(path, lock, params)
    }

    fn open_locked(
        path: PathBuf,
        lock: Option<WriterLock>,
        params: IndexParams,
    ) -> Result<Self, GalleryError> {
        let mut store = Store::open(&path, lock.is_some())?;
        let mut catalogue = Catalogue::default();
        let state = store.load(|item, row, checksum| {
            let new = catalogue.find(&item.id).is_none();
            catalogue.put(item, row, checksum);
            new
        })?;
        let about = store.about().clone();
        let index = open_index(&catalogue, &path, (about.dimension, params), lock.is_some())?;
        let snapshot = Snapshot::of(&catalogue, about.dimension, state.generation, index);
        Ok(Self {
            path,
            about,
            params,
            writer: Mutex::new(lock.map(|lock| Writer { store, _lock: lock })),
            catalogue: RwLock::new(catalogue),
            current: ArcSwap::from_pointee(snapshot),
            building: Mutex::new(()),
        })
    }

    /// The gallery's own name, given at creation.
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
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Digest of the current items; see [`Snapshot::digest`].
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

    /// How nearest items are found now; see [`Snapshot::index_description`].
    #[must_use]
    pub fn index_description(&self) -> String {
        self.current.load().index_description()
    }

    /// The current item of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<ItemHead>> {
        let catalogue = self
            .catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        catalogue.find(id).map(|place| Arc::clone(&place.head))
    }

    /// The current item of this id, together with its embedding, of unit length.
    #[must_use]
    pub fn item(&self, id: &str) -> Option<(Arc<ItemHead>, Arc<[f32]>)> {
        let catalogue = self
            .catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        catalogue.item(id)
    }

    /// The hash of the image that the item of this id was made from, where known.
    #[must_use]
    pub fn source_sha256(&self, id: &str) -> Option<[u8; 32]> {
        self.get(id)?.source_sha256
    }

    /// At most `limit` items in order of id, starting after `after_id`.
    ///
    /// Whoever asks on with the last id of each page sees every item once that is there all the
    /// while, whatever else is written.
    #[must_use]
    pub fn list(&self, after_id: Option<&str>, limit: usize) -> Vec<Arc<ItemHead>> {
        let catalogue = self
            .catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        catalogue.page(after_id, limit)
    }

    /// Enrols items, or replaces those of the same id: all of them or none. When it returns, they
    /// are on the disk and in every later snapshot. The answers are in the order of `items`.
    ///
    /// # Errors
    /// Refuses the whole batch where one item breaks a limit or an id occurs twice.
    pub fn upsert(&self, items: Vec<Item>) -> Result<Vec<Upserted>, GalleryError> {
        check_batch(&items, self.about.dimension)?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        // The hashing happens before the lock is taken.
        let mut rows: Vec<NewRow> = items.into_iter().map(new_row).collect();
        let mut guard = self.writer()?;
        let writer = self.writable(&mut guard)?;
        let mut state = self.state();
        let mut outcomes = Vec::with_capacity(rows.len());
        {
            let catalogue = self
                .catalogue
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let mut last_row = catalogue.last_row;
            for row in &mut rows {
                state.digest.add(&row.checksum);
                if let Some(place) = catalogue.find(&row.item.id) {
                    state.digest.subtract(&place.checksum);
                    row.number = place.row;
                    outcomes.push(Upserted::Replaced);
                } else {
                    state.items += 1;
                    last_row = last_row.checked_add(1).ok_or_else(|| self.out_of_rows())?;
                    row.number = last_row;
                    outcomes.push(Upserted::Inserted);
                }
            }
        }
        writer.store.write(&rows, &[], state)?;
        self.apply(rows, &[], state.generation);
        Ok(outcomes)
    }

    /// Removes the items of these ids, all in one transaction, and says for each whether it was
    /// there. What is removed is also overwritten in the file, at the latest when it is closed.
    ///
    /// # Errors
    /// Refuses more than [`BATCH_MAX`] ids at once.
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
            let catalogue = self
                .catalogue
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                let place = catalogue.find(id).filter(|_| !removed.contains_key(id));
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
        writer.store.write(&[], &rows, state)?;
        self.apply(Vec::new(), ids, state.generation);
        Ok(outcomes)
    }

    /// Builds the index anew from the current items: without points that are gone, and with a
    /// graph, or without one, as the present number of items asks for. Searches and writes go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`GalleryError::Unusable`] after an earlier failure.
    pub fn reindex(&self) -> Result<(), GalleryError> {
        let unusable = || GalleryError::Unusable {
            path: self.path.clone(),
        };
        let _only_one = self.building.lock().map_err(|_poisoned| unusable())?;
        let items = {
            let catalogue = self
                .catalogue
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            catalogue.settling()
        };
        let settled = if items.len() < self.params.graph_from_items {
            None
        } else {
            let build = || Settled::build(&items, self.params);
            // Searches go on meanwhile: half of the cores are theirs.
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            Some(pool.map_or_else(|_no_threads| build(), |pool| pool.install(build))?)
        };
        drop(items);
        // No write from here on, until the new index has what was enrolled meanwhile.
        let no_write = self.writer()?;
        let catalogue = self
            .catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = self.snapshot().generation;
        let index = settled.map(|settled| joined(settled, &catalogue, self.params));
        let saved = index.as_ref().map(|(index, _)| Arc::clone(index));
        let renewed = Snapshot::of(&catalogue, self.about.dimension, generation, index);
        self.current.store(Arc::new(renewed));
        let writable = no_write.is_some();
        drop((catalogue, no_write));
        if let Some(index) = saved.filter(|_| writable) {
            save(&index.settled, &self.path);
        }
        Ok(())
    }

    /// Whether [`Gallery::reindex`] would help: the number of items has crossed
    /// [`IndexParams::graph_from_items`] since opening, a third of what is settled is gone, or a
    /// quarter as much has been enrolled since.
    #[must_use]
    pub fn reindex_is_due(&self) -> bool {
        let now = self.current.load();
        let wants_graph = self.params.graph_from_items <= now.len();
        let Some((index, live)) = &now.index else {
            return wants_graph;
        };
        let settled = index.settled.len();
        let outgrown = GROWN_MIN <= index.grown() && settled < 4 * index.grown();
        !wants_graph || outgrown || live.count() * 3 < settled * 2
    }

    fn writer(&self) -> Result<MutexGuard<'_, Option<Writer>>, GalleryError> {
        // Poisoned: a write may be on the disk and not in memory.
        let unusable = |_poisoned| GalleryError::Unusable {
            path: self.path.clone(),
        };
        self.writer.lock().map_err(unusable)
    }

    fn writable<'a>(&self, writer: &'a mut Option<Writer>) -> Result<&'a mut Writer, GalleryError> {
        writer.as_mut().ok_or_else(|| GalleryError::ReadOnly {
            path: self.path.clone(),
        })
    }

    /// The state that the next write starts from, with its generation counted up.
    fn state(&self) -> State {
        let now = self.current.load();
        State {
            items: now.len,
            generation: now.generation + 1,
            digest: now.digest,
        }
    }

    /// Shows what has been written to the disk.
    fn apply(&self, rows: Vec<NewRow>, removed: &[String], generation: u64) {
        let index = self.current.load().index.clone();
        let mut catalogue = self
            .catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let upserted = rows.iter().map(|row| &row.item.id);
        let gone = removed.iter().chain(upserted);
        let gone = gone.filter_map(|id| catalogue.find(id).map(|place| place.slot));
        let index = index.map(|(index, live)| {
            let live = without(&live, gone.filter_map(|slot| index.settled.row(slot)));
            (index, live)
        });
        removed.iter().for_each(|id| catalogue.remove(id));
        let mut added = Vec::with_capacity(rows.len());
        for NewRow {
            number,
            item,
            checksum,
            ..
        } in rows
        {
            added.push(catalogue.put(item, number, checksum));
        }
        let snapshot = Snapshot::of(&catalogue, self.about.dimension, generation, index);
        drop(catalogue);
        if let Some((index, _)) = &snapshot.index {
            added
                .iter()
                .for_each(|(slot, vector)| index.insert(*slot, vector));
        }
        self.current.store(Arc::new(snapshot));
    }

    fn out_of_rows(&self) -> GalleryError {
        let what = "its row numbers are used up".to_owned();
        GalleryError::Damaged {
            path: self.path.clone(),
            what,
        }
    }
}

/// From so many items enrolled since, an index is outgrown by a quarter of its size.
const GROWN_MIN: usize = 1_000;

/// How many times longer an item takes to join a settled index than to be built into one.
const JOINING_COST: usize = 13;

/// An index, and which of its settled rows are there.
type Indexed = (Arc<Index>, Arc<Bits>);

/// The index of the items, from its file where that is right and not outgrown.
fn open_index(
    catalogue: &Catalogue,
    gallery: &Path,
    (dimension, params): (usize, IndexParams),
    writable: bool,
) -> Result<Option<Indexed>, GalleryError> {
    let items = catalogue.len();
    if items < params.graph_from_items {
        return Ok(None);
    }
    let settling = catalogue.settling();
    let file = index_file(gallery);
    if file.exists() {
        let slots: HashMap<&Hash, usize> =
            settling.iter().map(|item| (&item.key, item.slot)).collect();
        let find = |key: &Hash| slots.get(key).copied();
        match Settled::load(&file, (dimension, params), find) {
            Ok(settled) => {
                let (rows, live) = (settled.len(), settled.live().count());
                if (items - live.min(items)) * JOINING_COST <= rows && rows * 2 <= live * 3 {
                    return Ok(Some(joined(settled, catalogue, params)));
                }
            }
            Err(problem) => {
                tracing::warn!(file = %file.display(), problem, "the index is built anew");
            }
        }
    }
    let settled = Settled::build(&settling, params)?;
    drop(settling);
    if writable {
        save(&settled, gallery);
    }
    Ok(Some(joined(settled, catalogue, params)))
}

/// Adds the items that are not settled, and takes out the rows whose items are gone.
fn joined(settled: Settled, catalogue: &Catalogue, params: IndexParams) -> Indexed {
    let mut live = Bits::none(settled.len());
    let index = Index::new(settled, params);
    for item in catalogue.settling() {
        match index.settled.row(item.slot) {
            Some(row) => live.set(row, true),
            None => index.insert(item.slot, &item.vector),
        }
    }
    (Arc::new(index), Arc::new(live))
}

/// The rows without some.
fn without(live: &Arc<Bits>, gone: impl Iterator<Item = usize>) -> Arc<Bits> {
    let mut live = Arc::clone(live);
    for row in gone {
        Arc::make_mut(&mut live).set(row, false);
    }
    live
}

/// The index is derived: without its file, opening takes longer and nothing is lost.
fn save(settled: &Settled, gallery: &Path) {
    let file = index_file(gallery);
    if let Err(cause) = settled.save(&file) {
        tracing::warn!(file = %file.display(), %cause, "the index was not saved");
    }
}

fn index_file(gallery: &Path) -> PathBuf {
    gallery.with_extension("graph")
}

fn new_row(item: Item) -> NewRow {
    let embedding = item.embedding_bytes();
    let checksum = item.checksum(&embedding);
    NewRow {
        number: 0,
        item,
        embedding,
        checksum,
    }
}

fn file_error(path: &Path, source: std::io::Error) -> GalleryError {
    let path = path.to_path_buf();
    if source.kind() == std::io::ErrorKind::NotFound {
        return GalleryError::NotFound { path };
    }
    GalleryError::File {
        path,
        doing: "find",
        source,
    }
}
