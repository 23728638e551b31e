//! Opens each model folder once, with one pool of workers that all deployments with this model share. The model
//! is closed with the last of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::config::{EngineConfig, StoreConfig, Workers};
use crate::deployment::{DeploymentError, ModelReference};
use matchpoint_embed::Model;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_embed::pool::WorkerPool;
use matchpoint_embed::runtime::{Runtime, RuntimeCandidate};
use matchpoint_qdrant::QdrantAddress;

/// Version of ONNX Runtime that `make runtime` fetches.
const ONNXRUNTIME_VERSION: &str = "1.32.0";

/// ONNX Runtime, and the models opened so far.
#[derive(Debug)]
pub struct Models {
    /// Loaded when the first model needs it.
    runtime: Option<Runtime>,
    engine: EngineConfig,
    queue_len_max: usize,
    queue_delay: Option<Duration>,
    /// The store of all deployments that are opened for writing; `None` if they have none.
    store: Option<StoreConfig>,
    /// The index of all deployments that are opened for writing; `None` if each has its own.
    qdrant: Option<QdrantAddress>,
    /// The open models, by folder and precision. Only deployments keep a model open.
    open: BTreeMap<(PathBuf, Option<String>), InUse>,
}

/// A model that a deployment keeps open.
#[derive(Debug)]
struct InUse {
    model: Weak<Model>,
    pool: Weak<WorkerPool>,
}

/// A model and its workers.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// The folder that it was opened from.
    pub folder: PathBuf,
    /// The model.
    pub model: Arc<Model>,
    /// Its workers.
    pub pool: Arc<WorkerPool>,
}

impl Models {
    /// Starts without models. At most `queue_len_max` jobs can wait for each model's workers.
    #[must_use]
    pub fn new(engine: &EngineConfig, queue_len_max: usize) -> Self {
        Self {
            runtime: None,
            engine: engine.clone(),
            queue_len_max,
            queue_delay: None,
            store: None,
            qdrant: None,
            open: BTreeMap::new(),
        }
    }

    /// The same, with requests that wait beyond this time only in bursts, if they are better refused; `None` for as
    /// long as it takes.
    #[must_use]
    pub fn with_queue_delay(self, queue_delay: Option<Duration>) -> Self {
        Self {
            queue_delay,
            ..self
        }
    }

    /// From now on, deployments that are opened for writing are kept in this store.
    #[must_use]
    pub fn kept_in(self, store: Option<StoreConfig>) -> Self {
        Self { store, ..self }
    }

    /// From now on, deployments that are opened for writing have their index there.
    #[must_use]
    pub fn proposed_by(self, qdrant: Option<QdrantAddress>) -> Self {
        Self { qdrant, ..self }
    }

    pub(super) fn qdrant(&self) -> Option<&QdrantAddress> {
        self.qdrant.as_ref()
    }

    pub(super) fn store(&self) -> Option<&StoreConfig> {
        self.store.as_ref()
    }

    /// Settings for one more model that should use few resources: one worker with one thread, and its own
    /// memory budget for decoding.
    #[must_use]
    pub fn beside(&self) -> Self {
        let mut engine = self.engine.clone();
        engine.workers = Workers::Count(1);
        engine.compute.threads = 1;
        engine.compute.batch_max = Some(1);
        Self {
            runtime: self.runtime.clone(),
            engine,
            queue_len_max: 1,
            queue_delay: None,
            store: None,
            qdrant: None,
            open: BTreeMap::new(),
        }
    }

