//! Long work is stopped by a signal, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::exit::Exit;
use super::output;

/// Whether SIGINT or SIGTERM has come. A second one ends the process.
pub(super) struct Signal(Arc<AtomicU8>);

impl Signal {
    /// Listens from now on; the first signal is answered with `stopping`.
    pub(super) fn listen(stopping: &'static str) -> anyhow::Result<Self> {
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
                        // Asked twice. What is on disk is whole.
                        std::process::exit(128 + i32::from(which));
                    }
                    output::error(stopping);
                }
            });
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)?;
        Ok(Self(received))
    }

    /// The exit code of the signal that has come.
    pub(super) fn received(&self) -> Option<Exit> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            2 => Some(Exit::Interrupted),
            _ => Some(Exit::Terminated),
        }
    }
}
