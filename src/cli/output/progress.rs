//! Progress of long work: a bar with rate and remaining time on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output;

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Counts items of known number.
#[derive(Debug)]
pub(crate) struct ItemProgress {
    what: &'static str,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
}

impl ItemProgress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let total = total as u64;
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix} {bar:30} {pos}/{len}  {per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_prefix(what)
        });
        let now = Instant::now();
        Self {
            what,
            total,
            done: 0,
            bar,
            started: now,
            last_line: now,
        }
    }

    /// Counts one more.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if LINE_INTERVAL <= self.last_line.elapsed() {
            self.last_line = Instant::now();
            output::error(&self.line());
        }
    }

    /// Sets how many are done.
    fn at(&mut self, done: u64) {
        self.done = done.saturating_sub(1);
        self.step();
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of images, for people to read"
    )]
    fn line(&self) -> String {
        let rate = self.done as f64 / self.started.elapsed().as_secs_f64();
        let left = (self.total.saturating_sub(self.done)) as f64 / rate;
        format!(
            "{}: {}/{}, {rate:.1}/s, about {left:.0} s left",
            self.what, self.done, self.total
        )
    }

    /// Removes the bar and returns the time taken.
    pub(crate) fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

/// Progress reported by several threads, whose numbers may come out of order.
#[derive(Debug)]
pub(crate) struct SharedProgress {
    what: &'static str,
    progress: Mutex<Option<(u64, ItemProgress)>>,
}

impl SharedProgress {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            progress: Mutex::new(None),
        }
    }

    /// Sets how many of the total are done; always continues.
    pub(crate) fn at(&self, done: u64, total: u64) -> bool {
        self.at_stage(self.what, done, total)
    }

    /// The same for one of several consecutive stages.
    pub(crate) fn at_stage(&self, what: &'static str, done: u64, total: u64) -> bool {
        let mut slot = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, before)) = slot.take_if(|(_, progress)| progress.what != what) {
            before.finish();
        }
        // Another total means another pass.
        let begins =
            |(of, progress): &(u64, ItemProgress)| *of != total || done < progress.done / 2;
        if slot.as_ref().is_none_or(begins) {
            let size = usize::try_from(total).unwrap_or(usize::MAX);
            *slot = Some((total, ItemProgress::new(what, size)));
        }
        if let Some((_, progress)) = slot.as_mut() {
            progress.at(done);
        }
        true
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        let slot = self.progress.into_inner();
        if let Some((_, progress)) = slot.unwrap_or_else(PoisonError::into_inner) {
            progress.finish();
        }
    }
}
