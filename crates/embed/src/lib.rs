//! Turns untrusted image bytes into embeddings, with models, sessions, and a fair queue of jobs.
//!
//! A [`Model`] is a folder with an ONNX file and its manifest. It can be opened only if it still computes the
//! same as when it was made. [`pixels`] decodes untrusted files to bounded, upright and resized pixels:
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
//! [`pool::WorkerPool`] runs jobs on worker threads, each with its own session.

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
mod fusing;
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
mod second_layer;
mod session;
mod standing;
mod tensor;
mod toml_table;
mod turns;

pub use adapted::{AdaptedFolder, LayeredFolder, adapted_folder, layered_folder};
pub use error::{EmbedError, ModelError};
pub use fusing::{MapEmbedding, ModelFile};
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

/// The version of everything between the bytes of a file and the input tensor: decoders, orientation, colour,
/// resizing, scaling. It is increased with each change that affects an embedding, because earlier galleries and
/// operating points then no longer fit.
const PIPELINE_VERSION: u32 = 4;

/// The device that models run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU with CUDA; an error if that does not work.
    Cuda,
    /// An NVIDIA GPU with `TensorRT`, and CUDA for operators that `TensorRT` does not support; an error if that
    /// does not work.
    TensorRt,
    /// An NVIDIA GPU if that works, otherwise the CPU.
    Auto,
}

/// The device that a model runs on, and the resources that it may use.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Number of threads of a session on the CPU; at least 1.
    pub threads: usize,
    /// The highest number of images of waiting requests in one run; 1 for no batches, and `None` for the
    /// device's default. The default is 1 on the CPU, where a batch makes each image slower, and 16 on a GPU.
    pub batch_max: Option<usize>,
    /// The memory limit of a session on a GPU, in bytes; `None` for no limit.
    pub gpu_bytes_max: Option<usize>,
    /// Whether a session on the CPU keeps memory between runs, which makes runs faster.
    pub cpu_arena: bool,
    /// The memory budget for decoding, which is shared with all models that were opened with a clone of it.
    pub decode_budget: DecodeBudget,
}

impl Compute {
    /// One thread for each session, and the defaults of the device.
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

    /// The highest number of images in one run of a model, before the device is known.
    #[must_use]
    pub fn joined_max(&self) -> usize {
        self.batch_max.unwrap_or(match self.device {
            Device::Cpu => 1,
            Device::Cuda | Device::TensorRt | Device::Auto => GPU_BATCH_MAX,
        })
    }
}

/// The default number of images in a run on a GPU. More would gain little and wait longer.
const GPU_BATCH_MAX: usize = 16;

/// An opened model: its file has the hash in the manifest, and the golden check has passed with this runtime
/// and device. It can also be just the name of a vector space whose vectors are made elsewhere.
pub struct Model {
    name: String,
    precision: String,
    dimension: usize,
    fingerprint: String,
    /// `None` if vectors are made elsewhere.
    image: Option<ImageModel>,
}

/// The part that embeds images.
struct ImageModel {
    manifest: Arc<Manifest>,
    onnx: Vec<u8>,
    runtime: Runtime,
    provider: Provider,
    resources: Resources,
    golden: GoldenCheck,
    /// The embedder of the first session, until the first worker takes it.
    first: Mutex<Option<Embedder>>,
    /// The record of a fitted head, if there is one.
    head_record: Option<Vec<u8>>,
    /// The session that all workers share, if images are run in batches.
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
    /// Opens a model folder, in one of the manifest's precisions or, if none is named, with the model's own
    /// file. It reads the manifest, compares the ONNX file with its hash and the interface with the manifest,
    /// and embeds the golden image.
    ///
    /// # Errors
    /// Returns an error if anything in the folder is missing, wrong or changed, or if the device cannot be
    /// used.
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

    /// A vector space whose vectors are made elsewhere, identified by its name and dimension. It embeds no
    /// images.
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

    /// Whether it embeds images; otherwise it is only a name for vectors that are made elsewhere.
    #[must_use]
    pub fn embeds_images(&self) -> bool {
        self.image.is_some()
    }

    /// The kind of a job for an image, judged by its headers.
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

    /// An embedder for a worker, with its own session that has passed the golden check. This takes about 50 ms
    /// for a small model.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot make another session, for example because memory is short, or if
    /// the session computes differently.
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

    /// The name of the precision: "f32" for the model's own file.
    #[must_use]
    pub fn precision(&self) -> &str {
        &self.precision
    }

    /// The name of the precision; `None` for the model's own file.
    #[must_use]
    pub fn named_precision(&self) -> Option<&str> {
        Some(self.precision()).filter(|name| *name != BASE_PRECISION)
    }

    /// The highest number of images of waiting requests in one run; 1 without batches. This many workers in
    /// addition to the number of processors are useful.
    #[must_use]
    pub fn joined_max(&self) -> usize {
        let batcher = self.image.as_ref().and_then(|image| image.batcher.as_ref());
        batcher.map_or(1, Batcher::batch_max)
    }

    /// The number of times that a session has passed the golden check, with any batch size.
    #[must_use]
    pub fn golden_checks(&self) -> u64 {
        let image = self.image.as_ref();
        image.map_or(0, |image| image.golden.passed())
    }

    /// The name of the model or of the vector space.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 64 hexadecimal digits that differ between any two models whose embeddings must not be compared. They are
    /// a hash over the ONNX file, every manifest key that affects an embedding, and the version of the image
    /// pipeline.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How images are prepared and the output is read: a line for each manifest key that affects an embedding,
    /// and the version of the image pipeline. It is part of the fingerprint; empty if vectors are made
    /// elsewhere.
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

    /// The device in use, after `auto` has chosen: "cpu", "cuda" or "tensorrt"; "none" if vectors are made
    /// elsewhere.
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

    /// 64 hexadecimal digits over the exact result for the golden image in this process. With another
    /// processor, another build of the runtime or another number of threads, sums are rounded in another order,
    /// so the digits differ. Empty if vectors are made elsewhere.
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

    /// The bytes of the record of a fitted head; `None` if there is none.
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
    /// Puts the first session into use after it has passed the golden check with every batch size that will be
    /// used, because a device may compute each size in another way.
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
    /// The error for the ONNX file at `path`.
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
    /// The device is missing or does not work.
    Absent(Provider, String),
    Create(CreateError),
}

/// The data from which sessions are made.
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

/// Makes the first session, on the requested device.
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
        // Not TensorRT, which takes minutes to prepare a model.
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
