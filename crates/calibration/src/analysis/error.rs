//! The errors of an analysis.

use crate::CalibrationError;
use crate::rates::percent;
use crate::refusal::Underpowered;

/// The reasons why an analysis failed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// The calibration refused the data or the settings.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The values do not form a matrix with one row for each label.
    #[error(
        "{values} values are not {rows} rows of {dimension}; give one row of values for each label"
    )]
    EmbeddingShape {
        /// Number of values given.
        values: usize,
        /// Number of labels given.
        rows: usize,
        /// Number of components in a row.
        dimension: usize,
    },
    /// A row that cannot be an embedding.
    #[error("row {row} of the embeddings cannot be used: {problem}; embed its item again")]
    EmbeddingRow {
        /// The first such row.
        row: usize,
        /// What is wrong with it.
        #[source]
        problem: matchpoint_vector::NotAnEmbedding,
    },
    /// A label index that is too high.
    #[error("the label index of row {row} is {limit} or more; number the labels from 0")]
    LabelIndex {
        /// The first such row.
        row: usize,
        /// One more than the highest index allowed.
        limit: u32,
    },
    /// Queries and gallery have different dimensions, so they come from different models.
    #[error(
        "queries have {queries} components and the gallery {gallery}; embed both with one model"
    )]
    EmbeddingDimensions {
        /// Number of components of a query.
        queries: usize,
        /// Number of components of a gallery row.
        gallery: usize,
    },
    /// The thresholds are not in ascending order, which one pass over the scores needs.
    #[error("threshold {position} is below the one before it; give thresholds in ascending order")]
    ThresholdOrder {
        /// The position, from 0, of the first threshold that is out of order.
        position: usize,
    },
    /// The assignment to halves does not have one entry for each row.
    #[error("{given} rows are assigned to halves, and there are {rows}; name a half for each row")]
    HalfLength {
        /// Number of rows assigned.
        given: usize,
        /// Number of rows to assign.
        rows: usize,
    },
    /// A pairwise FAR that the pairs at hand cannot show.
    #[error(
        "{pairs} pairs of two labels ({labels} labels) cannot show a pairwise FAR of {}: it takes {:.0}; enrol pictures of more labels, or ask for a higher FAR",
        percent(*far),
        (at_least / far).ceil()
    )]
    FewPairs {
        /// Pairs of two labels.
        pairs: u64,
        /// The labels.
        labels: u64,
        /// The FAR that was asked for.
        far: f64,
        /// How many pairs it has to let through.
        at_least: f64,
    },
    /// The caller stopped the work.
    #[error("stopped before the end, as asked")]
    Stopped,
    /// Counts that are impossible for the pairs of two labels.
    #[error(
        "{count} pairs are given for labels {label_a} and {label_b}, which have {pairs}; give each \
         two labels once, the lower first, in ascending order"
    )]
    Dyad {
        /// The first label.
        label_a: u32,
        /// The second label.
        label_b: u32,
        /// Number of pairs given.
        count: u64,
        /// The highest possible number of pairs.
        pairs: u64,
    },
    /// The trials lack the statistics that a remedy needs.
    #[error(
        "{remedy} needs statistics against the cohort, which the best match of probe '{probe}' lacks; add it or leave the remedy out"
    )]
    RemedyInput {
        /// The remedy.
        remedy: &'static str,
        /// The first probe that lacks them.
        probe: String,
    },
    /// One half of the labels is too small for a comparison.
    #[error("the {half} half of the labels has no {kind} search; add labels")]
    EmptyHalf {
        /// `fitting` or `measuring`.
        half: &'static str,
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// The fitting half alone is too small for a certificate.
    #[error("a remedy is fitted on half of the labels, and there {0}")]
    FittingHalf(#[source] Underpowered),
    /// A number of bootstrap samples that is too small for an interval, or too large to compute.
    #[error("{value} resamples are outside [200, 100000]; 2000 are usual")]
    Resamples {
        /// The number given.
        value: u32,
    },
}
