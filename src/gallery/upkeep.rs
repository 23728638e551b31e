//! Keeping the index in step with the items: opening, linking, building anew, checking.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use crate::gallery::catalogue::Catalogue;
use crate::gallery::error::GalleryError;
use crate::gallery::graph::{Index, IndexParams};
use crate::gallery::item::{Hash, ItemHead, embedding_bytes};
use crate::gallery::originals::Vector;
use crate::gallery::settled::{Settled, Stored, unfinished};
use crate::gallery::snapshot::{Indexed, Snapshot};
use crate::gallery::store::Store;
use crate::gallery::{Gallery, State};
use crate::index::bits::Bits;
use crate::vector::Embedding;

/// From so many items enrolled since, an index is outgrown by a quarter of its size.
const GROWN_MIN: usize = 1_000;

/// From so many items more, the index is built anew: that is many times faster for each of them than
/// linking it.
const UNLINKED_TOO_MANY: usize = 8_192;

/// How many times longer an item takes to join a settled index than to be built into one.
const JOINING_COST: usize = 13;

impl Gallery {
    /// Builds the index anew from the current items: without points that are gone, and with a
    /// graph, or without one, as the present number of items asks for. Searches and writes go on
    /// meanwhile. Its file is written where this handle may write.
    ///
    /// # Errors
    /// [`GalleryError::Unusable`] after an earlier failure.
    pub fn reindex(&self) -> Result<(), GalleryError> {
        let unusable = |_poisoned| GalleryError::Unusable {
            path: self.path.clone(),
        };
        let _only_one = self.building.lock().map_err(unusable)?;
        let (items, first) = {
            let catalogue = self.catalogue();
            (catalogue.settling(), catalogue.next_slot())
        };
        let built = if items.len() < self.params.graph_from_items {
            None
        } else {
            let file = self.writer()?.is_some().then(|| index_file(&self.path));
            let build = || Settled::build(&items, self.params, file.as_deref());
            // Searches go on meanwhile: half of the cores are theirs.
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let settled = pool.map_or_else(|_no_threads| build(), |pool| pool.install(build))?;
            let index = Index::new(settled, first, self.params);
            catch_up(&index, || self.snapshot());
            Some(Arc::new(index))
        };
        drop(items);
        // No write from here on, until the new index is there.
        let _no_write = self.writer()?;
        let mut catalogue = self
            .catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let index = built.map(|index| joined(index, &mut catalogue, self.about.dimension));
        let generation = self.snapshot().generation();
        let renewed = Snapshot::of(&catalogue, self.about.dimension, generation, index);
        self.current.store(Arc::new(renewed));
        Ok(())
    }

    /// Whether [`Gallery::reindex`] would help: the number of items has crossed
    /// [`IndexParams::graph_from_items`] since opening, a third of what is settled is gone, a
    /// quarter as much has been enrolled since, or too much of that waits to be linked.
    #[must_use]
    pub fn reindex_is_due(&self) -> bool {
        let now = self.current.load();
        let wants_graph = self.params.graph_from_items <= now.len();
        let Some((index, live)) = &now.index else {
            return wants_graph;
        };
        let settled = index.settled.len();
        let grown = index.points().max(now.len().saturating_sub(live.count()));
        let outgrown = GROWN_MIN <= grown && settled < 4 * grown;
        let unlinked = self.params.unlinked_max(self.about.dimension);
        let waiting = || now.slots_from(index.linked()).count();
        !wants_graph
            || outgrown
            || live.count() * 3 < settled * 2
            || (unlinked + UNLINKED_TOO_MANY <= grown && unlinked + UNLINKED_TOO_MANY <= waiting())
    }

    /// Links at most `most` of the items that searches compare one by one, where they are many, and
    /// returns how many are left that should be linked. Searches and writes go on meanwhile.
    pub fn link(&self, most: usize) -> usize {
        let now = self.current.load_full();
        let Some((index, _)) = &now.index else {
            return 0;
        };
        link(index, &now, most).saturating_sub(index.params().unlinked_max(now.dimension))
    }

    /// Computes the checksums of at most `most` items as searches see them, from the one after
    /// `after_id` on in order of id. Returns the last of them; `None` after the last of all.
    ///
    /// # Errors
    /// [`GalleryError::Changed`] names the item whose vector is no longer what was stored.
    pub fn check_items(
        &self,
        after_id: Option<&str>,
        most: usize,
    ) -> Result<Option<String>, GalleryError> {
        let items: Vec<(Arc<ItemHead>, Vector, Hash)> = {
            let catalogue = self.catalogue();
            let items = catalogue.checksums(after_id).take(most);
            items
                .map(|(slot, sum)| (Arc::clone(&slot.head), slot.vector.clone(), *sum))
                .collect()
        };
        for (head, vector, checksum) in &items {
            if head.checksum(&embedding_bytes(vector)) != *checksum {
                return Err(GalleryError::Changed {
                    id: head.id.clone(),
                    path: index_file(&self.path),
                });
            }
        }
        Ok(items.last().map(|(head, ..)| head.id.clone()))
    }
}

