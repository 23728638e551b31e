//! Items in memory, in blocks that the writer shares with its views.

use std::sync::Arc;

use crate::index::scan::CodedRows;
use crate::item::ItemHead;
use crate::mapped_vectors::Vector;

/// An item in memory.
#[derive(Clone)]
pub(super) struct ItemSlot {
    pub(super) head: Arc<ItemHead>,
    pub(super) vector: Vector,
}

/// Consecutive slots.
#[derive(Clone, Default)]
pub(super) struct SlotBlock {
    /// `None` if the item was deleted or replaced.
    pub(super) slots: Vec<Option<ItemSlot>>,
    /// The vectors as codes; present once the block is full, unless a base segment has them.
    pub(super) codes: Option<Arc<CodedRows>>,
}

/// Number of slots in a block. A write copies the pointers of the changed blocks and the list of blocks.
pub(super) const BLOCK_SLOTS: usize = 128;
