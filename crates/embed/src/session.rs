//! An ONNX Runtime session, which is made from bytes in memory, checked against the manifest, and run.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ExecutionProvider as _};
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, Session as OrtSession};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, TensorRef, ValueType};

use super::input::TensorLayout;
use super::manifest::Manifest;
use super::onnx::{self, OnnxError};
use super::output::{EmbeddingOutput, EmbeddingPart, axes_fit, shape_text, take};
use super::runtime::Runtime;

/// The execution provider of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Provider {
    Cpu,
    Cuda,
    TensorRt,
}

impl Provider {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// The resources that a session may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resources {
    /// Number of threads on the CPU.
    pub(super) threads: usize,
    /// Memory limit on a GPU in bytes; `None` for no limit.
    pub(super) gpu_bytes_max: Option<usize>,
    /// Whether memory on the CPU is kept between runs.
    pub(super) cpu_arena: bool,
}

/// A session, and the position of the embedding in its output.
pub(super) struct Session {
    session: OrtSession,
    /// The input shape for one image.
    shape: [i64; 4],
    /// The number of images that the model takes at once; `None` if it leaves that open.
    batch: Option<usize>,
    element: TensorElement,
    output: String,
    take: EmbeddingPart,
    dimension: usize,
    /// The time limit of a run; `None` for no limit.
    time_max: Option<Duration>,
}

/// The time limit of a run until the model is known to work, because a network can contain an endless loop. It
/// is a hundred times what the largest models need for a picture on one thread.
pub(super) const FIRST_RUN_TIME_MAX: Duration = Duration::from_mins(5);

/// The number types in which a model can take an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TensorElement {
    F32,
    F16,
    F64,
    /// Grey levels, without scaling.
    U8,
}

impl TensorElement {
    fn of(ty: TensorElementType) -> Option<Self> {
        let all = [
            (TensorElementType::Float32, Self::F32),
            (TensorElementType::Float16, Self::F16),
            (TensorElementType::Float64, Self::F64),
            (TensorElementType::Uint8, Self::U8),
        ];
        let mut all = all.into_iter();
        all.find(|(known, _)| *known == ty)
            .map(|(_, element)| element)
    }
}

/// The highest number of images that a model may require at once, because each search would compute all of
/// them.
const FIXED_BATCH_MAX: usize = 256;

/// The highest number of values in such a batch: a gibibyte of f32.
const FIXED_BATCH_NUMBERS_MAX: i64 = 1 << 28;

/// The number types in which a model can give an embedding.
const OUTPUTS: [TensorElementType; 5] = [
    TensorElementType::Float32,
    TensorElementType::Float16,
    TensorElementType::Float64,
    TensorElementType::Uint8,
    TensorElementType::Int8,
];

/// Why a provider cannot be used with this runtime, found out before any model is read; `None` if it can.
pub(super) fn missing(provider: Provider, runtime: &Runtime) -> Option<String> {
    let (available, name) = match provider {
        Provider::Cpu => return None,
        Provider::Cuda => (ep::CUDA::is_available(), "CUDA"),
        Provider::TensorRt => (ep::TensorRT::is_available(), "TensorRT"),
    };
    match available {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "the ONNX Runtime library {} (version {}) was built without {name}; the package \
             onnxruntime-gpu has one with it",
            runtime.path().display(),
            runtime.version(),
        )),
        Err(cause) => Some(cause.to_string()),
    }
}

impl Session {
    /// Makes a session from the bytes of an ONNX file. Bytes that are not the complete network are refused
    /// first, because the runtime would read the rest from below the working directory, without any hash.
    pub(super) fn create(
        builder: ort::Result<SessionBuilder>,
        onnx: &[u8],
        manifest: &Manifest,
    ) -> Result<Self, CreateError> {
        let session = open(builder, onnx)?;
        let interface = InterfaceCheck::of(&session, manifest);
        if !interface.mistakes.is_empty() {
            let has = format!(
                "inputs {}; outputs {}",
                listed(session.inputs()),
                listed(session.outputs())
            );
            let mistakes = interface.mistakes;
            return Err(CreateError::Interface { mistakes, has });
        }
        Ok(Self {
            batch: interface.batch,
            element: interface.element.unwrap_or(TensorElement::F32),
            session,
            shape: tensor_shape(manifest),
            output: manifest.output.name.clone(),
            take: manifest.output.take,
            dimension: manifest.output.dimension,
            time_max: Some(FIRST_RUN_TIME_MAX),
        })
    }

    /// Sets the time limit of runs; `None` for no limit.
    pub(super) fn set_time_max(&mut self, time_max: Option<Duration>) {
        self.time_max = time_max;
    }

