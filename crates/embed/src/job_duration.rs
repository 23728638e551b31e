//! Estimates how long jobs take a worker, from the latest ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::JobKind;

/// The number of jobs that the moving average covers, approximately.
const JOBS: u32 = 32;

/// The assumed duration for a large image before the first one is done.
const LARGE_IMAGE: Duration = Duration::from_secs(1);

/// How often a job is run although there seems to be too little time for it. If all were refused, it would
/// never be noticed that jobs have become faster.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// The durations of jobs by kind. A search for a vector takes a fiftieth of one for an image.
#[derive(Debug, Default)]
pub(super) struct JobDurations {
    image: Mutex<JobDuration>,
    large_image: Mutex<JobDuration>,
    vector: Mutex<JobDuration>,
}

/// Zero before the first job.
#[derive(Clone, Copy, Debug, Default)]
struct JobDuration {
    average: Duration,
    /// The duration of the quickest recent job. A job with more time left than that may succeed.
    least: Duration,
    /// When a job was last run as a trial.
    tried: Option<Instant>,
}

impl JobDurations {
    /// Adds the duration of a job that ended now.
    pub(super) fn record(&self, kind: JobKind, took: Duration, now: Instant) {
        self.of(kind).record(took, now);
    }

    /// The average duration of a job.
    pub(super) fn average(&self, kind: JobKind) -> Duration {
        self.of(kind).average
    }

    /// The cost of a waiting job: the average duration or, if it is not known yet, the assumed one for a large
    /// image.
    pub(super) fn cost(&self, kind: JobKind) -> Duration {
        match (kind, self.average(kind)) {
            (JobKind::LargeImage, Duration::ZERO) => LARGE_IMAGE,
            (JobKind::Image | JobKind::LargeImage | JobKind::Vector, average) => average,
        }
    }

    /// The lowest duration of a job.
    pub(super) fn least(&self, kind: JobKind) -> Duration {
        self.of(kind).least
    }

    /// Whether a job with too little time should be run as a trial. True once in each interval.
    pub(super) fn is_trial_due(&self, kind: JobKind, now: Instant) -> bool {
        self.of(kind).is_trial_due(now)
    }

    fn of(&self, kind: JobKind) -> MutexGuard<'_, JobDuration> {
        let duration = match kind {
            JobKind::Image => &self.image,
            JobKind::LargeImage => &self.large_image,
            JobKind::Vector => &self.vector,
        };
        duration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobDuration {
    fn record(&mut self, took: Duration, now: Instant) {
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
        let (durations, now) = (JobDurations::default(), Instant::now());
        assert_eq!(durations.average(JobKind::Image), Duration::ZERO);
        for _ in 0..100 {
            durations.record(JobKind::Image, 50 * MS, now);
            durations.record(JobKind::Vector, MS, now);
        }
        assert!(45 * MS < durations.average(JobKind::Image));
        assert!(durations.average(JobKind::Vector) < 2 * MS);
    }

    #[test]
    fn the_least_follows_the_quickest_at_once_and_forgets_it_slowly() {
        let (mut duration, now) = (JobDuration::default(), Instant::now());
        duration.record(200 * MS, now);
        duration.record(5 * MS, now);
        assert_eq!(duration.least, 5 * MS);
        duration.record(200 * MS, now);
        assert!(duration.least < 12 * MS, "{duration:?}");
        (0..500).for_each(|_| duration.record(200 * MS, now));
        assert!(190 * MS < duration.least, "{duration:?}");
    }

    #[test]
    fn a_pace_that_refuses_all_is_tried_again_every_second() {
        let (mut duration, start) = (JobDuration::default(), Instant::now());
        duration.record(500 * MS, start);
        assert!(!duration.is_trial_due(start + 999 * MS));
        assert!(duration.is_trial_due(start + 1000 * MS));
        assert!(!duration.is_trial_due(start + 1999 * MS));
        assert!(duration.is_trial_due(start + 2000 * MS));
    }
}
