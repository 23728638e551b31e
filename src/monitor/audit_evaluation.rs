//! What was sampled and annotated of an operating point's decisions, and what follows from it.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::alarms::Alarms;
use super::counted_strata::{CountRequest, CountedStrata};
use super::error::MonitorError;
use super::label_history::LabelHistory;
use super::resets::Resets;
use super::sampling_design::sampling_hash;
use crate::clock::now_ms;
use crate::journal::FILE_NAME;
use crate::journal::entry::{AnnotatedTruth, Annotation, AnnotationKind, DecisionRow, Sampling};
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::audit::{AcceptFeedback, AuditRow, SearchTruth};
use matchpoint_calibration::monitoring::drift::{DriftAssessment, PromisedLimits};
use matchpoint_calibration::monitoring::history::{HistoryPoint, rate_history};
use matchpoint_calibration::monitoring::observed::{AuditWindow, GalleryToday};
use matchpoint_calibration::monitoring::plain_sample::{Certifying, Recalibration};
use matchpoint_calibration::monitoring::shared_causes::{BestMatch, Case, groups};
use matchpoint_calibration::monitoring::strata::{Inclusion, Strata};
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::rates::Confidence;
use matchpoint_gallery::Gallery;

/// Gives all decisions that the journal of the deployment in `folder` holds, made within these times,
/// to `take`, until it has enough: those of one operating point after those of another, each in the
/// order in which they were made, with their labels. Also while the deployment is served.
///
/// # Errors
/// There is no journal, it is damaged, or the disk.
pub fn recorded_decisions(
    folder: &Path,
    unix_ms: Range<u64>,
    mut take: impl FnMut(DecisionRow) -> bool,
) -> Result<(), MonitorError> {
    let reader = JournalReader::open(&folder.join(FILE_NAME))?;
    let totals = reader.totals()?.0.into_iter();
    let points: BTreeSet<_> = totals.map(|total| total.key.operating_point).collect();
    for operating_point in points {
        let selection = DecisionSelection {
            operating_point,
            unix_ms: unix_ms.clone(),
        };
        let mut enough = false;
        reader.decisions(&selection, |row| {
            enough = !take(row);
            if enough {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if enough {
            break;
        }
    }
    Ok(())
}

/// How annotation keeps up with what is sampled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Labelling {
    /// When the latest annotation of a sampled decision was given.
    pub(super) latest_ms: Option<u64>,
    /// Sampled decisions that were made after it.
    pub(super) since: u64,
    /// When the earliest sampled decision was made that is kept.
    pub(super) earliest_ms: Option<u64>,
}

/// What is looked at of an operating point.
pub(super) struct AuditSpan<'a> {
    strata: &'a Strata,
    /// From when on decisions count: since the design of the audit, or since a reset.
    pub(super) since_ms: u64,
    /// The probability that an alarm may be false.
    delta: f64,
    /// Whether evidence has been reset.
    reset: bool,
}

impl<'a> AuditSpan<'a> {
    /// Since the design began, with `delta`, or since the latest of `resets`, with what is left of it.
    pub(super) fn of(strata: &'a Strata, delta: f64, resets: &Resets) -> Self {
        Self {
            strata,
            since_ms: resets.since_ms(),
            delta: resets.left_of(delta),
            reset: resets.any(),
        }
    }
}

/// What else is known of a deployment, next to its journal.
pub(super) struct AuditContext<'a> {
    /// What has become of the gallery; `None` for an operating point that does not decide.
    pub(super) gallery: Option<GalleryToday<'a>>,
    /// The gallery whose metadata are conditions; with it, what errors have in common is looked for too,
    /// and whether the labels do for a calibration.
    pub(super) advise: Option<&'a Gallery>,
    /// Those of the operating point: they stay where what they rest on is no longer kept.
    pub(super) alarms: &'a Alarms,
    pub(super) label_history: &'a LabelHistory,
}

/// How an operating point does in service, and what that was computed from.
pub(super) fn drift(
    reader: &JournalReader,
    point: &OperatingPoint,
    span: &AuditSpan<'_>,
    known: &AuditContext<'_>,
    counted: &mut CountedStrata,
) -> Result<(DriftAssessment, AuditObservations), MonitorError> {
    let observations = AuditObservations::of(reader, point.id(), span.since_ms, known)?;
    let request = CountRequest {
        operating_point: point.id(),
        since_ms: span.since_ms,
        strata: span.strata.count(),
        review_from: point.content().review.map(|band| band.unseen.threshold),
        now_ms: now_ms(),
    };
    let (counted, reviews) = counted.count(reader, &request, &observations.made_ms)?;
    let seen = AuditWindow {
        strata: span.strata,
        rows: &observations.rows,
        counted: Some(&counted),
        reviews,
        unix_ms: &observations.made_ms,
        sampling_hashes: &observations.hashes,
        cases: &observations.cases,
        feedback: observations.feedback,
        gallery: known.gallery,
        raised: known.alarms.raised(observations.labelling().earliest_ms),
        reset: span.reset,
    };
    let limits = PromisedLimits::of(point, span.delta);
    let mut drift = DriftAssessment::new(&seen, limits, Confidence::DISPLAY)?;
    if known.advise.is_some() {
        let from = drift.rise_began_at();
        let certifying = Certifying::of(point);
        let recalibration = certifying.map(|what| Recalibration::of(what, &seen, from));
        drift.advise(groups(&observations.cases), recalibration);
    }
    Ok((drift, observations))
}

