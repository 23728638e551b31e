//! A model whose manifest is still being written: the interface of its ONNX file, and its embeddings without a
//! golden check.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base16ct::lower::encode_string;
use ort::value::{Outlet, ValueType};
use sha2::{Digest as _, Sha256};

use super::decode_memory::DecodeBudget;
use super::embedder::Embedder;
use super::error::ModelError;
use super::folder::{self, ONNX_BYTES_MAX};
use super::manifest::Manifest;
use super::onnx;
use super::runtime::Runtime;
use super::session::{self, Provider, Resources, Session};

/// The bytes of an ONNX file, with the path for error messages.
#[derive(Clone, Debug)]
pub struct OnnxFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// An input or an output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its numbers, such as "f32"; empty if it is not a tensor.
    pub element: String,
    /// The length of each axis; `None` if the model leaves it open.
    pub shape: Vec<Option<u32>>,
}

/// All inputs and outputs of a model.
#[derive(Clone, Debug)]
pub struct ModelInterface {
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

/// A session of a model with its preprocessing. It is only checked that the two fit together.
pub struct ModelDraft {
    /// Embeds images on the CPU.
    pub embedder: Embedder,
    path: PathBuf,
}

impl OnnxFile {
    /// The default time limit for a run of a draft.
    pub const RUN_TIME_MAX: Duration = session::FIRST_RUN_TIME_MAX;

    /// Reads a whole ONNX file. A link is followed here, because the model's folder will get a copy.
    /// [`OnnxFile::interface`] checks whether the file is ONNX.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or is longer than any ONNX file can be.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let target = path.canonicalize().map_err(|cause| ModelError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let folder = target.parent().unwrap_or(Path::new(""));
        let name = target.file_name().map(Path::new).unwrap_or(&target);
        let bytes = folder::read(folder, name, ONNX_BYTES_MAX)?;
        let path = path.to_owned();
        Ok(Self { path, bytes })
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their SHA-256 as 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        encode_string(&Sha256::digest(&self.bytes))
    }

    /// The same model with additional outputs: tensors that its nodes compute.
    #[must_use]
    pub fn with_outputs(&self, tensors: &[&str]) -> Self {
        self.with_bytes(onnx::with_outputs(&self.bytes, tensors))
    }

    /// The names of the tensors that its nodes compute, in the order of the file; empty if it is not an
    /// ONNX file.
    #[must_use]
    pub fn computed(&self) -> Vec<String> {
        onnx::computed(&self.bytes).unwrap_or_default()
    }

    /// The same model with other bytes.
    pub(super) fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        let path = self.path.clone();
        Self { path, bytes }
    }

    /// The inputs and outputs of the model.
    ///
    /// # Errors
    /// Returns an error if the model needs another file, or if ONNX Runtime refuses it.
    pub fn interface(&self, runtime: &Runtime) -> Result<ModelInterface, ModelError> {
        let builder = session::builder(runtime, Provider::Cpu, ONE_THREAD);
        let session = session::open(builder, &self.bytes);
        let session = session.map_err(|error| error.of(self.path.clone()))?;
        let ports = |outlets: &[Outlet]| outlets.iter().map(Port::of).collect();
        Ok(ModelInterface {
            inputs: ports(session.inputs()),
            outputs: ports(session.outputs()),
        })
    }

    /// Opens the model on the CPU as the text of a manifest describes it. A run is ended after `run_time_max`.
    /// Neither hash nor golden pair is checked.
    ///
    /// # Errors
    /// Returns an error that names all mistakes in the manifest, or an error if it does not fit the model.
    pub fn draft(
        &self,
        manifest: &str,
        runtime: &Runtime,
        run_time_max: Duration,
    ) -> Result<ModelDraft, ModelError> {
        let manifest = self.manifest(manifest)?;
        let builder = session::builder(runtime, Provider::Cpu, ONE_THREAD);
        let session = Session::create(builder, &self.bytes, &manifest);
        let mut session = session.map_err(|error| error.of(self.path.clone()))?;
        session.set_time_max(Some(run_time_max));
        let budget = DecodeBudget::new(None);
        Ok(ModelDraft {
            embedder: Embedder::new(session.into(), Arc::new(manifest), budget),
            path: self.path.clone(),
        })
    }

    fn manifest(&self, text: &str) -> Result<Manifest, ModelError> {
        parse(text, &self.path)
    }
}

const ONE_THREAD: Resources = Resources {
    threads: 1,
    gpu_bytes_max: None,
    cpu_arena: true,
};

fn parse(text: &str, onnx: &Path) -> Result<Manifest, ModelError> {
    Manifest::parse(text).map_err(|mistakes| ModelError::Manifest {
        path: PathBuf::from(format!("the manifest for {}", onnx.display())),
        mistakes,
    })
}

impl ModelDraft {
    /// From now on, prepares images as another manifest with the same input and output says.
    ///
    /// # Errors
    /// Returns an error if the manifest has mistakes.
    pub fn prepare_as(&mut self, manifest: &str) -> Result<(), ModelError> {
        let manifest = parse(manifest, &self.path)?;
        self.embedder.prepare_as(Arc::new(manifest));
        Ok(())
    }
}

impl Port {
    fn of(outlet: &Outlet) -> Self {
        let name = outlet.name().to_owned();
        match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => Self {
                name,
                element: ty.to_string(),
                shape: shape.iter().map(|side| u32::try_from(*side).ok()).collect(),
            },
            ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_) => Self {
                name,
                element: String::new(),
                shape: Vec::new(),
            },
        }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axis =
            |side: &Option<u32>| side.map_or_else(|| "?".to_owned(), |side| side.to_string());
        let shape: Vec<String> = self.shape.iter().map(axis).collect();
        write!(f, "{:?} {} [{}]", self.name, self.element, shape.join(", "))
    }
}
