//! What is known of the decisions of one operating point, before anything is made of it.

use super::audit::{AcceptFeedback, AuditRow};
use super::groups::Case;
use super::strata::Strata;

/// What was seen of one operating point under one design of the audit.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The design.
    pub strata: &'a Strata,
    /// Decisions that were drawn, in the order in which they were made.
    pub rows: &'a [AuditRow],
    /// When each of them was made, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: &'a [u64],
    /// The lot that each of them was drawn by.
    pub lots: &'a [u64],
    /// Those of them that have a label, in the same order.
    pub cases: &'a [Case],
    /// What was said of accepts without being asked.
    pub feedback: AcceptFeedback,
    /// Items in the gallery now, and the number that the operating point holds for.
    pub gallery: (u64, u64),
    /// Whether an alarm of FAR and FRR was raised by decisions that are no longer kept.
    pub raised: [bool; 2],
    /// Whether evidence was begun anew since the operating point decides.
    pub anew: bool,
}
