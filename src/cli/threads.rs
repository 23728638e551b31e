//! The threads that computations share, and whether the system starts as many as a command takes.

use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use anyhow::Context;

use super::exit::{Exit, fail};
use crate::config::{Environment, ProcessEnvironment};

/// Threads of a command beside the shared ones: they read, write, embed, and wait for signals.
const BESIDE: usize = 16;
/// Of a thread that only counts.
const SMALL_STACK: usize = 64 * 1024;

/// Starts the shared threads: one for each core, or fewer where the system starts no more. Without this they are started by
/// the first computation, which panics where they cannot be.
///
/// # Errors
/// None is left for them. `others` are the threads that the command takes for each core, beside.
pub(super) fn start(others: usize) -> anyhow::Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let beside = BESIDE + others * cores;
    let startable = startable(beside + cores);
    let shared = startable.saturating_sub(beside);
    if shared == 0 {
        let message = format!(
            "the system lets this process start {startable} threads, and it takes {} at least; raise the limit (`ulimit -u`, TasksMax= of systemd, --pids-limit of a container, podPidsLimit of Kubernetes), \
             or end what else this user runs",
            beside + 1
        );
        return Err(fail(Exit::Io, message));
    }
    // The library's own setting, by which comparisons give each program as many threads.
    let asked = ProcessEnvironment.get("RAYON_NUM_THREADS");
    let asked = asked.and_then(|number| number.parse().ok());
    let asked = asked.filter(|number| 0 < *number).unwrap_or(shared);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(shared.min(asked));
    pool.build_global()
        .context("cannot start the threads that compute")
}

/// How many threads can be started, if not more than so many.
fn startable(most: usize) -> usize {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let start = |_number: &usize| {
            let thread = thread::Builder::new().stack_size(SMALL_STACK);
            let wait = || drop(gate.lock());
            thread.spawn_scoped(scope, wait).is_ok()
        };
        let started = (0..most).take_while(start).count();
        drop(closed);
        started
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_up_to_what_is_asked_for() {
        assert_eq!([0, 1, 20].map(startable), [0, 1, 20]);
    }
}
