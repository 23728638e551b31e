//! The thread that evaluates the audit after something was recorded or annotated.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::alarms::Alarms;
use super::audit_evaluation::{AuditContext, AuditSpan, Labelling, drift};
use super::counted_strata::CountedStrata;
use super::error::MonitorError;
use super::gauges::{ShownPoint, publish_lost, show, show_traffic};
use super::growth_history::GrowthHistory;
use super::label_history::LabelHistory;
use super::observed::Observed;
use super::resets::Resets;
use super::review_evidence::ReviewEvidence;
use super::sampling_budget::fitted;
use super::traffic_comparison::TrafficComparison;
use crate::clock::now_ms;
use crate::journal::Losses;
use crate::journal::read::JournalReader;
use crate::journal::totals::LostDecisions;
use matchpoint_calibration::monitoring::drift::DriftAssessment;
use matchpoint_calibration::monitoring::strata::Strata;
use matchpoint_calibration::operating_point::OperatingPoint;

/// How often it checks whether something has changed.
const TICK: Duration = Duration::from_millis(250);
/// After a failure, the traffic is counted again after this time.
const FIT_AGAIN: Duration = Duration::from_secs(60);
/// Evaluations use at most one part in this many of one core's time.
const EVALUATION_SHARE: u32 = 200;
/// They are never further apart, so that alarms do not wait behind a slow one.
const EVALUATED_EVERY_MAX: Duration = Duration::from_secs(60);

/// The state of the thread.
pub(super) struct Watcher {
    pub(super) observed: Arc<dyn Observed>,
    /// The folder of its files.
    pub(super) records: PathBuf,
    pub(super) reader: JournalReader,
    pub(super) strata: Strata,
    pub(super) since_ms: u64,
    pub(super) delta: f64,
    pub(super) changed: Arc<AtomicBool>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) shown: Arc<ShownPoint>,
    /// The operating point that was last evaluated.
    pub(super) evaluated: Option<String>,
    pub(super) label_history: Arc<LabelHistory>,
    pub(super) growth: Arc<GrowthHistory>,
    /// The number of annotations per day, and when the traffic is counted again for them.
    pub(super) budget: Option<(u32, Instant)>,
    pub(super) sampling: Arc<ArcSwap<Strata>>,
    pub(super) losses: Losses,
    /// The lost decisions that were last published.
    pub(super) lost: Option<LostDecisions>,
    pub(super) traffic: Arc<TrafficComparison>,
    pub(super) counted: CountedStrata,
    pub(super) reviews: Arc<ReviewEvidence>,
}

impl Watcher {
    pub(super) fn run(mut self) {
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.publish_lost();
            let active = self.observed.active_point();
            let active = active.as_deref();
            let another = active.map(OperatingPoint::id) != self.evaluated.as_deref();
            let now = Instant::now();
            self.keep_to_budget(active, another);
            if another || (next <= now && self.changed.swap(false, Ordering::Relaxed)) {
                self.evaluate(active);
                let ended = Instant::now();
                next = ended + ((ended - now) * EVALUATION_SHARE).min(EVALUATED_EVERY_MAX);
            }
            thread::park_timeout(TICK);
        }
        self.publish_lost();
        self.traffic.keep(&*self.observed);
    }

    fn keep_to_budget(&mut self, active: Option<&OperatingPoint>, another: bool) {
        let Some(((labels, at), point)) = self.budget.as_mut().zip(active) else {
            return;
        };
        let now = Instant::now();
        if now < *at && !another {
            return;
        }
        match fitted(&self.reader, &self.strata, point.id(), *labels, now_ms()) {
            Ok((strata, again)) => {
                self.sampling.store(Arc::new(strata));
                *at = now + again;
            }
            Err(error) => {
                tracing::error!(%error, deployment = self.observed.name(), "the traffic could not be counted; as much is sampled as before");
                *at = now + FIT_AGAIN;
            }
        }
    }

    /// Publishes lost decisions even if nothing can be written, and after the journal's writer has ended.
    fn publish_lost(&mut self) {
        let lost = self.losses.ever();
        if self.lost != Some(lost) {
            publish_lost(self.observed.name(), lost, self.lost);
            self.lost = Some(lost);
        }
    }

    fn evaluate(&mut self, active: Option<&OperatingPoint>) {
        self.evaluated = active.map(|point| point.id().to_owned());
        let Some(point) = active else {
            self.shown.show(self.observed.name(), None, || ());
            return;
        };
        let found = self.assess(point).inspect_err(|error| {
            tracing::error!(%error, deployment = self.observed.name(), "the audit could not be evaluated");
        });
        let traffic = self.traffic.update(&*self.observed);
        let traffic = traffic.and_then(|found| found.assessment);
        let (deployment, id) = (self.observed.name(), point.id());
        self.shown.show(deployment, Some(id), || {
            if let Ok((drift, labelling)) = &found {
                show(deployment, id, drift, *labelling);
            }
            if let Some(traffic) = &traffic {
                show_traffic(deployment, id, traffic);
            }
        });
    }

    fn assess(
        &mut self,
        point: &OperatingPoint,
    ) -> Result<(DriftAssessment, Labelling), MonitorError> {
        let resets = Resets::of(&self.records, point.id(), self.since_ms)?;
        let span = AuditSpan::of(&self.strata, self.delta, &resets);
        let alarms = Alarms::of(&self.records, point.id(), span.since_ms)?;
        let today = self.observed.promise_today();
        let known = AuditContext {
            gallery: None,
            grown: today.map(|today| today.grown),
            growth: &self.growth,
            advise: None,
            alarms: &alarms,
            label_history: &self.label_history,
            reviews: &self.reviews,
            late_writes: self.losses.late_writes(),
        };
        let (drift, observations) = drift(&self.reader, point, &span, &known, &mut self.counted)?;
        let labelling = observations.labelling();
        self.keep_alarms(&alarms, &drift, labelling);
        Ok((drift, labelling))
    }

    fn keep_alarms(&self, alarms: &Alarms, drift: &DriftAssessment, labelling: Labelling) {
        let raised = [drift.far_evidence, drift.frr_evidence]
            .map(|found| found.is_some_and(|found| found.alarm_at.is_some()));
        let seen = alarms.seen(raised, labelling.earliest_ms, now_ms());
        if seen == *alarms {
            return;
        }
        if let Err(error) = seen.keep(&self.records) {
            tracing::error!(%error, deployment = self.observed.name(), "an alarm could not be kept; it ends when its decisions do");
        }
    }
}
