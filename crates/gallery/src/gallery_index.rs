//! The approximate index: the base segment, and the delta of items enrolled since it was built. Both only
//! propose candidates; the view computes the scores.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::base_segment::BaseSegment;
use crate::filter::ItemFilter;
use crate::index::bits::Bits;
use crate::index::breadth::SearchBreadth;
use crate::index::error::IndexError;
use crate::index::search::IndexSearch;
use crate::mapped_vectors::Vector;
use crate::params::IndexParams;
use matchpoint_vector::kernels;
use matchpoint_vector::kernels::codes::CodeWidth;

/// The base segment and the delta, which is everything that has been enrolled since the base was
/// built.
///
/// Items of the delta are compared with each query until they are linked into the delta graph. Linking takes
/// milliseconds, so no enrolment waits for it. Items are linked in the order of their slots; those before
/// [`GalleryIndex::linked`] are already linked.
pub(super) struct GalleryIndex {
    pub(super) base: BaseSegment,
    delta: DeltaGraph,
    /// The first slot of the delta.
    first: usize,
    /// The first slot that is not yet linked into the delta graph.
    linked: AtomicUsize,
    /// Locked while a point is linked.
    linking: Mutex<()>,
    /// The rows that match each of the last filters that were used.
    filters: Mutex<VecDeque<FilteredRows>>,
    params: IndexParams,
}

/// The rows of the base segment that match a filter. The content of a slot never changes, so this stays valid
/// as long as the index exists, for the state from which it was computed and for later ones.
#[derive(Clone)]
struct FilteredRows {
    filter: ItemFilter,
    generation: u64,
    rows: Arc<Bits>,
}

/// A query to an index.
pub(super) struct IndexQuery<'a> {
    pub(super) query: &'a [f32],
    pub(super) k: usize,
    /// Number of candidates to keep; the index's own setting if that is higher.
    pub(super) ef: usize,
    /// The rows of the base segment that may be found.
    pub(super) allowed: &'a Bits,
}

/// Number of filters whose rows are cached, with one bit for each item and filter.
const FILTERS_KEPT: usize = 32;

impl GalleryIndex {
    /// `first` is the first slot of the delta.
    pub(super) fn new(base: BaseSegment, first: usize, params: IndexParams) -> Self {
        Self {
            base,
            delta: DeltaGraph::new(params),
            first,
            linked: AtomicUsize::new(first),
            linking: Mutex::default(),
            filters: Mutex::default(),
            params,
        }
    }

    pub(super) fn params(&self) -> IndexParams {
        self.params
    }

    /// The number of bits of its codes.
    pub(super) fn width(&self) -> CodeWidth {
        self.base.width()
    }

    /// How many candidates a search keeps, if it asks for no more, and what a sample of searches missed with as many
    /// or, if more are kept than the graph needs, with fewer.
    pub(super) fn breadth(&self) -> SearchBreadth {
        let needed = self.base.breadth();
        let ef = u32::try_from(self.params.ef_search).map_or(needed.ef, |ef| ef.max(needed.ef));
        SearchBreadth { ef, ..needed }
    }

    /// The number of items that are compared one by one before the oldest of them are linked.
    pub(super) fn unlinked_max(&self, dimension: usize) -> usize {
        self.params.scan_bytes / (dimension * self.width().bytes()).max(1)
    }

    /// The first slot of the delta.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The first slot that is not linked. From there on, items have to be compared one by one.
    pub(super) fn linked(&self) -> usize {
        self.linked.load(Ordering::Acquire)
    }

    /// Number of items ever linked into the delta graph, including removed ones.
    pub(super) fn points(&self) -> usize {
        self.delta.points()
    }

    /// Links the item in a slot; after that, all slots before it count as linked. Searches continue meanwhile.
    pub(super) fn link(&self, slot: usize, vector: &Vector) {
        let _one = self.linking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.linked() <= slot {
            self.delta.insert(slot, vector.to_shared());
            self.linked.store(slot + 1, Ordering::Release);
        }
    }

