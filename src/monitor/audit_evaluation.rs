//! Evaluates the sampled and annotated decisions of an operating point.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::alarms::Alarms;
use super::counted_strata::{CountRequest, CountedStrata};
use super::error::MonitorError;
use super::growth_history::GrowthHistory;
use super::label_history::LabelHistory;
use super::resets::Resets;
use super::review_evidence::{ReviewEvidence, ReviewRequest};
use super::sampling_design::sampling_hash;
use crate::clock::now_ms;
use crate::journal::FILE_NAME;
use crate::journal::entry::{AnnotatedTruth, Annotation, DecisionRow, Sampling};
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::audit::{AcceptFeedback, AuditRow, SearchTruth};
use matchpoint_calibration::monitoring::drift::{
    DriftAssessment, DriftVerdict, Finding, FindingSubject, PromisedLimits,
};
use matchpoint_calibration::monitoring::history::{HistoryPoint, rate_history};
use matchpoint_calibration::monitoring::observed::{AuditWindow, GalleryToday};
use matchpoint_calibration::monitoring::plain_sample::{Certifying, Recalibration};
use matchpoint_calibration::monitoring::shared_causes::{BestMatch, Case, groups};
use matchpoint_calibration::monitoring::strata::{Inclusion, Strata};
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::rates::Confidence;
use matchpoint_gallery::Gallery;

/// Passes to `take` the decisions in the journal of the deployment in `folder` that were made within these
/// times, with their labels, until `take` has enough. They come one operating point after the other, in the
/// order in which they were made. It can run while the deployment is served.
///
/// # Errors
/// Returns an error if there is no journal, if it is damaged, or if the disk fails.
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

/// How well annotation keeps up with sampling.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Labelling {
    /// When the last annotation of a sampled decision was made.
    pub(super) latest_ms: Option<u64>,
    /// Number of sampled decisions made after it.
    pub(super) since: u64,
    /// When the earliest stored sampled decision was made.
    pub(super) earliest_ms: Option<u64>,
}

/// The decisions of an operating point that are evaluated.
pub(super) struct AuditSpan<'a> {
    strata: &'a Strata,
    /// Decisions count from this time on: since the audit design started, or since a reset.
    pub(super) since_ms: u64,
    /// The highest probability that an alarm is false.
    delta: f64,
    /// Whether the evidence was reset.
    reset: bool,
}

impl<'a> AuditSpan<'a> {
    /// The decisions since the design started, with `delta`; or since the last of `resets`, with the remaining
    /// part of `delta`.
    pub(super) fn of(strata: &'a Strata, delta: f64, resets: &Resets) -> Self {
        Self {
            strata,
            since_ms: resets.since_ms(),
            delta: resets.left_of(delta),
            reset: resets.any(),
        }
    }
}

/// Further information about a deployment, besides its journal.
pub(super) struct AuditContext<'a> {
    /// How the gallery has changed; `None` for an operating point that is not active.
    pub(super) gallery: Option<GalleryToday<'a>>,
    /// The gallery whose metadata are used as conditions. If it is given, advice is computed too: what errors
    /// have in common, and whether the labels suffice for a calibration.
    pub(super) advise: Option<&'a Gallery>,
    /// The alarms of the operating point, which last even if the decisions behind them are no longer stored.
    pub(super) alarms: &'a Alarms,
    pub(super) label_history: &'a LabelHistory,
    pub(super) growth: &'a GrowthHistory,
    /// Whether answers of the operating point promise the FAR of a larger gallery now. Those of one that is not
    /// active promise what its last ones did.
    pub(super) grown: Option<bool>,
    /// How many searches go to a person.
    pub(super) reviews: &'a ReviewEvidence,
    /// How often decisions were written late.
    pub(super) late_writes: u64,
}

