//! An open deployment. Its parts are checked to belong together; otherwise it is refused.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::DeploymentError;
use super::enrolment::lookalikes::{LeftOutWatch, LeftOutWatched};
use super::enrolment::maintenance::{MaintainedGallery, Maintenance};
use super::enrolment::writer::ChangeWriter;
use super::folder::{Folder, ModelReference};
use super::folder_watch::FolderWatch;
use super::models::LoadedModel;
use super::points::active::ActivePoint;
use super::points::state::{LatestState, StateInUse, StateParts};
use super::proposals::QdrantFollower;
use super::search::open_shadow::ShadowQuery;
use crate::config::MonitoringConfig;
use crate::journal::entry::StateId;
use crate::monitor::{Monitor, ShadowRunner};
use matchpoint_calibration::operating_point::{Binding, Metric, OperatingPoint};
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::GalleryView;
use matchpoint_gallery::{Access, Gallery};

/// An open deployment. It is cheap to share, because every call takes `&self`.
#[derive(Debug)]
pub struct Deployment {
    pub(super) name: String,
    pub(super) folder: Mutex<Folder>,
    /// Held as long as the active operating point is being changed.
    pub(super) activations: Mutex<()>,
    pub(super) loaded: LoadedModel,
    pub(super) limits: ImageLimits,
    pub(super) gallery: Arc<Gallery>,
    /// A description of how the index is chosen and tuned; a threshold is bound to it.
    pub(super) index: String,
    /// `None` if the deployment was opened for reading.
    pub(super) writer: Option<ChangeWriter>,
    /// `None` if this process writes the folder.
    pub(super) folder_watch: Option<Arc<FolderWatch>>,
    /// `None` if its index is here.
    pub(super) qdrant: Option<QdrantFollower>,
    /// `None` before [`Deployment::keep_up`].
    pub(super) maintenance: OnceLock<Maintenance>,
    pub(super) monitor: Arc<Monitor>,
    /// `None` before [`Deployment::keep_up`].
    pub(super) left_out: OnceLock<LeftOutWatch>,
    /// The shadow that is compared with it, if there is one.
    pub(super) shadow: ShadowRunner<ShadowQuery>,
    pub(super) active_point: Arc<ArcSwap<ActivePoint>>,
    pub(super) latest_state: LatestState,
    /// Dropped last, after the threads have ended and the gallery's lock is released. Only a worker that is
    /// stuck in a job can be left: see [`Deployment::closed`].
    pub(super) open: watch::Sender<()>,
}

impl Deployment {
    /// Makes a new, empty deployment that is embedded by `model`.
    ///
    /// # Errors
    /// Returns an error if there is a deployment already, if the name cannot be used, or if the disk fails.
    pub(super) fn create(
        folder: &Path,
        name: &str,
        model: &LoadedModel,
    ) -> Result<(), DeploymentError> {
        let reference = ModelReference {
            name: model.model.name().to_owned(),
            fingerprint: model.model.fingerprint().to_owned(),
            folder: model.folder.clone(),
            precision: model.model.named_precision().map(ToOwned::to_owned),
            vectors: (!model.model.embeds_images()).then(|| model.model.dimension()),
        };
        let folder = Folder::prepare(folder, name, reference)?;
        let file = folder.gallery_file();
        let (dimension, fingerprint) = (model.model.dimension(), model.model.fingerprint());
        Gallery::create(&file, dimension, fingerprint, &folder.record().gallery_id)?;
        // The record is saved last, because a folder with a record is a complete deployment.
        folder.save()
    }

    /// Prepares a deployment for service. From now on it keeps the index up to date and checks index and items,
    /// records decisions, and monitors the promise, with threads that end with the deployment.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started or the journal cannot be opened.
    pub fn keep_up(&self, monitoring: &MonitoringConfig) -> Result<(), DeploymentError> {
        let (active_point, damage) = (
            Arc::clone(&self.active_point),
            "an item has changed on the disk",
        );
        let stop = move || {
            active_point.store(Arc::new(ActivePoint::GalleryDamaged(damage.to_owned())));
        };
        let (gallery, folder) = (Arc::clone(&self.gallery), self.folder_watch.clone());
        let index = self.qdrant.as_ref().map(QdrantFollower::index);
        let watched = MaintainedGallery {
            gallery,
            folder,
            qdrant: index.map(Arc::clone),
        };
        let maintenance = Maintenance::start(&self.name, watched, stop)?;
        // If there is one already, the new one ends here.
        drop(self.maintenance.set(maintenance));
        self.monitor.start(monitoring)?;
        let watch = LeftOutWatch::start(LeftOutWatched {
            gallery: Arc::clone(&self.gallery),
            active_point: Arc::clone(&self.active_point),
            monitor: Arc::clone(&self.monitor),
        })?;
        drop(self.left_out.set(watch));
        Ok(())
    }

