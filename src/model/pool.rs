//! A bounded pool of worker threads, each with an embedder of its own.
//!
//! A full queue answers at once, a job whose caller has gone is not run, and a panic costs only
//! the job that it happened in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;
use tracing::Span;

use super::embedder::Embedder;
use super::{Model, ModelError};

/// The pool. Dropping it finishes the queued jobs, as [`Pool::shutdown`] does.
#[derive(Debug)]
pub struct Pool {
    model: Arc<Model>,
    /// `None` once the pool is shut down.
    queue: RwLock<Option<Sender<Job>>>,
    queue_len_max: usize,
    workers: RwLock<Vec<JoinHandle<()>>>,
}

/// Why a job was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full; try again later.
    #[error("all workers are busy and {queue_len_max} jobs are waiting already")]
    Busy {
        /// How many jobs may wait.
        queue_len_max: usize,
    },
    /// The pool is shut down.
    #[error("the worker pool is shut down")]
    Stopped,
    /// The job panicked.
    #[error("the job panicked; its message is in the log")]
    Panicked,
}

type Job = Box<dyn FnOnce(&mut Embedder) -> Fate + Send>;

/// What became of the worker's embedder.
enum Fate {
    Kept,
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
        let (queue, jobs) = crossbeam_channel::bounded(queue_len_max);
        let pool = Self {
            model,
            queue: RwLock::new(Some(queue)),
            queue_len_max,
            workers: RwLock::new(Vec::with_capacity(workers)),
        };
        for index in 0..workers {
            let (model, jobs) = (Arc::clone(&pool.model), jobs.clone());
            let embedder = model.embedder()?;
            let worker = thread::Builder::new()
                .name(format!("embed-{index}"))
                .spawn(move || work(&model, embedder, &jobs))
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
    /// [`PoolError::Busy`] at once where the queue is full; [`PoolError::Stopped`] after shutdown;
    /// [`PoolError::Panicked`] where the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Embedder) -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (job, answer) = prepare(job);
        self.queue()?
            .try_send(job)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => PoolError::Busy {
                    queue_len_max: self.queue_len_max,
                },
                TrySendError::Disconnected(_) => PoolError::Stopped,
            })?;
        answer.await.unwrap_or(Err(PoolError::Stopped))
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
        let (job, answer) = prepare(job);
        self.queue()?
            .send(job)
            .map_err(|_stopped| PoolError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(PoolError::Stopped))
    }

    /// How many jobs wait for a worker, not counting those being run.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.queue().map_or(0, |queue| queue.len())
    }

    /// Takes no more jobs, finishes those in the queue and ends the threads. Blocks until then.
    pub fn shutdown(&self) {
        // The workers leave when the queue is empty and its last sender gone.
        drop(
            self.queue
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.drain(..) {
            // A job may own the last handle to its pool; a thread cannot wait for itself.
            if worker.thread().id() != thread::current().id() && worker.join().is_err() {
                tracing::error!("a worker thread panicked outside of a job");
            }
        }
    }

    fn queue(&self) -> Result<Sender<Job>, PoolError> {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        queue.clone().ok_or(PoolError::Stopped)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Wraps a job so that it looks for its caller first, catches its panic and sends its answer.
fn prepare<T: Send + 'static>(
    job: impl FnOnce(&mut Embedder) -> T + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, PoolError>>) {
    let (answer, receiver) = oneshot::channel();
    let span = Span::current();
    let wrapped = move |embedder: &mut Embedder| {
        if answer.is_closed() {
            return Fate::Kept;
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

fn work(model: &Model, mut embedder: Embedder, jobs: &Receiver<Job>) {
    for job in jobs {
        match job(&mut embedder) {
            Fate::Kept => {}
            Fate::Suspect => match model.embedder() {
                Ok(fresh) => embedder = fresh,
                Err(cause) => {
                    tracing::error!(%cause, "no fresh session after a panic; the old one is kept");
                }
            },
        }
    }
}
