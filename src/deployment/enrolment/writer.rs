//! A thread that writes a gallery. Changes that wait at the same time share one transaction.
//!
//! A transaction needs one sync of the disk whatever its number of items, so sharing makes durable enrolment
//! fast under load. Changes are applied in the order in which they arrived.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;

use crate::deployment::DeploymentError;
use crate::monitor::Monitor;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::{Gallery, Upserted};

/// The highest number of waiting changes; callers above it are told to try again.
const QUEUE_LEN_MAX: usize = 256;

/// The writer of one gallery.
#[derive(Debug)]
pub(in crate::deployment) struct ChangeWriter {
    queue: Option<Sender<Change>>,
    thread: Option<JoinHandle<()>>,
    /// Whether changes are refused; see [`ChangeWriter::hold`].
    held: RwLock<bool>,
}

enum Change {
    Upsert(Item, Reply<Upserted>),
    Delete(String, Reply<bool>),
    /// Answered when all changes that were queued before it are written.
    Mark(oneshot::Sender<()>),
}

/// The channel for the outcome of a change. A caller that has disconnected needs none.
type Reply<T> = oneshot::Sender<Result<Written<T>, DeploymentError>>;

/// The result of a change, and the first generation of the gallery that contains it.
#[derive(Clone, Copy, Debug)]
pub(in crate::deployment) struct Written<T> {
    pub(in crate::deployment) outcome: T,
    pub(in crate::deployment) generation: u64,
}

impl ChangeWriter {
    /// Starts the thread. `monitor` hears which labels came and went.
    pub(in crate::deployment) fn start(
        gallery: Arc<Gallery>,
        monitor: Arc<Monitor>,
    ) -> Result<Self, DeploymentError> {
        let (queue, changes) = crossbeam_channel::bounded(QUEUE_LEN_MAX);
        let thread = thread::Builder::new()
            .name("gallery-writer".to_owned())
            .spawn(move || work(&WatchedGallery { gallery, monitor }, &changes))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            held: RwLock::new(false),
        })
    }

    pub(in crate::deployment) async fn upsert(
        &self,
        item: Item,
    ) -> Result<Written<Upserted>, DeploymentError> {
        let (reply, answer) = oneshot::channel();
        self.send(Change::Upsert(item, reply))?;
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    pub(in crate::deployment) async fn delete(
        &self,
        id: String,
    ) -> Result<Written<bool>, DeploymentError> {
        let (reply, answer) = oneshot::channel();
        self.send(Change::Delete(id, reply))?;
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    /// Refuses changes from now on, and returns when all those before are written. Blocks.
    ///
    /// # Errors
    /// Returns an error if they are refused already, or if the thread has ended.
    pub(in crate::deployment) fn hold(&self) -> Result<(), DeploymentError> {
        {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if *held {
                return Err(DeploymentError::Switching);
            }
            *held = true;
        }
        let (reply, written) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(writer_ended)?;
        let queued = queue.send(Change::Mark(reply)).is_ok();
        if queued && written.blocking_recv().is_ok() {
            return Ok(());
        }
        self.release();
        Err(writer_ended())
    }

    /// Takes changes again.
    pub(in crate::deployment) fn release(&self) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Whether changes are refused.
    pub(in crate::deployment) fn is_held(&self) -> bool {
        *self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, change: Change) -> Result<(), DeploymentError> {
        // Kept until the change is queued, so that `hold` waits for it.
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if *held {
            return Err(DeploymentError::Switching);
        }
        let queue = self.queue.as_ref().ok_or_else(writer_ended)?;
        queue.try_send(change).map_err(|refused| match refused {
            TrySendError::Full(_) => DeploymentError::WriterBusy {
                queue_len_max: QUEUE_LEN_MAX,
            },
            TrySendError::Disconnected(_) => writer_ended(),
        })
    }
}

impl Drop for ChangeWriter {
    /// Writes what is queued, then ends the thread.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the gallery's writer panicked");
        }
    }
}