    /// Workers for vectors that are made elsewhere.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn vectors(&self, name: &str, dimension: usize) -> Result<LoadedModel, DeploymentError> {
        let model = Arc::new(Model::vectors(name, dimension));
        let pool = self.pool(&model)?;
        Ok(LoadedModel {
            folder: PathBuf::new(),
            model,
            pool,
        })
    }

    fn pool(&self, model: &Arc<Model>) -> Result<Arc<WorkerPool>, DeploymentError> {
        let workers = self.engine.workers.count(model.joined_max());
        let pool = WorkerPool::start(Arc::clone(model), workers, self.queue_len_max)?;
        Ok(Arc::new(match self.queue_delay {
            Some(target) => pool.with_delay_at_most(target),
            None => pool,
        }))
    }

    /// Opens what a record names: a model folder (or `other`, if given), or workers for vectors.
    pub(super) fn named(
        &mut self,
        reference: &ModelReference,
        other: Option<&Path>,
    ) -> Result<LoadedModel, DeploymentError> {
        match reference.vectors {
            Some(dimension) => self.vectors(&reference.name, dimension),
            None => self.open(
                other.unwrap_or(&reference.folder),
                reference.precision.as_deref(),
            ),
        }
    }

    /// Opens a model folder, with its own file or in one of its precisions. If it is already open, that one is
    /// returned. The first call loads ONNX Runtime.
    ///
    /// # Errors
    /// Returns an error if ONNX Runtime is missing or cannot be loaded, if the folder is not a model, if the
    /// model fails its golden check, or if the device is missing.
    pub fn open(
        &mut self,
        folder: &Path,
        precision: Option<&str>,
    ) -> Result<LoadedModel, DeploymentError> {
        let folder = folder
            .canonicalize()
            .map_err(|cause| DeploymentError::Folder {
                path: folder.to_owned(),
                problem: format!("cannot be opened as a model folder: {cause}"),
            })?;
        let key = (folder, precision.map(ToOwned::to_owned));
        if let Some(InUse { model, pool }) = self.open.get(&key)
            && let (Some(model), Some(pool)) = (model.upgrade(), pool.upgrade())
        {
            let folder = key.0;
            return Ok(LoadedModel {
                folder,
                model,
                pool,
            });
        }
        let runtime = self.runtime()?;
        let model = Arc::new(Model::open(
            &key.0,
            precision,
            &runtime,
            &self.engine.compute,
        )?);
        let loaded = LoadedModel {
            folder: key.0.clone(),
            pool: self.pool(&model)?,
            model,
        };
        let in_use = InUse {
            model: Arc::downgrade(&loaded.model),
            pool: Arc::downgrade(&loaded.pool),
        };
        self.open.insert(key, in_use);
        Ok(loaded)
    }

    /// The folder of the open model with this fingerprint.
    #[must_use]
    pub fn folder_of(&self, fingerprint: &str) -> Option<&Path> {
        let open = self.open.iter().find(|(_, in_use)| {
            let model = in_use.model.upgrade();
            model.is_some_and(|model| model.fingerprint() == fingerprint)
        });
        open.map(|((folder, _), _)| folder.as_path())
    }

    /// ONNX Runtime, loaded on first use.
    ///
    /// # Errors
    /// Returns an error if ONNX Runtime is missing or cannot be loaded.
    pub fn runtime(&mut self) -> Result<Runtime, DeploymentError> {
        let runtime = match &self.runtime {
            Some(runtime) => runtime,
            None => self
                .runtime
                .insert(Runtime::load(&candidates(&self.engine))?),
        };
        Ok(runtime.clone())
    }

    /// The version of ONNX Runtime in use; "none" if it is not loaded.
    #[must_use]
    pub fn runtime_version(&self) -> &str {
        self.runtime.as_ref().map_or("none", Runtime::version)
    }

    /// The limits for decoding an image.
    #[must_use]
    pub fn limits(&self) -> ImageLimits {
        ImageLimits {
            bytes_max: self.engine.image_bytes_max,
            decode_bytes_max: self.engine.image_decode_bytes_max,
        }
    }

    /// The highest number of jobs that can wait for each model's workers.
    #[must_use]
    pub fn queue_len_max(&self) -> usize {
        self.queue_len_max
    }

    /// The size of a gallery from which on a graph proposes candidates.
    #[must_use]
    pub fn graph_from_items(&self) -> usize {
        self.engine.graph_from_items
    }
}

/// Paths where pip installs ONNX Runtime in the program's environment, given the program's folder.
fn in_python_environment(programs: &Path) -> Vec<PathBuf> {
    let versions = programs.join("../lib").read_dir();
    let versions = versions.into_iter().flatten().flatten();
    let is_python = |name: &OsStr| name.to_string_lossy().starts_with("python3");
    versions
        .filter(|entry| is_python(&entry.file_name()))
        .map(|entry| {
            let packages = entry.path().join("site-packages");
            packages.join(format!(
                "onnxruntime/capi/libonnxruntime.so.{ONNXRUNTIME_VERSION}"
            ))
        })
        .filter(|library| library.is_file())
        .collect()
}

/// Paths where ONNX Runtime may be: as configured, then next to the program, then in the cache.
fn candidates(engine: &EngineConfig) -> Vec<RuntimeCandidate> {
    let said = [
        (&engine.onnxruntime, "the onnxruntime setting"),
        (&engine.ort_dylib_path, "ORT_DYLIB_PATH"),
    ];
    let mut candidates: Vec<RuntimeCandidate> = said
        .into_iter()
        .filter_map(|(path, origin)| {
            Some(RuntimeCandidate {
                path: path.clone()?,
                origin,
                required: true,
            })
        })
        .collect();
    let cached = Path::new(".cache/onnxruntime")
        .join(ONNXRUNTIME_VERSION)
        .join("libonnxruntime.so");
    let mut place = |path: PathBuf, origin| {
        candidates.push(RuntimeCandidate {
            path,
            origin,
            required: false,
        });
    };
    if let Ok(program) = std::env::current_exe() {
        if let Some(folder) = program.parent() {
            place(folder.join("libonnxruntime.so"), "beside the program");
            for library in in_python_environment(folder) {
                place(library, "the Python package onnxruntime beside the program");
            }
        }
        // A program in target/release of a checkout finds the checkout's cache from any working directory.
        for folder in program.ancestors().skip(2).take(3) {
            place(folder.join(&cached), "the checkout's cache");
        }
    }
    place(cached, "the cache in the working directory");
    candidates
}
