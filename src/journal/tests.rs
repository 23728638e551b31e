use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::journal::entry::{
    AnnotatedTruth, Annotation, AnnotationKind, AnnotationOutcome, AnnotationRefusal, DecidedItem,
    DecisionEntry, DecisionId, DecisionRow, JournalId, Sampling, SearchSource, StateId,
};
use crate::journal::error::JournalError;
use crate::journal::read::{DecisionSelection, JournalReader, QueueRequest};
use crate::journal::totals::{Committed, Total};
use crate::journal::{Journal, JournalOptions, Retention};
use matchpoint_calibration::decision::Decision;

const DAY_MS: u64 = 86_400_000;
/// The present of these tests, and the time of the first decision.
const NOW_MS: u64 = 1_800_000_000_000;
const FIRST_MS: u64 = NOW_MS - 10 * DAY_MS;
/// In the folder where it runs, the process to be killed finds the journal's name in it.
const TOLD: &str = "the-other-process";

fn options() -> JournalOptions {
    JournalOptions {
        retention: Retention {
            ms: 30 * DAY_MS,
            audited_ms: 300 * DAY_MS,
            bytes: 1 << 30,
        },
        clock: || NOW_MS,
    }
}

/// Every tenth is undecided, every seventh filtered, every thirteenth a canary.
fn entry(number: u64) -> DecisionEntry {
    let undecided = number.is_multiple_of(10);
    let stratum = u16::try_from(number % 8).unwrap();
    let fraction = f32::from(u16::try_from(number % 1000).unwrap()) / 1000.0;
    DecisionEntry {
        id: id(number),
        operating_point: (!undecided).then(|| format!("op-{}", number / 40_000)),
        generation: 7,
        gallery_items: 120,
        state: (!number.is_multiple_of(5)).then(|| state(number / 1000)),
        decision: match (undecided, stratum < 4) {
            (true, _) => Decision::Undecided,
            (false, true) => Decision::Reject,
            (false, false) => Decision::Accept,
        },
        best: (!number.is_multiple_of(11)).then(|| DecidedItem {
            label: format!("label {}", number % 50),
            item: format!("item {number}"),
            similarity: fraction,
            decision_score: (!undecided).then_some(fraction),
            margin: number.is_multiple_of(3).then_some(0.25),
        }),
        filtered: number.is_multiple_of(7),
        sampling: (!undecided).then(|| Sampling::new(stratum, 0.5, number % 2 == 1).unwrap()),
        source: match number % 26 {
            0 => SearchSource::MatedCanary {
                expected: "label 1".to_owned(),
            },
            13 => SearchSource::NonMatedCanary {
                expected: "nobody".to_owned(),
            },
            _ => SearchSource::Live,
        },
    }
}

/// What decided for a while.
fn state(number: u64) -> StateId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    StateId::from_bytes(bytes)
}

/// One each second.
fn id(number: u64) -> DecisionId {
    let mut rest = [0; 10];
    rest[2..].copy_from_slice(&number.to_be_bytes());
    DecisionId::at(FIRST_MS + 1000 * number, rest)
}

/// A live decision that was sampled.
fn sampled(number: u64) -> DecisionEntry {
    DecisionEntry {
        source: SearchSource::Live,
        sampling: Sampling::new(3, 0.25, true),
        decision: Decision::Reject,
        operating_point: Some("op-0".to_owned()),
        ..entry(number)
    }
}

fn label(number: u64, truth: AnnotatedTruth) -> Annotation {
    Annotation {
        decision: id(number),
        truth,
        annotator: "anna".to_owned(),
        unix_ms: NOW_MS,
        kind: AnnotationKind::Audit,
    }
}

fn unasked(number: u64, truth: AnnotatedTruth) -> Annotation {
    Annotation {
        kind: AnnotationKind::Feedback,
        ..label(number, truth)
    }
}

fn mated(label: &str) -> AnnotatedTruth {
    AnnotatedTruth::Mated {
        label: label.to_owned(),
    }
}

struct Place {
    folder: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("decisions.db");
    Place { folder, path }
}

fn open(path: &Path) -> Journal {
    Journal::open(path, options(), |_| {}).unwrap()
}

/// Records, without losing any to a full queue.
fn record_all(journal: &Journal, numbers: impl Iterator<Item = u64>) {
    for number in numbers {
        journal.record(entry(number), None);
        if number % 4096 == 4095 {
            journal.flush().unwrap();
        }
    }
    journal.flush().unwrap();
}

fn all(reader: &JournalReader, operating_point: Option<&str>) -> Vec<DecisionRow> {
    let selection = DecisionSelection {
        operating_point: operating_point.map(str::to_owned),
        unix_ms: 0..u64::MAX,
    };
    let mut rows = Vec::new();
    let take = |row| {
        rows.push(row);
        ControlFlow::Continue(())
    };
    reader.decisions(&selection, take).unwrap();
    rows
}

fn decisions(totals: &[Total]) -> u64 {
    totals.iter().map(|total| total.count.decisions).sum()
}

/// What a metric would show: each total as it was last told.
fn gather(into: &mut Vec<Total>, committed: &Committed) {
    for total in &committed.changed {
        match into.iter_mut().find(|known| known.key == total.key) {
            Some(known) => *known = total.clone(),
            None => into.push(total.clone()),
        }
    }
}

