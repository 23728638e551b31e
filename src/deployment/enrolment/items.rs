//! Enrols, removes and looks up items of a deployment.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::deployment::DeploymentError;
use crate::deployment::enrolment::watched_gallery::NewLabel;
use crate::deployment::open::Deployment;
use crate::deployment::search::request::Query;
use crate::deployment::search::worker::embed_query;
use crate::deployment::search::{Waits, WorkerJob};
use crate::monitor::OtherItem;
use crate::telemetry;
use matchpoint_calibration::likeness::{Alike, alike};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_gallery::Upserted;
use matchpoint_gallery::item::{Item, ItemHead};
use matchpoint_gallery::mapped_vectors::Vector;
use matchpoint_vector::Embedding;

/// An item to enrol, without its embedding.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// The caller's id: 1 to 512 bytes, unique in the gallery.
    pub id: String,
    /// The identity or class that it shows: 1 to 512 bytes.
    pub label: String,
    /// Free text that is returned with a match.
    pub metadata: BTreeMap<String, String>,
}

/// An item that was enrolled.
#[derive(Clone, Debug)]
pub struct EnrolledItem {
    /// Whether it was new.
    pub outcome: Upserted,
    /// The first generation of the gallery that contains it.
    pub generation: u64,
    /// Items of other labels that the active operating point accepts it as, the nearest first; `None` if this
    /// was not checked.
    pub accepted_as: Option<Vec<OtherItem>>,
}

impl Deployment {
    /// Enrols or replaces one item. Returns when it is on disk, with the items of other labels that it would be
    /// accepted as.
    ///
    /// # Errors
    /// Returns an error if the source or the item is invalid, if the queue is full, or if the disk fails.
    pub async fn upsert(
        &self,
        caller: Caller,
        new: NewItem,
        source: Query,
    ) -> Result<EnrolledItem, DeploymentError> {
        let writer = self.writer()?;
        let keep = self.gallery.keeps_images();
        let job = WorkerJob::now(caller, self.precheck(&source)?, Waits::Caller);
        let embedded = self.work(job, move |worker, limits, timings| {
            let (source_sha256, image) = (source.sha256(), source.kept(keep));
            let embedding = embed_query(worker, source, limits, timings)?;
            Ok((embedding, source_sha256, image))
        });
        let ((embedding, source_sha256, image), _) = embedded.await?;
        let NewItem {
            id,
            label,
            metadata,
        } = new;
        let enrolled = label.clone();
        let (item_id, searched) = (id.clone(), embedding.clone());
        let item = Item {
            id,
            label,
            metadata,
            embedding,
            source_sha256,
            image: image.map(Vec::from),
        };
        let written = writer
            .upsert(item)
            .await
            .inspect_err(|error| self.record_failure(error))?;
        let change = match written.outcome {
            Upserted::Inserted => "inserted",
            Upserted::Replaced => "replaced",
        };
        telemetry::items_changed(&self.name, change, 1);
        Ok(EnrolledItem {
            outcome: written.outcome,
            generation: written.generation,
            accepted_as: self.look_at(caller, &item_id, &enrolled, searched).await,
        })
    }

    /// Gives an item another label, and leaves all else of it as it is. Returns when that is on disk.
    ///
    /// # Errors
    /// Returns an error if there is no such item, if it has another etag, if the label is invalid, if the queue is
    /// full, or if the disk fails.
    pub async fn relabel(
        &self,
        caller: Caller,
        new: NewLabel,
    ) -> Result<EnrolledItem, DeploymentError> {
        let (id, label) = (new.id.clone(), new.label.clone());
        let written = self
            .writer()?
            .relabel(new)
            .await
            .inspect_err(|error| self.record_failure(error))?;
        telemetry::items_changed(&self.name, "replaced", 1);
        Ok(EnrolledItem {
            outcome: Upserted::Replaced,
            generation: written.generation,
            accepted_as: self.look_at(caller, &id, &label, written.outcome).await,
        })
    }

