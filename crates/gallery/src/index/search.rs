//! The input and the results of a search in the index.

use crate::index::bits::Bits;

/// A row and its exact similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredRow {
    /// The number of the row in the index.
    pub row: u32,
    /// [`matchpoint_vector::kernels::dot`] of the query and the vector of the row.
    pub score: f32,
}

/// The input of a search.
#[derive(Clone, Copy, Debug)]
pub struct IndexSearch<'a> {
    /// The query, which must have unit length.
    pub vector: &'a [f32],
    /// Number of neighbours to find.
    pub k: usize,
    /// Number of candidates to keep, at least `k`. More candidates find more of the true neighbours, but take
    /// longer.
    pub ef: usize,
    /// The rows that may be found; `None` for all rows.
    pub allowed: Option<&'a Bits>,
}