    /// The rows of the base segment that match a filter in a state of the gallery; `find` computes them if
    /// they are not cached.
    pub(super) fn filtered(
        &self,
        filter: &ItemFilter,
        generation: u64,
        find: impl FnOnce() -> Bits,
    ) -> Arc<Bits> {
        let filters = || self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut known = filters();
            let same =
                |known: &FilteredRows| known.generation <= generation && known.filter == *filter;
            if let Some(found) = known.iter().position(same).and_then(|at| known.remove(at)) {
                let rows = Arc::clone(&found.rows);
                known.push_back(found);
                return rows;
            }
        }
        let rows = Arc::new(find());
        let mut known = filters();
        known.push_back(FilteredRows {
            filter: filter.clone(),
            generation,
            rows: Arc::clone(&rows),
        });
        if FILTERS_KEPT < known.len() {
            known.pop_front();
        }
        rows
    }

    /// Calls `take` with the slots and exact scores of rows of the base segment that are probably the nearest.
    pub(super) fn base_matches<'v>(
        &'v self,
        asked: &IndexQuery<'_>,
        vector_of: impl Fn(usize) -> Option<&'v [f32]>,
        take: impl FnMut(usize, f32),
    ) -> Result<(), IndexError> {
        let search = IndexSearch {
            vector: asked.query,
            k: asked.k,
            ef: self.ef(asked),
            allowed: Some(asked.allowed),
        };
        self.base.nearest(&search, vector_of, take)
    }

    /// Slots before `linked` that probably contain the nearest of the `live` items of the delta.
    pub(super) fn delta_candidates(
        &self,
        asked: &IndexQuery<'_>,
        live: usize,
        linked: usize,
    ) -> Vec<usize> {
        if self.delta.points() == 0 {
            return Vec::new();
        }
        // The delta is at most a quarter of the gallery, so fewer candidates give the same recall.
        let ef = (self.ef(asked) / 2).max(2 * asked.k);
        let mut slots = self.delta.candidates(asked.query, ef, live);
        // Items that were linked meanwhile are compared one by one instead.
        slots.retain(|slot| *slot < linked);
        slots
    }

    fn ef(&self, asked: &IndexQuery<'_>) -> usize {
        let needed = self.base.breadth().ef as usize;
        asked
            .ef
            .max(self.params.ef_search)
            .max(needed)
            .max(2 * asked.k)
    }
}

/// The graph of the delta. Points are only ever added; the caller drops those that are gone.
///
/// Points are inserted one after the other, because parallel insertion would link them differently each time.
/// So the same points in the same order give the same graph.
struct DeltaGraph {
    // A point contains a shared vector and not a copy of its components.
    hnsw: Hnsw<'static, Arc<[f32]>, Angle>,
}

impl DeltaGraph {
    fn new(params: IndexParams) -> Self {
        /// The highest number that `hnsw_rs` allows; in practice, levels above the fifth stay empty.
        const LAYERS: usize = 16;
        /// The expected number of points, which may be exceeded.
        const POINTS: usize = 10_000;
        Self {
            hnsw: Hnsw::new(params.m, POINTS, LAYERS, params.ef_construction, Angle),
        }
    }

    /// Adds a point. Two threads must not call this at once, but searches may run meanwhile.
    fn insert(&self, slot: usize, vector: Arc<[f32]>) {
        self.hnsw.insert_slice((&[vector], slot));
    }

    /// Number of points ever added, including removed ones.
    fn points(&self) -> usize {
        self.hnsw.get_nb_point()
    }

    /// Slots that probably contain the nearest of `live` items.
    fn candidates(&self, query: &[f32], wanted: usize, live: usize) -> Vec<usize> {
        // Removed points take places among the candidates, so the search is widened by their share.
        let ef = (wanted * self.points())
            .div_ceil(live.max(1))
            .min(4 * wanted);
        let query = [Arc::from(query)];
        let found = self.hnsw.search(&query, ef, ef);
        found
            .iter()
            .map(hnsw_rs::hnsw::Neighbour::get_origin_id)
            .collect()
    }
}

/// One minus the cosine. Vectors are finite and of unit length, so it is never NaN.
struct Angle;

impl Distance<Arc<[f32]>> for Angle {
    fn eval(&self, a: &[Arc<[f32]>], b: &[Arc<[f32]>]) -> f32 {
        let (Some(a), Some(b)) = (a.first(), b.first()) else {
            return 2.0;
        };
        // Rounding may give a cosine above one, but `hnsw_rs` asserts that no distance is negative.
        (1.0 - kernels::dot(a, b)).clamp(0.0, 2.0)
    }
}
