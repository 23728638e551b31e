//! Counts the searches that go to a person, in the order in which they were made, and keeps the evidence over
//! restarts and for longer than the journal keeps decisions.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::counted_strata::UNSETTLED_MS;
use super::error::MonitorError;
use crate::files::{read_json, write_json};
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::reviews::{
    PredictedReviews, ReviewState, ReviewWatch, ReviewsInService,
};
use matchpoint_calibration::review::ReviewBand;

/// Within the deployment's folder.
const FILE: &str = "reviews.json";
/// How often the evidence is written. What a crash takes is counted again.
const KEEP_EVERY_MS: u64 = 10_000;

/// The evidence of a deployment.
#[derive(Debug)]
pub(super) struct ReviewEvidence {
    /// Where its file is; `None` if it is not kept.
    file: Option<PathBuf>,
    known: Mutex<KnownReviews>,
}

/// What was counted, and up to when it is in the file.
#[derive(Debug, Default)]
struct KnownReviews {
    counted: Option<CountedReviews>,
    written_to_ms: u64,
}

/// What was counted of one operating point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CountedReviews {
    of: ReviewSpan,
    /// From when on, and up to when.
    from_unix_ms: u64,
    to_unix_ms: u64,
    state: ReviewState,
}

/// Which searches are counted, and by which probability they are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReviewSpan {
    operating_point: String,
    since_unix_ms: u64,
    delta: f64,
}

/// What is counted.
pub(super) struct ReviewRequest<'a> {
    pub(super) operating_point: &'a str,
    pub(super) band: &'a ReviewBand,
    /// From when on at the earliest.
    pub(super) since_ms: u64,
    /// The probability that the evidence may ever be wrong.
    pub(super) delta: f64,
    pub(super) now_ms: u64,
}

impl ReviewEvidence {
    /// Kept in `records`.
    pub(super) fn kept_in(records: &Path) -> Self {
        Self {
            file: Some(records.join(FILE)),
            known: Mutex::default(),
        }
    }

    /// Counted once, from what the journal holds.
    pub(super) fn passing() -> Self {
        Self {
            file: None,
            known: Mutex::default(),
        }
    }

