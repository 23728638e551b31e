//! A piece of work on its way through the queue, and who waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Span;

use super::caller::Watch;
use super::embedder::Embedder;
use super::queue::{Client, Queued};

/// What a job does: its duration is a matter of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Decodes an image and runs the model.
    Image,
    /// Does neither.
    Vector,
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

/// What waits in the queue.
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) kind: Kind,
    pub(super) watch: Watch,
    /// Whether it is run although there seems to be too little time.
    pub(super) trial: bool,
    work: Box<dyn Work>,
}

impl Queued for Job {
    fn is_over(&self) -> bool {
        self.watch.is_over()
    }
}

/// What became of the worker's embedder.
pub(super) enum Fate {
    Kept,
    /// A panic may have left it half changed.
    Suspect,
}

impl Job {
    /// Wraps work so that it catches its panic and sends its answer.
    pub(super) fn new<T: Send + 'static>(
        client: Client,
        kind: Kind,
        watch: Watch,
        trial: bool,
        work: impl FnOnce(&mut Embedder) -> T + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, PoolError>>) {
        let (answer, receiver) = oneshot::channel();
        let span = Span::current();
        let job = Self {
            client,
            kind,
            watch,
            trial,
            work: Box::new(Prepared { work, answer, span }),
        };
        (job, receiver)
    }

    /// Does the work, for which the embedder looks out for the caller.
    pub(super) fn run(self, embedder: &mut Embedder) -> Fate {
        embedder.look_out(self.watch);
        self.work.run(embedder)
    }

    /// Answers without doing the work.
    pub(super) fn refuse(self, error: PoolError) {
        self.work.refuse(error);
    }
}

trait Work: Send {
    fn run(self: Box<Self>, embedder: &mut Embedder) -> Fate;
    fn refuse(self: Box<Self>, error: PoolError);
}

struct Prepared<F, T> {
    work: F,
    answer: oneshot::Sender<Result<T, PoolError>>,
    span: Span,
}

impl<F: FnOnce(&mut Embedder) -> T + Send, T: Send> Work for Prepared<F, T> {
    fn run(self: Box<Self>, embedder: &mut Embedder) -> Fate {
        let Self { work, answer, span } = *self;
        let _entered = span.enter();
        // A caller that has gone meanwhile needs no answer.
        match catch_unwind(AssertUnwindSafe(|| work(embedder))) {
            Ok(value) => {
                drop(answer.send(Ok(value)));
                Fate::Kept
            }
            Err(_message) => {
                drop(answer.send(Err(PoolError::Panicked)));
                Fate::Suspect
            }
        }
    }

    fn refuse(self: Box<Self>, error: PoolError) {
        drop(self.answer.send(Err(error)));
    }
}
