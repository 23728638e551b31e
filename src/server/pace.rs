//! Limits how long a client may keep the server waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// The lowest number of bytes per second; a slower client only occupies its place.
const BYTES_PER_SECOND: u64 = 64 << 10;

/// The waiting time for one client. The limit is `stall` for a single wait and in total, plus a second for each
/// [`BYTES_PER_SECOND`] bytes that were transferred. So a client cannot keep its place by sending a byte now
/// and then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    stall: Duration,
    allowed: Duration,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(stall: Duration) -> Self {
        Self {
            stall,
            allowed: stall,
            waited: Duration::ZERO,
        }
    }

    /// Records that bytes arrived or were read.
    pub(super) fn moved(&mut self, bytes: u64) {
        let micros = bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND;
        self.allowed = self.allowed.saturating_add(Duration::from_micros(micros));
    }

    /// Records that a message arrived, which adds a second however small it is.
    pub(super) fn moved_one(&mut self) {
        self.moved(BYTES_PER_SECOND);
    }

    /// Records a waiting time.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// The remaining waiting time.
    pub(super) fn left(&self) -> Duration {
        self.stall.min(self.allowed.saturating_sub(self.waited))
    }
}

/// Waits for a client by polling, within its pace.
#[derive(Debug)]
pub(super) struct PacedWait {
    pace: Pace,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl PacedWait {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            waiting: None,
        }
    }

    /// Ends the wait; returns the pace, to record how much arrived.
    pub(super) fn over(&mut self) -> &mut Pace {
        if let Some((since, _)) = self.waiting.take() {
            self.pace.waited(since.elapsed());
        }
        &mut self.pace
    }

    /// Stops waiting.
    pub(super) fn idle(&mut self) {
        self.waiting = None;
    }

    /// Ready if the wait took too long.
    pub(super) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.pace.left();
        let (_, sleep) = self
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        sleep.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_does_not_hold_a_place_and_a_slow_network_does() {
        let second = Duration::from_secs(1);
        let mut drips = Pace::new(10 * second);
        let mut waits = 0;
        while 9 * second < drips.left() || waits == 0 {
            drips.waited(9 * second);
            drips.moved(1);
            waits += 1;
        }
        assert_eq!(waits, 1);
        let mut slow = Pace::new(10 * second);
        for _ in 0..1000 {
            assert!(second <= slow.left());
            slow.waited(second);
            slow.moved(BYTES_PER_SECOND);
        }
        slow.waited(10 * second);
        assert_eq!(slow.left(), Duration::ZERO);
    }
}
