//! All decisions of an operating point by stratum, as far back as the journal holds all of them.

use super::error::MonitorError;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::decision::Threshold;
use matchpoint_calibration::monitoring::audit::CountedDecisions;
use matchpoint_calibration::monitoring::reviews::ReviewCounts;

/// Decisions younger than this are counted again each time: the journal writes five times a second, and a
/// decision is as old as its id.
const UNSETTLED_MS: u64 = 60_000;

/// What was counted, kept so that each decision is counted once.
#[derive(Clone, Debug, Default)]
pub(super) struct CountedStrata {
    operating_point: String,
    /// From when on, and up to when.
    since_ms: u64,
    to_ms: u64,
    settled: Vec<u64>,
    /// Those of the settled ones that went to a person.
    reviewed: u64,
}

/// What is counted.
pub(super) struct CountRequest<'a> {
    pub(super) operating_point: &'a str,
    /// From when on at the earliest.
    pub(super) since_ms: u64,
    pub(super) strata: usize,
    /// The low end of the review band; `None` without one.
    pub(super) review_from: Option<Threshold>,
    pub(super) now_ms: u64,
}

impl CountedStrata {
    /// Counts what was decided since it was counted last. `made_ms` are the times of the sampled decisions,
    /// in their order: those from before the count have to stand for others.
    pub(super) fn count(
        &mut self,
        reader: &JournalReader,
        request: &CountRequest<'_>,
        made_ms: &[u64],
    ) -> Result<(CountedDecisions, Option<ReviewCounts>), MonitorError> {
        let CountRequest {
            operating_point,
            since_ms,
            strata,
            review_from,
            now_ms,
        } = *request;
        let known = self.operating_point == operating_point
            && since_ms <= self.since_ms
            && self.settled.len() == strata;
        if !known {
            let since_ms = since_ms.max(reader.complete_since_ms()?);
            *self = Self {
                operating_point: operating_point.to_owned(),
                since_ms,
                to_ms: since_ms,
                settled: vec![0; strata],
                reviewed: 0,
            };
        }
        let settled_to = now_ms.saturating_sub(UNSETTLED_MS).max(self.to_ms);
        let count = |from: u64, to: u64, into: &mut [u64], reviewed: &mut u64| {
            let selection = DecisionSelection {
                operating_point: Some(operating_point.to_owned()),
                unix_ms: from..to,
            };
            for found in reader.strata(&selection)? {
                let slot = found
                    .stratum
                    .and_then(|stratum| into.get_mut(usize::from(stratum)));
                if let Some(slot) = slot {
                    *slot += found.decisions;
                }
            }
            if let Some(from) = review_from {
                *reviewed += reader.rejected_from(&selection, from.get())?;
            }
            Ok::<(), MonitorError>(())
        };
        count(
            self.to_ms,
            settled_to,
            &mut self.settled,
            &mut self.reviewed,
        )?;
        self.to_ms = settled_to;
        let (mut decisions, mut reviewed) = (self.settled.clone(), self.reviewed);
        count(settled_to, u64::MAX, &mut decisions, &mut reviewed)?;
        let reviews = review_from.map(|_| ReviewCounts {
            searches: decisions.iter().sum(),
            reviewed,
            since_unix_ms: self.since_ms,
        });
        let counted = CountedDecisions {
            from_row: made_ms.partition_point(|made| *made < self.since_ms),
            decisions,
        };
        Ok((counted, reviews))
    }
}
