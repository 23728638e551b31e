//! How many calls a key may make in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The calls of one key. Those of one second may come at once.
#[derive(Debug)]
pub(super) struct CallRate {
    per_second: u32,
    balance: Mutex<Balance>,
}

#[derive(Debug)]
struct Balance {
    /// Calls that may be made now.
    calls: f64,
    at: Option<Instant>,
}

/// A key has made all the calls that it may for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyCalls {
    /// How many it may make in a second.
    pub per_second: u32,
    /// When there is room for one again.
    pub retry_after: Duration,
}

impl CallRate {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            per_second,
            balance: Mutex::new(Balance {
                calls: f64::from(per_second),
                at: None,
            }),
        }
    }

    /// Counts a call if there is room for it.
    pub(super) fn count(&self, now: Instant) -> Result<(), TooManyCalls> {
        let per_second = f64::from(self.per_second);
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = balance.at {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            balance.calls = (balance.calls + passed * per_second).min(per_second);
        }
        balance.at = Some(now);
        if balance.calls < 1.0 {
            let wait = (1.0 - balance.calls) / per_second;
            return Err(TooManyCalls {
                per_second: self.per_second,
                retry_after: Duration::from_secs_f64(wait),
            });
        }
        balance.calls -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_calls_are_let_through_than_a_second_has() {
        let rate = CallRate::new(50);
        let begin = Instant::now();
        // Ten times as many as it may, for ten seconds: a second's worth at once, and then 50 a second.
        let calls = (0..5_000).filter(|step| {
            let now = begin + Duration::from_millis(2 * step);
            rate.count(now).is_ok()
        });
        let let_through = calls.count();
        assert!((549..=551).contains(&let_through), "{let_through}");
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let rate = CallRate::new(10);
        let begin = Instant::now();
        assert!((0..10).all(|_| rate.count(begin).is_ok()));
        let refused = rate.count(begin).unwrap_err();
        assert_eq!(refused.per_second, 10);
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        let soon = begin + Duration::from_millis(99);
        assert!(rate.count(soon).is_err());
        rate.count(soon + Duration::from_millis(2)).unwrap();
    }

    #[test]
    fn a_rest_saves_up_no_more_than_a_second() {
        let rate = CallRate::new(2);
        let begin = Instant::now();
        let later = begin + Duration::from_secs(3_600);
        rate.count(begin).unwrap();
        let let_through = (0..100).filter(|_| rate.count(later).is_ok()).count();
        assert_eq!(let_through, 2);
        // A clock that seems to go back gives nothing.
        assert!(rate.count(begin).is_err());
    }
}