    /// The highest number of images in one run.
    pub(super) fn images_max(&self) -> usize {
        self.batch.unwrap_or(usize::MAX)
    }

    /// The embedding of one input tensor, as the model gives it: not normalised, and possibly not finite.
    pub(super) fn run(&mut self, tensor: &[f32]) -> Result<Vec<f32>, String> {
        let embeddings = self.run_batch(tensor, 1)?;
        embeddings
            .into_iter()
            .next()
            .ok_or_else(|| String::from("no embedding"))
    }

    /// The embeddings of `images` input tensors in one block. If the model takes a fixed number of images, the
    /// last image is repeated in the remaining places.
    pub(super) fn run_batch(
        &mut self,
        tensors: &[f32],
        images: usize,
    ) -> Result<Vec<Vec<f32>>, String> {
        let batch = match self.batch {
            Some(batch) if batch != images => batch,
            Some(_) | None => return self.run_whole(tensors, images),
        };
        let each = tensors.len() / images.max(1);
        let mut embeddings = Vec::with_capacity(images);
        for some in tensors.chunks(each.max(1) * batch) {
            let mut filled = some.to_vec();
            let last = some.len().saturating_sub(each);
            while filled.len() < each * batch {
                filled.extend(some.get(last..).unwrap_or_default());
            }
            let wanted = some.len() / each.max(1);
            embeddings.extend(self.run_whole(&filled, batch)?.into_iter().take(wanted));
        }
        Ok(embeddings)
    }

    /// Runs exactly as many images as the model takes.
    fn run_whole(&mut self, tensors: &[f32], images: usize) -> Result<Vec<Vec<f32>>, String> {
        let [_, rest @ ..] = self.shape;
        let [first, second, third] = rest;
        let count = i64::try_from(images).map_err(|e| e.to_string())?;
        let shape = [count, first, second, third];
        let inputs = if self.element == TensorElement::F32 {
            let input = TensorRef::from_array_view((shape, tensors)).map_err(|e| e.to_string())?;
            ort::inputs![input]
        } else {
            let input = converted(self.element, shape, tensors).map_err(|e| e.to_string())?;
            ort::inputs![input]
        };
        let options = RunOptions::new().map_err(|e| e.to_string())?;
        let outputs = match self.time_max {
            None => self.session.run(inputs).map_err(|e| e.to_string()),
            Some(time_max) => {
                let run = || self.session.run_with_options(inputs, &options);
                run_within(time_max, &options, run)
            }
        }?;
        let output = outputs
            .get(&self.output)
            .ok_or_else(|| format!("no output {:?}", self.output))?;
        let (shape, values) = numbers(output).map_err(|e| e.to_string())?;
        let each = values.len().checked_div(images).unwrap_or(0).max(1);
        let embeddings = values.chunks(each);
        let embeddings = embeddings.map(|values| take(self.take, self.dimension, values));
        let embeddings: Option<Vec<Vec<f32>>> = embeddings.collect();
        let counted = shape.first() == Some(&count) && axes_fit(self.take, self.dimension, &shape);
        embeddings
            .filter(|embeddings| counted && embeddings.len() == images)
            .ok_or_else(|| {
                let wanted = shape_text(self.take, self.dimension);
                format!(
                    "output {:?} of {images} images has the shape {shape:?}, not {wanted} for each",
                    self.output
                )
            })
    }
}

/// Calls `run` with options that end it after this time.
fn run_within<T>(
    time_max: Duration,
    options: &RunOptions<NoSelectedOutputs>,
    run: impl FnOnce() -> ort::Result<T>,
) -> Result<T, String> {
    let (done, ended) = mpsc::channel::<()>();
    let late = move || {
        let late = ended.recv_timeout(time_max) == Err(RecvTimeoutError::Timeout);
        late && options.terminate().is_ok()
    };
    thread::scope(|scope| {
        let watch = thread::Builder::new().spawn_scoped(scope, late);
        let watch = watch.map_err(|cause| cause.to_string())?;
        let result = run();
        drop(done);
        match result {
            Err(_) if watch.join().unwrap_or(false) => Err(format!(
                "it did not end within {time_max:?}, and was ended; does it hold a loop?"
            )),
            result => result.map_err(|cause| cause.to_string()),
        }
    })
}

/// A session of any model, from bytes that are the complete model.
pub(super) fn open(
    builder: ort::Result<SessionBuilder>,
    onnx: &[u8],
) -> Result<OrtSession, CreateError> {
    onnx::check(onnx).map_err(CreateError::Onnx)?;
    builder
        .and_then(|mut builder| builder.commit_from_memory(onnx))
        .map_err(|cause| CreateError::Refused(cause.to_string()))
}

