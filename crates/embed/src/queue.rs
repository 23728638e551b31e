//! The queue of a pool: bounded, and fair between clients.
//!
//! Each client has its own lane, and lanes take turns. So a flood of jobs from one client delays each other
//! client by one job, and not by the whole flood. Turns are shares of time (weighted fair queueing): a client
//! whose jobs cost a hundred times as much gets a hundredth of the turns. If there are several workers,
//! expensive jobs never occupy all of them, so that cheap jobs do not wait for them. If the queue is full, a
//! new job of a shorter lane replaces the newest job of the longest lane, so that places are shared fairly too.
//! Jobs that have become useless lose their places first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The number of a client; for the server, a client is a connection.
pub(super) type ClientId = u64;

/// The properties of a job that the queue needs.
pub(super) trait Queued {
    /// Whether nobody needs it any more.
    fn is_over(&self) -> bool;

    /// The estimated time that it takes a worker, in microseconds; 0 if that is not known.
    fn cost(&self) -> u64;

    /// Whether it takes so long that other jobs must not wait for it.
    fn is_expensive(&self) -> bool;
}

/// The client number of background work. It has a turn if no other client waits, or after [`PASSED_MAX`] turns
/// of others. It never replaces a job of another client, and its own jobs are replaced first.
pub(super) const BACKGROUND: ClientId = u64::MAX;
/// The highest number of turns that background work waits. So it costs callers one turn in this many, and is
/// done even on a server that is always busy.
const PASSED_MAX: u32 = 64;

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
    /// The lanes, none of them empty. The first one with the lowest `due` has the next turn.
    lanes: VecDeque<Lane<T>>,
    /// Virtual time: the `due` of the last turn, at which a new lane starts.
    now: u64,
    /// Number of expensive jobs that are running, and the highest allowed number.
    expensive: usize,
    expensive_max: usize,
    /// Number of turns of others while background work waited.
    passed: u32,
    len: usize,
    open: bool,
}

struct Lane<T> {
    client: ClientId,
    /// The virtual time at which its first job would be done.
    due: u64,
    waiting: VecDeque<T>,
}

impl<T: Queued> Lane<T> {
    fn cost(&self) -> u64 {
        self.waiting.front().map_or(0, Queued::cost)
    }

    fn is_expensive(&self) -> bool {
        self.waiting.front().is_some_and(Queued::is_expensive)
    }

    fn in_use(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().filter(|job| !job.is_over())
    }
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
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.client == client) {
            lane.waiting.push_back(job);
            return;
        }
        self.lanes.push_back(Lane {
            client,
            due: self.now.saturating_add(job.cost()),
            waiting: VecDeque::from([job]),
        });
    }

    fn pop(&mut self) -> Option<T> {
        let turn = self.turn()?;
        let mut lane = self.lanes.remove(turn)?;
        let job = lane.waiting.pop_front()?;
        self.len -= 1;
        if lane.client != BACKGROUND {
            self.now = self.now.max(lane.due.saturating_sub(job.cost()));
        }
        if !lane.waiting.is_empty() {
            lane.due = lane.due.saturating_add(lane.cost());
            self.lanes.push_back(lane);
        }
        self.expensive += usize::from(job.is_expensive());
        Some(job)
    }

    /// Whether there is a job that may run now.
    fn has_turn(&self) -> bool {
        self.lanes.iter().any(|lane| self.may_run(lane))
    }

    fn may_run(&self, lane: &Lane<T>) -> bool {
        self.expensive < self.expensive_max || !lane.is_expensive()
    }

    /// Removes the jobs that have become useless.
    fn sweep(&mut self) -> Vec<T> {
        let mut over = Vec::new();
        for lane in &mut self.lanes {
            let waiting = std::mem::take(&mut lane.waiting).into_iter();
            let (gone, in_use): (VecDeque<T>, VecDeque<T>) = waiting.partition(Queued::is_over);
            over.extend(gone);
            lane.waiting = in_use;
        }
        self.lanes.retain(|lane| !lane.waiting.is_empty());
        self.len -= over.len();
        over
    }

    /// The lane that has the next turn.
    fn turn(&mut self) -> Option<usize> {
        let behind = |lane: &Lane<T>| lane.client == BACKGROUND;
        let of_background = |lane: &Lane<T>| behind(lane) && self.may_run(lane);
        let background = self.lanes.iter().position(of_background);
        let lanes = self.lanes.iter().enumerate();
        let others = lanes.filter(|(_, lane)| !behind(lane) && self.may_run(lane));
        // The first one if several are equal.
        let first = others.min_by_key(|(_, lane)| lane.due).map(|(at, _)| at);
        if background.is_some() && first.is_some() && self.passed < PASSED_MAX {
            self.passed += 1;
            return first;
        }
        self.passed = 0;
        background.or(first)
    }

    /// Removes the newest job of background work or of the longest lane, if that lane is longer than this
    /// client's would become.
    fn displace(&mut self, client: ClientId) -> Option<T> {
        if client == BACKGROUND {
            return None;
        }
        let own = self.lanes.iter().find(|lane| lane.client == client);
        let own = own.map_or(0, |lane| lane.waiting.len());
        let longest = self
            .lanes
            .iter_mut()
            .max_by_key(|lane| (lane.client == BACKGROUND, lane.waiting.len()))
            .filter(|lane| lane.client == BACKGROUND || own + 1 < lane.waiting.len())?;
        let job = longest.waiting.pop_back()?;
        self.len -= 1;
        // It may have been the only job of the background lane.
        self.lanes.retain(|lane| !lane.waiting.is_empty());
        Some(job)
    }

    /// Removes the newest expensive job, to make room for one that is not expensive.
    fn displace_expensive(&mut self) -> Option<T> {
        let is_last_expensive =
            |lane: &Lane<T>| lane.waiting.back().is_some_and(Queued::is_expensive);
        let lane = self
            .lanes
            .iter_mut()
            .rev()
            .find(|lane| is_last_expensive(lane))?;
        let job = lane.waiting.pop_back()?;
        self.len -= 1;
        self.lanes.retain(|lane| !lane.waiting.is_empty());
        Some(job)
    }
}