/// Links what was enrolled while the index was built, unless that grows faster.
fn catch_up(index: &Index, now: impl Fn() -> Arc<Snapshot>) {
    let mut before = usize::MAX;
    loop {
        let now = now();
        let most = index.params().unlinked_max(now.dimension);
        let waiting = link(index, &now, most);
        if waiting <= most || before <= waiting {
            return;
        }
        before = waiting;
    }
}

/// Links the oldest of the items that wait, and returns how many there were.
fn link(index: &Index, now: &Snapshot, most: usize) -> usize {
    let waiting = now.slots_from(index.linked()).count();
    let linked = waiting
        .saturating_sub(index.params().unlinked_max(now.dimension))
        .min(most);
    for (number, slot) in now.slots_from(index.linked()).take(linked) {
        index.link(number, &slot.vector);
    }
    waiting
}

/// Puts the vectors of what is settled into the map, and says which rows are there.
fn joined(index: Arc<Index>, catalogue: &mut Catalogue, dimension: usize) -> Indexed {
    for (slot, vector) in index.settled.mapped() {
        catalogue.move_vector(slot, vector);
    }
    let mut live = Bits::none(index.settled.len());
    for row in 0..index.settled.len() {
        let slot = index.settled.slot(row);
        live.set(row, slot.is_some_and(|slot| catalogue.slot(slot).is_some()));
    }
    catalogue.drop_codes_before(index.first());
    catalogue.encode_from(index.first(), dimension);
    (index, Arc::new(live))
}

/// Reads and verifies every item, and takes the index from its file where that is right and not
/// outgrown.
pub(super) fn load(
    store: &mut Store,
    gallery: &Path,
    params: IndexParams,
    writable: bool,
) -> Result<(Catalogue, State, Option<Indexed>), GalleryError> {
    let dimension = store.about().dimension;
    let wants_graph = params.graph_from_items <= store.items();
    let file = index_file(gallery);
    if writable {
        // What a crash left of an index that was being written; there may be none.
        drop(std::fs::remove_file(unfinished(&file)));
    }
    let mut stored = None;
    if wants_graph && file.exists() {
        let opened = Stored::open(&file, (dimension, params));
        stored = opened
            .inspect_err(|problem| built_anew(&file, problem))
            .ok();
    }
    let mut catalogue = Catalogue::default();
    // Behind the others, so that all slots from one on hold what is not settled.
    let mut later: Vec<(ItemHead, Embedding, i64, Hash)> = Vec::new();
    let mut later_ids = HashSet::new();
    let state = store.load(|(head, embedding), row, checksum| {
        let new = catalogue.find(&head.id).is_none() && !later_ids.contains(&head.id);
        let kept = stored
            .as_mut()
            .map(|stored| stored.find(&checksum, embedding.as_slice()));
        match kept {
            None => {
                catalogue.put((head, in_memory(&embedding)), row, checksum);
            }
            Some(Some((place, vector))) => {
                let slot = catalogue.put((head, vector), row, checksum);
                if let Some(stored) = &mut stored {
                    stored.settle(place, slot);
                }
            }
            Some(None) => {
                later_ids.insert(head.id.clone());
                later.push((head, embedding, row, checksum));
            }
        }
        new
    })?;
    let first = catalogue.next_slot();
    for (head, embedding, row, checksum) in later {
        catalogue.put((head, in_memory(&embedding)), row, checksum);
    }
    if catalogue.len() < params.graph_from_items {
        return Ok((catalogue, state, None));
    }
    let settled = stored.and_then(|stored| {
        let (rows, live, items) = (stored.rows(), stored.live(), catalogue.len());
        let settled = stored.finish();
        let settled = settled.inspect_err(|problem| built_anew(&file, problem));
        let outgrown = rows < (items - live.min(items)) * JOINING_COST || live * 3 < rows * 2;
        settled.ok().filter(|_| !outgrown)
    });
    let (settled, first) = match settled {
        Some(settled) => (settled, first),
        None => {
            let file = writable.then_some(&*file);
            let settled = Settled::build(&catalogue.settling(), params, file)?;
            (settled, catalogue.next_slot())
        }
    };
    let index = Arc::new(Index::new(settled, first, params));
    let index = joined(index, &mut catalogue, dimension);
    Ok((catalogue, state, Some(index)))
}

fn in_memory(embedding: &Embedding) -> Vector {
    Vector::in_memory(embedding.as_slice().into())
}

/// The index is derived: without its file, opening takes longer and nothing is lost.
fn built_anew(file: &Path, problem: &str) {
    tracing::warn!(file = %file.display(), problem, "the index is built anew");
}

fn index_file(gallery: &Path) -> PathBuf {
    gallery.with_extension("graph")
}
