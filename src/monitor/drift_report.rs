//! How an operating point does in service.

use super::alarms::Alarms;
use super::audit_evaluation::{AuditContext, AuditSpan, any_labelled, drift};
use super::error::MonitorError;
use super::resets::{DriftReset, RESETS_MAX, Resets, keep};
use super::traffic_comparison::TrafficInService;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::journal::entry::TEXT_BYTES_MAX;
use crate::journal::read::JournalReader;
use matchpoint_calibration::monitoring::drift::DriftAssessment;
use matchpoint_calibration::monitoring::history::HistoryPoint;
use matchpoint_calibration::operating_point::OperatingPoint;

/// How an operating point does in service.
#[derive(Clone, Debug)]
pub struct PointInService {
    /// The operating point.
    pub point: OperatingPoint,
    /// What is known of it, since it decides or since the latest reset.
    pub drift: DriftAssessment,
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
        // The gallery of today is nothing that an earlier one had to hold for.
        let items = if earlier.is_some() {
            0
        } else {
            self.observed().gallery().len()
        };
        Ok(Some(self.report(&reader, point, items)?))
    }

    fn report(
        &self,
        reader: &JournalReader,
        point: &OperatingPoint,
        items: usize,
    ) -> Result<PointInService, MonitorError> {
        let recorder = self.recorder()?;
        let folder = self.observed().folder();
        let resets = Resets::of(folder, point.id(), recorder.since_ms);
        let span = AuditSpan::of(&recorder.strata, recorder.delta, &resets);
        let alarms = Alarms::of(folder, point.id(), span.since_ms);
        let known = AuditContext {
            items: items as u64,
            advise: Some(self.observed().gallery()),
            alarms: &alarms,
            label_history: &recorder.label_history,
        };
        let (mut drift, observations) = drift(reader, point, &span, &known)?;
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
        Ok(PointInService {
            point: point.clone(),
            drift,
            course: observations.course(&recorder.strata)?,
            traffic,
            resets: resets.into_all(),
        })
    }

    /// Resets evidence, alarms and CUSUM of the active operating point: what made them rise is mended.
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
        let folder = self.observed().folder();
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
