//! The input of an analysis.

use std::collections::BTreeMap;

use super::consistency::Band;
use super::embeddings::Embeddings;
use crate::decision::Threshold;
use crate::policy::CalibrationTarget;
use crate::recording::Recording;
use matchpoint_vector::Similarity;

/// Thresholds of the band by default.
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

/// The result of a non-mated search: its label, and the best candidates with theirs.
pub type CandidateList = (String, Vec<(Similarity, String)>);

/// Everything that an analysis needs.
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
    /// How many candidates were requested.
    pub depth: usize,
    /// The goal of the threshold.
    pub target: CalibrationTarget,
    /// The threshold.
    pub threshold: Threshold,
    /// The threshold for pairs, look-alikes and other sizes, which only have similarities: a different one
    /// if the operating point adjusts scores.
    pub on_similarity: Threshold,
    /// The seed of every random choice.
    pub seed: u64,
    /// Which pairs are analysed, and how.
    pub scope: AnalysisScope,
}

/// Which pairs are analysed, and how.
#[derive(Clone, Copy, Debug)]
pub struct AnalysisScope {
    /// If there are more pairs than this, they are not analysed.
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