/// Converts the numbers to the type that the model takes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only grey levels become u8, see `Interface`"
)]
fn converted(element: TensorElement, shape: [i64; 4], numbers: &[f32]) -> ort::Result<DynValue> {
    let numbers = numbers.iter().copied();
    Ok(match element {
        TensorElement::F32 => {
            Tensor::from_array((shape, numbers.collect::<Vec<f32>>()))?.into_dyn()
        }
        TensorElement::F16 => {
            let halves = numbers.map(half::f16::from_f32);
            Tensor::from_array((shape, halves.collect::<Vec<_>>()))?.into_dyn()
        }
        TensorElement::F64 => {
            let doubles = numbers.map(f64::from);
            Tensor::from_array((shape, doubles.collect::<Vec<_>>()))?.into_dyn()
        }
        TensorElement::U8 => {
            let levels = numbers.map(|level| level as u8);
            Tensor::from_array((shape, levels.collect::<Vec<_>>()))?.into_dyn()
        }
    })
}

/// An output's shape and its numbers, whatever their type.
fn numbers(output: &DynValue) -> ort::Result<(Vec<i64>, Vec<f32>)> {
    let ty = match output.dtype() {
        ValueType::Tensor { ty, .. } => *ty,
        ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_) => {
            TensorElementType::Undefined
        }
    };
    if ty == TensorElementType::Float16 {
        let (shape, values) = output.try_extract_tensor::<half::f16>()?;
        let values = values.iter().map(|value| value.to_f32());
        return Ok((shape.to_vec(), values.collect()));
    }
    if ty == TensorElementType::Float64 {
        let (shape, values) = output.try_extract_tensor::<f64>()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded to the precision of embeddings"
        )]
        let values = values.iter().map(|value| *value as f32);
        return Ok((shape.to_vec(), values.collect()));
    }
    if ty == TensorElementType::Uint8 {
        let (shape, values) = output.try_extract_tensor::<u8>()?;
        return Ok((
            shape.to_vec(),
            values.iter().copied().map(f32::from).collect(),
        ));
    }
    if ty == TensorElementType::Int8 {
        let (shape, values) = output.try_extract_tensor::<i8>()?;
        return Ok((
            shape.to_vec(),
            values.iter().copied().map(f32::from).collect(),
        ));
    }
    let (shape, values) = output.try_extract_tensor::<f32>()?;
    Ok((shape.to_vec(), values.to_vec()))
}

/// The reasons why no session could be made.
pub(super) enum CreateError {
    /// The file is not ONNX, or not the complete network.
    Onnx(OnnxError),
    /// The runtime refuses the file.
    Refused(String),
    /// The model's inputs and outputs are not those of the manifest.
    Interface { mistakes: Vec<String>, has: String },
}

/// Prepacked weights are not shared between sessions, because the runtime does that only for weights that are
/// passed separately (measured: not a byte is shared).
pub(super) fn builder(
    runtime: &Runtime,
    provider: Provider,
    resources: Resources,
) -> ort::Result<SessionBuilder> {
    let builder =
        OrtSession::builder(runtime.environment())?.with_intra_threads(resources.threads)?;
    Ok(match provider {
        // The CPU provider itself always exists. Naming it here switches its arena off.
        Provider::Cpu if resources.cpu_arena => {
            builder.with_auto_device(AutoDevicePolicy::PreferCPU)?
        }
        Provider::Cpu => builder.with_execution_providers([ep::CPU::default()
            .with_arena_allocator(false)
            .build()
            .error_on_failure()])?,
        Provider::Cuda => {
            builder.with_execution_providers([cuda(resources).build().error_on_failure()])?
        }
        Provider::TensorRt => builder.with_execution_providers([
            ep::TensorRT::default().build().error_on_failure(),
            // For operators that TensorRT does not support.
            cuda(resources).build().error_on_failure(),
        ])?,
    })
}

fn cuda(resources: Resources) -> ep::CUDA {
    // TF32 would round products to ten bits and so give other scores than the CPU. An exhaustive search would
    // be repeated for each batch size, while callers wait.
    let cuda = ep::CUDA::default()
        .with_tf32(false)
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
    match resources.gpu_bytes_max {
        Some(bytes) => cuda.with_memory_limit(bytes),
        None => cuda,
    }
}

fn tensor_shape(manifest: &Manifest) -> [i64; 4] {
    let (width, height) = (
        i64::from(manifest.geometry.width),
        i64::from(manifest.geometry.height),
    );
    let channels = i64::try_from(manifest.input.colour.channels()).unwrap_or(3);
    match manifest.input.layout {
        TensorLayout::Nchw => [1, channels, height, width],
        TensorLayout::Nhwc => [1, height, width, channels],
    }
}

// === The model's interface against the manifest ===

