//! Who asks, how long an answer is of use, and whether it still is.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::queue::BACKGROUND;

/// Who asks, and how long an answer is of use. By default nobody in particular, who waits for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// A number for the client; clients take turns in the queue.
    pub client: u64,
    /// When the answer comes too late.
    pub deadline: Option<Instant>,
}

impl Caller {
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
}

/// Whether an answer has become useless while it is worked on: nobody waits for it any more.
#[derive(Debug)]
pub struct Cancellation {
    /// Alive as long as the caller waits; `None` of one who cannot go.
    present: Option<Weak<()>>,
    deadline: Option<Instant>,
}

impl Cancellation {
    /// Of an answer that is always of use.
    #[must_use]
    pub fn never() -> Self {
        Self {
            present: None,
            deadline: None,
        }
    }

    /// Of a caller who waits as long as what is returned with it lives.
    pub(super) fn of(caller: Caller) -> (Self, Arc<()>) {
        let present = Arc::new(());
        let cancellation = Self {
            present: Some(Arc::downgrade(&present)),
            deadline: caller.deadline,
        };
        (cancellation, present)
    }

    /// Whether the caller hung up.
    pub(super) fn is_gone(&self) -> bool {
        let present = self.present.as_ref();
        present.is_some_and(|present| present.strong_count() == 0)
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