#[test]
fn what_is_recorded_is_read_as_it_was() {
    let place = place();
    let journal = open(&place.path);
    let entries: Vec<DecisionEntry> = (0..60).map(entry).collect();
    // Not in the order of time, as searches end.
    for entry in entries.iter().rev() {
        journal.record(entry.clone(), None);
    }
    journal.flush().unwrap();
    let reader = journal.reader().unwrap();
    let mut read: Vec<DecisionEntry> = Vec::new();
    for point in [Some("op-0"), None] {
        let rows = all(&reader, point);
        assert!(
            rows.iter()
                .all(|row| row.entry.operating_point.as_deref() == point)
        );
        assert!(rows.is_sorted_by_key(|row| row.entry.id));
        read.extend(rows.into_iter().map(|row| row.entry));
    }
    read.sort_by_key(|entry| entry.id);
    assert_eq!(read, entries);
    assert_eq!(id(3).unix_ms(), FIRST_MS + 3000);
    assert_eq!(DecisionId::parse(&id(3).to_string()), Some(id(3)));
    assert_eq!(
        DecisionId::parse("8c1c6ea4-3a5b-4f0e-9d53-8f1ad4d9a4d5"),
        None
    );
}

#[test]
fn a_range_of_time_takes_its_first_moment_and_not_its_last() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 1..10);
    let reader = journal.reader().unwrap();
    let selection = DecisionSelection {
        operating_point: Some("op-0".to_owned()),
        unix_ms: id(2).unix_ms()..id(5).unix_ms(),
    };
    let mut found = Vec::new();
    let take = |row: DecisionRow| {
        found.push(row.entry.id);
        ControlFlow::Continue(())
    };
    reader.decisions(&selection, take).unwrap();
    assert_eq!(found, [2, 3, 4].map(id));

    let mut first = Vec::new();
    let take_one = |row: DecisionRow| {
        first.push(row.entry.id);
        ControlFlow::Break(())
    };
    reader.decisions(&selection, take_one).unwrap();
    assert_eq!(first, [id(2)]);
}

#[test]
fn totals_are_a_recount_of_a_hundred_thousand_decisions_and_metrics_are_totals() {
    const DECISIONS: u64 = 100_000;
    let place = place();
    let shown: Arc<Mutex<Vec<Total>>> = Arc::default();
    let observe = |shown: &Arc<Mutex<Vec<Total>>>| {
        let shown = Arc::clone(shown);
        move |committed: &Committed| gather(&mut shown.lock().unwrap(), committed)
    };
    let journal = Journal::open(&place.path, options(), observe(&shown)).unwrap();
    record_all(&journal, 0..DECISIONS);
    let reader = journal.reader().unwrap();
    assert_eq!(reader.verify().unwrap(), DECISIONS);
    let (totals, lost) = reader.totals().unwrap();
    assert_eq!(decisions(&totals), DECISIONS);
    assert_eq!(lost, journal.losses().ever());

    // By hand, from the decisions themselves.
    for total in &totals {
        let is_counted = |entry: &DecisionEntry| {
            entry.operating_point == total.key.operating_point
                && entry.decision == total.key.decision
                && entry.source.kind() == total.key.source
                && entry.filtered == total.key.filtered
                && entry.sampling.map(|sampling| sampling.stratum()) == total.key.stratum
        };
        let counted: Vec<DecisionEntry> = (0..DECISIONS).map(entry).filter(is_counted).collect();
        let chosen = counted
            .iter()
            .filter(|entry| entry.sampling.is_some_and(|sampling| sampling.sampled()));
        assert_eq!(total.count.decisions, counted.len() as u64);
        assert_eq!(total.count.sampled, chosen.count() as u64);
    }
    let sorted = |totals: &[Total]| {
        let mut lines: Vec<String> = totals.iter().map(|total| format!("{total:?}")).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&shown.lock().unwrap()), sorted(&totals));

    // Another process begins with all of them.
    drop(journal);
    let reopened = Arc::default();
    drop(Journal::open(&place.path, options(), observe(&reopened)).unwrap());
    assert_eq!(sorted(&reopened.lock().unwrap()), sorted(&totals));
}

#[test]
fn strata_are_counted_within_a_range_of_time() {
    let place = place();
    let journal = open(&place.path);
    for number in 1..=40 {
        journal.record(sampled(number), None);
    }
    journal
        .report(vec![label(5, AnnotatedTruth::NonMated)])
        .unwrap();
    let selection = DecisionSelection {
        operating_point: Some("op-0".to_owned()),
        unix_ms: id(1).unix_ms()..id(21).unix_ms(),
    };
    let strata = journal.reader().unwrap().strata(&selection).unwrap();
    // Every seventh is filtered: 7 and 14.
    let [counted] = strata.as_slice() else {
        panic!("{strata:?}");
    };
    assert_eq!(counted.stratum, Some(3));
    assert_eq!(
        (counted.decisions, counted.sampled, counted.labelled),
        (18, 18, 1)
    );
}

#[test]
fn what_was_sampled_or_labelled_is_read_in_its_order() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..2000);
    journal
        .report(vec![label(4, AnnotatedTruth::NonMated)])
        .unwrap();
    let reader = journal.reader().unwrap();
    let mut found = Vec::new();
    reader
        .audited("op-0", id(3).unix_ms(), |row| found.push(row.entry.id))
        .unwrap();
    let expected = (3..2000)
        .filter(|number| number % 2 == 1 || *number == 4)
        .filter(|number| number % 7 != 0 && number % 13 != 0)
        .map(id);
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn a_decision_that_comes_twice_is_recorded_once() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..10);
    record_all(&journal, 5..15);
    assert_eq!(journal.reader().unwrap().verify().unwrap(), 15);
}

