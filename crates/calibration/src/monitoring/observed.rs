//! What is known of the decisions of one operating point, before anything is made of it.

use super::audit::{AcceptFeedback, AuditRow, CountedDecisions};
use super::reviews::ReviewCounts;
use super::shared_causes::Case;
use super::strata::Strata;
use crate::standing::PromiseToday;

/// What was seen of one operating point under one design of the audit.
#[derive(Clone, Debug)]
pub struct AuditWindow<'a> {
    /// The design.
    pub strata: &'a Strata,
    /// Decisions that were sampled, in the order in which they were made.
    pub rows: &'a [AuditRow],
    /// All decisions since one of them, where that is known.
    pub counted: Option<&'a CountedDecisions>,
    /// How many searches went to a person; `None` where that is not known.
    pub reviews: Option<ReviewCounts>,
    /// When each of them was made, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: &'a [u64],
    /// The sampling hash of each of them.
    pub sampling_hashes: &'a [u64],
    /// Those of them that have a label, in the same order.
    pub cases: &'a [Case],
    /// What was said of accepts without being asked.
    pub feedback: AcceptFeedback,
    /// What is left of the promise in today's gallery; `None` for an operating point that does not decide.
    pub gallery: Option<GalleryToday<'a>>,
    /// Whether an alarm of FAR and FRR was raised by decisions that are no longer kept.
    pub raised: [bool; 2],
    /// Whether evidence was reset since the operating point became active.
    pub reset: bool,
}

/// What has become of the gallery since the calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GalleryToday<'a> {
    /// What is left of the promise.
    pub promise: PromiseToday,
    /// Why it is not known which items the calibration saw; `None` if it is.
    pub problem: Option<&'a str>,
}