    /// Its monitor.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Refuses changes of items and operating points if the deployment is read-only.
    ///
    /// # Errors
    /// Returns an error if it is open for reading only.
    pub fn check_writable(&self) -> Result<(), DeploymentError> {
        self.writer().map(drop)
    }

    /// Whether its items and operating points may change here.
    #[must_use]
    pub fn access(&self) -> Access {
        match self.writer {
            Some(_) => Access::ReadWrite,
            None => Access::ReadOnly,
        }
    }

    /// Whether others have changed items or active operating point in the folder since this was opened for
    /// reading.
    #[must_use]
    pub fn folder_has_changed(&self) -> bool {
        let watch = self.folder_watch.as_ref();
        watch.is_some_and(|watch| watch.has_changed())
    }

    /// The id of the snapshot that this was restored from, if it can be written to and could therefore come to
    /// differ from other copies.
    #[must_use]
    pub fn copy_of(&self) -> Option<String> {
        let restored = self.lock_folder().record().restored_from.clone();
        restored.filter(|_| self.writer.is_some())
    }

    /// Waits until this is closed, with all its threads except a worker that did not return from its job in
    /// time. Until that worker ends, the folder may be locked, and opening it again may be refused. Waiting
    /// keeps nothing open.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        // Nothing is ever sent. The call fails once the sender is dropped.
        async move { while open.changed().await.is_ok() {} }
    }

    /// The name it is served under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with its present record.
    #[must_use]
    pub fn folder(&self) -> Folder {
        self.lock_folder().clone()
    }

    /// Its model.
    #[must_use]
    pub fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    /// The gallery's present state.
    #[must_use]
    pub fn view(&self) -> Arc<GalleryView> {
        self.gallery.view()
    }

    /// How the nearest items are found in a state of the gallery.
    #[must_use]
    pub fn index_description(&self, view: &GalleryView) -> String {
        let elsewhere = self.qdrant.is_some().then(|| self.index.clone());
        elsewhere.unwrap_or_else(|| view.index_description())
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> StateId {
        self.present().id
    }

    /// The state that a request arriving now is answered from.
    ///
    /// # Errors
    /// Returns an error if the caller expects another state.
    pub(super) fn state_in_use(
        &self,
        expected: Option<StateId>,
    ) -> Result<StateInUse, DeploymentError> {
        self.present().expected(expected)
    }

    fn present(&self) -> StateInUse {
        let (view, active) = (self.gallery.view(), self.active_point.load_full());
        let id = self.state_of(&view, &active);
        StateInUse { view, active, id }
    }

    /// The state of a view that is searched under an operating point.
    pub(super) fn state_of(&self, view: &GalleryView, active: &Arc<ActivePoint>) -> StateId {
        self.latest_state.of(view, active, || {
            let parts = StateParts {
                model_fingerprint: self.loaded.model.fingerprint(),
                index: &self.index,
                operating_point: active.valid().map(OperatingPoint::id),
            };
            parts.with(view)
        })
    }

    /// The active operating point, or the reason why there is none.
    #[must_use]
    pub fn active_point(&self) -> Arc<ActivePoint> {
        self.active_point.load_full()
    }

    /// The binding of an operating point that is made now.
    pub(super) fn binding(&self) -> Binding {
        self.binding_of(&self.gallery.view())
    }

    /// The binding of an operating point that is made on this state of the gallery.
    pub(super) fn binding_of(&self, view: &GalleryView) -> Binding {
        Binding {
            model_fingerprint: self.loaded.model.fingerprint().to_owned(),
            model_name: self.loaded.model.name().to_owned(),
            gallery_id: self.gallery.id().to_owned(),
            gallery_digest: view.digest(),
            gallery_items: view.len() as u64,
            gallery_labels: view.label_count() as u64,
            index: self.index.clone(),
            metric: Metric::Cosine,
        }
    }

    /// # Errors
    /// It is open for reading only.
    pub(super) fn writer(&self) -> Result<&ChangeWriter, DeploymentError> {
        let read_only = || {
            let path = self.folder().gallery_file();
            DeploymentError::Gallery(GalleryError::ReadOnly { path })
        };
        self.writer.as_ref().ok_or_else(read_only)
    }

    pub(super) fn lock_folder(&self) -> MutexGuard<'_, Folder> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The description of the index that operating points are bound to, without what changes as the gallery grows.
#[must_use]
pub fn index_binding(params: IndexParams) -> String {
    format!(
        "exact below {} items, else {params}",
        params.graph_from_items
    )
}
