//! Retry times for callers that found a full queue, spread out at the pace of the workers.
//!
//! If all callers got the same time, they would return together, and most of them would be refused again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest retry time. It limits how far callers that return early can push the times of others.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// The latest retry time that was given to any caller.
#[derive(Debug, Default)]
pub(super) struct Appointments {
    latest: Mutex<Option<Instant>>,
}

impl Appointments {
    /// How long the next caller should wait: until the waiting jobs and the callers refused before are done.
    /// `pace` is the mean time between two finished jobs.
    pub(super) fn next(&self, now: Instant, wait: Duration, pace: Duration) -> Duration {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let given = latest.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let stay = wait.max(given).saturating_add(pace).min(AHEAD_MAX);
        *latest = Some(now + stay);
        stay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn callers_come_back_one_after_another_and_never_before_the_queue_is_empty() {
        let (appointments, now) = (Appointments::default(), Instant::now());
        let stays: Vec<Duration> = (0..3)
            .map(|_| appointments.next(now, ms(100), ms(10)))
            .collect();
        assert_eq!(stays, [ms(110), ms(120), ms(130)]);
        // When the given times are over, only waiting jobs count.
        assert_eq!(appointments.next(now + ms(500), ms(20), ms(10)), ms(30));
    }

    #[test]
    fn a_flood_does_not_push_the_time_away() {
        let (appointments, now) = (Appointments::default(), Instant::now());
        let stays = (0..10_000).map(|_| appointments.next(now, ms(100), ms(10)));
        assert_eq!(stays.max(), Some(AHEAD_MAX));
        assert_eq!(appointments.next(now + AHEAD_MAX, ms(0), ms(10)), ms(10));
    }
}
