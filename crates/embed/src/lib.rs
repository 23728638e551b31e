//! Untrusted image bytes to embeddings: pixels, models, sessions, and a fair queue before them.
//!
//! A [`Model`] is a folder with an ONNX file and its manifest, opened only if it still computes what it did
//! when it was made. [`pixels`] makes bounded, upright, resized pixels of untrusted files:
//!
//! ```
//! use matchpoint_embed::pixels::{BYTES_MAX, DECODE_BYTES_MAX, ImageLimits, Pixels, PixelsError};
//!
//! let limits = ImageLimits { bytes_max: BYTES_MAX, decode_bytes_max: DECODE_BYTES_MAX };
//! let white = [255; 3];
//! // A bitmap of 1 x 1 pixels, in red.
//! let mut file = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
//! file.resize(54, 0);
//! file.extend([0, 0, 255, 0]);
//! assert_eq!(Pixels::decode(&file, &limits, white)?.as_rgb(), [255, 0, 0]);
//! assert!(matches!(Pixels::decode(b"", &limits, white), Err(PixelsError::Empty)));
//! # Ok::<(), PixelsError>(())
//! ```
//!
//! [`pool::WorkerPool`] runs jobs on worker threads that own a session each.

#![forbid(unsafe_code)]

mod adapted;
mod appointments;
mod batch;
pub mod caller;
pub mod decode_memory;
pub mod draft;
pub mod embedder;
mod error;
mod folder;
mod golden;
mod head_nodes;
mod input;
pub mod job;
mod job_duration;
mod manifest;
mod onnx;
mod output;
pub mod pixels;
pub mod pool;
mod queue;
mod resize;
pub mod runtime;
mod seat;
mod session;
mod tensor;
mod toml_table;

pub use adapted::{AdaptedFolder, MapEmbedding, ModelFile, adapted_folder};
pub use error::{EmbedError, ModelError};
pub use head_nodes::HeadWeights;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base16ct::lower::encode_string;
use sha2::{Digest as _, Sha256};

use batch::Batcher;
use decode_memory::DecodeBudget;
use embedder::Embedder;
use folder::ONNX_BYTES_MAX;
use golden::GoldenCheck;
use job::JobKind;
use manifest::{BASE_PRECISION, MANIFEST_NAME, Manifest};
use onnx::OnnxError;
use pixels::ImageLimits;
use runtime::Runtime;
use session::{CreateError, Provider, Resources, Session};

/// The version of everything between a file's bytes and the input tensor: decoders, orientation,
/// colour, resizing, scaling. Raised with each change that moves an embedding, since galleries and
/// operating points made before no longer fit.
const PIPELINE_VERSION: u32 = 4;

/// What to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, or failure.
    Cuda,
    /// An NVIDIA GPU by `TensorRT`, with CUDA for what that does not take, or failure.
    TensorRt,
    /// An NVIDIA GPU if that works, else the processor.
    Auto,
}

/// What a model computes on, and how much of it.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Threads of one session on the CPU, at least 1.
    pub threads: usize,
    /// The most images of waiting requests in one run; 1 for no batches, `None` for the device's default: 1
    /// on the CPU, where a batch makes each image slower, 16 on a GPU.
    pub batch_max: Option<usize>,
    /// Memory that a session may take on a GPU, in bytes; `None` for no limit.
    pub gpu_bytes_max: Option<usize>,
    /// Whether a session on the CPU keeps memory between runs, which makes them faster.
    pub cpu_arena: bool,
    /// Memory for images that are being decoded, shared with all models that were opened with a clone of
    /// it.
    pub decode_budget: DecodeBudget,
}

impl Compute {
    /// One thread a session, no limit but the device's.
    #[must_use]
    pub fn on(device: Device) -> Self {
        Self {
            device,
            threads: 1,
            batch_max: None,
            gpu_bytes_max: None,
            cpu_arena: true,
            decode_budget: DecodeBudget::new(None),
        }
    }

    /// The most images in one run of a model, before the device is known.
    #[must_use]
    pub fn joined_max(&self) -> usize {
        self.batch_max.unwrap_or(match self.device {
            Device::Cpu => 1,
            Device::Cuda | Device::TensorRt | Device::Auto => GPU_BATCH_MAX,
        })
    }
}

/// Images of one run on a GPU by default: more gain little, and wait longer.
const GPU_BATCH_MAX: usize = 16;

