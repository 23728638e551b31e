//! The one thread that writes: decisions in batches, annotations, and removals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::SETTLED_AFTER_MS;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::journal::audit::AnnotationOutcomes;
use crate::journal::entry::Annotation;
use crate::journal::error::JournalError;
use crate::journal::retention::{JournalOptions, RetentionCursor};
use crate::journal::store::{JournalStore, WaitingDecision};
use crate::journal::totals::{Committed, CountsByKey, LostDecisions};
use crate::journal::waiting::WaitingFiles;

/// Decisions that may wait for the writer: a second of searches at full load. If the disk fails, the writer
/// itself keeps as many more.
pub(super) const QUEUE_LEN_MAX: usize = 8192;
/// Decisions of one transaction.
pub(super) const BATCH_LEN: usize = 1000;
/// How often the writer looks at the queue, and writes what is there, if nobody wakes it. To wake it for each decision
/// would take a search as long as to record it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long to wait after a failure before writing is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Decisions that are older when they are written are late: well before others count past them.
const LATE_AFTER_MS: u64 = SETTLED_AFTER_MS / 2;
/// How often the age of rows is checked.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// Removal steps before the queue is looked at again.
const STEPS_AT_ONCE: usize = 4;

/// Requests to the writer.
pub(super) enum WriterRequest {
    Record(Box<WaitingDecision>),
    Annotate(
        Vec<Annotation>,
        Sender<Result<AnnotationOutcomes, JournalError>>,
    ),
    /// Write what is queued.
    Flush(Sender<Result<(), JournalError>>),
    /// Remove all that is too old.
    Retain(Sender<Result<(), JournalError>>),
}

/// Everything that was lost since the journal exists, also what is not on the disk yet, and how much is
/// queued.
#[derive(Debug, Default)]
pub(super) struct WriterCounts {
    pub(super) queue_full: AtomicU64,
    pub(super) not_written: AtomicU64,
    pub(super) images: AtomicU64,
    /// How often decisions were written late.
    pub(super) late_writes: AtomicU64,
    /// Bytes of images in the queue and with the writer.
    pub(super) image_bytes: AtomicUsize,
}

impl WriterCounts {
    /// Continues from what the disk has.
    pub(super) fn after(lost: LostDecisions) -> Self {
        Self {
            queue_full: lost.queue_full.into(),
            not_written: lost.not_written.into(),
            images: lost.images.into(),
            late_writes: AtomicU64::default(),
            image_bytes: AtomicUsize::default(),
        }
    }

    pub(super) fn lost(&self) -> LostDecisions {
        LostDecisions {
            queue_full: self.queue_full.load(Ordering::Relaxed),
            not_written: self.not_written.load(Ordering::Relaxed),
            images: self.images.load(Ordering::Relaxed),
        }
    }
}

impl Drop for JournalWorker {
    /// What is never written is lost: if the disk failed to the end, or the writer panicked.
    fn drop(&mut self) {
        let waits = self.inbox.try_iter();
        let waits = waits.filter(|message| matches!(message, WriterRequest::Record(_)));
        let lost = (self.batch.len() + waits.count()) as u64;
        self.shared.not_written.fetch_add(lost, Ordering::Relaxed);
    }
}

/// Where the writer reports what it has committed.
pub(super) type Observe = Box<dyn FnMut(&Committed) + Send>;

pub(super) struct JournalWorker {
    pub(super) inbox: Receiver<WriterRequest>,
    pub(super) store: JournalStore,
    pub(super) options: JournalOptions,
    /// How much too far ahead the clock is taken to be when ages are computed.
    pub(super) clock_ahead_ms: u64,
    pub(super) shared: Arc<WriterCounts>,
    pub(super) observe: Observe,
    /// What is queued, in files that survive the end of the process.
    pub(super) files: WaitingFiles,
    /// Decisions ever taken from the queue.
    pub(super) taken: u64,
    pub(super) batch: Vec<WaitingDecision>,
    /// When the batch is written.
    pub(super) due: Option<Instant>,
    pub(super) retain_at: Instant,
    pub(super) cursor: RetentionCursor,
    /// Whether the last attempt to write failed.
    pub(super) failing: bool,
    /// Sampled decisions that were removed for space, and when the log last said so.
    pub(super) crowded_out: u64,
    pub(super) crowded_logged: Option<Instant>,
}

