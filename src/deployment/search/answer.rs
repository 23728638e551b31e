//! The answers of a deployment.

use std::sync::Arc;

use super::request::{Hit, Timings};
use crate::deployment::points::active::DecisionBasis;
use crate::journal::entry::StateId;
use matchpoint_calibration::decision::Decision;
use matchpoint_embed::pixels::ImageMeasures;
use matchpoint_vector::{Embedding, Similarity};

/// The decision on the best match, the matches, and the basis of the decision.
#[derive(Clone, Debug)]
pub struct SearchAnswer {
    /// Whether the best match is accepted.
    pub decision: Decision,
    /// The nearest items, best first.
    pub hits: Vec<Hit>,
    /// The match that was decided on. It is not the first of `hits` if these come from another search.
    pub decided: Option<Hit>,
    /// The basis of the decision.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was searched.
    pub generation: u64,
    /// The number of items in it.
    pub gallery_items: usize,
    /// The id of the state that determined the decision.
    pub state: StateId,
    /// The time of each stage.
    pub timings: Timings,
}

/// The outcome of a comparison.
#[derive(Clone, Debug)]
pub struct VerifyAnswer {
    /// Whether the two are accepted as the same.
    pub decision: Decision,
    /// Their similarity.
    pub score: Similarity,
    /// The basis of the decision.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was used.
    pub generation: u64,
    /// The id of the state that determined the decision.
    pub state: StateId,
    /// The time of each stage.
    pub timings: Timings,
}

/// An image to be enrolled, with its embedding.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct EmbeddedOriginal {
    /// The embedding.
    pub(in crate::deployment) embedding: Embedding,
    /// SHA-256 of the file.
    pub(in crate::deployment) sha256: [u8; 32],
    /// The file, if the gallery stores images.
    pub(in crate::deployment) image: Option<Vec<u8>>,
}

/// The candidates of a query with its own label left out.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct OthersFound {
    /// The nearest items.
    pub(in crate::deployment) hits: Vec<Hit>,
    /// The best similarity to an item whose label is neither left out nor that of the nearest item; `None` if
    /// there is none.
    pub(in crate::deployment) other: Option<Similarity>,
}

/// The results for a labelled query.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct Probed {
    /// The five nearest items.
    pub(in crate::deployment) hits: Vec<Hit>,
    /// The best similarity to an item with another label than the nearest one; `None` if there is none.
    pub(in crate::deployment) other: Option<Similarity>,
    /// The nearest items of other labels, by exact search; `None` if not requested.
    pub(in crate::deployment) others: Option<OthersFound>,
    /// Whether an item is more similar than everything that the index found; `None` if this was not checked.
    pub(in crate::deployment) index_missed: Option<bool>,
    /// SHA-256 of the image; `None` for a vector.
    pub(in crate::deployment) source_sha256: Option<[u8; 32]>,
    /// The query's embedding; `None` for an item of the gallery.
    pub(in crate::deployment) vector: Option<Arc<[f32]>>,
    /// Properties of its picture; `None` for a vector.
    pub(in crate::deployment) measures: Option<ImageMeasures>,
    /// The length of the feature vector before it was scaled to an embedding; `None` for a vector.
    pub(in crate::deployment) feature_length: Option<f64>,
    /// The time of each stage.
    pub(in crate::deployment) timings: Timings,
}
