//! Whether the delay of a client's jobs stands, so that more of them are refused.
//!
//! A burst may wait, because it drains. A delay that stands does not: what is accepted then waits as long as all the
//! rest, and not one job more is done. So a client whose new jobs would have waited beyond a target throughout an
//! interval is refused those that would, until one comes after a pause and need not wait, or until there was nothing to
//! refuse throughout another interval. What is below the target is accepted all the time, so that the workers never
//! run dry. This is the rule of `CoDel` (RFC 8289), with waiting times that are estimated when a job arrives, and for
//! each client on its own: of one caller's connections one may send more than is done, and another not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::caller::ClientId;

/// The interval, as a multiple of how long a job may wait. RFC 8289 recommends a target of 5 to 10 % of the interval.
const INTERVAL: u32 = 10;

/// The delays of all clients that have one.
#[derive(Debug)]
pub(super) struct StandingDelays {
    /// How long a job may always wait.
    target: Duration,
    of: Mutex<HashMap<ClientId, StandingDelay>>,
}

/// A client's delay beyond the target.
#[derive(Clone, Copy, Debug)]
struct StandingDelay {
    /// When the first of its jobs came that would wait beyond the target.
    since: Instant,
    /// When it is over, if no further such job comes.
    until: Instant,
    /// When the latest job came, of whatever delay.
    latest: Instant,
}

impl StandingDelays {
    pub(super) fn beyond(target: Duration) -> Self {
        Self {
            target,
            of: Mutex::default(),
        }
    }

