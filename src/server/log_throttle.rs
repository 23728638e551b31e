//! Limits log lines for events that may be very frequent.

use std::time::{Duration, Instant};

/// The shortest time between two log lines for an event.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// An event, counted between two log lines.
#[derive(Debug, Default)]
pub(super) struct LogThrottle {
    last: Option<Instant>,
    since: u64,
}

impl LogThrottle {
    /// Counts one occurrence. Returns the number since the last log line, if a line is due now.
    pub(super) fn again(&mut self) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| last.elapsed() < SAY_AGAIN) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}
