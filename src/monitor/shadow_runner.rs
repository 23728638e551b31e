//! Passes live queries to the shadow of a deployment, and counts the results.
//!
//! Callers come first. A query is passed on only if no request waits for the live model, and at most two
//! queries are in progress at a time. Other queries are counted as skipped, and no caller ever waits. The code
//! here does not depend on the type of a query.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::error::MonitorError;
use super::shadow_report::{
    SHADOW_LATEST_MAX, ShadowAbout, ShadowDecision, ShadowDisagreement, ShadowReport,
};
use crate::journal::entry::DecisionId;
use crate::telemetry;
use matchpoint_calibration::monitoring::shadow::{Pair, ShadowCounts, ShadowMatch, is_sampled};

/// The number of queries in progress for the shadow: one being processed and one waiting, which limits the
/// memory for their images.
const SLOTS: usize = 2;
/// How often the thread checks whether it should end.
const TICK: Duration = Duration::from_millis(100);

/// The reasons why a sampled query is not compared.
#[derive(Clone, Copy)]
enum Skip {
    /// The query is a vector of the live model's space.
    Embedding,
    /// Requests were waiting for the live model.
    Busy,
    /// The shadow had not finished earlier queries.
    Behind,
    /// The shadow failed on the query.
    Failed,
}

/// The names of the reasons in metrics and reports, in the order of the variants.
const SKIPS: [&str; 4] = ["embedding", "busy", "behind", "failed"];

/// A deployment that is compared with the live one, and never answers a caller.
pub trait ShadowDeployment<Q>: Send {
    /// Lowers the priority of its work. Returns whether that is possible; on a GPU there is no priority, and
    /// the runner pauses between queries instead.
    fn yields(&self) -> bool;

    /// Whether its gallery has this label.
    fn has_label(&self, label: &str) -> bool;

    /// The answer that it would have given.
    ///
    /// # Errors
    /// Returns the reason for a failure, as text.
    fn decide(&self, query: Arc<Q>) -> Result<ShadowDecision, String>;
}

/// Holds the shadow of one deployment, whose queries have the type `Q`. The thread ends when this is dropped.
#[derive(Debug)]
pub struct ShadowRunner<Q> {
    shadow: ArcSwapOption<ShadowIntake<Q>>,
    /// The thread of the shadow, and those of earlier shadows that have not ended yet. Locked while a shadow is
    /// opened, so that the last one counts.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The right to open a shadow, or to end it.
#[derive(Debug)]
pub struct ShadowOpening<'a, Q> {
    shadow: &'a ArcSwapOption<ShadowIntake<Q>>,
    threads: MutexGuard<'a, Vec<JoinHandle<()>>>,
}

/// The part of a shadow that live requests use. They never wait for a lock of the shadow's threads, and never
/// have to close it.
#[derive(Debug)]
struct ShadowIntake<Q> {
    about: ShadowAbout,
    samples: Sender<ShadowSample<Q>>,
    slots: Arc<AtomicUsize>,
    /// Number of the next live query.
    turn: AtomicU64,
    tally: Arc<ShadowTally>,
    stop: Arc<AtomicBool>,
}

/// The results so far.
#[derive(Debug)]
struct ShadowTally {
    deployment: String,
    skipped: [AtomicU64; SKIPS.len()],
    seen: Mutex<(ShadowCounts, VecDeque<ShadowDisagreement>)>,
}

/// One of [`SLOTS`] places, which is returned when this is dropped.
#[derive(Debug)]
struct ShadowSlot(Arc<AtomicUsize>);

/// A query that will be compared if the live model answers it.
#[derive(Debug)]
pub struct ShadowTicket<Q> {
    query: Q,
    samples: Sender<ShadowSample<Q>>,
    tally: Arc<ShadowTally>,
    slot: ShadowSlot,
}

/// A query with its live answer.
#[derive(Debug)]
struct ShadowSample<Q> {
    query: Arc<Q>,
    id: DecisionId,
    live: ShadowDecision,
    _slot: ShadowSlot,
}

impl ShadowSlot {
    fn take(slots: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |taken: usize| (taken < SLOTS).then_some(taken + 1);
        let taken = slots.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Self(Arc::clone(slots)))
    }
}

impl Drop for ShadowSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ShadowTally {
    fn skip(&self, reason: Skip) {
        let mut counts = self.skipped.iter().zip(SKIPS);
        if let Some((count, name)) = counts.nth(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
            telemetry::shadow_skipped(&self.deployment, name);
        }
    }

