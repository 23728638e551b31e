//! The errors of a deployment.

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
use matchpoint_qdrant::QdrantError;
use matchpoint_remote::RemoteError;
use matchpoint_vector::NotAnEmbedding;

/// The reasons why a deployment refused a request or failed.
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
    /// The folder does not have the expected content.
    #[error("{} {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and how to fix it.
        problem: String,
    },
    /// Another server records its decisions there, or this one still does.
    #[error("{} is where another server records its decisions; give each server a journal_dir of its own", path.display())]
    RecordsInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The content of a file differs from what was written.
    #[error("{} is damaged: {problem}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found instead.
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
    /// The disk reported an error.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The message of the operating system.
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
    /// The items of a snapshot were embedded by a model that is not open here.
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
        /// Id of the gallery in the deployment's record.
        expected: String,
        /// Id of the gallery in the file.
        found: String,
    },
    /// There is no operating point with this id.
    #[error("there is no operating point `{id}` in this deployment")]
    OperatingPointNotFound {
        /// The id.
        id: String,
    },
    /// The present state differs from the one that the caller expects.
    #[error(
        "the state that would decide is {present}, and {expected} is expected: items or operating point are others here; ask a replica of that state, or look again (`matchpoint status`)"
    )]
    StateMismatch {
        /// The state that the caller expects.
        expected: StateId,
        /// The present state.
        present: StateId,
    },
    /// No other operating point was active before.
    #[error("no other operating point was active before this one; choose one by its id")]
    NothingToRollBackTo,
    /// The operating point comes from a version that did not store its searches.
    #[error(
        "the searches that operating point `{id}` was made from are not in its folder (`recordings`), so nothing can be compared with them; restore them from a backup, or calibrate again"
    )]
    RecordingMissing {
        /// Its id.
        id: String,
    },
    /// A promise about mates is asked for, and the graph of the index lacks so many items that it would end with the
    /// next build.
    #[error(
        "{outside} of {items} items were enrolled after the graph of the index was built, and what it will miss of them nobody \
         knows yet: an FRR that is promised now would end when it takes them in; stop the server, build the graph \
         (`matchpoint compact DIR`), and calibrate then"
    )]
    UnfinishedGraph {
        /// Number of items that the graph lacks.
        outside: u64,
        /// Number of all items.
        items: u64,
    },
    /// The model's head was fitted to some of the labelled queries.
    #[error(
        "the head of the model was fitted to {queries} of the queries (the first: {first}), or they are strangers of labels that \
         it was fitted to: a threshold chosen on them accepts too much, and rates on them flatter; take labels that it has \
         not seen (head.json in the model's folder lists its own), or leave these out by --without-fitted"
    )]
    Fitted {
        /// Number of such queries.
        queries: usize,
        /// Id of the first one.
        first: String,
    },
    /// The labelled queries are vectors, and the model's head was fitted to pictures.
    #[error(
        "{queries} of the queries (the first: {first}) are vectors, which do not show whether they are of pictures that the head of \
         the model was fitted to: a threshold chosen on such accepts too much, and rates on them flatter; give the pictures \
         themselves (`matchpoint calibrate DIR --queries SOURCE`), which are known by their bytes"
    )]
    FittedPerhaps {
        /// Number of such queries.
        queries: usize,
        /// Id of the first one.
        first: String,
    },
    /// The record of a head cannot be read.
    #[error("the head of the model: {0}")]
    Head(#[from] AdaptError),
    /// The calibration refused or failed.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The analysis refused or failed.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// The caller stopped the work.
    #[error("stopped as asked; nothing was changed")]
    Cancelled,
    /// The active operating point was changed by somebody else.
    #[error(
        "the choice of operating point has changed: its etag is `{present}`, not `{sent}`; look again, then decide"
    )]
    EtagMismatch {
        /// The etag that the caller sent.
        sent: String,
        /// The present etag.
        present: String,
    },
    /// The item was changed by somebody else.
    #[error("item `{id}` was changed since it was looked at; look again, then decide")]
    ItemChanged {
        /// Its id.
        id: String,
    },
    /// The operating point was calibrated with another model, gallery, index or metric.
    #[error(transparent)]
    OperatingPointMismatch(#[from] Mismatch),
    /// The image is invalid.
    #[error(transparent)]
    Image(#[from] PixelsError),
    /// The image shows nothing, or the model cannot embed it.
    #[error("{problem}")]
    Unembeddable {
        /// Which of the two is the case.
        kind: Unembeddable,
        /// What is wrong, and how to fix it.
        problem: String,
    },
    /// The vector is invalid.
    #[error("the embedding is refused: {0}")]
    Vector(#[from] NotAnEmbedding),
    /// The vector has another dimension, so it belongs to another model.
    #[error(
        "the embedding has {found} components, and the model of this deployment gives {expected}"
    )]
    Dimension {
        /// The dimension of the model.
        expected: usize,
        /// The dimension of the vector.
        found: usize,
    },
    /// The vectors are of another kind than those of the deployment.
    #[error("{problem}")]
    OtherVectors {
        /// What differs.
        problem: String,
    },
    /// An argument is out of its range.
    #[error("{argument} {problem}")]
    Argument {
        /// The name of the argument.
        argument: &'static str,
        /// What is wrong, and which values are valid.
        problem: String,
    },
    /// There is no item with this id.
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
        /// The highest number of waiting requests.
        queue_len_max: usize,
        /// The estimated time until the waiting requests are done.
        retry_after: Duration,
    },
    /// The request would wait for long, as others of its caller have for a while.
    #[error(
        "all workers are busy: this request would wait for {} ms, and others of yours have waited as long for a while; try again in a moment",
        wait.as_millis()
    )]
    Delayed {
        /// The estimated waiting time.
        wait: Duration,
        /// The estimated time until the waiting requests are done.
        retry_after: Duration,
    },
    /// The image that an item was made from is not stored.
    #[error("the image of item `{id}` is not kept")]
    ImageNotKept {
        /// The id of the item.
        id: String,
    },
    /// The request would wait beyond its deadline, so it was not started.
    #[error(
        "the request would wait for about {} ms, and its deadline is in {} ms; send less, or allow more time",
        wait.as_millis(),
        left.as_millis()
    )]
    Late {
        /// The estimated waiting time.
        wait: Duration,
        /// The time left until the deadline.
        left: Duration,
    },
    /// Too many changes of the gallery wait to be written.
    #[error(
        "{queue_len_max} changes of the gallery are waiting to be written already; try again in a moment"
    )]
    WriterBusy {
        /// The highest number of waiting changes.
        queue_len_max: usize,
    },
    /// Another deployment takes the place of this one.
    #[error(
        "another deployment takes the place of this one, and nothing was changed; try again in a moment"
    )]
    Switching,
    /// The deployment is closing.
    #[error("the server is shutting down")]
    Stopped,
    /// A bug, or the model gave no usable output. This is not the caller's fault.
    #[error("the model failed: {reason}")]
    ModelFailed {
        /// What happened.
        reason: String,
    },
    /// A bug, or the system cannot start more threads. This is not the caller's fault.
    #[error("{reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
    /// The gallery refused or failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] RemoteError),
    /// The index in Qdrant refused or failed.
    #[error(transparent)]
    Qdrant(#[from] QdrantError),
    /// The store has the change, and the disk of this server did not take it.
    #[error(
        "the change is in the store, and this server could not write it to its disk, as its log says: send it again in a \
         moment"
    )]
    NotWrittenHere,
    /// The gallery is not what the store has, so that it is not written.
    #[error("{reason}")]
    StoreStopped {
        /// What was found, and how to fix it.
        reason: String,
    },
    /// The monitor refused or failed.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The replacement for an active deployment would leave every decision UNDECIDED.
    #[error(
        "every decision would be UNDECIDED: it has no valid operating point ({problem}); calibrate it first, or \
         say that this is meant (`matchpoint switch --anyway`)"
    )]
    NothingWouldDecide {
        /// Why it has no valid operating point.
        problem: String,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// ONNX Runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The reasons why a picture that can be decoded cannot be embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unembeddable {
    /// The picture is practically of one colour, so it shows nothing.
    NoContent,
    /// The model gives NaN, infinity or zeros for the picture.
    NoEmbedding,
}

impl DeploymentError {
    /// Whether the error concerns only one of many images, so that the work can continue with the others.
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
            PoolError::Delayed { wait, retry_after } => Self::Delayed { wait, retry_after },
            PoolError::Late { wait, left } => Self::Late { wait, left },
            PoolError::Stopped => Self::Stopped,
            PoolError::Panicked => Self::ModelFailed {
                reason: error.to_string(),
            },
        }
    }
}
