//! Follows the store that several servers share, and makes changes there before they are made here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::store_standing::StoreStanding;
use super::watched_gallery::WatchedGallery;
use crate::config::StoreConfig;
use crate::deployment::points::active::ActivePoint;
use crate::deployment::{DeploymentError, Folder};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::{Item, digest_text};
use matchpoint_remote::{
    CommittedChange, Fence, Generation, ItemChange, RemoteError, SharedGallery, SharedPoint,
    SharedStore, StoreState,
};
use matchpoint_vector::Embedding;

/// How often the store is looked at. A lease that is renewed so often survives one failure.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what has ended long ago is removed from the store.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// From so many missing generations on the log says that they are applied.
const GENERATIONS_SAID: u64 = 1000;
/// Number of items that a new store is filled with at once.
const FILLED_AT_ONCE: usize = 256;

/// The store as the writer of one gallery sees it.
#[derive(Debug)]
pub(in crate::deployment) struct StoreLink {
    store: SharedStore,
    deployment: String,
    /// The right to make changes, if this server took it.
    fence: Option<Fence>,
    standing: Arc<StoreStanding>,
    active_point: Arc<ArcSwap<ActivePoint>>,
    look_at: Instant,
    forget_at: Instant,
    /// Why the store could not be reached when it was last asked.
    away: Option<String>,
}

impl StoreLink {
    /// Connects a gallery with its store, if it has one; that is filled from it if it keeps nothing of this name.
    /// Blocks.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached or keeps another gallery, or if this one was changed
    /// without it.
    pub(in crate::deployment) fn attach(
        config: Option<&StoreConfig>,
        deployment: &str,
        gallery: &Gallery,
        folder: &mut Folder,
        active_point: &Arc<ArcSwap<ActivePoint>>,
    ) -> Result<Option<Self>, DeploymentError> {
        let Some(config) = config else {
            return Ok(None);
        };
        let shared = SharedGallery {
            deployment: deployment.to_owned(),
            gallery_id: gallery.id().to_owned(),
            model_fingerprint: gallery.model_fingerprint().to_owned(),
            dimension: gallery.dimension(),
        };
        let (address, writer) = (config.address.clone(), config.writer.clone());
        let mut store = SharedStore::connect(address, shared, writer)?;
        let here = generation_of(gallery);
        if store.latest()?.is_none() {
            let items = gallery.len();
            tracing::info!(deployment, items, "the store is filled with the items here");
            let point = folder.record().active_operating_point.as_deref();
            let point = point.map(|id| folder.shared_point(id)).transpose()?;
            store.fill(here, ItemBatches::of(gallery), point.as_ref())?;
        }
        let theirs = store.digest_at(here.number)?;
        if theirs != Some(here.digest) {
            return Err(diverged(here, theirs).into());
        }
        let latest = store.latest()?;
        if latest.is_some_and(|latest| latest.operating_point.is_none())
            && let Some(id) = folder.record().active_operating_point.as_deref()
        {
            store.choose_first(&folder.shared_point(id)?)?;
            tracing::info!(
                deployment,
                operating_point = id,
                "the store has no operating point, and gets that of the folder"
            );
        }
        // Another server may have filled it meanwhile, or chosen.
        if let Some(id) = store.latest()?.and_then(|latest| latest.operating_point)
            && folder.record().active_operating_point.as_ref() != Some(&id)
        {
            folder.add_shared_point(&store.point(&id)?)?;
            folder.activate_shared(&id)?;
            tracing::info!(
                deployment,
                operating_point = id,
                "decides by the store's operating point, and not by that of the folder"
            );
        }
        let point = folder.record().active_operating_point.clone();
        Ok(Some(Self {
            store,
            deployment: deployment.to_owned(),
            fence: None,
            standing: Arc::new(StoreStanding::new(config.lag_max, point)),
            active_point: Arc::clone(active_point),
            look_at: Instant::now(),
            forget_at: Instant::now(),
            away: None,
        }))
    }

