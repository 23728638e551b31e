//! Whose job is next: turns are shared among callers, and then among the connections of each caller.
//!
//! Turns are shares of time (weighted fair queueing): one whose jobs cost a hundred times as much gets a hundredth
//! of the turns. So a flood of jobs delays each other caller by one job, over however many connections it comes,
//! and a flood of one connection delays the caller's others by one. If callers cannot be told apart, as behind a
//! proxy, what remains is fairness between connections.

use std::collections::VecDeque;

use super::caller::ClientId;

/// The properties of a job that the queue needs.
pub(super) trait Queued {
    /// Whether nobody needs it any more.
    fn is_over(&self) -> bool;

    /// The estimated time that it takes a worker, in microseconds; 0 if that is not known.
    fn cost(&self) -> u64;

    /// Whether it takes so long that other jobs must not wait for it.
    fn is_expensive(&self) -> bool;
}

/// The highest number of turns that background work waits. So it costs callers one turn in this many, and is
/// done even on a server that is always busy.
const PASSED_MAX: u32 = 64;

/// The waiting jobs, in the order in which they will be run.
pub(super) struct TurnOrder<T> {
    callers: Sharers<Sharers<VecDeque<T>>>,
    /// Work of [`ClientId::BACKGROUND`]. It has a turn if no caller waits, or after [`PASSED_MAX`] turns of
    /// callers. It never replaces a job of a caller, and is replaced first.
    background: VecDeque<T>,
    /// Number of turns of callers while background work waited.
    passed: u32,
}

/// Those who share turns among each other, none of them without a job.
struct Sharers<E> {
    /// Virtual time: the `start` of the last turn, at which a new one starts.
    now: u64,
    /// The first one with the lowest `start` and cost of the next job has the next turn.
    of: VecDeque<Sharer<E>>,
}

struct Sharer<E> {
    id: u64,
    /// The virtual time at which its next job would begin.
    start: u64,
    jobs: E,
}

/// Jobs of which one is next.
trait Line<T> {
    fn len(&self) -> usize;

    /// The next job; only one that is not expensive, unless `expensive`.
    fn next(&self, expensive: bool) -> Option<&T>;

    fn take(&mut self, expensive: bool) -> Option<T>;

    /// Removes the newest job of the longest line whose newest job is such.
    fn take_newest(&mut self, is_such: fn(&T) -> bool) -> Option<T>;

    /// Removes the jobs that have become useless.
    fn sweep(&mut self, over: &mut Vec<T>);
}

impl<T: Queued> Line<T> for VecDeque<T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn next(&self, expensive: bool) -> Option<&T> {
        self.front().filter(|job| expensive || !job.is_expensive())
    }

    fn take(&mut self, expensive: bool) -> Option<T> {
        self.next(expensive)?;
        self.pop_front()
    }

    fn take_newest(&mut self, is_such: fn(&T) -> bool) -> Option<T> {
        self.pop_back_if(|job| is_such(job))
    }

    fn sweep(&mut self, over: &mut Vec<T>) {
        let waiting = std::mem::take(self).into_iter();
        let (gone, in_use): (Self, Self) = waiting.partition(Queued::is_over);
        over.extend(gone);
        *self = in_use;
    }
}

impl<T: Queued, E: Line<T>> Line<T> for Sharers<E> {
    fn len(&self) -> usize {
        self.of.iter().map(|one| one.jobs.len()).sum()
    }

    fn next(&self, expensive: bool) -> Option<&T> {
        self.of.get(self.turn(expensive)?)?.jobs.next(expensive)
    }

    fn take(&mut self, expensive: bool) -> Option<T> {
        let turn = self.turn(expensive)?;
        let mut one = self.of.remove(turn)?;
        let job = one.jobs.take(expensive)?;
        self.now = self.now.max(one.start);
        one.start = one.start.saturating_add(job.cost());
        if 0 < one.jobs.len() {
            self.of.push_back(one);
        }
        Some(job)
    }

    fn take_newest(&mut self, is_such: fn(&T) -> bool) -> Option<T> {
        let mut places: Vec<usize> = (0..self.of.len()).collect();
        places.sort_by_key(|place| self.of.get(*place).map(|one| one.jobs.len()));
        let newest = places.into_iter().rev().find_map(|place| {
            let one = self.of.get_mut(place)?;
            one.jobs.take_newest(is_such)
        });
        self.forget_empty();
        newest
    }

