//! How long jobs take a worker, by what the latest ones took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::Kind;

/// Over about how many jobs their duration is averaged.
const JOBS: u32 = 32;

/// How often a job is run for which there seems to be too little time: what refuses every job
/// would never learn that they have become faster.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// What jobs take, by kind: a search for a vector takes a fiftieth of one for an image.
#[derive(Debug, Default)]
pub(super) struct Paces {
    image: Mutex<Pace>,
    vector: Mutex<Pace>,
}

/// Zero before the first job.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    average: Duration,
    /// What the quickest of late took: no job can be promised to fail that has more time than that.
    least: Duration,
    /// When it was last seen for oneself.
    tried: Option<Instant>,
}

impl Paces {
    /// Adds the duration of a job that ended now.
    pub(super) fn note(&self, kind: Kind, took: Duration, now: Instant) {
        self.of(kind).note(took, now);
    }

    /// What a job takes, on average.
    pub(super) fn average(&self, kind: Kind) -> Duration {
        self.of(kind).average
    }

    /// What a job takes at least.
    pub(super) fn least(&self, kind: Kind) -> Duration {
        self.of(kind).least
    }

    /// Whether it is time to run one for which there seems to be too little time. Says so once.
    pub(super) fn is_trial_due(&self, kind: Kind, now: Instant) -> bool {
        self.of(kind).is_trial_due(now)
    }

    fn of(&self, kind: Kind) -> MutexGuard<'_, Pace> {
        let pace = match kind {
            Kind::Image => &self.image,
            Kind::Vector => &self.vector,
        };
        pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace {
    fn note(&mut self, took: Duration, now: Instant) {
        if self.average.is_zero() {
            (self.average, self.least) = (took, took);
        }
        self.average = self.average - self.average / JOBS + took / JOBS;
        self.least = if took < self.least {
            took
        } else {
            self.least + (took - self.least) / JOBS
        };
        self.tried.get_or_insert(now);
    }

    fn is_trial_due(&mut self, now: Instant) -> bool {
        let due = self
            .tried
            .is_none_or(|tried| TRIAL_EVERY <= now.saturating_duration_since(tried));
        if due {
            self.tried = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn each_kind_of_job_has_a_pace_of_its_own() {
        let (paces, now) = (Paces::default(), Instant::now());
        assert_eq!(paces.average(Kind::Image), Duration::ZERO);
        for _ in 0..100 {
            paces.note(Kind::Image, 50 * MS, now);
            paces.note(Kind::Vector, MS, now);
        }
        assert!(45 * MS < paces.average(Kind::Image));
        assert!(paces.average(Kind::Vector) < 2 * MS);
    }

    #[test]
    fn the_least_follows_the_quickest_at_once_and_forgets_it_slowly() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(200 * MS, now);
        pace.note(5 * MS, now);
        assert_eq!(pace.least, 5 * MS);
        pace.note(200 * MS, now);
        assert!(pace.least < 12 * MS, "{pace:?}");
        (0..500).for_each(|_| pace.note(200 * MS, now));
        assert!(190 * MS < pace.least, "{pace:?}");
    }

    #[test]
    fn a_pace_that_refuses_all_is_tried_again_every_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.note(500 * MS, start);
        assert!(!pace.is_trial_due(start + 999 * MS));
        assert!(pace.is_trial_due(start + 1000 * MS));
        assert!(!pace.is_trial_due(start + 1999 * MS));
        assert!(pace.is_trial_due(start + 2000 * MS));
    }
}
