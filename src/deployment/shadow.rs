//! A candidate beside what is served: it embeds a share of the live queries and decides on them,
//! its decisions are compared with the live ones, and nothing is answered from it.
//!
//! Callers come first. A query is passed on only where none waits for the live model, and at most
//! two at a time; what cannot be is counted, and nobody waits for it. The candidate has a worker and a
//! session of its own, at the lowest priority that the system has.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::answer::{Hit, search_snapshot};
use super::{
    Deployment, DeploymentError, Models, OpenOptions, ProbeSource, Query, SearchOptions, Standing,
    Timings,
};
use crate::calibration::decision::Decision;
use crate::gallery::Access;
use crate::journal::entry::{DecisionId, Truth};
use crate::model::pool::{Kind, Pool};
use crate::monitoring::shadow::{Best, Pair, ShadowCounts, is_drawn};
use crate::telemetry;
use crate::vector::Similarity;

/// Queries that are under way to the candidate: one that it works on, and one that waits, so that
/// the memory for copies of images is bounded.
const SLOTS: usize = 2;
/// The latest disagreements that are kept to be looked at.
pub const SHADOW_LATEST_MAX: usize = 200;
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

/// What one side made of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// Label of the best match; empty where nothing was found.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its similarity.
    pub score: f32,
    /// What was held against the threshold; `None` when undecided, or where nothing was found.
    pub held: Option<f32>,
}

impl Outcome {
    pub(super) fn new(standing: &Standing, best: Option<&Hit>, held: Option<Similarity>) -> Self {
        Self {
            decision: standing.decide(held),
            label: best.map_or_else(String::new, |best| best.item.label.clone()),
            item: best.map_or_else(String::new, |best| best.item.id.clone()),
            score: best.map_or(0.0, |best| best.score.get()),
            held: standing.valid().and(held).map(Similarity::get),
        }
    }
}

/// A query that the two answer differently.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// Id of the decision that was answered.
    pub id: DecisionId,
    /// What was answered.
    pub live: Outcome,
    /// What the candidate would have answered.
    pub shadow: Outcome,
    /// Which label each found.
    pub best: Best,
}

/// The candidate.
#[derive(Clone, Debug)]
pub struct ShadowAbout {
    /// Its folder.
    pub path: PathBuf,
    /// Name of its model.
    pub model: String,
    /// The model's fingerprint.
    pub fingerprint: String,
    /// Which of the model's precisions.
    pub precision: String,
    /// The execution provider really in use.
    pub execution_provider: String,
    /// What decides in it; `None` where nothing does, and every decision is UNDECIDED.
    pub operating_point: Option<String>,
    /// Items in its gallery.
    pub gallery_items: usize,
    /// State of its gallery.
    pub generation: u64,
    /// The share of live queries that is drawn for it.
    pub share: f64,
}