/// An opened model: its file is the one that the manifest names by hash, and the golden check has passed on
/// this runtime and device. Or the name of a vector space whose vectors are made elsewhere.
pub struct Model {
    name: String,
    precision: String,
    dimension: usize,
    fingerprint: String,
    /// `None` if vectors are made elsewhere.
    image: Option<ImageModel>,
}

/// What embeds images.
struct ImageModel {
    manifest: Arc<Manifest>,
    onnx: Vec<u8>,
    runtime: Runtime,
    provider: Provider,
    resources: Resources,
    golden: GoldenCheck,
    /// What the model was opened with, until the first worker takes it.
    first: Mutex<Option<Embedder>>,
    /// The record of a fitted head.
    head_record: Option<Vec<u8>>,
    /// The one session that all workers share, if their images are run in batches.
    batcher: Option<Batcher>,
    budget: DecodeBudget,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name())
            .field("fingerprint", &self.fingerprint)
            .field("provider", &self.provider())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Opens a model folder, in one of the manifest's precisions or, if none is named, by its
    /// own file: reads the manifest, compares the ONNX file with its hash and its interface with
    /// the manifest, and embeds the golden image.
    ///
    /// # Errors
    /// If anything in the folder is missing, wrong or changed, or the device cannot be used.
    pub fn open(
        folder: &Path,
        precision: Option<&str>,
        runtime: &Runtime,
        compute: &Compute,
    ) -> Result<Self, ModelError> {
        let precision = precision.unwrap_or(BASE_PRECISION);
        let manifest = manifest_of(folder, precision)?;
        let onnx = folder::read(folder, &manifest.file, ONNX_BYTES_MAX)?;
        let path = folder.join(&manifest.file);
        let sha256 = encode_string(&Sha256::digest(&onnx));
        if sha256 != manifest.sha256 {
            let expected = manifest.sha256;
            return Err(ModelError::Changed {
                path,
                expected,
                found: sha256,
            });
        }
        let resources = Resources {
            threads: compute.threads,
            gpu_bytes_max: compute.gpu_bytes_max,
            cpu_arena: compute.cpu_arena,
        };
        let source = SessionSource {
            runtime,
            onnx: &onnx,
            manifest: &manifest,
            resources,
        };
        let (session, provider) =
            create(compute.device, &source).map_err(|failure| match failure {
                SessionFailure::Absent(Provider::TensorRt, reason) => {
                    ModelError::TensorRt { reason }
                }
                SessionFailure::Absent(Provider::Cpu | Provider::Cuda, reason) => {
                    ModelError::Cuda { reason }
                }
                SessionFailure::Create(error) => error.of(path.clone()),
            })?;
        let fingerprint = fingerprint(&manifest);
        let mut image = ImageModel {
            golden: GoldenCheck::read(folder, &manifest)?,
            head_record: folder::read_head(folder, &manifest)?,
            manifest: Arc::new(manifest),
            onnx,
            runtime: runtime.clone(),
            provider,
            resources,
            first: Mutex::new(None),
            batcher: None,
            budget: compute.decode_budget.clone(),
        };
        let batch_max = compute.batch_max.unwrap_or(match provider {
            Provider::Cpu => 1,
            Provider::Cuda | Provider::TensorRt => GPU_BATCH_MAX,
        });
        image.take(session, batch_max)?;
        Ok(Self {
            name: image.manifest.name.clone(),
            precision: precision.to_owned(),
            dimension: image.manifest.output.dimension,
            fingerprint,
            image: Some(image),
        })
    }

    /// A vector space whose vectors are made elsewhere, known by its name and its dimension. It embeds no
    /// image.
    #[must_use]
    pub fn vectors(name: &str, dimension: usize) -> Self {
        let text = format!("matchpoint vectors 1\nname = {name:?}\ndimension = {dimension}\n");
        Self {
            name: name.to_owned(),
            precision: BASE_PRECISION.to_owned(),
            dimension,
            fingerprint: encode_string(&Sha256::digest(text.as_bytes())),
            image: None,
        }
    }

    /// Whether it embeds images; if not, it is only a name for vectors that are made elsewhere.
    #[must_use]
    pub fn embeds_images(&self) -> bool {
        self.image.is_some()
    }

    /// What a job for an image does, by what its headers say.
    #[must_use]
    pub fn kind_of(&self, image: &[u8], limits: &ImageLimits) -> JobKind {
        let of_image = self.image.as_ref();
        let is_large =
            |model: &ImageModel| pixels::is_large(image, limits, &model.manifest.geometry);
        if of_image.is_some_and(is_large) {
            JobKind::LargeImage
        } else {
            JobKind::Image
        }
    }

    /// A worker's own embedder, with a session of its own that has passed the golden check: some 50
    /// ms for a small model.
    ///
    /// # Errors
    /// If the runtime makes no further session, for example because memory is short, or one that computes
    /// differently.
    pub fn embedder(&self) -> Result<Embedder, ModelError> {
        let Some(image) = &self.image else {
            return Ok(Embedder::of_vectors(self.dimension));
        };
        if let Some(batcher) = &image.batcher {
            return Ok(image.embedder(batcher.clone()));
        }
        let first = image
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(first) = first {
            return Ok(first);
        }
        let source = SessionSource {
            runtime: &image.runtime,
            onnx: &image.onnx,
            manifest: &image.manifest,
            resources: image.resources,
        };
        let session = source.session(image.provider);
        let mut session = session.map_err(|error| error.of(image.manifest.file.clone()))?;
        image.check(&mut session, 1)?;
        Ok(image.embedder(session))
    }

    /// The name of its arithmetic: "f32" for the model's own file, else the precision's name.
    #[must_use]
    pub fn precision(&self) -> &str {
        &self.precision
    }

    /// Its precision, unless it is the model's own file.
    #[must_use]
    pub fn named_precision(&self) -> Option<&str> {
        Some(self.precision()).filter(|name| *name != BASE_PRECISION)
    }

    /// The most images of waiting requests in one run; 1 without batches. That many workers more than
    /// processors are useful.
    #[must_use]
    pub fn joined_max(&self) -> usize {
        let batcher = self.image.as_ref().and_then(|image| image.batcher.as_ref());
        batcher.map_or(1, Batcher::batch_max)
    }

    /// How many times a session has passed the golden check, at any size of a batch.
    #[must_use]
    pub fn golden_checks(&self) -> u64 {
        let image = self.image.as_ref();
        image.map_or(0, |image| image.golden.passed())
    }

    /// The name in the manifest, or that of the vectors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 64 hex digits that differ between any two models whose embeddings must not be compared: a
    /// hash over the ONNX file, every manifest key that changes an embedding, and the version of
    /// the image pipeline.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How it prepares images and reads its output: a line for each manifest key that changes an embedding, and the
    /// version of the image pipeline; empty if vectors are made elsewhere. Part of the fingerprint.
    #[must_use]
    pub fn preparation(&self) -> String {
        let image = self.image.as_ref();
        image.map_or_else(String::new, |image| preparation(&image.manifest))
    }

    /// The number of components of its embeddings.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// What it computes on, after `auto` has chosen: "cpu", "cuda" or "tensorrt"; "none" if vectors are made elsewhere.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        let image = self.image.as_ref();
        image.map_or("none", |image| image.provider.name())
    }

    /// The version of the ONNX Runtime it runs on; "none" if vectors are made elsewhere.
    #[must_use]
    pub fn runtime_version(&self) -> &str {
        let image = self.image.as_ref();
        image.map_or("none", |image| image.runtime.version())
    }

    /// 64 hex digits over what this process computed of the golden image, to the last bit: on another processor, by another
    /// build of the runtime or with other threads, sums are rounded in another order, and a component of the embedding
    /// differs. Empty if vectors are made elsewhere.
    #[must_use]
    pub fn arithmetic(&self) -> &str {
        let image = self.image.as_ref();
        image.map_or("", |image| image.golden.computed())
    }

    /// The cosine to the golden embedding below which the model is refused, 0.9 to 1; `None` if
    /// vectors are made elsewhere.
    #[must_use]
    pub fn cosine_min(&self) -> Option<f32> {
        Some(self.image.as_ref()?.manifest.golden.cosine_min)
    }

    /// The manifest's description, if it has one.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.image.as_ref()?.manifest.description.as_deref()
    }

    /// The record of the head that was fitted behind the network, as its bytes; `None` if none was.
    #[must_use]
    pub fn head_record(&self) -> Option<&[u8]> {
        self.image.as_ref()?.head_record.as_deref()
    }

    /// The manifest's licence, if it has one.
    #[must_use]
    pub fn licence(&self) -> Option<&str> {
        self.image.as_ref()?.manifest.licence.as_deref()
    }
}