/// The error if the thread has ended, which would be a bug because it lives as long as its deployment.
fn writer_ended() -> DeploymentError {
    DeploymentError::Broken {
        reason: "the gallery's writer has ended".to_owned(),
    }
}

/// A gallery that only this thread writes to, and the monitor of its deployment.
struct WatchedGallery {
    gallery: Arc<Gallery>,
    monitor: Arc<Monitor>,
}

impl WatchedGallery {
    /// Writes items in one transaction.
    fn upsert(&self, items: Vec<Item>) -> Result<Written<Vec<Upserted>>, DeploymentError> {
        let labels = items
            .iter()
            .flat_map(|item| [Some(item.label.clone()), self.label_of(&item.id)]);
        self.write(labels.flatten().collect(), || self.gallery.upsert(items))
    }

    /// Removes an item; `false` if there is none with this id.
    fn delete(&self, id: String) -> Result<Written<bool>, DeploymentError> {
        let labels = self.label_of(&id).into_iter().collect();
        self.write(labels, || {
            let deleted = self.gallery.delete(&[id])?;
            Ok(deleted.first().copied().unwrap_or(false))
        })
    }

    fn label_of(&self, id: &str) -> Option<String> {
        Some(self.gallery.get(id)?.label.clone())
    }

    /// Makes a change, and records which of these labels it added or removed. Nobody else writes meanwhile, so what
    /// differs before and after is due to this change.
    fn write<T>(
        &self,
        labels: BTreeSet<String>,
        change: impl FnOnce() -> Result<T, GalleryError>,
    ) -> Result<Written<T>, DeploymentError> {
        let before: Vec<(String, bool)> = labels
            .into_iter()
            .map(|label| {
                let enrolled = self.gallery.has_label(&label);
                (label, enrolled)
            })
            .collect();
        let outcome = change()?;
        let generation = self.gallery.view().generation();
        for (label, before) in before {
            let enrolled = self.gallery.has_label(&label);
            if enrolled != before {
                self.monitor.label_changed(&label, generation, enrolled);
            }
        }
        Ok(Written {
            outcome,
            generation,
        })
    }
}

fn work(gallery: &WatchedGallery, changes: &Receiver<Change>) {
    let mut upserts = Upserts::default();
    while let Ok(first) = changes.recv() {
        for change in std::iter::once(first).chain(changes.try_iter().take(QUEUE_LEN_MAX)) {
            match change {
                Change::Upsert(item, reply) => {
                    if upserts.ids.contains(&item.id) {
                        upserts.write(gallery);
                    }
                    upserts.ids.insert(item.id.clone());
                    upserts.waiting.push((item, reply));
                }
                Change::Delete(id, reply) => {
                    upserts.write(gallery);
                    drop(reply.send(gallery.delete(id)));
                }
                Change::Mark(reply) => {
                    upserts.write(gallery);
                    reply.send(()).unwrap_or_default();
                }
            }
        }
        upserts.write(gallery);
    }
}

/// Items with different ids that share a transaction, and their callers.
#[derive(Default)]
struct Upserts {
    ids: BTreeSet<String>,
    waiting: Vec<(Item, Reply<Upserted>)>,
}

impl Upserts {
    fn write(&mut self, gallery: &WatchedGallery) {
        self.ids.clear();
        let (items, replies): (Vec<Item>, Vec<_>) = self.waiting.drain(..).unzip();
        if 1 < items.len()
            && let Ok(written) = gallery.upsert(items.clone())
        {
            let generation = written.generation;
            for (outcome, reply) in written.outcome.into_iter().zip(replies) {
                drop(reply.send(Ok(Written {
                    outcome,
                    generation,
                })));
            }
            return;
        }
        // Nothing was written yet. The items are written one by one, so that only an invalid item fails.
        for (item, reply) in items.into_iter().zip(replies) {
            let written = gallery.upsert(vec![item]).map(|written| Written {
                outcome: written
                    .outcome
                    .into_iter()
                    .next()
                    .unwrap_or(Upserted::Inserted),
                generation: written.generation,
            });
            drop(reply.send(written));
        }
    }
}