    /// Counts what was decided since it was counted last; `None` if the band's calibration did not measure its shares.
    pub(super) fn update(
        &self,
        reader: &JournalReader,
        asked: &ReviewRequest<'_>,
    ) -> Result<Option<ReviewsInService>, MonitorError> {
        let Some(predicted) = PredictedReviews::of(asked.band, asked.delta) else {
            return Ok(None);
        };
        let of = ReviewSpan {
            operating_point: asked.operating_point.to_owned(),
            since_unix_ms: asked.since_ms,
            delta: asked.delta,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let complete_ms = reader.complete_since_ms()?;
        let before = known.counted.take().or_else(|| self.stored());
        // What was counted under a clock that was ahead is counted again.
        let before = before.filter(|before| before.of == of && before.to_unix_ms <= asked.now_ms);
        let mut counted = before.unwrap_or_else(|| CountedReviews::none(of, complete_ms));
        let mut watch = ReviewWatch::new(predicted).resumed(counted.state);
        let observe = |watch: &mut ReviewWatch, from_ms: u64, to_ms: u64| {
            let selection = DecisionSelection {
                operating_point: Some(asked.operating_point.to_owned()),
                unix_ms: from_ms..to_ms,
            };
            let low = asked.band.unseen.threshold.get();
            reader.rejected_from(&selection, low, |reviewed| watch.observe(reviewed))
        };
        // If the journal removed decisions before they were counted, it left sampled ones, which are not like the others.
        let from_ms = counted.to_unix_ms.max(complete_ms);
        let settled_to_ms = asked.now_ms.saturating_sub(UNSETTLED_MS).max(from_ms);
        observe(&mut watch, from_ms, settled_to_ms)?;
        counted.to_unix_ms = settled_to_ms;
        counted.state = watch.state();
        observe(&mut watch, settled_to_ms, u64::MAX)?;
        if known.written_to_ms + KEEP_EVERY_MS <= settled_to_ms {
            known.written_to_ms = settled_to_ms;
            self.store(&counted);
        }
        let from_ms = counted.from_unix_ms;
        known.counted = Some(counted);
        Ok(Some(watch.assessment(from_ms)))
    }

    fn stored(&self) -> Option<CountedReviews> {
        let file = self.file.as_ref()?;
        read_json(file).unwrap_or_else(|error| {
            tracing::warn!(%error, "searches for people are counted again from what the journal holds");
            None
        })
    }

    fn store(&self, counted: &CountedReviews) {
        let Some(file) = &self.file else {
            return;
        };
        if let Err(error) = write_json(file, counted) {
            tracing::warn!(%error, "the count of searches for people is not kept");
        }
    }
}

impl CountedReviews {
    /// Nothing yet: from when on the evidence counts, but no earlier than the journal holds all decisions.
    fn none(of: ReviewSpan, complete_ms: u64) -> Self {
        let from_unix_ms = of.since_unix_ms.max(complete_ms);
        Self {
            of,
            from_unix_ms,
            to_unix_ms: from_unix_ms,
            state: ReviewState::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::{DecidedItem, DecisionEntry, DecisionId, Sampling, SearchSource};
    use crate::journal::{Journal, JournalOptions, Retention};
    use matchpoint_calibration::certify_frr::{FrrCertificate, TargetFrr};
    use matchpoint_calibration::decision::{Decision, Threshold};
    use matchpoint_calibration::rates::{Confidence, Rate};

    const NOW_MS: u64 = 1_800_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    const FIRST_MS: u64 = NOW_MS - 100 * HOUR_MS;
    const LOW: f32 = 0.4;

    /// A journal that keeps what was not sampled for so many hours.
    fn journal(folder: &Path, hours: u64) -> Journal {
        let options = JournalOptions {
            retention: Retention {
                ms: hours * HOUR_MS,
                audited_ms: 1_000 * HOUR_MS,
                bytes: 1 << 30,
            },
            clock: || NOW_MS,
        };
        Journal::open(&folder.join("decisions.db"), options, |_| ()).unwrap()
    }

    /// Rejects, one a minute from a number on, of which every third has a score in the band, and every tenth was sampled.
    fn record(journal: &Journal, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut rest = [0; 10];
            rest[2..].copy_from_slice(&number.to_be_bytes());
            let score = if number.is_multiple_of(3) { LOW } else { 0.1 };
            let entry = DecisionEntry {
                id: DecisionId::at(FIRST_MS + number * 60_000, rest),
                operating_point: Some("op".to_owned()),
                generation: 1,
                gallery_items: 10,
                state: None,
                decision: Decision::Reject,
                best: Some(DecidedItem {
                    label: "a".to_owned(),
                    item: "a-1".to_owned(),
                    similarity: score,
                    decision_score: Some(score),
                    margin: None,
                }),
                filtered: false,
                sampling: Sampling::new(1, 0.1, number.is_multiple_of(10)),
                source: SearchSource::Live,
            };
            journal.record(entry, None);
        }
        journal.flush().unwrap();
    }

    /// The calibration saw 30 of 100 mates in the band, and 10 of 100 strangers.
    fn band() -> ReviewBand {
        let rate = |events: u32| {
            let names: Vec<String> = (0..100).map(|label| label.to_string()).collect();
            let outcomes = (0..)
                .zip(&names)
                .map(|(label, name)| (name.as_str(), label < events));
            Rate::over_labels(&outcomes.collect::<Vec<_>>(), Confidence::DISPLAY)
        };
        ReviewBand {
            unseen: FrrCertificate {
                threshold: Threshold::new(LOW).unwrap(),
                target: TargetFrr::new(0.2, 0.9).unwrap(),
                independent_trials: 100,
                allowed: 9,
                observed: 9,
                lost: 0,
                frr_bound: 0.19,
                lost_bound: None,
            },
            mated_reviewed: rate(30),
            strangers_reviewed: rate(10),
        }
    }

    fn update(
        evidence: &ReviewEvidence,
        journal: &Journal,
        [since_ms, now_ms]: [u64; 2],
        delta: f64,
    ) -> ReviewsInService {
        let asked = ReviewRequest {
            operating_point: "op",
            band: &band(),
            since_ms,
            delta,
            now_ms,
        };
        let found = evidence.update(&journal.reader().unwrap(), &asked);
        found.unwrap().unwrap()
    }

    fn counted(found: &ReviewsInService) -> [u64; 2] {
        [found.counts.searches, found.counts.reviewed]
    }

    #[test]
    fn what_was_counted_stays_when_the_journal_removes_it_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (then, now) = ([FIRST_MS, FIRST_MS + 51 * HOUR_MS], [FIRST_MS, NOW_MS]);
        let kept = ReviewEvidence::kept_in(folder.path());
        {
            let journal = journal(folder.path(), 1_000);
            record(&journal, 0..3_000);
            let served = update(&kept, &journal, then, 0.05);
            assert_eq!(counted(&served), [3_000, 1_000]);
        }
        // All that was not sampled is removed now, but what comes later.
        let journal = journal(folder.path(), 40);
        record(&journal, 4_500..4_800);
        journal.retain().unwrap();
        let served = update(&kept, &journal, now, 0.05);
        assert_eq!(counted(&served), [3_300, 1_100]);
        assert_eq!(served.counts.since_unix_ms, FIRST_MS);
        let restarted = ReviewEvidence::kept_in(folder.path());
        assert_eq!(update(&restarted, &journal, now, 0.05), served);
        // Without what was counted before, only what the journal holds in full is.
        let alone = update(&ReviewEvidence::passing(), &journal, now, 0.05);
        assert_eq!(counted(&alone), [300, 100]);
        assert!(FIRST_MS < alone.counts.since_unix_ms);
    }

    #[test]
    fn a_reset_and_another_probability_count_from_the_journal_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1_000);
        record(&journal, 0..300);
        let evidence = ReviewEvidence::kept_in(folder.path());
        let count = |evidence: &ReviewEvidence, since_ms, delta| {
            counted(&update(evidence, &journal, [since_ms, NOW_MS], delta))
        };
        assert_eq!(count(&evidence, FIRST_MS, 0.05), [300, 100]);
        let reset_ms = FIRST_MS + 150 * 60_000;
        assert_eq!(count(&evidence, reset_ms, 0.025), [150, 50]);
        assert_eq!(count(&evidence, FIRST_MS, 0.05), [300, 100]);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let damaged = ReviewEvidence::kept_in(folder.path());
        assert_eq!(count(&damaged, FIRST_MS, 0.05), [300, 100]);
    }
}
