//! An index in Qdrant in place of one here: it proposes, and the gallery here decides what a proposal is worth.
//!
//! What is proposed counts only if the item is here, with the checksum that the point carries; its score is computed
//! from the vector here. Items that are not there yet are compared one by one. If anything is wrong with the proposals,
//! or too few came, every item is compared: a point that is missing, old or foreign then costs time, and no answer.

mod follower;
mod later;
mod neighbours;
mod parity;

pub(super) use follower::QdrantFollower;
pub(super) use neighbours::{AskedItems, Neighbours};

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use base16ct::lower::encode_string;
use crossbeam_channel::Sender;
use tokio::sync::Semaphore;

use super::DeploymentError;
use super::enrolment::store_standing::StoreStanding;
use super::search::request::Hit;
use crate::telemetry;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::proposed::{ProposedItem, ProposedItems};
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_qdrant::{
    CollectionSpec, INDEX_PARAMETERS, PointKey, ProposedPoint, QdrantAddress, QdrantCollection,
    QdrantError,
};
use matchpoint_vector::Embedding;
use sha2::{Digest, Sha256};

/// Number of doubtful points that wait to be looked at; more are found by the comparison of all.
const DOUBTFUL_MAX: usize = 256;

/// The collection of a gallery, for whoever searches.
pub(in crate::deployment) struct QdrantIndex {
    deployment: String,
    gallery: Arc<Gallery>,
    collection: QdrantCollection,
    release: String,
    /// The state that all copies have at least.
    applied: ArcSwap<GalleryView>,
    /// The number of connections up to which its answers were compared with those of the gallery.
    compared: AtomicU64,
    /// How its answers differ, if they do.
    differs: ArcSwapOption<String>,
    /// Points that were proposed, and are not what they should be.
    doubtful: Sender<PointKey>,
    /// Searches that compare at once, beside those of the workers.
    comparing: Arc<Semaphore>,
}

/// The gallery that a collection is to hold.
pub(super) struct IndexedGallery {
    /// The name that it is served under.
    pub(super) deployment: String,
    pub(super) gallery: Arc<Gallery>,
    /// Tells the folder, or the store, from all others: each has a collection of its own.
    pub(super) owner: String,
    /// How it stands to the store whose servers share the collection, if there is one.
    pub(super) standing: Option<Arc<StoreStanding>>,
}

impl fmt::Debug for QdrantIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QdrantIndex({:?})", self.collection)
    }
}

impl QdrantIndex {
    /// Asks Qdrant for the collection of a gallery, which is made if there is none. Blocks.
    fn open(
        address: &QdrantAddress,
        indexed: IndexedGallery,
        doubtful: Sender<PointKey>,
    ) -> Result<Self, DeploymentError> {
        let IndexedGallery {
            deployment,
            gallery,
            owner,
            ..
        } = indexed;
        let owner = encode_string(&Sha256::digest(owner.as_bytes()));
        let owner: String = owner.chars().take(12).collect();
        let spec = CollectionSpec {
            // A gallery is of one model. A copy of it is another owner's.
            name: format!("matchpoint-{}-{owner}", gallery.id()),
            dimension: gallery.dimension(),
        };
        let collection = QdrantCollection::new(address.clone(), spec)?;
        let release = collection.wait(collection.release())?;
        collection.wait(collection.prepare())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            deployment,
            applied: ArcSwap::new(gallery.view()),
            gallery,
            collection,
            release,
            compared: AtomicU64::new(0),
            differs: ArcSwapOption::empty(),
            doubtful,
            comparing: Arc::new(Semaphore::new(cores)),
        })
    }

    /// What a threshold is bound to.
    pub(in crate::deployment) fn binding(&self) -> String {
        format!("qdrant {} {INDEX_PARAMETERS}", self.release)
    }

    /// Refuses answers that were not compared since the latest connection was made.
    fn check(&self) -> Result<(), QdrantError> {
        let withheld = |reason: String| Err(QdrantError::Withheld { reason });
        if let Some(differs) = &*self.differs.load() {
            return withheld(differs.to_string());
        }
        if self.compared.load(Ordering::Acquire) != self.collection.connections() {
            let reason = "its answers were not compared since the latest connection; if that goes on, the server's log says why";
            return withheld(reason.to_owned());
        }
        Ok(())
    }

    /// What Qdrant proposes for a search.
    async fn propose(
        &self,
        query: &Embedding,
        probe: Probe<'_>,
    ) -> Result<ProposedItems, QdrantError> {
        self.check()?;
        // Before it is asked: what is applied meanwhile is compared here, and proposed too.
        let has_before = self.applied.load().next_place();
        let (limit, ef) = (probe.k, probe.ef);
        let points = self.collection.propose(query.as_slice(), limit, ef).await?;
        self.check()?;
        let items = points.into_iter().filter_map(|point| self.taken(point));
        Ok(ProposedItems {
            items: items.collect(),
            has_before,
        })
    }

    /// The item of a point, if it is here; otherwise the point is counted, and looked at.
    fn taken(&self, point: ProposedPoint) -> Option<ProposedItem> {
        let ProposedPoint { key, item, .. } = point;
        let reason = match item.map(|(id, checksum)| ProposedItem { id, checksum }) {
            Some(item) if self.gallery.has(&item) => return Some(item),
            Some(_) => "stale",
            None => "damaged",
        };
        telemetry::proposal_refused(&self.deployment, reason);
        if let Some(key) = key {
            // If many wait, the comparison of all points finds it.
            self.doubtful.try_send(key).unwrap_or_default();
        }
        None
    }

    /// The nearest items of a view, of those proposed or, if they do not suffice, of all.
    fn nearest_of(
        &self,
        view: &GalleryView,
        query: &Embedding,
        probe: &Probe<'_>,
        proposed: &ProposedItems,
    ) -> Result<Vec<Hit>, DeploymentError> {
        if let Some(found) = self.gallery.nearest_of(view, query, probe, proposed)? {
            return Ok(found);
        }
        telemetry::searched_beside_index(&self.deployment);
        let exact = Probe {
            exact: true,
            ..*probe
        };
        Ok(view.nearest(query, &exact)?)
    }

    /// Searches as a caller's search does. Blocks, so it is for threads that may wait.
    pub(in crate::deployment) fn nearest_now(
        &self,
        view: &GalleryView,
        query: &Embedding,
        probe: &Probe<'_>,
    ) -> Result<Vec<Hit>, DeploymentError> {
        if !neighbours::asks_index(view, probe) {
            return Ok(view.nearest(query, probe)?);
        }
        let proposed = self.collection.wait(self.propose(query, *probe))?;
        self.nearest_of(view, query, probe, &proposed)
    }

    /// Runs what follows the answer of the index, beside the workers: a search that has its embedding must not wait
    /// for one of them again.
    pub(in crate::deployment) async fn beside_workers<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DeploymentError> {
        let stopped = |_closed| DeploymentError::Stopped;
        let turn = Arc::clone(&self.comparing).acquire_owned();
        let turn = turn.await.map_err(stopped)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "at most as many at once as there are cores, by the semaphore"
        )]
        let running = tokio::task::spawn_blocking(move || {
            let done = run();
            drop(turn);
            done
        });
        running.await.map_err(|cause| DeploymentError::Broken {
            reason: cause.to_string(),
        })
    }
}