impl ImageModel {
    /// Takes the first session into use, after it has passed the golden check at every size of a batch that
    /// will be used: a device may compute each in another way.
    fn take(&mut self, mut session: Session, batch_max: usize) -> Result<(), ModelError> {
        self.check(&mut session, 1)?;
        if batch_max <= 1 {
            self.first = Mutex::new(Some(self.embedder(session)));
            return Ok(());
        }
        let batch_max = batch_max.min(session.images_max());
        let doubled = std::iter::successors(Some(2), |size| Some(2 * size));
        let sizes = doubled.take_while(|size| *size < batch_max);
        for images in sizes.chain([batch_max]).filter(|images| 1 < *images) {
            self.check(&mut session, images)?;
        }
        self.batcher = Some(Batcher::start(session, batch_max)?);
        Ok(())
    }

    fn check(&self, session: &mut Session, images: usize) -> Result<(), ModelError> {
        let (runtime, provider) = (&self.runtime, self.provider);
        self.golden.check(session, images, runtime, provider)
    }

    fn embedder(&self, engine: impl Into<embedder::Engine>) -> Embedder {
        let (manifest, budget) = (Arc::clone(&self.manifest), self.budget.clone());
        Embedder::new(engine.into(), manifest, budget)
    }
}

impl CreateError {
    /// The error, of the ONNX file at `path`.
    fn of(self, path: PathBuf) -> ModelError {
        match self {
            Self::Refused(reason) => ModelError::Refused { path, reason },
            Self::Onnx(error @ (OnnxError::Malformed(_) | OnnxError::Foreign(_))) => {
                let reason = error.to_string();
                ModelError::Refused { path, reason }
            }
            Self::Onnx(error @ (OnnxError::External { .. } | OnnxError::Compiled { .. })) => {
                let reason = error.to_string();
                ModelError::NotOneFile { path, reason }
            }
            Self::Interface { mistakes, has } => ModelError::Interface {
                path,
                mistakes,
                has,
            },
        }
    }
}

