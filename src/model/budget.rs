//! How much memory images may take together while they are decoded.

use std::sync::{Condvar, Mutex, PoisonError};

/// Memory for decoding, shared by all workers of a model.
#[derive(Debug)]
pub(super) struct Budget {
    /// `None` for no limit.
    bytes_max: Option<u64>,
    taken: Mutex<u64>,
    given_back: Condvar,
}

/// Memory that is taken until this is dropped.
pub(super) struct Room<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(bytes_max: Option<u64>) -> Self {
        Self {
            bytes_max,
            taken: Mutex::new(0),
            given_back: Condvar::new(),
        }
    }

    /// Waits until there is room. What alone is more than the whole budget waits until nothing else
    /// is being decoded: the limits on one image have let it pass.
    pub(super) fn take(&self, bytes: u64) -> Room<'_> {
        let fits = |taken: u64| match self.bytes_max {
            None => true,
            Some(max) => taken == 0 || taken.saturating_add(bytes) <= max,
        };
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .given_back
            .wait_while(taken, |taken| !fits(*taken))
            .unwrap_or_else(PoisonError::into_inner);
        *taken = taken.saturating_add(bytes);
        Room {
            budget: self,
            bytes,
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let budget = self.budget;
        let mut taken = budget.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = taken.saturating_sub(self.bytes);
        drop(taken);
        // All of them, since the one that wakes may need more than was given back.
        budget.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn what_is_taken_at_once_never_passes_the_budget() {
        let budget = Budget::new(Some(100));
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for worker in 0..8_u64 {
                let (budget, now, most) = (&budget, &now, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 10 + (worker * 7 + round) % 60;
                        let room = budget.take(bytes);
                        let sum = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(sum, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        drop(room);
                    }
                });
            }
        });
        let most = most.load(Ordering::SeqCst);
        assert!(69 < most && most <= 100, "{most}");
        assert_eq!(*budget.taken.lock().unwrap(), 0);
    }

    #[test]
    fn an_image_larger_than_the_budget_is_decoded_alone() {
        let budget = Budget::new(Some(100));
        let small = budget.take(1);
        thread::scope(|scope| {
            let large = scope.spawn(|| drop(budget.take(1000)));
            drop(small);
            large.join().unwrap();
        });
        assert_eq!(*budget.taken.lock().unwrap(), 0);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let budget = Budget::new(None);
        let _first = budget.take(u64::MAX);
        let _second = budget.take(u64::MAX);
    }
}
