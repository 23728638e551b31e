//! Records every decision of a deployment, samples some of them for annotation, and stores their evaluation.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::counted_strata::CountedStrata;
use super::error::MonitorError;
use super::gauges::{ShownPoint, publish};
use super::growth_history::GrowthHistory;
use super::label_history::{EnrolledLabels, LabelHistory};
use super::observed::{DecisionRecord, Observed};
use super::resets::none_ahead;
use super::review_evidence::ReviewEvidence;
use super::sampling_design::{begin_design, sampling_hash};
use super::traffic_comparison::TrafficComparison;
use super::watcher::Watcher;
use crate::clock::now_ms;
use crate::config::MonitoringConfig;
use crate::files::FileError;
use crate::journal::entry::{DecidedItem, DecisionEntry, Sampling, SearchSource};
use crate::journal::read::JournalReader;
use crate::journal::{FILE_NAME, Journal, JournalOptions, Retention};
use crate::telemetry;
use matchpoint_calibration::monitoring::strata::Strata;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_vector::Similarity;

/// The journal of a deployment in service, and the thread that evaluates it. The thread ends when this is
/// dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    deployment: String,
    /// The folder of the files.
    pub(super) records: PathBuf,
    pub(super) journal: Journal,
    pub(super) label_history: Arc<LabelHistory>,
    pub(super) growth: Arc<GrowthHistory>,
    pub(super) strata: Strata,
    /// The strata by which decisions are sampled now; a budget adjusts their probabilities.
    sampling: Arc<ArcSwap<Strata>>,
    pub(super) since_ms: u64,
    images: bool,
    pub(super) traffic: Arc<TrafficComparison>,
    pub(super) reviews: Arc<ReviewEvidence>,
    pub(super) delta: f64,
    /// Set if something was committed or annotated since the last evaluation.
    changed: Arc<AtomicBool>,
    shown: Arc<ShownPoint>,
    /// Locked while evidence is reset.
    resetting: Mutex<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Opens or creates the journal of a deployment, and evaluates it from now on.
    pub(super) fn start(
        observed: &Arc<dyn Observed>,
        settings: &MonitoringConfig,
    ) -> Result<Self, MonitorError> {
        let name = observed.name();
        let folder = observed.records().ok_or(MonitorError::JournalOff)?;
        telemetry::strata_designed(name, settings.strata.edges());
        let since_ms = begin_design(folder, &settings.strata)?;
        none_ahead(folder, now_ms())?;
        let changed = Arc::new(AtomicBool::new(true));
        let journal = open_journal(observed, folder, settings, &changed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let shown = Arc::new(ShownPoint::default());
        let view = observed.gallery().view();
        let label_history = Arc::new(LabelHistory::open(folder, EnrolledLabels::of(&view))?);
        let growth = Arc::new(GrowthHistory::open(folder, view.generation())?);
        let sampling = Arc::new(ArcSwap::from_pointee(settings.strata.clone()));
        let traffic = Arc::new(TrafficComparison::new(
            folder,
            settings.alarm_delta,
            since_ms,
        ));
        let reviews = Arc::new(ReviewEvidence::kept_in(folder));
        let watcher = Watcher {
            observed: Arc::clone(observed),
            records: folder.to_owned(),
            reader: journal.reader()?,
            losses: journal.losses(),
            lost: None,
            strata: settings.strata.clone(),
            since_ms,
            delta: settings.alarm_delta,
            changed: Arc::clone(&changed),
            stop: Arc::clone(&stop),
            shown: Arc::clone(&shown),
            evaluated: None,
            label_history: Arc::clone(&label_history),
            growth: Arc::clone(&growth),
            budget: settings
                .labels_per_day
                .map(|labels| (labels, Instant::now())),
            sampling: Arc::clone(&sampling),
            traffic: Arc::clone(&traffic),
            counted: CountedStrata::default(),
            reviews: Arc::clone(&reviews),
        };
        let thread = thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || watcher.run())
            .map_err(|cause| MonitorError::thread(&cause))?;
        Ok(Self {
            deployment: name.to_owned(),
            records: folder.to_owned(),
            journal,
            label_history,
            growth,
            strata: settings.strata.clone(),
            sampling,
            since_ms,
            images: settings.images,
            traffic,
            reviews,
            delta: settings.alarm_delta,
            changed,
            shown,
            resetting: Mutex::new(()),
            stop,
            thread: Some(thread),
        })
    }

    /// Removes its gauges and shows nothing any more, because another deployment is served in its place.
    /// Requests that are still running are recorded.
    pub(super) fn end(&self) {
        self.shown.end(&self.deployment);
    }

    /// Evaluates and shows everything once more, soon.
    pub(super) fn evaluate_soon(&self) {
        self.changed.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Makes sure that new annotations are evaluated.
    pub(super) fn note_annotations(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Waits until no other call resets evidence.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.resetting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal, for reading everything that was recorded until now.
    pub(super) fn reader(&self) -> Result<JournalReader, MonitorError> {
        self.journal.flush()?;
        Ok(self.journal.reader()?)
    }

    /// Records that a label was added or removed in a state of the gallery.
    pub(super) fn label_changed(&self, label: &str, generation: u64, enrolled: bool) {
        self.label_history.note(label, generation, enrolled);
    }

    /// Whether images are stored for the annotators.
    pub(super) fn keeps_images(&self) -> bool {
        self.images
    }

    /// Records a search. It never waits, and a failure here never makes the search fail.
    pub(super) fn record(&self, record: DecisionRecord<'_>) {
        let point = record.point;
        let searched = match record.source {
            SearchSource::Comparison => None,
            SearchSource::Live
            | SearchSource::MatedCanary { .. }
            | SearchSource::NonMatedCanary { .. } => point,
        };
        let sampling = searched.and_then(|point| self.sampling(&record, point));
        let growth = searched.and_then(|point| point.content().growth);
        if let Some((point, growth)) = searched.zip(growth) {
            let grown = record.target_far == Some(growth.target_far);
            self.growth.note(point.id(), record.generation, grown);
        }
        // Filtered searches and canaries belong to another population.
        if let (Some(point), Some(signs), SearchSource::Live, false) =
            (point, record.signs, &record.source, record.filtered)
        {
            self.traffic.take(point.id(), signs, record.decision);
        }
        let image = record
            .image
            .filter(|_| sampling.is_some_and(|sampling| sampling.sampled()));
        let margin = record.best.and_then(|best| best.margin);
        if let (Some(margin), SearchSource::Live) = (margin, &record.source) {
            telemetry::margin_measured(&self.deployment, margin);
        }
        let best = record.best.map(|best| DecidedItem {
            label: best.found.item.label.clone(),
            item: best.found.item.id.clone(),
            similarity: best.found.score.get(),
            decision_score: point.and(record.decision_score).map(Similarity::get),
            margin: best.margin,
        });
        let entry = DecisionEntry {
            id: record.id,
            operating_point: point.map(|point| point.id().to_owned()),
            generation: record.generation,
            gallery_items: record.gallery_items as u64,
            state: Some(record.state),
            decision: record.decision,
            best,
            filtered: record.filtered,
            sampling,
            source: record.source,
        };
        self.journal.record(entry, image);
    }

    fn sampling(&self, record: &DecisionRecord<'_>, point: &OperatingPoint) -> Option<Sampling> {
        let sampling = self.sampling.load();
        let place = sampling.place(record.decision_score, point.threshold());
        let sampled = place.inclusion.samples(sampling_hash(&record.id));
        let stratum = u16::try_from(place.stratum).ok()?;
        Sampling::new(stratum, place.inclusion.get(), sampled)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the monitor panicked");
            }
        }
    }
}

/// Checks what is kept in a folder of labels and promises by generation of the gallery, without changing it.
///
/// # Errors
/// Returns an error that names the file if it is damaged, or if the disk fails.
pub fn check_histories(folder: &Path) -> Result<(), FileError> {
    LabelHistory::check(folder)?;
    GrowthHistory::check(folder)
}

/// Opens the journal, whose commits are published and counted.
fn open_journal(
    observed: &Arc<dyn Observed>,
    folder: &Path,
    settings: &MonitoringConfig,
    changed: &Arc<AtomicBool>,
) -> Result<Journal, MonitorError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let options = JournalOptions {
        retention: Retention {
            ms: millis(settings.kept),
            audited_ms: millis(settings.audited_kept),
            bytes: settings.bytes_max,
        },
        clock: now_ms,
    };
    let path = folder.join(FILE_NAME);
    let (observed, changed) = (Arc::clone(observed), Arc::clone(changed));
    let mut before = None;
    Ok(Journal::open(&path, options, move |committed| {
        let active = observed.active_point();
        let active = active.as_deref().map(OperatingPoint::id);
        publish(observed.name(), committed, active, &mut before);
        changed.store(true, Ordering::Relaxed);
    })?)
}
