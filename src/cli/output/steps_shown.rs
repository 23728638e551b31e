//! Progress of a snapshot.

use std::ops::ControlFlow;

use super::progress::SharedProgress;
use crate::cli::exit::Exit;
use crate::cli::signal::Signal;

/// Shows progress, and stops at a signal.
pub(crate) struct StepsShown {
    shown: SharedProgress,
    signal: Signal,
}

impl StepsShown {
    pub(crate) fn begin(what: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            signal: Signal::listen("stopping; nothing will be left of it")?,
            shown: SharedProgress::new(what),
        })
    }

    /// The same for a task of a scheduler.
    pub(crate) fn begin_for_scheduler(what: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            signal: Signal::listen_for_scheduler("stopping; nothing will be left of it")?,
            shown: SharedProgress::new(what),
        })
    }

    pub(crate) fn at(&self, done: u64, all: u64) -> ControlFlow<()> {
        self.shown.at(done >> 20, all >> 20);
        if self.signal.received().is_some() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// The exit code if a signal has stopped it.
    pub(crate) fn finish(self) -> Option<Exit> {
        self.shown.finish();
        self.signal.received()
    }
}
