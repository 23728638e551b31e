//! A gallery as its writer sees it: with the monitor, which hears which labels come and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::deployment::DeploymentError;
use crate::monitor::Monitor;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::{Gallery, Upserted};
use matchpoint_vector::Embedding;

/// The result of a change, and the first generation of the gallery that contains it.
#[derive(Clone, Copy, Debug)]
pub(in crate::deployment) struct Written<T> {
    pub(in crate::deployment) outcome: T,
    pub(in crate::deployment) generation: u64,
}

/// A gallery that only one thread writes to, and the monitor of its deployment.
#[derive(Debug)]
pub(super) struct WatchedGallery {
    pub(super) gallery: Arc<Gallery>,
    pub(super) monitor: Arc<Monitor>,
}

/// An item that is to have another label.
#[derive(Debug)]
pub struct NewLabel {
    /// Its id.
    pub id: String,
    /// The new label.
    pub label: String,
    /// The etag of the item that is meant; `None` for whatever it is now.
    pub etag: Option<String>,
}

impl WatchedGallery {
    /// The item with its new label and all else as it is, and the etag that it has without it.
    ///
    /// # Errors
    /// Returns an error if there is no such item, if another etag is expected, or if its image cannot be read.
    pub(super) fn relabelled(&self, new: NewLabel) -> Result<(Item, String), DeploymentError> {
        let NewLabel { id, label, etag } = new;
        let Some((head, vector)) = self.gallery.item(&id) else {
            return Err(DeploymentError::ItemNotFound { id });
        };
        let present = head.etag(&vector);
        if etag.is_some_and(|etag| etag != present) {
            return Err(DeploymentError::ItemChanged { id });
        }
        let item = Item {
            label,
            metadata: head.metadata.clone(),
            embedding: Embedding::from_unit(vector.to_vec())?,
            source_sha256: head.source_sha256,
            image: self.gallery.image(&id)?,
            id,
        };
        Ok((item, present))
    }

    /// Checks that an item is still the one with this etag.
    ///
    /// # Errors
    /// Returns an error if it was changed or removed.
    pub(super) fn check_unchanged(&self, id: &str, etag: &str) -> Result<(), DeploymentError> {
        match self.gallery.item(id) {
            Some((head, vector)) if head.etag(&vector) == etag => Ok(()),
            Some(_) => Err(DeploymentError::ItemChanged { id: id.to_owned() }),
            None => Err(DeploymentError::ItemNotFound { id: id.to_owned() }),
        }
    }

    /// Writes items in one transaction.
    pub(super) fn upsert(
        &self,
        items: Vec<Item>,
    ) -> Result<Written<Vec<Upserted>>, DeploymentError> {
        let labels = items
            .iter()
            .flat_map(|item| [Some(item.label.clone()), self.label_of(&item.id)]);
        self.write(labels.flatten().collect(), || self.gallery.upsert(items))
    }

    /// Removes items in one transaction; `false` for those that are not there.
    pub(super) fn delete(&self, ids: &[String]) -> Result<Written<Vec<bool>>, DeploymentError> {
        let labels = ids.iter().filter_map(|id| self.label_of(id)).collect();
        self.write(labels, || self.gallery.delete(ids))
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
