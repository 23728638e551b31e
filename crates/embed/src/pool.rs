//! A bounded pool of worker threads, each with an embedder of its own.
//!
//! A full queue answers at once, and so does one in which a job would not be done by its deadline.
//! Clients take turns. A job whose caller has gone, or whose time has run out, is not run, and a
//! panic costs only the job that it happened in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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

/// The pool. Dropping it finishes the queued jobs, as [`WorkerPool::shutdown`] does.
#[derive(Debug)]
pub struct WorkerPool {
    model: Arc<Model>,
    queue: Arc<Queue<PoolJob>>,
    queue_len_max: usize,
    worker_count: u32,
    tally: Arc<PoolTally>,
    appointments: Appointments,
    workers: RwLock<Vec<JoinHandle<()>>>,
}

/// What workers have found out.
#[derive(Debug, Default)]
struct PoolTally {
    durations: JobDurations,
    gone: AtomicU64,
    late: AtomicU64,
    displaced: AtomicU64,
}

/// Jobs that were queued and not run, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their callers had gone.
    pub gone: u64,
    /// They could not be done any more by their deadlines.
    pub late: u64,
    /// Their places went to clients that had fewer.
    pub displaced: u64,
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
        let pool = Self {
            model,
            queue: Arc::new(Queue::new(queue_len_max, workers)),
            queue_len_max,
            worker_count: u32::try_from(workers).unwrap_or(u32::MAX),
            tally: Arc::default(),
            appointments: Appointments::default(),
            workers: RwLock::new(Vec::with_capacity(workers)),
        };
        for index in 0..workers {
            let (model, queue) = (Arc::clone(&pool.model), Arc::clone(&pool.queue));
            let tally = Arc::clone(&pool.tally);
            let embedder = model.embedder()?;
            let worker = thread::Builder::new()
                .name(format!("embed-{index}"))
                .spawn(move || work(&model, embedder, &queue, &tally))
                .map_err(|cause| ModelError::Thread { cause })?;
            pool.workers
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .push(worker);
        }
        Ok(pool)
    }

    /// The model that the workers embed with.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Runs a job for a caller on the next free worker, within the present tracing span. Dropping the
    /// future before a worker has taken the job leaves it undone.
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
        let job = job.costing(self.tally.durations.cost(kind));
        let mut over = Vec::new();
        let pushed = self.queue.push(caller.client, job, &mut over);
        over.into_iter().for_each(|job| self.tally.drop_unused(job));
        match pushed {
            Pushed::Waits => {}
            Pushed::InsteadOf(displaced) => {
                self.tally.displaced.fetch_add(1, Ordering::Relaxed);
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

    /// Refuses what would not be done by the caller's deadline, and says of what is not refused
    /// whether it is a trial.
    fn admit(&self, kind: JobKind, caller: Caller) -> Result<bool, PoolError> {
        let Some(deadline) = caller.deadline else {
            return Ok(false);
        };
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let (wait, own) = (
            self.wait(caller.client, kind),
            self.tally.durations.least(kind),
        );
        if wait + own <= left && !left.is_zero() {
            return Ok(false);
        }
        if wait < left && self.tally.durations.is_trial_due(kind, now) {
            return Ok(true);
        }
        let wait = wait + own;
        Err(PoolError::Late { wait, left })
    }

    /// About how long a job of this client waits that comes now: what stands before it, at the
    /// latest durations. Zero if nothing waits.
    fn wait(&self, client: ClientId, kind: JobKind) -> Duration {
        let mut wait = Duration::ZERO;
        let durations = &self.tally.durations;
        let own = micros(durations.cost(kind));
        // Large images never have all workers, so that others do not wait for them.
        let apart = 1 < self.worker_count && kind != JobKind::LargeImage;
        self.queue.ahead(client, own, |job| {
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
                self.tally.durations.average(JobKind::Image) / self.worker_count,
            ),
        }
    }

    /// As [`WorkerPool::run`] for batch work outside of async code: waits for a place in the queue, then
    /// for the answer.
    ///
    /// # Errors
    /// As [`WorkerPool::run`], but never [`PoolError::Busy`].
    ///
    /// # Panics
    /// Within an async task: blocking there would stall the tasks beside it.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        caller: Caller,
        kind: JobKind,
        job: impl FnOnce(&mut PoolWorker<'_>) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (cancellation, present) = Cancellation::of(caller);
        let (job, answer) = PoolJob::new(caller.client, kind, cancellation, false, job);
        let job = job.costing(self.tally.durations.cost(kind));
        self.queue
            .push_when_free(caller.client, job)
            .map_err(|_stopped| PoolError::Stopped)?;
        let answer = answer.blocking_recv();
        drop(present);
        answer.unwrap_or(Err(PoolError::Stopped))
    }

    /// How many jobs wait for a worker, not counting those being run.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Jobs that were queued and not run, since this was last asked.
    #[must_use]
    pub fn take_dropped(&self) -> Dropped {
        let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Dropped {
            gone: taken(&self.tally.gone),
            late: taken(&self.tally.late),
            displaced: taken(&self.tally.displaced),
        }
    }

    /// Takes no more jobs, finishes those in the queue and ends the threads. Blocks until then.
    pub fn shutdown(&self) {
        // The workers leave when it is empty.
        self.queue.close();
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.drain(..) {
            // A job may own the last handle to its pool; a thread cannot wait for itself.
            if worker.thread().id() != thread::current().id() && worker.join().is_err() {
                tracing::error!("a worker thread panicked outside of a job");
            }
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl PoolTally {
    /// Counts a job that is of no use any more, and answers if somebody still listens.
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

    /// Whether a job that leaves the queue is worth beginning.
    fn is_worth(&self, job: &PoolJob) -> bool {
        if job.cancellation.is_over() {
            return false;
        }
        let least = self.durations.least(job.kind);
        job.trial || job.cancellation.left().is_none_or(|left| least <= left)
    }
}

fn work(model: &Model, mut embedder: Embedder, queue: &Queue<PoolJob>, tally: &PoolTally) {
    while let Some(job) = queue.pop() {
        if !tally.is_worth(&job) {
            if job.kind == JobKind::LargeImage {
                queue.dear_done();
            }
            tally.drop_unused(job);
            continue;
        }
        let (kind, started) = (job.kind, Instant::now());
        let result = job.run(&mut embedder);
        if kind == JobKind::LargeImage {
            queue.dear_done();
        }
        match result {
            JobResult::GivenUp => {}
            JobResult::Done => tally
                .durations
                .record(kind, started.elapsed(), Instant::now()),
            JobResult::Suspect => match model.embedder() {
                Ok(fresh) => embedder = fresh,
                Err(cause) => {
                    tracing::error!(%cause, "no fresh session after a panic; the old one is kept");
                }
            },
        }
    }
}
