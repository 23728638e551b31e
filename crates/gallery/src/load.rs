//! Reads a gallery: every item, and the index, which is read from its file or rebuilt.

use std::path::Path;
use std::sync::Arc;

use crate::base_segment::{BaseSegment, BaseSlots, StoredBaseSegment, StoredMatch};
use crate::error::GalleryError;
use crate::format::{GalleryState, StoredRow};
use crate::gallery_index::GalleryIndex;
use crate::index::bits::Bits;
use crate::item_table::{ItemTable, ItemTableDraft};
use crate::mapped_vectors::Vector;
use crate::params::IndexParams;
use crate::paths::{index_file, unfinished_index};
use crate::store::ItemStore;
use crate::view::LiveIndex;

/// Linking an item into the delta graph takes this many times longer than building it into a base segment.
const JOINING_COST: usize = 13;

/// The content of a gallery when it is opened.
pub(super) struct LoadedGallery {
    pub(super) items: ItemTable,
    pub(super) state: GalleryState,
    /// `None` if there are too few items for one.
    pub(super) index: Option<LiveIndex>,
}

/// What to do if the file of the index is missing, invalid or outgrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutIndexFile {
    /// Build the index and write its file.
    BuildAndWrite,
    /// Build the index in memory.
    Build,
    /// Build nothing, and fail to open.
    Refuse,
}

/// Reads and verifies every item, and reads the index from its file if that is valid and not outgrown.
pub(super) fn load(
    store: &mut ItemStore,
    gallery: &Path,
    params: IndexParams,
    otherwise: WithoutIndexFile,
) -> Result<LoadedGallery, GalleryError> {
    let dimension = store.about().dimension;
    let file = index_file(gallery);
    let writable = otherwise == WithoutIndexFile::BuildAndWrite;
    if writable {
        // Removes the incomplete index that a crash may have left.
        drop(std::fs::remove_file(unfinished_index(&file)));
    }
    let refused = |what: String| GalleryError::IndexFile {
        path: file.clone(),
        what,
    };
    let mut stored = None;
    let mut problem = "it is missing".to_owned();
    if params.wants_graph(store.state().items) && file.exists() {
        let opened = StoredBaseSegment::open(&file, dimension, params);
        match opened {
            Ok(opened) => stored = Some(opened),
            Err(found) => problem = found,
        }
    }
    let mut read = load_items(store, stored.as_ref())?;
    if !params.wants_graph(read.items.len()) {
        return Ok(LoadedGallery {
            items: read.items,
            state: read.state,
            index: None,
        });
    }
    let base = match stored {
        None => Err(problem),
        Some(stored) if is_outgrown(stored.rows(), read.slots.live(), read.items.len()) => {
            Err("too much was enrolled or removed since it was built".to_owned())
        }
        Some(_) if read.differs => Err("a vector differs from that of its item".to_owned()),
        Some(stored) => Ok(stored.finish(read.slots)),
    };
    let (base, first) = match base {
        Ok(base) => (base, read.first),
        Err(problem) if otherwise == WithoutIndexFile::Refuse => return Err(refused(problem)),
        Err(problem) => {
            if file.exists() {
                warn_rebuilt(&file, &problem);
            }
            let file = writable.then_some(&*file);
            let base = BaseSegment::build(&read.items.base_items(), params, file)?;
            (base, read.items.next_slot())
        }
    };
    let index = Arc::new(GalleryIndex::new(base, first, params));
    let index = joined(index, &mut read.items, dimension);
    Ok(LoadedGallery {
        items: read.items,
        state: read.state,
        index: Some(index),
    })
}

/// All items, and how well a stored index fits them.
struct LoadedItems {
    items: ItemTable,
    state: GalleryState,
    /// The slots of the items in the index's rows.
    slots: BaseSlots,
    /// The first slot of the delta.
    first: usize,
    /// Whether an item has another vector than in the index.
    differs: bool,
}

/// The location of a vector that was read.
enum ReadVector {
    /// In this row of the index.
    Stored(u32),
    /// In memory, because the index has no vector or another one for the item.
    InMemory { vector: Vector, differs: bool },
}

/// Reads every item: first those of the base segment, then the delta.
fn load_items(
    store: &mut ItemStore,
    stored: Option<&StoredBaseSegment>,
) -> Result<LoadedItems, GalleryError> {
    let examine = |row: StoredRow| {
        let values = row.embedding.as_slice();
        let found = stored.and_then(|stored| stored.find(&row.checksum, values));
        let vector = match found {
            Some(StoredMatch::Same(row)) => ReadVector::Stored(row),
            other => ReadVector::InMemory {
                vector: Vector::in_memory(values.into()),
                differs: other.is_some(),
            },
        };
        (row.head, vector)
    };
    let mut items = ItemTableDraft::default();
    let mut slots = BaseSlots::none(stored.map_or(0, StoredBaseSegment::rows));
    let mut differs = false;
    // These are added at the end, so that the delta has all slots from some slot on.
    let mut delta = Vec::new();
    let state = store.load(examine, |row| {
        let (head, vector) = row.found;
        match (vector, stored) {
            (ReadVector::Stored(at), Some(stored)) => {
                let slot = items.put(head, stored.vector(at), row.number, row.checksum);
                slots.set(at, slot);
            }
            (
                ReadVector::InMemory {
                    vector,
                    differs: other,
                },
                Some(_),
            ) => {
                differs |= other;
                delta.push((head, vector, row.number, row.checksum));
            }
            (ReadVector::InMemory { vector, .. }, None) => {
                items.put(head, vector, row.number, row.checksum);
            }
            (ReadVector::Stored(_), None) => {}
        }
    })?;
    let first = items.next_slot();
    for (head, vector, number, checksum) in delta {
        items.put(head, vector, number, checksum);
    }
    let items = items.finish().map_err(|number| store.repeated(number))?;
    Ok(LoadedItems {
        items,
        state,
        slots,
        first,
        differs,
    })
}

/// Whether a new base segment would take less time than linking the items that this one lacks, or whether too
/// many of its items were removed.
fn is_outgrown(rows: usize, live: usize, items: usize) -> bool {
    rows < (items - live.min(items)) * JOINING_COST || live * 3 < rows * 2
}

/// The index is derived data. Without its file, opening takes longer but nothing is lost.
fn warn_rebuilt(file: &Path, problem: &str) {
    tracing::warn!(file = %file.display(), problem, "the index is rebuilt");
}

/// Uses the mapped vectors of the base segment, and marks which of its rows exist.
pub(super) fn joined(
    index: Arc<GalleryIndex>,
    item_table: &mut ItemTable,
    dimension: usize,
) -> LiveIndex {
    for (slot, vector) in index.base.mapped() {
        item_table.move_vector(slot, vector);
    }
    let mut live = Bits::none(index.base.len());
    for row in 0..index.base.len() {
        let slot = index.base.slot(row);
        live.set(
            row,
            slot.is_some_and(|slot| item_table.slot(slot).is_some()),
        );
    }
    item_table.drop_codes_before(index.first());
    item_table.encode_from(index.first(), dimension, index.width());
    (index, Arc::new(live))
}