#[test]
fn dropping_a_journal_writes_what_waits() {
    let place = place();
    let journal = open(&place.path);
    for number in 0..500 {
        journal.record(entry(number), None);
    }
    drop(journal);
    assert_eq!(
        JournalReader::open(&place.path).unwrap().verify().unwrap(),
        500
    );
}

#[test]
fn a_full_queue_loses_decisions_and_counts_them() {
    let place = place();
    // The writer waits in here until it is let go.
    let (let_go, held) = mpsc::channel::<()>();
    let mut opening = true;
    let journal = Journal::open(&place.path, options(), move |_| {
        if !std::mem::take(&mut opening) {
            held.recv().ok();
        }
    })
    .unwrap();
    let sent = 30_000;
    for number in 0..sent {
        journal.record(entry(number), None);
    }
    assert!(0 < journal.losses().ever().queue_full);
    drop(let_go);
    journal.flush().unwrap();
    let (totals, written) = journal.reader().unwrap().totals().unwrap();
    let lost = written.queue_full;
    assert_eq!(journal.losses().ever(), written);
    assert_eq!(decisions(&totals) + lost, sent);
    assert!(8192 <= decisions(&totals) && 10_000 < lost, "{lost}");
    drop(journal);
    assert_eq!(open(&place.path).losses().ever(), written);
}

#[test]
fn images_that_wait_are_bounded_and_their_decisions_are_recorded() {
    let place = place();
    let (let_go, held) = mpsc::channel::<()>();
    let mut opening = true;
    let journal = Journal::open(&place.path, options(), move |_| {
        if !std::mem::take(&mut opening) {
            held.recv().ok();
        }
    })
    .unwrap();
    journal.record(sampled(1), Some(vec![1; 9].into()));
    for number in 2..12 {
        journal.record(sampled(number), Some(vec![7; 10_000_000].into()));
    }
    assert_eq!(journal.losses().ever().images, 4);
    drop(let_go);
    journal.flush().unwrap();
    let reader = journal.reader().unwrap();
    assert_eq!(reader.totals().unwrap().1.images, 4);
    assert_eq!(reader.verify().unwrap(), 11);
    assert_eq!(reader.image(id(1)).unwrap(), Some(vec![1; 9]));
    assert_eq!(reader.image(id(11)).unwrap(), None);
    // Once they are written there is room again.
    journal.record(sampled(20), Some(vec![7; 10_000_000].into()));
    journal.flush().unwrap();
    assert_eq!(
        reader.image(id(20)).unwrap().map(|image| image.len()),
        Some(10_000_000)
    );
}

#[test]
fn labels_are_idempotent_corrected_and_refused_one_by_one() {
    let place = place();
    let journal = open(&place.path);
    for number in 1..=3 {
        journal.record(sampled(number), None);
    }
    // Not sampled: what is said of it is feedback.
    journal.record(entry(4), None);
    let first = label(1, mated("label 9"));
    let outcomes = journal
        .report(vec![
            first.clone(),
            label(2, AnnotatedTruth::NonMated),
            label(77, AnnotatedTruth::NonMated),
            label(3, mated("")),
            label(4, AnnotatedTruth::Unusable),
        ])
        .unwrap();
    // Its last digits are not this journal's name, but by chance.
    let unknown = super::audit::absent(id(77), &[], journal.name());
    assert_eq!(
        outcomes,
        [
            Ok(AnnotationOutcome::Added),
            Ok(AnnotationOutcome::Added),
            Err(unknown),
            Err(AnnotationRefusal::Text { field: "label" }),
            Ok(AnnotationOutcome::Added)
        ]
    );
    let second = Annotation {
        annotator: "bert".to_owned(),
        unix_ms: NOW_MS + 1,
        ..label(1, AnnotatedTruth::NonMated)
    };
    let agrees = Annotation {
        annotator: "cleo".to_owned(),
        ..second.clone()
    };
    let again = journal.report(vec![first.clone(), second.clone(), agrees.clone()]);
    let expected = [
        AnnotationOutcome::Repeated,
        AnnotationOutcome::Corrected,
        AnnotationOutcome::Confirmed,
    ]
    .map(Ok);
    assert_eq!(again.unwrap(), expected);
    // The first, sent once more after the correction, changes nothing.
    assert_eq!(
        journal.report(vec![first.clone()]).unwrap(),
        [Ok(AnnotationOutcome::Repeated)]
    );

    let reader = journal.reader().unwrap();
    assert_eq!(
        reader.history(id(1)).unwrap(),
        [first, second, agrees.clone()]
    );
    let row = reader.decision(id(1)).unwrap().unwrap();
    assert_eq!(row.annotation, Some(agrees));
    assert_eq!(
        (row.annotation_kind(), row.inclusion_probability()),
        (Some(AnnotationKind::Audit), Some(0.25))
    );
    let feedback = reader.decision(id(4)).unwrap().unwrap();
    assert_eq!(feedback.annotation_kind(), Some(AnnotationKind::Feedback));
    assert_eq!(feedback.inclusion_probability(), None);
    assert_eq!(reader.decision(id(77)).unwrap(), None);
    let too_many = vec![label(1, AnnotatedTruth::NonMated); 10_001];
    assert!(matches!(
        journal.report(too_many),
        Err(JournalError::Batch { .. })
    ));
}

