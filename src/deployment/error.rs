//! Everything that a deployment can refuse or fail at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ArchiveError;
use crate::files::FileError;
use crate::journal::entry::StateId;
use crate::monitor::MonitorError;
use matchpoint_adapt::AdaptError;
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::analysis::AnalysisError;
use matchpoint_calibration::refusal::Mismatch;
use matchpoint_embed::job::PoolError;
use matchpoint_embed::pixels::PixelsError;
use matchpoint_embed::runtime::RuntimeError;
use matchpoint_embed::{EmbedError, ModelError};
use matchpoint_gallery::error::GalleryError;
use matchpoint_vector::NotAnEmbedding;

/// Why a deployment did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// A name that cannot be used in requests, metrics and paths.
    #[error(
        "`{name}` cannot name a deployment; use 1 to 64 letters, digits, `-`, `_` or `.`, and no `.` at the beginning"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The folder is not what it should be.
    #[error("{} {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file's content differs from what was written.
    #[error("{} is damaged: {problem}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// There is no model that could embed an image.
    #[error(
        "no image can be embedded here: the vectors of this deployment are made elsewhere; send an embedding"
    )]
    NoImageModel,
    /// A snapshot cannot be taken or used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The disk.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// The model is not the one that embedded the gallery.
    #[error(
        "the deployment was embedded by model `{expected_name}` (fingerprint {expected}), and {} holds \
         `{found_name}` (fingerprint {found}); their embeddings cannot be compared: use the first model, \
         or build the gallery again with the second",
        folder.display()
    )]
    ModelMismatch {
        /// Name of the model that the deployment belongs to.
        expected_name: String,
        /// Its fingerprint.
        expected: String,
        /// The model folder that was opened.
        folder: PathBuf,
        /// Name of the model in it.
        found_name: String,
        /// Its fingerprint.
        found: String,
    },
    /// A snapshot's items were embedded by a model that is not open here.
    #[error(
        "the snapshot's items were embedded by model `{name}` (fingerprint {fingerprint}), and no deployment \
         of this server has that model; serve one that does, or use `matchpoint restore` on the server's machine"
    )]
    ModelNotServed {
        /// Name of the model.
        name: String,
        /// Its fingerprint.
        fingerprint: String,
    },
    /// The gallery's file belongs to another deployment.
    #[error("{} has gallery {found}, and the deployment was made with gallery {expected}; restore the file that belongs here", path.display())]
    GalleryMismatch {
        /// The gallery's file.
        path: PathBuf,
        /// Id in the deployment's record.
        expected: String,
        /// Id in the file.
        found: String,
    },
    /// No operating point of this id.
    #[error("there is no operating point `{id}` in this deployment")]
    OperatingPointNotFound {
        /// The id.
        id: String,
    },
    /// The state differs from the one that the caller expects.
    #[error(
        "the state that would decide is {present}, and {expected} is expected: items or operating point are others here; ask a replica of that state, or look again (`matchpoint status`)"
    )]
    StateMismatch {
        /// What the caller expects.
        expected: StateId,
        /// What is here.
        present: StateId,
    },
    /// No other operating point was active before.
    #[error("no other operating point was active before this one; choose one by its id")]
    NothingToRollBackTo,
    /// An operating point from a version that did not keep its searches.
    #[error(
        "the searches that operating point `{id}` was made from were not kept, so its decisions cannot be compared; calibrate again"
    )]
    RecordingMissing {
        /// Its id.
        id: String,
    },
    /// Labelled queries that the model's head was fitted to.
    #[error(
        "the head of the model was fitted to {queries} of the queries (the first: {first}), or they are strangers of labels that \
         it was fitted to: a threshold chosen on them accepts too much, and rates on them flatter; take labels that it has \
         not seen (head.json in the model's folder lists its own), or leave these out by --without-fitted"
    )]
    Fitted {
        /// How many.
        queries: usize,
        /// Id of the first.
        first: String,
    },
    /// The record of a head is not readable.
    #[error("the head of the model: {0}")]
    Head(#[from] AdaptError),
    /// The calibration itself refused.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The analysis refused.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// Somebody stopped the work.
    #[error("stopped as asked; nothing was changed")]
    Cancelled,
    /// Somebody else changed the active operating point.
    #[error(
        "the choice of operating point has changed: its etag is `{present}`, not `{sent}`; look again, then decide"
    )]
    EtagMismatch {
        /// What the caller saw.
        sent: String,
        /// What is true now.
        present: String,
    },
    /// The operating point was calibrated with something else.
    #[error(transparent)]
    OperatingPointMismatch(#[from] Mismatch),
    /// The image is at fault.
    #[error(transparent)]
    Image(#[from] PixelsError),
    /// The image has no content, or the model has no embedding for it.
    #[error("{problem}")]
    Unembeddable {
        /// Which of the two.
        kind: Unembeddable,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The vector is at fault.
    #[error("the embedding is refused: {0}")]
    Vector(#[from] NotAnEmbedding),
    /// The vector belongs to another model.
    #[error(
        "the embedding has {found} components, and the model of this deployment gives {expected}"
    )]
    Dimension {
        /// The model's dimension.
        expected: usize,
        /// The vector's.
        found: usize,
    },
    /// Vectors of another kind than the deployment's.
    #[error("{problem}")]
    OtherVectors {
        /// What differs.
        problem: String,
    },
    /// An argument out of its range.
    #[error("{argument} {problem}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// No item of this id.
    #[error("there is no item `{id}` in the gallery")]
    ItemNotFound {
        /// The id.
        id: String,
    },
    /// All workers are busy and the queue is full.
    #[error(
        "all workers are busy and {queue_len_max} requests are waiting already; try again in a moment"
    )]
    Busy {
        /// How many may wait.
        queue_len_max: usize,
        /// About how long those that wait will take.
        retry_after: Duration,
    },
    /// The image that an item was made from is not there to be read.
    #[error("the image of item `{id}` is not kept")]
    ImageNotKept {
        /// The item.
        id: String,
    },
    /// The request would wait beyond its deadline, so it was not started.
    #[error(
        "the request would wait for about {} ms, and its deadline is in {} ms; send less, or allow more time",
        wait.as_millis(),
        left.as_millis()
    )]
    Late {
        /// About how long it would wait.
        wait: Duration,
        /// How long the caller waits.
        left: Duration,
    },
    /// Too many changes of the gallery wait to be written.
    #[error(
        "{queue_len_max} changes of the gallery are waiting to be written already; try again in a moment"
    )]
    WriterBusy {
        /// How many may wait.
        queue_len_max: usize,
    },
    /// The deployment is closing.
    #[error("the server is shutting down")]
    Stopped,
    /// A bug, or the model gave nothing usable. Not the caller's fault.
    #[error("the model failed: {reason}")]
    ModelFailed {
        /// What happened.
        reason: String,
    },
    /// A bug, or the system cannot start more threads. Not the caller's fault.
    #[error("{reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
    /// The gallery refused or failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// What watches the promise refused or failed.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// A replacement for something that decides would leave every decision UNDECIDED.
    #[error(
        "every decision would be UNDECIDED: it has no valid operating point ({problem}); calibrate it first, or \
         say that this is meant (`matchpoint switch --anyway`)"
    )]
    NothingWouldDecide {
        /// Why none is valid.
        problem: String,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// ONNX Runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Why a picture that can be decoded cannot be embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unembeddable {
    /// It shows nothing: it is practically of one colour.
    NoContent,
    /// The model gives NaN, infinity or zeros for it.
    NoEmbedding,
}

