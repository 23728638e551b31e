//! The input of an analysis.

use std::collections::BTreeMap;

use super::consistency::Band;
use super::embeddings::Embeddings;
use crate::decision::Threshold;
use crate::policy::CalibrationTarget;
use crate::recording::Recording;
use matchpoint_vector::Similarity;

/// The default number of thresholds in the band.
pub const BAND_POINTS: usize = 101;

/// Embeddings with their ids, labels and conditions: a gallery, or queries.
#[derive(Debug)]
pub struct EmbeddedSet {
    /// The id of each row.
    pub ids: Vec<String>,
    /// Further facts about each row, by column.
    pub conditions: Vec<BTreeMap<String, String>>,
    /// The index of the label of each row.
    pub labels: Vec<u32>,
    /// The vectors.
    pub embeddings: Embeddings,
}

/// The result of a non-mated search: the label of the query, and the best candidates as (score, label).
pub type CandidateList = (String, Vec<(Similarity, String)>);

/// Everything that an analysis needs.
#[derive(Debug)]
pub struct AnalysisInput<'a> {
    /// The names of the labels, by index.
    pub names: &'a [String],
    /// The vectors that were searched in.
    pub gallery: &'a EmbeddedSet,
    /// The vectors that were searched for; `None` if each gallery vector was searched for among the others.
    pub queries: Option<&'a EmbeddedSet>,
    /// The searches.
    pub recording: &'a Recording,
    /// The non-mated searches with further candidates; may be empty.
    pub deep: &'a [CandidateList],
    /// The number of candidates requested for each search.
    pub depth: usize,
    /// The target of the threshold.
    pub target: CalibrationTarget,
    /// The threshold.
    pub threshold: Threshold,
    /// The threshold on plain similarity, for pairs, look-alikes and other sizes. It differs from `threshold`
    /// if the operating point adjusts scores.
    pub on_similarity: Threshold,
    /// The seed of all random choices.
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
    /// The number of thresholds in that range, equally spaced; usually 101.
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
