//! What a deployment answers.

use std::sync::Arc;

use super::request::{Hit, Timings};
use crate::deployment::points::active::DecisionBasis;
use crate::journal::entry::StateId;
use matchpoint_calibration::decision::Decision;
use matchpoint_embed::pixels::ImageMeasures;
use matchpoint_vector::{Embedding, Similarity};

/// The decision on the best match, the matches, and what they rest on.
#[derive(Clone, Debug)]
pub struct SearchAnswer {
    /// Whether the best match is accepted.
    pub decision: Decision,
    /// The nearest items, best first.
    pub hits: Vec<Hit>,
    /// What was decided on: not the first of them if they come from another search.
    pub decided: Option<Hit>,
    /// What the decision rests on.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was searched.
    pub generation: u64,
    /// The number of items in it.
    pub gallery_items: usize,
    /// The state by which it was decided.
    pub state: StateId,
    /// Where the time went.
    pub timings: Timings,
}

/// The outcome of one comparison.
#[derive(Clone, Debug)]
pub struct VerifyAnswer {
    /// Whether the two are accepted as the same.
    pub decision: Decision,
    /// Their similarity.
    pub score: Similarity,
    /// What the decision rests on.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was used.
    pub generation: u64,
    /// The state by which it was decided.
    pub state: StateId,
    /// Where the time went.
    pub timings: Timings,
}

/// An image that is to be enrolled, with its embedding.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct EmbeddedOriginal {
    /// The embedding.
    pub(in crate::deployment) embedding: Embedding,
    /// SHA-256 of the file.
    pub(in crate::deployment) sha256: [u8; 32],
    /// The file, if the gallery keeps images.
    pub(in crate::deployment) image: Option<Vec<u8>>,
}

/// What a query found with its own label left out.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct OthersFound {
    /// The nearest items.
    pub(in crate::deployment) hits: Vec<Hit>,
    /// The best similarity to an item of yet another label than the nearest one's; `None` if there is
    /// none.
    pub(in crate::deployment) other: Option<Similarity>,
}

/// What a labelled query found.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct Probed {
    /// The five nearest items.
    pub(in crate::deployment) hits: Vec<Hit>,
    /// The best similarity to an item of another label than the nearest one's; `None` if there is none.
    pub(in crate::deployment) other: Option<Similarity>,
    /// The nearest items of other labels, by exact search; `None` if not requested.
    pub(in crate::deployment) others: Option<OthersFound>,
    /// Whether an item is nearer than all that the index found; `None` if that was not checked.
    pub(in crate::deployment) index_missed: Option<bool>,
    /// SHA-256 of the image; `None` for a vector.
    pub(in crate::deployment) source_sha256: Option<[u8; 32]>,
    /// The query's embedding; `None` for an item of the gallery.
    pub(in crate::deployment) vector: Option<Arc<[f32]>>,
    /// What its picture is like; `None` for a vector.
    pub(in crate::deployment) measures: Option<ImageMeasures>,
    /// The length of the feature that the embedding was made from; `None` for a vector.
    pub(in crate::deployment) feature_length: Option<f64>,
    /// Where the time went.
    pub(in crate::deployment) timings: Timings,
}
