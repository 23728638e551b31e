//! The log of decisions: bounded, on the disk, with what people say about them.
//!
//! A search puts its decision into a queue, and into a file that outlives the process, and continues. One
//! thread writes what is queued in one transaction, twice a second or a thousand at once, together
//! with the totals: so totals and rows always agree, also after a crash. What cannot be recorded is counted
//! as lost, and no search fails because of it.

mod audit;
pub mod entry;
pub mod error;
mod file;
mod format;
pub mod read;
mod retention;
mod store;
#[cfg(test)]
mod tests;
pub mod totals;
mod waiting;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError};

pub use retention::{JournalOptions, Retention};

use crate::journal::entry::{
    Annotation, AnnotationOutcome, AnnotationRefusal, DecisionEntry, JournalId,
};
use crate::journal::error::{JournalError, file_failed};
use crate::journal::read::JournalReader;
use crate::journal::retention::RetentionCursor;
use crate::journal::store::{JournalStore, WaitingDecision};
use crate::journal::totals::{Committed, LostDecisions};
use crate::journal::waiting::{SharedFile, WaitingFiles};
use crate::journal::writer::{
    BATCH_LEN, JournalWorker, QUEUE_LEN_MAX, WriterCounts, WriterRequest,
};

/// Its name within a deployment's folder.
pub const FILE_NAME: &str = "decisions.db";

/// Decisions of so long ago are all written, but for late writes ([`Losses::late_writes`]).
pub const SETTLED_AFTER_MS: u64 = 60_000;
/// Annotations of one call: one transaction of well under a second.
pub const LABELS_MAX: usize = 10_000;
/// Images that may wait to be written, together.
const IMAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an annotation or a flush waits for the writer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// An open journal, for writing: one for each file. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    name: JournalId,
    queue: Option<Sender<WriterRequest>>,
    waiting: SharedFile,
    shared: Arc<WriterCounts>,
    thread: Option<JoinHandle<()>>,
}

/// Counts what a journal has lost, also what is not on the disk yet.
#[derive(Debug)]
pub struct Losses(Arc<WriterCounts>);

impl Losses {
    /// Everything that was lost since the journal exists.
    #[must_use]
    pub fn ever(&self) -> LostDecisions {
        self.0.lost()
    }

    /// How often, since the journal was opened, decisions were written so late that who counts by time may have counted
    /// past them ([`SETTLED_AFTER_MS`]): after the disk failed, or hung.
    #[must_use]
    pub fn late_writes(&self) -> u64 {
        self.0.late_writes.load(Ordering::Relaxed)
    }
}

impl Journal {
    /// Opens the journal at `path`, or creates one. A damaged one is renamed, with an error in the log, and
    /// a new one created. The caller makes sure that there is no other writer.
    ///
    /// `observe` gets the totals: all of them before this returns, and after that those that a commit
    /// changed, on the writer's thread.
    ///
    /// # Errors
    /// A file of another program or version, or the disk failed.
    pub fn open(
        path: &Path,
        options: JournalOptions,
        mut observe: impl FnMut(&Committed) + Send + 'static,
    ) -> Result<Self, JournalError> {
        let mut store = JournalStore::open_or_begin(path)?;
        let left = store.take_what_waited()?;
        let is_full = left.is_some();
        let left = left.unwrap_or_default();
        let clock_ahead_ms = store.clock_ahead_ms((options.clock)())?;
        let files = WaitingFiles::begin(path, is_full)?;
        let waiting = files.open.clone();
        observe(&store.committed(None)?);
        let (queue, inbox) = crossbeam_channel::bounded(QUEUE_LEN_MAX);
        let (shared, name) = (
            Arc::new(WriterCounts::after(store.lost().with(left.lost))),
            store.name,
        );
        let worker = JournalWorker {
            inbox,
            store,
            options,
            clock_ahead_ms,
            shared: Arc::clone(&shared),
            observe: Box::new(observe),
            files,
            taken: 0,
            batch: left.batch,
            due: is_full.then(Instant::now),
            retain_at: Instant::now(),
            cursor: RetentionCursor::default(),
            failing: is_full,
            crowded_out: 0,
            crowded_logged: None,
        };
        let thread = thread::Builder::new()
            .name("journal-writer".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| file_failed(path, "start the writer of", source))?;
        Ok(Self {
            path: path.to_path_buf(),
            name,
            queue: Some(queue),
            waiting,
            shared,
            thread: Some(thread),
        })
    }

