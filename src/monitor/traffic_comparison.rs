//! Compares callers' searches with those of the calibration, and stores the evidence across restarts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::observed::Observed;
use super::resets::Resets;
use crate::clock::now_ms;
use crate::files::{FileError, read_list, write_json};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::drift::{DriftVerdict, Finding, FindingSubject};
use matchpoint_calibration::monitoring::traffic::{
    SearchSigns, TrafficAssessment, TrafficReference, TrafficState, TrafficWatch,
};
use matchpoint_calibration::operating_point::OperatingPoint;

/// The file in the deployment's folder.
const FILE: &str = "traffic.json";
/// The highest number of searches that wait to be compared, more than arrive between two evaluations. Further
/// ones are not compared; this does not depend on their properties.
const WAITING_MAX: usize = 1 << 16;
/// How often the evidence is stored. Searches that a crash loses are not compared.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// The number of operating points of which evidence is kept: those that were compared last, with some 60 KB each. One that
/// decides again goes on where it was: a test that began anew with each switch would have another chance of a false alarm
/// each time, and would forget the alarm of before.
const POINTS_MAX: usize = 20;

/// The comparison of a deployment.
#[derive(Debug)]
pub(super) struct TrafficComparison {
    /// The folder of its file.
    records: PathBuf,
    delta: f64,
    design_since_ms: u64,
    waiting: Mutex<WaitingSearches>,
    watched: Mutex<Option<WatchedPoint>>,
}

/// Searches under one operating point that are not compared yet.
#[derive(Debug, Default)]
struct WaitingSearches {
    operating_point: String,
    searches: Vec<(SearchSigns, bool)>,
}

/// The comparison for one operating point, since it became active or since the evidence was reset.
#[derive(Debug)]
struct WatchedPoint {
    is: EvidenceOf,
    reference: Arc<TrafficReference>,
    watch: TrafficWatch,
    raised_ms: Option<u64>,
    kept: Instant,
}

/// Identifies what the evidence belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceOf {
    operating_point: String,
    /// The digest of the reference that is compared with.
    reference: String,
    delta: f64,
    since_unix_ms: u64,
}

impl EvidenceOf {
    /// Whether kept evidence goes on as this. An alarm that was raised stands with the delta that it was raised with,
    /// whatever is set since.
    fn goes_on_as(&self, kept: &Self, raised_unix_ms: Option<u64>) -> bool {
        let of_same_delta = Self {
            delta: self.delta,
            ..kept.clone()
        };
        kept == self || (raised_unix_ms.is_some() && of_same_delta == *self)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptEvidence {
    of: EvidenceOf,
    raised_unix_ms: Option<u64>,
    state: TrafficState,
}

/// The comparison of traffic with the calibration of the active operating point.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficInService {
    /// The comparison; `None` if the description of the calibration's searches was not stored.
    pub assessment: Option<TrafficAssessment>,
    /// When the alarm was raised.
    pub raised_unix_ms: Option<u64>,
}

impl TrafficInService {
    /// The finding as text.
    pub(super) fn finding(&self) -> Finding {
        self.assessment.as_ref().map_or_else(
            || Finding {
                subject: FindingSubject::Traffic,
                verdict: DriftVerdict::Unknown,
                says: "Whether searches look like those of the calibration is not known: it did not keep what those looked like.".to_owned(),
                next: "Calibrate again.".to_owned(),
            },
            TrafficAssessment::finding,
        )
    }
}

impl TrafficComparison {
    /// Compares with a probability of a false alarm of at most `delta`, and stores the evidence in the folder
    /// `records`.
    pub(super) fn new(records: &Path, delta: f64, design_since_ms: u64) -> Self {
        Self {
            records: records.to_owned(),
            delta,
            design_since_ms,
            waiting: Mutex::default(),
            watched: Mutex::new(None),
        }
    }

    /// Adds a search that an operating point decided. It never waits for long.
    pub(super) fn take(&self, operating_point: &str, signs: SearchSigns, decision: Decision) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.operating_point != operating_point {
            operating_point.clone_into(&mut waiting.operating_point);
            waiting.searches.clear();
        }
        if waiting.searches.len() < WAITING_MAX {
            let accepted = decision == Decision::Accept;
            waiting.searches.push((signs, accepted));
        }
    }

    /// Compares the waiting searches of the active operating point; `None` if none is active, or if what is
    /// kept of earlier ones cannot be read, which the log says.
    pub(super) fn update(&self, observed: &dyn Observed) -> Option<TrafficInService> {
        let point = observed.active_point()?;
        self.compare(observed, &point)
            .inspect_err(|error| {
                tracing::error!(%error, deployment = observed.name(), "traffic cannot be compared with the calibration");
            })
            .ok()
    }

