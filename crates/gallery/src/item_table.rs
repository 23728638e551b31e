//! The data of the writer: every item by id, and the blocks that it shares with views.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use crate::base_segment::BaseItem;
use crate::blocks::{BLOCK_SLOTS, ItemSlot, SlotBlock};
use crate::index::scan::CodedRows;
use crate::item::{ContentSum, Hash, ItemHead};
use crate::item_set::{ItemCounts, ItemSet};
use crate::mapped_vectors::Vector;
use matchpoint_vector::kernels::codes::CodeWidth;

/// The location of an item.
pub(super) struct ItemLocation {
    /// Its slot in memory. Newer items have higher slots, and no slot is used twice.
    pub(super) slot: usize,
    /// The number of its row in the database.
    pub(super) row: i64,
    pub(super) checksum: Hash,
}

/// An item as a key: ordered by its id, which is not stored twice.
struct ById(Arc<ItemHead>);

/// The current items. Blocks are shared with views, and copied before they are changed.
#[derive(Default)]
pub(super) struct ItemTable {
    places: BTreeMap<ById, ItemLocation>,
    labels: HashMap<String, usize>,
    pub(super) blocks: Vec<Arc<SlotBlock>>,
    pub(super) sum: ContentSum,
    /// The highest row number in use, or 0.
    pub(super) last_row: i64,
    /// The set of items that these are compared with, and the number of them that are still present.
    compared: Option<(Arc<ItemSet>, ItemCounts)>,
}

impl ItemTable {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn label_count(&self) -> usize {
        self.labels.len()
    }