#[test]
fn the_name_of_a_stranger_is_kept_with_what_was_said_of_it() {
    let place = place();
    let journal = open(&place.path);
    (1..=3).for_each(|number| journal.record(sampled(number), None));
    let named = |name: &str| AnnotatedTruth::Stranger {
        name: name.to_owned(),
    };
    let outcomes = journal.report(vec![
        label(1, AnnotatedTruth::NonMated),
        label(1, named("red coat")),
        label(2, named("red coat")),
        unasked(2, named("blue coat")),
        label(3, named(&"x".repeat(513))),
    ]);
    assert_eq!(
        outcomes.unwrap(),
        [
            Ok(AnnotationOutcome::Added),
            Ok(AnnotationOutcome::Corrected),
            Ok(AnnotationOutcome::Added),
            Ok(AnnotationOutcome::Added),
            Err(AnnotationRefusal::Text { field: "label" }),
        ]
    );
    drop(journal);
    let journal = open(&place.path);
    let said = |number| {
        let row = journal.reader().unwrap().decision(id(number)).unwrap();
        row.unwrap().annotation.map(|label| label.truth)
    };
    assert_eq!(said(1), Some(named("red coat")));
    assert_eq!(said(2), Some(named("red coat")));
    assert_eq!(said(3), None);
}

#[test]
fn the_queue_has_sampled_live_decisions_without_a_label_newest_first() {
    let place = place();
    let journal = open(&place.path);
    for number in 0..100 {
        journal.record(entry(number), None);
    }
    journal
        .report(vec![label(99, AnnotatedTruth::NonMated)])
        .unwrap();
    let reader = journal.reader().unwrap();
    let expected: Vec<DecisionId> = (0..99)
        .rev()
        .map(entry)
        .filter(|entry| entry.sampling.is_some_and(|sampling| sampling.sampled()))
        .filter(|entry| entry.source == SearchSource::Live && !entry.filtered)
        .map(|entry| entry.id)
        .collect();
    let mut found = Vec::new();
    let mut request = QueueRequest {
        limit: 10,
        ..QueueRequest::default()
    };
    loop {
        let page = reader.queue(&request).unwrap();
        assert!(page.len() <= 10);
        let Some(last) = page.last() else { break };
        request.before = Some(last.entry.id);
        found.extend(page.iter().map(|row| row.entry.id));
    }
    assert_eq!(found, expected);

    let of_stratum = QueueRequest {
        stratum: Some(3),
        operating_point: Some("op-0".to_owned()),
        limit: 1000,
        ..QueueRequest::default()
    };
    let rows = reader.queue(&of_stratum).unwrap();
    assert!(!rows.is_empty());
    let stratum = |row: &DecisionRow| row.entry.sampling.map(|sampling| sampling.stratum());
    assert!(rows.iter().all(|row| stratum(row) == Some(3)));
    let of_another = QueueRequest {
        operating_point: Some("op-unknown".to_owned()),
        ..of_stratum
    };
    assert_eq!(reader.queue(&of_another).unwrap(), []);
}

#[test]
fn age_removes_rows_and_images_and_leaves_totals_and_audited_rows() {
    let place = place();
    let mut ageing = options();
    // One decision each second: the first 5,000 are past their time, but for sampled and labelled
    // ones, and of these the first 2,000.
    ageing.retention.ms = NOW_MS - id(5000).unix_ms();
    ageing.retention.audited_ms = NOW_MS - id(2000).unix_ms();
    let kept = open(&place.path);
    record_all(&kept, 0..10_000);
    kept.record(sampled(20_001), None);
    kept.record(sampled(3000), None);
    kept.record(
        DecisionEntry {
            id: DecisionId::at(id(3000).unix_ms(), [9; 10]),
            ..sampled(3000)
        },
        Some(vec![5; 100].into()),
    );
    let with_image = DecisionId::at(id(3000).unix_ms(), [9; 10]);
    let mut labels: Vec<Annotation> = [1000, 4000, 7000]
        .map(|number| label(number, AnnotatedTruth::NonMated))
        .into();
    labels.push(Annotation {
        decision: with_image,
        ..label(0, AnnotatedTruth::NonMated)
    });
    assert!(kept.report(labels).unwrap().iter().all(Result::is_ok));
    let before = decisions(&kept.reader().unwrap().totals().unwrap().0);
    drop(kept);

    let journal = Journal::open(&place.path, ageing, |_| {}).unwrap();
    journal.retain().unwrap();
    let reader = journal.reader().unwrap();
    // 5,000 to 9,999, the odd ones from 2,000 on, which were sampled, 20,001, 4,000 and the one
    // with an image.
    assert_eq!(reader.verify().unwrap(), 6503);
    let (totals, _) = reader.totals().unwrap();
    assert_eq!(decisions(&totals), before);
    let removed: u64 = totals.iter().map(|total| total.count.removed).sum();
    assert_eq!(before - removed, 6503);
    // Of the sampled ones those of live searches without a filter are in the audit.
    let in_the_audit =
        |number: &u64| !number.is_multiple_of(2) && !number.is_multiple_of(7) && number % 26 != 13;
    let gone = (0..2_000).filter(in_the_audit).count() as u64;
    assert_eq!(reader.sampled_removed("op-0").unwrap(), gone);
    assert_eq!(reader.sampled_removed("op-9").unwrap(), 0);
    assert!(reader.decision(id(4000)).unwrap().is_some());
    let labelled = reader.decision(with_image).unwrap().unwrap();
    assert!(labelled.annotation.is_some());
    assert_eq!(reader.image(with_image).unwrap(), None);
    assert_eq!(reader.history(id(1000)).unwrap(), []);

    let expired = journal.report(vec![
        label(1000, AnnotatedTruth::NonMated),
        label(4998, AnnotatedTruth::NonMated),
    ]);
    let refused = [1000, 4998].map(|number| {
        Err(AnnotationRefusal::Expired {
            decision: id(number),
        })
    });
    assert_eq!(expired.unwrap(), refused);
}

