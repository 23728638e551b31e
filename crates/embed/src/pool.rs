//! A bounded pool of worker threads, each with an embedder of its own.
//!
//! A full queue answers at once, and so does one in which a job would not be done by its deadline.
//! Clients take turns. A job whose caller has gone, or whose time has run out, is not run, and a
//! panic costs only the job that it happened in. A thread cannot be ended from outside: a worker that does
//! not come back from its job is given up, and another one takes its place.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Model;
use super::appointments::Appointments;
use super::caller::{Caller, Cancellation};
use super::embedder::Embedder;
use super::error::ModelError;
use super::job::{JobKind, JobResult, PoolError, PoolJob, PoolWorker, micros};
use super::job_duration::JobDurations;
use super::queue::{ClientId, Pushed, Queue};
use super::seat::{RunningJob, Seat};

/// How long the end of a pool that nobody asks any more waits for a job that is being run: nobody waits for its result.
pub const ENDING_MAX: Duration = Duration::from_secs(2);

/// The pool. Dropping it ends it as [`WorkerPool::shutdown`] does, but waits two seconds at most for what is being run.
#[derive(Debug)]
pub struct WorkerPool {
    crew: Arc<Crew>,
    queue_len_max: usize,
    worker_count: u32,
    appointments: Appointments,
    workers: Mutex<Vec<Worker>>,
}

/// What all workers share.
#[derive(Debug)]
struct Crew {
    model: Arc<Model>,
    queue: Queue<PoolJob>,
    tally: PoolTally,
}

/// A worker that is not given up.
#[derive(Debug)]
struct Worker {
    at: Arc<Seat>,
    thread: JoinHandle<()>,
    /// Nothing is sent: it is closed when the thread ends.
    ended: Receiver<()>,
}

/// What workers have found out.
#[derive(Debug, Default)]
struct PoolTally {
    durations: JobDurations,
    gone: AtomicU64,
    late: AtomicU64,
    displaced: AtomicU64,
    stuck: AtomicU64,
    /// Workers that were given up, and are at their jobs still. Below zero for a moment, if one comes back before it
    /// is counted.
    stuck_now: AtomicI64,
}

/// Jobs that were queued and not done, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their callers had gone.
    pub gone: u64,
    /// They could not be done any more by their deadlines.
    pub late: u64,
    /// Their places went to clients that had fewer.
    pub displaced: u64,
    /// Their workers did not come back from them.
    pub stuck: u64,
}

impl WorkerPool {
    /// Starts `workers` threads (at least 1), before which at most `queue_len_max` jobs (at least
    /// 1) wait.
    ///
    /// # Errors
    /// If a number is 0, a session cannot be made, or a thread cannot be started.
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
            workers: Mutex::new(started),
        })
    }

    /// The model that the workers embed with.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.crew.model
    }

    /// Runs a job for a caller on the next free worker, within the present tracing span. If the future is
    /// dropped before a worker has taken the job, the job is not run.
    ///
    /// # Errors
    /// [`PoolError::Busy`] if the queue is full, at once, or later if the place goes to a
    /// client that has fewer; [`PoolError::Late`] if it would not be done by the caller's
    /// deadline, at once, or later if what stood before it took longer than was to be expected;
    /// [`PoolError::Stopped`] after shutdown; [`PoolError::Panicked`] if the job panicked.
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

    /// Refuses a job that would not be done by the caller's deadline; returns for others whether they are a
    /// trial.
    fn admit(&self, kind: JobKind, caller: Caller) -> Result<bool, PoolError> {
        let Some(deadline) = caller.deadline else {
            return Ok(false);
        };
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let (wait, own) = (
            self.wait(caller.client, kind),
            self.crew.tally.durations.least(kind),
        );
        if wait + own <= left && !left.is_zero() {
            return Ok(false);
        }
        if wait < left && self.crew.tally.durations.is_trial_due(kind, now) {
            return Ok(true);
        }
        let wait = wait + own;
        Err(PoolError::Late { wait, left })
    }

    /// About how long a new job of this client would wait: the jobs before it, at the latest durations.
    /// Zero if nothing waits.
    fn wait(&self, client: ClientId, kind: JobKind) -> Duration {
        let mut wait = Duration::ZERO;
        let durations = &self.crew.tally.durations;
        let own = micros(durations.cost(kind));
        // Large images never occupy all workers, so that others do not wait for them.
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
            retry_after: self.appointments.next(
                Instant::now(),
                self.wait(client, kind),
                self.crew.tally.durations.average(JobKind::Image) / self.worker_count,
            ),
        }
    }

    /// As [`WorkerPool::run`], for batch work outside of async code: waits for a place in the queue, then
    /// for the answer.
    ///
    /// # Errors
    /// As [`WorkerPool::run`], but never [`PoolError::Busy`].
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

    /// How many jobs wait for a worker, not counting those being run.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.crew.queue.len()
    }

    /// Jobs that were queued and not done, since the last call.
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
    /// places; to be called regularly. While as many as configured, and at least two, are given up, no
    /// other is started: they would take the processors from each other.
    pub fn give_up_after(&self, longest: Duration) {
        for worker in self.workers().iter_mut() {
            if let Some(job) = worker.at.give_up_after(longest) {
                self.crew.note_stuck(&job);
            }
            // Looked at each time: there may have been too many, or no room for another, and others have come back.
            let is_missing = worker.at.is_given_up() || worker.thread.is_finished();
            if !is_missing || self.is_worn_out() {
                continue;
            }
            // In its thread, since it takes a moment.
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

    /// Whether so many workers are stuck in their jobs that the process should be restarted.
    #[must_use]
    pub fn is_worn_out(&self) -> bool {
        i64::from(self.worker_count.max(2)) <= self.crew.tally.stuck_now.load(Ordering::Acquire)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more jobs, finishes those in the queue and ends the threads. Blocks until then, but for workers that
    /// were given up.
    pub fn shutdown(&self) {
        self.end(None);
    }

    /// Ends the threads, and waits for those that end until a time, if there is one.
    fn end(&self, latest: Option<Instant>) {
        // The workers leave when it is empty.
        self.crew.queue.close();
        let workers = std::mem::take(&mut *self.workers());
        for worker in workers {
            // A job may own the last handle to its pool; a thread cannot wait for itself.
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
    /// Waits for the end of its thread, until a time; whether it has ended.
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

    /// Whether a job that leaves the queue is still worth running.
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
            tracing::error!(seconds, kind = ?job.kind, client = job.client, stuck,
                "a worker does not come back from its job, and is given up");
        });
    }

    /// Starts a thread that does jobs with an embedder that is made there.
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
                // Another one has its place.
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
