//! The queue of decisions to annotate, and the annotations.

use std::collections::{BTreeMap, BTreeSet};

use super::error::MonitorError;
use super::recorder::Recorder;
use super::resets::Resets;
use super::shadow_report::ShadowDisagreement;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::journal::entry::{
    AnnotatedTruth, Annotation, AnnotationKind, AnnotationOutcome, AnnotationRefusal, DecisionId,
    DecisionRow,
};
use crate::journal::read::{JournalReader, QueueRequest};
use matchpoint_calibration::likeness::{Alike, Likeness, alike};
use matchpoint_calibration::strangers::is_unnamed;

/// What a decision's query showed, according to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedTruth {
    /// This enrolled label.
    Label(String),
    /// Something that is not enrolled and has no name.
    NotEnrolled,
    /// Something that is not enrolled, with a name that always means the same thing.
    Stranger(String),
    /// Nobody can tell.
    Unusable,
}

/// An annotation to be recorded.
#[derive(Clone, Debug)]
pub struct AnnotationReport {
    /// Id of the decision.
    pub decision_id: String,
    /// What the query showed.
    pub truth: ReportedTruth,
    /// The name of the annotator; empty for `unnamed`.
    pub annotator: String,
    /// Whether the person was asked because the decision was sampled, or reported it without being asked.
    pub kind: AnnotationKind,
}

/// A decision with all of its annotations.
#[derive(Clone, Debug)]
pub struct AnnotatedDecision {
    /// The decision, with its valid annotation.
    pub row: DecisionRow,
    /// All its annotations, the latest last.
    pub history: Vec<Annotation>,
    /// The image, if it is stored and was requested.
    pub image: Option<Vec<u8>>,
}

/// The reasons why a report is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RefusedReport {
    /// Its content is invalid.
    #[error("{0}")]
    Content(String),
    /// The journal refuses it.
    #[error(transparent)]
    Journal(AnnotationRefusal),
}

impl Monitor {
    /// Sampled decisions that wait for an annotation, the newest first; those of the active operating point
    /// unless another is requested. Blocks.
    ///
    /// # Errors
    /// Returns an error if decisions are not recorded, if the journal is damaged, or if the disk fails.
    pub fn audit_queue(&self, request: &QueueRequest) -> Result<Vec<DecisionRow>, MonitorError> {
        let recorder = self.recorder()?;
        let reader = recorder.reader()?;
        // Decisions that were sampled under another design or before a reset no longer count in any rate.
        let deciding = || Some(self.observed().active_point()?.id().to_owned());
        let Some(point) = request.operating_point.clone().or_else(deciding) else {
            return Ok(Vec::new());
        };
        let resets = Resets::of(&recorder.records, &point, recorder.since_ms)?;
        let request = QueueRequest {
            operating_point: Some(point),
            since_ms: resets.since_ms(),
            ..request.clone()
        };
        Ok(reader.queue(&request)?)
    }

    /// One decision with its annotations, and with its image if that is stored and requested. Blocks.
    ///
    /// # Errors
    /// Returns an error if there is no decision with this id, or if decisions are not recorded.
    pub fn decision(&self, id: &str, with_image: bool) -> Result<AnnotatedDecision, MonitorError> {
        let recorder = self.recorder()?;
        let (reader, here) = (recorder.reader()?, recorder.journal.name());
        let not_found = || MonitorError::DecisionNotFound { id: id.to_owned() };
        let known = DecisionId::parse(id).ok_or_else(not_found)?;
        let Some(row) = reader.decision(known)? else {
            return Err(match reader.absent(known, here)? {
                AnnotationRefusal::Elsewhere { decision } => {
                    MonitorError::WrongReplica { id: decision, here }
                }
                AnnotationRefusal::Expired { .. }
                | AnnotationRefusal::Unknown { .. }
                | AnnotationRefusal::Text { .. } => not_found(),
            });
        };
        Ok(AnnotatedDecision {
            row,
            history: reader.history(known)?,
            image: if with_image {
                reader.image(known)?
            } else {
                None
            },
        })
    }

    /// Adds to each decision what its query showed, if decisions are recorded and annotated.
    ///
    /// # Errors
    /// Returns an error if the journal is damaged or the disk fails.
    pub fn add_truths(
        &self,
        latest: &mut [(ShadowDisagreement, Option<AnnotatedTruth>)],
    ) -> Result<(), MonitorError> {
        let Ok(recorder) = self.recorder() else {
            return Ok(());
        };
        let reader = recorder.journal.reader()?;
        for (one, truth) in latest {
            let annotation = reader.decision(one.id)?.and_then(|row| row.annotation);
            *truth = annotation.map(|annotation| annotation.truth);
        }
        Ok(())
    }

    /// Records what queries really showed. The result for each report, at its position, is its outcome or the
    /// reason why it is refused. Blocks until the annotations are on the disk.
    ///
    /// # Errors
    /// Returns an error, and writes nothing, if there are too many reports, if decisions are not recorded, or
    /// if the disk fails.
    pub fn report_truths(
        &self,
        reports: Vec<AnnotationReport>,
    ) -> Result<Vec<Result<AnnotationOutcome, RefusedReport>>, MonitorError> {
        let recorder = self.recorder()?;
        let now = now_ms();
        let meant = self.meant(recorder, &reports);
        let reader = recorder.reader()?;
        let labels: Vec<Result<Annotation, String>> = reports
            .into_iter()
            .map(|report| {
                let said = self.label(recorder, report, now, &meant)?;
                self.check_name_then(recorder, &reader, &said)?;
                Ok(said)
            })
            .collect();
        let good = labels.iter().filter_map(|label| label.as_ref().ok());
        let mut outcomes = recorder
            .journal
            .report(good.cloned().collect())?
            .into_iter();
        recorder.note_annotations();
        let answers = labels.into_iter().map(|label| {
            label.map_err(RefusedReport::Content)?;
            let ended = || RefusedReport::Content("the journal did not answer for it".to_owned());
            let outcome = outcomes.next().ok_or_else(ended)?;
            outcome.map_err(RefusedReport::Journal)
        });
        Ok(answers.collect())
    }

