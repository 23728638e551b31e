//! Calibrations that were started on a page, and their results. They are kept in memory only; a calibration
//! that a restart interrupts has changed nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use super::picked_pictures::NotSearched;
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
    left_out: NotSearched,
    end: Option<Result<Operation, Status>>,
}

/// A calibration that runs. When it is dropped, also by a panic, the calibration has ended.
pub(super) struct CalibrationGuard {
    calibrations: Calibrations,
    id: String,
}

impl CalibrationGuard {
    /// Keeps its result.
    pub(super) fn ended(self, end: Result<Operation, Status>) {
        self.calibrations.end(&self.id, end);
    }
}

impl Drop for CalibrationGuard {
    fn drop(&mut self) {
        let broke = "a fault of the program ended the calibration; the server's log has the cause";
        self.calibrations
            .end(&self.id, Err(Status::internal(broke)));
    }
}

/// The status of a calibration.
pub(super) enum CalibrationStatus {
    /// Still running.
    Running,
    /// Finished; an error if it could not start.
    Ended(Result<Operation, Status>),
}

impl Calibrations {
    /// Adds a new one, unless another is running: its pictures stay in memory until it ends.
    pub(super) fn begin(
        &self,
        id: &str,
        session: u64,
        left_out: NotSearched,
    ) -> Option<CalibrationGuard> {
        self.change(|all| {
            if all.iter().any(|one| one.end.is_none()) {
                return None;
            }
            while REMEMBERED_MAX <= all.len() {
                all.pop_front();
            }
            all.push_back(StartedCalibration {
                id: id.to_owned(),
                session,
                left_out,
                end: None,
            });
            Some(CalibrationGuard {
                calibrations: self.clone(),
                id: id.to_owned(),
            })
        })
    }

    /// Keeps the first result of a calibration.
    fn end(&self, id: &str, end: Result<Operation, Status>) {
        self.change(|all| {
            if let Some(one) = all.iter_mut().find(|one| one.id == id) {
                one.end.get_or_insert(end);
            }
        });
    }

    /// The status of a session's calibration, and what it did not search for; `None` if the session has no such
    /// calibration.
    pub(super) fn status(
        &self,
        id: &str,
        session: u64,
    ) -> Option<(CalibrationStatus, NotSearched)> {
        self.change(|all| {
            let one = all
                .iter()
                .find(|one| one.id == id && one.session == session)?;
            let status = match &one.end {
                None => CalibrationStatus::Running,
                Some(end) => CalibrationStatus::Ended(end.clone()),
            };
            Some((status, one.left_out.clone()))
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
        let begin = |id, session| calibrations.begin(id, session, NotSearched::default());
        let running = begin("a", 1).unwrap();
        assert!(begin("b", 2).is_none());
        assert!(matches!(
            calibrations.status("a", 1),
            Some((CalibrationStatus::Running, _))
        ));
        assert!(calibrations.status("a", 2).is_none() && calibrations.status("b", 2).is_none());
        running.ended(Ok(Operation::default()));
        let ended = calibrations.status("a", 1);
        assert!(matches!(ended, Some((CalibrationStatus::Ended(Ok(_)), _))));
        assert!(begin("b", 2).is_some());
    }

    #[tokio::test]
    async fn one_that_panics_has_ended_and_lets_the_next_one_start() {
        let calibrations = Calibrations::default();
        let running = calibrations.begin("a", 1, NotSearched::default()).unwrap();
        let work = tokio::spawn(async move {
            let _running = running;
            assert!(std::hint::black_box(false), "a fault");
        });
        assert!(work.await.unwrap_err().is_panic());
        let ended = calibrations.status("a", 1);
        let Some((CalibrationStatus::Ended(Err(fault)), _)) = ended else {
            panic!("it is still running");
        };
        assert!(fault.message().contains("a fault of the program"));
        assert!(calibrations.begin("b", 1, NotSearched::default()).is_some());
    }

    #[test]
    fn the_oldest_result_is_dropped() {
        let calibrations = Calibrations::default();
        for number in 0..=REMEMBERED_MAX {
            let running = calibrations.begin(&number.to_string(), 1, NotSearched::default());
            running.unwrap().ended(Ok(Operation::default()));
        }
        assert!(calibrations.status("0", 1).is_none() && calibrations.status("1", 1).is_some());
    }
}
