//! A piece of work on its way through the queue, and who waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::embedder::Embedder;
use super::pool::{Caller, Kind, PoolError};
use super::queue::{Client, Queued};

/// Whether anybody still waits for an answer. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// Alive as long as the caller waits.
    present: Weak<()>,
    deadline: Option<Instant>,
}

impl Watch {
    /// Of a caller who waits as long as what is returned with it lives.
    pub(super) fn of(caller: Caller) -> (Self, Arc<()>) {
        let present = Arc::new(());
        let watch = Self {
            present: Arc::downgrade(&present),
            deadline: caller.deadline,
        };
        (watch, present)
    }

    /// Whether the caller hung up.
    pub(super) fn is_gone(&self) -> bool {
        self.present.strong_count() == 0
    }

    /// Whether an answer is of no use any more: the caller has gone, or the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.is_gone() || self.left().is_some_and(|left| left.is_zero())
    }

    /// How long an answer will be of use; `None` for ever.
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
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
        (client, kind): (Client, Kind),
        (watch, trial): (Watch, bool),
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
