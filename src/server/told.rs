//! What may happen very often, and is told in the log now and then.

use std::time::{Duration, Instant};

/// How often the log says the same.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Something that happens, counted between two lines of the log.
#[derive(Debug, Default)]
pub(super) struct Told {
    last: Option<Instant>,
    since: u64,
}

impl Told {
    /// It happened again: how often since it was told, if that is to be told now.
    pub(super) fn again(&mut self) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| last.elapsed() < SAY_AGAIN) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}
