//! The queue of a pool: bounded, and fair between callers.
//!
//! Whose job is next, [`TurnOrder`] decides. If there are several workers, expensive jobs never occupy all of them, so
//! that cheap jobs do not wait for them. If the queue is full, a new job of a caller with fewer replaces the newest
//! one of the caller with most, so that places are shared fairly too. Jobs that have become useless lose their
//! places first.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::caller::ClientId;
use super::turns::{Queued, TurnOrder};

/// The jobs of many clients, in the order in which they will be run.
pub(super) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    len_max: usize,
    /// A job has arrived, or the queue was closed.
    arrived: Condvar,
    /// There is a place, or the queue is closed.
    left: Condvar,
}

struct QueueState<T> {
    waiting: TurnOrder<T>,
    len: usize,
    /// Number of expensive jobs that are running, and the highest allowed number.
    expensive: usize,
    expensive_max: usize,
    open: bool,
}

/// The result of pushing a job.
#[derive(Debug, PartialEq)]
pub(super) enum Pushed<T> {
    /// The job waits.
    Waits,
    /// The job waits, in the place of this job of another client.
    InsteadOf(T),
    /// There is no place for it.
    Full(T),
    /// The queue is closed.
    Closed(T),
}

impl<T: Queued> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} of {})", self.len(), self.len_max)
    }
}

impl<T: Queued> QueueState<T> {
    fn push(&mut self, client: ClientId, job: T) {
        self.len += 1;
        self.waiting.push(client, job);
    }

    /// Whether an expensive job may run now.
    fn takes_expensive(&self) -> bool {
        self.expensive < self.expensive_max
    }

    fn pop(&mut self) -> Option<T> {
        let job = self.waiting.take(self.takes_expensive())?;
        self.len -= 1;
        self.expensive += usize::from(job.is_expensive());
        Some(job)
    }

    /// Removes a waiting job that has to make room for this one.
    fn displace_for(&mut self, client: ClientId, job: &T) -> Option<T> {
        let mut displaced = self.waiting.displace(client);
        if displaced.is_none() && client != ClientId::BACKGROUND && !job.is_expensive() {
            displaced = self.waiting.displace_expensive(client);
        }
        self.len -= usize::from(displaced.is_some());
        displaced
    }
}

