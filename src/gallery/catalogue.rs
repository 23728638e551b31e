//! What the writer knows: every item by id, and the blocks that snapshots share.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::gallery::item::{ContentSum, Hash, Item, ItemHead};
use crate::gallery::settled::Settling;
use crate::gallery::snapshot::{BLOCK_SLOTS, Block, Slot};

/// Where an item is kept.
pub(super) struct Place {
    /// Its number in memory: newer items have higher ones, and none is used twice.
    pub(super) slot: usize,
    /// Its number in the database.
    pub(super) row: i64,
    pub(super) checksum: Hash,
    pub(super) head: Arc<ItemHead>,
}

/// The current items. Blocks are shared with snapshots and copied before they change.
#[derive(Default)]
pub(super) struct Catalogue {
    places: BTreeMap<String, Place>,
    labels: HashMap<String, usize>,
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) sum: ContentSum,
    /// The highest row number in use, or 0.
    pub(super) last_row: i64,
}

impl Catalogue {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn label_count(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn find(&self, id: &str) -> Option<&Place> {
        self.places.get(id)
    }

    pub(super) fn item(&self, id: &str) -> Option<(Arc<ItemHead>, Arc<[f32]>)> {
        let slot = self.find(id)?.slot;
        let block = self.blocks.get(slot / BLOCK_SLOTS)?;
        let slot = block.get(slot % BLOCK_SLOTS)?.as_ref()?;
        Some((Arc::clone(&slot.head), Arc::clone(&slot.vector)))
    }

    /// What an index is built of, in order of id.
    pub(super) fn settling(&self) -> Vec<Settling> {
        let items = self.places.values().filter_map(|place| {
            let block = self.blocks.get(place.slot / BLOCK_SLOTS)?;
            let slot = block.get(place.slot % BLOCK_SLOTS)?.as_ref()?;
            Some(Settling {
                key: place.checksum,
                slot: place.slot,
                vector: Arc::clone(&slot.vector),
            })
        });
        items.collect()
    }

    /// At most `limit` items in order of id, those after `after_id`.
    pub(super) fn page(&self, after_id: Option<&str>, limit: usize) -> Vec<Arc<ItemHead>> {
        let start = after_id.map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.places.range::<str, _>((start, Bound::Unbounded));
        following
            .take(limit)
            .map(|(_, place)| Arc::clone(&place.head))
            .collect()
    }

    /// Takes an item in, in place of one with the same id; returns its slot and its vector.
    pub(super) fn put(&mut self, item: Item, row: i64, checksum: Hash) -> (usize, Arc<[f32]>) {
        self.remove(&item.id);
        let (head, vector) = item.split();
        let slot = self.append(Slot {
            head: Arc::clone(&head),
            vector: Arc::clone(&vector),
        });
        *self.labels.entry(head.label.clone()).or_default() += 1;
        self.sum.add(&checksum);
        self.last_row = self.last_row.max(row);
        self.places.insert(
            head.id.clone(),
            Place {
                slot,
                row,
                checksum,
                head,
            },
        );
        (slot, vector)
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(place) = self.places.remove(id) else {
            return;
        };
        self.sum.subtract(&place.checksum);
        if let Some(count) = self.labels.get_mut(&place.head.label) {
            *count -= 1;
            if *count == 0 {
                self.labels.remove(&place.head.label);
            }
        }
        if let Some(block) = self.blocks.get_mut(place.slot / BLOCK_SLOTS) {
            let slots = Arc::make_mut(block);
            if let Some(slot) = slots.get_mut(place.slot % BLOCK_SLOTS) {
                *slot = None;
            }
            // A block that was full and holds nothing more needs no memory.
            if slots.len() == BLOCK_SLOTS && slots.iter().all(Option::is_none) {
                *block = Arc::default();
            }
        }
    }

    fn append(&mut self, slot: Slot) -> usize {
        let filled = self.blocks.last().is_none_or(|block| {
            // An emptied block has been full before.
            block.is_empty() || block.len() == BLOCK_SLOTS
        });
        if filled {
            self.blocks.push(Arc::new(Vec::with_capacity(BLOCK_SLOTS)));
        }
        let first = (self.blocks.len() - 1) * BLOCK_SLOTS;
        let Some(block) = self.blocks.last_mut().map(Arc::make_mut) else {
            return first;
        };
        block.push(Some(slot));
        first + block.len() - 1
    }
}