/// Whether a sampled decision has an annotation that the operating point made from `since_ms` on.
pub(super) fn any_labelled(
    reader: &JournalReader,
    point: &str,
    since_ms: u64,
) -> Result<bool, MonitorError> {
    let mut any = false;
    reader.audited(point, since_ms, |row| {
        any |= row.annotation_kind() == Some(AnnotationKind::Audit);
    })?;
    Ok(any)
}

/// What was sampled and annotated of an operating point's decisions.
pub(super) struct AuditObservations {
    rows: Vec<AuditRow>,
    /// When the decisions of the rows were made.
    made_ms: Vec<u64>,
    /// The hashes that they were sampled by.
    hashes: Vec<u64>,
    /// Those of them that have an annotation, if advice is asked for.
    cases: Vec<Case>,
    latest_label_ms: Option<u64>,
    feedback: AcceptFeedback,
}

impl AuditObservations {
    fn of(
        reader: &JournalReader,
        point: &str,
        since_ms: u64,
        known: &AuditContext<'_>,
    ) -> Result<Self, MonitorError> {
        let mut observations = Self {
            rows: Vec::new(),
            made_ms: Vec::new(),
            hashes: Vec::new(),
            cases: Vec::new(),
            latest_label_ms: None,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
        };
        reader.audited(point, since_ms, |row| observations.take(row, known))?;
        Ok(observations)
    }

    fn take(&mut self, row: DecisionRow, known: &AuditContext<'_>) {
        let accepted = row.entry.decision == Decision::Accept;
        let truth_of = |said: Option<&Annotation>| truth(&row, said?, known.label_history);
        let truth = truth_of(row.annotation.as_ref());
        let unasked = if let Some(sampled) = sampled(&row, accepted, truth) {
            let said_ms = row.annotation.as_ref().map(|said| said.unix_ms);
            self.latest_label_ms = self.latest_label_ms.max(said_ms);
            let unasked = truth_of(row.feedback.as_ref());
            self.made_ms.push(row.entry.id.unix_ms());
            self.hashes.push(sampling_hash(&row.entry.id));
            if let Some((truth, gallery)) = truth.zip(known.advise) {
                self.cases.push(case(self.rows.len(), row, truth, gallery));
            }
            self.rows.push(sampled);
            unasked
        } else {
            truth
        };
        if accepted {
            match unasked {
                Some(SearchTruth::MatedRight) => self.feedback.right += 1,
                Some(SearchTruth::MatedWrong | SearchTruth::NonMated) => self.feedback.wrong += 1,
                None => {}
            }
        }
    }

    /// How the rates came to what they are.
    pub(super) fn course(&self, strata: &Strata) -> Result<Vec<HistoryPoint>, MonitorError> {
        let confidence = Confidence::DISPLAY;
        Ok(rate_history(strata, &self.rows, &self.made_ms, confidence)?)
    }

    pub(super) fn labelling(&self) -> Labelling {
        let latest_ms = self.latest_label_ms;
        let after = |made: &&u64| latest_ms.is_none_or(|latest| latest < **made);
        Labelling {
            latest_ms,
            since: self.made_ms.iter().filter(after).count() as u64,
            earliest_ms: self.made_ms.first().copied(),
        }
    }
}

/// What tells groups of errors apart.
fn case(place: usize, row: DecisionRow, truth: SearchTruth, gallery: &Gallery) -> Case {
    let found = row.entry.best.map(|best| BestMatch {
        label: best.label,
        item: best.item,
    });
    let head = found.as_ref().and_then(|found| gallery.get(&found.item));
    let shown = row.annotation.and_then(|said| match said.truth {
        AnnotatedTruth::Mated { label } if truth != SearchTruth::NonMated => Some(label),
        AnnotatedTruth::Stranger { name } => Some(name),
        AnnotatedTruth::Mated { .. } | AnnotatedTruth::NonMated | AnnotatedTruth::Unusable => None,
    });
    Case {
        place,
        accepted: row.entry.decision == Decision::Accept,
        truth,
        found,
        shown,
        conditions: head.map(|head| head.metadata.clone()).unwrap_or_default(),
    }
}

pub(super) fn sampled(
    row: &DecisionRow,
    accepted: bool,
    truth: Option<SearchTruth>,
) -> Option<AuditRow> {
    let sampling = row.entry.sampling.filter(Sampling::sampled)?;
    Some(AuditRow {
        stratum: usize::from(sampling.stratum()),
        accepted,
        inclusion: Inclusion::new(sampling.probability()).ok()?,
        truth,
    })
}

/// `None` also where nobody can tell. Somebody who was enrolled after the decision was a stranger to it.
fn truth(
    row: &DecisionRow,
    label: &Annotation,
    label_history: &LabelHistory,
) -> Option<SearchTruth> {
    let best = row.entry.best.as_ref();
    match &label.truth {
        AnnotatedTruth::Mated { label } if best.is_some_and(|best| best.label == *label) => {
            Some(SearchTruth::MatedRight)
        }
        AnnotatedTruth::Mated { label }
            if label_history.at(label, row.entry.generation) == Some(false) =>
        {
            Some(SearchTruth::NonMated)
        }
        AnnotatedTruth::Mated { .. } => Some(SearchTruth::MatedWrong),
        AnnotatedTruth::NonMated | AnnotatedTruth::Stranger { .. } => Some(SearchTruth::NonMated),
        AnnotatedTruth::Unusable => None,
    }
}
