//! The caller of a request: how long an answer is useful, and whether it still is.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Whose turn it is in the queue: callers take turns, and so do the connections of each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientId {
    /// The number of somebody who is known by name or, if nobody is, of an address.
    pub caller: u64,
    /// The number of one of its connections.
    pub connection: u64,
}

impl ClientId {
    /// Background work, which gives way to all callers.
    pub(super) const BACKGROUND: Self = Self {
        caller: u64::MAX,
        connection: u64::MAX,
    };
}

/// The caller of a request. The default is no particular client, and no deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// Who it is for the queue.
    pub client: ClientId,
    /// After this time, an answer is too late; `None` without a deadline.
    pub deadline: Option<Instant>,
    /// Whether it is better refused than kept waiting for long.
    pub prompt: bool,
}

impl Caller {
    /// The same caller, if it wants an answer soon or none. What else comes over its connection may wait for
    /// longer, so this has turns beside that.
    #[must_use]
    pub fn prompt(self) -> Self {
        let ClientId { caller, connection } = self.client;
        Self {
            client: ClientId {
                caller,
                connection: connection.wrapping_add(1),
            },
            prompt: true,
            ..self
        }
    }

    /// The same caller with a deadline that is at most this far from now.
    #[must_use]
    pub fn within(self, longest: Duration) -> Self {
        let end = Instant::now().checked_add(longest);
        let deadline = self.deadline.into_iter().chain(end).min();
        Self { deadline, ..self }
    }

    /// A caller that gives way to all others, and has no deadline.
    #[must_use]
    pub fn in_background() -> Self {
        Self {
            client: ClientId::BACKGROUND,
            ..Self::default()
        }
    }
}

/// Tells the worker whether an answer has become useless, because nobody waits for it any more.
#[derive(Debug)]
pub struct Cancellation {
    /// Alive while the caller waits; `None` for a caller that cannot leave.
    present: Option<Weak<()>>,
    deadline: Option<Instant>,
}

impl Cancellation {
    /// An answer that is always useful.
    #[must_use]
    pub fn never() -> Self {
        Self {
            present: None,
            deadline: None,
        }
    }

    /// An answer that is useful as long as the second value lives.
    pub(super) fn of(caller: Caller) -> (Self, Arc<()>) {
        let present = Arc::new(());
        let cancellation = Self {
            present: Some(Arc::downgrade(&present)),
            deadline: caller.deadline,
        };
        (cancellation, present)
    }

    /// Whether the caller has disconnected.
    pub(super) fn is_gone(&self) -> bool {
        let present = self.present.as_ref();
        present.is_some_and(|present| present.strong_count() == 0)
    }

    /// Whether an answer is useless, because the caller has disconnected or the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.is_gone() || self.left().is_some_and(|left| left.is_zero())
    }

    /// The time left until the deadline; `None` without a deadline.
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}