    /// The items of other labels that an item which is now enrolled is accepted as.
    async fn look_at(
        &self,
        caller: Caller,
        id: &str,
        label: &str,
        embedding: Embedding,
    ) -> Option<Vec<OtherItem>> {
        self.publish_size();
        let accepted_as = self.check_enrolled(caller, embedding, label).await;
        self.monitor.enrolled(id, label, accepted_as.as_deref());
        accepted_as
    }

    /// Removes one item. Returns when the removal is on disk.
    ///
    /// # Errors
    /// Returns an error if there is no item with this id, if the queue is full, or if the disk fails.
    pub async fn delete(&self, id: String) -> Result<u64, DeploymentError> {
        let written = self
            .writer()?
            .delete(id.clone())
            .await
            .inspect_err(|error| self.record_failure(error))?;
        if !written.outcome {
            return Err(DeploymentError::ItemNotFound { id });
        }
        telemetry::items_changed(&self.name, "deleted", 1);
        self.publish_size();
        Ok(written.generation)
    }

    /// One item and its embedding, of unit length.
    ///
    /// # Errors
    /// Returns an error if there is no item with this id.
    pub fn item(&self, id: &str) -> Result<(Arc<ItemHead>, Vector), DeploymentError> {
        self.gallery
            .item(id)
            .ok_or_else(|| DeploymentError::ItemNotFound { id: id.to_owned() })
    }

    /// The SHA-256 of the image that an item was made from, if the item can be left as it is: it exists with
    /// this label and metadata, and with its image if images are kept. `None` otherwise.
    pub(in crate::deployment) fn made_from(
        &self,
        id: &str,
        label: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Option<[u8; 32]> {
        let head = self.gallery.get(id)?;
        let same = head.label == label && head.metadata == *metadata;
        let complete = !self.gallery.keeps_images() || self.gallery.has_image(id).unwrap_or(false);
        (same && complete).then_some(head.source_sha256).flatten()
    }

    /// The image that an item was made from, if it is stored.
    ///
    /// # Errors
    /// Returns an error if the queue is full, if the image is damaged, or if the disk fails.
    pub async fn image(
        &self,
        caller: Caller,
        id: String,
    ) -> Result<Option<Vec<u8>>, DeploymentError> {
        let gallery = Arc::clone(&self.gallery);
        let read = move |_: &mut PoolWorker<'_>| gallery.image(&id);
        let read = self.loaded.pool.run(caller, JobKind::Vector, read).await?;
        read.map_err(DeploymentError::from)
            .inspect_err(|error| self.record_failure(error))
    }

    /// Labels that contain this text, ignoring case, and the number of items of each.
    #[must_use]
    pub fn labels(&self, contains: &str) -> BTreeMap<String, u64> {
        let contains = contains.to_lowercase();
        self.gallery
            .label_counts(|label| label.to_lowercase().contains(&contains))
    }

    /// Enrolled labels that are suspiciously like each other.
    #[must_use]
    pub fn alike_labels(&self) -> Vec<Alike> {
        let labels = self.gallery.label_counts(|_| true);
        alike(labels.keys().map(String::as_str), [])
    }

    /// At most `limit` items of a label that follow `after_id`, in the order of their ids.
    #[must_use]
    pub fn items_of(
        &self,
        label: &str,
        after_id: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<ItemHead>> {
        let view = self.view();
        let of_label = view.items().map(|(head, _)| head);
        let follows = |head: &&Arc<ItemHead>| {
            head.label == label && after_id.is_none_or(|after| after < head.id.as_str())
        };
        let mut heads: Vec<Arc<ItemHead>> = of_label.filter(follows).cloned().collect();
        heads.sort_by(|one, other| one.id.cmp(&other.id));
        heads.truncate(limit);
        heads
    }

    /// At most `limit` items that follow `after_id`, in the order of their ids.
    #[must_use]
    pub fn items(&self, after_id: Option<&str>, limit: usize) -> Vec<Arc<ItemHead>> {
        self.gallery.list(after_id, limit)
    }
}
