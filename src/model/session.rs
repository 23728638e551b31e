//! One ONNX Runtime session: made from bytes in memory, checked against the manifest, run.

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ExecutionProvider as _};
use ort::session::Session as OrtSession;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::manifest::{Layout, Manifest, Output, Take};
use super::onnx::{self, OnnxError};
use super::runtime::Runtime;

/// What a session computes on.
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

/// How much a session may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resources {
    /// On the CPU.
    pub(super) threads: usize,
    /// On a GPU; `None` for no limit.
    pub(super) gpu_bytes_max: Option<usize>,
    /// Whether memory on the CPU is kept between runs.
    pub(super) cpu_arena: bool,
}

/// A session and the place of the embedding in its output.
pub(super) struct Session {
    session: OrtSession,
    /// Of one image.
    shape: [i64; 4],
    /// Whether the model leaves open how many images it is given.
    batches: bool,
    output: String,
    take: Take,
    dimension: usize,
}

/// Why a provider cannot be used with this runtime, before any model is looked at.
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
    /// Makes a session from the bytes of an ONNX file. Bytes that are not all of the network are
    /// refused first: the runtime would read the rest from below the working directory, under no
    /// hash.
    pub(super) fn create(
        builder: ort::Result<SessionBuilder>,
        onnx: &[u8],
        manifest: &Manifest,
    ) -> Result<Self, CreateError> {
        onnx::check(onnx).map_err(CreateError::Onnx)?;
        let session = builder
            .and_then(|mut builder| builder.commit_from_memory(onnx))
            .map_err(|cause| CreateError::Refused(cause.to_string()))?;
        let mistakes = interface_mistakes(&session, manifest);
        if !mistakes.is_empty() {
            let has = format!(
                "inputs {}; outputs {}",
                listed(session.inputs()),
                listed(session.outputs())
            );
            return Err(CreateError::Interface { mistakes, has });
        }
        let outlets = session.inputs().iter().chain(session.outputs());
        let mut shapes = outlets.filter(|outlet| {
            [&manifest.input.name, &manifest.output.name].contains(&&outlet.name().to_owned())
        });
        Ok(Self {
            batches: shapes.all(|outlet| is_open(outlet.dtype())),
            session,
            shape: tensor_shape(manifest),
            output: manifest.output.name.clone(),
            take: manifest.output.take,
            dimension: manifest.output.dimension,
        })
    }

    /// Whether it runs several images at once.
    pub(super) fn batches(&self) -> bool {
        self.batches
    }

    /// The embedding of one input tensor, as the model gives it: not normalised, perhaps not finite.
    pub(super) fn run(&mut self, tensor: &[f32]) -> Result<Vec<f32>, String> {
        let embeddings = self.run_batch(tensor, 1)?;
        embeddings
            .into_iter()
            .next()
            .ok_or_else(|| String::from("no embedding"))
    }

    /// The embeddings of `images` input tensors, one behind the other.
    pub(super) fn run_batch(
        &mut self,
        tensors: &[f32],
        images: usize,
    ) -> Result<Vec<Vec<f32>>, String> {
        let [_, rest @ ..] = self.shape;
        let [first, second, third] = rest;
        let count = i64::try_from(images).map_err(|e| e.to_string())?;
        let shape = [count, first, second, third];
        let input = TensorRef::from_array_view((shape, tensors)).map_err(|e| e.to_string())?;
        let outputs = self
            .session
            .run(ort::inputs![input])
            .map_err(|e| e.to_string())?;
        let output = outputs
            .get(&self.output)
            .ok_or_else(|| format!("no output {:?}", self.output))?;
        let (shape, values) = output
            .try_extract_tensor::<f32>()
            .map_err(|e| e.to_string())?;
        let each = values.len().checked_div(images).unwrap_or(0).max(1);
        let embeddings = values.chunks(each);
        let embeddings = embeddings.map(|values| take(self.take, self.dimension, values));
        let embeddings: Option<Vec<Vec<f32>>> = embeddings.collect();
        let counted = shape.first() == Some(&count);
        embeddings
            .filter(|embeddings| counted && embeddings.len() == images)
            .ok_or_else(|| {
                let wanted = shape_text(self.take, self.dimension);
                format!(
                    "output {:?} of {images} images has the shape {shape}, not {wanted} for each",
                    self.output
                )
            })
    }
}

/// Why no session could be made.
pub(super) enum CreateError {
    /// The file is no ONNX, or not all of the network.
    Onnx(OnnxError),
    /// The runtime does not take the file.
    Refused(String),
    /// The model's inputs and outputs are not those of the manifest.
    Interface { mistakes: Vec<String>, has: String },
}

/// Prepacked weights are not shared between sessions: the runtime does that only for weights handed
/// over one by one (measured: no byte).
pub(super) fn builder(
    runtime: &Runtime,
    provider: Provider,
    resources: Resources,
) -> ort::Result<SessionBuilder> {
    let builder =
        OrtSession::builder(runtime.environment())?.with_intra_threads(resources.threads)?;
    Ok(match provider {
        // The CPU provider itself is always there. Naming it switches its arena off.
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
            // For what TensorRT does not take.
            cuda(resources).build().error_on_failure(),
        ])?,
    })
}

