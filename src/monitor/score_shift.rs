//! Whether scores have shifted since an operating point began to decide, and whether they are those
//! of its calibration: told without labels, and saying nothing of error rates.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_file, write_json};
use crate::journal::entry::SourceKind;
use crate::journal::totals::Committed;
use matchpoint_calibration::monitoring::indicators::{Shift, shift};
use matchpoint_calibration::monitoring::mixture::{Classes, Misfit, misfit};

/// What later decisions are compared with.
const FILE: &str = "scores.json";
/// Decisions of the reference, and of each window: a limit below .02 for six strata.
const DECISIONS: u64 = 2000;
/// How far windows are apart.
const STEP: u64 = 500;
/// The probability that a window is above the limit by chance.
const ALPHA: f64 = 0.01;

/// Searches by operating point and stratum, as the journal has counted them.
#[derive(Debug, Default)]
pub(super) struct StratumCounts(Mutex<BTreeMap<(String, u16), u64>>);

impl StratumCounts {
    /// Takes over what a commit changed. Searches under a filter, canaries and comparisons are others.
    pub(super) fn take(&self, committed: &Committed) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for total in &committed.changed {
            if let (Some(point), Some(stratum), SourceKind::Live, false) = (
                &total.key.operating_point,
                total.key.stratum,
                total.key.source,
                total.key.filtered,
            ) {
                counts.insert((point.clone(), stratum), total.count.decisions);
            }
        }
    }

    fn of(&self, point: &str, strata: usize) -> Vec<u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |stratum: usize| {
            let key = (point.to_owned(), u16::try_from(stratum).ok()?);
            counts.get(&key).copied()
        };
        (0..strata)
            .map(|stratum| count(stratum).unwrap_or(0))
            .collect()
    }
}

/// The first decisions of an operating point under a design of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceScores {
    operating_point: String,
    design_since_unix_ms: u64,
    /// Decisions by stratum.
    counts: Vec<u64>,
}

/// What the latest decisions say. `None` while there are too few, and where nothing is known to hold
/// them against.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ScoreComparison {
    /// Against the first decisions of the operating point.
    pub(super) shift: Option<Shift>,
    /// Against its calibration.
    pub(super) misfit: Option<Misfit>,
}

/// The scores of one operating point, from when the deployment was opened or it began to decide.
#[derive(Debug)]
pub(super) struct ScoreShift {
    file: PathBuf,
    /// What its calibration found.
    classes: Option<Classes>,
    operating_point: String,
    design_since_ms: u64,
    reference: Option<ReferenceScores>,
    /// Counts at the beginning of windows, the earliest first.
    begun: VecDeque<Vec<u64>>,
}

impl ScoreShift {
    pub(super) fn new(
        folder: &Path,
        point: &str,
        design_since_ms: u64,
        classes: Option<Classes>,
    ) -> Self {
        let file = folder.join(FILE);
        let known = read_file(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<ReferenceScores>(&bytes).ok());
        Self {
            reference: known.filter(|known| {
                known.operating_point == point && known.design_since_unix_ms == design_since_ms
            }),
            file,
            classes,
            operating_point: point.to_owned(),
            design_since_ms,
            begun: VecDeque::new(),
        }
    }

    pub(super) fn is_of(&self, point: &str) -> bool {
        self.operating_point == point
    }

