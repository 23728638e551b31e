//! A bounded pool of worker threads, each with an embedder of its own.
//!
//! A full queue answers at once, and so does one in which a job would wait beyond its deadline.
//! Clients take turns. A job whose caller has gone is not run, and a panic costs only the job that
//! it happened in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::embedder::Embedder;
use super::queue::{Pushed, Queue};
use super::{Model, ModelError};

/// The pool. Dropping it finishes the queued jobs, as [`Pool::shutdown`] does.
#[derive(Debug)]
pub struct Pool {
    model: Arc<Model>,
    queue: Arc<Queue<Job>>,
    queue_len_max: usize,
    worker_count: u32,
    /// What a job takes a worker, on average over the latest ones; 0 before the first.
    job_nanos: Arc<AtomicU64>,
    workers: RwLock<Vec<JoinHandle<()>>>,
}

/// Who asks, and how long an answer is of use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// A number for the client; clients take turns in the queue.
    pub client: u64,
    /// When the answer comes too late.
    pub deadline: Option<Instant>,
}

tokio::task_local! {
    static CALLER: Caller;
}

impl Caller {
    /// The one for whom the present task works; nobody in particular outside of [`Caller::scope`].
    #[must_use]
    pub fn current() -> Self {
        CALLER.try_with(|caller| *caller).unwrap_or_default()
    }

    /// Runs a future for this caller. Tasks that it spawns have to be told again.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CALLER.scope(self, future)
    }
}

/// Why a job was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full; try again later.
    #[error("all workers are busy and {queue_len_max} jobs are waiting already")]
    Busy {
        /// How many jobs may wait.
        queue_len_max: usize,
        /// About how long those that wait will take.
        retry_after: Duration,
    },
    /// The job would wait beyond its deadline.
    #[error(
        "the job would wait for {} ms, and its deadline is in {} ms",
        wait.as_millis(),
        left.as_millis()
    )]
    Late {
        /// About how long it would wait, and take.
        wait: Duration,
        /// How long the caller waits.
        left: Duration,
    },
    /// The pool is shut down.
    #[error("the worker pool is shut down")]
    Stopped,
    /// The job panicked.
    #[error("the job panicked; its message is in the log")]
    Panicked,
}

