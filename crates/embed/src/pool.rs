//! A pool of worker threads with a bounded queue. Each worker has its own embedder.
//!
//! A job is refused immediately if the queue is full or if it would not be done by its deadline. Clients take
//! turns. A job is not run if its caller has disconnected or its deadline has passed, and a panic affects only
//! the job in which it occurs. A thread cannot be ended from outside, so a worker that does not return from its
//! job is given up, and another one takes its place.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Model;
use super::appointments::Appointments;
use super::caller::{Caller, Cancellation, ClientId};
use super::embedder::Embedder;
use super::error::ModelError;
use super::job::{JobKind, JobResult, PoolError, PoolJob, PoolWorker, micros};
use super::job_duration::JobDurations;
use super::queue::{Pushed, Queue};
use super::seat::{RunningJob, Seat};
use super::standing::StandingDelays;

/// How long the end of a dropped pool waits for running jobs, whose results nobody needs.
pub const ENDING_MAX: Duration = Duration::from_secs(2);

/// The pool. Dropping it ends it like [`WorkerPool::shutdown`], but waits at most two seconds for running jobs.
#[derive(Debug)]
pub struct WorkerPool {
    crew: Arc<Crew>,
    queue_len_max: usize,
    worker_count: u32,
    appointments: Appointments,
    /// `None` if prompt callers may wait as long as all others.
    delays: Option<StandingDelays>,
    workers: Mutex<Vec<Worker>>,
}

/// The state that all workers share.
#[derive(Debug)]
struct Crew {
    model: Arc<Model>,
    queue: Queue<PoolJob>,
    tally: PoolTally,
}

/// A worker that has not been given up.
#[derive(Debug)]
struct Worker {
    at: Arc<Seat>,
    thread: JoinHandle<()>,
    /// Nothing is sent; the channel is closed when the thread ends.
    ended: Receiver<()>,
}

/// The counts and measurements of all workers.
#[derive(Debug, Default)]
struct PoolTally {
    durations: JobDurations,
    gone: AtomicU64,
    late: AtomicU64,
    displaced: AtomicU64,
    stuck: AtomicU64,
    /// Number of workers that were given up and are still running their jobs. It can be negative for a moment,
    /// if one returns before it is counted.
    stuck_now: AtomicI64,
}

/// Numbers of jobs that were queued and not done, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their callers had disconnected.
    pub gone: u64,
    /// They could no longer be done by their deadlines.
    pub late: u64,
    /// Their places were given to clients that had fewer.
    pub displaced: u64,
    /// Their workers did not return from them.
    pub stuck: u64,
}

impl WorkerPool {
    /// Starts `workers` threads (at least 1) with a queue for at most `queue_len_max` jobs (at least 1).
    ///
    /// # Errors
    /// Returns an error if a number is 0, if a session cannot be made, or if a thread cannot be started.
    pub fn start(
        model: Arc<Model>,
        workers: usize,
        queue_len_max: usize,
    ) -> Result<Self, ModelError> {
        if workers == 0 || queue_len_max == 0 {
            return Err(ModelError::EmptyPool {
                workers,
                queue_len_max,
            });
        }
        let crew = Arc::new(Crew {
            queue: Queue::new(queue_len_max, workers),
            tally: PoolTally::default(),
            model,
        });
        let mut started = Vec::with_capacity(workers);
        for _ in 0..workers {
            let embedder = crew.model.embedder()?;
            let worker = crew.worker(move |_| Some(embedder));
            started.push(worker.map_err(|cause| ModelError::Thread { cause })?);
        }
        Ok(Self {
            crew,
            queue_len_max,
            worker_count: u32::try_from(workers).unwrap_or(u32::MAX),
            appointments: Appointments::default(),
            delays: None,
            workers: Mutex::new(started),
        })
    }

    /// The same pool, which lets jobs of prompt callers wait beyond this time only in bursts.
    #[must_use]
    pub fn with_delay_at_most(mut self, target: Duration) -> Self {
        self.delays = Some(StandingDelays::beyond(target));
        self
    }

