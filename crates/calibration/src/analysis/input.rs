//! Everything that is analysed.

use std::collections::BTreeMap;

use super::consistency::Band;
use super::embeddings::Embeddings;
use crate::decision::Threshold;
use crate::policy::CalibrationTarget;
use crate::recording::Recording;
use matchpoint_vector::Similarity;

/// Thresholds of the band, if nothing else is asked for.
pub const BAND_POINTS: usize = 101;

/// Embeddings with their names: a gallery, or queries.
#[derive(Debug)]
pub struct EmbeddedSet {
    /// The id of each row.
    pub ids: Vec<String>,
    /// What else is known of each row.
    pub conditions: Vec<BTreeMap<String, String>>,
    /// The index of the label of each row.
    pub labels: Vec<u32>,
    /// The rows.
    pub embeddings: Embeddings,
}

/// What a non-mated search found: its label, and the best candidates with theirs.
pub type CandidateList = (String, Vec<(Similarity, String)>);

/// Everything that is analysed.
#[derive(Debug)]
pub struct AnalysisInput<'a> {
    /// The names of the labels, by index.
    pub names: &'a [String],
    /// What was searched.
    pub gallery: &'a EmbeddedSet,
    /// What was searched for; `None` if the gallery searched for itself.
    pub queries: Option<&'a EmbeddedSet>,
    /// The searches.
    pub recording: &'a Recording,
    /// The non-mated searches, with more candidates than the best; may be empty.
    pub deep: &'a [CandidateList],
    /// How many candidates these were asked for.
    pub depth: usize,
    /// What the threshold was chosen for.
    pub target: CalibrationTarget,
    /// The threshold.
    pub threshold: Threshold,
    /// The threshold that pairs, look-alikes and other sizes are judged at, which know similarities
    /// only: another one if the operating point adjusts scores.
    pub on_similarity: Threshold,
    /// The seed of every random choice.
    pub seed: u64,
    /// What pairs are looked at, and how.
    pub scope: AnalysisScope,
}

/// What pairs are looked at, and how.
#[derive(Clone, Copy, Debug)]
pub struct AnalysisScope {
    /// More pairs than this are not looked at.
    pub pairs_max: u64,
    /// The range of thresholds that consistency is measured over.
    pub band: Band,
    /// How many thresholds of that range are taken, evenly; 101 are usual.
    pub band_points: usize,
}

impl EmbeddedSet {
    /// The name of the label of a row.
    #[must_use]
    pub fn label<'a>(&self, row: usize, names: &'a [String]) -> &'a str {
        let index = self.labels.get(row).copied();
        index
            .and_then(|index| names.get(usize::try_from(index).ok()?))
            .map_or("", String::as_str)
    }
}
