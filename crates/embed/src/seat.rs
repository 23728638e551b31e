//! The current job of a worker, as its supervisor sees it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;

use super::caller::ClientId;
use super::job::{JobKind, PoolJob};

/// A worker's current job. It is cleared by the worker at the end of the job, or by the supervisor that gives
/// the worker up. Whichever does it also releases what the job had reserved.
#[derive(Debug, Default)]
pub(super) struct Seat(Mutex<AtWork>);

#[derive(Debug, Default)]
enum AtWork {
    #[default]
    Idle,
    Busy(RunningJob),
    GivenUp,
}

/// A job that is running.
#[derive(Debug)]
pub(super) struct RunningJob {
    pub(super) started: Instant,
    pub(super) kind: JobKind,
    pub(super) client: ClientId,
    /// The span of the call, which identifies the caller in the log.
    pub(super) span: Span,
}

impl Seat {
    /// Records a job that starts now.
    pub(super) fn begin(&self, job: &PoolJob) -> Instant {
        let started = Instant::now();
        *self.state() = AtWork::Busy(RunningJob {
            started,
            kind: job.kind,
            client: job.client,
            span: job.span.clone(),
        });
        started
    }

    /// Records the end of the job; false if the worker was given up meanwhile.
    pub(super) fn end(&self) -> bool {
        let mut state = self.state();
        let is_given_up = matches!(*state, AtWork::GivenUp);
        if !is_given_up {
            *state = AtWork::Idle;
        }
        !is_given_up
    }

    /// Gives the worker up if it has been busy with its job for at least this long; returns that job.
    pub(super) fn give_up_after(&self, longest: Duration) -> Option<RunningJob> {
        let mut state = self.state();
        match &*state {
            AtWork::Busy(job) if longest <= job.started.elapsed() => {}
            AtWork::Busy(_) | AtWork::Idle | AtWork::GivenUp => return None,
        }
        match std::mem::replace(&mut *state, AtWork::GivenUp) {
            AtWork::Busy(job) => Some(job),
            AtWork::Idle | AtWork::GivenUp => None,
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(*self.state(), AtWork::GivenUp)
    }

    fn state(&self) -> MutexGuard<'_, AtWork> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
