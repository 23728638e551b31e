//! How an operating point does in service.

use std::sync::Arc;

use super::alarms::Alarms;
use super::audit_evaluation::{AuditContext, AuditSpan, drift};
use super::counted_strata::CountedStrata;
use super::error::MonitorError;
use super::left_out_round::LeftOutRound;
use super::lookalikes::Lookalike;
use super::resets::{DriftReset, RESETS_MAX, Resets, keep};
use super::traffic_comparison::TrafficInService;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::journal::entry::TEXT_BYTES_MAX;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::drift::{
    DriftAssessment, DriftVerdict, Finding, FindingSubject,
};
use matchpoint_calibration::monitoring::history::HistoryPoint;
use matchpoint_calibration::monitoring::observed::GalleryToday;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::promised::PromisedTarget;
use matchpoint_calibration::standing::PromiseToday;

/// The state of an operating point in service.
#[derive(Clone, Debug)]
pub struct PointInService {
    /// The operating point.
    pub point: OperatingPoint,
    /// The assessment since the operating point became active or since the last reset.
    pub drift: DriftAssessment,
    /// What is left of its promise in today's gallery; `None` if it is not active.
    pub today: Option<PromiseToday>,
    /// The result of searches for today's items with their labels left out; `None` before the first round, and
    /// if it is not active.
    pub left_out: Option<Arc<LeftOutRound>>,
    /// Items that would have been accepted as items of other labels when they were enrolled, the latest first.
    pub lookalikes: Vec<Lookalike>,
    /// How its rates developed.
    pub course: Vec<HistoryPoint>,
    /// The comparison of traffic with its calibration; `None` if it is not the active one.
    pub traffic: Option<TrafficInService>,
    /// When and why its evidence was reset, the earliest reset first.
    pub resets: Vec<DriftReset>,
}

impl Monitor {
    /// The state of an operating point in service: the one with this id, which `find` reads, or the active one
    /// without an id; `None` if none is valid. Blocks.
    ///
    /// # Errors
    /// Returns an error if there is no operating point with this id, if decisions are not recorded, if the
    /// journal is damaged, or if the disk fails.
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
        let resets = Resets::of(folder, point.id(), recorder.since_ms)?;
        let span = AuditSpan::of(&recorder.strata, recorder.delta, &resets);
        let alarms = Alarms::of(folder, point.id(), span.since_ms)?;
        // Today's gallery is not the one that an earlier operating point had to hold for.
        let today = self.observed().promise_today().filter(|_| decides);
        let problem = self.observed().coverage_problem();
        let promised =
            today.map(|today| PromisedTarget::all(point.content(), &today, problem.as_deref()));
        let known = AuditContext {
            reviews: &recorder.reviews,
            grown: today.map(|promise| promise.grown),
            growth: &recorder.growth,
            gallery: today.map(|promise| GalleryToday {
                promise,
                promised: promised.as_deref().unwrap_or_default(),
                problem: problem.as_deref(),
            }),
            advise: Some(self.observed().gallery()),
            alarms: &alarms,
            label_history: &recorder.label_history,
            // Nothing was counted before.
            late_writes: 0,
        };
        let counted = &mut CountedStrata::default();
        let (mut drift, observations) = drift(reader, point, &span, &known, counted)?;
        // What was removed before this evidence began does not concern it.
        if span.since_ms < reader.complete_since_ms()? {
            drift.add(removed(reader.sampled_removed(point.id())?));
        }
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

    /// Resets evidence, alarms and CUSUM of the active operating point, after their cause was removed. Recorded
    /// decisions are kept, but no longer count in any rate. Blocks.
    ///
    /// If nothing was decided since the last reset, that reset is moved to the present time and uses no further
    /// part of delta, because no test has begun.
    ///
    /// # Errors
    /// Returns an error if no operating point is active, if the reason or the name is empty or too long, if
    /// there were too many resets, if decisions are not recorded, or if the disk fails.
    pub fn reset_drift(&self, why: &str, annotator: &str) -> Result<DriftReset, MonitorError> {
        let recorder = self.recorder()?;
        let why = text("why", why)?;
        let annotator = match annotator.trim() {
            "" => "unnamed".to_owned(),
            name => text("said_by", name)?,
        };
        // Only one at a time, because the file is read and then replaced.
        let _turn = recorder.turn();
        let active = self.observed().active_point();
        let point = active.ok_or(MonitorError::NoActivePoint)?.id().to_owned();
        let folder = &recorder.records;
        let known = Resets::of(folder, &point, recorder.since_ms)?.into_all();
        let instead = match known.last() {
            Some(latest) => !any_decided(&recorder.reader()?, &point, latest.unix_ms)?,
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

/// Whether an operating point may have made decisions after `unix_ms`.
fn any_decided(reader: &JournalReader, point: &str, unix_ms: u64) -> Result<bool, MonitorError> {
    let after = DecisionSelection {
        operating_point: Some(point.to_owned()),
        unix_ms: unix_ms.saturating_add(1)..u64::MAX,
    };
    // It is unknown what the journal removed since then.
    Ok(unix_ms < reader.complete_since_ms()? || !reader.strata(&after)?.is_empty())
}

/// The finding about sampled decisions of the operating point that the journal no longer stores.
fn removed(decisions: u64) -> Vec<Finding> {
    if decisions == 0 {
        return Vec::new();
    }
    vec![Finding {
        subject: FindingSubject::Audit,
        verdict: DriftVerdict::Note,
        says: format!(
            "{decisions} sampled decisions of this operating point were removed from the journal because of their age or to save space. Rates count those that are left, and evidence begins with the first of them. So `alarm_delta` bounds false alarms in the time that is kept, and not over all time."
        ),
        next: "`journal_sampled_days` and `journal_bytes_max` say how much is kept.".to_owned(),
    }]
}

/// The finding about items that would have been accepted as items of other labels when they were enrolled.
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