    fn sweep(&mut self, over: &mut Vec<T>) {
        self.of.iter_mut().for_each(|one| one.jobs.sweep(over));
        self.forget_empty();
    }
}

impl<E> Default for Sharers<E> {
    fn default() -> Self {
        Self {
            now: 0,
            of: VecDeque::new(),
        }
    }
}

impl<E> Sharers<E> {
    fn find(&self, id: u64) -> Option<&Sharer<E>> {
        self.of.iter().find(|one| one.id == id)
    }

    /// The place of one that has the next turn.
    fn turn<T: Queued>(&self, expensive: bool) -> Option<usize>
    where
        E: Line<T>,
    {
        let due = |one: &Sharer<E>| {
            let cost = one.jobs.next(expensive)?.cost();
            Some(one.start.saturating_add(cost))
        };
        let waiting = self.of.iter().enumerate();
        let waiting = waiting.filter_map(|(place, one)| Some((place, due(one)?)));
        // The first one if several are equal.
        waiting.min_by_key(|(_, due)| *due).map(|(place, _)| place)
    }

    fn forget_empty<T>(&mut self)
    where
        E: Line<T>,
    {
        self.of.retain(|one| 0 < one.jobs.len());
    }

    /// The jobs of one, which starts now if it has none.
    fn entry(&mut self, id: u64) -> Option<&mut E>
    where
        E: Default,
    {
        let place = self.of.iter().position(|one| one.id == id);
        let place = place.unwrap_or_else(|| {
            self.of.push_back(Sharer {
                id,
                start: self.now,
                jobs: E::default(),
            });
            self.of.len() - 1
        });
        self.of.get_mut(place).map(|one| &mut one.jobs)
    }

    /// Whether one of the others has more jobs than this one would have with another.
    fn is_longer_than<T>(&self, id: u64) -> bool
    where
        E: Line<T>,
    {
        let own = self.find(id).map_or(0, |one| one.jobs.len());
        self.of.iter().any(|one| own + 1 < one.jobs.len())
    }
}

impl<T> Default for TurnOrder<T> {
    fn default() -> Self {
        Self {
            callers: Sharers::default(),
            background: VecDeque::new(),
            passed: 0,
        }
    }
}

impl<T: Queued> TurnOrder<T> {
    pub(super) fn push(&mut self, client: ClientId, job: T) {
        if client == ClientId::BACKGROUND {
            self.background.push_back(job);
            return;
        }
        let connections = self.callers.entry(client.caller);
        let jobs = connections.and_then(|connections| connections.entry(client.connection));
        if let Some(jobs) = jobs {
            jobs.push_back(job);
        }
    }

    /// Whether there is a job that may run now: any, or one that is not expensive.
    pub(super) fn has_turn(&self, expensive: bool) -> bool {
        self.callers.next(expensive).is_some() || self.background.next(expensive).is_some()
    }

    /// The next job.
    pub(super) fn take(&mut self, expensive: bool) -> Option<T> {
        if self.background.next(expensive).is_none() {
            self.passed = 0;
        } else if self.passed < PASSED_MAX && self.callers.next(expensive).is_some() {
            self.passed += 1;
        } else {
            self.passed = 0;
            return self.background.take(expensive);
        }
        self.callers.take(expensive)
    }

    /// Removes the jobs that have become useless.
    pub(super) fn sweep(&mut self) -> Vec<T> {
        let mut over = Vec::new();
        self.callers.sweep(&mut over);
        self.background.sweep(&mut over);
        over
    }

    /// Removes the newest job of background work; or else of the caller with the most jobs, if that are more than
    /// this client's caller would have; or else of this caller's longest connection, if it is longer than this one
    /// would become.
    pub(super) fn displace(&mut self, client: ClientId) -> Option<T> {
        if client == ClientId::BACKGROUND {
            return None;
        }
        if let Some(job) = self.background.pop_back() {
            return Some(job);
        }
        if self.callers.is_longer_than(client.caller) {
            return self.callers.take_newest(|_| true);
        }
        let own = self.callers.of.iter_mut();
        let own = &mut own.into_iter().find(|one| one.id == client.caller)?.jobs;
        let longer = own.is_longer_than(client.connection);
        longer.then(|| own.take_newest(|_| true))?
    }

