//! Limits the memory that all images use together while they are decoded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting job checks whether its caller is still there, because it is not notified.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A memory budget for decoding. Clones share it, so that several models can use one budget.
#[derive(Clone, Debug)]
pub struct DecodeBudget(Arc<DecodeMemory>);

#[derive(Debug)]
struct DecodeMemory {
    /// `None` for no limit.
    bytes_max: Option<u64>,
    state: Mutex<DecodeMemoryState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DecodeMemoryState {
    taken: u64,
    /// Tickets of the waiting jobs, the oldest first.
    waiting: VecDeque<u64>,
    tickets: u64,
}

/// Memory that is reserved until this is dropped.
pub(super) struct Room<'a> {
    shared: &'a DecodeMemory,
    bytes: u64,
}

impl DecodeBudget {
    /// A budget of this many bytes; `None` for no limit.
    #[must_use]
    pub fn new(bytes_max: Option<u64>) -> Self {
        Self(Arc::new(DecodeMemory {
            bytes_max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Whether the system has memory for this image in addition to all that are being decoded, which may not
    /// have allocated everything yet. A decoder ends the process if an allocation fails, so this tries an
    /// allocation and frees it again.
    pub(super) fn is_there_for(&self, bytes: u64) -> bool {
        let all = self.0.state().taken.max(bytes);
        let Ok(all) = usize::try_from(all) else {
            return false;
        };
        let mut room = Vec::<u8>::new();
        let is_there = room.try_reserve_exact(all).is_ok();
        // Keeps the compiler from removing the allocation.
        std::hint::black_box(&room);
        is_there
    }

    /// Waits until there is memory, in the order of arrival; `None` if it `is_over` before that. An image that
    /// needs more than the whole budget waits until no other image is being decoded, because it is within the
    /// limit for one image.
    pub(super) fn take(&self, bytes: u64, is_over: &dyn Fn() -> bool) -> Option<Room<'_>> {
        let shared = &*self.0;
        // An image that will be refused before it is decoded needs no memory and does not wait.
        let Some(bytes_max) = shared.bytes_max.filter(|_| 0 < bytes) else {
            return Some(Room { shared, bytes: 0 });
        };
        let mut state = shared.state();
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push_back(ticket);
        loop {
            let fits = state.taken == 0 || state.taken.saturating_add(bytes) <= bytes_max;
            let over = !fits && is_over();
            if over || (fits && state.waiting.front() == Some(&ticket)) {
                state.waiting.retain(|other| *other != ticket);
                let taken = if over { 0 } else { bytes };
                state.taken = state.taken.saturating_add(taken);
                drop(state);
                // The next one may fit too.
                shared.changed.notify_all();
                return (!over).then_some(Room { shared, bytes });
            }
            (state, _) = shared
                .changed
                .wait_timeout(state, LOOK_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl DecodeMemory {
    fn state(&self) -> MutexGuard<'_, DecodeMemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if 0 < self.bytes {
            let mut state = self.shared.state();
            state.taken = state.taken.saturating_sub(self.bytes);
            drop(state);
            self.shared.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn take(budget: &DecodeBudget, bytes: u64) -> Room<'_> {
        budget.take(bytes, &|| false).unwrap()
    }

    fn taken(budget: &DecodeBudget) -> u64 {
        budget.0.state().taken
    }

    /// Waits until this many wait.
    fn await_waiting(budget: &DecodeBudget, count: usize) {
        while budget.0.state().waiting.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_taken_at_once_never_passes_the_budget() {
        let budget = DecodeBudget::new(Some(100));
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for worker in 0..8_u64 {
                let (budget, now, most) = (&budget, &now, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 10 + (worker * 7 + round) % 60;
                        let room = take(budget, bytes);
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
        assert_eq!(taken(&budget), 0);
    }

    #[test]
    fn an_image_larger_than_the_budget_is_decoded_alone() {
        let budget = DecodeBudget::new(Some(100));
        let small = take(&budget, 1);
        thread::scope(|scope| {
            let large = scope.spawn(|| drop(take(&budget, 1000)));
            drop(small);
            large.join().unwrap();
        });
        assert_eq!(taken(&budget), 0);
    }

    #[test]
    fn those_who_come_later_do_not_overtake_one_that_needs_much() {
        let budget = DecodeBudget::new(Some(100));
        let small = take(&budget, 1);
        let large_is_in = AtomicBool::new(false);
        thread::scope(|scope| {
            let large = scope.spawn(|| {
                let room = take(&budget, 1000);
                large_is_in.store(true, Ordering::SeqCst);
                drop(room);
            });
            await_waiting(&budget, 1);
            // There would be room for it beside the first.
            let later = scope.spawn(|| {
                let _room = take(&budget, 1);
                assert!(large_is_in.load(Ordering::SeqCst));
            });
            await_waiting(&budget, 2);
            drop(small);
            large.join().unwrap();
            later.join().unwrap();
        });
    }

    #[test]
    fn one_whose_caller_has_gone_waits_no_longer_and_holds_up_nobody() {
        let budget = DecodeBudget::new(Some(100));
        let small = take(&budget, 60);
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            let given_up =
                scope.spawn(|| budget.take(1000, &|| gone.load(Ordering::SeqCst)).is_none());
            await_waiting(&budget, 1);
            let other = scope.spawn(|| drop(take(&budget, 10)));
            await_waiting(&budget, 2);
            gone.store(true, Ordering::SeqCst);
            assert!(given_up.join().unwrap());
            other.join().unwrap();
        });
        drop(small);
        assert_eq!(taken(&budget), 0);
    }

    #[test]
    fn what_will_be_refused_waits_for_nobody() {
        let budget = DecodeBudget::new(Some(100));
        let _all = take(&budget, 100);
        drop(take(&budget, 0));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let budget = DecodeBudget::new(None);
        let _first = take(&budget, u64::MAX);
        let _second = take(&budget, u64::MAX);
    }
}
