//! Pictures that go while they are grouped.

use std::fs;

use super::*;
use crate::cli::discover::list::ProposedList;
use crate::journal::{Journal, JournalOptions, Retention};
use matchpoint_calibration::analysis::discovery::ProposedGroup;
use matchpoint_calibration::analysis::linkage::{LinkedGroup, LinkedPair};

#[test]
fn pictures_that_have_gone_are_left_out_of_the_list_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        retention: Retention {
            ms: 1,
            audited_ms: 1,
            bytes: 1 << 30,
        },
        clock: || 0,
    };
    // It holds no decision any more.
    let journal = folder.path().join("decisions.db");
    drop(Journal::open(&journal, options, |_| ()).unwrap());
    let there = folder.path().join("there.png");
    fs::write(&there, "a picture").unwrap();
    let places = [
        QueryAt::File(there),
        QueryAt::File(folder.path().join("gone.png")),
        QueryAt::Decision(DecisionId::at(1, [0; 10])),
    ];
    let rows = places.map(|at| RejectedQuery {
        name: "a query".to_owned(),
        at,
        unit: vec![1.0],
        nearest: None,
        truth: None,
    });
    let candidates = Candidates {
        rows: rows.into(),
        counts: QueryCounts::default(),
        failed: Vec::new(),
        known: KnownRows::default(),
        enrolled: Vec::new(),
        fitted_labels: 0,
        known_unused: 0,
        folder: folder.path().to_owned(),
        rows_of_file: 0,
    };
    let pair = LinkedPair {
        row: 0,
        other: 1,
        similarity: 0.9,
    };
    let group = ProposedGroup {
        linked: LinkedGroup {
            rows: vec![0, 1, 2],
            tightest: pair,
            loosest: pair,
        },
        pictures: 3,
    };
    let csv = folder.path().join("new.csv");
    let list = ProposedList::at(&csv).unwrap();
    assert_eq!(list.write(&[("new-1", &group)], &candidates).unwrap(), 2);
    let lines = fs::read_to_string(&csv).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("there.png,new-1,"), "{lines}");
}
