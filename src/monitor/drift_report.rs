//! How an operating point does in service.

use std::sync::Arc;

use super::alarms::Alarms;
use super::audit_evaluation::{AuditContext, AuditSpan, any_labelled, drift};
use super::counted_strata::CountedStrata;
use super::error::MonitorError;
use super::left_out_round::LeftOutRound;
use super::lookalikes::Lookalike;
use super::resets::{DriftReset, RESETS_MAX, Resets, keep};
use super::traffic_comparison::TrafficInService;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::journal::entry::TEXT_BYTES_MAX;
use crate::journal::read::JournalReader;
use matchpoint_calibration::monitoring::drift::{
    DriftAssessment, DriftVerdict, Finding, FindingSubject,
};
use matchpoint_calibration::monitoring::history::HistoryPoint;
use matchpoint_calibration::monitoring::observed::GalleryToday;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::standing::PromiseToday;

/// How an operating point does in service.
#[derive(Clone, Debug)]
pub struct PointInService {
    /// The operating point.
    pub point: OperatingPoint,
    /// What is known of it, since it decides or since the latest reset.
    pub drift: DriftAssessment,
    /// What is left of its promise in today's gallery; `None` if it does not decide.
    pub today: Option<PromiseToday>,
    /// What today's gallery accepts of its own labels, each left out; `None` before the first round, and if
    /// it does not decide.
    pub left_out: Option<Arc<LeftOutRound>>,
    /// Items that would have been accepted as others when they were enrolled, the latest first.
    pub lookalikes: Vec<Lookalike>,
    /// How its rates came to what they are.
    pub course: Vec<HistoryPoint>,
    /// How traffic stands beside its calibration; `None` if it is not the active one.
    pub traffic: Option<TrafficInService>,
    /// When and why its evidence was reset, the earliest first.
    pub resets: Vec<DriftReset>,
}

impl Monitor {
    /// How an operating point does in service, or did: the one of this id, which `find` reads, or without
    /// an id the active one; `None` if none is valid. Blocks.
    ///
    /// # Errors
    /// There is none of this id, decisions are not recorded, the journal is damaged, or the disk.
    pub fn drift<E: From<MonitorError>>(
        &self,
        id: Option<&str>,
        find: impl FnOnce(&str) -> Result<OperatingPoint, E>,
    ) -> Result<Option<PointInService>, E> {
        let reader = self.recorder()?.reader()?;
        let active = self.observed().active_point();
        let active = active.as_deref();
        let earlier = match id.filter(|id| Some(*id) != active.map(OperatingPoint::id)) {
            Some(id) => Some(find(id)?),
            None => None,
        };
        let Some(point) = earlier.as_ref().or(active) else {
            return Ok(None);
        };
        Ok(Some(self.report(&reader, point, earlier.is_none())?))
    }

    fn report(
        &self,
        reader: &JournalReader,
        point: &OperatingPoint,
        decides: bool,
    ) -> Result<PointInService, MonitorError> {
        let recorder = self.recorder()?;
        let folder = &recorder.records;
        let resets = Resets::of(folder, point.id(), recorder.since_ms);
        let span = AuditSpan::of(&recorder.strata, recorder.delta, &resets);
        let alarms = Alarms::of(folder, point.id(), span.since_ms);
        // The gallery of today is nothing that an earlier one had to hold for.
        let today = self.observed().promise_today().filter(|_| decides);
        let problem = self.observed().coverage_problem();
        let known = AuditContext {
            gallery: today.map(|promise| GalleryToday {
                promise,
                problem: problem.as_deref(),
            }),
            advise: Some(self.observed().gallery()),
            alarms: &alarms,
            label_history: &recorder.label_history,
        };
        let counted = &mut CountedStrata::default();
        let (mut drift, observations) = drift(reader, point, &span, &known, counted)?;
        let round = self.latest_canaries();
        if let Some(round) = round.filter(|round| round.operating_point == point.id()) {
            drift.add(round.rates.findings(round.changed.len()));
        }
        let active = self.observed().active_point();
        let traffic = active
            .filter(|active| active.id() == point.id())
            .and_then(|_| recorder.traffic.update(self.observed()));
        if let Some(found) = &traffic {
            drift.add(vec![found.finding()]);
        }
        let left_out = self.left_out().filter(|_| decides);
        if let Some(round) = &left_out {
            drift.add(vec![round.standing.finding()]);
        }
        let lookalikes = if decides {
            self.enrolled_lookalikes()
        } else {
            Vec::new()
        };
        drift.add(enrolled(&lookalikes).into_iter().collect());
        Ok(PointInService {
            point: point.clone(),
            drift,
            today,
            left_out,
            lookalikes,
            course: observations.course(&recorder.strata)?,
            traffic,
            resets: resets.into_all(),
        })
    }

    /// Resets evidence, alarms and CUSUM of the active operating point: what made them rise is fixed.
    /// What was recorded stays, and enters no rate from now on. Blocks.
    ///
    /// While no decision since the latest reset has an annotation, that one is moved to now and costs nothing,
    /// so that the call may be repeated.
    ///
    /// # Errors
    /// No operating point is active, a reason or name that is empty or too long, too many resets, decisions
    /// are not recorded, or the disk.
    pub fn reset_drift(&self, why: &str, annotator: &str) -> Result<DriftReset, MonitorError> {
        let recorder = self.recorder()?;
        let why = text("why", why)?;
        let annotator = match annotator.trim() {
            "" => "unnamed".to_owned(),
            name => text("said_by", name)?,
        };
        // One at a time: the file is read, and then replaced.
        let _turn = recorder.turn();
        let active = self.observed().active_point();
        let point = active.ok_or(MonitorError::NoActivePoint)?.id().to_owned();
        let folder = &recorder.records;
        let known = Resets::of(folder, &point, recorder.since_ms).into_all();
        let instead = match known.last() {
            Some(latest) => !any_labelled(&recorder.reader()?, &point, latest.unix_ms)?,
            None => false,
        };
        if !instead && RESETS_MAX <= known.len() {
            return Err(MonitorError::TooManyResets { limit: RESETS_MAX });
        }
        let reset = DriftReset {
            operating_point: point,
            unix_ms: now_ms(),
            why,
            annotator,
        };
        keep(folder, &reset, instead)?;
        recorder.evaluate_soon();
        Ok(reset)
    }
}

/// What is said of items that would have been accepted as others when they were enrolled.
fn enrolled(lookalikes: &[Lookalike]) -> Option<Finding> {
    let latest = lookalikes.first()?;
    Some(Finding {
        subject: FindingSubject::Gallery,
        verdict: DriftVerdict::Note,
        says: format!(
            "{} items were enrolled that are accepted as others, the latest `{}` of label `{}` as `{}` of label `{}`.",
            lookalikes.len(),
            latest.item,
            latest.label,
            latest.nearest.item,
            latest.nearest.label
        ),
        next: "One thing under two labels, a wrong label, or a look-alike: the report lists them."
            .to_owned(),
    })
}

fn text(argument: &'static str, text: &str) -> Result<String, MonitorError> {
    let text = text.trim();
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(MonitorError::Argument {
        argument,
        problem: format!("must have 1 to {TEXT_BYTES_MAX} bytes"),
    })
}