    /// Removes the newest expensive job to make room for one of this client that is not expensive: of its own caller,
    /// or of one that has as many jobs as that would have.
    pub(super) fn displace_expensive(&mut self, client: ClientId) -> Option<T> {
        let own = self.callers.find(client.caller);
        let own = own.map_or(0, |one| one.jobs.len());
        let callers = self.callers.of.iter_mut();
        let callers = callers.filter(|one| own < one.jobs.len() || one.id == client.caller);
        let mut callers: Vec<_> = callers.collect();
        callers.sort_by_key(|one| one.jobs.len());
        let mut longest = callers.into_iter().rev();
        let newest = longest.find_map(|one| one.jobs.take_newest(Queued::is_expensive));
        self.callers.forget_empty::<T>();
        newest
    }

    /// Calls `show` with each job that would run before a new job of this client with this cost: those of its
    /// own connection, and others that are due no later. Jobs of background work run after all others.
    /// Useless jobs are left out.
    pub(super) fn ahead(&self, client: ClientId, cost: u64, mut show: impl FnMut(&T)) {
        if client == ClientId::BACKGROUND {
            let of_callers = self.callers.of.iter().flat_map(|caller| &caller.jobs.of);
            let of_callers = of_callers.flat_map(|connection| &connection.jobs);
            let all = of_callers.chain(&self.background);
            all.filter(|job| !job.is_over()).for_each(show);
            return;
        }
        let own = self.callers.find(client.caller);
        let mut due = own.map_or(self.callers.now, |own| own.start);
        due = due.saturating_add(cost);
        for job in own.map_or_else(Vec::new, |own| before(&own.jobs, client.connection, cost)) {
            due = due.saturating_add(job.cost());
            show(job);
        }
        for other in self.callers.of.iter().filter(|one| one.id != client.caller) {
            let mut at = other.start;
            for job in in_order(&other.jobs, due.saturating_sub(at)) {
                at = at.saturating_add(job.cost());
                if due < at {
                    break;
                }
                show(job);
            }
        }
    }
}

/// The useful jobs of a connection, each with the virtual time at which it is done.
fn timed<T: Queued>(connection: &Sharer<VecDeque<T>>) -> impl Iterator<Item = (u64, &T)> {
    let in_use = connection.jobs.iter().filter(|job| !job.is_over());
    in_use.scan(connection.start, |at, job| {
        *at = at.saturating_add(job.cost());
        Some((*at, job))
    })
}

/// The jobs of a caller that would run before a new one of this connection.
fn before<T: Queued>(connections: &Sharers<VecDeque<T>>, connection: u64, cost: u64) -> Vec<&T> {
    let own = connections.find(connection);
    let last = own.and_then(|own| timed(own).last()).map(|(at, _)| at);
    let start = last.or(own.map(|own| own.start)).unwrap_or(connections.now);
    let due = start.saturating_add(cost);
    let jobs = connections
        .of
        .iter()
        .flat_map(|one| timed(one).take_while(move |(at, _)| one.id == connection || *at <= due));
    jobs.map(|(_, job)| job).collect()
}