    fn seen(&self) -> MutexGuard<'_, (ShadowCounts, VecDeque<ShadowDisagreement>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pair: Pair, disagreement: impl FnOnce() -> ShadowDisagreement) {
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

impl<Q> ShadowIntake<Q> {
    /// Takes a place at the shadow for a query, before the live model works on it; `None` if it is not sampled
    /// or is skipped. `waiting` is the number of requests that wait for the live model.
    fn ticket(&self, image: Option<impl FnOnce() -> Q>, waiting: usize) -> Option<ShadowTicket<Q>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !is_sampled(turn, self.about.share) {
            return None;
        }
        let taken = match image {
            None => Err(Skip::Embedding),
            Some(_) if 0 < waiting => Err(Skip::Busy),
            Some(image) => match ShadowSlot::take(&self.slots) {
                Some(slot) => Ok((image(), slot)),
                None => Err(Skip::Behind),
            },
        };
        let (query, slot) = taken.map_err(|reason| self.tally.skip(reason)).ok()?;
        Some(ShadowTicket {
            query,
            samples: self.samples.clone(),
            tally: Arc::clone(&self.tally),
            slot,
        })
    }
}

impl<Q> Drop for ShadowIntake<Q> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<Q> ShadowTicket<Q> {
    /// Passes the query on with its live answer. Never waits.
    pub fn offer(self, id: DecisionId, live: ShadowDecision) {
        let sample = ShadowSample {
            query: Arc::new(self.query),
            id,
            live,
            _slot: self.slot,
        };
        if self.samples.try_send(sample).is_err() {
            self.tally.skip(Skip::Behind);
        }
    }
}

impl<Q> Default for ShadowRunner<Q> {
    fn default() -> Self {
        Self {
            shadow: ArcSwapOption::empty(),
            threads: Mutex::default(),
        }
    }
}

impl<Q> ShadowRunner<Q> {
    /// Takes a place for a live query; `None` if there is no shadow, or if the query is not sampled or is
    /// skipped. `image` returns the query if it is an image; a vector belongs to the live model's space.
    /// `waiting` is the number of requests that wait for the live model.
    pub fn ticket(
        &self,
        image: Option<impl FnOnce() -> Q>,
        waiting: impl FnOnce() -> usize,
    ) -> Option<ShadowTicket<Q>> {
        let shadow = self.shadow.load();
        shadow.as_ref()?.ticket(image, waiting())
    }

