//! What is known of the decisions of one operating point, before anything is made of it.

use super::audit::{AcceptFeedback, AuditRow};
use super::shared_causes::Case;
use super::strata::Strata;

/// What was seen of one operating point under one design of the audit.
#[derive(Clone, Debug)]
pub struct AuditWindow<'a> {
    /// The design.
    pub strata: &'a Strata,
    /// Decisions that were sampled, in the order in which they were made.
    pub rows: &'a [AuditRow],
    /// When each of them was made, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: &'a [u64],
    /// The sampling hash of each of them.
    pub sampling_hashes: &'a [u64],
    /// Those of them that have a label, in the same order.
    pub cases: &'a [Case],
    /// What was said of accepts without being asked.
    pub feedback: AcceptFeedback,
    /// How large the gallery is, and may be.
    pub gallery: CalibratedSize,
    /// Whether an alarm of FAR and FRR was raised by decisions that are no longer kept.
    pub raised: [bool; 2],
    /// Whether evidence was reset since the operating point became active.
    pub reset: bool,
}

/// How large the gallery is, and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibratedSize {
    /// Items in it now.
    pub items: u64,
    /// The number of items that the operating point holds for.
    pub valid_to: u64,
}