    /// Tells its part of the store from all other galleries in all stores.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub(in crate::deployment) fn identity(&mut self) -> Result<String, DeploymentError> {
        let store = self.store.identity()?;
        Ok(format!("{store} {}", self.deployment))
    }

    pub(in crate::deployment) fn standing(&self) -> Arc<StoreStanding> {
        Arc::clone(&self.standing)
    }

    /// Looks at the store if it is time to, and returns when it will be time again.
    pub(super) fn look_if_due(&mut self, here: &WatchedGallery) -> Instant {
        if self.look_at <= Instant::now() && self.standing.stopped().is_none() {
            let looked = self.look(here);
            if looked.is_ok() {
                self.forget_if_due();
            }
            self.note(looked.err());
        }
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        self.look_at
    }

    fn look(&mut self, here: &WatchedGallery) -> Result<(), DeploymentError> {
        self.follow(here)?;
        if let Some(fence) = self.fence {
            let renewed = self.store.take_lease(Some(fence));
            self.fence = match renewed {
                Ok(fence) => Some(fence),
                Err(RemoteError::NotTheWriter { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            self.standing.writes(self.fence.is_some());
        }
        Ok(())
    }

    /// Removes some of what has ended long ago from the store, if it is time to. Any server does it, as there may be
    /// no writer for days; the rest follows at the next looks.
    fn forget_if_due(&mut self) {
        if Instant::now() < self.forget_at {
            return;
        }
        let forgotten = self.store.forget();
        if let Err(error) = &forgotten {
            tracing::warn!(%error, deployment = self.deployment, "what ended long ago is still in the store");
        }
        if !matches!(forgotten, Ok(true)) {
            self.forget_at = Instant::now() + FORGET_EVERY;
        }
    }

    /// Applies what the store has and the gallery does not, until there is nothing more.
    ///
    /// # Errors
    /// Returns an error if the store or the disk fails, or if the two are not the same afterwards.
    pub(super) fn follow(&mut self, here: &WatchedGallery) -> Result<(), DeploymentError> {
        let followed = self.catch_up(here);
        if let Err(DeploymentError::Store(error)) = &followed
            && is_for_good(error)
        {
            self.stop(error);
        }
        followed
    }

    fn catch_up(&mut self, here: &WatchedGallery) -> Result<(), DeploymentError> {
        let now = generation_of(&here.gallery);
        let latest = self.store.latest()?;
        let StoreState {
            generation: latest,
            operating_point,
        } = latest.ok_or_else(|| diverged(now, None))?;
        if latest.number < now.number || (latest.number == now.number && latest != now) {
            let theirs = (latest.number == now.number).then_some(latest.digest);
            return Err(diverged(now, theirs).into());
        }
        if now.number + GENERATIONS_SAID <= latest.number {
            tracing::info!(
                deployment = self.deployment,
                from = now.number,
                to = latest.number,
                "catching up with the store"
            );
        }
        loop {
            let now = generation_of(&here.gallery);
            if latest.number <= now.number {
                break;
            }
            self.standing.is_behind();
            let changes = self.store.changes(now.number)?;
            if changes.is_empty() {
                return Err(diverged(now, None).into());
            }
            for change in changes {
                let CommittedChange {
                    generation,
                    upserted,
                    removed,
                } = change;
                if upserted.is_empty() {
                    here.delete(&removed)?;
                } else {
                    here.upsert(upserted)?;
                }
                compared(&here.gallery, generation)?;
            }
        }
        if let Some(id) = operating_point.filter(|id| self.standing.lacks_point(id)) {
            // Also if it cannot be fetched: what decides here is not what the store has.
            self.standing.is_behind();
            self.standing.wait_for(self.store.point(&id)?);
        }
        self.standing.has_all_items();
        Ok(())
    }

    /// Chooses an operating point in the store, for all servers.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached, in which case it is not known whether it was chosen; or if
    /// another server makes the changes.
    pub(super) fn choose(
        &mut self,
        here: &WatchedGallery,
        point: &SharedPoint,
    ) -> Result<(), DeploymentError> {
        self.check_reachable()?;
        let chosen = self.try_choose(here, point);
        chosen.inspect_err(|error| self.give_way(error))
    }

    fn try_choose(
        &mut self,
        here: &WatchedGallery,
        point: &SharedPoint,
    ) -> Result<(), DeploymentError> {
        let fence = self.lease(here)?;
        self.store.choose(fence, point)?;
        self.standing.waits_no_more();
        Ok(())
    }

    /// Takes the lease if it is not here, so that a change can rest on what the gallery has.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached, or if another server makes the changes.
    pub(super) fn lead(&mut self, here: &WatchedGallery) -> Result<(), DeploymentError> {
        self.check_reachable()?;
        let leads = self.lease(here).map(drop);
        leads.inspect_err(|error| self.give_way(error))
    }

    /// Makes a change in the store, where it is kept when this returns; `None` if there was nothing to remove. The
    /// caller applies it here, and then calls [`StoreLink::compare`]. `holds` says whether the change is still meant, if
    /// the gallery turned out to be behind the store.
    ///
    /// # Errors
    /// Returns an error if the store cannot be reached, in which case it is not known whether the change was
    /// made; if another server makes the changes; or that of `holds`.
    pub(super) fn commit(
        &mut self,
        here: &WatchedGallery,
        change: ItemChange<'_>,
        holds: impl Fn(&WatchedGallery) -> Result<(), DeploymentError>,
    ) -> Result<Option<Generation>, DeploymentError> {
        self.check_reachable()?;
        let committed = self.try_commit(here, change, holds);
        committed.inspect_err(|error| self.give_way(error))
    }

    fn check_reachable(&self) -> Result<(), DeploymentError> {
        if let Some(reason) = self.standing.stopped() {
            return Err(DeploymentError::StoreStopped {
                reason: reason.to_owned(),
            });
        }
        // Whoever waits for a store that is away would keep all others waiting.
        if let Some(cause) = self.away.as_ref().filter(|_| Instant::now() < self.look_at) {
            return Err(DeploymentError::Store(RemoteError::Unreachable {
                address: self.store.address().to_owned(),
                cause: cause.clone(),
            }));
        }
        Ok(())
    }

    fn try_commit(
        &mut self,
        here: &WatchedGallery,
        change: ItemChange<'_>,
        holds: impl Fn(&WatchedGallery) -> Result<(), DeploymentError>,
    ) -> Result<Option<Generation>, DeploymentError> {
        let fence = self.lease(here)?;
        let at = generation_of(&here.gallery).number;
        match self.store.commit(fence, at, change) {
            // A change that was given up was made after all.
            Err(RemoteError::Moved { .. }) => {
                let followed = self.follow(here);
                if let Err(cause @ DeploymentError::Gallery(_)) = &followed {
                    return Err(self.not_written(cause));
                }
                followed?;
                holds(here)?;
                let at = generation_of(&here.gallery).number;
                Ok(self.store.commit(fence, at, change)?)
            }
            committed => Ok(committed?),
        }
    }

    /// The lease of this server, which it takes if it has none.
    fn lease(&mut self, here: &WatchedGallery) -> Result<Fence, DeploymentError> {
        match self.fence {
            Some(fence) => Ok(fence),
            None => self.take_over(here),
        }
    }

    /// Takes the lease, and brings the gallery to the generation that the next change follows.
    fn take_over(&mut self, here: &WatchedGallery) -> Result<Fence, DeploymentError> {
        let fence = self.store.take_lease(None)?;
        self.follow(here)?;
        self.fence = Some(fence);
        self.standing.writes(true);
        tracing::info!(
            deployment = self.deployment,
            store = self.store.address(),
            "changes are made here from now on"
        );
        Ok(fence)
    }

    /// Compares the gallery with the generation that it should have now.
    ///
    /// # Errors
    /// Returns an error if it is another one. Nothing is accepted any more then.
    pub(super) fn compare(
        &self,
        here: &WatchedGallery,
        committed: Option<Generation>,
    ) -> Result<(), DeploymentError> {
        let Some(generation) = committed else {
            return Ok(());
        };
        compared(&here.gallery, generation).inspect_err(|error| self.stop(error))?;
        self.standing.has_all_items();
        Ok(())
    }

    /// The answer if the store has a change, and the disk here did not take it. The next looks try again.
    pub(super) fn not_written(&self, cause: &DeploymentError) -> DeploymentError {
        tracing::error!(
            %cause,
            deployment = self.deployment,
            "the store has a change, and it could not be written here"
        );
        self.standing.is_behind();
        DeploymentError::NotWrittenHere
    }

    /// What follows from an error of a change.
    fn give_way(&mut self, error: &DeploymentError) {
        if let DeploymentError::Store(RemoteError::NotTheWriter { .. }) = error {
            self.fence = None;
            self.standing.writes(false);
        }
        if let DeploymentError::Store(RemoteError::Unreachable { cause, .. }) = error {
            self.went_away(cause.clone());
        }
    }

    fn note(&mut self, error: Option<DeploymentError>) {
        match error {
            None => {
                if self.away.take().is_some() {
                    tracing::info!(deployment = self.deployment, "the store answers again");
                }
            }
            Some(DeploymentError::Store(RemoteError::Unreachable { cause, .. })) => {
                self.went_away(cause);
            }
            Some(error) => {
                tracing::error!(%error, deployment = self.deployment, "the store is not followed");
            }
        }
    }

    /// Nothing is asked of the store before the next look.
    fn went_away(&mut self, cause: String) {
        if self.away.is_none() {
            tracing::warn!(
                deployment = self.deployment,
                store = self.store.address(),
                cause,
                "the store is out of reach: searches go on, and changes are refused"
            );
        }
        self.away = Some(cause);
        self.look_at = Instant::now() + LOOK_EVERY;
    }

    /// Accepts nothing any more, as what is here is not what was acknowledged.
    fn stop(&self, error: &RemoteError) {
        let reason = error.to_string();
        if self.standing.stop(reason.clone()) {
            tracing::error!(
                deployment = self.deployment,
                reason,
                "the store is not followed any more, and nothing is accepted"
            );
        }
        let stopped = ActivePoint::Unreadable(reason);
        self.active_point.store(Arc::new(stopped));
    }
}

impl Drop for StoreLink {
    fn drop(&mut self) {
        if let Some(fence) = self.fence {
            // It ends by itself otherwise.
            drop(self.store.give_up_lease(fence));
        }
    }
}

/// Whether no later look can be better.
fn is_for_good(error: &RemoteError) -> bool {
    match error {
        RemoteError::OtherSchema { .. }
        | RemoteError::OtherGallery { .. }
        | RemoteError::TooOld { .. }
        | RemoteError::Diverged { .. }
        | RemoteError::Damaged { .. } => true,
        RemoteError::Address { .. }
        | RemoteError::Unreachable { .. }
        | RemoteError::NotTheWriter { .. }
        | RemoteError::Moved { .. } => false,
    }
}

fn generation_of(gallery: &Gallery) -> Generation {
    let view = gallery.view();
    Generation {
        number: view.generation(),
        digest: view.digest_bytes(),
    }
}

fn compared(gallery: &Gallery, expected: Generation) -> Result<(), RemoteError> {
    let here = generation_of(gallery);
    if here == expected {
        return Ok(());
    }
    let theirs = (here.number == expected.number).then_some(expected.digest);
    Err(diverged(here, theirs))
}

fn diverged(here: Generation, theirs: Option<[u8; 32]>) -> RemoteError {
    RemoteError::Diverged {
        generation: here.number,
        ours: digest_text(here.digest),
        theirs: theirs.map_or_else(|| "no such generation".to_owned(), digest_text),
    }
}

/// All items of a gallery, in order of id, some at once.
struct ItemBatches<'a> {
    gallery: &'a Gallery,
    after: Option<String>,
}

impl<'a> ItemBatches<'a> {
    fn of(gallery: &'a Gallery) -> Self {
        Self {
            gallery,
            after: None,
        }
    }
}

impl Iterator for ItemBatches<'_> {
    type Item = Vec<Item>;

    fn next(&mut self) -> Option<Vec<Item>> {
        let heads = self.gallery.list(self.after.as_deref(), FILLED_AT_ONCE);
        self.after = Some(heads.last()?.id.clone());
        let items = heads.iter().filter_map(|head| {
            let (head, vector) = self.gallery.item(&head.id)?;
            Some(Item {
                id: head.id.clone(),
                label: head.label.clone(),
                metadata: head.metadata.clone(),
                // One that is lost here is missed in the sum of all.
                embedding: Embedding::from_unit(vector.to_vec()).ok()?,
                source_sha256: head.source_sha256,
                image: None,
            })
        });
        Some(items.collect())
    }
}
