//! Every decision on the record, labels of a sample of them, and what follows for the promise.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::alarms::Alarms;
use super::answer::Hit;
use super::audited::{Known, Labelling, Span, drift};
use super::budget::fitted;
use super::clock::now_ms;
use super::design::{begin_design, lot};
use super::enrolment::Enrolments;
use super::folder::{Folder, JOURNAL_FILE};
use super::resets::Resets;
use super::shift::{Counted, Looked, Scores};
use super::{DeploymentError, Standing};
use crate::config::MonitoringConfig;
use crate::journal::entry::{Best, DecisionId, Entry, Sampling, Source};
use crate::journal::read::Reader;
use crate::journal::totals::{Committed, Lost, TotalKey};
use crate::journal::{Journal, Losses, Options, Retention};
use crate::telemetry;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::audit::AuditedRate;
use matchpoint_calibration::monitoring::drift::{DriftAssessment, Limit};
use matchpoint_calibration::monitoring::mixture::Classes;
use matchpoint_calibration::monitoring::sequential::EProcess;
use matchpoint_calibration::monitoring::strata::Strata;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_gallery::Gallery;
use matchpoint_vector::Similarity;

/// How often it is looked whether something has changed.
const TICK: Duration = Duration::from_millis(250);
/// When the traffic is counted again after that failed.
const FIT_AGAIN: Duration = Duration::from_secs(60);
/// Evaluating takes one part in so many of one core's time.
const EVALUATION_SHARE: u32 = 50;

/// What a deployment that serves keeps of its decisions. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Monitor {
    deployment: String,
    pub(super) journal: Journal,
    name: String,
    pub(super) enrolments: Arc<Enrolments>,
    pub(super) strata: Strata,
    /// The strata by which decisions are drawn now: others where there is a budget.
    drawing: Arc<ArcSwap<Strata>>,
    pub(super) since_ms: u64,
    images: bool,
    pub(super) delta: f64,
    /// Set where something was committed or labelled since the last evaluation.
    changed: Arc<AtomicBool>,
    showing: Arc<Showing>,
    /// Held while evidence is begun anew.
    resetting: Mutex<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The operating point whose gauges are shown, until another deployment has taken the place of this
/// one: then nothing is any more.
#[derive(Debug, Default)]
struct Showing(Mutex<(Option<String>, bool)>);

impl Showing {
    fn lock(&self) -> MutexGuard<'_, (Option<String>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `show` with the gauges of `point` in the place of those shown before.
    fn show(&self, deployment: &str, point: Option<&str>, show: impl FnOnce()) {
        let mut showing = self.lock();
        if showing.1 {
            return;
        }
        if showing.0.as_deref() != point
            && let Some(earlier) = showing.0.take()
        {
            telemetry::audit_ended(deployment, &earlier);
        }
        showing.0 = point.map(ToOwned::to_owned);
        show();
    }

    fn end(&self, deployment: &str) {
        let mut showing = self.lock();
        showing.1 = true;
        if let Some(shown) = showing.0.take() {
            telemetry::audit_ended(deployment, &shown);
        }
    }
}

/// One decision of a deployment, to be recorded.
pub(super) struct Made<'a> {
    pub(super) id: DecisionId,
    pub(super) decision: Decision,
    pub(super) standing: &'a Standing,
    pub(super) generation: u64,
    pub(super) gallery_items: usize,
    /// The best item, its similarity and its distance from the best of another label.
    pub(super) best: Option<(&'a Hit, Option<f32>)>,
    pub(super) held: Option<Similarity>,
    pub(super) filtered: bool,
    /// The image, where images are kept.
    pub(super) image: Option<Bytes>,
}