impl<T: Queued> Queue<T> {
    /// A queue before this many workers.
    pub(super) fn new(len_max: usize, workers: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                lanes: VecDeque::new(),
                now: 0,
                expensive: 0,
                expensive_max: workers.saturating_sub(1).max(1),
                passed: 0,
                len: 0,
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

    /// Calls `show` with each job that would run before a new job of this client with this cost: those in its
    /// own lane, and those of other lanes that are due no later. Jobs of background work run after all others.
    /// Useless jobs are left out.
    pub(super) fn ahead(&self, client: ClientId, cost: u64, mut show: impl FnMut(&T)) {
        let state = self.state();
        let own = state.lanes.iter().find(|lane| lane.client == client);
        let own_due = own.map_or(state.now, |lane| {
            lane.due.saturating_sub(lane.cost()) + lane.in_use().map(Queued::cost).sum::<u64>()
        });
        let own_due = own_due.saturating_add(cost);
        for lane in &state.lanes {
            let all = lane.client == client || client == BACKGROUND;
            let none = lane.client == BACKGROUND && client != BACKGROUND;
            let mut due = lane.due.saturating_sub(lane.cost());
            let before = lane.in_use().take_while(|job| {
                due = due.saturating_add(job.cost());
                all || !none && due <= own_due
            });
            before.for_each(&mut show);
        }
    }

    /// Queues a job, or returns immediately if there is no place. If the queue is full, useless jobs are
    /// removed first and added to `over`.
    pub(super) fn push(&self, client: ClientId, job: T, over: &mut Vec<T>) -> Pushed<T> {
        let mut state = self.state();
        if !state.open {
            return Pushed::Closed(job);
        }
        if self.len_max <= state.len {
            over.append(&mut state.sweep());
        }
        let displaced = if state.len < self.len_max {
            None
        } else {
            let mut displaced = state.displace(client);
            if displaced.is_none() && client != BACKGROUND && !job.is_expensive() {
                displaced = state.displace_expensive();
            }
            let Some(displaced) = displaced else {
                return Pushed::Full(job);
            };
            Some(displaced)
        };
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
        let idle = |state: &mut QueueState<T>| (state.open || 0 < state.len) && !state.has_turn();
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

    impl Queued for (ClientId, u32) {
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

    fn push(
        queue: &Queue<(ClientId, u32)>,
        client: ClientId,
        number: u32,
    ) -> Pushed<(ClientId, u32)> {
        queue.push(client, (client, number), &mut Vec::new())
    }

    fn drained(queue: &Queue<(ClientId, u32)>) -> Vec<(ClientId, u32)> {
        queue.close();
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn clients_take_turns_and_each_keeps_its_own_order() {
        let queue = Queue::new(10, 8);
        for number in 0..4 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, 2, 0), Pushed::Waits);
        assert_eq!(push(&queue, 3, 0), Pushed::Waits);
        assert_eq!(push(&queue, 2, 1), Pushed::Waits);
        let order = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2), (1, 3)];
        assert_eq!(drained(&queue), order);
    }

