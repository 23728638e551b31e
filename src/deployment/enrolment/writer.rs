//! A thread that writes a gallery. Changes that wait at the same time share one transaction.
//!
//! A transaction needs one sync of the disk whatever its number of items, so sharing makes durable enrolment
//! fast under load. Changes are applied in the order in which they arrived.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use tokio::sync::oneshot;

use crate::deployment::DeploymentError;
use crate::deployment::enrolment::store_link::StoreLink;
use crate::deployment::enrolment::store_standing::StoreStanding;
use crate::deployment::enrolment::watched_gallery::{NewLabel, WatchedGallery, Written};
use crate::monitor::Monitor;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::{Gallery, Upserted};
use matchpoint_remote::{ItemChange, SharedPoint};
use matchpoint_vector::Embedding;

/// The highest number of waiting changes; callers above it are told to try again.
const QUEUE_LEN_MAX: usize = 256;

/// The writer of one gallery.
#[derive(Debug)]
pub(in crate::deployment) struct ChangeWriter {
    queue: Option<Sender<Change>>,
    thread: Option<JoinHandle<()>>,
    /// Whether changes are refused; see [`ChangeWriter::hold`].
    held: RwLock<bool>,
    standing: Option<Arc<StoreStanding>>,
}

enum Change {
    Upsert(Item, Reply<Upserted>),
    /// Answered with the embedding of the item.
    Relabel(NewLabel, Reply<Embedding>),
    Delete(String, Reply<bool>),
    /// The operating point that is to decide, for a store.
    Choose(SharedPoint, Sender<Result<(), DeploymentError>>),
    /// Answered when all changes that were queued before it are written.
    Mark(oneshot::Sender<()>),
}

/// The channel for the outcome of a change. A caller that has disconnected needs none.
type Reply<T> = oneshot::Sender<Result<Written<T>, DeploymentError>>;

