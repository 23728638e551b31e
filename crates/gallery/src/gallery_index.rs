//! The approximate index: the base segment, and the delta of what was enrolled since.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::filter::ItemFilter;
use crate::index::bits::Bits;
use crate::index::error::IndexError;
use crate::index::search::IndexSearch;
use crate::params::IndexParams;
use crate::segment::{Segment, SegmentItem};
use matchpoint_vector::kernels::codes::CodeWidth;

/// The base segment and the delta, which is everything that has been enrolled since the base was
/// built.
///
/// Items of the delta are compared with each query one by one, by their codes, until they are many: then
/// they become a segment of their own, so that no enrolment waits for an index.
pub(super) struct GalleryIndex {
    pub(super) base: Segment,
    delta: ArcSwap<DeltaSegments>,
    /// The first slot of the delta.
    first: usize,
    /// Held while a segment is built, so that none is built twice.
    linking: Mutex<()>,
    /// The rows that match each of the latest filters.
    filters: Mutex<VecDeque<FilteredRows>>,
    params: IndexParams,
}

/// The segments of the delta, the oldest items first.
pub(super) struct DeltaSegments {
    segments: Vec<Arc<Segment>>,
    /// The first slot that is in none of them: from there on, items are to be compared one by one.
    linked: usize,
}

impl DeltaSegments {
    pub(super) fn linked(&self) -> usize {
        self.linked
    }

    /// Items ever taken into them, gone or not.
    fn points(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }
}

/// The rows of the base segment that match a filter. What is in a slot never changes, so this holds
/// for as long as the index does: for the state it was made from, and later ones.
#[derive(Clone)]
struct FilteredRows {
    filter: ItemFilter,
    generation: u64,
    rows: Arc<Bits>,
}

/// What to search an index for.
pub(super) struct IndexQuery<'a> {
    pub(super) query: &'a [f32],
    pub(super) k: usize,
    /// Candidates to keep; the index's own number if that is more.
    pub(super) ef: usize,
    /// The rows of the base segment that may be found.
    pub(super) allowed: &'a Bits,
}

/// Filters whose rows are cached: one bit for each item and filter.
const FILTERS_KEPT: usize = 32;

impl GalleryIndex {
    /// `first` is the first slot of the delta.
    pub(super) fn new(base: Segment, first: usize, params: IndexParams) -> Self {
        Self {
            base,
            delta: ArcSwap::from_pointee(DeltaSegments {
                segments: Vec::new(),
                linked: first,
            }),
            first,
            linking: Mutex::default(),
            filters: Mutex::default(),
            params,
        }
    }

    pub(super) fn params(&self) -> IndexParams {
        self.params
    }

    /// The first slot of the delta.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The segments of the delta as they are now.
    pub(super) fn delta(&self) -> Arc<DeltaSegments> {
        self.delta.load_full()
    }

    /// Items ever taken into segments of the delta, gone or not.
    pub(super) fn points(&self) -> usize {
        self.delta.load().points()
    }

    /// How fine the codes are that tell its items apart.
    pub(super) fn width(&self) -> CodeWidth {
        self.base.width()
    }

    /// Items that are compared one by one before they become a segment.
    pub(super) fn unlinked_max(&self, dimension: usize) -> usize {
        self.params.scan_bytes / (dimension * self.width().bytes()).max(1)
    }

    /// Makes a segment of the items that `items` gives from a slot on, to one before which all are taken then; searches
    /// go on meanwhile. Segments that are less than twice as long as what follows them become part of that, so that
    /// there are few, and no item is taken into a new one often.
    pub(super) fn link(
        &self,
        items: impl Fn(usize) -> Vec<SegmentItem>,
        upto: usize,
    ) -> Result<(), IndexError> {
        let _one = self.linking.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.delta();
        if upto <= before.linked {
            return Ok(());
        }
        let mut kept = before.segments.clone();
        let mut from = before.linked;
        let mut taken = items(from);
        while let Some(last) = kept.pop_if(|last| last.len() < 2 * taken.len()) {
            from = last.first_slot().unwrap_or(from);
            taken = items(from);
        }
        if !taken.is_empty() {
            kept.push(Arc::new(Segment::build(&taken, self.params, None)?));
        }
        self.delta.store(Arc::new(DeltaSegments {
            segments: kept,
            linked: upto,
        }));
        Ok(())
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

    /// Calls `take` with the slots and exact scores of rows of the base segment that are likely to be
    /// the nearest.
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

    /// The same of the items of the delta that are in segments.
    pub(super) fn delta_matches<'v>(
        &self,
        delta: &'v DeltaSegments,
        asked: &IndexQuery<'_>,
        vector_of: impl Fn(usize) -> Option<&'v [f32]>,
        mut take: impl FnMut(usize, f32),
    ) -> Result<(), IndexError> {
        let search = IndexSearch {
            vector: asked.query,
            k: asked.k,
            // Each is a small part of the whole, so fewer candidates give the same recall.
            ef: (self.ef(asked) / 2).max(2 * asked.k),
            allowed: None,
        };
        delta
            .segments
            .iter()
            .try_for_each(|segment| segment.nearest(&search, &vector_of, &mut take))
    }

    fn ef(&self, asked: &IndexQuery<'_>) -> usize {
        asked.ef.max(self.params.ef_search).max(2 * asked.k)
    }
}