/// The manifest of a folder, with the file and the golden embedding of a precision.
fn manifest_of(folder: &Path, precision: &str) -> Result<Manifest, ModelError> {
    let manifest = folder::read_manifest(folder)?;
    if precision == BASE_PRECISION {
        return Ok(manifest);
    }
    manifest
        .in_precision(precision)
        .map_err(|others| ModelError::Precision {
            path: folder.join(MANIFEST_NAME),
            precision: precision.to_owned(),
            others,
        })
}

enum SessionFailure {
    /// A device is not there, or does not work.
    Absent(Provider, String),
    Create(CreateError),
}

/// What sessions are made from.
struct SessionSource<'a> {
    runtime: &'a Runtime,
    onnx: &'a [u8],
    manifest: &'a Manifest,
    resources: Resources,
}

impl SessionSource<'_> {
    fn session(&self, provider: Provider) -> Result<Session, CreateError> {
        let (onnx, manifest) = (self.onnx, self.manifest);
        let builder = session::builder(self.runtime, provider, self.resources);
        Session::create(builder, onnx, manifest)
    }
}

/// Makes the first session, on the device that was requested.
fn create(
    device: Device,
    source: &SessionSource<'_>,
) -> Result<(Session, Provider), SessionFailure> {
    let on_cpu = || {
        let session = source.session(Provider::Cpu);
        Ok((session.map_err(SessionFailure::Create)?, Provider::Cpu))
    };
    let on_gpu = |provider| {
        if let Some(reason) = session::missing(provider, source.runtime) {
            return Err(SessionFailure::Absent(provider, reason));
        }
        match source.session(provider) {
            Ok(session) => Ok((session, provider)),
            Err(CreateError::Refused(reason)) => Err(SessionFailure::Absent(provider, reason)),
            Err(error @ (CreateError::Interface { .. } | CreateError::Onnx(_))) => {
                Err(SessionFailure::Create(error))
            }
        }
    };
    match device {
        Device::Cpu => on_cpu(),
        Device::Cuda => on_gpu(Provider::Cuda),
        Device::TensorRt => on_gpu(Provider::TensorRt),
        // Never TensorRT, which takes minutes to prepare a model.
        Device::Auto => match on_gpu(Provider::Cuda) {
            Err(SessionFailure::Absent(_cuda, reason)) => {
                tracing::info!(reason, "no CUDA, so the model runs on the CPU");
                on_cpu()
            }
            other => other,
        },
    }
}

fn fingerprint(manifest: &Manifest) -> String {
    let text = format!(
        "matchpoint model 1\npipeline = {PIPELINE_VERSION}\nonnx = {}\n{}",
        manifest.sha256,
        manifest.canonical()
    );
    encode_string(&Sha256::digest(text.as_bytes()))
}

fn preparation(manifest: &Manifest) -> String {
    format!("pipeline = {PIPELINE_VERSION}\n{}", manifest.canonical())
}