    #[test]
    fn turns_are_shares_of_time() {
        let queue = Queue::new(100, 2);
        for number in 0..4 {
            assert_eq!(push(&queue, 1, DEAR + number), Pushed::Waits);
        }
        for number in 0..20 {
            assert_eq!(push(&queue, 2, number), Pushed::Waits);
        }
        let order: Vec<u32> = (0..6).map_while(|_| queue.pop()).map(|job| job.1).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        // A client that comes later has not saved up turns, and is not behind either.
        assert_eq!(push(&queue, 3, 50), Pushed::Waits);
        let next = [queue.pop(), queue.pop()].map(|job| job.map(|job| job.0));
        assert!(next.contains(&Some(3)), "{next:?}");
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
        queue.ahead(7, 1_000, |_| ahead += 1);
        assert_eq!(ahead, 1, "what is expensive is due later");
        assert_eq!(queue.pop(), Some((6, 0)));
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
    fn what_is_ahead_is_what_will_be_run_first() {
        let queue = Queue::new(20, 8);
        let ahead = |client| {
            let mut shown = Vec::new();
            queue.ahead(client, 1_000, |job: &(ClientId, u32)| shown.push(*job));
            shown
        };
        assert_eq!(ahead(2), []);
        for number in 0..8 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(ahead(2), [(1, 0)]);
        assert_eq!(ahead(1).len(), 8);
        for number in [OVER, 0, 1] {
            assert_eq!(push(&queue, 2, number), Pushed::Waits);
        }
        assert_eq!(ahead(2), [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(ahead(1).len(), 10);
        assert_eq!(ahead(3), [(1, 0), (2, 0)]);
    }

    #[test]
    fn what_is_of_no_use_leaves_before_anything_else_has_to() {
        let queue = Queue::new(4, 8);
        for number in [OVER, 0, OVER] {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, 2, OVER), Pushed::Waits);
        let mut over = Vec::new();
        assert_eq!(queue.push(3, (3, 0), &mut over), Pushed::Waits);
        assert_eq!(over, [(1, OVER), (1, OVER), (2, OVER)]);
        assert_eq!(queue.len(), 2);
        assert_eq!(drained(&queue), [(1, 0), (3, 0)]);
    }

    #[test]
    fn the_background_waits_for_all_others_but_not_for_ever() {
        let queue = Queue::new(200, 8);
        assert_eq!(push(&queue, BACKGROUND, 0), Pushed::Waits);
        assert_eq!(push(&queue, BACKGROUND, 1), Pushed::Waits);
        for number in 100..200 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        let order = drained(&queue);
        let places: Vec<usize> = (0..order.len())
            .filter(|place| order[*place].0 == BACKGROUND)
            .collect();
        assert_eq!(places, [PASSED_MAX as usize, 101]);
    }

    #[test]
    fn in_a_full_queue_the_background_takes_no_place_and_loses_its_own_first() {
        let queue = Queue::new(3, 8);
        for number in 0..2 {
            assert_eq!(push(&queue, 1, number), Pushed::Waits);
        }
        assert_eq!(push(&queue, BACKGROUND, 0), Pushed::Waits);
        assert_eq!(push(&queue, 1, 2), Pushed::InsteadOf((BACKGROUND, 0)));
        assert_eq!(push(&queue, BACKGROUND, 1), Pushed::Full((BACKGROUND, 1)));
        assert_eq!(drained(&queue), [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_closed_queue_hands_out_what_waits_and_takes_nothing() {
        let queue = Queue::new(2, 8);
        assert_eq!(push(&queue, 1, 0), Pushed::Waits);
        queue.close();
        assert_eq!(push(&queue, 1, 1), Pushed::Closed((1, 1)));
        assert_eq!(queue.push_when_free(1, (1, 1)), Err((1, 1)));
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
                .map(|client| {
                    let queue = &queue;
                    scope.spawn(move || {
                        for number in 0..500_u32 {
                            queue.push_when_free(client, (client, number)).unwrap();
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
