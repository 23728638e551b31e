//! Keeping the index in step with the items: new segments, rebuilding, checking.

use std::sync::{Arc, PoisonError};

use crate::Gallery;
use crate::error::GalleryError;
use crate::gallery_index::GalleryIndex;
use crate::identity::FileIdentity;
use crate::item::{Hash, ItemHead, embedding_bytes};
use crate::load::joined;
use crate::mapped_vectors::Vector;
use crate::paths::index_file;
use crate::segment::{Segment, SegmentItem};
use crate::store::ItemStore;
use crate::view::GalleryView;

/// From this many items on, a delta of a quarter of the base segment's size makes a rebuild due.
const DELTA_MIN: usize = 1_000;

/// Items that wait to become a segment of the index. Holds nothing that keeps the gallery open.
pub struct DeltaWork {
    index: Arc<GalleryIndex>,
    view: Arc<GalleryView>,
}

impl DeltaWork {
    /// Builds the segment, on half of the cores; searches and writes go on meanwhile.
    ///
    /// # Errors
    /// The index refuses its vectors.
    pub fn run(self) -> Result<(), GalleryError> {
        let Self { index, view } = self;
        let items = |from| segment_items(&view, from);
        Ok(on_half_of_the_cores(|| index.link(items, view.end()))?)
    }
}

impl Gallery {
    /// Rebuilds the index from the current items: without removed points, and with or without a graph, as
    /// the present number of items requires. Searches and writes go on meanwhile. Its file is written if
    /// this handle may write.
    ///
    /// # Errors
    /// [`GalleryError::Unusable`] after an earlier failure.
    pub fn reindex(&self) -> Result<(), GalleryError> {
        let unusable = |_poisoned| GalleryError::Unusable {
            path: self.path.clone(),
        };
        let _only_one = self.building.lock().map_err(unusable)?;
        let (items, first) = {
            let item_table = self.item_table();
            (item_table.base_items(), item_table.next_slot())
        };
        let built = if items.len() < self.params.graph_from_items {
            None
        } else {
            let file = self.writer()?.is_some().then(|| index_file(&self.path));
            let build = || Segment::build(&items, self.params, file.as_deref());
            let base = on_half_of_the_cores(build)?;
            let index = Arc::new(GalleryIndex::new(base, first, self.params));
            catch_up(&index, || self.view())?;
            Some(index)
        };
        drop(items);
        // No writes until the new index is in place.
        let _no_write = self.writer()?;
        let mut item_table = self
            .item_table
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let index = built.map(|index| joined(index, &mut item_table, self.about.dimension));
        let generation = self.view().generation();
        let renewed = GalleryView::of(&item_table, self.about.dimension, generation, index);
        self.current.store(Arc::new(renewed));
        Ok(())
    }

    /// Whether [`Gallery::reindex`] would help: the number of items has crossed
    /// [`crate::params::IndexParams::graph_from_items`] since opening, a third of
    /// the base segment is gone, or the delta is a quarter of its size.
    #[must_use]
    pub fn reindex_is_due(&self) -> bool {
        let now = self.current.load();
        let wants_graph = self.params.graph_from_items <= now.len();
        let Some((index, live)) = &now.index else {
            return wants_graph;
        };
        let base = index.base.len();
        let delta_items = index.points().max(now.len().saturating_sub(live.count()));
        let outgrown = DELTA_MIN <= delta_items && base < 4 * delta_items;
        !wants_graph || outgrown || live.count() * 3 < base * 2
    }

    /// The items that searches compare one by one, if they are so many that they had better be a segment of the index.
    #[must_use]
    pub fn delta_work(&self) -> Option<DeltaWork> {
        let view = self.current.load_full();
        let (index, _) = view.index.as_ref()?;
        let index = Arc::clone(index);
        let waiting = view.slots_from(index.delta().linked()).count();
        (index.unlinked_max(view.dimension) < waiting).then_some(DeltaWork { index, view })
    }

    /// Checks that the file is still where it was opened.
    ///
    /// # Errors
    /// [`GalleryError::Damaged`] if it was removed, moved or replaced.
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

    /// Compares an item, as a search found it, with its checksum. An item that was replaced meanwhile
    /// passes: its checksum is no longer known.
    ///
    /// # Errors
    /// [`GalleryError::Changed`] if it is no longer what was stored.
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

    /// Reads at most `most` items from the disk, those after row `after`, and compares them with their
    /// checksums. Returns the last row; `None` at the end, and if the file is busy.
    ///
    /// # Errors
    /// [`GalleryError::Damaged`] names the row that is no longer what was stored.
    pub fn check_stored(&self, after: i64, most: usize) -> Result<Option<i64>, GalleryError> {
        match ItemStore::check_rows(&self.path, &self.about, after, most) {
            Err(error @ GalleryError::Damaged { .. }) => Err(error),
            Err(_busy) => Ok(None),
            Ok(last) => Ok(last),
        }
    }

    /// Computes the checksums of at most `most` items as searches see them, those after `after_id` in order
    /// of id. Returns the last of them; `None` at the end.
    ///
    /// # Errors
    /// [`GalleryError::Changed`] names the item whose vector is no longer what was stored.
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

/// Takes in what was enrolled while the index was built, unless that grows faster.
fn catch_up(
    index: &Arc<GalleryIndex>,
    now: impl Fn() -> Arc<GalleryView>,
) -> Result<(), GalleryError> {
    let mut before = usize::MAX;
    loop {
        let view = now();
        let waiting = view.slots_from(index.delta().linked()).count();
        if waiting <= index.unlinked_max(view.dimension) || before <= waiting {
            return Ok(());
        }
        before = waiting;
        let index = Arc::clone(index);
        DeltaWork { index, view }.run()?;
    }
}

/// The items of a view from a slot on.
fn segment_items(view: &GalleryView, from: usize) -> Vec<SegmentItem> {
    let items = view.slots_from(from).map(|(slot, item)| SegmentItem {
        // The segment has no file, where the key would tell whose row it is.
        key: Hash::default(),
        slot,
        vector: item.vector.clone(),
    });
    items.collect()
}

/// Searches go on meanwhile: half of the cores are theirs.
fn on_half_of_the_cores<T: Send>(build: impl FnOnce() -> T + Send) -> T {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(build),
        Err(_no_threads) => build(),
    }
}
