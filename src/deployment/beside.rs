//! How a live query comes to a candidate, and what is counted of it.
//!
//! Callers come first. A query is passed on only where none waits for the live model, and at most
//! two at a time; what cannot be is counted, and nobody waits for it. The candidate has a worker and a
//! session of its own, at the lowest priority that the system has.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::answer::search_snapshot;
use super::shadow_report::{Disagreement, Outcome, SHADOW_LATEST_MAX, ShadowAbout, ShadowReport};
use super::{DeploymentError, LoadedModel, ProbeSource, Query, SearchOptions, Standing, Timings};
use crate::journal::entry::DecisionId;
use crate::telemetry;
use matchpoint_calibration::monitoring::shadow::{Pair, ShadowCounts, ShadowMatch, is_drawn};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_embed::pool::WorkerPool;
use matchpoint_gallery::Gallery;

/// Queries that are under way to the candidate: one that it works on, and one that waits, so that
/// the memory for their images is bounded.
const SLOTS: usize = 2;
/// How often the thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);
/// The lowest priority of a thread.
const NICE: i32 = 19;

/// Why a query that was drawn is not compared.
#[derive(Clone, Copy)]
enum Skip {
    /// It came as a vector, which is of the live model's space.
    Embedding,
    /// Requests waited for the live model.
    Busy,
    /// The candidate had not finished with earlier ones.
    Behind,
    /// The candidate failed on it.
    Failed,
}

/// Their names in metrics and reports, in their order.
const SKIPS: [&str; 4] = ["embedding", "busy", "behind", "failed"];

/// The place for one candidate. Its thread ends with it.
#[derive(Debug, Default)]
pub(super) struct Beside {
    shadow: ArcSwapOption<Shadow>,
    /// The thread that has it, and those of earlier ones that have not ended yet. Held while a
    /// candidate is opened, so that the latest wins.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The right to open a candidate, or to end it.
pub(super) struct Opening<'a> {
    shadow: &'a ArcSwapOption<Shadow>,
    threads: MutexGuard<'a, Vec<JoinHandle<()>>>,
}