    /// Its name in the ids of its decisions.
    #[must_use]
    pub fn name(&self) -> JournalId {
        self.name
    }

    /// Records a decision, with its image if that is kept: after this returns, the decision survives the
    /// end of the process. Never waits for the disk: if too much is queued already, the decision is counted
    /// as lost.
    pub fn record(&self, entry: DecisionEntry, image: Option<Bytes>) {
        let image = image.filter(|image| self.take_room(image.len()));
        let bytes = image.as_ref().map_or(0, Bytes::len);
        let line = waiting::line(&entry, image.is_some());
        let message = WriterRequest::Record(Box::new(WaitingDecision { entry, image }));
        // The queue and the file have the same order.
        let mut file = self.waiting.lock();
        let sent = self.queue.as_ref().map(|queue| queue.try_send(message));
        let lost = match sent {
            Some(Ok(())) => {
                file.take(&line);
                drop(file);
                return self.wake_for(BATCH_LEN);
            }
            Some(Err(TrySendError::Full(_))) => &self.shared.queue_full,
            // The writer panicked, which the log says.
            Some(Err(TrySendError::Disconnected(_))) | None => &self.shared.not_written,
        };
        lost.fetch_add(1, Ordering::Relaxed);
        self.shared.image_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Wakes the writer if at least so many requests are queued.
    fn wake_for(&self, queued: usize) {
        let (Some(queue), Some(thread)) = (&self.queue, &self.thread) else {
            return;
        };
        if queued <= queue.len() {
            thread.thread().unpark();
        }
    }

    /// Whether an image may be queued too; if not, it is counted as lost.
    fn take_room(&self, bytes: usize) -> bool {
        let waiting = &self.shared.image_bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= IMAGE_BYTES_MAX;
        if !fits {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.images.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// What was lost, now and later: works even if nothing can be written.
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses(Arc::clone(&self.shared))
    }

    /// Writes annotations, all in one transaction, and returns what became of each, in their order. They
    /// are on the disk when it returns. Blocks.
    ///
    /// # Errors
    /// More than [`LABELS_MAX`], the writer is too far behind, or the disk failed; nothing is written then.
    pub fn report(
        &self,
        labels: Vec<Annotation>,
    ) -> Result<Vec<Result<AnnotationOutcome, AnnotationRefusal>>, JournalError> {
        if LABELS_MAX < labels.len() {
            return Err(JournalError::Batch {
                found: labels.len(),
                max: LABELS_MAX,
            });
        }
        self.ask(|reply| WriterRequest::Annotate(labels, reply))
    }

    /// Writes what is queued. Blocks until it is on the disk.
    ///
    /// # Errors
    /// The writer is too far behind, or the disk.
    pub fn flush(&self) -> Result<(), JournalError> {
        self.ask(WriterRequest::Flush)
    }

    /// Removes all rows that are too old or do not fit. Blocks.
    ///
    /// # Errors
    /// The writer is too far behind, or the disk.
    pub fn retain(&self) -> Result<(), JournalError> {
        self.ask(WriterRequest::Retain)
    }

    /// Opens it a second time, for reading.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn reader(&self) -> Result<JournalReader, JournalError> {
        JournalReader::open(&self.path)
    }

    fn ask<T>(
        &self,
        message: impl FnOnce(Sender<Result<T, JournalError>>) -> WriterRequest,
    ) -> Result<T, JournalError> {
        let queue = self.queue.as_ref().ok_or(JournalError::Ended)?;
        let (reply, answer): (_, Receiver<_>) = crossbeam_channel::bounded(1);
        let sent = queue.send_timeout(message(reply), ANSWER_WAIT);
        sent.map_err(|refused| match refused {
            SendTimeoutError::Timeout(_) => JournalError::Busy,
            SendTimeoutError::Disconnected(_) => JournalError::Ended,
        })?;
        self.wake_for(0);
        answer
            .recv_timeout(ANSWER_WAIT)
            .map_err(|refused| match refused {
                RecvTimeoutError::Timeout => JournalError::Busy,
                RecvTimeoutError::Disconnected => JournalError::Ended,
            })?
    }
}

impl Drop for Journal {
    /// Writes what is queued, then ends the thread.
    fn drop(&mut self) {
        self.queue.take();
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the journal's writer panicked");
        }
    }
}