    /// The model that the workers embed with.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.crew.model
    }

    /// Runs a job for a caller on the next free worker, within the current tracing span. If the future is
    /// dropped before a worker has taken the job, the job is not run.
    ///
    /// # Errors
    /// Returns [`PoolError::Busy`] if the queue is full, or if the place is later given to a client that has
    /// fewer. Returns [`PoolError::Delayed`] if the caller is prompt, and its jobs have waited for long for a
    /// while. Returns [`PoolError::Late`] if the job would not be done by the caller's deadline, or if earlier
    /// jobs took longer than expected. Returns [`PoolError::Stopped`] after shutdown, and
    /// [`PoolError::Panicked`] if the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        kind: JobKind,
        job: impl FnOnce(&mut PoolWorker<'_>) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let trial = self.admit(kind, caller)?;
        let (cancellation, present) = Cancellation::of(caller);
        let (job, answer) = PoolJob::new(caller.client, kind, cancellation, trial, job);
        let job = job.costing(self.crew.tally.durations.cost(kind));
        let mut over = Vec::new();
        let pushed = self.crew.queue.push(caller.client, job, &mut over);
        over.into_iter()
            .for_each(|job| self.crew.tally.drop_unused(job));
        match pushed {
            Pushed::Waits => {}
            Pushed::InsteadOf(displaced) => {
                self.crew.tally.displaced.fetch_add(1, Ordering::Relaxed);
                let busy = self.busy(displaced.client, displaced.kind);
                displaced.refuse(busy);
            }
            Pushed::Full(_job) => return Err(self.busy(caller.client, kind)),
            Pushed::Closed(_job) => return Err(PoolError::Stopped),
        }
        let answer = answer.await;
        drop(present);
        answer.unwrap_or(Err(PoolError::Stopped))
    }

    /// Refuses a job that would not be done by the caller's deadline, or that would wait for too long for a prompt
    /// caller. Returns whether an admitted job is a trial.
    fn admit(&self, kind: JobKind, caller: Caller) -> Result<bool, PoolError> {
        if caller.deadline.is_none() && !caller.prompt {
            return Ok(false);
        }
        let (now, wait) = (Instant::now(), self.wait(caller.client, kind));
        let durations = &self.crew.tally.durations;
        if let Some(delays) = self.delays.as_ref().filter(|_| caller.prompt)
            && !delays.accepts(caller.client, wait, durations.cost(kind), now)
        {
            let retry_after = self.retry_after(wait, now);
            return Err(PoolError::Delayed { wait, retry_after });
        }
        let Some(deadline) = caller.deadline else {
            return Ok(false);
        };
        let left = deadline.saturating_duration_since(now);
        let own = durations.least(kind);
        if wait + own <= left && !left.is_zero() {
            return Ok(false);
        }
        if wait < left && durations.is_trial_due(kind, now) {
            return Ok(true);
        }
        let wait = wait + own;
        Err(PoolError::Late { wait, left })
    }

    /// The estimated time that a new job of this client would wait: the duration of all jobs before it. Zero if
    /// nothing waits.
    fn wait(&self, client: ClientId, kind: JobKind) -> Duration {
        let mut wait = Duration::ZERO;
        let durations = &self.crew.tally.durations;
        let own = micros(durations.cost(kind));
        // Large images never occupy all workers, so other jobs do not wait for them.
        let apart = 1 < self.worker_count && kind != JobKind::LargeImage;
        self.crew.queue.ahead(client, own, |job| {
            if !(apart && job.kind == JobKind::LargeImage) {
                wait = wait.saturating_add(durations.average(job.kind));
            }
        });
        wait / self.worker_count
    }

    fn busy(&self, client: ClientId, kind: JobKind) -> PoolError {
        PoolError::Busy {
            queue_len_max: self.queue_len_max,
            retry_after: self.retry_after(self.wait(client, kind), Instant::now()),
        }
    }

    /// When a caller that would wait so long should come back.
    fn retry_after(&self, wait: Duration, now: Instant) -> Duration {
        let pace = self.crew.tally.durations.average(JobKind::Image) / self.worker_count;
        self.appointments.next(now, wait, pace)
    }

    /// Like [`WorkerPool::run`], for batch work outside of async code: waits for a place in the queue, and then
    /// for the answer.
    ///
    /// # Errors
    /// Returns the errors of [`WorkerPool::run`], except [`PoolError::Busy`].
    ///
    /// # Panics
    /// Within an async task: blocking there would stall other tasks.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        caller: Caller,
        kind: JobKind,
        job: impl FnOnce(&mut PoolWorker<'_>) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (cancellation, present) = Cancellation::of(caller);
        let (job, answer) = PoolJob::new(caller.client, kind, cancellation, false, job);
        let job = job.costing(self.crew.tally.durations.cost(kind));
        self.crew
            .queue
            .push_when_free(caller.client, job)
            .map_err(|_stopped| PoolError::Stopped)?;
        let answer = answer.blocking_recv();
        drop(present);
        answer.unwrap_or(Err(PoolError::Stopped))
    }

    /// The number of jobs that wait for a worker, without running ones.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.crew.queue.len()
    }

    /// The jobs that were queued and not done since the last call.
    #[must_use]
    pub fn take_dropped(&self) -> Dropped {
        let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Dropped {
            gone: taken(&self.crew.tally.gone),
            late: taken(&self.crew.tally.late),
            displaced: taken(&self.crew.tally.displaced),
            stuck: taken(&self.crew.tally.stuck),
        }
    }

    /// Gives up workers that have been busy with one job for at least `longest`, and starts others in their
    /// places. It has to be called regularly. If the number given up reaches the configured number of workers,
    /// and at least two, no more are started, because they would compete for the processors.
    pub fn give_up_after(&self, longest: Duration) {
        for worker in self.workers().iter_mut() {
            if let Some(job) = worker.at.give_up_after(longest) {
                self.crew.note_stuck(&job);
            }
            // Checked each time, because there may have been too many stuck workers or too little memory
            // before, and others may have returned.
            let is_missing = worker.at.is_given_up() || worker.thread.is_finished();
            if !is_missing || self.is_worn_out() {
                continue;
            }
            // Made in the worker's thread, because it takes a moment.
            let fresh = |model: &Model| {
                let embedder = model.embedder();
                embedder
                    .inspect_err(|cause| tracing::error!(%cause, "no session for another worker"))
                    .ok()
            };
            match self.crew.worker(fresh) {
                Ok(another) => *worker = another,
                Err(cause) => tracing::error!(%cause, "no thread for another worker"),
            }
        }
    }

    /// Whether so many workers are stuck that the process should be restarted.
    #[must_use]
    pub fn is_worn_out(&self) -> bool {
        i64::from(self.worker_count.max(2)) <= self.crew.tally.stuck_now.load(Ordering::Acquire)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts no more jobs, finishes those in the queue, and ends the threads. Blocks until then, except for
    /// workers that were given up.
    pub fn shutdown(&self) {
        self.end(None);
    }

    /// Ends the threads, and waits for them until `latest`, if it is given.
    fn end(&self, latest: Option<Instant>) {
        // The workers end when the queue is empty.
        self.crew.queue.close();
        let workers = std::mem::take(&mut *self.workers());
        for worker in workers {
            // A job may own the last handle to its pool, and a thread cannot wait for itself.
            let is_own = worker.thread.thread().id() == thread::current().id();
            if is_own || worker.at.is_given_up() {
                continue;
            }
            if latest.is_some_and(|latest| !worker.ends_by(latest)) {
                tracing::warn!("a worker is still at a job when its pool ends, and is left at it");
            } else if worker.thread.join().is_err() {
                tracing::error!("a worker thread panicked outside of a job");
            }
        }
    }
}