/// What live requests see of a candidate: they never wait for a lock of its threads, nor do they
/// ever have to close it.
#[derive(Debug)]
struct Shadow {
    about: ShadowAbout,
    samples: Sender<Sample>,
    slots: Arc<AtomicUsize>,
    /// Number of the next live query.
    turn: AtomicU64,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

/// What came of it so far.
#[derive(Debug)]
struct Tally {
    deployment: String,
    skipped: [AtomicU64; SKIPS.len()],
    seen: Mutex<(ShadowCounts, VecDeque<Disagreement>)>,
}

/// One of [`SLOTS`]; given back when this is dropped.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

/// A query that will be compared, if the live model answers it.
pub(super) struct Ticket {
    image: Bytes,
    options: SearchOptions,
    samples: Sender<Sample>,
    tally: Arc<Tally>,
    slot: Slot,
}

/// A query with its live answer.
#[derive(Debug)]
struct Sample {
    image: Bytes,
    options: SearchOptions,
    id: DecisionId,
    live: Outcome,
    _slot: Slot,
}

impl Slot {
    fn take(slots: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |taken: usize| (taken < SLOTS).then_some(taken + 1);
        let taken = slots.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Self(Arc::clone(slots)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Tally {
    fn skip(&self, reason: Skip) {
        let mut counts = self.skipped.iter().zip(SKIPS);
        if let Some((count, name)) = counts.nth(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
            telemetry::shadow_skipped(&self.deployment, name);
        }
    }

    fn seen(&self) -> MutexGuard<'_, (ShadowCounts, VecDeque<Disagreement>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pair: Pair, disagreement: impl FnOnce() -> Disagreement) {
        let mut seen = self.seen();
        let (counts, latest) = &mut *seen;
        counts.take(pair);
        if pair.disagrees() {
            latest.truncate(SHADOW_LATEST_MAX - 1);
            latest.push_front(disagreement());
        }
        telemetry::shadow_compared(&self.deployment, labels(pair));
    }
}

fn labels(pair: Pair) -> [&'static str; 3] {
    [pair.live.as_str(), pair.shadow.as_str(), pair.best.as_str()]
}

impl Shadow {
    /// Takes a place for a query with the candidate, before the live model works on it; `None` where
    /// it is not drawn, or is skipped. `waiting` requests wait for the live
    /// model.
    fn ticket(&self, query: &Query, options: &SearchOptions, waiting: usize) -> Option<Ticket> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !is_drawn(turn, self.about.share) {
            return None;
        }
        let taken = match query {
            Query::Embedding(_) => Err(Skip::Embedding),
            Query::Image(_) if 0 < waiting => Err(Skip::Busy),
            Query::Image(image) => match Slot::take(&self.slots) {
                Some(slot) => Ok((image.clone(), slot)),
                None => Err(Skip::Behind),
            },
        };
        let (image, slot) = taken.map_err(|reason| self.tally.skip(reason)).ok()?;
        Some(Ticket {
            image,
            options: options.clone(),
            samples: self.samples.clone(),
            tally: Arc::clone(&self.tally),
            slot,
        })
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Ticket {
    /// Passes the query on with its live answer. Never waits.
    pub(super) fn offer(self, id: DecisionId, live: Outcome) {
        let sample = Sample {
            image: self.image,
            options: self.options,
            id,
            live,
            _slot: self.slot,
        };
        if self.samples.try_send(sample).is_err() {
            self.tally.skip(Skip::Behind);
        }
    }
}

impl Beside {
    pub(super) fn ticket(
        &self,
        probe: &ProbeSource,
        options: &SearchOptions,
        live: &WorkerPool,
    ) -> Option<Ticket> {
        let shadow = self.shadow.load();
        let shadow = shadow.as_ref()?;
        match probe {
            ProbeSource::Query(query) => shadow.ticket(query, options, live.queue_len()),
            ProbeSource::File(_) => None,
        }
    }

    /// The right to open a candidate, or to end it: one at a time, so that the latest wins.
    pub(super) fn opening(&self) -> Opening<'_> {
        Opening {
            shadow: &self.shadow,
            threads: self.threads.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// What came of it so far, but for what the queries showed; `None` without a candidate.
    pub(super) fn report(&self, limit: usize) -> Option<ShadowReport> {
        let shadow = self.shadow.load_full()?;
        let tally = &shadow.tally;
        let counted = tally.skipped.iter().zip(SKIPS);
        let seen = tally.seen();
        let latest = seen.1.iter().take(limit).cloned();
        Some(ShadowReport {
            about: shadow.about.clone(),
            counts: seen.0.clone(),
            skipped: counted
                .map(|(count, name)| (name, count.load(Ordering::Relaxed)))
                .collect(),
            latest: latest.map(|one| (one, None)).collect(),
        })
    }
}

impl Opening<'_> {
    pub(super) fn is_there(&self) -> bool {
        self.shadow.load().is_some()
    }

    /// Ends the comparison. The candidate closes as soon as its worker is done, which nobody waits
    /// for: at its priority that can take seconds where others have all of the processors.
    pub(super) fn end(&mut self) {
        if let Some(shadow) = self.shadow.swap(None) {
            shadow.stop.store(true, Ordering::Relaxed);
            telemetry::shadow_ended(metric_labels(&shadow));
        }
        self.threads.retain(|thread| !thread.is_finished());
    }

    /// Compares the answers of the deployment `name`, whose callers wait for `live`, with those of this
    /// candidate from now on.
    pub(super) fn begin(
        &mut self,
        name: &str,
        live: &Arc<WorkerPool>,
        candidate: Candidate,
        about: ShadowAbout,
    ) -> Result<(), DeploymentError> {
        let (samples, waiting) = crossbeam_channel::bounded(SLOTS);
        let tally = Arc::new(Tally {
            deployment: name.to_owned(),
            skipped: Default::default(),
            seen: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let comparer = Comparer {
            candidate,
            live: Arc::clone(live),
            tally: Arc::clone(&tally),
            stop: Arc::clone(&stop),
            failed: false,
        };
        let started = thread::Builder::new()
            .name("shadow".to_owned())
            .spawn(move || comparer.run(&waiting))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        self.end();
        self.threads.push(started);
        let shadow = Shadow {
            about,
            samples,
            slots: Arc::default(),
            turn: AtomicU64::new(0),
            tally,
            stop,
        };
        telemetry::shadow_started(metric_labels(&shadow), Pair::all().map(labels), &SKIPS);
        self.shadow.store(Some(Arc::new(shadow)));
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let mut opening = self.opening();
        opening.end();
        // So that nothing runs any more when the process ends.
        for thread in opening.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread of a candidate panicked");
            }
        }
    }
}

fn metric_labels(shadow: &Shadow) -> telemetry::ShadowLabels<'_> {
    let about = &shadow.about;
    telemetry::ShadowLabels {
        deployment: &shadow.tally.deployment,
        model: &about.model,
        fingerprint: &about.fingerprint,
        precision: &about.precision,
        execution_provider: &about.execution_provider,
        operating_point: about.operating_point.as_deref(),
    }
}

/// What a candidate answers with: it is open for reading, and neither records nor checks anything.
pub(super) struct Candidate {
    pub(super) loaded: LoadedModel,
    pub(super) limits: ImageLimits,
    pub(super) gallery: Arc<Gallery>,
    pub(super) standing: Arc<ArcSwap<Standing>>,
}

/// The thread that has the candidate.
struct Comparer {
    candidate: Candidate,
    /// The workers that answer callers.
    live: Arc<WorkerPool>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    /// Whether the candidate has ever failed.
    failed: bool,
}

impl Comparer {
    fn run(mut self, samples: &Receiver<Sample>) {
        let rests = !self.lowers_priority();
        while !self.stop.load(Ordering::Relaxed) {
            match samples.recv_timeout(TICK) {
                Ok(sample) => {
                    let started = Instant::now();
                    self.compare(sample);
                    if rests {
                        thread::park_timeout(started.elapsed());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether the candidate's work yields to everybody else's. On a GPU there is no priority.
    fn lowers_priority(&self) -> bool {
        // On Linux this is of the calling thread: the candidate's only worker. This thread itself
        // keeps its own, since it shares locks with whoever asks for a report.
        let lower =
            |_: &mut PoolWorker<'_>| rustix::process::setpriority_process(None, NICE).is_ok();
        let lowered =
            self.candidate
                .loaded
                .pool
                .run_blocking(Caller::default(), JobKind::Image, lower);
        lowered == Ok(true) && self.candidate.loaded.model.provider() == "cpu"
    }

    fn compare(&mut self, sample: Sample) {
        if 0 < self.live.queue_len() {
            return self.tally.skip(Skip::Busy);
        }
        // Freed here, and not by a thread that may be held up for long.
        let sample = Arc::new(sample);
        let shadow = match self.ask(&sample) {
            Ok(shadow) => shadow,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    let deployment = &self.tally.deployment;
                    tracing::warn!(%error, deployment, "the candidate failed on a query; further ones are only counted");
                }
                return self.tally.skip(Skip::Failed);
            }
        };
        let (live, known) = (&sample.live, &self.candidate.gallery);
        let best = match (live.label.as_str(), shadow.label.as_str()) {
            ("", _) => ShadowMatch::Nothing,
            (label, _) if !known.has_label(label) => ShadowMatch::Missing,
            (_, "") => ShadowMatch::Nothing,
            (label, found) if label == found => ShadowMatch::Same,
            _ => ShadowMatch::Other,
        };
        let pair = Pair {
            live: live.decision,
            shadow: shadow.decision,
            best,
        };
        self.tally.take(pair, || Disagreement {
            id: sample.id,
            live: live.clone(),
            shadow,
            best,
        });
    }

    /// What the candidate itself would have answered.
    fn ask(&self, sample: &Arc<Sample>) -> Result<Outcome, DeploymentError> {
        let candidate = &self.candidate;
        let (snapshot, standing) = (candidate.gallery.view(), candidate.standing.load_full());
        let (limits, query) = (candidate.limits, Arc::clone(sample));
        // Neither in its time nor in its result does it count as a request.
        candidate
            .loaded
            .pool
            .run_blocking(Caller::default(), JobKind::Image, move |worker| {
                let timings = &mut Timings::default();
                let embedding = worker.embed(&query.image, &limits)?.embedding;
                let (_, best) = search_snapshot(&snapshot, &embedding, &query.options, timings)?;
                let best = best.as_ref().map(|(best, _)| best);
                let held = standing.held(&embedding, best, &query.options, timings)?;
                Ok(Outcome::new(&standing, best, held))
            })?
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use matchpoint_calibration::decision::Decision;

    fn shadow(share: f64) -> (Shadow, Receiver<Sample>) {
        let (samples, waiting) = crossbeam_channel::bounded(SLOTS);
        let about = ShadowAbout {
            path: PathBuf::new(),
            model: "candidate".to_owned(),
            fingerprint: String::new(),
            precision: "f32".to_owned(),
            execution_provider: "cpu".to_owned(),
            operating_point: None,
            gallery_items: 0,
            generation: 0,
            share,
        };
        let tally = Tally {
            deployment: "shop".to_owned(),
            skipped: Default::default(),
            seen: Mutex::default(),
        };
        let shadow = Shadow {
            about,
            samples,
            slots: Arc::default(),
            turn: AtomicU64::new(0),
            tally: Arc::new(tally),
            stop: Arc::default(),
        };
        (shadow, waiting)
    }

    fn ask(shadow: &Shadow, query: &Query, waiting: usize) -> Option<Ticket> {
        shadow.ticket(query, &SearchOptions::nearest(1), waiting)
    }

    fn skipped(shadow: &Shadow) -> [u64; SKIPS.len()] {
        let skipped = &shadow.tally.skipped;
        std::array::from_fn(|at| skipped[at].load(Ordering::Relaxed))
    }

    fn rejected() -> Outcome {
        Outcome::new(&Standing::Missing, None, None)
    }

    #[test]
    fn two_queries_are_under_way_at_most_and_one_that_was_not_answered_gives_its_place_back() {
        let (shadow, waiting) = shadow(1.0);
        let image = Query::Image(vec![1, 2, 3].into());
        let first = ask(&shadow, &image, 0).unwrap();
        let second = ask(&shadow, &image, 0).unwrap();
        assert!(ask(&shadow, &image, 0).is_none());
        assert_eq!(skipped(&shadow), [0, 0, 1, 0]);

        // Its caller has gone.
        drop(first);
        let third = ask(&shadow, &image, 0).unwrap();
        second.offer(DecisionId::fresh(), rejected());
        third.offer(DecisionId::fresh(), rejected());
        // Passed on, they still take their places, until the candidate has finished with them.
        assert!(ask(&shadow, &image, 0).is_none());
        assert_eq!(waiting.try_iter().count(), 2);
        assert!(ask(&shadow, &image, 0).is_some());
        assert_eq!(skipped(&shadow), [0, 0, 2, 0]);
    }

    #[test]
    fn what_cannot_be_passed_on_is_counted_and_gives_its_place_back() {
        let (shadow, waiting) = shadow(1.0);
        let image = Query::Image(vec![1, 2, 3].into());
        let ticket = ask(&shadow, &image, 0).unwrap();
        drop(waiting);
        ticket.offer(DecisionId::fresh(), rejected());
        assert_eq!(skipped(&shadow), [0, 0, 1, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn callers_who_wait_come_first_and_a_vector_is_of_the_live_models_space() {
        let (shadow, _waiting) = shadow(1.0);
        assert!(ask(&shadow, &Query::Image(vec![1].into()), 1).is_none());
        assert!(ask(&shadow, &Query::Embedding(vec![1.0]), 0).is_none());
        assert_eq!(skipped(&shadow), [1, 1, 0, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_drawn_is_not_passed_on_and_nowhere_counted() {
        let (shadow, _waiting) = shadow(0.05);
        let image = Query::Image(vec![1].into());
        let drawn = (0..1_000).filter(|_| ask(&shadow, &image, 0).is_some());
        assert!((20..80).contains(&drawn.count()));
        assert_eq!(skipped(&shadow), [0; 4]);
    }

    #[test]
    fn the_latest_disagreements_are_kept_newest_first() {
        let (shadow, _waiting) = shadow(1.0);
        let pair = Pair {
            live: Decision::Accept,
            shadow: Decision::Reject,
            best: ShadowMatch::Other,
        };
        let ids: Vec<DecisionId> = (0..SHADOW_LATEST_MAX + 5)
            .map(|_| DecisionId::fresh())
            .collect();
        for id in &ids {
            shadow.tally.take(pair, || Disagreement {
                id: *id,
                live: rejected(),
                shadow: rejected(),
                best: pair.best,
            });
        }
        let seen = shadow.tally.seen();
        let kept: Vec<DecisionId> = seen.1.iter().map(|one| one.id).collect();
        let latest: Vec<DecisionId> = ids.into_iter().rev().take(SHADOW_LATEST_MAX).collect();
        assert_eq!(kept, latest);
    }
}