#[test]
fn a_start_with_the_clock_far_ahead_does_not_remove_what_is_labelled() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, [0, 1].into_iter());
    (2..12).for_each(|number| journal.record(sampled(number), None));
    let labels = (2..12).map(|number| label(number, AnnotatedTruth::NonMated));
    assert!(
        journal
            .report(labels.collect())
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    drop(journal);
    let ahead = JournalOptions {
        clock: || NOW_MS + 800 * DAY_MS,
        ..options()
    };
    let journal = Journal::open(&place.path, ahead, |_| {}).unwrap();
    journal.retain().unwrap();
    let reader = journal.reader().unwrap();
    // What is kept for 30 days went, as after a pause of as many.
    assert_eq!(reader.decision(id(0)).unwrap(), None);
    let labelled = |number| reader.decision(id(number)).unwrap().unwrap().annotation;
    assert!((2..12).all(|number| labelled(number).is_some()));
}

#[test]
fn size_removes_the_oldest_and_the_file_keeps_to_it() {
    let place = place();
    let mut small = options();
    small.retention.bytes = 1 << 20;
    let journal = Journal::open(&place.path, small, |_| {}).unwrap();
    let mut expected = 0;
    for round in 0..10 {
        // Even ones are not sampled.
        record_all(&journal, (round * 6000..round * 6000 + 6000).step_by(2));
        journal.record(sampled(100_000 + round), Some(vec![3; 30_000].into()));
        expected += 3001;
        if round == 0 {
            journal
                .report(vec![label(2, AnnotatedTruth::NonMated)])
                .unwrap();
        }
        journal.retain().unwrap();
        let length = fs::metadata(&place.path).unwrap().len();
        let used = journal.reader().unwrap();
        assert_eq!(decisions(&used.totals().unwrap().0), expected);
        assert!(length <= 3 << 20, "{length}");
    }
    let reader = journal.reader().unwrap();
    let rows = reader.verify().unwrap();
    assert!(1000 < rows && rows < 10_000, "{rows}");
    assert!(reader.decision(id(59_998)).unwrap().is_some());
    assert_eq!(reader.decision(id(0)).unwrap(), None);
    // Labels stay while others can go.
    assert!(reader.decision(id(2)).unwrap().is_some());
    drop(reader);
    drop(journal);
    let length = fs::metadata(&place.path).unwrap().len();
    assert!(length <= 1 << 20, "{length}");
}

#[test]
fn a_flood_of_sampled_decisions_does_not_push_out_what_people_said() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let place = place();
    let mut small = options();
    small.retention.bytes = 1 << 20;
    let crowded_out = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&crowded_out);
    let observe = move |committed: &Committed| {
        told.fetch_add(committed.crowded_out, Ordering::SeqCst);
    };
    let journal = Journal::open(&place.path, small, observe).unwrap();
    (0..180).for_each(|number| journal.record(sampled(number), None));
    let labels = (0..180).map(|number| label(number, AnnotatedTruth::NonMated));
    journal.report(labels.collect()).unwrap();
    let representative_since = || journal.reader().unwrap().representative_since_ms().unwrap();
    assert_eq!(representative_since(), 0);
    for round in 1..=6 {
        let flood = round * 3000..(round + 1) * 3000;
        flood.for_each(|number| journal.record(sampled(number), None));
        journal.retain().unwrap();
    }
    let reader = journal.reader().unwrap();
    for number in 0..180 {
        let kept = reader.decision(id(number)).unwrap().unwrap();
        assert!(kept.annotation.is_some(), "{number}");
    }
    assert_eq!(reader.decision(id(3000)).unwrap(), None);
    assert!(reader.decision(id(20_999)).unwrap().is_some());
    assert!(1000 < crowded_out.load(Ordering::SeqCst));
    // Whatever is left from there on is all that was sampled.
    let mut first = None;
    reader
        .audited("op-0", representative_since(), |row| {
            first.get_or_insert(row.entry.id);
        })
        .unwrap();
    let first = first.unwrap();
    let missing = (3000..21_000)
        .map(id)
        .rfind(|id| reader.decision(*id).unwrap().is_none());
    let next = (3000..21_000).map(id).find(|id| missing.unwrap() < *id);
    assert_eq!(Some(first), next);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
    let place = place();
    let damage: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes.truncate(5000),
        |bytes| bytes.clear(),
        |bytes| bytes[..16].fill(0),
        |bytes| bytes[4096..12_288].fill(0xa5),
        |bytes| {
            let half = bytes.len() / 2;
            bytes[half..half + 4096].fill(0xff);
        },
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let journal = open(&place.path);
        record_all(&journal, 0..2000);
        drop(journal);
        let mut bytes = fs::read(&place.path).unwrap();
        damage(&mut bytes);
        fs::write(&place.path, &bytes).unwrap();

        let journal = open(&place.path);
        record_all(&journal, 0..10);
        let reader = journal.reader().unwrap();
        assert_eq!(reader.verify().unwrap(), 10, "damage {number}");
        assert_eq!(decisions(&reader.totals().unwrap().0), 10);
        drop((reader, journal));
        let aside = place
            .folder
            .path()
            .join(format!("decisions.db.damaged-{}", (number + 1).min(3)));
        assert_eq!(fs::read(aside).unwrap(), bytes);
        fs::remove_file(&place.path).unwrap();
    }
    let files = fs::read_dir(place.folder.path()).unwrap().count();
    assert_eq!(files, 3);
}

