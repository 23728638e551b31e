//! An open deployment: what belongs together; anything else is refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::DeploymentError;
use super::enrolment::lookalikes::{LeftOutWatch, LeftOutWatched};
use super::enrolment::maintenance::Maintenance;
use super::enrolment::writer::ChangeWriter;
use super::folder::{Folder, ModelReference, check_name};
use super::models::{LoadedModel, Models};
use super::observed::ObservedDeployment;
use super::points::active::ActivePoint;
use super::points::state::{LatestState, StateInUse, StateParts};
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

/// An open deployment. Cheap to share: every call takes `&self`.
#[derive(Debug)]
pub struct Deployment {
    pub(super) name: String,
    pub(super) folder: Mutex<Folder>,
    pub(super) loaded: LoadedModel,
    pub(super) limits: ImageLimits,
    pub(super) gallery: Arc<Gallery>,
    /// How the index is chosen and tuned: a threshold is bound to it.
    pub(super) index: String,
    /// `None` if the deployment was opened for reading.
    pub(super) writer: Option<ChangeWriter>,
    /// Absent before [`Deployment::keep_up`].
    pub(super) maintenance: OnceLock<Maintenance>,
    pub(super) monitor: Arc<Monitor>,
    /// Absent before [`Deployment::keep_up`].
    pub(super) left_out: OnceLock<LeftOutWatch>,
    /// A shadow that is compared with it.
    pub(super) shadow: ShadowRunner<ShadowQuery>,
    pub(super) active_point: Arc<ArcSwap<ActivePoint>>,
    pub(super) latest_state: LatestState,
    /// Dropped last, after threads have ended and the gallery's lock is released, but by a worker that was left at its
    /// job: see [`Deployment::closed`].
    pub(super) open: watch::Sender<()>,
}

/// How to open a deployment.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The name to serve it under, if not the recorded one.
    pub name: Option<String>,
    /// The model's folder, if not the recorded one.
    pub model: Option<PathBuf>,
    /// Whether items may change. One process at a time may write.
    pub access: Access,
    /// The folder below which records of a deployment that is open for reading are stored, each in a folder
    /// of its own; `None` for no records. A deployment that may be written stores them in its own folder.
    pub journal_dir: Option<PathBuf>,
}

impl OpenOptions {
    /// As in the deployment's record.
    #[must_use]
    pub fn recorded(access: Access) -> Self {
        Self {
            name: None,
            model: None,
            access,
            journal_dir: None,
        }
    }
}

impl Deployment {
    /// Makes a new, empty deployment that is embedded by `model`.
    ///
    /// # Errors
    /// A deployment that is there already, a name that cannot be used, or the disk.
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
        // Last, because a folder with a record is a complete deployment.
        folder.save()
    }

    /// Opens a deployment: verifies every item, and that model, gallery and operating point belong
    /// together.
    ///
    /// # Errors
    /// Anything missing or damaged, a model other than the one that embedded the gallery, or a second
    /// writer. An operating point that does not fit is not an error: nothing is accepted.
    pub fn open(
        path: &Path,
        models: &mut Models,
        options: OpenOptions,
    ) -> Result<Self, DeploymentError> {
        let folder = Folder::open(path)?;
        let record = folder.record().clone();
        let name = options.name.unwrap_or(record.name);
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
        let params = IndexParams {
            graph_from_items: models.graph_from_items(),
            ..IndexParams::default()
        };
        let file = folder.gallery_file();
        let gallery = Arc::new(Gallery::open(&file, options.access, params)?);
        folder.check_gallery(gallery.id())?;
        if gallery.model_fingerprint() != loaded.model.fingerprint()
            || gallery.dimension() != loaded.model.dimension()
        {
            return Err(DeploymentError::ModelMismatch {
                expected_name: record.model.name,
                expected: gallery.model_fingerprint().to_owned(),
                folder: loaded.folder,
                found_name: loaded.model.name().to_owned(),
                found: loaded.model.fingerprint().to_owned(),
            });
        }
        let writer = match options.access {
            Access::ReadWrite => Some(ChangeWriter::start(Arc::clone(&gallery))?),
            Access::ReadOnly => None,
        };
        let records = match (options.access, &options.journal_dir) {
            (Access::ReadWrite, _) => Some(RecordsFolder::within(folder.path())),
            (Access::ReadOnly, Some(journals)) => {
                Some(RecordsFolder::below(journals, folder.path(), &name)?)
            }
            (Access::ReadOnly, None) => None,
        };
        let active_point = Arc::new(ArcSwap::from_pointee(ActivePoint::Missing));
        let observed = ObservedDeployment {
            name: name.clone(),
            folder: folder.path().to_owned(),
            records,
            gallery: Arc::clone(&gallery),
            active_point: Arc::clone(&active_point),
        };
        let deployment = Self {
            name,
            maintenance: OnceLock::new(),
            monitor: Arc::new(Monitor::new(Arc::new(observed))),
            left_out: OnceLock::new(),
            shadow: ShadowRunner::default(),
            loaded,
            limits: models.limits(),
            index: index_binding(params),
            writer,
            active_point,
            latest_state: LatestState::default(),
            open: watch::Sender::new(()),
            gallery,
            folder: Mutex::new(folder),
        };
        deployment.load_active_point();
        Ok(deployment)
    }

    /// For a deployment that serves: from now on keeps the index in step with the items and checks both,
    /// records decisions, and monitors the promise, on threads that end with the deployment.
    ///
    /// # Errors
    /// A thread cannot be started, or the journal cannot be opened.
    pub fn keep_up(&self, monitoring: &MonitoringConfig) -> Result<(), DeploymentError> {
        let (active_point, damage) = (
            Arc::clone(&self.active_point),
            "an item has changed on the disk",
        );
        let stop = move || {
            active_point.store(Arc::new(ActivePoint::Unreadable(damage.to_owned())));
        };
        let maintenance = Maintenance::start(&self.name, Arc::clone(&self.gallery), stop)?;
        // If there is one already, the second ends here.
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

    /// Refuses changes of items or operating points if it is read-only.
    ///
    /// # Errors
    /// It is open for reading only.
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

    /// The snapshot that this was restored from, if it takes writes: it would then differ from other
    /// copies.
    #[must_use]
    pub fn copy_of(&self) -> Option<String> {
        let restored = self.lock_folder().record().restored_from.clone();
        restored.filter(|_| self.writer.is_some())
    }

    /// Waits until this is closed, with all its threads but a worker that did not come back from its job in time: until
    /// that ends, the folder may be locked, and opening it again be refused. Keeps nothing open meanwhile.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        // Nothing is ever sent: it fails once the sender is dropped.
        async move { while open.changed().await.is_ok() {} }
    }

    /// The name it is served under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder with its record, as they are now.
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

    /// The present state.
    #[must_use]
    pub fn state(&self) -> StateId {
        self.present().id
    }

    /// The state from which a request is answered that comes now.
    ///
    /// # Errors
    /// The caller expects another state.
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

    /// The state when a view is searched under an operating point.
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

    /// By what decisions are made at present.
    #[must_use]
    pub fn active_point(&self) -> Arc<ActivePoint> {
        self.active_point.load_full()
    }

    /// The binding of an operating point that is made now.
    pub(super) fn binding(&self) -> Binding {
        self.binding_of(&self.gallery.view())
    }

    /// The binding of an operating point that is made on a state of the gallery.
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

/// The index as part of an operating point's binding: without what changes as the gallery grows.
#[must_use]
pub fn index_binding(params: IndexParams) -> String {
    format!(
        "exact below {} items, else {params}",
        params.graph_from_items
    )
}
