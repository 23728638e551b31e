//! Items in memory, in blocks that the writer and its views share.

use std::sync::Arc;

use crate::index::scan::CodedRows;
use crate::item::ItemHead;
use crate::mapped_vectors::Vector;

/// One item in memory.
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
    /// The vectors as codes, once the block is full and if no base segment has them.
    pub(super) codes: Option<Arc<CodedRows>>,
}

/// Slots per block. A write copies the pointers of the blocks it touches and the list of blocks.
pub(super) const BLOCK_SLOTS: usize = 128;