    /// Whether a job of a client that would wait so long is accepted now. A job may wait for twice its own
    /// duration in any case, because a queue of slow jobs is not long before it holds two.
    pub(super) fn accepts(
        &self,
        client: ClientId,
        wait: Duration,
        own: Duration,
        now: Instant,
    ) -> bool {
        let limit = self.target.max(2 * own);
        let interval = limit * INTERVAL;
        let stands = |delay: &StandingDelay| interval <= now.saturating_duration_since(delay.since);
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = of.get_mut(&client).filter(|delay| now < delay.until);
        let mut paused = false;
        if let Some(delay) = known.as_deref_mut() {
            paused = limit <= now.saturating_duration_since(delay.latest);
            delay.latest = now;
        }
        let is_beyond = limit < wait;
        match known {
            Some(delay) if is_beyond => {
                delay.until = now + interval;
                !stands(delay)
            }
            Some(delay) => {
                // After a pause, with nothing before it, whatever stood is done. A queue that ran dry without one is short
                // because jobs are refused.
                if (paused && wait.is_zero()) || (wait <= self.target && !stands(delay)) {
                    of.remove(&client);
                }
                true
            }
            None if is_beyond => {
                of.retain(|_, delay| now < delay.until);
                let delay = StandingDelay {
                    since: now,
                    until: now + interval,
                    latest: now,
                };
                of.insert(client, delay);
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A queue of at most 64 jobs of 5 ms before two workers, asked by one caller, in simulated time.
    struct Simulated {
        delays: StandingDelays,
        now: Instant,
        /// Milliseconds of a worker that wait.
        queued: f64,
        refused: usize,
        waits: Vec<f64>,
    }

    impl Simulated {
        fn new() -> Self {
            Self {
                delays: StandingDelays::beyond(50 * MS),
                now: Instant::now(),
                queued: 0.0,
                refused: 0,
                waits: Vec::new(),
            }
        }

        fn pass(&mut self, milliseconds: f64) {
            self.now += Duration::from_secs_f64(milliseconds / 1e3);
            self.queued = (self.queued - 2.0 * milliseconds).max(0.0);
        }

        fn ask(&mut self) -> bool {
            let wait = self.queued / 2.0;
            let waits = Duration::from_secs_f64(wait / 1e3);
            let is_full = 64.0 * 5.0 <= self.queued;
            let accepted = !is_full && self.delays.accepts(client(1), waits, 5 * MS, self.now);
            if accepted {
                self.queued += 5.0;
                self.waits.push(wait);
            } else {
                self.refused += 1;
            }
            accepted
        }

        /// Asks at this rate, with pauses as of callers who know nothing of each other.
        fn offer(&mut self, per_second: f64, seconds: f64, seed: u64) {
            let (mut state, end) = (seed, self.now + Duration::from_secs_f64(seconds));
            while self.now < end {
                // A linear congruential generator, by its upper bits.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let uniform = f64::from(u32::try_from(state >> 32).unwrap() | 1) / 2_f64.powi(32);
                self.pass(-uniform.ln() * 1e3 / per_second);
                self.ask();
            }
        }

        fn median_wait(&mut self) -> f64 {
            self.waits.sort_by(f64::total_cmp);
            self.waits[self.waits.len() / 2]
        }
    }

    #[test]
    fn a_burst_is_accepted_however_long_it_takes_and_so_is_the_next() {
        let mut queue = Simulated::new();
        for _ in 0..20 {
            for _ in 0..64 {
                assert!(queue.ask());
            }
            // It drains in 160 ms.
            queue.pass(170.0);
        }
    }

    #[test]
    fn below_the_capacity_nothing_is_refused() {
        for seed in 0..20 {
            let mut queue = Simulated::new();
            queue.offer(320.0, 60.0, seed);
            assert_eq!(queue.refused, 0, "seed {seed}");
        }
    }

    #[test]
    fn beyond_the_capacity_waits_stay_at_the_target_and_no_less_is_done() {
        for times in [1.2, 2.0, 10.0] {
            let mut queue = Simulated::new();
            queue.offer(400.0 * times, 1.0, 7);
            (queue.waits, queue.refused) = (Vec::new(), 0);
            queue.offer(400.0 * times, 20.0, 8);
            let done = queue.waits.len();
            // 400 a second for 20 s.
            assert!(7_900 < done && done < 8_100, "{times}: {done}");
            let median = queue.median_wait();
            assert!(40.0 < median && median < 60.0, "{times}: {median}");
            let longest = queue.waits.last().copied().unwrap();
            assert!(longest < 60.0, "{times}: {longest}");
        }
    }

    #[test]
    fn bursts_are_accepted_again_once_the_queue_has_drained() {
        let at_once = |queue: &mut Simulated| (0..64).filter(|_| queue.ask()).count();
        let mut queue = Simulated::new();
        queue.offer(800.0, 3.0, 1);
        assert!(0 < queue.refused);
        queue.pass(20.0);
        assert!(at_once(&mut queue) < 30);
        queue.pass(100.0);
        assert_eq!(at_once(&mut queue), 64);
    }

    #[test]
    fn bursts_below_the_capacity_are_not_refused_for_ever_after_an_overload() {
        let mut queue = Simulated::new();
        queue.offer(1_600.0, 1.0, 1);
        queue.refused = 0;
        for _ in 0..50 {
            queue.pass(400.0);
            for _ in 0..30 {
                queue.ask();
            }
        }
        assert_eq!(queue.refused, 0);
    }

    #[test]
    fn the_delay_of_one_client_is_not_that_of_another() {
        let delays = StandingDelays::beyond(50 * MS);
        let start = Instant::now();
        for passed in 0..10 {
            let now = start + passed * 100 * MS;
            assert_eq!(delays.accepts(client(1), 80 * MS, 5 * MS, now), passed < 5);
            // Another connection of the same caller.
            assert!(delays.accepts(client(2), 40 * MS, 5 * MS, now));
        }
        let now = start + 950 * MS;
        assert!(!delays.accepts(client(1), 80 * MS, 5 * MS, now));
        assert!(
            delays.accepts(client(1), 80 * MS, 40 * MS, now),
            "slow jobs"
        );
        assert!(!delays.accepts(client(1), 81 * MS, 5 * MS, now));
        assert!(delays.accepts(client(1), 50 * MS, 5 * MS, now));
        assert!(delays.accepts(client(2), 80 * MS, 5 * MS, now));
        // What is over is forgotten.
        assert!(delays.accepts(client(3), 80 * MS, 5 * MS, now + 5000 * MS));
        assert_eq!(delays.of.lock().unwrap().len(), 1);
    }

    fn client(connection: u64) -> ClientId {
        ClientId {
            caller: 1,
            connection,
        }
    }
}