/// The jobs of a caller in the order of their turns: all that are done in this time, and a few more.
fn in_order<T: Queued>(connections: &Sharers<VecDeque<T>>, time: u64) -> Vec<&T> {
    let jobs = connections.of.iter().flat_map(|one| {
        let end = one.start.saturating_add(time);
        // With the first one that takes longer: those of other connections may be due after it.
        timed(one).take_while(move |(at, job)| at.saturating_sub(job.cost()) <= end)
    });
    let mut jobs: Vec<(u64, &T)> = jobs.collect();
    jobs.sort_by_key(|(at, _)| *at);
    jobs.into_iter().map(|(_, job)| job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Waiting {
        client: ClientId,
        number: u32,
        cost: u64,
        is_over: bool,
    }

    impl Queued for Waiting {
        fn is_over(&self) -> bool {
            self.is_over
        }

        fn cost(&self) -> u64 {
            self.cost
        }

        fn is_expensive(&self) -> bool {
            DEAR <= self.cost
        }
    }

    const DEAR: u64 = 100_000;

    const fn at(caller: u64, connection: u64) -> ClientId {
        ClientId { caller, connection }
    }

    fn push(turns: &mut TurnOrder<Waiting>, client: ClientId, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            turns.push(client, a_job(client, number));
        }
    }

    fn a_job(client: ClientId, number: u32) -> Waiting {
        Waiting {
            client,
            number,
            cost: 1_000,
            is_over: false,
        }
    }

    fn drained(turns: &mut TurnOrder<Waiting>) -> Vec<(u64, u64, u32)> {
        let job = || turns.take(true);
        let of = |job: Waiting| (job.client.caller, job.client.connection, job.number);
        std::iter::from_fn(job).map(of).collect()
    }

    /// `SplitMix64`.
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % end
        }
    }

    #[test]
    fn callers_take_turns_and_each_keeps_its_own_order() {
        let mut turns = TurnOrder::default();
        push(&mut turns, at(1, 0), 0..4);
        push(&mut turns, at(2, 0), 0..1);
        push(&mut turns, at(3, 0), 0..1);
        push(&mut turns, at(2, 0), 1..2);
        let order = drained(&mut turns).into_iter().map(|job| (job.0, job.2));
        let expected = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2), (1, 3)];
        assert_eq!(order.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn many_connections_of_a_caller_have_the_turns_of_one_and_share_them() {
        let mut turns = TurnOrder::default();
        for connection in 0..3 {
            push(&mut turns, at(1, connection), 0..2);
        }
        push(&mut turns, at(2, 7), 0..4);
        let expected = [
            (1, 0, 0),
            (2, 7, 0),
            (1, 1, 0),
            (2, 7, 1),
            (1, 2, 0),
            (2, 7, 2),
            (1, 0, 1),
            (2, 7, 3),
            (1, 1, 1),
            (1, 2, 1),
        ];
        assert_eq!(drained(&mut turns), expected);
    }

    #[test]
    fn turns_are_shares_of_time() {
        let mut turns = TurnOrder::default();
        for number in 0..4 {
            let dear = Waiting {
                cost: DEAR,
                ..a_job(at(1, 0), number)
            };
            turns.push(at(1, 0), dear);
        }
        push(&mut turns, at(2, 0), 0..20);
        let order: Vec<_> = (0..6).map_while(|_| turns.take(true)).collect();
        assert!(order.iter().all(|job| job.client == at(2, 0)), "{order:?}");
        // One that comes later has not saved up turns, and is not behind either.
        push(&mut turns, at(3, 0), 50..51);
        let next = [turns.take(true), turns.take(true)].map(|job| job.map(|job| job.number));
        assert!(next.contains(&Some(50)), "{next:?}");
    }

    #[test]
    fn what_a_caller_gets_does_not_depend_on_its_connections() {
        for seed in 0..50 {
            let (mut random, mut turns) = (Seeded(seed), TurnOrder::default());
            // As many connections as a caller likes, and jobs of any cost: enough that all of them always wait.
            let callers = 2 + random.below(4);
            for caller in 0..callers {
                let connections = 1 + random.below(30);
                let dearest = 1 + random.below(10_000);
                for number in 0..2_000 {
                    let client = at(caller, random.below(connections));
                    let cost = 1 + random.below(dearest);
                    let job = Waiting {
                        cost,
                        ..a_job(client, number)
                    };
                    turns.push(client, job);
                }
            }
            let mut got = vec![0; usize::try_from(callers).unwrap()];
            let mut left = vec![2_000; got.len()];
            while left.iter().all(|left| 0 < *left) {
                let job = turns.take(true).unwrap();
                let caller = usize::try_from(job.client.caller).unwrap();
                got[caller] += job.cost;
                left[caller] -= 1;
            }
            let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
            assert!(most - least <= 2 * 10_000, "seed {seed}: {got:?}");
        }
    }

    #[test]
    fn what_is_ahead_is_what_runs_before() {
        for seed in 0..300 {
            let (mut random, mut turns) = (Seeded(seed), TurnOrder::default());
            let client = |random: &mut Seeded| at(random.below(4), random.below(3));
            for number in 0..80 {
                let of = client(&mut random);
                let job = Waiting {
                    // So many that no two are due at the same time.
                    cost: 1 + random.below(1 << 40),
                    ..a_job(of, number)
                };
                turns.push(of, job);
                if random.below(4) == 0 {
                    turns.take(true).unwrap();
                }
            }
            let (own, cost) = (client(&mut random), 1 + random.below(1 << 40));
            let mut ahead = Vec::new();
            turns.ahead(own, cost, |job| ahead.push(job.number));
            let new = Waiting {
                cost,
                ..a_job(own, 1_000)
            };
            turns.push(own, new);
            let order = drained(&mut turns).into_iter().map(|job| job.2);
            let mut before: Vec<u32> = order.take_while(|number| *number != 1_000).collect();
            ahead.sort_unstable();
            before.sort_unstable();
            assert_eq!(ahead, before, "seed {seed}");
        }
    }

    #[test]
    fn what_is_over_is_not_ahead_of_anything_and_leaves() {
        let mut turns = TurnOrder::default();
        push(&mut turns, at(1, 0), 0..8);
        for number in 0..3 {
            let job = Waiting {
                is_over: number == 0,
                ..a_job(at(2, 0), number)
            };
            turns.push(at(2, 0), job);
        }
        let ahead = |turns: &TurnOrder<Waiting>, client| {
            let mut numbers = Vec::new();
            turns.ahead(client, 1_000, |job| numbers.push(job.number));
            numbers
        };
        assert_eq!(ahead(&turns, at(1, 0)).len(), 10);
        assert_eq!(ahead(&turns, at(2, 0)), [1, 2, 0, 1, 2]);
        assert_eq!(ahead(&turns, at(3, 0)), [0, 1]);
        assert_eq!(ahead(&turns, ClientId::BACKGROUND).len(), 10);
        assert_eq!(turns.sweep().len(), 1);
        assert_eq!(drained(&mut turns).len(), 10);
    }

    #[test]
    fn the_background_waits_for_all_others_but_not_for_ever() {
        let mut turns = TurnOrder::default();
        push(&mut turns, ClientId::BACKGROUND, 0..2);
        push(&mut turns, at(1, 0), 100..200);
        let order = drained(&mut turns);
        let places: Vec<usize> = (0..order.len())
            .filter(|place| order[*place].0 == ClientId::BACKGROUND.caller)
            .collect();
        assert_eq!(places, [PASSED_MAX as usize, 101]);
    }

    #[test]
    fn places_are_taken_from_the_background_then_from_the_caller_with_most() {
        let mut turns = TurnOrder::default();
        for connection in 0..5 {
            push(&mut turns, at(1, connection), 0..1);
        }
        push(&mut turns, at(2, 0), 0..2);
        push(&mut turns, ClientId::BACKGROUND, 0..1);
        let mut displaced = |client| turns.displace(client).map(|job| job.client);
        assert_eq!(displaced(ClientId::BACKGROUND), None);
        assert_eq!(displaced(at(3, 0)), Some(ClientId::BACKGROUND));
        // Nobody has more than a job on one connection but for one that has two, and yet the first has most.
        assert_eq!(displaced(at(2, 0)), Some(at(1, 4)));
        assert_eq!(displaced(at(3, 0)), Some(at(1, 3)));
        // Three against what would be three, and no connection of its own has more than another.
        assert_eq!(displaced(at(2, 0)), None);
        assert_eq!(displaced(at(1, 9)), None);
    }

    #[test]
    fn in_a_full_queue_of_one_caller_connections_share_the_places() {
        let mut turns = TurnOrder::default();
        push(&mut turns, at(1, 0), 0..4);
        let flood = turns.displace(at(1, 1)).unwrap();
        assert_eq!((flood.client, flood.number), (at(1, 0), 3));
        push(&mut turns, at(1, 1), 0..2);
        assert_eq!(turns.displace(at(1, 1)), None);
        assert_eq!(turns.displace(at(1, 0)), None);
    }
}