/// The assessment of an operating point in service, and the data that it was computed from.
pub(super) fn drift(
    reader: &JournalReader,
    point: &OperatingPoint,
    span: &AuditSpan<'_>,
    known: &AuditContext<'_>,
    counted: &mut CountedStrata,
) -> Result<(DriftAssessment, AuditObservations), MonitorError> {
    let observations = AuditObservations::of(reader, point.id(), span.since_ms, known)?;
    let last = observations.rows.last().is_some_and(|row| row.grown);
    let representative_from = observations.representative_from();
    let request = CountRequest {
        operating_point: point.id(),
        since_ms: observations.representative_ms,
        strata: span.strata.count(),
        now_ms: now_ms(),
        late_writes: known.late_writes,
    };
    let counted = counted.count(
        reader,
        &request,
        observations.made_from(representative_from),
    )?;
    let reviews = match &point.content().review {
        None => None,
        Some(band) => {
            let asked = ReviewRequest {
                operating_point: point.id(),
                band,
                since_ms: span.since_ms,
                delta: span.delta,
                now_ms: request.now_ms,
            };
            known.reviews.update(reader, &asked)?
        }
    };
    let lost = observations
        .lost_truths
        .max(if point.content().growth.is_some() {
            observations.lost_promises
        } else {
            0
        });
    // What damage took can raise no alarm, and must end none either.
    let earliest_ms = observations.labelling().earliest_ms.filter(|_| lost == 0);
    let seen = AuditWindow {
        strata: span.strata,
        rows: &observations.rows,
        representative_from,
        counted: Some(&counted),
        reviews,
        unix_ms: &observations.made_ms,
        sampling_hashes: &observations.hashes,
        cases: &observations.cases,
        unusable: observations.unusable,
        feedback: observations.feedback,
        gallery: known.gallery,
        grown: known.grown.unwrap_or(last),
        raised: known.alarms.raised(earliest_ms),
        reset: span.reset,
    };
    let limits = PromisedLimits::of(point, span.delta);
    let mut drift = DriftAssessment::new(&seen, limits, Confidence::DISPLAY)?;
    if known.advise.is_some() {
        // Labels certify as a plain sample, so only what represents the searches counts.
        let rows_before = Some(representative_from).filter(|rows| 0 < *rows);
        let from = drift
            .rise_began_at()
            .max(rows_before.map(|rows| rows as u64 + 1));
        let certifying = Certifying::of(point);
        let recalibration = certifying.map(|what| Recalibration::of(what, &seen, from));
        drift.advise(groups(&observations.cases), recalibration);
    }
    drift.add(lost_to_damage(lost));
    Ok((drift, observations))
}

/// The finding about labelled decisions of which damage took what they are judged by.
fn lost_to_damage(decisions: u64) -> Vec<Finding> {
    let finding = Finding {
        subject: FindingSubject::Audit,
        verdict: DriftVerdict::Warning,
        says: format!(
            "Of {decisions} labelled decisions it is not known what they are to be judged by, because `labels.log` or `growth.log` was damaged (beside it is what was set aside). Where it depends on the labels that were enrolled, they count for neither rate; alarms that had been raised stand."
        ),
        next: "Look for the cause of the damage; with the server stopped, put a backup of the file back, or begin evidence from now on (`matchpoint drift reset`).".to_owned(),
    };
    Some(finding)
        .filter(|_| 0 < decisions)
        .into_iter()
        .collect()
}

/// The sampled and annotated decisions of an operating point.
pub(super) struct AuditObservations {
    rows: Vec<AuditRow>,
    /// When the decisions of the rows were made, in milliseconds since 1970-01-01 UTC.
    made_ms: Vec<u64>,
    /// The sampling hashes of the decisions.
    hashes: Vec<u64>,
    /// The annotated decisions, if advice is requested.
    cases: Vec<Case>,
    latest_label_ms: Option<u64>,
    /// Those of the rows of which nobody can tell.
    unusable: u64,
    /// Annotated rows whose truth depends on labels of the gallery that damage took.
    lost_truths: u64,
    /// Annotated rows of which damage took what their answers promised.
    lost_promises: u64,
    feedback: AcceptFeedback,
    /// Rows that were made from this time on represent the searches: none was removed unlabelled for space.
    representative_ms: u64,
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
            unusable: 0,
            lost_truths: 0,
            lost_promises: 0,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
            representative_ms: since_ms,
        };
        reader.audited(point, since_ms, |row| observations.take(row, known))?;
        // After the rows: what goes in between was among them.
        observations.representative_ms = since_ms.max(reader.representative_since_ms()?);
        Ok(observations)
    }

    fn take(&mut self, row: DecisionRow, known: &AuditContext<'_>) {
        let accepted = row.entry.decision == Decision::Accept;
        let truth_of = |said: Option<&Annotation>| truth(&row, said?, known.label_history);
        let truth = truth_of(row.annotation.as_ref());
        let point = row.entry.operating_point.as_deref().unwrap_or_default();
        let grown = known.growth.at(point, row.entry.generation);
        let unasked = if let Some(sampled) = sampled(&row, accepted, truth) {
            let said = row.annotation.as_ref();
            let said_ms = said.map(|said| said.unix_ms);
            // Nobody can tell, for want of a good picture or because of damage.
            self.unusable += u64::from(said.is_some() && truth.is_none());
            let lost = said.is_some_and(|said| depends_on_lost(&row, said, known.label_history));
            self.lost_truths += u64::from(lost);
            let lost = said.is_some() && known.growth.has_lost(row.entry.generation);
            self.lost_promises += u64::from(lost);
            self.latest_label_ms = self.latest_label_ms.max(said_ms);
            let unasked = truth_of(row.feedback.as_ref());
            self.made_ms.push(row.entry.id.unix_ms());
            self.hashes.push(sampling_hash(&row.entry.id));
            if let Some((truth, gallery)) = truth.zip(known.advise) {
                self.cases.push(case(self.rows.len(), row, truth, gallery));
            }
            self.rows.push(AuditRow { grown, ..sampled });
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

    /// The index of the first row that represents the searches.
    fn representative_from(&self) -> usize {
        let before = |made: &u64| *made < self.representative_ms;
        self.made_ms.partition_point(before)
    }

    /// When the rows from this index on were made.
    fn made_from(&self, row: usize) -> &[u64] {
        self.made_ms.get(row..).unwrap_or_default()
    }

    /// How the rates developed, as far back as rows represent the searches.
    pub(super) fn course(&self, strata: &Strata) -> Result<Vec<HistoryPoint>, MonitorError> {
        let from = self.representative_from();
        let rows = self.rows.get(from..).unwrap_or_default();
        let confidence = Confidence::DISPLAY;
        Ok(rate_history(
            strata,
            rows,
            self.made_from(from),
            confidence,
        )?)
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

/// The properties by which groups of errors are formed.
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
        grown: false,
    })
}

