//! An open deployment. Its parts are checked to belong together; otherwise it is refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::DeploymentError;
use super::enrolment::lookalikes::{LeftOutWatch, LeftOutWatched};
use super::enrolment::maintenance::{MaintainedGallery, Maintenance};
use super::enrolment::store_link::StoreLink;
use super::enrolment::writer::ChangeWriter;
use super::folder::{Folder, ModelReference, check_name};
use super::folder_watch::FolderWatch;
use super::models::{LoadedModel, Models};
use super::observed::ObservedDeployment;
use super::points::active::ActivePoint;
use super::points::state::{LatestState, StateInUse, StateParts};
use super::proposals::{IndexedGallery, QdrantFollower};
use super::records_folder::RecordsFolder;
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

/// How to open a deployment.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The name to serve it under, if it differs from the recorded one.
    pub name: Option<String>,
    /// The model's folder, if it is not the recorded one.
    pub model: Option<PathBuf>,
    /// Whether items may change. One process at a time may write.
    pub access: Access,
    /// The folder for the records of a deployment that is open for reading, which get a subfolder of their own;
    /// `None` for no records. A deployment that may be written stores its records in its own folder.
    pub journal_dir: Option<PathBuf>,
    /// Whether this takes the place of a deployment that has the same folder open, and so its records.
    pub again: bool,
}

impl OpenOptions {
    /// The options as in the deployment's record.
    #[must_use]
    pub fn recorded(access: Access) -> Self {
        Self {
            name: None,
            model: None,
            access,
            journal_dir: None,
            again: false,
        }
    }

    /// The folder for the records of a deployment that is served under this name; `None` for no records.
    fn records(
        self,
        folder: &Folder,
        name: &str,
    ) -> Result<Option<RecordsFolder>, DeploymentError> {
        Ok(match (self.access, &self.journal_dir) {
            (Access::ReadWrite, _) => Some(RecordsFolder::within(folder.path())),
            (Access::ReadOnly, Some(journals)) => Some(RecordsFolder::below(
                journals,
                folder.path(),
                name,
                self.again,
            )?),
            (Access::ReadOnly, None) => None,
        })
    }
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

    /// Opens a deployment. It verifies every item, and that model, gallery and operating point belong together.
    ///
    /// # Errors
    /// Returns an error if anything is missing or damaged, if the model is not the one that embedded the
    /// gallery, or if another process writes to it. An operating point that does not fit is not an error, but
    /// then nothing is accepted.
    pub fn open(
        path: &Path,
        models: &mut Models,
        options: OpenOptions,
    ) -> Result<Self, DeploymentError> {
        let mut folder = Folder::open(path)?;
        let record = folder.record().clone();
        let name = options.name.clone().unwrap_or(record.name);
        check_name(&name)?;
        let loaded = models.named(&record.model, options.model.as_deref())?;
        if loaded.model.fingerprint() != record.model.fingerprint {
            return Err(DeploymentError::ModelMismatch {
                expected_name: record.model.name,
                expected: record.model.fingerprint,
                folder: loaded.folder,
                found_name: loaded.model.name().to_owned(),
                found: loaded.model.fingerprint().to_owned(),
            });
        }
        let writes = options.access == Access::ReadWrite;
        let qdrant = models.qdrant().filter(|_| writes);
        let params = IndexParams {
            graph_from_items: models.graph_from_items(),
            elsewhere: qdrant.is_some(),
            ..IndexParams::default()
        };
        let gallery = Gallery::open(&folder.gallery_file(), options.access, params)?;
        let gallery = Arc::new(gallery);
        folder.check_gallery(gallery.id())?;
        check_model(&gallery, &loaded, record.model.name)?;
        let records = options.records(&folder, &name)?;
        let active_point = Arc::new(ArcSwap::from_pointee(ActivePoint::Missing));
        let observed = ObservedDeployment {
            name: name.clone(),
            folder: folder.path().to_owned(),
            records,
            gallery: Arc::clone(&gallery),
            active_point: Arc::clone(&active_point),
        };
        let monitor = Arc::new(Monitor::new(Arc::new(observed)));
        let store = models.store().filter(|_| writes);
        let mut link = StoreLink::attach(store, &name, &gallery, &mut folder, &active_point)?;
        let indexed = qdrant.map(|_| indexed(&name, &gallery, &folder, link.as_mut()));
        let indexed = indexed.transpose()?;
        let writer = writes
            .then(|| ChangeWriter::start(Arc::clone(&gallery), Arc::clone(&monitor), link))
            .transpose()?;
        let qdrant = qdrant.zip(indexed);
        let qdrant = qdrant.map(|(address, gallery)| QdrantFollower::start(address, gallery));
        let qdrant = qdrant.transpose()?;
        let index = qdrant.as_ref().map(|qdrant| qdrant.index().binding());
        let watched = || Arc::new(FolderWatch::new(&name, &folder, &gallery));
        let folder_watch = writer.is_none().then(watched);
        let deployment = Self {
            name,
            folder_watch,
            maintenance: OnceLock::new(),
            monitor,
            left_out: OnceLock::new(),
            shadow: ShadowRunner::default(),
            loaded,
            limits: models.limits(),
            index: index.unwrap_or_else(|| index_binding(params)),
            qdrant,
            writer,
            active_point,
            latest_state: LatestState::default(),
            open: watch::Sender::new(()),
            gallery,
            folder: Mutex::new(folder),
            activations: Mutex::new(()),
        };
        deployment.load_active_point();
        Ok(deployment)
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

/// Refuses a gallery that another model has embedded.
fn check_model(
    gallery: &Gallery,
    loaded: &LoadedModel,
    expected_name: String,
) -> Result<(), DeploymentError> {
    let model = &loaded.model;
    if gallery.model_fingerprint() == model.fingerprint()
        && gallery.dimension() == model.dimension()
    {
        return Ok(());
    }
    Err(DeploymentError::ModelMismatch {
        expected_name,
        expected: gallery.model_fingerprint().to_owned(),
        folder: loaded.folder.clone(),
        found_name: model.name().to_owned(),
        found: model.fingerprint().to_owned(),
    })
}

/// What a collection of Qdrant is to hold, and whose it is.
fn indexed(
    deployment: &str,
    gallery: &Arc<Gallery>,
    folder: &Folder,
    link: Option<&mut StoreLink>,
) -> Result<IndexedGallery, DeploymentError> {
    let standing = link.as_deref().map(StoreLink::standing);
    Ok(IndexedGallery {
        deployment: deployment.to_owned(),
        gallery: Arc::clone(gallery),
        owner: link.map_or_else(|| folder.identity(), StoreLink::identity)?,
        standing,
    })
}

/// The description of the index that operating points are bound to, without what changes as the gallery grows.
#[must_use]
pub fn index_binding(params: IndexParams) -> String {
    format!(
        "exact below {} items, else {params}",
        params.graph_from_items
    )
}
