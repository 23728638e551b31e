//! The parameters of an index.

use std::fmt;

use crate::error::GalleryError;

/// The parameters of the search for the nearest items, which are fixed when a gallery is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexParams {
    /// The number of items from which on a graph is built at opening. Below it, every search is an exact scan.
    pub graph_from_items: usize,
    /// Number of links of an item in the graph, doubled on the lowest level; 2 to 128.
    pub m: usize,
    /// Number of candidates kept while an item is linked; 1 to 4,096.
    pub ef_construction: usize,
    /// Number of candidates kept during a search, at least twice the number of neighbours to find; 1 to 4,096.
    pub ef_search: usize,
    /// The number of bytes of codes outside the graph that a search compares one by one. Beyond it, the oldest
    /// of these items are linked into the delta graph. It affects the cost of a search, and hardly its results.
    pub scan_bytes: usize,
    /// Whether an index elsewhere proposes candidates ([`crate::Gallery::nearest_of`]). Then no graph is built, and what
    /// is searched for here is compared with every item.
    pub elsewhere: bool,
}

/// A graph from 10,000 items on. At that size, a scan with 1,280 components takes about 6 ms, and a search in
/// the graph a tenth of a millisecond.
impl Default for IndexParams {
    fn default() -> Self {
        Self {
            graph_from_items: 10_000,
            m: 16,
            ef_construction: 200,
            ef_search: 128,
            scan_bytes: 2 << 20,
            elsewhere: false,
        }
    }
}

impl IndexParams {
    /// Whether a gallery of so many items has a graph.
    pub(super) fn wants_graph(&self, items: usize) -> bool {
        !self.elsewhere && self.graph_from_items <= items
    }

    pub(super) fn check(&self) -> Result<(), GalleryError> {
        let bounds = [
            // `hnsw_rs` stores the number of links in one byte and ends the process above 256.
            ("m", self.m, 2, 128),
            ("ef_construction", self.ef_construction, 1, 4096),
            ("ef_search", self.ef_search, 1, 4096),
        ];
        for (name, found, min, max) in bounds {
            if !(min..=max).contains(&found) {
                return Err(GalleryError::IndexParams {
                    name,
                    found,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for IndexParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            m,
            ef_construction,
            ef_search,
            graph_from_items: _,
            scan_bytes: _,
            elsewhere: _,
        } = self;
        write!(
            f,
            "hnsw m={m} ef_construction={ef_construction} ef_search={ef_search}, 8-bit codes"
        )
    }
}