    /// The number of items of each label.
    pub(super) fn label_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.labels
            .iter()
            .map(|(label, count)| (label.as_str(), *count))
    }

    pub(super) fn has_label(&self, label: &str) -> bool {
        self.labels.contains_key(label)
    }

    /// From now on, counts how many items are also in `set`.
    pub(super) fn compare_with(&mut self, set: Option<Arc<ItemSet>>) {
        self.compared = set.map(|set| {
            let places = self.places.values();
            let kept = places.fold(ItemCounts::default(), |kept, place| {
                kept.with(set.keeps(&place.checksum))
            });
            (set, kept)
        });
    }

    /// The set that is compared with, and the number of its items that are still present unchanged.
    pub(super) fn in_common(&self) -> Option<(Arc<ItemSet>, ItemCounts)> {
        let (set, kept) = self.compared.as_ref()?;
        Some((Arc::clone(set), set.scaled(*kept)))
    }

    pub(super) fn find(&self, id: &str) -> Option<&ItemLocation> {
        self.places.get(id)
    }

    pub(super) fn head(&self, id: &str) -> Option<Arc<ItemHead>> {
        let (ById(head), _) = self.places.get_key_value(id)?;
        Some(Arc::clone(head))
    }

    pub(super) fn item(&self, id: &str) -> Option<(Arc<ItemHead>, Vector)> {
        let slot = self.slot(self.find(id)?.slot)?;
        Some((Arc::clone(&slot.head), slot.vector.clone()))
    }

    /// The checksum of an item, if it is the current one of its id.
    pub(super) fn checksum_of(&self, head: &Arc<ItemHead>) -> Option<Hash> {
        let place = self.find(&head.id)?;
        let is_current = Arc::ptr_eq(&self.slot(place.slot)?.head, head);
        is_current.then_some(place.checksum)
    }

    /// Every item with its checksum, in order of id, from `after_id` on.
    pub(super) fn checksums(
        &self,
        after_id: Option<&str>,
    ) -> impl Iterator<Item = (&ItemSlot, &Hash)> {
        let start = after_id.map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.places.range::<str, _>((start, Bound::Unbounded));
        following.filter_map(|(_, place)| Some((self.slot(place.slot)?, &place.checksum)))
    }

    /// The input for building a base segment, in order of id.
    pub(super) fn base_items(&self) -> Vec<BaseItem> {
        let items = self.places.values().filter_map(|place| {
            Some(BaseItem {
                key: place.checksum,
                slot: place.slot,
                vector: self.slot(place.slot)?.vector.clone(),
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
            .map(|(ById(head), _)| Arc::clone(head))
            .collect()
    }

    /// Adds an item, or replaces the one with the same id; returns its slot.
    pub(super) fn put(
        &mut self,
        head: ItemHead,
        vector: Vector,
        row: i64,
        checksum: Hash,
    ) -> usize {
        self.remove(&head.id);
        let (id, place) = self.take_in(head, vector, row, checksum);
        let slot = place.slot;
        self.places.insert(id, place);
        slot
    }

    /// Adds an item without its id.
    fn take_in(
        &mut self,
        head: ItemHead,
        vector: Vector,
        row: i64,
        checksum: Hash,
    ) -> (ById, ItemLocation) {
        let head = Arc::new(head);
        let slot = self.append(ItemSlot {
            head: Arc::clone(&head),
            vector,
        });
        if let Some(count) = self.labels.get_mut(&head.label) {
            *count += 1;
        } else {
            self.labels.insert(head.label.clone(), 1);
        }
        self.sum.add(&checksum);
        self.last_row = self.last_row.max(row);
        if let Some((set, kept)) = &mut self.compared {
            *kept = kept.with(set.keeps(&checksum));
        }
        let place = ItemLocation {
            slot,
            row,
            checksum,
        };
        (ById(head), place)
    }

    /// Replaces the vector of the item in a slot, if the item still exists, by the same values stored
    /// elsewhere.
    pub(super) fn move_vector(&mut self, slot: usize, vector: Vector) {
        let block = self.blocks.get_mut(slot / BLOCK_SLOTS);
        let there = |block: &&mut Arc<SlotBlock>| {
            block
                .slots
                .get(slot % BLOCK_SLOTS)
                .is_some_and(Option::is_some)
        };
        if let Some(block) = block.filter(there)
            && let Some(Some(slot)) = Arc::make_mut(block).slots.get_mut(slot % BLOCK_SLOTS)
        {
            slot.vector = vector;
        }
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some((ById(head), place)) = self.places.remove_entry(id) else {
            return;
        };
        self.sum.subtract(&place.checksum);
        if let Some((set, kept)) = &mut self.compared {
            *kept = kept.without(set.keeps(&place.checksum));
        }
        if let Some(count) = self.labels.get_mut(&head.label) {
            *count -= 1;
            if *count == 0 {
                self.labels.remove(&head.label);
            }
        }
        if let Some(block) = self.blocks.get_mut(place.slot / BLOCK_SLOTS) {
            let slots = &mut Arc::make_mut(block).slots;
            if let Some(slot) = slots.get_mut(place.slot % BLOCK_SLOTS) {
                *slot = None;
            }
            // A block that was full and is now empty needs no memory any more.
            if slots.len() == BLOCK_SLOTS && slots.iter().all(Option::is_none) {
                *block = Arc::default();
            }
        }
    }

    /// The slot that the next item gets.
    pub(super) fn next_slot(&self) -> usize {
        let first = self.blocks.len().saturating_sub(1) * BLOCK_SLOTS;
        match self.blocks.last() {
            None => 0,
            // Such a block was full before.
            Some(block) if block.slots.is_empty() => first + BLOCK_SLOTS,
            Some(block) => first + block.slots.len(),
        }
    }

    pub(super) fn slot(&self, number: usize) -> Option<&ItemSlot> {
        let block = self.blocks.get(number / BLOCK_SLOTS)?;
        block.slots.get(number % BLOCK_SLOTS)?.as_ref()
    }

    fn append(&mut self, slot: ItemSlot) -> usize {
        let number = self.next_slot();
        if number.is_multiple_of(BLOCK_SLOTS) {
            self.blocks.push(Arc::new(SlotBlock {
                slots: Vec::with_capacity(BLOCK_SLOTS),
                codes: None,
            }));
        }
        if let Some(block) = self.blocks.last_mut() {
            Arc::make_mut(block).slots.push(Some(slot));
        }
        number
    }

    /// Encodes all full blocks without codes, starting with the block of a slot.
    pub(super) fn encode_from(&mut self, first: usize, dimension: usize, width: CodeWidth) {
        for block in self.blocks.iter_mut().skip(first / BLOCK_SLOTS) {
            if block.slots.len() == BLOCK_SLOTS && block.codes.is_none() {
                let rows = block.slots.iter().map(|slot| match slot {
                    Some(slot) => &*slot.vector,
                    None => &[],
                });
                let codes = Arc::new(CodedRows::new(rows, dimension, width));
                Arc::make_mut(block).codes = Some(codes);
            }
        }
    }

    /// Drops the codes of the blocks before that of a slot, because their items are in a base segment.
    pub(super) fn drop_codes_before(&mut self, first: usize) {
        for block in self.blocks.iter_mut().take(first / BLOCK_SLOTS) {
            if block.codes.is_some() {
                Arc::make_mut(block).codes = None;
            }
        }
    }
}

/// Items that are being read. They can be found by id only after all of them were read, so that they are sorted
/// once.
#[derive(Default)]
pub(super) struct ItemTableDraft {
    table: ItemTable,
    places: Vec<(ById, ItemLocation)>,
}

impl ItemTableDraft {
    /// Adds an item; returns its slot.
    pub(super) fn put(
        &mut self,
        head: ItemHead,
        vector: Vector,
        row: i64,
        checksum: Hash,
    ) -> usize {
        let placed = self.table.take_in(head, vector, row, checksum);
        let slot = placed.1.slot;
        self.places.push(placed);
        slot
    }

    /// The slot that the next item gets.
    pub(super) fn next_slot(&self) -> usize {
        self.table.next_slot()
    }

    /// The table of all items.
    ///
    /// # Errors
    /// Returns the number of the first row whose id another row also has.
    pub(super) fn finish(self) -> Result<ItemTable, i64> {
        let Self {
            mut table,
            mut places,
        } = self;
        if !places.is_sorted_by(|(one, _), (other, _)| one < other) {
            let order = |(one, at): &(ById, ItemLocation),
                         (other, there): &(ById, ItemLocation)| {
                one.cmp(other).then(at.row.cmp(&there.row))
            };
            // The global pool would panic if the system cannot start a thread.
            match rayon::ThreadPoolBuilder::new().build() {
                Ok(pool) => pool.install(|| places.par_sort_unstable_by(order)),
                Err(_no_threads) => places.sort_unstable_by(order),
            }
        }
        let repeated = places.windows(2).filter_map(|pair| match pair {
            [(one, _), (other, place)] if one == other => Some(place.row),
            _ => None,
        });
        if let Some(row) = repeated.min() {
            return Err(row);
        }
        table.places = places.into_iter().collect();
        Ok(table)
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ById {}