type Job = Box<dyn FnOnce(Turn<'_>) -> Fate + Send>;

/// What a job is told when it leaves the queue.
enum Turn<'a> {
    /// It is run.
    Run(&'a mut Embedder),
    /// It lost its place to another client; about how long what waits will take.
    Displaced(Duration),
}

/// What became of the worker's embedder.
enum Fate {
    Kept,
    /// The job was not run.
    Unused,
    /// A panic may have left it half changed.
    Suspect,
}

impl Pool {
    /// Starts `workers` threads (at least 1), before which at most `queue_len_max` jobs (at least
    /// 1) wait.
    ///
    /// # Errors
    /// Where a number is 0, a session cannot be made, or a thread cannot be started.
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
            queue: Arc::new(Queue::new(queue_len_max)),
            queue_len_max,
            worker_count: u32::try_from(workers).unwrap_or(u32::MAX),
            job_nanos: Arc::new(AtomicU64::new(0)),
            workers: RwLock::new(Vec::with_capacity(workers)),
        };
        for index in 0..workers {
            let (model, queue) = (Arc::clone(&pool.model), Arc::clone(&pool.queue));
            let job_nanos = Arc::clone(&pool.job_nanos);
            let embedder = model.embedder()?;
            let worker = thread::Builder::new()
                .name(format!("embed-{index}"))
                .spawn(move || work(&model, embedder, &queue, &job_nanos))
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

    /// Runs a job on the next free worker, within the caller's tracing span. Dropping the future
    /// before a worker has taken the job leaves it undone.
    ///
    /// # Errors
    /// [`PoolError::Busy`] where the queue is full, at once, or later where the place goes to a
    /// client that has fewer; [`PoolError::Late`] at once where the wait would outlast the caller's
    /// deadline; [`PoolError::Stopped`] after shutdown; [`PoolError::Panicked`] where the job
    /// panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Embedder) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let caller = Caller::current();
        if let Some(deadline) = caller.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = self.wait();
            if left < wait {
                return Err(PoolError::Late { wait, left });
            }
        }
        let (job, answer) = prepare(job, self.queue_len_max);
        match self.queue.push(caller.client, job) {
            Pushed::Waits => {}
            Pushed::InsteadOf(displaced) => drop(displaced(Turn::Displaced(self.wait()))),
            Pushed::Full(_job) => {
                return Err(PoolError::Busy {
                    queue_len_max: self.queue_len_max,
                    retry_after: self.wait(),
                });
            }
            Pushed::Closed(_job) => return Err(PoolError::Stopped),
        }
        answer.await.unwrap_or(Err(PoolError::Stopped))
    }

    /// About how long a job waits that comes now: what stands before it, at the latest pace. Zero
    /// where nothing waits.
    fn wait(&self) -> Duration {
        let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let each = Duration::from_nanos(self.job_nanos.load(Ordering::Relaxed));
        each.saturating_mul(waiting) / self.worker_count
    }

    /// As [`Pool::run`] for batch work outside of async code: waits for a place in the queue, then
    /// for the answer.
    ///
    /// # Errors
    /// As [`Pool::run`], but never [`PoolError::Busy`].
    ///
    /// # Panics
    /// Within an async task: blocking there would stall the tasks beside it.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Embedder) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (job, answer) = prepare(job, self.queue_len_max);
        self.queue
            .push_when_free(Caller::current().client, job)
            .map_err(|_stopped| PoolError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(PoolError::Stopped))
    }

    /// How many jobs wait for a worker, not counting those being run.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.queue.len()
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

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Adds a job's duration to the average. An update that is lost among workers costs one of many.
fn note(job_nanos: &AtomicU64, took: Duration) {
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let average = match job_nanos.load(Ordering::Relaxed) {
        0 => took,
        average => average - average / PACE + took / PACE,
    };
    job_nanos.store(average, Ordering::Relaxed);
}

/// Over about how many jobs their duration is averaged.
const PACE: u64 = 32;

/// Wraps a job so that it looks for its caller first, catches its panic and sends its answer.
fn prepare<T: Send + 'static>(
    job: impl FnOnce(&mut Embedder) -> T + Send + 'static,
    queue_len_max: usize,
) -> (Job, oneshot::Receiver<Result<T, PoolError>>) {
    let (answer, receiver) = oneshot::channel();
    let span = Span::current();
    let wrapped = move |turn: Turn<'_>| {
        let embedder = match turn {
            Turn::Run(embedder) => embedder,
            Turn::Displaced(retry_after) => {
                let busy = PoolError::Busy {
                    queue_len_max,
                    retry_after,
                };
                drop(answer.send(Err(busy)));
                return Fate::Unused;
            }
        };
        if answer.is_closed() {
            return Fate::Unused;
        }
        let _entered = span.enter();
        // A caller that has gone meanwhile needs no answer.
        match catch_unwind(AssertUnwindSafe(|| job(embedder))) {
            Ok(value) => {
                drop(answer.send(Ok(value)));
                Fate::Kept
            }
            Err(_message) => {
                drop(answer.send(Err(PoolError::Panicked)));
                Fate::Suspect
            }
        }
    };
    (Box::new(wrapped), receiver)
}

fn work(model: &Model, mut embedder: Embedder, queue: &Queue<Job>, job_nanos: &AtomicU64) {
    while let Some(job) = queue.pop() {
        let started = Instant::now();
        let fate = job(Turn::Run(&mut embedder));
        match fate {
            Fate::Unused => {}
            Fate::Kept => note(job_nanos, started.elapsed()),
            Fate::Suspect => match model.embedder() {
                Ok(fresh) => embedder = fresh,
                Err(cause) => {
                    tracing::error!(%cause, "no fresh session after a panic; the old one is kept");
                }
            },
        }
    }
}