impl Monitor {
    /// Opens the journal of the deployment in `folder`, or begins one, and watches.
    pub(super) fn start(
        name: &str,
        folder: &Path,
        settings: &MonitoringConfig,
        gallery: Arc<Gallery>,
        standing: Arc<ArcSwap<Standing>>,
    ) -> Result<Self, DeploymentError> {
        telemetry::strata_designed(name, settings.strata.edges());
        let since_ms = begin_design(folder, &settings.strata)?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let options = Options {
            retention: Retention {
                ms: millis(settings.kept),
                audited_ms: millis(settings.audited_kept),
                bytes: settings.bytes_max,
            },
            clock: now_ms,
        };
        let changed = Arc::new(AtomicBool::new(true));
        let stop = Arc::new(AtomicBool::new(false));
        let (deployment, deciding) = (name.to_owned(), Arc::clone(&standing));
        let committed = Arc::clone(&changed);
        let counted = Arc::new(Counted::default());
        let (counting, mut told_before) = (Arc::clone(&counted), None);
        let journal = Journal::open(&folder.join(JOURNAL_FILE), options, move |told| {
            publish(&deployment, told, &deciding.load(), &mut told_before);
            counting.take(told);
            committed.store(true, Ordering::Relaxed);
        })?;
        let showing = Arc::new(Showing::default());
        let enrolments = Arc::new(Enrolments::open(folder)?);
        let drawing = Arc::new(ArcSwap::from_pointee(settings.strata.clone()));
        let watcher = Watcher {
            deployment: name.to_owned(),
            reader: journal.reader()?,
            losses: journal.losses(),
            lost: None,
            strata: settings.strata.clone(),
            since_ms,
            delta: settings.alarm_delta,
            gallery,
            standing,
            changed: Arc::clone(&changed),
            stop: Arc::clone(&stop),
            showing: Arc::clone(&showing),
            looked_at: None,
            enrolments: Arc::clone(&enrolments),
            budget: settings
                .labels_per_day
                .map(|labels| (labels, Instant::now())),
            drawing: Arc::clone(&drawing),
            folder: folder.to_owned(),
            counted,
            scores: None,
        };
        let thread = thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || watcher.run())
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            deployment: name.to_owned(),
            journal,
            name: name.to_owned(),
            enrolments,
            strata: settings.strata.clone(),
            drawing,
            since_ms,
            images: settings.images,
            delta: settings.alarm_delta,
            changed,
            showing,
            resetting: Mutex::new(()),
            stop,
            thread: Some(thread),
        })
    }

    /// Takes its gauges away, and shows nothing any more: another is served in its place. What is
    /// under way is recorded all the same.
    pub(super) fn end(&self) {
        self.showing.end(&self.name);
    }

    /// Shows anew what it knows, soon.
    pub(super) fn look_again(&self) {
        self.changed.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Takes down that labels came, so that they are evaluated.
    pub(super) fn note_labels(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Waits until nobody else begins evidence anew.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.resetting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal, to be read up to what was recorded until now.
    pub(super) fn reader(&self) -> Result<Reader, DeploymentError> {
        self.journal.flush()?;
        Ok(self.journal.reader()?)
    }

    /// Takes down that a label came or left with a state of the gallery.
    pub(super) fn label_changed(&self, label: &str, generation: u64, enrolled: bool) {
        self.enrolments.note(label, generation, enrolled);
    }

    /// Whether images are kept for whoever labels.
    pub(super) fn keeps_images(&self) -> bool {
        self.images
    }

    /// Records a search. Never waits, and never fails it.
    pub(super) fn record(&self, made: Made<'_>, source: Source) {
        let point = made.standing.valid();
        let searched = match source {
            Source::Comparison => None,
            Source::Live | Source::MatedCanary { .. } | Source::NonMatedCanary { .. } => point,
        };
        let sampling = searched.and_then(|point| self.sampling(&made, point));
        let image = made
            .image
            .filter(|_| sampling.is_some_and(|sampling| sampling.sampled()));
        let margin = made.best.as_ref().and_then(|(_, margin)| *margin);
        if let (Some(margin), Source::Live) = (margin, &source) {
            telemetry::margin_measured(&self.deployment, margin);
        }
        let best = made.best.map(|(hit, margin)| Best {
            label: hit.item.label.clone(),
            item: hit.item.id.clone(),
            similarity: hit.score.get(),
            held: point.and(made.held).map(Similarity::get),
            margin,
        });
        let entry = Entry {
            id: made.id,
            operating_point: point.map(|point| point.id().to_owned()),
            generation: made.generation,
            gallery_items: made.gallery_items as u64,
            decision: made.decision,
            best,
            filtered: made.filtered,
            sampling,
            source,
        };
        self.journal.record(entry, image);
    }

    fn sampling(&self, made: &Made<'_>, point: &OperatingPoint) -> Option<Sampling> {
        let place = self.drawing.load().place(made.held, point.threshold());
        let drawn = place.inclusion.draws(lot(&made.id));
        let stratum = u16::try_from(place.stratum).ok()?;
        Sampling::new(stratum, place.inclusion.get(), drawn)
    }
}

impl Drop for Monitor {
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

/// What was told of each total before; `None` at opening.
type ToldBefore = Option<HashMap<TotalKey, u64>>;

/// Tells Prometheus what a commit changed. At opening, of earlier operating points nothing: the
/// number of series is bounded by those that decide while the server runs.
fn publish(deployment: &str, told: &Committed, standing: &Standing, before: &mut ToldBefore) {
    let active = standing.valid().map(OperatingPoint::id);
    let opening = before.is_none();
    let before = before.get_or_insert_default();
    for total in &told.changed {
        let point = total.key.operating_point.as_deref();
        let count = total.count.decisions;
        let earlier = before.insert(total.key.clone(), count).unwrap_or(0);
        if !opening || point.is_none() || point == active {
            telemetry::decisions_recorded(
                deployment,
                telemetry::RecordedDecisions {
                    operating_point: point,
                    source: total.key.source.as_str(),
                    decision: total.key.decision.as_str(),
                    stratum: total.key.stratum,
                    filtered: total.key.filtered,
                    count: (count, (!opening).then(|| count.saturating_sub(earlier))),
                },
            );
        }
    }
    telemetry::journal_changed(deployment, told.rows, told.bytes);
}

/// Tells Prometheus what was lost since it was told last.
fn publish_lost(deployment: &str, lost: Lost, before: Option<Lost>) {
    let reasons = |lost: Lost| [lost.queue_full, lost.not_written, lost.images];
    let now = ["queue_full", "not_written", "image"]
        .into_iter()
        .zip(reasons(lost));
    let before = before.map_or([None; 3], |before| reasons(before).map(Some));
    for ((reason, total), earlier) in now.zip(before) {
        let since = earlier.map(|earlier| total.saturating_sub(earlier));
        telemetry::recording_lost(deployment, reason, total, since);
    }
}

/// Looks again whenever something was recorded or labelled.
struct Watcher {
    deployment: String,
    reader: Reader,
    strata: Strata,
    since_ms: u64,
    delta: f64,
    gallery: Arc<Gallery>,
    standing: Arc<ArcSwap<Standing>>,
    changed: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    showing: Arc<Showing>,
    /// The operating point that was looked at last.
    looked_at: Option<String>,
    enrolments: Arc<Enrolments>,
    /// Labels a day, and when the traffic is looked at again for them.
    budget: Option<(u32, Instant)>,
    drawing: Arc<ArcSwap<Strata>>,
    losses: Losses,
    /// What was told of them last.
    lost: Option<Lost>,
    folder: PathBuf,
    counted: Arc<Counted>,
    scores: Option<Scores>,
}

impl Watcher {
    fn run(mut self) {
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.tell_lost();
            let standing = self.standing.load_full();
            let active = standing.valid();
            let another = active.map(OperatingPoint::id) != self.looked_at.as_deref();
            let now = Instant::now();
            self.keep_to_budget(active, another);
            if another || (next <= now && self.changed.swap(false, Ordering::Relaxed)) {
                self.look(active);
                let ended = Instant::now();
                next = ended + (ended - now) * EVALUATION_SHARE;
            }
            thread::park_timeout(TICK);
        }
        self.tell_lost();
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
                self.drawing.store(Arc::new(strata));
                *at = now + again;
            }
            Err(error) => {
                tracing::error!(%error, deployment = self.deployment, "the traffic could not be counted; as much is drawn as before");
                *at = now + FIT_AGAIN;
            }
        }
    }

    /// Also while nothing can be written, and after the journal's writer has ended.
    fn tell_lost(&mut self) {
        let lost = self.losses.ever();
        if self.lost != Some(lost) {
            publish_lost(&self.deployment, lost, self.lost);
            self.lost = Some(lost);
        }
    }

    fn look(&mut self, active: Option<&OperatingPoint>) {
        self.looked_at = active.map(|point| point.id().to_owned());
        let Some(point) = active else {
            self.showing.show(&self.deployment, None, || ());
            return;
        };
        let resets = Resets::of(&self.folder, point.id(), self.since_ms);
        let span = Span::of(&self.strata, self.delta, &resets);
        let alarms = Alarms::of(&self.folder, point.id(), span.since_ms);
        let found = drift(
            &self.reader,
            point,
            &span,
            &Known {
                items: self.gallery.len() as u64,
                advise: None,
                alarms: &alarms,
                enrolments: &self.enrolments,
            },
        );
        let found = found.map(|(drift, told)| (drift, told.labelling()));
        if let Ok((drift, labelling)) = &found {
            self.keep_alarms(&alarms, drift, *labelling);
        }
        let found = found.inspect_err(|error| {
            tracing::error!(%error, deployment = self.deployment, "the audit could not be evaluated");
        });
        let looked = self.look_at_scores(point);
        let (deployment, id) = (self.deployment.as_str(), point.id());
        self.showing.show(deployment, Some(id), || {
            if let Ok((drift, labelling)) = &found {
                show(deployment, id, drift, *labelling);
            }
            if let Some(shift) = looked.shift {
                telemetry::scores_compared(deployment, id, shift.psi, shift.limit);
            }
            if let Some(misfit) = looked.misfit {
                let gauges = telemetry::MisfitGauges {
                    distance: misfit.distance,
                    limit: misfit.limit,
                    mated: misfit.mated,
                };
                telemetry::scores_fitted(deployment, id, gauges);
            }
        });
    }

    fn keep_alarms(&self, alarms: &Alarms, drift: &DriftAssessment, labelling: Labelling) {
        let raised = [drift.far_evidence, drift.frr_evidence]
            .map(|found| found.is_some_and(|found| found.alarm_at.is_some()));
        let seen = alarms.seen(raised, labelling.earliest_ms, now_ms());
        if seen == *alarms {
            return;
        }
        if let Err(error) = seen.keep(&self.folder) {
            tracing::error!(%error, deployment = self.deployment, "an alarm could not be kept; it ends when its decisions do");
        }
    }

    fn look_at_scores(&mut self, point: &OperatingPoint) -> Looked {
        let id = point.id();
        let known = self.scores.take().filter(|scores| scores.is_of(id));
        let mut scores = known
            .unwrap_or_else(|| Scores::new(&self.folder, id, self.since_ms, self.classes(point)));
        let looked = scores.look(&self.counted, self.strata.count());
        self.scores = Some(scores);
        looked.unwrap_or_else(|error| {
            tracing::warn!(%error, deployment = self.deployment, "the reference of the scores is not kept");
            Looked::default()
        })
    }

    /// What the calibration of an operating point found; `None` where its searches were not kept.
    fn classes(&self, point: &OperatingPoint) -> Option<Classes> {
        let read = Folder::open(&self.folder).and_then(|folder| folder.recording(point.id()));
        match read {
            Ok(recording) => Classes::of(&recording?, point.threshold(), &self.strata),
            Err(error) => {
                tracing::warn!(%error, deployment = self.deployment, "scores cannot be compared with those of the calibration");
                None
            }
        }
    }
}