#[test]
fn no_flipped_byte_makes_it_panic_or_keeps_it_from_opening() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..200);
    drop(journal);
    let whole = fs::read(&place.path).unwrap();
    // All of the header, and a spread of the rest. Byte 60 to 71 are versions, which are refused.
    let positions = (0..60)
        .chain(72..100)
        .chain((100..whole.len()).step_by(997));
    for position in positions {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("decisions.db");
        let mut bytes = whole.clone();
        bytes[position] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        let journal = open(&path);
        record_all(&journal, 1000..1010);
        let reader = journal.reader().unwrap();
        assert!(
            10 <= decisions(&reader.totals().unwrap().0),
            "byte {position}"
        );
    }
}

#[test]
fn damage_found_while_writing_costs_rows_and_no_totals() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..5000);
    let before = decisions(&journal.reader().unwrap().totals().unwrap().0);
    // Behind the writer's back: its pages are read again, since another wrote.
    let other = Connection::open(&place.path).unwrap();
    other
        .execute_batch(
            "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA writable_schema = 1; \
             UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'totals'; \
             PRAGMA writable_schema = 0; DROP TABLE points",
        )
        .unwrap_or_default();
    drop(other);
    let mut bytes = fs::read(&place.path).unwrap();
    for page in bytes.chunks_mut(4096).skip(1) {
        page.fill(0x5a);
    }
    fs::write(&place.path, bytes).unwrap();
    record_all(&journal, 5000..5100);
    let reader = journal.reader().unwrap();
    assert_eq!(reader.verify().unwrap(), 100);
    assert_eq!(decisions(&reader.totals().unwrap().0), before + 100);
    assert!(place.folder.path().join("decisions.db.damaged-1").exists());
}

#[test]
fn a_journal_of_another_version_or_program_is_refused_and_left_alone() {
    let place = place();
    drop(open(&place.path));
    let set = |pragma: &str| {
        let connection = Connection::open(&place.path).unwrap();
        connection
            .execute_batch(&format!("PRAGMA {pragma}"))
            .unwrap();
        drop(connection);
        Journal::open(&place.path, options(), |_| {}).unwrap_err()
    };
    let newer = set("user_version = 4");
    assert!(
        matches!(
            newer,
            JournalError::Format {
                found: 4,
                readable: 3,
                ..
            }
        ),
        "{newer}"
    );
    assert!(newer.to_string().contains("format 4"), "{newer}");
    let foreign = set("application_id = 5");
    assert!(
        matches!(foreign, JournalError::NotAJournal { .. }),
        "{foreign}"
    );
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 1);
}

#[test]
fn a_journal_of_the_format_before_is_read_as_it_is_and_brought_up_to_date_to_be_written() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..100);
    drop(journal);
    let old = "ALTER TABLE journal DROP COLUMN crowded_to; PRAGMA user_version = 2";
    let connection = Connection::open(&place.path).unwrap();
    connection.execute_batch(old).unwrap();
    drop(connection);
    let written = |numbers: std::ops::Range<u64>| {
        let numbers = numbers.filter(|number| !number.is_multiple_of(10));
        numbers.map(entry).collect::<Vec<_>>()
    };
    let entries = |reader: &JournalReader| {
        let rows = all(reader, Some("op-0")).into_iter();
        rows.map(|row| row.entry).collect::<Vec<_>>()
    };
    let reader = JournalReader::open(&place.path).unwrap();
    assert_eq!(entries(&reader), written(0..100));
    drop(reader);

    let journal = open(&place.path);
    let name = journal.name();
    record_all(&journal, 101..102);
    let mut expected = written(0..100);
    expected.push(entry(101));
    assert_eq!(entries(&journal.reader().unwrap()), expected);
    drop(journal);
    let journal = open(&place.path);
    assert_eq!(journal.name(), name);
    assert_eq!(journal.reader().unwrap().verify().unwrap(), 101);
}

#[test]
fn the_id_of_a_decision_names_its_journal_and_stays_in_order() {
    let place = place();
    let name = open(&place.path).name();
    let ids: Vec<DecisionId> = (0..1000).map(|_| DecisionId::fresh_in(name)).collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| id.journal() == name));
    let unlike: std::collections::BTreeSet<DecisionId> = ids.iter().copied().collect();
    assert_eq!(unlike.len(), 1000);
    let last: DecisionId = ids[999];
    let absent = |of: JournalId| super::audit::absent(last, &[], of);
    assert_eq!(absent(name), AnnotationRefusal::Unknown { decision: last });
    let other = DecisionId::at(0, [1; 10]).journal();
    assert_eq!(
        absent(other),
        AnnotationRefusal::Elsewhere { decision: last }
    );
    assert!(last.to_string().ends_with(&name.to_string()));
    assert_eq!(DecisionId::parse(&last.to_string()), Some(last));
}

