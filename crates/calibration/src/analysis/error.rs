//! Why an analysis did not succeed.

use crate::CalibrationError;
use crate::refusal::Underpowered;

/// Why an analysis did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// What the calibration itself refuses.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// Not a matrix with one row for each label.
    #[error(
        "{values} values are not {rows} rows of {dimension}; give one row of values for each label"
    )]
    EmbeddingShape {
        /// Values given.
        values: usize,
        /// Labels given.
        rows: usize,
        /// Components of a row.
        dimension: usize,
    },
    /// A row that is not a vector with a direction.
    #[error("row {row} of the embeddings cannot be used: {problem}; embed its item again")]
    EmbeddingRow {
        /// The first such row.
        row: usize,
        /// What is wrong with it.
        #[source]
        problem: matchpoint_vector::NotAnEmbedding,
    },
    /// A label index that is no index.
    #[error("the label index of row {row} is {limit} or more; number the labels from 0")]
    LabelIndex {
        /// The first such row.
        row: usize,
        /// One more than the greatest index allowed.
        limit: u32,
    },
    /// Vectors of two models, or of one and its projection.
    #[error(
        "queries have {queries} components and the gallery {gallery}; embed both with one model"
    )]
    EmbeddingDimensions {
        /// Components of a query.
        queries: usize,
        /// Components of a gallery row.
        gallery: usize,
    },
    /// Thresholds are counted in one sweep.
    #[error("threshold {position} is below the one before it; give thresholds in ascending order")]
    ThresholdOrder {
        /// The position of the first that is out of order, from 0.
        position: usize,
    },
    /// Every row belongs to one half.
    #[error("{given} rows are assigned to halves, and there are {rows}; name a half for each row")]
    HalfLength {
        /// Rows assigned.
        given: usize,
        /// Rows to assign.
        rows: usize,
    },
    /// The caller asked for it.
    #[error("stopped before the end, as asked")]
    Stopped,
    /// Counts that cannot belong to the pairs of two labels.
    #[error(
        "{count} pairs are given for labels {label_a} and {label_b}, which have {pairs}; give each \
         two labels once, the lower first, in ascending order"
    )]
    Dyad {
        /// The first label.
        label_a: u32,
        /// The second label.
        label_b: u32,
        /// Pairs given.
        count: u64,
        /// Pairs that there can be.
        pairs: u64,
    },
    /// What a remedy works on is not in the trials.
    #[error(
        "{remedy} needs statistics against the cohort, which the best match of probe '{probe}' lacks; add it or leave the remedy out"
    )]
    RemedyInput {
        /// The remedy.
        remedy: &'static str,
        /// The first probe without it.
        probe: String,
    },
    /// Half of the labels is not enough to compare on.
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
    /// Too few to read an interval off, or more than is worth waiting for.
    #[error("{value} resamples are outside [200, 100000]; 2000 are usual")]
    Resamples {
        /// The number given.
        value: u32,
    },
}
