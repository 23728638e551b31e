//! What is searched for, and what is found.

use crate::index::bits::Bits;

/// A row and its exact similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredRow {
    /// Its number among the rows that the index was built of.
    pub row: u32,
    /// [`matchpoint_vector::kernels::dot`] of the query and the vector of the row.
    pub score: f32,
}

/// What to search for.
#[derive(Clone, Copy, Debug)]
pub struct IndexSearch<'a> {
    /// The query, of unit length.
    pub vector: &'a [f32],
    /// Neighbours wanted.
    pub k: usize,
    /// Candidates kept, at least `k`: more find more of the true neighbours and take longer.
    pub ef: usize,
    /// The rows that may be found; all if there is no filter.
    pub allowed: Option<&'a Bits>,
}