    /// Whether the label is enrolled, or was enrolled and has been removed.
    fn was_enrolled(&self, recorder: &Recorder, label: &str) -> bool {
        self.observed().gallery().has_label(label) || recorder.label_history.at(label, 0).is_some()
    }

    /// For labels that are not enrolled but suspiciously similar to an enrolled one: the enrolled label and the
    /// difference.
    fn meant(&self, recorder: &Recorder, reports: &[AnnotationReport]) -> BTreeMap<String, Alike> {
        let unknown: BTreeSet<&str> = reports
            .iter()
            .filter_map(|report| match &report.truth {
                ReportedTruth::Label(label) | ReportedTruth::Stranger(label) => {
                    Some(label.as_str())
                }
                ReportedTruth::NotEnrolled | ReportedTruth::Unusable => None,
            })
            .filter(|label| !self.was_enrolled(recorder, label))
            .collect();
        if unknown.is_empty() {
            return BTreeMap::new();
        }
        let view = self.observed().gallery().view();
        let enrolled = view.labels();
        let mut meant = BTreeMap::new();
        // Differences in spelling come first.
        for pair in alike(unknown, enrolled.iter().map(String::as_str)) {
            if pair.enrolled {
                meant.entry(pair.label.clone()).or_insert(pair);
            }
        }
        meant
    }

    /// Checks the name of a stranger, which must not be an enrolled label or a mark for an unnamed stranger.
    fn check_stranger(&self, name: &str, meant: &BTreeMap<String, Alike>) -> Result<(), String> {
        if self.observed().gallery().has_label(name) {
            return Err(format!(
                "`{name}` is enrolled, and is no stranger's name; say it as a label, or leave the name out"
            ));
        }
        if is_unnamed(name) {
            return Err(format!(
                "`{name}` is what strangers without a name are called; leave the name out"
            ));
        }
        match meant.get(name) {
            // A near miss may be another person.
            Some(pair) if pair.likeness == Likeness::Spelling => Err(format!(
                "stranger {} is an enrolled label but for spelling; say that one, or give the stranger another name",
                pair.describe()
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses the label of the item that a decision was about, if the item got it since: only the annotator knows whether
    /// it was renamed or corrected, and a right decision must not count as one about a stranger.
    fn check_name_then(
        &self,
        recorder: &Recorder,
        reader: &JournalReader,
        said: &Annotation,
    ) -> Result<(), String> {
        let AnnotatedTruth::Mated { label } = &said.truth else {
            return Ok(());
        };
        let history = &recorder.label_history;
        // A label that never came or went was there then.
        if history.at(label, 0).is_none() {
            return Ok(());
        }
        let unread =
            |cause| format!("the journal does not say what the decision was about: {cause}");
        // A decision that is not there is refused when the annotation is recorded.
        let row = reader.decision(said.decision).map_err(unread)?;
        let Some((best, generation)) =
            row.and_then(|row| Some((row.entry.best?, row.entry.generation)))
        else {
            return Ok(());
        };
        let item = self.observed().gallery().get(&best.item);
        let is_its_label = item.is_some_and(|head| head.label == *label);
        if best.label == *label || !is_its_label || history.at(label, generation) != Some(false) {
            return Ok(());
        }
        let (item, then) = (&best.item, &best.label);
        Err(format!(
            "item `{item}`, which the decision was about, was `{then}` then, and is `{label}` since; say `{then}` if that is the same thing, or that the query showed something that was not enrolled, without a name, if `{then}` was wrong"
        ))
    }

    fn label(
        &self,
        recorder: &Recorder,
        report: AnnotationReport,
        unix_ms: u64,
        meant: &BTreeMap<String, Alike>,
    ) -> Result<Annotation, String> {
        let known = |label: &str| self.was_enrolled(recorder, label);
        let decision = DecisionId::parse(&report.decision_id)
            .ok_or_else(|| format!("`{}` is no id of a decision", report.decision_id))?;
        let truth = match report.truth {
            ReportedTruth::Label(label) if known(&label) => AnnotatedTruth::Mated { label },
            ReportedTruth::Label(label) if meant.contains_key(&label) => {
                let pair = meant.get(&label).map_or_else(String::new, Alike::describe);
                return Err(format!(
                    "label {pair} is not enrolled, and is suspiciously like one that is; say that one, or that the query showed something that is not enrolled"
                ));
            }
            ReportedTruth::Label(label) => {
                return Err(format!(
                    "label `{label}` is not enrolled; if the query showed something that is not, say so instead"
                ));
            }
            ReportedTruth::NotEnrolled => AnnotatedTruth::NonMated,
            ReportedTruth::Stranger(name) => {
                self.check_stranger(&name, meant)?;
                AnnotatedTruth::Stranger { name }
            }
            ReportedTruth::Unusable => AnnotatedTruth::Unusable,
        };
        let annotator = match report.annotator.as_str() {
            "" => "unnamed".to_owned(),
            _ => report.annotator,
        };
        Ok(Annotation {
            decision,
            truth,
            annotator,
            unix_ms,
            kind: report.kind,
        })
    }
}