    /// The right to open or end a shadow. Only one caller has it at a time, so that the last one counts.
    pub fn opening(&self) -> ShadowOpening<'_, Q> {
        ShadowOpening {
            shadow: &self.shadow,
            threads: self.threads.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The results so far, without what the queries showed; `None` without a shadow.
    #[must_use]
    pub fn report(&self, limit: usize) -> Option<ShadowReport> {
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

impl<Q> ShadowOpening<'_, Q> {
    /// Whether there is a shadow.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.shadow.load().is_some()
    }

    /// Ends the comparison. The shadow closes when its worker is done. Nobody waits for that, because at its
    /// low priority it can take seconds on a busy machine.
    pub fn end(&mut self) {
        if let Some(shadow) = self.shadow.swap(None) {
            shadow.stop.store(true, Ordering::Relaxed);
            telemetry::shadow_ended(metric_labels(&shadow));
        }
        self.threads.retain(|thread| !thread.is_finished());
    }
}

impl<Q: Send + Sync + 'static> ShadowOpening<'_, Q> {
    /// From now on, compares the answers of the deployment `name` with those of this shadow. `waiting` returns
    /// the number of requests that wait for the live model.
    ///
    /// # Errors
    /// Returns an error if its thread cannot be started.
    pub fn begin(
        &mut self,
        name: &str,
        waiting: impl Fn() -> usize + Send + 'static,
        candidate: Box<dyn ShadowDeployment<Q>>,
        about: ShadowAbout,
    ) -> Result<(), MonitorError> {
        let (samples, passed_on) = crossbeam_channel::bounded(SLOTS);
        let tally = Arc::new(ShadowTally {
            deployment: name.to_owned(),
            skipped: Default::default(),
            seen: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let comparer = ShadowComparer {
            candidate,
            waiting: Box::new(waiting),
            tally: Arc::clone(&tally),
            stop: Arc::clone(&stop),
            failed: false,
        };
        let started = thread::Builder::new()
            .name("shadow".to_owned())
            .spawn(move || comparer.run(&passed_on))
            .map_err(|cause| MonitorError::thread(&cause))?;
        self.end();
        self.threads.push(started);
        let shadow = ShadowIntake {
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

impl<Q> Drop for ShadowRunner<Q> {
    fn drop(&mut self) {
        let mut opening = self.opening();
        opening.end();
        // No thread may still be running when the process ends.
        for thread in opening.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread of a candidate panicked");
            }
        }
    }
}

fn metric_labels<Q>(shadow: &ShadowIntake<Q>) -> telemetry::ShadowLabels<'_> {
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

/// The thread of the shadow.
struct ShadowComparer<Q> {
    candidate: Box<dyn ShadowDeployment<Q>>,
    /// Returns the number of requests that wait for the live model.
    waiting: Box<dyn Fn() -> usize + Send>,
    tally: Arc<ShadowTally>,
    stop: Arc<AtomicBool>,
    /// Whether the shadow has ever failed.
    failed: bool,
}

impl<Q> ShadowComparer<Q> {
    fn run(mut self, samples: &Receiver<ShadowSample<Q>>) {
        let rests = !self.candidate.yields();
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

    /// The query's place is free again when this returns.
    fn compare(&mut self, sample: ShadowSample<Q>) {
        if 0 < (self.waiting)() {
            return self.tally.skip(Skip::Busy);
        }
        let ShadowSample {
            query,
            id,
            live,
            _slot,
        } = sample;
        // Freed here, and not on a thread that might be blocked for long.
        let shadow = match self.candidate.decide(Arc::clone(&query)) {
            Ok(shadow) => shadow,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    let deployment = &self.tally.deployment;
                    tracing::warn!(%error, deployment, "the candidate failed on a query; further ones are only counted");
                }
                return self.tally.skip(Skip::Failed);
            }
        };
        let best = match (live.label.as_str(), shadow.label.as_str()) {
            ("", _) => ShadowMatch::Nothing,
            (label, _) if !self.candidate.has_label(label) => ShadowMatch::Missing,
            (_, "") => ShadowMatch::Nothing,
            (label, found) if label == found => ShadowMatch::Same,
            _ => ShadowMatch::Other,
        };
        let pair = Pair {
            live: live.decision,
            shadow: shadow.decision,
            best,
        };
        self.tally.take(pair, || ShadowDisagreement {
            id,
            live,
            shadow,
            best,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use matchpoint_calibration::decision::Decision;

    fn shadow(share: f64) -> (ShadowIntake<()>, Receiver<ShadowSample<()>>) {
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
        let tally = ShadowTally {
            deployment: "shop".to_owned(),
            skipped: Default::default(),
            seen: Mutex::default(),
        };
        let shadow = ShadowIntake {
            about,
            samples,
            slots: Arc::default(),
            turn: AtomicU64::new(0),
            tally: Arc::new(tally),
            stop: Arc::default(),
        };
        (shadow, waiting)
    }

    fn image(shadow: &ShadowIntake<()>, waiting: usize) -> Option<ShadowTicket<()>> {
        shadow.ticket(Some(|| ()), waiting)
    }

    fn skipped(shadow: &ShadowIntake<()>) -> [u64; SKIPS.len()] {
        let skipped = &shadow.tally.skipped;
        std::array::from_fn(|at| skipped[at].load(Ordering::Relaxed))
    }

    fn undecided() -> ShadowDecision {
        ShadowDecision {
            decision: Decision::Undecided,
            label: String::new(),
            item: String::new(),
            score: 0.0,
            decision_score: None,
        }
    }

    #[test]
    fn two_queries_are_under_way_at_most_and_one_that_was_not_answered_gives_its_place_back() {
        let (shadow, waiting) = shadow(1.0);
        let first = image(&shadow, 0).unwrap();
        let second = image(&shadow, 0).unwrap();
        assert!(image(&shadow, 0).is_none());
        assert_eq!(skipped(&shadow), [0, 0, 1, 0]);

        // The caller has disconnected.
        drop(first);
        let third = image(&shadow, 0).unwrap();
        second.offer(DecisionId::fresh(), undecided());
        third.offer(DecisionId::fresh(), undecided());
        // Queries that were passed on keep their places until the shadow has finished them.
        assert!(image(&shadow, 0).is_none());
        assert_eq!(waiting.try_iter().count(), 2);
        assert!(image(&shadow, 0).is_some());
        assert_eq!(skipped(&shadow), [0, 0, 2, 0]);
    }

    #[test]
    fn what_cannot_be_passed_on_is_counted_and_gives_its_place_back() {
        let (shadow, waiting) = shadow(1.0);
        let ticket = image(&shadow, 0).unwrap();
        drop(waiting);
        ticket.offer(DecisionId::fresh(), undecided());
        assert_eq!(skipped(&shadow), [0, 0, 1, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn callers_who_wait_come_first_and_a_vector_is_of_the_live_models_space() {
        let (shadow, _waiting) = shadow(1.0);
        assert!(image(&shadow, 1).is_none());
        assert!(shadow.ticket(None::<fn()>, 0).is_none());
        assert_eq!(skipped(&shadow), [1, 1, 0, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_drawn_is_not_passed_on_and_nowhere_counted() {
        let (shadow, _waiting) = shadow(0.05);
        let drawn = (0..1_000).filter(|_| image(&shadow, 0).is_some());
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
            shadow.tally.take(pair, || ShadowDisagreement {
                id: *id,
                live: undecided(),
                shadow: undecided(),
                best: pair.best,
            });
        }
        let seen = shadow.tally.seen();
        let kept: Vec<DecisionId> = seen.1.iter().map(|one| one.id).collect();
        let latest: Vec<DecisionId> = ids.into_iter().rev().take(SHADOW_LATEST_MAX).collect();
        assert_eq!(kept, latest);
    }
}
