//! The state of a worker, which turns the bytes of an image into an embedding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pixels::{self, ImageLimits, ImageMeasures, Pixels, PixelsError, Resized, Resizer};
use matchpoint_vector::Embedding;

use super::batch::Batcher;
use super::caller::Cancellation;
use super::decode_memory::DecodeBudget;
use super::error::{CONTRAST_TOO_LOW, EmbedError};
use super::manifest::Manifest;
use super::session::Session;
use super::tensor;

/// A worker's session, or its handle for the shared session, with its buffers.
pub struct Embedder {
    dimension: usize,
    /// `None` if vectors are made elsewhere.
    image: Option<ImageEmbedder>,
}

/// Runs the model for a worker.
pub(super) enum Engine {
    /// The worker's own session, for one image at a time.
    Own(Box<Session>),
    /// The session that all workers share, for batches.
    Shared(Batcher),
}

impl From<Session> for Engine {
    fn from(session: Session) -> Self {
        Self::Own(Box::new(session))
    }
}

impl From<Batcher> for Engine {
    fn from(batcher: Batcher) -> Self {
        Self::Shared(batcher)
    }
}

struct ImageEmbedder {
    engine: Engine,
    budget: DecodeBudget,
    manifest: Arc<Manifest>,
    resizer: Resizer,
    tensor: Vec<f32>,
}

/// The embedding of an image, and the time that it took.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// The embedding.
    pub embedding: Embedding,
    /// The length of the feature vector before it was scaled to an embedding; above 0.
    pub norm: f64,
    /// Measures of the picture that do not depend on what it shows.
    pub measures: ImageMeasures,
    /// Time spent on decoding, resizing and filling the tensor.
    pub decode: Duration,
    /// Time spent in the model.
    pub inference: Duration,
}

impl Embedder {
    /// Number of components of every embedding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    pub(super) fn new(engine: Engine, manifest: Arc<Manifest>, budget: DecodeBudget) -> Self {
        let tensor = tensor_for(&manifest);
        Self {
            dimension: manifest.output.dimension,
            image: Some(ImageEmbedder {
                engine,
                budget,
                manifest,
                resizer: Resizer::new(),
                tensor,
            }),
        }
    }

    /// From now on, prepares images as another manifest says, with the same session.
    pub(super) fn prepare_as(&mut self, manifest: Arc<Manifest>) {
        if let Some(image) = &mut self.image {
            image.tensor = tensor_for(&manifest);
            image.manifest = manifest;
        }
    }

    /// For vectors that are made elsewhere.
    pub(super) fn of_vectors(dimension: usize) -> Self {
        Self {
            dimension,
            image: None,
        }
    }

    /// Decodes, resizes and embeds an image file held in memory.
    ///
    /// # Errors
    /// Returns [`EmbedError::Image`] if the bytes are not an image within the limits, [`EmbedError::NoContent`]
    /// if it shows nothing, [`EmbedError::NoEmbedding`] if the model gives NaN, infinity or zeros for it,
    /// [`EmbedError::Model`] if the model fails to run, [`EmbedError::NoModel`] if there is none, and
    /// [`EmbedError::GivenUp`] if nobody waits for the result any more.
    pub fn embed(
        &mut self,
        image: &[u8],
        limits: &ImageLimits,
        cancellation: &Cancellation,
    ) -> Result<Embedded, EmbedError> {
        let embedder = self.image.as_mut().ok_or(EmbedError::NoModel)?;
        embedder.embed(image, limits, cancellation)
    }

    /// Embeds an input tensor in the form that the model takes, to measure the model alone.
    ///
    /// # Errors
    /// Returns [`EmbedError::Model`] if the tensor has the wrong length, or if the model fails.
    pub fn embed_tensor(&mut self, tensor: &[f32]) -> Result<Embedding, EmbedError> {
        let image = self.image.as_mut().ok_or(EmbedError::NoModel)?;
        infer(&mut image.engine, tensor).map(|(embedding, _)| embedding)
    }
}

impl ImageEmbedder {
    fn embed(
        &mut self,
        image: &[u8],
        limits: &ImageLimits,
        cancellation: &Cancellation,
    ) -> Result<Embedded, EmbedError> {
        let Self {
            engine,
            budget,
            manifest,
            resizer,
            tensor,
        } = self;
        let start = Instant::now();
        let bytes = pixels::decoding_bytes(image, limits, &manifest.geometry);
        let room = budget.take(bytes, &|| cancellation.is_over());
        let room = room.ok_or(EmbedError::GivenUp)?;
        if !budget.is_there_for(bytes) {
            return Err(EmbedError::Image(PixelsError::NoMemory { bytes }));
        }
        let Resized {
            pixels,
            contrast,
            measures,
        } = resized(image, limits, manifest, resizer)?;
        drop(room);
        if contrast <= CONTRAST_TOO_LOW {
            return Err(EmbedError::NoContent { contrast });
        }
        fill(tensor, &pixels, manifest)?;
        // Checked here because the model takes longer than decoding.
        if cancellation.is_over() {
            return Err(EmbedError::GivenUp);
        }
        let decode = start.elapsed();
        let start = Instant::now();
        let (embedding, norm) = infer(engine, tensor)?;
        Ok(Embedded {
            embedding,
            norm,
            measures,
            decode,
            inference: start.elapsed(),
        })
    }
}

/// The input tensor of an image.
pub(super) fn tensor_of(
    image: &[u8],
    limits: &ImageLimits,
    manifest: &Manifest,
) -> Result<Vec<f32>, EmbedError> {
    let mut tensor = tensor_for(manifest);
    let resized = resized(image, limits, manifest, &mut Resizer::new())?;
    fill(&mut tensor, &resized.pixels, manifest)?;
    Ok(tensor)
}

fn tensor_for(manifest: &Manifest) -> Vec<f32> {
    let pixels = u64::from(manifest.geometry.width) * u64::from(manifest.geometry.height);
    let channels = manifest.input.colour.channels();
    vec![0.0; channels * usize::try_from(pixels).unwrap_or(usize::MAX)]
}

/// Decodes an image and brings it to the model's size.
fn resized(
    image: &[u8],
    limits: &ImageLimits,
    manifest: &Manifest,
    resizer: &mut Resizer,
) -> Result<Resized, EmbedError> {
    let (background, geometry) = (manifest.input.background, &manifest.geometry);
    let resized = resizer.decode(image, limits, background, geometry);
    resized.map_err(|cause| {
        // This is never the image's fault, because the geometry comes from the manifest.
        if matches!(cause, PixelsError::Geometry { .. }) {
            let reason = cause.to_string();
            EmbedError::Model { reason }
        } else {
            EmbedError::Image(cause)
        }
    })
}

/// Fills the model's input with a resized image.
fn fill(tensor: &mut [f32], resized: &Pixels, manifest: &Manifest) -> Result<(), EmbedError> {
    tensor::fill(tensor, resized.as_rgb(), &manifest.input)
        .map_err(|reason| EmbedError::Model { reason })
}

fn infer(engine: &mut Engine, tensor: &[f32]) -> Result<(Embedding, f64), EmbedError> {
    let raw = match engine {
        Engine::Own(session) => session.run(tensor),
        Engine::Shared(batcher) => batcher.run(tensor),
    };
    let raw = raw.map_err(|reason| EmbedError::Model { reason })?;
    Embedding::with_length(raw).map_err(|cause| EmbedError::NoEmbedding { cause })
}
