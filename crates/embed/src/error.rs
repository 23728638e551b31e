//! The errors of models and of embedding.

use std::path::PathBuf;

use super::manifest::{BASE_PRECISION, MANIFEST_NAME};
use crate::pixels::PixelsError;
use matchpoint_vector::NotAnEmbedding;

/// A picture with no more contrast than this at the model's size, in grey levels, is refused; see
/// [`crate::pixels::Pixels::contrast`].
///
/// Measured with the shipped model (`benches/peers/content.py`, docs/models.md): photographs score .30
/// with each other (median), at a contrast of 16 levels still .31, at 8 levels .44, at 4 levels .77,
/// and plain colours .81, of which most pairs would be accepted as the same.
pub(super) const CONTRAST_TOO_LOW: u8 = 8;

/// The reasons why an image gives no embedding.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The image is invalid.
    #[error(transparent)]
    Image(PixelsError),
    /// The image has nothing on it that could tell it from another one.
    #[error(
        "the image shows nothing: at the model's size no two pixels near each other differ by more than \
         {contrast} grey levels, and pictures in which they differ by {CONTRAST_TOO_LOW} or less cannot be \
         told apart; send one that shows something"
    )]
    NoContent {
        /// The largest difference of a colour channel between two such pixels, in grey levels.
        contrast: u8,
    },
    /// The model computes no direction for this image, although it does for its golden image.
    #[error("the model gives no embedding for this image ({cause}); send another one")]
    NoEmbedding {
        /// What came out instead.
        cause: NotAnEmbedding,
    },
    /// The model is at fault: it failed to run.
    #[error("the model failed: {reason}")]
    Model {
        /// What happened.
        reason: String,
    },
    /// There is no model: vectors are made elsewhere.
    #[error(
        "no image can be embedded here: the vectors of this deployment are made elsewhere; send an embedding"
    )]
    NoModel,
    /// Nobody waits for it any more.
    #[error("the image was given up: its caller has gone, or its deadline has passed")]
    GivenUp,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the folder could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A file is longer than its limit.
    #[error("{} is longer than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// A symbolic link, which could lead out of the folder.
    #[error("{} is a symbolic link, and none is followed in a model folder; copy the file here", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// The manifest has mistakes.
    #[error("{} is wrong:{}", path.display(), lines(mistakes))]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Every mistake.
        mistakes: Vec<String>,
    },
    /// The manifest has no such precision.
    #[error(
        "{} has no [precision.{precision}]; there is {}",
        path.display(),
        precisions(others)
    )]
    Precision {
        /// The manifest.
        path: PathBuf,
        /// What was requested.
        precision: String,
        /// What it has besides the model's own file.
        others: Vec<String>,
    },
    /// The ONNX file is not the one that the manifest was made for.
    #[error(
        "{} has SHA-256 {found}, but file.sha256 in {MANIFEST_NAME} is {expected}: the file was \
         changed, or its download is not whole",
        path.display()
    )]
    Changed {
        /// The ONNX file.
        path: PathBuf,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// The record of the head is not the one that the manifest was made for.
    #[error(
        "{} has SHA-256 {found}, but head.record_sha256 in {MANIFEST_NAME} is {expected}: what the head was \
         fitted to would not be known; copy the model's folder again",
        path.display()
    )]
    HeadChanged {
        /// The record.
        path: PathBuf,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// No head can be put behind the model.
    #[error("no head can be put behind the model in {}: {reason}", path.display())]
    NoHead {
        /// The model's folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No second layer can be pooled beside the model's embedding.
    #[error("no second layer of the model in {} can be pooled: {reason}", path.display())]
    NoSecondLayer {
        /// The model's folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A part of the network is in another file, which neither hash nor fingerprint would cover.
    #[error("{} is refused: {reason}", path.display())]
    NotOneFile {
        /// The ONNX file.
        path: PathBuf,
        /// Which part, and how to make one file.
        reason: String,
    },
    /// ONNX Runtime refuses the file.
    #[error(
        "ONNX Runtime refuses {}: {reason} (it must be one ONNX file that holds all its weights)",
        path.display()
    )]
    Refused {
        /// The ONNX file.
        path: PathBuf,
        /// The runtime's words.
        reason: String,
    },
    /// The model's inputs and outputs are not those of the manifest.
    #[error("{} does not fit {MANIFEST_NAME}:{}\nthe model has {has}", path.display(), lines(mistakes))]
    Interface {
        /// The ONNX file.
        path: PathBuf,
        /// Every difference.
        mistakes: Vec<String>,
        /// What the model has.
        has: String,
    },
    /// CUDA was requested and does not work here.
    #[error("the model cannot run on CUDA: {reason}")]
    Cuda {
        /// What is missing.
        reason: String,
    },
    /// `TensorRT` was requested and does not work here.
    #[error("the model cannot run on TensorRT: {reason}")]
    TensorRt {
        /// What is missing.
        reason: String,
    },
    /// The file is not a reference embedding.
    #[error("{} is not a reference embedding: {reason}", path.display())]
    GoldenReference {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The golden image gave no embedding.
    #[error("the golden check failed: {} cannot be embedded: {cause}", path.display())]
    GoldenNotEmbedded {
        /// The image.
        path: PathBuf,
        /// Why not.
        cause: EmbedError,
    },
    /// The golden image gave another embedding than it should.
    #[error(
        "the golden check failed: the embedding of {} has cosine {cosine:.6} to its reference, and \
         golden.cosine_min is {cosine_min}; the usual causes are [input] or [resize] in \
         {MANIFEST_NAME} that differ from the preprocessing behind the reference, a changed golden \
         file, or a runtime or device that computes differently (here ONNX Runtime {runtime}, \
         {provider})",
        path.display()
    )]
    GoldenDiffers {
        /// The image.
        path: PathBuf,
        /// The cosine found.
        cosine: f32,
        /// The cosine demanded.
        cosine_min: f32,
        /// The runtime's version.
        runtime: String,
        /// What it computed on.
        provider: &'static str,
    },
    /// An image's embedding depends on the other images of a run.
    #[error(
        "the model mixes the images of one run: among {images} others an image's embedding has cosine \
         {cosine:.6} to its own; serve it with --batch-max 1 (batch_max = 1), or export it in evaluation mode, \
         in which nothing is normalised over the batch"
    )]
    MixesImages {
        /// Images in the run.
        images: usize,
        /// The cosine found.
        cosine: f32,
    },
    /// A pool without workers or without a queue.
    #[error("a pool needs workers and a queue, not {workers} workers and {queue_len_max} places")]
    EmptyPool {
        /// Workers requested.
        workers: usize,
        /// Places requested.
        queue_len_max: usize,
    },
    /// The system starts no further thread.
    #[error("cannot start a worker thread: {cause}")]
    Thread {
        /// The system's reason.
        cause: std::io::Error,
    },
}

fn precisions(others: &[String]) -> String {
    let names = [BASE_PRECISION.to_owned()].into_iter();
    let names: Vec<String> = names.chain(others.iter().cloned()).collect();
    names.join(", ")
}

fn lines(mistakes: &[String]) -> String {
    mistakes
        .iter()
        .map(|mistake| format!("\n  {mistake}"))
        .collect()
}
