//! Counts the searches that go to a person, in the order in which they were made, and keeps the evidence over
//! restarts and for longer than the journal keeps decisions.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::MonitorError;
use crate::files::{FileError, read_list, write_json};
use crate::journal::SETTLED_AFTER_MS;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::reviews::{
    PredictedReviews, ReviewState, ReviewWatch, ReviewsInService,
};
use matchpoint_calibration::review::ReviewBand;

/// Within the deployment's folder.
const FILE: &str = "reviews.json";
/// How often the evidence is written. What a crash takes is counted again.
const KEEP_EVERY_MS: u64 = 10_000;
/// The number of operating points of which it is kept: those that were counted last. A few hundred bytes each.
const POINTS_MAX: usize = 100;

/// The evidence of a deployment: of each operating point, so that one that decides again goes on where it was. A test that
/// began anew with each switch would have another chance of a false warning each time.
#[derive(Debug)]
pub(super) struct ReviewEvidence {
    file: PathBuf,
    known: Mutex<KnownReviews>,
}

/// What was counted, and up to when it is in the file.
#[derive(Debug, Default)]
struct KnownReviews {
    /// One for each operating point, that which was counted last at the end; `None` before the file was read.
    points: Option<Vec<CountedReviews>>,
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
            file: records.join(FILE),
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
        let KnownReviews {
            points,
            written_to_ms,
        } = &mut *known;
        let points = match points {
            Some(points) => points,
            None => points.insert(self.stored()?),
        };
        let complete_ms = reader.complete_since_ms()?;
        let of_point = |one: &CountedReviews| one.of.operating_point == asked.operating_point;
        let before = points.iter().find(|one| of_point(one)).cloned();
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
        // What is written later than that is not counted: its turn is over. Since no decision is late for what it decided,
        // the evidence stays what it is.
        let settled_to_ms = asked.now_ms.saturating_sub(SETTLED_AFTER_MS).max(from_ms);
        observe(&mut watch, from_ms, settled_to_ms)?;
        counted.to_unix_ms = settled_to_ms;
        counted.state = watch.state();
        observe(&mut watch, settled_to_ms, u64::MAX)?;
        let from_ms = counted.from_unix_ms;
        points.retain(|one| !of_point(one));
        points.push(counted);
        let surplus = points.len().saturating_sub(POINTS_MAX);
        points.drain(..surplus);
        if *written_to_ms + KEEP_EVERY_MS <= settled_to_ms {
            *written_to_ms = settled_to_ms;
            self.store(points);
        }
        Ok(Some(watch.assessment(from_ms)))
    }

    fn stored(&self) -> Result<Vec<CountedReviews>, FileError> {
        let damaged = "how many searches went to a person is damaged; they are counted again from what the journal holds";
        read_list(&self.file, damaged)
    }

    fn store(&self, points: &[CountedReviews]) {
        if let Err(error) = write_json(&self.file, &points) {
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
        record_by("op", journal, numbers);
    }

    fn record_by(point: &str, journal: &Journal, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let mut rest = [0; 10];
            rest[2..].copy_from_slice(&number.to_be_bytes());
            let score = if number.is_multiple_of(3) { LOW } else { 0.1 };
            let entry = DecisionEntry {
                id: DecisionId::at(FIRST_MS + number * 60_000, rest),
                operating_point: Some(point.to_owned()),
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
        update_of("op", evidence, journal, [since_ms, now_ms], delta)
    }

    fn update_of(
        point: &str,
        evidence: &ReviewEvidence,
        journal: &Journal,
        [since_ms, now_ms]: [u64; 2],
        delta: f64,
    ) -> ReviewsInService {
        let asked = ReviewRequest {
            operating_point: point,
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
        let nothing_yet = tempfile::tempdir().unwrap();
        let alone = ReviewEvidence::kept_in(nothing_yet.path());
        let alone = update(&alone, &journal, now, 0.05);
        assert_eq!(counted(&alone), [300, 100]);
        assert!(FIRST_MS < alone.counts.since_unix_ms);
    }

    #[test]
    fn an_operating_point_that_decides_again_goes_on_with_its_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let (then, now) = ([FIRST_MS, FIRST_MS + 51 * HOUR_MS], [FIRST_MS, NOW_MS]);
        let kept = ReviewEvidence::kept_in(folder.path());
        {
            let journal = journal(folder.path(), 1_000);
            record(&journal, 0..3_000);
            update(&kept, &journal, then, 0.05);
        }
        // Another one decides meanwhile, until the journal holds none of the searches of the first in full.
        let journal = journal(folder.path(), 40);
        record_by("other", &journal, 4_500..4_800);
        journal.retain().unwrap();
        let other = update_of("other", &kept, &journal, now, 0.05);
        assert_eq!(counted(&other), [300, 100]);
        let again = update(&kept, &journal, now, 0.05);
        assert_eq!(counted(&again), [3_000, 1_000]);
        let restarted = ReviewEvidence::kept_in(folder.path());
        assert_eq!(update(&restarted, &journal, now, 0.05), again);
        assert_eq!(update_of("other", &restarted, &journal, now, 0.05), other);
    }

    #[test]
    fn the_evidence_of_so_many_operating_points_is_kept_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 1_000);
        let kept = ReviewEvidence::kept_in(folder.path());
        for number in 0..POINTS_MAX + 3 {
            let point = format!("op-{number}");
            update_of(&point, &kept, &journal, [FIRST_MS, NOW_MS], 0.05);
        }
        let known = kept.known.lock().unwrap();
        let points = known.points.as_ref().unwrap();
        let last = points.last().unwrap();
        assert_eq!(points.len(), POINTS_MAX);
        assert_eq!(last.of.operating_point, format!("op-{}", POINTS_MAX + 2));
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
