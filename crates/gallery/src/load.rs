//! Reading a gallery: every item, and the index from its file or rebuilt.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base_segment::{BaseSegment, StoredBaseSegment, unfinished};
use crate::error::GalleryError;
use crate::format::{GalleryState, StoredRow};
use crate::gallery_index::GalleryIndex;
use crate::index::bits::Bits;
use crate::item_table::ItemTable;
use crate::mapped_vectors::Vector;
use crate::params::IndexParams;
use crate::store::ItemStore;
use crate::view::LiveIndex;

/// How many times longer it takes to link an item into the delta graph than to build it into a base
/// segment.
const JOINING_COST: usize = 13;

/// Reads and verifies every item, and takes the index from its file if that is right and not
/// outgrown.
pub(super) fn load(
    store: &mut ItemStore,
    gallery: &Path,
    params: IndexParams,
    writable: bool,
) -> Result<(ItemTable, GalleryState, Option<LiveIndex>), GalleryError> {
    let dimension = store.about().dimension;
    let wants_graph = params.graph_from_items <= store.items();
    let file = index_file(gallery);
    if writable {
        // What a crash left of an index that was being written; there may be none.
        drop(std::fs::remove_file(unfinished(&file)));
    }
    let mut stored = None;
    if wants_graph && file.exists() {
        let opened = StoredBaseSegment::open(&file, dimension, params);
        stored = opened
            .inspect_err(|problem| built_anew(&file, problem))
            .ok();
    }
    let mut item_table = ItemTable::default();
    // Behind the others, so that all slots from one on hold the delta.
    let mut later: Vec<StoredRow> = Vec::new();
    let mut later_ids = HashSet::new();
    let state = store.load(|row| {
        let id = &row.head.id;
        let new = item_table.find(id).is_none() && !later_ids.contains(id);
        let kept = stored
            .as_mut()
            .map(|stored| stored.find(&row.checksum, row.embedding.as_slice()));
        match kept {
            None => put_in_memory(&mut item_table, row),
            Some(Some((place, vector))) => {
                let slot = item_table.put(row.head, vector, row.number, row.checksum);
                if let Some(stored) = &mut stored {
                    stored.set_slot(place, slot);
                }
            }
            Some(None) => {
                later_ids.insert(id.clone());
                later.push(row);
            }
        }
        new
    })?;
    let first = item_table.next_slot();
    for row in later {
        put_in_memory(&mut item_table, row);
    }
    if item_table.len() < params.graph_from_items {
        return Ok((item_table, state, None));
    }
    let base = stored.and_then(|stored| {
        let (rows, live, items) = (stored.rows(), stored.live(), item_table.len());
        let base = stored.finish();
        let base = base.inspect_err(|problem| built_anew(&file, problem));
        let outgrown = rows < (items - live.min(items)) * JOINING_COST || live * 3 < rows * 2;
        base.ok().filter(|_| !outgrown)
    });
    let (base, first) = match base {
        Some(base) => (base, first),
        None => {
            let file = writable.then_some(&*file);
            let base = BaseSegment::build(&item_table.base_items(), params, file)?;
            (base, item_table.next_slot())
        }
    };
    let index = Arc::new(GalleryIndex::new(base, first, params));
    let index = joined(index, &mut item_table, dimension);
    Ok((item_table, state, Some(index)))
}

fn put_in_memory(item_table: &mut ItemTable, row: StoredRow) {
    let vector = Vector::in_memory(row.embedding.as_slice().into());
    item_table.put(row.head, vector, row.number, row.checksum);
}

/// The index is derived: without its file, opening takes longer and nothing is lost.
fn built_anew(file: &Path, problem: &str) {
    tracing::warn!(file = %file.display(), problem, "the index is built anew");
}

pub(super) fn index_file(gallery: &Path) -> PathBuf {
    gallery.with_extension("graph")
}

/// Takes the vectors of the base segment from the map, and says which rows are there.
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
