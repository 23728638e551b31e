//! Long work that Ctrl-C ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How long a signal waits to be seen.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Ends work that was stopped. Nobody reads what it says: the signal is raised in its place.
pub(super) fn unless_stopped(stopped: &AtomicBool) -> PyResult<()> {
    if stopped.load(Ordering::Relaxed) {
        return Err(PyRuntimeError::new_err("stopped"));
    }
    Ok(())
}

/// Does `work` on a thread of its own, while this one, which alone is shown signals, looks for them; the work
/// has to ask whether it was stopped. Other threads of Python go on meanwhile.
pub(super) fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> T + Send,
) -> PyResult<T> {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ending, ended) = channel::<()>();
        let stopped = &stopped;
        let working = scope.spawn(move || {
            // Dropped with the thread, however that ends.
            let _ending = ending;
            work(stopped)
        });
        let mut interrupt = None;
        // A receiver cannot be shared, so it goes to and fro.
        let mut ended = ended;
        loop {
            let waited;
            (ended, waited) = py.detach(move || {
                let waited = ended.recv_timeout(SIGNALS_EVERY);
                (ended, waited)
            });
            if waited != Err(RecvTimeoutError::Timeout) {
                break;
            }
            if let Err(signal) = py.check_signals() {
                stopped.store(true, Ordering::Relaxed);
                interrupt = Some(signal);
            }
        }
        let done = py.detach(|| working.join());
        match (interrupt, done) {
            (Some(signal), _) => Err(signal),
            (None, Ok(done)) => Ok(done),
            (None, Err(_)) => Err(PyRuntimeError::new_err(
                "the calibration panicked: a mistake in matchpoint-calibration; please report it",
            )),
        }
    })
}