impl DeploymentError {
    /// Whether an error concerns one of many images, so that the others continue.
    #[must_use]
    pub fn is_of_one_image(&self) -> bool {
        matches!(
            self,
            Self::Image(_)
                | Self::Unembeddable { .. }
                | Self::ImageNotKept { .. }
                | Self::Io { .. }
                | Self::ModelFailed { .. }
        )
    }

    /// Whether an image that cannot be used now may be usable later, or on another machine.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Image(PixelsError::NoMemory { .. }) | Self::Io { .. } | Self::ModelFailed { .. }
        )
    }

    pub(super) fn io(path: &Path, cause: &std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }
}

impl From<FileError> for DeploymentError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { path, cause } => Self::Io { path, cause },
            FileError::Damaged { path, problem } => Self::Damaged { path, problem },
            FileError::Content { reason } => Self::Broken { reason },
        }
    }
}

impl From<EmbedError> for DeploymentError {
    fn from(error: EmbedError) -> Self {
        let unembeddable = |kind| Self::Unembeddable {
            kind,
            problem: error.to_string(),
        };
        match error {
            EmbedError::NoContent { .. } => unembeddable(Unembeddable::NoContent),
            EmbedError::NoEmbedding { .. } => unembeddable(Unembeddable::NoEmbedding),
            EmbedError::Image(cause) => Self::Image(cause),
            EmbedError::Model { reason } => Self::ModelFailed { reason },
            EmbedError::NoModel => Self::NoImageModel,
            EmbedError::GivenUp => Self::Cancelled,
        }
    }
}

impl From<PoolError> for DeploymentError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Busy {
                queue_len_max,
                retry_after,
            } => Self::Busy {
                queue_len_max,
                retry_after,
            },
            PoolError::Late { wait, left } => Self::Late { wait, left },
            PoolError::Stopped => Self::Stopped,
            PoolError::Panicked => Self::ModelFailed {
                reason: error.to_string(),
            },
        }
    }
}
