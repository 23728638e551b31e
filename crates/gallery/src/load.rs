//! Reading a gallery: every item, and the index from its file or built anew.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalogue::Catalogue;
use crate::error::GalleryError;
use crate::format::{State, StoredRow};
use crate::graph::Index;
use crate::index::bits::Bits;
use crate::originals::Vector;
use crate::params::IndexParams;
use crate::settled::{Settled, Stored, unfinished};
use crate::snapshot::Indexed;
use crate::store::Store;

/// How many times longer an item takes to join a settled index than to be built into one.
const JOINING_COST: usize = 13;

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
        let opened = Stored::open(&file, dimension, params);
        stored = opened
            .inspect_err(|problem| built_anew(&file, problem))
            .ok();
    }
    let mut catalogue = Catalogue::default();
    // Behind the others, so that all slots from one on hold what is not settled.
    let mut later: Vec<StoredRow> = Vec::new();
    let mut later_ids = HashSet::new();
    let state = store.load(|row| {
        let id = &row.head.id;
        let new = catalogue.find(id).is_none() && !later_ids.contains(id);
        let kept = stored
            .as_mut()
            .map(|stored| stored.find(&row.checksum, row.embedding.as_slice()));
        match kept {
            None => put_in_memory(&mut catalogue, row),
            Some(Some((place, vector))) => {
                let slot = catalogue.put(row.head, vector, row.number, row.checksum);
                if let Some(stored) = &mut stored {
                    stored.settle(place, slot);
                }
            }
            Some(None) => {
                later_ids.insert(id.clone());
                later.push(row);
            }
        }
        new
    })?;
    let first = catalogue.next_slot();
    for row in later {
        put_in_memory(&mut catalogue, row);
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

fn put_in_memory(catalogue: &mut Catalogue, row: StoredRow) {
    let vector = Vector::in_memory(row.embedding.as_slice().into());
    catalogue.put(row.head, vector, row.number, row.checksum);
}

/// The index is derived: without its file, opening takes longer and nothing is lost.
fn built_anew(file: &Path, problem: &str) {
    tracing::warn!(file = %file.display(), problem, "the index is built anew");
}

pub(super) fn index_file(gallery: &Path) -> PathBuf {
    gallery.with_extension("graph")
}

/// Puts the vectors of what is settled into the map, and says which rows are there.
pub(super) fn joined(index: Arc<Index>, catalogue: &mut Catalogue, dimension: usize) -> Indexed {
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
