//! Counts all decisions of an operating point by stratum, as far back as the journal is complete.

use super::error::MonitorError;
use crate::journal::SETTLED_AFTER_MS;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::audit::CountedDecisions;

/// The counts so far, which are kept so that each decision is counted only once, but for those that may not all be
/// written yet.
#[derive(Clone, Debug, Default)]
pub(super) struct CountedStrata {
    operating_point: String,
    /// How often decisions had been written late when the count began.
    late_writes: u64,
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
    /// How often decisions were written late; if they were again, into times that are counted already, all are counted
    /// anew.
    pub(super) late_writes: u64,
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
            late_writes,
        } = *request;
        let known = self.operating_point == operating_point
            && self.late_writes == late_writes
            && since_ms <= self.since_ms
            && self.settled.len() == strata;
        if !known {
            let since_ms = since_ms.max(reader.complete_since_ms()?);
            *self = Self {
                operating_point: operating_point.to_owned(),
                late_writes,
                since_ms,
                to_ms: since_ms,
                settled: vec![0; strata],
            };
        }
        let settled_to = now_ms.saturating_sub(SETTLED_AFTER_MS).max(self.to_ms);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::{DecisionEntry, DecisionId, Sampling, SearchSource};
    use crate::journal::{FILE_NAME, Journal, JournalOptions, Retention};
    use matchpoint_calibration::decision::Decision;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn decided(ms: u64) -> DecisionEntry {
        DecisionEntry {
            id: DecisionId::at(ms, [7; 10]),
            operating_point: Some("op-1".to_owned()),
            generation: 1,
            gallery_items: 1,
            state: None,
            decision: Decision::Reject,
            best: None,
            filtered: false,
            sampling: Sampling::new(0, 1.0, true),
            source: SearchSource::Live,
        }
    }

    #[test]
    fn what_was_written_late_is_counted_with_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions {
            retention: Retention {
                ms: u64::MAX,
                audited_ms: u64::MAX,
                bytes: 1 << 30,
            },
            clock: || NOW_MS,
        };
        let journal = Journal::open(&folder.path().join(FILE_NAME), options, |_| {}).unwrap();
        let (reader, losses) = (journal.reader().unwrap(), journal.losses());
        let mut counted = CountedStrata::default();
        let mut count = || {
            let request = CountRequest {
                operating_point: "op-1",
                since_ms: 0,
                strata: 1,
                now_ms: NOW_MS,
                late_writes: losses.late_writes(),
            };
            counted.count(&reader, &request, &[]).unwrap().decisions
        };
        for age_ms in [10_000, 100_000] {
            journal.record(decided(NOW_MS - age_ms), None);
        }
        journal.flush().unwrap();
        assert_eq!(count(), [2]);
        // Long settled, and young.
        for age_ms in [90_000, 5_000] {
            journal.record(decided(NOW_MS - age_ms), None);
        }
        journal.flush().unwrap();
        assert_eq!(count(), [4]);
        assert_eq!(count(), [4]);
    }
}
