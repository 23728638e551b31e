//! Opens a deployment, and checks that its parts belong together; otherwise it is refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::DeploymentError;
use super::enrolment::store_link::StoreLink;
use super::enrolment::writer::ChangeWriter;
use super::folder::{Folder, check_name};
use super::folder_watch::FolderWatch;
use super::models::{LoadedModel, Models};
use super::observed::ObservedDeployment;
use super::open::{Deployment, index_binding};
use super::points::active::ActivePoint;
use super::points::state::LatestState;
use super::proposals::{IndexedGallery, QdrantFollower};
use super::records_folder::RecordsFolder;
use crate::config::StoreConfig;
use crate::monitor::{Monitor, ShadowRunner};
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_qdrant::QdrantAddress;

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

/// A deployment whose model is open, so that others can use the models while it is opened: to verify its items takes as
/// long as they are many, and to follow a store or an index elsewhere as long as these take to answer.
#[derive(Debug)]
pub struct Opening {
    folder: Folder,
    name: String,
    options: OpenOptions,
    loaded: LoadedModel,
    limits: ImageLimits,
    params: IndexParams,
    store: Option<StoreConfig>,
    qdrant: Option<QdrantAddress>,
}

impl Opening {
    /// Opens the model of a deployment, or finds it open.
    ///
    /// # Errors
    /// Returns an error if the folder is no deployment, or if the model is missing, damaged, or not the one that
    /// embedded the gallery.
    pub fn of(
        path: &Path,
        models: &mut Models,
        options: OpenOptions,
    ) -> Result<Self, DeploymentError> {
        let folder = Folder::open(path)?;
        let record = folder.record();
        let name = options.name.clone().unwrap_or_else(|| record.name.clone());
        check_name(&name)?;
        let loaded = models.named(&record.model, options.model.as_deref())?;
        if loaded.model.fingerprint() != record.model.fingerprint {
            let expected = record.model.fingerprint.clone();
            return Err(mismatch(&loaded, &record.model.name, expected));
        }
        let writes = options.access == Access::ReadWrite;
        let qdrant = models.qdrant().filter(|_| writes).cloned();
        let params = IndexParams {
            graph_from_items: models.graph_from_items(),
            elsewhere: qdrant.is_some(),
            ..IndexParams::default()
        };
        Ok(Self {
            folder,
            name,
            options,
            loaded,
            limits: models.limits(),
            params,
            store: models.store().filter(|_| writes).cloned(),
            qdrant,
        })
    }

    /// Opens the rest. It verifies every item, and that model, gallery and operating point belong together.
    ///
    /// # Errors
    /// Returns an error if anything is missing or damaged, if another model has embedded the gallery, or if another
    /// process writes to it. An operating point that does not fit is not an error, but then nothing is accepted.
    pub fn finish(self) -> Result<Deployment, DeploymentError> {
        let Self {
            mut folder,
            name,
            options,
            loaded,
            limits,
            params,
            store,
            qdrant,
        } = self;
        let writes = options.access == Access::ReadWrite;
        let gallery = Gallery::open(&folder.gallery_file(), options.access, params)?;
        let gallery = Arc::new(gallery);
        folder.check_gallery(gallery.id())?;
        check_model(&gallery, &loaded, &folder.record().model.name)?;
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
        let mut link =
            StoreLink::attach(store.as_ref(), &name, &gallery, &mut folder, &active_point)?;
        let qdrant = qdrant.as_ref();
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
        let deployment = Deployment {
            name,
            folder_watch,
            maintenance: OnceLock::new(),
            monitor,
            left_out: OnceLock::new(),
            shadow: ShadowRunner::default(),
            loaded,
            limits,
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
}

impl Deployment {
    /// Opens a deployment, as [`Opening::of`] and [`Opening::finish`].
    ///
    /// # Errors
    /// As these.
    pub fn open(
        path: &Path,
        models: &mut Models,
        options: OpenOptions,
    ) -> Result<Self, DeploymentError> {
        Opening::of(path, models, options)?.finish()
    }
}

/// Refuses a gallery that another model has embedded.
fn check_model(
    gallery: &Gallery,
    loaded: &LoadedModel,
    expected_name: &str,
) -> Result<(), DeploymentError> {
    let model = &loaded.model;
    if gallery.model_fingerprint() == model.fingerprint()
        && gallery.dimension() == model.dimension()
    {
        return Ok(());
    }
    let expected = gallery.model_fingerprint().to_owned();
    Err(mismatch(loaded, expected_name, expected))
}

/// The refusal of a model in the place of the one that embedded the gallery.
fn mismatch(loaded: &LoadedModel, expected_name: &str, expected: String) -> DeploymentError {
    DeploymentError::ModelMismatch {
        expected_name: expected_name.to_owned(),
        expected,
        folder: loaded.folder.clone(),
        found_name: loaded.model.name().to_owned(),
        found: loaded.model.fingerprint().to_owned(),
    }
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