#[test]
fn a_full_disk_keeps_decisions_waiting_and_loses_none_when_there_is_room_again() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..100);
    // The next connection of this process cannot grow the file: as full as a disk can be.
    drop(journal);
    let store = super::store::JournalStore::open_or_begin(&place.path).unwrap();
    let limit = |pages: u32| {
        let set = store
            .connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
        set.unwrap();
    };
    limit(1);
    let mut store = store;
    let waiting = |number| super::store::WaitingDecision {
        entry: entry(number),
        image: None,
    };
    let batch: Vec<_> = (100..5000).map(waiting).collect();
    let error = store
        .write(&batch, super::LostDecisions::default())
        .unwrap_err();
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert_eq!(
        JournalReader::open(&place.path).unwrap().verify().unwrap(),
        100
    );
    let set = store
        .connection
        .pragma_update_and_check(None, "max_page_count", 1 << 20, |_| Ok(()));
    set.unwrap();
    store
        .write(&batch, super::LostDecisions::default())
        .unwrap();
    assert_eq!(
        JournalReader::open(&place.path).unwrap().verify().unwrap(),
        5000
    );
}

#[test]
fn while_the_disk_fails_labels_are_refused_and_decisions_wait() {
    let place = place();
    let journal = open(&place.path);
    record_all(&journal, 0..10);
    // Another writer holds the file: longer than a transaction waits.
    let other = Connection::open(&place.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 10..20 {
        journal.record(entry(number), None);
    }
    let refused = journal.report(vec![label(1, AnnotatedTruth::NonMated)]);
    assert!(
        matches!(refused, Err(JournalError::Storage { .. })),
        "{refused:?}"
    );
    other.execute_batch("ROLLBACK").unwrap();
    journal.flush().unwrap();
    assert_eq!(journal.reader().unwrap().verify().unwrap(), 20);
    assert_eq!(journal.losses().ever(), super::LostDecisions::default());
}

#[test]
fn decisions_that_are_written_long_after_they_were_made_are_announced_as_late() {
    let place = place();
    let journal = open(&place.path);
    for (age_ms, late) in [(0, 0), (20_000, 0), (40_000, 1), (0, 1), (90_000, 2)] {
        let decision = DecisionId::at(NOW_MS - age_ms, [7; 10]);
        journal.record(
            DecisionEntry {
                id: decision,
                ..entry(1)
            },
            None,
        );
        journal.flush().unwrap();
        assert_eq!(journal.losses().late_writes(), late, "{age_ms} ms");
    }
}

#[test]
fn what_is_lost_is_told_while_the_disk_fails_and_is_on_it_afterwards() {
    let place = place();
    let journal = open(&place.path);
    let losses = journal.losses();
    let other = Connection::open(&place.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sent = 2 * 8192 + 1000;
    for number in 0..sent {
        journal.record(entry(number), None);
    }
    let while_failing = losses.ever();
    assert!(1000 <= while_failing.queue_full + while_failing.not_written);
    other.execute_batch("ROLLBACK").unwrap();
    journal.flush().unwrap();
    let (totals, written) = journal.reader().unwrap().totals().unwrap();
    assert_eq!(written, losses.ever());
    let lost = written.queue_full + written.not_written;
    assert_eq!(decisions(&totals) + lost, sent);
}

#[test]
fn what_waits_when_the_writer_panics_is_lost_and_told_and_so_is_what_comes_later() {
    let place = place();
    let mut opening = true;
    let journal = Journal::open(&place.path, options(), move |_| {
        assert!(std::mem::take(&mut opening), "the writer panics");
    })
    .unwrap();
    for number in 0..30 {
        journal.record(entry(number), None);
    }
    // Written, and then it panics.
    assert!(journal.flush().is_err());
    for number in 30..50 {
        journal.record(entry(number), None);
    }
    let losses = journal.losses();
    drop(journal);
    let rows = JournalReader::open(&place.path).unwrap().verify().unwrap();
    assert_eq!(rows + losses.ever().not_written, 50);
    assert!(20 <= losses.ever().not_written);
}

#[test]
fn feedback_leaves_a_sampled_decision_in_the_queue_and_is_no_label_of_it() {
    let place = place();
    let journal = open(&place.path);
    journal.record(sampled(1), None);
    journal.flush().unwrap();
    let said = |said: Annotation| journal.report(vec![said]).unwrap().remove(0).unwrap();
    assert_eq!(
        said(unasked(1, AnnotatedTruth::NonMated)),
        AnnotationOutcome::Added
    );
    assert_eq!(
        said(unasked(1, AnnotatedTruth::NonMated)),
        AnnotationOutcome::Repeated
    );
    let reader = journal.reader().unwrap();
    let queue = || {
        let all = QueueRequest {
            limit: 10,
            ..QueueRequest::default()
        };
        reader.queue(&all).unwrap().len()
    };
    assert_eq!(queue(), 1);
    assert_eq!(reader.decision(id(1)).unwrap().unwrap().annotation, None);
    let audited = || {
        let mut rows = Vec::new();
        reader.audited("op-0", 0, |row| rows.push(row)).unwrap();
        rows.remove(0)
    };
    assert_eq!(audited().annotation, None);
    assert_eq!(
        audited().feedback,
        Some(unasked(1, AnnotatedTruth::NonMated))
    );
    // Whoever is asked later is heard, and corrects nobody.
    assert_eq!(said(label(1, mated("x"))), AnnotationOutcome::Added);
    assert_eq!(said(unasked(1, mated("x"))), AnnotationOutcome::Corrected);
    assert_eq!(queue(), 0);
    assert_eq!(audited().annotation, Some(label(1, mated("x"))));
    assert_eq!(reader.history(id(1)).unwrap().len(), 3);
}

#[test]
fn a_reader_beside_the_writer_sees_whole_transactions() {
    let place = place();
    let journal = open(&place.path);
    let reader = JournalReader::open(&place.path).unwrap();
    let writing = std::thread::spawn(move || {
        record_all(&journal, 0..30_000);
        journal
    });
    let mut seen = 0;
    while !writing.is_finished() {
        let rows = reader.verify().unwrap();
        assert!(seen <= rows);
        seen = rows;
    }
    drop(writing.join().unwrap());
    assert_eq!(reader.verify().unwrap(), 30_000);
}

#[test]
fn a_killed_process_leaves_totals_that_are_those_of_its_rows() {
    let place = place();
    fs::write(place.folder.path().join(TOLD), "decisions.db").unwrap();
    let mut rows_before = 0;
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "journal::tests::the_other_process",
                "--nocapture",
            ])
            .current_dir(place.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = lines
            .map(|line| line.unwrap())
            .filter(|line| line.starts_with("flushed"))
            .take(3 * round)
            .count();
        // While it writes on.
        child.kill().unwrap();
        child.wait().unwrap();
        let journal = open(&place.path);
        let rows = journal.reader().unwrap().verify().unwrap();
        let flushed = 700 * acknowledged as u64;
        assert!(
            rows_before + flushed <= rows,
            "{rows_before} + {flushed}, {rows}"
        );
        rows_before = rows;
    }
}