/// Compares the inputs and outputs of a session with the manifest.
struct InterfaceCheck {
    mistakes: Vec<String>,
    batch: Option<usize>,
    element: Option<TensorElement>,
}

impl InterfaceCheck {
    fn of(session: &OrtSession, manifest: &Manifest) -> Self {
        let mut interface = Self {
            mistakes: Vec::new(),
            batch: None,
            element: None,
        };
        let mut batches = [
            interface.look_at_input(session.inputs(), manifest),
            interface.look_at_output(session.outputs(), &manifest.output),
        ]
        .into_iter()
        .flatten();
        interface.batch = batches.next();
        if let (Some(input), Some(output)) = (interface.batch, batches.next())
            && input != output
        {
            interface.mistakes.push(format!(
                "the model takes {input} images at once and gives {output} results, so that none \
                 can be told from the others; export it with a batch of 1 or an open one"
            ));
        }
        let each: i64 = tensor_shape(manifest).iter().product();
        let too_many = |batch: &usize| {
            let numbers = i64::try_from(*batch)
                .ok()
                .and_then(|batch| batch.checked_mul(each));
            FIXED_BATCH_MAX < *batch || numbers.is_none_or(|all| FIXED_BATCH_NUMBERS_MAX < all)
        };
        if let Some(batch) = interface.batch.filter(too_many).filter(|batch| 1 < *batch) {
            interface.mistakes.push(format!(
                "the model takes {batch} images at once, more than {FIXED_BATCH_MAX} or than memory \
                 should be spent on; export it with a batch of 1 or an open one"
            ));
        }
        interface
    }

    /// Returns the number of images that the input takes, if it is fixed.
    fn look_at_input(&mut self, inputs: &[Outlet], manifest: &Manifest) -> Option<usize> {
        let name = &manifest.input.name;
        let input = match inputs {
            [input] if input.name() == name => input,
            _ => {
                self.mistakes.push(format!(
                    "input.name = {name:?} must be the model's only input"
                ));
                return None;
            }
        };
        let wanted = tensor_shape(manifest);
        let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
            self.mistakes
                .push(format!("input {name:?} must take a tensor"));
            return None;
        };
        self.element = TensorElement::of(*ty);
        if self.element.is_none() {
            self.mistakes.push(format!(
                "input {name:?} takes {ty}, which is not supported; f32, f16, f64 and u8 are: put a \
                 Cast from one of them before it"
            ));
        }
        if self.element == Some(TensorElement::U8) && !manifest.input.scale.is_none() {
            self.mistakes.push(format!(
                "input {name:?} takes u8, which holds grey levels as they are: input.scale has to be \
                 \"none\""
            ));
        }
        let mut axes = shape.iter().zip(wanted);
        let batch = axes.next().map(|(batch, _)| *batch);
        let fits = shape.len() == wanted.len()
            && batch.is_some_and(|batch| batch == -1 || 0 < batch)
            && axes.all(|(length, wanted)| *length == -1 || *length == wanted);
        if !fits {
            self.mistakes.push(format!(
                "input {name:?} must take f32 {wanted:?} by input.layout, colour, width and height"
            ));
        }
        batch.and_then(|batch| usize::try_from(batch).ok())
    }

    /// Returns the number of images that the output is for, if it is fixed.
    fn look_at_output(&mut self, outputs: &[Outlet], output: &EmbeddingOutput) -> Option<usize> {
        let EmbeddingOutput {
            name,
            dimension,
            take,
        } = output;
        let Some(output) = outputs.iter().find(|output| output.name() == name) else {
            self.mistakes.push(format!(
                "output.name = {name:?} must be one of the model's outputs"
            ));
            return None;
        };
        let ValueType::Tensor { ty, shape, .. } = output.dtype() else {
            self.mistakes
                .push(format!("output {name:?} must give a tensor"));
            return None;
        };
        if !OUTPUTS.contains(ty) {
            self.mistakes.push(format!(
                "output {name:?} gives {ty}, which is not supported; f32, f16, f64, u8 and i8 are: \
                 put a Cast to one of them behind it"
            ));
        }
        if !axes_fit(*take, *dimension, shape) {
            let wanted = shape_text(*take, *dimension);
            self.mistakes.push(format!(
                "output {name:?} must give f32 {wanted} by output.take and output.dimension"
            ));
        }
        let batch = shape.first().copied();
        batch.and_then(|batch| usize::try_from(batch).ok())
    }
}

fn listed(outlets: &[Outlet]) -> String {
    let texts: Vec<String> = outlets
        .iter()
        .map(|outlet| format!("{:?} {}", outlet.name(), outlet.dtype()))
        .collect();
    texts.join(", ")
}