impl Worker {
    /// Waits until `latest` for the thread to end; returns whether it has ended.
    fn ends_by(&self, latest: Instant) -> bool {
        let left = latest.saturating_duration_since(Instant::now());
        !matches!(
            self.ended.recv_timeout(left),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.end(Some(Instant::now() + ENDING_MAX));
    }
}

impl PoolTally {
    /// Counts a job that became useless, and answers if its caller still waits.
    fn drop_unused(&self, job: PoolJob) {
        if job.cancellation.is_gone() {
            self.gone.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.late.fetch_add(1, Ordering::Relaxed);
        let wait = self.durations.least(job.kind);
        let left = job.cancellation.left().unwrap_or_default();
        job.refuse(PoolError::Late { wait, left });
    }

    /// Whether a job that leaves the queue should still be run.
    fn is_worth(&self, job: &PoolJob) -> bool {
        if job.cancellation.is_over() {
            return false;
        }
        let least = self.durations.least(job.kind);
        job.trial || job.cancellation.left().is_none_or(|left| least <= left)
    }
}

impl Crew {
    /// Counts and logs a job whose worker was given up.
    fn note_stuck(&self, job: &RunningJob) {
        self.tally.stuck.fetch_add(1, Ordering::Relaxed);
        let stuck = 1 + self.tally.stuck_now.fetch_add(1, Ordering::AcqRel);
        if job.kind == JobKind::LargeImage {
            self.queue.expensive_done();
        }
        let seconds = job.started.elapsed().as_secs();
        job.span.in_scope(|| {
            tracing::error!(seconds, kind = ?job.kind, client = job.client.connection, stuck,
                "a worker does not come back from its job, and is given up");
        });
    }

    /// Starts a thread that runs jobs with an embedder that is made in the thread.
    fn worker(
        self: &Arc<Self>,
        embedder: impl FnOnce(&Model) -> Option<Embedder> + Send + 'static,
    ) -> std::io::Result<Worker> {
        let (crew, at) = (Arc::clone(self), Arc::<Seat>::default());
        let seat = Arc::clone(&at);
        let (ends, ended) = mpsc::channel();
        let work = move || {
            // Dropped last.
            let _ends: Sender<()> = ends;
            if let Some(embedder) = embedder(&crew.model) {
                crew.work(embedder, &seat);
            }
        };
        let thread = thread::Builder::new().name("embed".to_owned());
        Ok(Worker {
            at,
            thread: thread.spawn(work)?,
            ended,
        })
    }

    fn work(&self, mut embedder: Embedder, seat: &Seat) {
        let Self {
            model,
            queue,
            tally,
        } = self;
        while let Some(job) = queue.pop() {
            if !tally.is_worth(&job) {
                if job.kind == JobKind::LargeImage {
                    queue.expensive_done();
                }
                tally.drop_unused(job);
                continue;
            }
            let (kind, started) = (job.kind, seat.begin(&job));
            let result = job.run(&mut embedder);
            if !seat.end() {
                // Another worker has taken its place.
                tally.stuck_now.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!("a worker that was given up has come back after all, and ends");
                return;
            }
            if kind == JobKind::LargeImage {
                queue.expensive_done();
            }
            match result {
                JobResult::GivenUp => {}
                JobResult::Done => {
                    tally
                        .durations
                        .record(kind, started.elapsed(), Instant::now());
                }
                JobResult::Suspect => match model.embedder() {
                    Ok(fresh) => embedder = fresh,
                    Err(cause) => {
                        tracing::error!(%cause, "no fresh session after a panic; the old one is kept");
                    }
                },
            }
        }
    }
}