impl JournalWorker {
    pub(super) fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => {
                    self.handle(message);
                    if self.batch.len() < BATCH_LEN {
                        continue;
                    }
                }
                Err(TryRecvError::Empty) => self.wait(),
                Err(TryRecvError::Disconnected) => break,
            }
            let now = Instant::now();
            if self.due.is_some_and(|due| due <= now) {
                drop(self.commit());
            }
            if self.retain_at <= now {
                self.retain_at = now + RETENTION_EVERY;
                drop(self.retain(STEPS_AT_ONCE));
                if self.batch.is_empty() {
                    self.files.committed(self.taken);
                }
            }
        }
        if self.commit().is_ok() {
            self.files.remove();
        } else {
            let lost = self.batch.len();
            tracing::error!(
                lost,
                "decisions could not be recorded before the end; the next start records them from the files where they wait"
            );
        }
    }

    fn wait(&self) {
        let next = self
            .due
            .map_or(self.retain_at, |due| due.min(self.retain_at));
        let left = next.saturating_duration_since(Instant::now());
        thread::park_timeout(left.min(LOOK_EVERY));
    }

    fn handle(&mut self, message: WriterRequest) {
        match message {
            WriterRequest::Record(waiting) => self.take(*waiting),
            WriterRequest::Annotate(labels, reply) => {
                // First the decisions that it may be about.
                let done = self.commit().and_then(|()| {
                    let labelled = self.store.label(&labels);
                    labelled.inspect_err(|error| self.store.note(error))
                });
                // The caller may have gone.
                drop(reply.send(done));
            }
            WriterRequest::Flush(reply) => drop(reply.send(self.commit())),
            WriterRequest::Retain(reply) => {
                let done = self.commit().and_then(|()| self.retain(usize::MAX));
                drop(reply.send(done));
            }
        }
    }

    fn take(&mut self, waiting: WaitingDecision) {
        self.taken += 1;
        if QUEUE_LEN_MAX <= self.batch.len() {
            // The disk has been failing for a long time.
            self.let_go(&waiting);
            self.shared.not_written.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.cursor.inserted(waiting.entry.id.as_bytes());
        self.batch.push(waiting);
        // At once, unless the disk fails.
        self.due.get_or_insert_with(Instant::now);
    }

    fn let_go(&self, waiting: &WaitingDecision) {
        let bytes = waiting.image.as_ref().map_or(0, Bytes::len);
        self.shared.image_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Writes what is queued. If that fails, it stays queued, and nobody else waits for it.
    fn commit(&mut self) -> Result<(), JournalError> {
        let lost = self.shared.lost().without(self.store.lost());
        if self.batch.is_empty() && lost == LostDecisions::default() && !self.store.is_broken() {
            self.due = None;
            self.files.committed(self.taken);
            return Ok(());
        }
        match self.store.write(&self.batch, lost) {
            Ok(changes) => {
                let made_ms = self.batch.iter().map(|waiting| waiting.entry.id.unix_ms());
                let first_ms = made_ms.min().unwrap_or(u64::MAX);
                if first_ms.saturating_add(LATE_AFTER_MS) < (self.options.clock)() {
                    self.shared.late_writes.fetch_add(1, Ordering::Relaxed);
                }
                for waiting in std::mem::take(&mut self.batch) {
                    self.let_go(&waiting);
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("decisions are recorded again");
                }
                self.due = None;
                self.files.committed(self.taken);
                self.announce(&changes);
                self.keep_to_size();
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "decisions cannot be recorded; searches are decided all the same, and writing is tried again");
                }
                self.due = Some(Instant::now() + RETRY_WAIT);
                Err(error)
            }
        }
    }

    fn announce(&mut self, changes: &CountsByKey) {
        match self.store.committed(Some(changes)) {
            Ok(mut committed) => {
                committed.crowded_out = std::mem::take(&mut self.crowded_out);
                (self.observe)(&committed);
            }
            Err(error) => tracing::error!(%error, "the journal's totals could not be read"),
        }
    }

    /// Removes soon what no longer fits.
    fn keep_to_size(&mut self) {
        let used = self.store.used_bytes();
        if used.is_ok_and(|used| self.options.retention.bytes < used) {
            self.retain_at = Instant::now();
        }
    }

    fn retain(&mut self, steps: usize) -> Result<(), JournalError> {
        let mut changes = CountsByKey::new();
        let mut outcome = Ok(());
        for _ in 0..steps {
            let now = (self.options.clock)().saturating_sub(self.clock_ahead_ms);
            let retention = self.options.retention;
            match self.store.remove_step(retention, now, &mut self.cursor) {
                Ok(removed) => {
                    crate::journal::totals::add(&mut changes, &removed.changes);
                    self.crowded_out += removed.crowded_out;
                    if !removed.more {
                        self.retain_at = Instant::now() + RETENTION_EVERY;
                        break;
                    }
                    self.retain_at = Instant::now();
                }
                Err(error) => {
                    tracing::error!(%error, "old decisions could not be removed");
                    self.store.note(&error);
                    outcome = Err(error);
                    break;
                }
            }
        }
        let logged = self.crowded_logged;
        if 0 < self.crowded_out && logged.is_none_or(|logged| RETENTION_EVERY < logged.elapsed()) {
            self.crowded_logged = Some(Instant::now());
            tracing::warn!(
                "decisions that were sampled for the audit were removed for space before anybody annotated them; raise journal_bytes_max"
            );
        }
        if !changes.is_empty() {
            self.announce(&changes);
        }
        outcome
    }
}
