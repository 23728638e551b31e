//! A job on its way through the queue, and the caller that waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Span;

use super::caller::Cancellation;
use super::embedder::{Embedded, Embedder};
use super::error::EmbedError;
use super::queue::{ClientId, Queued};
use crate::pixels::ImageLimits;

/// What a job does, which determines how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Decodes an image and runs the model.
    Image,
    /// The same, of an image that takes many times as long to decode, by what its header says.
    LargeImage,
    /// Does neither.
    Vector,
}

impl JobKind {
    /// The one of two that takes longer.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::LargeImage, _) | (_, Self::LargeImage) => Self::LargeImage,
            (Self::Image, _) | (_, Self::Image) => Self::Image,
            (Self::Vector, Self::Vector) => Self::Vector,
        }
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

/// A time as the queue counts it.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What waits in the queue.
pub(super) struct PoolJob {
    pub(super) client: ClientId,
    pub(super) kind: JobKind,
    /// About how long it takes, by its kind; zero if that is not known yet.
    pub(super) cost: Duration,
    pub(super) cancellation: Cancellation,
    /// Whether it is run although there seems to be too little time.
    pub(super) trial: bool,
    /// The span of its call.
    pub(super) span: Span,
    work: Box<dyn JobWork>,
}

impl Queued for PoolJob {
    fn is_over(&self) -> bool {
        self.cancellation.is_over()
    }

    fn cost(&self) -> u64 {
        micros(self.cost)
    }

    fn is_expensive(&self) -> bool {
        self.kind == JobKind::LargeImage
    }
}

/// A worker while it does one job: its embedder, and whether the job's answer is still useful.
pub struct PoolWorker<'a> {
    embedder: &'a mut Embedder,
    cancellation: &'a Cancellation,
    /// Whether an image was abandoned, since nobody waited for it any more.
    gave_up: bool,
}

impl PoolWorker<'_> {
    /// [`Embedder::embed`], as long as somebody waits for the job.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed(&mut self, image: &[u8], limits: &ImageLimits) -> Result<Embedded, EmbedError> {
        let embedded = self.embedder.embed(image, limits, self.cancellation);
        self.gave_up |= matches!(embedded, Err(EmbedError::GivenUp));
        embedded
    }

    /// [`Embedder::dimension`].
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.embedder.dimension()
    }
}

/// What became of a job and of the worker's embedder.
pub(super) enum JobResult {
    Done,
    /// Nobody waited for it any more: its duration does not count.
    GivenUp,
    /// A panic may have left it half changed.
    Suspect,
}

impl PoolJob {
    /// Wraps work so that it catches its panic and sends its answer.
    pub(super) fn new<T: Send + 'static>(
        client: ClientId,
        kind: JobKind,
        cancellation: Cancellation,
        trial: bool,
        work: impl FnOnce(&mut PoolWorker<'_>) -> T + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, PoolError>>) {
        let (answer, receiver) = oneshot::channel();
        let span = Span::current();
        let job = Self {
            client,
            kind,
            cost: Duration::ZERO,
            cancellation,
            trial,
            span: span.clone(),
            work: Box::new(Prepared { work, answer, span }),
        };
        (job, receiver)
    }

    /// The same job, with the time that it is expected to take.
    pub(super) fn costing(self, cost: Duration) -> Self {
        Self { cost, ..self }
    }

    /// Does the work.
    pub(super) fn run(self, embedder: &mut Embedder) -> JobResult {
        let mut worker = PoolWorker {
            embedder,
            cancellation: &self.cancellation,
            gave_up: false,
        };
        self.work.run(&mut worker)
    }

    /// Answers without doing the work.
    pub(super) fn refuse(self, error: PoolError) {
        self.work.refuse(error);
    }
}

trait JobWork: Send {
    fn run(self: Box<Self>, worker: &mut PoolWorker<'_>) -> JobResult;
    fn refuse(self: Box<Self>, error: PoolError);
}

struct Prepared<F, T> {
    work: F,
    answer: oneshot::Sender<Result<T, PoolError>>,
    span: Span,
}

impl<F: FnOnce(&mut PoolWorker<'_>) -> T + Send, T: Send> JobWork for Prepared<F, T> {
    fn run(self: Box<Self>, worker: &mut PoolWorker<'_>) -> JobResult {
        let Self { work, answer, span } = *self;
        let _entered = span.enter();
        // A caller that has gone meanwhile needs no answer.
        match catch_unwind(AssertUnwindSafe(|| work(worker))) {
            Ok(value) => {
                drop(answer.send(Ok(value)));
                if worker.gave_up {
                    JobResult::GivenUp
                } else {
                    JobResult::Done
                }
            }
            Err(_message) => {
                drop(answer.send(Err(PoolError::Panicked)));
                JobResult::Suspect
            }
        }
    }

    fn refuse(self: Box<Self>, error: PoolError) {
        drop(self.answer.send(Err(error)));
    }
}
