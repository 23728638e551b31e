//! Reading a gallery: every item, and the index from its file or rebuilt.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::base_segment::{BaseSegment, StoredBaseSegment};
use crate::error::GalleryError;
use crate::format::{GalleryState, StoredRow};
use crate::gallery_index::GalleryIndex;
use crate::index::bits::Bits;
use crate::item_table::ItemTable;
use crate::mapped_vectors::Vector;
use crate::params::IndexParams;
use crate::paths::{index_file, unfinished_index};
use crate::store::ItemStore;
use crate::view::LiveIndex;

/// How many times longer it takes to link an item into the delta graph than to build it into a base
/// segment.
const JOINING_COST: usize = 13;

/// What a gallery holds when it is opened.
pub(super) struct LoadedGallery {
    pub(super) items: ItemTable,
    pub(super) state: GalleryState,
    /// `None` if there are too few items for one.
    pub(super) index: Option<LiveIndex>,
}

/// What to do if the index's file is missing, wrong or outgrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutIndexFile {
    /// It is built, and its file written.
    BuildAndWrite,
    /// It is built in memory.
    Build,
    /// Nothing is built; opening fails.
    Refuse,
}

/// Reads and verifies every item, and takes the index from its file if that is valid and not outgrown.
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
        // The remains of an index that was being written at a crash; there may be none.
        drop(std::fs::remove_file(unfinished_index(&file)));
    }
    let refused = |what: String| GalleryError::IndexFile {
        path: file.clone(),
        what,
    };
    let mut stored = None;
    let mut problem = "it is missing".to_owned();
    if params.graph_from_items <= store.items() && file.exists() {
        let opened = StoredBaseSegment::open(&file, dimension, params);
        match opened {
            Ok(opened) => stored = Some(opened),
            Err(found) => problem = found,
        }
    }
    let mut items = ItemTable::default();
    let (state, first) = load_items(store, &mut items, stored.as_mut())?;
    if items.len() < params.graph_from_items {
        return Ok(LoadedGallery {
            items,
            state,
            index: None,
        });
    }
    let base = match stored {
        None => Err(problem),
        Some(stored) if is_outgrown(&stored, items.len()) => {
            Err("too much was enrolled or removed since it was built".to_owned())
        }
        Some(stored) => stored.finish(),
    };
    let (base, first) = match base {
        Ok(base) => (base, first),
        Err(problem) if otherwise == WithoutIndexFile::Refuse => return Err(refused(problem)),
        Err(problem) => {
            if file.exists() {
                warn_rebuilt(&file, &problem);
            }
            let file = writable.then_some(&*file);
            let base = BaseSegment::build(&items.base_items(), params, file)?;
            (base, items.next_slot())
        }
    };
    let index = Arc::new(GalleryIndex::new(base, first, params));
    let index = joined(index, &mut items, dimension);
    Ok(LoadedGallery {
        items,
        state,
        index: Some(index),
    })
}

/// Reads every item into `items`: first those of the base segment, then the delta. Returns the first
/// slot of the delta.
fn load_items(
    store: &mut ItemStore,
    items: &mut ItemTable,
    mut stored: Option<&mut StoredBaseSegment>,
) -> Result<(GalleryState, usize), GalleryError> {
    // Kept until the end, so that the delta has all slots from one on.
    let mut delta: Vec<StoredRow> = Vec::new();
    let mut delta_ids = HashSet::new();
    let state = store.load(|row| {
        let id = &row.head.id;
        let is_new = items.find(id).is_none() && !delta_ids.contains(id);
        match &mut stored {
            None => put_in_memory(items, row),
            Some(stored) => match stored.find(&row.checksum, row.embedding.as_slice()) {
                Some((base_row, vector)) => {
                    let slot = items.put(row.head, vector, row.number, row.checksum);
                    stored.set_slot(base_row, slot);
                }
                None => {
                    delta_ids.insert(id.clone());
                    delta.push(row);
                }
            },
        }
        is_new
    })?;
    let first = items.next_slot();
    for row in delta {
        put_in_memory(items, row);
    }
    Ok((state, first))
}

/// Whether a new base segment would take less time than linking the items that this one lacks, or too much
/// of it was removed.
fn is_outgrown(stored: &StoredBaseSegment, items: usize) -> bool {
    let (rows, live) = (stored.rows(), stored.live());
    rows < (items - live.min(items)) * JOINING_COST || live * 3 < rows * 2
}

fn put_in_memory(item_table: &mut ItemTable, row: StoredRow) {
    let vector = Vector::in_memory(row.embedding.as_slice().into());
    item_table.put(row.head, vector, row.number, row.checksum);
}

/// The index is derived data: without its file, opening takes longer, but nothing is lost.
fn warn_rebuilt(file: &Path, problem: &str) {
    tracing::warn!(file = %file.display(), problem, "the index is rebuilt");
}

/// Takes the vectors of the base segment from the map, and marks which rows are present.
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
    item_table.encode_from(index.first(), dimension);
    (index, Arc::new(live))
}
