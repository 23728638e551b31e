//! Everything that a monitor can refuse or fail at.

use std::path::PathBuf;

use crate::files::FileError;
use crate::journal::entry::{DecisionId, JournalId};
use crate::journal::error::JournalError;
use matchpoint_calibration::monitoring::MonitoringError;
use matchpoint_embed::pixels::PixelsError;
use matchpoint_gallery::error::GalleryError;

/// Why a monitor did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A file of its own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The log of decisions refused or failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What was recorded cannot be evaluated.
    #[error(transparent)]
    Monitoring(#[from] MonitoringError),
    /// The gallery that canaries are made of refused or failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A picture that a canary is made of cannot be decoded.
    #[error(transparent)]
    Image(#[from] PixelsError),
    /// An impossible argument.
    #[error("{argument} {problem}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The gallery keeps no images that canaries could be made of.
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
    #[error("{reason}")]
    Thread {
        /// What happened.
        reason: String,
    },
    /// Decisions are not recorded.
    #[error("decisions are not recorded here; set journal to on")]
    JournalOff,
    /// There is no promise to monitor.
    #[error("no operating point decides here; choose one first")]
    NoActivePoint,
    /// Evidence that is reset too often shows nothing.
    #[error(
        "the evidence of this operating point was reset {limit} times, which is the most; calibrate, which starts over by itself"
    )]
    TooManyResets {
        /// How often it may be.
        limit: usize,
    },
    /// The id of a decision names another journal.
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
    /// No decision of this id.
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
