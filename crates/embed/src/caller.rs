//! Who asks, how long an answer is of use, and whether it still is.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::queue::BACKGROUND;

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

    /// As one who waits no longer than this from now on.
    #[must_use]
    pub fn within(self, longest: Duration) -> Self {
        let end = Instant::now().checked_add(longest);
        let deadline = self.deadline.into_iter().chain(end).min();
        Self { deadline, ..self }
    }

    /// One that gives way to all others, and waits without a deadline.
    #[must_use]
    pub fn in_background() -> Self {
        Self {
            client: BACKGROUND,
            deadline: None,
        }
    }

    /// Runs a future for this caller. Tasks that it spawns have to be told again.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CALLER.scope(self, future)
    }
}

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