/// The truth of an annotated decision; `None` if nobody could tell. A label that was enrolled only after the
/// decision counts as a stranger.
fn truth(
    row: &DecisionRow,
    label: &Annotation,
    label_history: &LabelHistory,
) -> Option<SearchTruth> {
    let best = row.entry.best.as_ref();
    match &label.truth {
        // Those that were matched rightly too: the FRR would be of them alone.
        AnnotatedTruth::Mated { .. } if depends_on_lost(row, label, label_history) => None,
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

/// Whether what a query showed is judged by labels of the gallery that damage took.
fn depends_on_lost(row: &DecisionRow, said: &Annotation, label_history: &LabelHistory) -> bool {
    matches!(said.truth, AnnotatedTruth::Mated { .. })
        && label_history.has_lost(row.entry.generation)
}

#[cfg(test)]
mod tests {
    use super::super::label_history::EnrolledLabels;
    use super::*;
    use crate::journal::entry::{
        AnnotationKind, DecidedItem, DecisionEntry, DecisionId, SearchSource,
    };
    use crate::journal::{Journal, JournalOptions, Retention};

    /// An accept of `b`, sampled in the first generation.
    fn accept(id: DecisionId) -> DecisionEntry {
        DecisionEntry {
            id,
            operating_point: Some("op-1".to_owned()),
            generation: 1,
            gallery_items: 1,
            state: None,
            decision: Decision::Accept,
            best: Some(DecidedItem {
                label: "b".to_owned(),
                item: "item".to_owned(),
                similarity: 0.9,
                decision_score: Some(0.9),
                margin: None,
            }),
            filtered: false,
            sampling: Sampling::new(0, 1.0, true),
            source: SearchSource::Live,
        }
    }

    #[test]
    fn damage_makes_truths_unknown_and_moves_none_to_the_other_rate() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions {
            retention: Retention {
                ms: u64::MAX,
                audited_ms: u64::MAX,
                bytes: 1 << 30,
            },
            clock: now_ms,
        };
        let journal = Journal::open(&folder.path().join(FILE_NAME), options, |_| {}).unwrap();
        let mated = |label: &str| AnnotatedTruth::Mated {
            label: label.to_owned(),
        };
        // The person was enrolled after the decision.
        let truths = [mated("person"), mated("b"), AnnotatedTruth::NonMated];
        let said = truths.into_iter().zip(0_u64..).map(|(truth, number)| {
            let decision = DecisionId::at(1000 + number, [0; 10]);
            journal.record(accept(decision), None);
            Annotation {
                decision,
                truth,
                annotator: "anna".to_owned(),
                unix_ms: 2000,
                kind: AnnotationKind::Audit,
            }
        });
        journal.report(said.collect()).unwrap();
        let reader = journal.reader().unwrap();
        let seen = || {
            let now = EnrolledLabels {
                generation: 9,
                labels: ["b", "person"].map(str::to_owned).into(),
            };
            let known = AuditContext {
                gallery: None,
                advise: None,
                alarms: &Alarms::of(folder.path(), "op-1", 0).unwrap(),
                label_history: &LabelHistory::open(folder.path(), now).unwrap(),
                growth: &GrowthHistory::open(folder.path(), 9).unwrap(),
                grown: None,
                reviews: &ReviewEvidence::kept_in(folder.path()),
                late_writes: 0,
            };
            let found = AuditObservations::of(&reader, "op-1", 0, &known).unwrap();
            let truths: Vec<_> = found.rows.iter().map(|row| row.truth).collect();
            (truths, found.unusable, found.lost_truths)
        };
        let log = folder.path().join("labels.log");
        let line = "{\"label\":\"person\",\"generation\":5,\"enrolled\":true}\n";
        std::fs::write(&log, line).unwrap();
        let [right, stranger] = [SearchTruth::MatedRight, SearchTruth::NonMated].map(Some);
        assert_eq!(seen(), (vec![stranger, right, stranger], 0, 0));
        std::fs::write(&log, line.replace("label", "la\0el")).unwrap();
        assert_eq!(seen(), (vec![None, None, stranger], 2, 2));
    }
}