    /// Compares the latest decisions with the first, and with the calibration.
    ///
    /// # Errors
    /// The disk: the reference is then that of this process alone.
    pub(super) fn evaluate(
        &mut self,
        counted: &StratumCounts,
        strata: usize,
    ) -> Result<ScoreComparison, FileError> {
        let now = counted.of(&self.operating_point, strata);
        let since = |begun: &[u64]| -> Vec<u64> {
            let pairs = now.iter().zip(begun);
            pairs.map(|(now, then)| now.saturating_sub(*then)).collect()
        };
        let total = |begun: &[u64]| since(begun).iter().sum::<u64>();
        match self.begun.back() {
            Some(last) if total(last) < STEP => {}
            Some(_) | None => self.begun.push_back(now.clone()),
        }
        // The latest beginning that leaves enough.
        while self
            .begun
            .get(1)
            .is_some_and(|next| DECISIONS <= total(next))
        {
            self.begun.pop_front();
        }
        let window = self.begun.front().map(|first| since(first));
        let window = window.filter(|window| DECISIONS <= window.iter().sum());
        let Some(window) = window else {
            return Ok(ScoreComparison::default());
        };
        let classes = self.classes.as_ref();
        let misfit = classes.and_then(|classes| misfit(classes, &window, ALPHA).ok());
        if let Some(reference) = &self.reference {
            let shift = shift(&reference.counts, &window, ALPHA).ok();
            return Ok(ScoreComparison { shift, misfit });
        }
        let reference = ReferenceScores {
            operating_point: self.operating_point.clone(),
            design_since_unix_ms: self.design_since_ms,
            counts: window,
        };
        // Windows begin after it.
        self.begun = VecDeque::from([now]);
        let written = write_json(&self.file, &reference);
        self.reference = Some(reference);
        let shift = None;
        written.map(|()| ScoreComparison { shift, misfit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::totals::{DecisionCount, Total, TotalKey};
    use matchpoint_calibration::decision::{Decision, Threshold};
    use matchpoint_calibration::monitoring::strata::Strata;
    use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
    use matchpoint_vector::Similarity;

    fn committed<const STRATA: usize>(counts: [u64; STRATA]) -> Committed {
        let total = |(stratum, decisions): (u16, u64)| Total {
            key: TotalKey {
                operating_point: Some("op".to_owned()),
                source: SourceKind::Live,
                decision: Decision::Reject,
                stratum: Some(stratum),
                filtered: false,
            },
            count: DecisionCount {
                decisions,
                ..DecisionCount::default()
            },
        };
        Committed {
            changed: (0..).zip(counts).map(total).collect(),
            ..Committed::default()
        }
    }

    #[test]
    fn the_first_decisions_are_what_later_ones_are_compared_with_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let counted = StratumCounts::default();
        let mut scores = ScoreShift::new(folder.path(), "op", 7, None);
        let look = |scores: &mut ScoreShift, counts| {
            counted.take(&committed(counts));
            scores.evaluate(&counted, 2).unwrap().shift
        };
        // What was counted before it was opened is no part of it.
        assert_eq!(look(&mut scores, [10_000, 0]), None);
        assert_eq!(look(&mut scores, [10_900, 900]), None);
        assert_eq!(look(&mut scores, [11_000, 1_000]), None);
        let calm = look(&mut scores, [12_000, 2_000]).unwrap();
        assert!(calm.psi < calm.limit, "{calm:?}");
        let mut again = ScoreShift::new(folder.path(), "op", 7, None);
        assert_eq!(look(&mut again, [12_000, 2_000]), None);
        let shifted = look(&mut again, [12_100, 3_900]).unwrap();
        assert!(shifted.limit < shifted.psi, "{shifted:?}");
        // Of another operating point, or under another design, nothing is known.
        let reference = |point, since| ScoreShift::new(folder.path(), point, since, None).reference;
        assert_eq!(reference("other", 7), None);
        assert_eq!(reference("op", 8), None);
    }
    #[test]
    fn scores_are_held_against_those_of_the_calibration_from_the_first_window_on() {
        let search = |(truth, score, number): (TrialKind, f32, u32)| RecordedSearch {
            probe: format!("{truth:?} {number}"),
            label: format!("{truth:?} {number}"),
            truth,
            found: Some(RecordedMatch {
                item: "item".to_owned(),
                label: "label".to_owned(),
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            }),
            conditions: BTreeMap::new(),
        };
        // Mated searches score .9 or .6, strangers .1 or .4.
        let searches = (0..40).flat_map(|number| {
            let (near, far) = if number < 10 { (0.6, 0.4) } else { (0.9, 0.1) };
            let mated = (TrialKind::Mated, near, number);
            [mated, (TrialKind::NeverEnrolled, far, number)].map(search)
        });
        let recording = Recording::new(searches.collect()).unwrap();
        let (strata, half) = (Strata::usual(), Threshold::new(0.5).unwrap());
        let classes = Classes::of(&recording, half, &strata);
        let folder = tempfile::tempdir().unwrap();
        let counted = StratumCounts::default();
        let mut scores = ScoreShift::new(folder.path(), "op", 7, classes);
        let mut look = |counts: [u64; 6]| {
            counted.take(&committed(counts));
            scores.evaluate(&counted, 6).unwrap().misfit
        };
        assert_eq!(look([0; 6]), None);
        // Nine strangers of ten fit, and searches that are all beside the threshold do not.
        let fits = look([1350, 450, 0, 0, 50, 150]).unwrap();
        assert!(
            fits.distance < fits.limit && (fits.mated - 0.1).abs() < 0.01,
            "{fits:?}"
        );
        let other = look([1350, 1450, 0, 0, 1050, 150]).unwrap();
        assert!(other.limit < other.distance, "{other:?}");
    }
}
