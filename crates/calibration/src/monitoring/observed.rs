//! What is known about the decisions of one operating point, as input for the estimates.

use super::audit::{AcceptFeedback, AuditRow, CountedDecisions};
use super::reviews::ReviewsInService;
use super::shared_causes::Case;
use super::strata::Strata;
use crate::promised::PromisedTarget;
use crate::standing::PromiseToday;

/// The decisions of one operating point under one design of the audit.
#[derive(Clone, Debug)]
pub struct AuditWindow<'a> {
    /// The design of the audit.
    pub strata: &'a Strata,
    /// The sampled decisions, in the order in which they were made.
    pub rows: &'a [AuditRow],
    /// The index, from 0, of the first row from which on none was removed before it could be labelled. Rates
    /// are of these. The evidence is of all labelled rows, because otherwise whoever makes room scarce could
    /// end it.
    pub representative_from: usize,
    /// The number of all decisions since one of the rows from `representative_from` on, which are counted
    /// from 0 there; `None` if it is not known.
    pub counted: Option<&'a CountedDecisions>,
    /// The share of searches that go to a person, compared with the prediction; `None` without a review band.
    pub reviews: Option<ReviewsInService>,
    /// When each sampled decision was made, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: &'a [u64],
    /// The sampling hash of each sampled decision.
    pub sampling_hashes: &'a [u64],
    /// The labelled ones among the sampled decisions, in the same order.
    pub cases: &'a [Case],
    /// The number of sampled decisions that nobody can label. Their rows have no label.
    pub unusable: u64,
    /// Feedback on accepts that users gave without being asked.
    pub feedback: AcceptFeedback,
    /// How far the promise still holds in today's gallery; `None` for an operating point that is not active.
    pub gallery: Option<GalleryToday<'a>>,
    /// Whether answers promise the FAR of a larger gallery now, because this one has grown.
    pub grown: bool,
    /// Whether the alarm of the FAR and that of the FRR were raised by decisions that are no longer kept.
    pub raised: [bool; 2],
    /// Whether the evidence was reset since the operating point became active.
    pub reset: bool,
}

impl<'a> AuditWindow<'a> {
    /// The rows that rates are of.
    #[must_use]
    pub fn representative_rows(&self) -> &'a [AuditRow] {
        self.rows
            .get(self.representative_from..)
            .unwrap_or_default()
    }
}

/// How the gallery has changed since the calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GalleryToday<'a> {
    /// What is left of the promise.
    pub promise: PromiseToday,
    /// The promises of the calibration, by what is left of each.
    pub promised: &'a [PromisedTarget],
    /// The reason why the items of the calibration are not known; `None` if they are known.
    pub problem: Option<&'a str>,
}