#[test]
fn what_a_killed_process_had_recorded_is_in_the_journal_once_when_it_is_opened_again() {
    let (place, other) = (place(), place());
    let journal = open(&place.path);
    record_all(&journal, 0..10);
    // Nothing of these reaches the journal.
    let busy = Connection::open(&place.path).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 10..40 {
        let image = (number == 11).then(|| bytes::Bytes::from_static(b"image"));
        journal.record(entry(number), image);
    }
    // The files as they are at that moment, which is what a killed process leaves.
    let files = fs::read_dir(place.folder.path()).unwrap();
    for file in files.map(|file| file.unwrap().path()) {
        fs::copy(&file, other.folder.path().join(file.file_name().unwrap())).unwrap();
    }
    // What is committed already, and what the end of the machine made of a line.
    let waiting = other.folder.path().join("decisions.db.waiting-2");
    let mut lines = fs::read(&waiting).unwrap();
    lines.extend(super::waiting::line(&entry(3), false));
    lines.extend(b"\n{\"entry\":\0\0\0");
    fs::write(&waiting, lines).unwrap();
    busy.execute_batch("ROLLBACK").unwrap();
    drop(journal);

    for _start in 0..2 {
        let journal = open(&other.path);
        let reader = journal.reader().unwrap();
        assert_eq!(reader.verify().unwrap(), 40);
        let lost = journal.losses().ever();
        assert_eq!((lost.not_written, lost.images), (1, 1));
        let read = [Some("op-0"), None].map(|point| all(&reader, point));
        let mut read: Vec<_> = read.concat().into_iter().map(|row| row.entry).collect();
        read.sort_by_key(|entry| entry.id);
        assert_eq!(read, (0..40).map(entry).collect::<Vec<_>>());
    }
    // A whole end leaves nothing there.
    for name in ["decisions.db.waiting-1", "decisions.db.waiting-2"] {
        for place in [&place, &other] {
            assert!(!place.folder.path().join(name).exists());
        }
    }
}

#[test]
fn part_of_a_line_spoils_no_decision_that_waits_after_it() {
    let (place, other) = (place(), place());
    let journal = open(&place.path);
    let busy = Connection::open(&place.path).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = |place: &Place| {
        let folder = place.folder.path();
        [1, 2].map(|file| folder.join(format!("decisions.db.waiting-{file}")))
    };
    for number in 0..4 {
        journal.record(entry(number), None);
        // As much as there was room for on the disk, in whichever takes them.
        let torn = super::waiting::line(&entry(number + 10), false);
        for path in waiting(&place) {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(&torn[..torn.len() / 2]).unwrap();
        }
    }
    drop(open(&other.path));
    for (from, to) in waiting(&place).iter().zip(waiting(&other)) {
        fs::copy(from, to).unwrap();
    }
    busy.execute_batch("ROLLBACK").unwrap();
    drop(journal);

    let journal = open(&other.path);
    let reader = journal.reader().unwrap();
    let mut read = [Some("op-0"), None]
        .map(|point| all(&reader, point))
        .concat();
    read.sort_by_key(|row| row.entry.id);
    let read: Vec<_> = read.into_iter().map(|row| row.entry).collect();
    assert_eq!(read, (0..4).map(entry).collect::<Vec<_>>());
    assert_eq!(journal.losses().ever().not_written, 8);
}

/// Not a test by itself: what [`a_killed_process_leaves_totals_that_are_those_of_its_rows`] kills.
#[test]
fn the_other_process() {
    let Ok(name) = fs::read_to_string(TOLD) else {
        return;
    };
    let journal = open(Path::new(&name));
    let mut out = std::io::stdout();
    loop {
        for number in 0..700 {
            let id = DecisionId::fresh();
            journal.record(
                DecisionEntry {
                    id,
                    ..entry(number)
                },
                None,
            );
        }
        journal.flush().unwrap();
        writeln!(out, "\nflushed").unwrap();
        for number in 0..7000 {
            let id = DecisionId::fresh();
            journal.record(
                DecisionEntry {
                    id,
                    ..entry(number)
                },
                None,
            );
        }
    }
}
