//! A job in the queue, and the caller that waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Span;

use super::caller::{Cancellation, ClientId};
use super::embedder::{Embedded, Embedder};
use super::error::EmbedError;
use super::turns::Queued;
use crate::pixels::ImageLimits;

/// The kind of a job, which determines how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Decodes an image and runs the model.
    Image,
    /// Like `Image`, for an image that takes many times as long to decode, judged by its header.
    LargeImage,
    /// Does neither: the query is a vector.
    Vector,
}

impl JobKind {
    /// The one that takes longer.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::LargeImage, _) | (_, Self::LargeImage) => Self::LargeImage,
            (Self::Image, _) | (_, Self::Image) => Self::Image,
            (Self::Vector, Self::Vector) => Self::Vector,
        }
    }
}

/// The reasons why a job was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full; try again later.
    #[error("all workers are busy and {queue_len_max} jobs are waiting already")]
    Busy {
        /// The highest number of waiting jobs.
        queue_len_max: usize,
        /// The estimated time until the waiting jobs are done.
        retry_after: Duration,
    },
    /// The job would wait for long, as others of its caller have for a while; try again later.
    #[error("the job would wait for {} ms, and others of its caller have waited as long for a while", wait.as_millis())]
    Delayed {
        /// The estimated time of waiting.
        wait: Duration,
        /// The estimated time until the waiting jobs are done.
        retry_after: Duration,
    },
    /// The job would not be done by its deadline.
    #[error(
        "the job would wait for {} ms, and its deadline is in {} ms",
        wait.as_millis(),
        left.as_millis()
    )]
    Late {
        /// The estimated time of waiting and running.
        wait: Duration,
        /// The time left until the deadline.
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

/// A job in the queue.
pub(super) struct PoolJob {
    pub(super) client: ClientId,
    pub(super) kind: JobKind,
    /// The estimated time that it takes, by its kind; zero if that is not known yet.
    pub(super) cost: Duration,
    pub(super) cancellation: Cancellation,
    /// Whether it is run although there seems to be too little time, to measure its duration.
    pub(super) trial: bool,
    /// The tracing span of its call.
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

/// A worker during one job: its embedder, and whether the answer is still useful.
pub struct PoolWorker<'a> {
    embedder: &'a mut Embedder,
    cancellation: &'a Cancellation,
    /// Whether an image was abandoned because nobody waited for it any more.
    gave_up: bool,
}

impl PoolWorker<'_> {
    /// Calls [`Embedder::embed`], as long as somebody waits for the job.
    ///
    /// # Errors
    /// Returns the errors of [`Embedder::embed`].
    pub fn embed(&mut self, image: &[u8], limits: &ImageLimits) -> Result<Embedded, EmbedError> {
        let embedded = self.embedder.embed(image, limits, self.cancellation);
        self.gave_up |= matches!(embedded, Err(EmbedError::GivenUp));
        embedded
    }

    /// Calls [`Embedder::dimension`].
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.embedder.dimension()
    }
}

/// The outcome of a job for the worker.
pub(super) enum JobResult {
    Done,
    /// Nobody waited for the job any more, so its duration is not counted.
    GivenUp,
    /// The job panicked, so the embedder may be in an inconsistent state.
    Suspect,
}

impl PoolJob {
    /// Wraps work so that its panic is caught and its result is sent to the caller.
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

    /// Runs the work.
    pub(super) fn run(self, embedder: &mut Embedder) -> JobResult {
        let mut worker = PoolWorker {
            embedder,
            cancellation: &self.cancellation,
            gave_up: false,
        };
        self.work.run(&mut worker)
    }

    /// Answers without running the work.
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
        // A caller that has disconnected needs no answer.
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