impl<T: Queued> Queue<T> {
    /// A queue before this many workers.
    pub(super) fn new(len_max: usize, workers: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                waiting: TurnOrder::default(),
                len: 0,
                expensive: 0,
                expensive_max: workers.saturating_sub(1).max(1),
                open: true,
            }),
            len_max,
            arrived: Condvar::new(),
            left: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of waiting jobs; zero once the queue is closed, so that nobody relies on it.
    pub(super) fn len(&self) -> usize {
        let state = self.state();
        if state.open { state.len } else { 0 }
    }

    /// Calls `show` with each job that would run before a new job of this client with this cost; see
    /// [`TurnOrder::ahead`].
    pub(super) fn ahead(&self, client: ClientId, cost: u64, show: impl FnMut(&T)) {
        self.state().waiting.ahead(client, cost, show);
    }

    /// Queues a job, or returns immediately if there is no place. If the queue is full, useless jobs are
    /// removed first and added to `over`.
    pub(super) fn push(&self, client: ClientId, job: T, over: &mut Vec<T>) -> Pushed<T> {
        let mut state = self.state();
        if !state.open {
            return Pushed::Closed(job);
        }
        if self.len_max <= state.len {
            let mut swept = state.waiting.sweep();
            state.len -= swept.len();
            over.append(&mut swept);
        }
        let mut displaced = None;
        if self.len_max <= state.len {
            displaced = state.displace_for(client, &job);
            if displaced.is_none() {
                return Pushed::Full(job);
            }
        }
        state.push(client, job);
        drop(state);
        self.arrived.notify_one();
        if !over.is_empty() {
            self.left.notify_all();
        }
        displaced.map_or(Pushed::Waits, Pushed::InsteadOf)
    }

    /// Waits for a place; returns the job if the queue is closed.
    pub(super) fn push_when_free(&self, client: ClientId, job: T) -> Result<(), T> {
        let full = |state: &mut QueueState<T>| state.open && self.len_max <= state.len;
        let mut state = self
            .left
            .wait_while(self.state(), full)
            .unwrap_or_else(PoisonError::into_inner);
        if !state.open {
            return Err(job);
        }
        state.push(client, job);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Records that an expensive job is done.
    pub(super) fn expensive_done(&self) {
        let mut state = self.state();
        state.expensive = state.expensive.saturating_sub(1);
        drop(state);
        self.arrived.notify_one();
    }

    /// Waits for a job; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let idle = |state: &mut QueueState<T>| {
            (state.open || 0 < state.len) && !state.waiting.has_turn(state.takes_expensive())
        };
        let mut state = self
            .arrived
            .wait_while(self.state(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let job = state.pop();
        let is_over = !state.open && state.len == 0;
        drop(state);
        self.left.notify_one();
        if is_over {
            // Other workers may wait for a job that they were not allowed to take before.
            self.arrived.notify_all();
        }
        job
    }

    /// Accepts no more jobs; waiting jobs are still handed out.
    pub(super) fn close(&self) {
        self.state().open = false;
        self.arrived.notify_all();
        self.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Queued for (u64, u32) {
        fn is_over(&self) -> bool {
            self.1 == OVER
        }

        fn cost(&self) -> u64 {
            if self.is_expensive() { 100_000 } else { 1_000 }
        }

        fn is_expensive(&self) -> bool {
            (DEAR..2 * DEAR).contains(&self.1)
        }
    }

    /// Numbers from here on are of dear jobs.
    const DEAR: u32 = 1_000_000;

    /// The number of a job that is useless.
    const OVER: u32 = 99;

    fn client(caller: u64) -> ClientId {
        ClientId {
            caller,
            connection: 0,
        }
    }

    fn push(queue: &Queue<(u64, u32)>, caller: u64, number: u32) -> Pushed<(u64, u32)> {
        queue.push(client(caller), (caller, number), &mut Vec::new())
    }

    fn drained(queue: &Queue<(u64, u32)>) -> Vec<(u64, u32)> {
        queue.close();
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn expensive_jobs_never_have_all_workers() {
        let queue = Queue::new(100, 2);
        assert_eq!(push(&queue, 1, DEAR), Pushed::Waits);
        assert_eq!(push(&queue, 2, DEAR), Pushed::Waits);
        assert_eq!(queue.pop(), Some((1, DEAR)));
        assert_eq!(push(&queue, 3, 7), Pushed::Waits);
        assert_eq!(queue.pop(), Some((3, 7)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.pop());
            queue.expensive_done();
            assert_eq!(waits.join().unwrap(), Some((2, DEAR)));
        });
        // A single worker does all jobs.
        let alone = Queue::new(100, 1);
        assert_eq!(push(&alone, 1, DEAR), Pushed::Waits);
        assert_eq!(alone.pop(), Some((1, DEAR)));
    }

    #[test]
    fn expensive_jobs_of_many_clients_leave_a_full_queue_to_a_cheap_one() {
        let queue = Queue::new(4, 2);
        for client in 1..=4 {
            assert_eq!(push(&queue, client, DEAR), Pushed::Waits);
        }
        assert_eq!(push(&queue, 5, DEAR), Pushed::Full((5, DEAR)));
        assert_eq!(push(&queue, 6, 0), Pushed::InsteadOf((4, DEAR)));
        let mut ahead = 0;
        queue.ahead(client(7), 1_000, |_| ahead += 1);
        assert_eq!(ahead, 1, "what is expensive is due later");
        assert_eq!(queue.pop(), Some((6, 0)));
    }

    #[test]
    fn a_flood_of_cheap_jobs_leaves_another_its_only_expensive_one() {
        let queue = Queue::new(4, 2);
        for number in 0..4 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, 2, DEAR), Pushed::InsteadOf((1, 3)));
        assert_eq!(push(&queue, 1, 4), Pushed::Full((1, 4)));
    }

    #[test]
    fn a_flood_fills_the_queue_and_gives_way_to_the_others() {
        let queue = Queue::new(4, 8);
        for number in 0..4 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, 1, 4), Pushed::Full((1, 4)));
        // The newest jobs of the flood are removed until the places are shared.
        assert_eq!(push(&queue, 2, 0), Pushed::InsteadOf((1, 3)));
        assert_eq!(push(&queue, 2, 1), Pushed::InsteadOf((1, 2)));
        assert_eq!(push(&queue, 2, 2), Pushed::Full((2, 2)));
        assert_eq!(push(&queue, 1, 5), Pushed::Full((1, 5)));
        assert_eq!(push(&queue, 3, 0), Pushed::InsteadOf((2, 1)));
        assert_eq!(queue.len(), 4);
        assert_eq!(drained(&queue), [(1, 0), (2, 0), (3, 0), (1, 1)]);
    }

    #[test]
    fn what_is_of_no_use_leaves_before_anything_else_has_to() {
        let queue = Queue::new(4, 8);
        for number in [OVER, 0, OVER] {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, 2, OVER), Pushed::Waits);
        let mut over = Vec::new();
        assert_eq!(queue.push(client(3), (3, 0), &mut over), Pushed::Waits);
        assert_eq!(over, [(1, OVER), (1, OVER), (2, OVER)]);
        assert_eq!(queue.len(), 2);
        assert_eq!(drained(&queue), [(1, 0), (3, 0)]);
    }

    #[test]
    fn a_closed_queue_hands_out_what_waits_and_takes_nothing() {
        let queue = Queue::new(2, 8);
        assert_eq!(push(&queue, 1, 0), Pushed::Waits);
        queue.close();
        assert_eq!(push(&queue, 1, 1), Pushed::Closed((1, 1)));
        assert_eq!(queue.push_when_free(client(1), (1, 1)), Err((1, 1)));
        assert_eq!(queue.pop(), Some((1, 0)));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn nothing_is_lost_between_many_that_push_and_many_that_pop() {
        let queue = Queue::new(3, 8);
        let sum = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some((_, number)) = queue.pop() {
                        sum.fetch_add(u64::from(number), std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
            let pushing: Vec<_> = (0..4)
                .map(|caller| {
                    let queue = &queue;
                    scope.spawn(move || {
                        for number in 0..500_u32 {
                            queue
                                .push_when_free(client(caller), (caller, number))
                                .unwrap();
                        }
                    })
                })
                .collect();
            for thread in pushing {
                thread.join().unwrap();
            }
            queue.close();
        });
        assert_eq!(sum.into_inner(), 4 * (499 * 500 / 2));
    }
}
