//! The errors of a monitor.

use std::path::PathBuf;

use crate::files::FileError;
use crate::journal::entry::{DecisionId, JournalId};
use crate::journal::error::JournalError;
use matchpoint_calibration::monitoring::MonitoringError;
use matchpoint_embed::pixels::PixelsError;
use matchpoint_gallery::error::GalleryError;

/// The reasons why a monitor refused a request or failed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A file of the monitor failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal of decisions refused or failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The recorded decisions cannot be evaluated.
    #[error(transparent)]
    Monitoring(#[from] MonitoringError),
    /// The gallery for making canaries refused or failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A picture for making a canary cannot be decoded.
    #[error(transparent)]
    Image(#[from] PixelsError),
    /// An argument is invalid.
    #[error("{argument} {problem}")]
    Argument {
        /// The name of the argument.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The gallery stores no images from which canaries could be made.
    #[error(
        "{} keeps no images to make canaries of; `matchpoint build DIR --images SOURCE --keep-images` adds them",
        folder.display()
    )]
    NoImagesKept {
        /// The deployment's folder.
        folder: PathBuf,
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
    /// The system cannot start more threads.
    #[error("cannot start a thread: {reason}")]
    Thread {
        /// What happened.
        reason: String,
    },
    /// Decisions are not recorded.
    #[error("decisions are not recorded here; set journal to on")]
    JournalOff,
    /// There is no active operating point, and so no promise to monitor.
    #[error("no operating point decides here; choose one first")]
    NoActivePoint,
    /// The evidence was reset too often to show anything.
    #[error(
        "the evidence of this operating point was reset {limit} times, which is the most; calibrate, which starts over by itself"
    )]
    TooManyResets {
        /// The highest allowed number of resets.
        limit: usize,
    },
    /// The id of the decision names another journal.
    #[error(
        "decision {id} is not in the journal of this server ({here}), and its id names journal {}: ask the server that records in that one",
        id.journal()
    )]
    WrongReplica {
        /// The id.
        id: DecisionId,
        /// The journal that was asked.
        here: JournalId,
    },
    /// There is no decision with this id.
    #[error(
        "there is no decision `{id}` in the journal: it belongs to another deployment, is too old, or was not recorded"
    )]
    DecisionNotFound {
        /// The id.
        id: String,
    },
}

impl MonitorError {
    pub(super) fn thread(cause: &std::io::Error) -> Self {
        Self::Thread {
            reason: cause.to_string(),
        }
    }
}