fn show(deployment: &str, point: &str, drift: &DriftAssessment, labelling: Labelling) {
    let gauges = |rate, found: Option<AuditedRate>| telemetry::AuditedRateGauges {
        rate,
        interval: found.map(|found| [found.estimate, found.lower, found.upper]),
        weighted: found.map(|found| [found.numerator, found.denominator]),
        limit: None,
        evidence: None,
    };
    let held = |limit: Option<Limit>| limit.map(|limit| (limit.null.limit(), limit.target));
    let evidence = |found: Option<EProcess>| {
        found.map(|found| (found.ln_e, found.ln_e_alarm, found.alarm_at.is_some()))
    };
    let far = telemetry::AuditedRateGauges {
        limit: held(drift.limits.far),
        evidence: evidence(drift.far_evidence),
        ..gauges("far", drift.rates.far)
    };
    let frr = telemetry::AuditedRateGauges {
        limit: held(drift.limits.frr),
        evidence: evidence(drift.frr_evidence),
        ..gauges("frr", drift.rates.frr)
    };
    for rate in [far, frr, gauges("fdr", drift.rates.false_discovery)] {
        telemetry::rate_audited(deployment, point, rate);
    }
    for (rate, onset) in [("far", drift.far_onset), ("frr", drift.frr_onset)] {
        let alarm = onset.alarm_unix_ms.map(Duration::from_millis);
        let cusum = onset.cusum.map(|sum| sum.value / sum.limit);
        telemetry::rate_onset(deployment, point, rate, alarm, cusum);
    }
    let counts = telemetry::AuditCounts {
        sampled: drift.rates.drawn,
        annotated: drift.rates.labelled,
        since_annotation: labelling.since,
        latest_annotation_ms: labelling.latest_ms,
        feedback: (drift.feedback.right, drift.feedback.wrong),
    };
    telemetry::audit_counted(deployment, point, counts);
}