fn cuda(resources: Resources) -> ep::CUDA {
    // TF32 would round the products to ten bits and so give other scores than the CPU does. An
    // exhaustive search is made anew for each size of a batch, while callers wait.
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
    match manifest.input.layout {
        Layout::Nchw => [1, 3, height, width],
        Layout::Nhwc => [1, height, width, 3],
    }
}

/// The embedding's values within the output's; `None` where their number does not fit.
fn take(take: Take, dimension: usize, values: &[f32]) -> Option<Vec<f32>> {
    match take {
        Take::Vector => (values.len() == dimension).then(|| values.to_vec()),
        Take::FirstToken => {
            let whole = values.len().is_multiple_of(dimension);
            values
                .get(..dimension)
                .filter(|_| whole)
                .map(<[f32]>::to_vec)
        }
        Take::MeanOfTokens => {
            let tokens = values.chunks_exact(dimension);
            if tokens.len() == 0 || !tokens.remainder().is_empty() {
                return None;
            }
            // The sum has the mean's direction, and direction is all that an embedding keeps; in
            // f64 it cannot overflow.
            #[expect(
                clippy::cast_precision_loss,
                reason = "a model has far fewer than 2^52 tokens"
            )]
            let count = tokens.len() as f64;
            let mut sums = vec![0.0_f64; dimension];
            for token in tokens {
                for (sum, value) in sums.iter_mut().zip(token) {
                    *sum += f64::from(*value);
                }
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded to the model's precision"
            )]
            Some(sums.into_iter().map(|sum| (sum / count) as f32).collect())
        }
    }
}

// === The model's interface against the manifest ===

fn interface_mistakes(session: &OrtSession, manifest: &Manifest) -> Vec<String> {
    let mut mistakes = Vec::new();
    let name = &manifest.input.name;
    match session.inputs() {
        [input] if input.name() == name => {
            let wanted = tensor_shape(manifest);
            if !fits(input.dtype(), &wanted.map(Some)) {
                mistakes.push(format!(
                    "input {name:?} must take f32 {wanted:?} by input.layout, width and height"
                ));
            }
        }
        _ => mistakes.push(format!(
            "input.name = {name:?} must be the model's only input"
        )),
    }
    let Output {
        name,
        dimension,
        take,
    } = &manifest.output;
    let Some(output) = session
        .outputs()
        .iter()
        .find(|output| output.name() == name)
    else {
        mistakes.push(format!(
            "output.name = {name:?} must be one of the model's outputs"
        ));
        return mistakes;
    };
    let width = i64::try_from(*dimension).ok();
    let shape: &[Option<i64>] = match take {
        Take::Vector => &[Some(1), width],
        Take::FirstToken | Take::MeanOfTokens => &[Some(1), None, width],
    };
    if !fits(output.dtype(), shape) {
        let wanted = shape_text(*take, *dimension);
        mistakes.push(format!(
            "output {name:?} must give f32 {wanted} by output.take and output.dimension"
        ));
    }
    mistakes
}

/// Whether a declared type can be an f32 tensor of this shape. -1 is a length the model leaves open.
fn fits(declared: &ValueType, wanted: &[Option<i64>]) -> bool {
    let ValueType::Tensor {
        ty: TensorElementType::Float32,
        shape,
        ..
    } = declared
    else {
        return false;
    };
    shape.len() == wanted.len()
        && shape
            .iter()
            .zip(wanted)
            .all(|(length, wanted)| *length == -1 || wanted.is_none_or(|wanted| *length == wanted))
}

/// Whether the first axis, that of the images, has no fixed length.
fn is_open(declared: &ValueType) -> bool {
    matches!(declared, ValueType::Tensor { shape, .. } if shape.first() == Some(&-1))
}

fn listed(outlets: &[Outlet]) -> String {
    let texts: Vec<String> = outlets
        .iter()
        .map(|outlet| format!("{:?} {}", outlet.name(), outlet.dtype()))
        .collect();
    texts.join(", ")
}

fn shape_text(take: Take, dimension: usize) -> String {
    match take {
        Take::Vector => format!("[1, {dimension}]"),
        Take::FirstToken | Take::MeanOfTokens => format!("[1, tokens, {dimension}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_is_the_part_of_the_output_that_the_manifest_names() {
        let tokens = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(take(Take::Vector, 4, &tokens), Some(tokens.to_vec()));
        assert_eq!(take(Take::FirstToken, 2, &tokens), Some(vec![1.0, 2.0]));
        assert_eq!(take(Take::MeanOfTokens, 2, &tokens), Some(vec![2.0, 3.0]));
    }

    #[test]
    fn an_output_of_another_length_is_no_embedding() {
        for way in [Take::Vector, Take::FirstToken, Take::MeanOfTokens] {
            assert_eq!(take(way, 3, &[1.0, 2.0, 3.0, 4.0]), None);
            assert_eq!(take(way, 3, &[]), None);
        }
    }
}
