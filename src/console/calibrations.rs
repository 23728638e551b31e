//! Calibrations that were started on a page, and their results. They are kept in memory only; a calibration
//! that a restart interrupts has changed nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use matchpoint_client::proto::longrunning::Operation;

/// Number of results that are kept; then the oldest is dropped.
const REMEMBERED_MAX: usize = 32;

/// The calibrations of all pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Calibrations(Arc<Mutex<VecDeque<StartedCalibration>>>);

#[derive(Debug)]
struct StartedCalibration {
    id: String,
    session: u64,
    end: Option<Result<Operation, Status>>,
}

/// The status of a calibration.
pub(super) enum CalibrationStatus {
    /// Still running.
    Running,
    /// Finished; an error if it could not start.
    Ended(Result<Operation, Status>),
}

impl Calibrations {
    /// Adds a calibration, unless another one is running, because its pictures stay in memory until it ends.
    pub(super) fn begin(&self, id: &str, session: u64) -> bool {
        self.change(|all| {
            if all.iter().any(|one| one.end.is_none()) {
                return false;
            }
            while REMEMBERED_MAX <= all.len() {
                all.pop_front();
            }
            all.push_back(StartedCalibration {
                id: id.to_owned(),
                session,
                end: None,
            });
            true
        })
    }

    /// Stores the result of a calibration.
    pub(super) fn ended(&self, id: &str, end: Result<Operation, Status>) {
        self.change(|all| {
            if let Some(one) = all.iter_mut().find(|one| one.id == id) {
                one.end = Some(end);
            }
        });
    }

    /// The status of a calibration; `None` if the session has no calibration with this id.
    pub(super) fn status(&self, id: &str, session: u64) -> Option<CalibrationStatus> {
        self.change(|all| {
            let one = all
                .iter()
                .find(|one| one.id == id && one.session == session)?;
            Some(match &one.end {
                None => CalibrationStatus::Running,
                Some(end) => CalibrationStatus::Ended(end.clone()),
            })
        })
    }

    fn change<T>(&self, what: impl FnOnce(&mut VecDeque<StartedCalibration>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runs_at_a_time_and_only_its_session_sees_the_result() {
        let calibrations = Calibrations::default();
        assert!(calibrations.begin("a", 1) && !calibrations.begin("b", 2));
        assert!(matches!(
            calibrations.status("a", 1),
            Some(CalibrationStatus::Running)
        ));
        assert!(calibrations.status("a", 2).is_none() && calibrations.status("b", 2).is_none());
        calibrations.ended("a", Err(Status::internal("it broke")));
        let ended = calibrations.status("a", 1);
        assert!(matches!(ended, Some(CalibrationStatus::Ended(Err(_)))));
        assert!(calibrations.begin("b", 2));
    }

    #[test]
    fn the_oldest_result_is_dropped() {
        let calibrations = Calibrations::default();
        for number in 0..=REMEMBERED_MAX {
            assert!(calibrations.begin(&number.to_string(), 1));
            calibrations.ended(&number.to_string(), Ok(Operation::default()));
        }
        assert!(calibrations.status("0", 1).is_none() && calibrations.status("1", 1).is_some());
    }
}