/// How the candidate compares with what is served. Since it was opened: nothing is kept on disk.
#[derive(Clone, Debug)]
pub struct ShadowReport {
    /// The candidate.
    pub about: ShadowAbout,
    /// What came of the queries that both answered.
    pub counts: ShadowCounts,
    /// Drawn queries that were not compared, by reason.
    pub skipped: Vec<(&'static str, u64)>,
    /// The latest that the two answer differently, newest first, with what they showed where
    /// somebody has said so.
    pub latest: Vec<(Disagreement, Option<Truth>)>,
}

/// The place for one candidate. Its thread ends with it.
#[derive(Debug, Default)]
pub(super) struct Beside {
    shadow: ArcSwapOption<Shadow>,
    /// Held while a candidate is opened, so that the latest wins.
    thread: Mutex<Option<JoinHandle<()>>>,
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
    image: Vec<u8>,
    options: SearchOptions,
    samples: Sender<Sample>,
    tally: Arc<Tally>,
    slot: Slot,
}

/// A query with its live answer.
#[derive(Debug)]
struct Sample {
    image: Vec<u8>,
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
    /// it is not drawn, or is skipped. Nothing is copied then. `waiting` requests wait for the live
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
        live: &Pool,
    ) -> Option<Ticket> {
        let shadow = self.shadow.load();
        let shadow = shadow.as_ref()?;
        match probe {
            ProbeSource::Query(query) => shadow.ticket(query, options, live.queue_len()),
            ProbeSource::File(_) => None,
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the comparison and waits until the candidate is closed.
    fn end(&self, thread: &mut Option<JoinHandle<()>>) {
        if let Some(shadow) = self.shadow.swap(None) {
            shadow.stop.store(true, Ordering::Relaxed);
            telemetry::shadow_ended(metric_labels(&shadow));
        }
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a candidate panicked");
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let mut thread = self.thread().take();
        self.end(&mut thread);
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

/// The link beside the place of a deployment that leads to its candidate; `None` for a place
/// without a name.
#[must_use]
pub fn shadow_link(place: &Path) -> Option<PathBuf> {
    let mut name = place.file_name()?.to_owned();
    name.push(".shadow");
    Some(place.with_file_name(name))
}

fn refused(argument: &'static str, problem: &str) -> DeploymentError {
    DeploymentError::Argument {
        argument,
        problem: problem.to_owned(),
    }
}

/// Where the link leads; `None` where there is none.
fn led_to(link: &Path) -> Result<Option<PathBuf>, DeploymentError> {
    let refused = |problem: String| DeploymentError::Folder {
        path: link.to_owned(),
        problem,
    };
    match fs::symlink_metadata(link) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DeploymentError::io(link, &cause)),
        // A deployment that happens to have such a name is nobody's candidate.
        Ok(found) if !found.is_symlink() => {
            Err(refused("is no link, so it names no candidate".to_owned()))
        }
        Ok(_) => fs::canonicalize(link)
            .map(Some)
            .map_err(|cause| refused(format!("leads nowhere: {cause}"))),
    }
}

impl Deployment {
    /// Opens the candidate that the link beside `place` leads to, in place of the one there may be,
    /// and compares from now on. Ends the comparison where there is no link, or where it leads to
    /// what is served. Blocks.
    ///
    /// # Errors
    /// The candidate cannot be opened or embeds no images, or the share is 0. What was compared with
    /// before goes on.
    pub fn open_shadow(
        &self,
        place: &Path,
        mut models: Models,
        share: f64,
    ) -> Result<Option<ShadowAbout>, DeploymentError> {
        let mut thread = self.beside.thread();
        let link = shadow_link(place);
        let lead = || link.as_deref().map_or(Ok(None), led_to);
        let Some(folder) = lead()?.filter(|folder| *folder != self.path()) else {
            self.beside.end(&mut thread);
            return Ok(None);
        };
        let candidate = self.open_candidate(&folder, &mut models, share)?;
        // Who asked may have given up, and undone it.
        if lead()?.as_ref() != Some(&folder) {
            return Err(refused(
                "the link to the candidate",
                "was changed meanwhile",
            ));
        }
        let about = candidate.about(folder, share);
        let (samples, waiting) = crossbeam_channel::bounded(SLOTS);
        let tally = Arc::new(Tally {
            deployment: self.name.clone(),
            skipped: Default::default(),
            seen: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let comparer = Comparer {
            candidate,
            live: Arc::clone(&self.loaded.pool),
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
        self.beside.end(&mut thread);
        *thread = Some(started);
        let shadow = Shadow {
            about: about.clone(),
            samples,
            slots: Arc::default(),
            turn: AtomicU64::new(0),
            tally,
            stop,
        };
        telemetry::shadow_started(metric_labels(&shadow), Pair::all().map(labels), &SKIPS);
        self.beside.shadow.store(Some(Arc::new(shadow)));
        Ok(Some(about))
    }

    fn open_candidate(
        &self,
        folder: &Path,
        models: &mut Models,
        share: f64,
    ) -> Result<Self, DeploymentError> {
        if share <= 0.0 {
            let problem = "is 0, so nothing is compared; set it, and start the server anew";
            return Err(refused("shadow_share", problem));
        }
        let options = OpenOptions {
            name: Some(self.name.clone()),
            model: None,
            access: Access::ReadOnly,
        };
        let candidate = Self::open(folder, models, options)?;
        if !candidate.loaded.model.embeds_images() {
            let problem = "embeds no images: its vectors are made elsewhere";
            return Err(refused("the candidate", problem));
        }
        Ok(candidate)
    }

    /// Whether there is a candidate. Blocks while one is being opened.
    #[must_use]
    pub fn has_shadow(&self) -> bool {
        let _opening = self.beside.thread();
        self.beside.shadow.load().is_some()
    }

    /// Ends the comparison with a candidate, if there is one. Blocks until that is closed.
    pub fn end_shadow(&self) {
        self.beside.end(&mut self.beside.thread());
    }

    /// How the candidate compares so far, with at most `limit` of the latest disagreements; `None`
    /// where there is no candidate. Blocks.
    ///
    /// # Errors
    /// The journal is damaged, or the disk.
    pub fn shadow_report(&self, limit: usize) -> Result<Option<ShadowReport>, DeploymentError> {
        let Some(shadow) = self.beside.shadow.load_full() else {
            return Ok(None);
        };
        let tally = &shadow.tally;
        let (counts, latest) = {
            let seen = tally.seen();
            let latest: Vec<Disagreement> = seen.1.iter().take(limit).cloned().collect();
            (seen.0.clone(), latest)
        };
        let counted = tally.skipped.iter().zip(SKIPS);
        Ok(Some(ShadowReport {
            about: shadow.about.clone(),
            counts,
            skipped: counted
                .map(|(count, name)| (name, count.load(Ordering::Relaxed)))
                .collect(),
            latest: self.with_truths(latest)?,
        }))
    }

    fn about(&self, path: PathBuf, share: f64) -> ShadowAbout {
        let (model, snapshot) = (&self.loaded.model, self.gallery.snapshot());
        ShadowAbout {
            path,
            model: model.name().to_owned(),
            fingerprint: model.fingerprint().to_owned(),
            precision: model.precision().to_owned(),
            execution_provider: model.provider().to_owned(),
            operating_point: self
                .standing
                .load()
                .valid()
                .map(|point| point.id().to_owned()),
            gallery_items: snapshot.len(),
            generation: snapshot.generation(),
            share,
        }
    }

    /// What the candidate itself would have answered.
    fn outcome(&self, sample: &Arc<Sample>) -> Result<Outcome, DeploymentError> {
        let (snapshot, standing) = (self.gallery.snapshot(), self.standing.load_full());
        let (limits, query) = (self.limits, Arc::clone(sample));
        // Neither in its time nor in its result does it count as a request.
        self.loaded
            .pool
            .run_blocking(Kind::Image, move |embedder| {
                let timings = &mut Timings::default();
                let embedding = embedder.embed(&query.image, &limits)?.embedding;
                let (_, best) = search_snapshot(&snapshot, &embedding, &query.options, timings)?;
                let held = standing.held(&embedding, best.as_ref(), timings)?;
                Ok(Outcome::new(&standing, best.as_ref(), held))
            })?
    }
}

/// The thread that has the candidate.
struct Comparer {
    candidate: Deployment,
    /// The workers that answer callers.
    live: Arc<Pool>,
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
        let lower = |_: &mut _| rustix::process::setpriority_process(None, NICE).is_ok();
        let lowered = self.candidate.loaded.pool.run_blocking(Kind::Image, lower);
        lowered == Ok(true) && self.candidate.loaded.model.provider() == "cpu"
    }

    fn compare(&mut self, sample: Sample) {
        if 0 < self.live.queue_len() {
            return self.tally.skip(Skip::Busy);
        }
        // Freed here, and not by a thread that may be held up for long.
        let sample = Arc::new(sample);
        let shadow = match self.candidate.outcome(&sample) {
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
            ("", _) => Best::Nothing,
            (label, _) if !known.has_label(label) => Best::Missing,
            (_, "") => Best::Nothing,
            (label, found) if label == found => Best::Same,
            _ => Best::Other,
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let image = Query::Image(vec![1, 2, 3]);
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
        let image = Query::Image(vec![1, 2, 3]);
        let ticket = ask(&shadow, &image, 0).unwrap();
        drop(waiting);
        ticket.offer(DecisionId::fresh(), rejected());
        assert_eq!(skipped(&shadow), [0, 0, 1, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn callers_who_wait_come_first_and_a_vector_is_of_the_live_models_space() {
        let (shadow, _waiting) = shadow(1.0);
        assert!(ask(&shadow, &Query::Image(vec![1]), 1).is_none());
        assert!(ask(&shadow, &Query::Embedding(vec![1.0]), 0).is_none());
        assert_eq!(skipped(&shadow), [1, 1, 0, 0]);
        assert_eq!(shadow.slots.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_drawn_is_not_copied_and_nowhere_counted() {
        let (shadow, _waiting) = shadow(0.05);
        let image = Query::Image(vec![1]);
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
            best: Best::Other,
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

    #[test]
    fn the_link_to_a_candidate_stands_beside_the_place() {
        let link = |place: &str| shadow_link(Path::new(place));
        assert_eq!(link("/data/shop"), Some("/data/shop.shadow".into()));
        assert_eq!(link("shop/"), Some("shop.shadow".into()));
        assert_eq!(link("/"), None);
    }
}
