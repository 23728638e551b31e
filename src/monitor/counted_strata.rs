//! Counts all decisions of an operating point by stratum, as far back as the journal is complete.

use super::error::MonitorError;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::audit::CountedDecisions;

/// Decisions younger than this are counted again each time, because the journal writes twice a second and
/// the id of a decision has its time.
pub(super) const UNSETTLED_MS: u64 = 60_000;

/// The counts so far, which are kept so that each decision is counted only once.
#[derive(Clone, Debug, Default)]
pub(super) struct CountedStrata {
    operating_point: String,
    /// The time range of the counts.
    since_ms: u64,
    to_ms: u64,
    settled: Vec<u64>,
}

/// The decisions to count.
pub(super) struct CountRequest<'a> {
    pub(super) operating_point: &'a str,
    /// Decisions count from this time on at the earliest.
    pub(super) since_ms: u64,
    pub(super) strata: usize,
    pub(super) now_ms: u64,
}

impl CountedStrata {
    /// Adds the decisions made since the last call. `made_ms` has the times of the sampled decisions, in order;
    /// those from before the count have to represent others.
    pub(super) fn count(
        &mut self,
        reader: &JournalReader,
        request: &CountRequest<'_>,
        made_ms: &[u64],
    ) -> Result<CountedDecisions, MonitorError> {
        let CountRequest {
            operating_point,
            since_ms,
            strata,
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
            };
        }
        let settled_to = now_ms.saturating_sub(UNSETTLED_MS).max(self.to_ms);
        let count = |from: u64, to: u64, into: &mut [u64]| {
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
            Ok::<(), MonitorError>(())
        };
        count(self.to_ms, settled_to, &mut self.settled)?;
        self.to_ms = settled_to;
        let mut decisions = self.settled.clone();
        count(settled_to, u64::MAX, &mut decisions)?;
        Ok(CountedDecisions {
            from_row: made_ms.partition_point(|made| *made < self.since_ms),
            decisions,
        })
    }
}
