//! Keeps the index up to date with the items: linking, rebuilding, checking.

use std::sync::{Arc, PoisonError};

use crate::Gallery;
use crate::base_segment::BaseSegment;
use crate::error::GalleryError;
use crate::gallery_index::GalleryIndex;
use crate::identity::FileIdentity;
use crate::item::{Hash, ItemHead, embedding_bytes};
use crate::load::joined;
use crate::mapped_vectors::Vector;
use crate::paths::index_file;
use crate::store::ItemStore;
use crate::view::GalleryView;

/// From this number of items on, the index is rebuilt when the delta reaches a quarter of the base segment.
const DELTA_MIN: usize = 1_000;

/// From this number of unlinked items on, the index is rebuilt, because that takes far less time for each item
/// than linking.
const UNLINKED_TOO_MANY: usize = 8_192;

impl Gallery {
    /// Rebuilds the index from the current items, without removed points, and with or without a graph as the
    /// present number of items requires. Searches and writes continue meanwhile. Its file is written if this
    /// handle can write.
    ///
    /// # Errors
    /// Returns [`GalleryError::Unusable`] after an earlier failure.
    pub fn reindex(&self) -> Result<(), GalleryError> {
        let unusable = |_poisoned| GalleryError::Unusable {
            path: self.path.clone(),
        };
        let _only_one = self.building.lock().map_err(unusable)?;
        let (items, first) = {
            let item_table = self.item_table();
            (item_table.base_items(), item_table.next_slot())
        };
        let built = if !self.params.wants_graph(items.len()) {
            None
        } else {
            let file = self.writer()?.is_some().then(|| index_file(&self.path));
            let build = || BaseSegment::build(&items, self.params, file.as_deref());
            // Half of the cores are left to searches, which continue meanwhile.
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let base = pool.map_or_else(|_no_threads| build(), |pool| pool.install(build))?;
            let index = GalleryIndex::new(base, first, self.params);
            catch_up(&index, || self.view());
            Some(Arc::new(index))
        };
        drop(items);
        // Writes wait until the new index is in place.
        let _no_write = self.writer()?;
        let mut item_table = self
            .item_table
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let index = built.map(|index| joined(index, &mut item_table, self.about.dimension));
        let generation = self.view().generation();
        let renewed = self.view_of(&item_table, generation, index);
        self.current.store(Arc::new(renewed));
        Ok(())
    }

    /// Whether [`Gallery::reindex`] would help: the number of items has crossed
    /// [`crate::params::IndexParams::graph_from_items`] since opening, a third of the base segment was removed,
    /// the delta has a quarter of its size, or too many items of the delta are not linked.
    #[must_use]
    pub fn reindex_is_due(&self) -> bool {
        let now = self.current.load();
        let wants_graph = self.params.wants_graph(now.len());
        let Some((index, live)) = &now.index else {
            return wants_graph;
        };
        let base = index.base.len();
        let delta_items = index.points().max(now.len().saturating_sub(live.count()));
        let outgrown = DELTA_MIN <= delta_items && base < 4 * delta_items;
        let unlinked = index.unlinked_max(self.about.dimension);
        let waiting = || now.slots_from(index.linked()).count();
        !wants_graph
            || outgrown
            || live.count() * 3 < base * 2
            || (unlinked + UNLINKED_TOO_MANY <= delta_items
                && unlinked + UNLINKED_TOO_MANY <= waiting())
    }

    /// Links at most `most` of the items that searches compare one by one, if there are many of them. Returns
    /// how many still have to be linked. Searches and writes continue meanwhile.
    pub fn link(&self, most: usize) -> usize {
        let now = self.current.load_full();
        let Some((index, _)) = &now.index else {
            return 0;
        };
        link(index, &now, most).saturating_sub(index.unlinked_max(now.dimension))
    }

    /// Checks that the file is still at its path.
    ///
    /// # Errors
    /// Returns [`GalleryError::Damaged`] if it was removed, moved or replaced.
    pub fn check_place(&self) -> Result<(), GalleryError> {
        match FileIdentity::of(&self.path) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) | Err(_) => Err(GalleryError::Damaged {
                path: self.path.clone(),
                what: "it was removed, moved or replaced while it was open, and what is enrolled would be lost; \
                       before the server is stopped, save its items by asking it for them"
                    .to_owned(),
            }),
        }
    }

    /// Whether another process has changed the items in the file since they were read.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn is_outdated(&self) -> Result<bool, GalleryError> {
        Ok(ItemStore::stored_digest(&self.path)? != self.view().digest_bytes())
    }

    /// Compares an item that a search found with its checksum. An item that was replaced meanwhile passes,
    /// because its checksum is no longer known.
    ///
    /// # Errors
    /// Returns [`GalleryError::Changed`] if the item differs from what was stored.
    pub fn check_item(&self, head: &Arc<ItemHead>, vector: &Vector) -> Result<(), GalleryError> {
        let stored = self.item_table().checksum_of(head);
        let is_whole = |sum| head.checksum(&embedding_bytes(vector)) == sum;
        if stored.is_none_or(is_whole) {
            return Ok(());
        }
        Err(GalleryError::Changed {
            id: head.id.clone(),
            path: index_file(&self.path),
        })
    }

    /// Reads at most `most` items after row `after` from the disk, and compares them with their checksums.
    /// Returns the last row; `None` at the end, and if the file is busy.
    ///
    /// # Errors
    /// Returns [`GalleryError::Damaged`], which names the row, if one differs from what was stored.
    pub fn check_stored(&self, after: i64, most: usize) -> Result<Option<i64>, GalleryError> {
        match ItemStore::check_rows(&self.path, &self.about, after, most) {
            Err(error @ GalleryError::Damaged { .. }) => Err(error),
            Err(_busy) => Ok(None),
            Ok(last) => Ok(last),
        }
    }

    /// Compares at most `most` items in memory with their checksums, in order of id after `after_id`. Returns
    /// the last id; `None` at the end.
    ///
    /// # Errors
    /// Returns [`GalleryError::Changed`], which names the item, if a vector differs from what was stored.
    pub fn check_items(
        &self,
        after_id: Option<&str>,
        most: usize,
    ) -> Result<Option<String>, GalleryError> {
        let items: Vec<(Arc<ItemHead>, Vector, Hash)> = {
            let item_table = self.item_table();
            let items = item_table.checksums(after_id).take(most);
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

/// Links the items that were enrolled while the index was built, unless more arrive than are linked.
fn catch_up(index: &GalleryIndex, now: impl Fn() -> Arc<GalleryView>) {
    let mut before = usize::MAX;
    loop {
        let now = now();
        let most = index.unlinked_max(now.dimension);
        let waiting = link(index, &now, most);
        if waiting <= most || before <= waiting {
            return;
        }
        before = waiting;
    }
}

/// Links the oldest unlinked items; returns their number.
fn link(index: &GalleryIndex, now: &GalleryView, most: usize) -> usize {
    let waiting = now.slots_from(index.linked()).count();
    let linked = waiting
        .saturating_sub(index.unlinked_max(now.dimension))
        .min(most);
    for (number, slot) in now.slots_from(index.linked()).take(linked) {
        index.link(number, &slot.vector);
    }
    waiting
}