impl ChangeWriter {
    /// Starts the thread. `monitor` hears which labels came and went. With a store the gallery is brought to its
    /// generation first, which blocks.
    pub(in crate::deployment) fn start(
        gallery: Arc<Gallery>,
        monitor: Arc<Monitor>,
        link: Option<StoreLink>,
    ) -> Result<Self, DeploymentError> {
        let (queue, changes) = crossbeam_channel::bounded(QUEUE_LEN_MAX);
        let standing = link.as_ref().map(StoreLink::standing);
        let gallery = WatchedGallery { gallery, monitor };
        let mut written = WrittenGallery { gallery, link };
        if let Some(link) = &mut written.link {
            link.follow(&written.gallery)?;
        }
        let thread = thread::Builder::new()
            .name("gallery-writer".to_owned())
            .spawn(move || work(written, &changes))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            held: RwLock::new(false),
            standing,
        })
    }

    /// How the gallery stands to its store; `None` without one.
    pub(in crate::deployment) fn standing(&self) -> Option<&StoreStanding> {
        self.standing.as_deref()
    }

    pub(in crate::deployment) async fn upsert(
        &self,
        item: Item,
    ) -> Result<Written<Upserted>, DeploymentError> {
        let (reply, answer) = oneshot::channel();
        self.send(Change::Upsert(item, reply))?;
        answer.await.unwrap_or_else(|_| Err(writer_ended()))
    }

    pub(in crate::deployment) async fn relabel(
        &self,
        new: NewLabel,
    ) -> Result<Written<Embedding>, DeploymentError> {
        let (reply, answer) = oneshot::channel();
        self.send(Change::Relabel(new, reply))?;
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

    /// Chooses the operating point that decides at all servers of the store. Blocks.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached, or if another server makes the changes.
    pub(in crate::deployment) fn choose(&self, point: SharedPoint) -> Result<(), DeploymentError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(Change::Choose(point, reply))?;
        answer.recv().unwrap_or_else(|_ended| Err(writer_ended()))
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

/// What the thread writes: the gallery, and before it the store, if there is one.
struct WrittenGallery {
    gallery: WatchedGallery,
    link: Option<StoreLink>,
}

impl WrittenGallery {
    /// Waits for a change, and follows the store meanwhile; `None` once there will be no more.
    fn next(&mut self, changes: &Receiver<Change>) -> Option<Change> {
        let Some(link) = &mut self.link else {
            return changes.recv().ok();
        };
        loop {
            match changes.recv_deadline(link.look_if_due(&self.gallery)) {
                Ok(change) => return Some(change),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn upsert(&mut self, items: Vec<Item>) -> Result<Written<Vec<Upserted>>, DeploymentError> {
        self.upsert_if(items, |_| Ok(()))
    }

    /// Gives an item another label. Nobody else changes it meanwhile.
    fn relabel(&mut self, new: NewLabel) -> Result<Written<Embedding>, DeploymentError> {
        if let Some(link) = &mut self.link {
            link.lead(&self.gallery)?;
        }
        let (item, etag) = self.gallery.relabelled(new)?;
        let (id, embedding) = (item.id.clone(), item.embedding.clone());
        let holds = |gallery: &WatchedGallery| gallery.check_unchanged(&id, &etag);
        let written = self.upsert_if(vec![item], holds)?;
        Ok(Written {
            outcome: embedding,
            generation: written.generation,
        })
    }

    /// Enrols items. `holds` is asked again if the gallery turns out to be behind its store.
    fn upsert_if(
        &mut self,
        items: Vec<Item>,
        holds: impl Fn(&WatchedGallery) -> Result<(), DeploymentError>,
    ) -> Result<Written<Vec<Upserted>>, DeploymentError> {
        let Some(link) = &mut self.link else {
            return self.gallery.upsert(items);
        };
        // What the gallery would refuse must not be in the store.
        self.gallery.gallery.check(&items)?;
        let committed = link.commit(&self.gallery, ItemChange::Upsert(&items), holds)?;
        let written = self.gallery.upsert(items);
        let written = written.map_err(|cause| link.not_written(&cause))?;
        link.compare(&self.gallery, committed)?;
        Ok(written)
    }

    /// Removes an item; `false` if there is none with this id.
    fn delete(&mut self, id: String) -> Result<Written<bool>, DeploymentError> {
        let ids = [id];
        let committed = match &mut self.link {
            Some(link) => link.commit(&self.gallery, ItemChange::Delete(&ids), |_| Ok(()))?,
            None => None,
        };
        let written = self.gallery.delete(&ids);
        let written = match &self.link {
            Some(link) if committed.is_some() => {
                let written = written.map_err(|cause| link.not_written(&cause))?;
                link.compare(&self.gallery, committed)?;
                written
            }
            Some(_) | None => written?,
        };
        Ok(Written {
            outcome: written.outcome.first().copied().unwrap_or(false),
            generation: written.generation,
        })
    }
}

fn work(mut gallery: WrittenGallery, changes: &Receiver<Change>) {
    let mut upserts = Upserts::default();
    let gallery = &mut gallery;
    while let Some(first) = gallery.next(changes) {
        for change in std::iter::once(first).chain(changes.try_iter().take(QUEUE_LEN_MAX)) {
            match change {
                Change::Upsert(item, reply) => {
                    if upserts.ids.contains(&item.id) {
                        upserts.write(gallery);
                    }
                    upserts.ids.insert(item.id.clone());
                    upserts.waiting.push((item, reply));
                }
                Change::Relabel(new, reply) => {
                    upserts.write(gallery);
                    drop(reply.send(gallery.relabel(new)));
                }
                Change::Delete(id, reply) => {
                    upserts.write(gallery);
                    drop(reply.send(gallery.delete(id)));
                }
                Change::Choose(point, reply) => {
                    upserts.write(gallery);
                    let chosen = match &mut gallery.link {
                        Some(link) => link.choose(&gallery.gallery, &point),
                        None => Ok(()),
                    };
                    drop(reply.send(chosen));
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
    fn write(&mut self, gallery: &mut WrittenGallery) {
        self.ids.clear();
        let (items, replies): (Vec<Item>, Vec<_>) = self.waiting.drain(..).unzip();
        if 1 < items.len() {
            match gallery.upsert(items.clone()) {
                Ok(written) => {
                    let generation = written.generation;
                    for (outcome, reply) in written.outcome.into_iter().zip(replies) {
                        drop(reply.send(Ok(Written {
                            outcome,
                            generation,
                        })));
                    }
                    return;
                }
                Err(DeploymentError::NotWrittenHere) => {
                    for reply in replies {
                        drop(reply.send(Err(DeploymentError::NotWrittenHere)));
                    }
                    return;
                }
                Err(_) => {}
            }
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
