//! Checks whether an operating point still keeps its promise in service.
//!
//! The code here is pure: no input or output, no clock, and no randomness of its own. Read it in this order:
//! which decisions are labelled ([`strata`]), the rates estimated from the labels ([`audit`]), and the
//! evidence against a promise while labels come in ([`sequential`]). [`traffic`] compares searches with those
//! of the calibration; it needs no labels, and cannot say whether a rate has changed. [`drift`] puts the
//! findings into words.

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
mod share_bet;
pub mod shared_causes;
#[cfg(test)]
mod simulation;
pub mod strata;
pub mod traffic;

/// The reasons why something cannot be monitored as requested.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum MonitoringError {
    /// A sampling probability outside [1e-6, 1]. A decision that can never be sampled cannot be weighted.
    #[error("inclusion probability {value} is outside [1e-6, 1]; give it as a fraction")]
    Inclusion {
        /// The number given.
        value: f64,
    },
    /// A design without an edge at distance 0, where accepts and rejects meet.
    #[error("no edge of the strata is 0, which is the threshold; add it")]
    NoEdgeAtThreshold,
    /// An edge that is out of order or is not a possible distance between a score and a threshold.
    #[error("edge {value} of the strata is not above the one before, or outside (-2, 2)")]
    Edge {
        /// The first edge that is wrong.
        value: f64,
    },
    /// The number of sampling rates is not one more than the number of edges.
    #[error("{edges} edges make {} strata, and there are {rates} rates", edges + 1)]
    RateCount {
        /// Edges given.
        edges: usize,
        /// Rates given.
        rates: usize,
    },
    /// More strata than an audit can fill with labels.
    #[error("{count} strata are over the limit of {limit}")]
    TooManyStrata {
        /// Strata given.
        count: usize,
        /// Strata allowed.
        limit: usize,
    },
    /// Decision counts that belong to another design.
    #[error("there are {strata} strata, and counts of {counts}; count with the same design")]
    CountsOfAnother {
        /// Strata of the design.
        strata: usize,
        /// Counts given.
        counts: usize,
    },
    /// A row that belongs to another design or another threshold.
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
    /// A limit that cannot be exceeded or cannot be kept.
    #[error("limit {value} is outside [1e-9, 0.999]; give it as a fraction, such as 0.001")]
    Limit {
        /// The number given.
        value: f64,
    },
    /// A probability of a false alarm that is out of range.
    #[error("probability {value} is outside [1e-9, 0.5]; 0.05 is usual")]
    Delta {
        /// The number given.
        value: f64,
    },
}
