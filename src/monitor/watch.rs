//! A monitor, and what it is asked on the path of callers.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use super::canary_round::CanaryRound;
use super::error::MonitorError;
use super::left_out_round::LeftOutRound;
use super::lookalikes::EnrolledLookalikes;
use super::observed::{DecisionRecord, Observed};
use super::recorder::Recorder;
use crate::config::MonitoringConfig;
use crate::journal::entry::{DecisionId, JournalId};

/// What watches whether a deployment keeps its promise. Cheap to ask: every call takes `&self`.
#[derive(Debug)]
pub struct Monitor {
    observed: Arc<dyn Observed>,
    /// Not there before [`Monitor::start`], nor if decisions are not recorded.
    recorder: OnceLock<Recorder>,
    /// The latest round of canaries.
    pub(super) canaries: ArcSwapOption<CanaryRound>,
    /// Whether a round of them is under way.
    pub(super) replaying: AtomicBool,
    /// The latest round of left-out searches.
    pub(super) left_out: ArcSwapOption<LeftOutRound>,
    /// What was enrolled although it is accepted as something else.
    pub(super) lookalikes: EnrolledLookalikes,
}

impl Monitor {
    /// One that watches nothing yet but canaries, when it is asked to.
    #[must_use]
    pub fn new(observed: Arc<dyn Observed>) -> Self {
        Self {
            observed,
            recorder: OnceLock::new(),
            canaries: ArcSwapOption::empty(),
            replaying: AtomicBool::new(false),
            left_out: ArcSwapOption::empty(),
            lookalikes: EnrolledLookalikes::default(),
        }
    }

    /// Records decisions from now on, if the settings say so, and evaluates them on a thread that ends
    /// with the monitor.
    ///
    /// # Errors
    /// The thread cannot be started, the journal cannot be opened, or the disk.
    pub fn start(&self, settings: &MonitoringConfig) -> Result<(), MonitorError> {
        if settings.journal {
            let recorder = Recorder::start(&self.observed, settings)?;
            // If there is one already, the second ends here.
            drop(self.recorder.set(recorder));
        }
        Ok(())
    }

    /// Whether images of sampled decisions are kept for those who annotate.
    #[must_use]
    pub fn keeps_images(&self) -> bool {
        self.recorder.get().is_some_and(Recorder::keeps_images)
    }

    /// An id for a decision, which names the journal that it is recorded in.
    #[must_use]
    pub fn fresh_id(&self) -> DecisionId {
        self.journal_id()
            .map_or_else(DecisionId::fresh, DecisionId::fresh_in)
    }

    /// The journal that decisions are recorded in; `None` if they are not.
    #[must_use]
    pub fn journal_id(&self) -> Option<JournalId> {
        Some(self.recorder.get()?.journal.name())
    }

    /// Records a decision. Never waits, and never fails it.
    pub fn record(&self, record: DecisionRecord<'_>) {
        if let Some(recorder) = self.recorder.get() {
            recorder.record(record);
        }
    }

    /// Notes that a label came or left with a state of the gallery.
    pub fn label_changed(&self, label: &str, generation: u64, enrolled: bool) {
        if let Some(recorder) = self.recorder.get() {
            recorder.label_changed(label, generation, enrolled);
        }
    }

    /// Takes its gauges away, and shows nothing from now on: another deployment is served in the place
    /// of its own. What is under way is recorded all the same.
    pub fn end(&self) {
        if let Some(recorder) = self.recorder.get() {
            recorder.end();
        }
    }

    /// The alarm that searches are not like those of the active operating point's calibration, in words; `None`
    /// without one.
    #[must_use]
    pub fn traffic_alarm(&self) -> Option<String> {
        let point = self.observed.active_point()?;
        self.recorder.get()?.traffic.alarm(point.id())
    }

    /// Evaluates and shows what it knows once more, soon.
    pub fn evaluate_soon(&self) {
        if let Some(recorder) = self.recorder.get() {
            recorder.evaluate_soon();
        }
    }

    pub(super) fn observed(&self) -> &dyn Observed {
        &*self.observed
    }

    pub(super) fn recorder(&self) -> Result<&Recorder, MonitorError> {
        self.recorder.get().ok_or(MonitorError::JournalOff)
    }
}
