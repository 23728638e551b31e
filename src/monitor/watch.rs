//! The monitor, with the calls that requests make.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;

use super::canary_round::CanaryRound;
use super::error::MonitorError;
use super::left_out_round::LeftOutRound;
use super::lookalikes::EnrolledLookalikes;
use super::observed::{DecisionRecord, Observed};
use super::recorder::Recorder;
use crate::config::MonitoringConfig;
use crate::journal::entry::{DecisionId, JournalId};

/// Monitors whether a deployment keeps its promise. Calls take `&self`.
#[derive(Debug)]
pub struct Monitor {
    observed: Arc<dyn Observed>,
    /// `None` before [`Monitor::start`], and if decisions are not recorded.
    recorder: OnceLock<Recorder>,
    /// The labels that came and went before [`Monitor::start`], while a gallery caught up with its store, each with
    /// its generation; `None` afterwards.
    early_labels: Mutex<Option<Vec<(String, u64, bool)>>>,
    /// The latest round of canaries.
    pub(super) canaries: ArcSwapOption<CanaryRound>,
    /// Whether a round of canaries is running.
    pub(super) replaying: AtomicBool,
    /// The latest round of left-out searches.
    pub(super) left_out: ArcSwapOption<LeftOutRound>,
    /// Items that were enrolled although they are accepted as items of other labels.
    pub(super) lookalikes: EnrolledLookalikes,
}

impl Monitor {
    /// A monitor that can only run canaries on request until it is started.
    #[must_use]
    pub fn new(observed: Arc<dyn Observed>) -> Self {
        Self {
            observed,
            recorder: OnceLock::new(),
            early_labels: Mutex::new(Some(Vec::new())),
            canaries: ArcSwapOption::empty(),
            replaying: AtomicBool::new(false),
            left_out: ArcSwapOption::empty(),
            lookalikes: EnrolledLookalikes::default(),
        }
    }

    /// Records decisions from now on, if the settings say so, and evaluates them in a thread that ends with the
    /// monitor.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started, if the journal cannot be opened, or if the disk fails.
    pub fn start(&self, settings: &MonitoringConfig) -> Result<(), MonitorError> {
        if settings.journal {
            let recorder = Recorder::start(&self.observed, settings)?;
            // If there is one already, the new one ends here.
            drop(self.recorder.set(recorder));
        }
        let early = self.lock_early_labels().take();
        for (label, generation, enrolled) in early.into_iter().flatten() {
            self.label_changed(&label, generation, enrolled);
        }
        Ok(())
    }

    /// Whether images of sampled decisions are stored for the annotators.
    #[must_use]
    pub fn keeps_images(&self) -> bool {
        self.recorder.get().is_some_and(Recorder::keeps_images)
    }

    /// A new id for a decision, which names the journal that it is recorded in.
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

    /// Records a decision. It never waits, and a failure here never makes the request fail.
    pub fn record(&self, record: DecisionRecord<'_>) {
        if let Some(recorder) = self.recorder.get() {
            recorder.record(record);
        }
    }

    /// Records that a label was added or removed in a state of the gallery.
    pub fn label_changed(&self, label: &str, generation: u64, enrolled: bool) {
        if let Some(early) = &mut *self.lock_early_labels() {
            early.push((label.to_owned(), generation, enrolled));
            return;
        }
        if let Some(recorder) = self.recorder.get() {
            recorder.label_changed(label, generation, enrolled);
        }
    }

    fn lock_early_labels(&self) -> MutexGuard<'_, Option<Vec<(String, u64, bool)>>> {
        let lock = self.early_labels.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes its gauges and shows nothing from now on, because another deployment is served in its place.
    /// Requests that are still running are recorded.
    pub fn end(&self) {
        if let Some(recorder) = self.recorder.get() {
            recorder.end();
        }
    }

    /// The alarm that searches differ from those of the active operating point's calibration, as text; `None`
    /// without one.
    #[must_use]
    pub fn traffic_alarm(&self) -> Option<String> {
        let point = self.observed.active_point()?;
        self.recorder.get()?.traffic.alarm(point.id())
    }

    /// Evaluates and shows everything once more, soon.
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
