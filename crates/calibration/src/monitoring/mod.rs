//! Does an operating point still keep its promise in service?
//!
//! Pure: no input or output, no clock, no randomness of its own. Reading order: which decisions
//! are labelled, the rates that follow from the labels, the evidence against a promise while
//! labels come in; whether searches look like those of the calibration, which needs no label and says
//! less; the findings in words.

pub mod audit;
pub mod canaries;
pub mod cusum;
pub mod drift;
pub mod fleet;
pub mod history;
pub mod left_out;
pub mod observed;
pub mod plain_sample;
pub mod predicted_far;
pub mod reviews;
pub mod sequential;
pub mod shadow;
pub mod shared_causes;
#[cfg(test)]
mod simulation;
pub mod strata;
pub mod traffic;

/// Why something cannot be monitored as asked.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum MonitoringError {
    /// A decision that can never be sampled cannot be weighted.
    #[error("inclusion probability {value} is outside [1e-6, 1]; give it as a fraction")]
    Inclusion {
        /// The number given.
        value: f64,
    },
    /// Between accepts and rejects there has to be an edge.
    #[error("no edge of the strata is 0, which is the threshold; add it")]
    NoEdgeAtThreshold,
    /// Edges are distances of a score from a threshold.
    #[error("edge {value} of the strata is not above the one before, or outside (-2, 2)")]
    Edge {
        /// The first edge that is wrong.
        value: f64,
    },
    /// One rate for each stratum, and one stratum more than edges.
    #[error("{edges} edges make {} strata, and there are {rates} rates", edges + 1)]
    RateCount {
        /// Edges given.
        edges: usize,
        /// Rates given.
        rates: usize,
    },
    /// Finer than any audit can fill.
    #[error("{count} strata are over the limit of {limit}")]
    TooManyStrata {
        /// Strata given.
        count: usize,
        /// Strata allowed.
        limit: usize,
    },
    /// Counts of another design.
    #[error("there are {strata} strata, and counts of {counts}; count with the same design")]
    CountsOfAnother {
        /// Strata of the design.
        strata: usize,
        /// Counts given.
        counts: usize,
    },
    /// A row of another design, or of another threshold.
    #[error(
        "a row is {outcome} in stratum {stratum}, which the design does not have or has on the \
         other side of the threshold; keep the windows of two designs apart"
    )]
    RowOfAnother {
        /// The stratum of the row.
        stratum: usize,
        /// `accepted` or `rejected`.
        outcome: &'static str,
    },
    /// A promise is a rate that can be broken and can be kept.
    #[error("limit {value} is outside [1e-9, 0.999]; give it as a fraction, such as 0.001")]
    Limit {
        /// The number given.
        value: f64,
    },
    /// A probability of being wrong.
    #[error("probability {value} is outside [1e-9, 0.5]; 0.05 is usual")]
    Delta {
        /// The number given.
        value: f64,
    },
}