    fn compare(
        &self,
        observed: &dyn Observed,
        point: &OperatingPoint,
    ) -> Result<TrafficInService, FileError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.records.join(FILE);
        let another = |known: &&mut WatchedPoint| known.is.operating_point != point.id();
        if let Some(known) = watched.as_mut().filter(another) {
            known.keep(&file, observed.name());
        }
        let Some(reference) = observed.traffic_reference(point.id()) else {
            *watched = None;
            return Ok(TrafficInService {
                assessment: None,
                raised_unix_ms: None,
            });
        };
        let resets = Resets::of(&self.records, point.id(), self.design_since_ms)?;
        let is = EvidenceOf {
            operating_point: point.id().to_owned(),
            reference: digest_of(&reference, watched.as_ref()),
            delta: self.delta,
            since_unix_ms: resets.since_ms(),
        };
        let known = watched.take();
        let known = known.filter(|known| is.goes_on_as(&known.is, known.raised_ms));
        let mut known = match known {
            Some(known) => known,
            None => WatchedPoint::open(is, &file, reference, resets.into_all().len())?,
        };
        let searches = self.waiting(point.id());
        for (signs, accepted) in &searches {
            known.watch.observe(*signs, *accepted);
        }
        let assessment = known.watch.assessment();
        let raised = known.raised_ms.is_none() && assessment.alarm_at.is_some();
        if raised {
            known.raised_ms = Some(now_ms());
            let alarm = known.watch.alarm().unwrap_or_default();
            tracing::warn!(
                deployment = observed.name(),
                alarm,
                "searches are not like those of the calibration"
            );
        }
        if raised || (!searches.is_empty() && KEEP_EVERY <= known.kept.elapsed()) {
            known.keep(&file, observed.name());
        }
        let raised_unix_ms = known.raised_ms;
        *watched = Some(known);
        Ok(TrafficInService {
            assessment: Some(assessment),
            raised_unix_ms,
        })
    }

    /// The alarm of an operating point as text, at the last update; `None` without one.
    pub(super) fn alarm(&self, operating_point: &str) -> Option<String> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let known = watched.as_ref()?;
        known
            .watch
            .alarm()
            .filter(|_| known.is.operating_point == operating_point)
    }

    /// Stores the evidence before the end.
    pub(super) fn keep(&self, observed: &dyn Observed) {
        drop(self.update(observed));
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = watched
            .as_mut()
            .filter(|known| 0 < known.watch.state().compared)
        {
            known.keep(&self.records.join(FILE), observed.name());
        }
    }

    /// Takes the waiting searches of this operating point; those of another one are dropped.
    fn waiting(&self, operating_point: &str) -> Vec<(SearchSigns, bool)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let searches = std::mem::take(&mut waiting.searches);
        if waiting.operating_point == operating_point {
            searches
        } else {
            Vec::new()
        }
    }
}

/// The digest of the reference, which is already known if it is being watched.
fn digest_of(reference: &Arc<TrafficReference>, watched: Option<&WatchedPoint>) -> String {
    let known = watched.filter(|known| Arc::ptr_eq(&known.reference, reference));
    known.map_or_else(
        || reference.digest().unwrap_or_default(),
        |known| known.is.reference.clone(),
    )
}

impl WatchedPoint {
    /// Continues from the file if it belongs to the same evidence; otherwise starts from the beginning.
    fn open(
        is: EvidenceOf,
        file: &Path,
        reference: Arc<TrafficReference>,
        resets: usize,
    ) -> Result<Self, FileError> {
        let mut kept = stored(file)?.into_iter();
        let kept = kept.find(|kept| is.goes_on_as(&kept.of, kept.raised_unix_ms));
        let (is, raised_ms, state) = kept.map_or((is, None, None), |kept| {
            (kept.of, kept.raised_unix_ms, Some(kept.state))
        });
        let mut watch = TrafficWatch::new(&reference, is.delta, resets);
        if let Some(state) = state {
            watch = watch.resumed(state);
        }
        Ok(Self {
            is,
            reference,
            watch,
            raised_ms,
            kept: Instant::now(),
        })
    }

    fn keep(&mut self, file: &Path, deployment: &str) {
        self.kept = Instant::now();
        if let Err(error) = self.write(file) {
            tracing::warn!(%error, deployment, "the comparison of traffic with the calibration is not kept");
        }
    }

    fn write(&self, file: &Path) -> Result<(), FileError> {
        let mut kept = stored(file)?;
        kept.retain(|one| one.of.operating_point != self.is.operating_point);
        kept.push(KeptEvidence {
            of: self.is.clone(),
            raised_unix_ms: self.raised_ms,
            state: self.watch.state().clone(),
        });
        let surplus = kept.len().saturating_sub(POINTS_MAX);
        kept.drain(..surplus);
        write_json(file, &kept)
    }
}

fn stored(file: &Path) -> Result<Vec<KeptEvidence>, FileError> {
    read_list(
        file,
        "the comparison of traffic with the calibration is damaged, and starts over",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_was_raised_stands_whatever_delta_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let of = |delta, since_unix_ms| EvidenceOf {
            operating_point: "op-1".to_owned(),
            reference: "of the calibration".to_owned(),
            delta,
            since_unix_ms,
        };
        let reference = Arc::new(TrafficReference::of(&[], 7));
        let keep = |raised_unix_ms: Option<u64>| {
            let begun = TrafficWatch::new(&reference, 0.05, 0).state().clone();
            let mut state = serde_json::to_value(begun).unwrap();
            state["compared"] = 40.into();
            state["alarm_at"] = raised_unix_ms.map(|_| 30).into();
            let kept = KeptEvidence {
                of: of(0.05, 7),
                raised_unix_ms,
                state: serde_json::from_value(state).unwrap(),
            };
            write_json(&file, &[kept]).unwrap();
        };
        let opened = |is| {
            let opened = WatchedPoint::open(is, &file, Arc::clone(&reference), 0).unwrap();
            (opened.watch.state().compared, opened.raised_ms)
        };
        keep(Some(1000));
        assert_eq!(opened(of(0.05, 7)), (40, Some(1000)));
        assert_eq!(opened(of(0.04, 7)), (40, Some(1000)));
        // A reset ends it, and without an alarm another delta is another test.
        assert_eq!(opened(of(0.04, 8)), (0, None));
        keep(None);
        assert_eq!(opened(of(0.05, 7)), (40, None));
        assert_eq!(opened(of(0.04, 7)), (0, None));
    }
}
