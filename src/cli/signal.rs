//! Long work is stopped by a signal, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::exit::Exit;
use super::output;

/// How long a task of a scheduler may take to end: it is killed soon after.
const GRACE: Duration = Duration::from_secs(15);

/// In place of a signal: what it would have stopped is over.
const OVER: u8 = u8::MAX;

/// Whether SIGINT or SIGTERM has come. A second one ends the process, as does one after [`Signal::over`].
pub(super) struct Signal(Arc<AtomicU8>);

impl Signal {
    /// Listens from now on; the first signal is answered with `stopping`.
    pub(super) fn listen(stopping: &'static str) -> anyhow::Result<Self> {
        Self::answer(stopping, None)
    }

    /// The same for a task of a scheduler: the process ends 15 seconds later at the latest, to be started again.
    pub(super) fn listen_for_scheduler(stopping: &'static str) -> anyhow::Result<Self> {
        Self::answer(stopping, Some(Exit::Again))
    }

    fn answer(stopping: &'static str, ends_with: Option<Exit>) -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let received = Arc::new(AtomicU8::new(0));
        let heard = Arc::clone(&received);
        let runtime = super::runtime::single_threaded()?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        let wait = move || {
            runtime.block_on(async {
                loop {
                    let which =
                        tokio::select! { _ = interrupt.recv() => 2, _ = terminate.recv() => 15 };
                    if heard.swap(which, Ordering::SeqCst) != 0 {
                        // Asked twice, or nothing is left to stop. What is on disk is whole.
                        let own = ends_with.map_or(128 + which, Exit::code);
                        std::process::exit(i32::from(own));
                    }
                    output::error(stopping);
                    if let Some(exit) = ends_with {
                        tokio::time::sleep(GRACE).await;
                        std::process::exit(i32::from(exit.code()));
                    }
                }
            });
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)?;
        Ok(Self(received))
    }

    /// From now on a signal ends the process, and does not say that it stops the work. Returns the exit code of one that
    /// came before.
    pub(super) fn over(&self) -> Option<Exit> {
        let order = Ordering::SeqCst;
        match self.0.compare_exchange(0, OVER, order, order) {
            Ok(_) => None,
            Err(_) => self.received(),
        }
    }

    /// The exit code of the signal that has come.
    pub(super) fn received(&self) -> Option<Exit> {
        match self.0.load(Ordering::SeqCst) {
            0 | OVER => None,
            2 => Some(Exit::Interrupted),
            _ => Some(Exit::Terminated),
        }
    }
}
