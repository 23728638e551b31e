//! Exit codes, and which error has which. After sysexits if that has one.

use std::io::ErrorKind;
use std::process::ExitCode;

use crate::config::Mistakes;
use crate::deployment::{ArchiveError, DeploymentError};
use crate::files::FileError;
use crate::identity::IdentityError;
use crate::journal::error::JournalError;
use crate::monitor::MonitorError;
use crate::server::ServeError;
use crate::telemetry::TelemetryError;
use matchpoint_adapt::AdaptError;
use matchpoint_arrays::ArraysError;
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::analysis::AnalysisError;
use matchpoint_client::{ClientError, Fault};
use matchpoint_embed::ModelError;
use matchpoint_gallery::error::GalleryError;
use matchpoint_qdrant::QdrantError;
use matchpoint_remote::RemoteError;
use matchpoint_stores::StoreError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// The command line is wrong.
    Usage,
    /// Done, but some images failed.
    SomeFailed,
    /// Model and gallery do not belong together.
    Mismatch,
    /// The data cannot support the target.
    Underpowered,
    /// The device asked for is not there.
    NoDevice,
    /// Damaged or malformed data.
    BadData,
    /// An input is missing.
    NoInput,
    /// The server is not reachable, or its port is taken.
    Unavailable,
    /// A bug.
    Internal,
    /// The disk or the network failed.
    Io,
    /// The server does not know the caller, or does not let it do this.
    NotAllowed,
    /// The configuration is wrong.
    Configuration,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
    /// For schedulers that restart commands: the same command may succeed next time.
    Again,
    /// For schedulers: it will not succeed until somebody fixes something.
    Never,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// The number for the system.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 2,
            Self::SomeFailed => 3,
            Self::Mismatch => 4,
            Self::Underpowered => 5,
            Self::NoDevice => 6,
            Self::BadData => 65,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Io => 74,
            Self::NotAllowed => 77,
            Self::Configuration => 78,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Again => 75,
            Self::Never => 42,
        }
    }
}

/// An error of a command itself, with the code it ends with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

/// An error of a command itself.
pub(super) fn fail(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure {
        exit,
        message: message.into(),
    }
    .into()
}

/// An error in the form for schedulers.
pub(super) fn for_retries(error: &anyhow::Error) -> anyhow::Error {
    fail(Exit::of(error).for_retries(), message(error))
}

/// An error with its causes, without repeating them.
pub(super) fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.ends_with(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

impl Exit {
    /// What a scheduler needs to know after a task: whether to restart it.
    pub(super) fn for_retries(self) -> Self {
        match self {
            Self::Done | Self::SomeFailed => self,
            Self::Interrupted
            | Self::Terminated
            | Self::Io
            | Self::Unavailable
            | Self::NoDevice
            | Self::Internal
            | Self::Again => Self::Again,
            Self::Usage
            | Self::Mismatch
            | Self::Underpowered
            | Self::BadData
            | Self::NoInput
            | Self::NotAllowed
            | Self::Configuration
            | Self::Never => Self::Never,
        }
    }

    /// The code for an error.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_one)
            .unwrap_or(Self::Internal)
    }

    fn of_one(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Some(failure.exit);
        }
        if let Some(error) = error.downcast_ref::<ServeError>() {
            return Some(Self::of_serve(error));
        }
        if let Some(error) = error.downcast_ref::<DeploymentError>() {
            return Some(Self::of_deployment(error));
        }
        if let Some(error) = error.downcast_ref::<StoreError>() {
            return Some(Self::of_store(error));
        }
        if let Some(error) = error.downcast_ref::<MonitorError>() {
            return Some(Self::of_monitor(error));
        }
        if let Some(error) = error.downcast_ref::<CalibrationError>() {
            return Some(Self::of_calibration(error));
        }
        if let Some(error) = error.downcast_ref::<AnalysisError>() {
            return Some(if let AnalysisError::Calibration(error) = error {
                Self::of_calibration(error)
            } else if let AnalysisError::FewPairs { .. } = error {
                Self::Underpowered
            } else {
                Self::BadData
            });
        }
        if let Some(error) = error.downcast_ref::<ArraysError>() {
            let ArraysError::Io { source, .. } = error else {
                return Some(Self::BadData);
            };
            return Some(if source.kind() == ErrorKind::NotFound {
                Self::NoInput
            } else {
                Self::Io
            });
        }
        if let Some(error) = error.downcast_ref::<IdentityError>() {
            return Some(Self::of_identity(error));
        }
        if let Some(error) = error.downcast_ref::<AdaptError>() {
            return Some(Self::of_adapt(error));
        }
        if error.is::<Mistakes>() {
            return Some(Self::Configuration);
        }
        if let Some(error) = error.downcast_ref::<TelemetryError>() {
            return Some(match error {
                TelemetryError::Filter { .. } => Self::Configuration,
                TelemetryError::Endpoint { .. } => Self::Unavailable,
            });
        }
        if let Some(error) = error.downcast_ref::<ClientError>() {
            return Some(match error {
                ClientError::Address { .. } | ClientError::Credentials { .. } => Self::Usage,
                ClientError::Unreachable { .. } | ClientError::Broken { .. } => Self::Unavailable,
                ClientError::Refused { fault, .. } => match fault {
                    Fault::Request => Self::Usage,
                    Fault::Missing => Self::NoInput,
                    Fault::Data => Self::BadData,
                    Fault::Server => Self::Internal,
                    Fault::Caller => Self::NotAllowed,
                    Fault::Moment => Self::Unavailable,
                },
            });
        }
        error.is::<std::io::Error>().then_some(Self::Io)
    }

    fn of_adapt(error: &AdaptError) -> Self {
        match error {
            AdaptError::TooFewLabels { .. } | AdaptError::TooFewInPart { .. } => Self::Underpowered,
            AdaptError::NoRecipe { .. } => Self::Usage,
            AdaptError::Stopped => Self::Interrupted,
            AdaptError::Dimension { .. } => Self::Mismatch,
            AdaptError::Shape { .. }
            | AdaptError::Row { .. }
            | AdaptError::LabelInTwoParts { .. }
            | AdaptError::NotPositive
            | AdaptError::NoEigenvalues
            | AdaptError::Diverged { .. }
            | AdaptError::Stored { .. }
            | AdaptError::Analysis { .. } => Self::BadData,
        }
    }

    fn of_calibration(error: &CalibrationError) -> Self {
        if error.refusal().is_some() {
            Self::Underpowered
        } else {
            Self::BadData
        }
    }

    fn of_serve(error: &ServeError) -> Self {
        match error {
            ServeError::Deployment(error) => Self::of_deployment(error),
            ServeError::Identity(error) => Self::of_identity(error),
            ServeError::Store(error) => Self::of_store(error),
            ServeError::Listen { .. } => Self::Unavailable,
            ServeError::SameName { .. } => Self::Configuration,
            ServeError::TransportPanicked
            | ServeError::Thread(_)
            | ServeError::DataDir { .. }
            | ServeError::Descriptors { .. } => Self::Io,
            ServeError::LoadingPanicked | ServeError::Reflection(_) => Self::Internal,
        }
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Address(_) | StoreError::Exists(_) => Self::Usage,
            StoreError::NotBuilt(_) => Self::Configuration,
            StoreError::NotFound(_) => Self::NoInput,
            StoreError::Unfinished { .. } | StoreError::Changed(_) | StoreError::Failed { .. } => {
                Self::Unavailable
            }
            StoreError::Denied { .. } => Self::NotAllowed,
            StoreError::File { .. } => Self::Io,
            StoreError::Stopped => Self::Interrupted,
        }
    }

    fn of_remote(error: &RemoteError) -> Self {
        match error {
            RemoteError::Address { .. }
            | RemoteError::OtherSchema { .. }
            | RemoteError::OtherGallery { .. }
            | RemoteError::TooOld { .. }
            | RemoteError::Diverged { .. } => Self::Configuration,
            RemoteError::Unreachable { .. }
            | RemoteError::NotTheWriter { .. }
            | RemoteError::Moved { .. } => Self::Unavailable,
            RemoteError::Damaged { .. } => Self::BadData,
        }
    }

    fn of_qdrant(error: &QdrantError) -> Self {
        match error {
            QdrantError::Unreachable { .. } | QdrantError::Withheld { .. } => Self::Unavailable,
            QdrantError::Address { .. }
            | QdrantError::Refused { .. }
            | QdrantError::Unsuitable { .. } => Self::Configuration,
        }
    }

    fn of_identity(error: &IdentityError) -> Self {
        match error {
            IdentityError::Io { cause, .. } if cause.kind() == ErrorKind::NotFound => Self::NoInput,
            IdentityError::Io { .. } | IdentityError::Random(_) | IdentityError::Thread(_) => {
                Self::Io
            }
            IdentityError::Content { .. } => Self::BadData,
            IdentityError::Argument { .. } => Self::Usage,
        }
    }

    fn of_deployment(error: &DeploymentError) -> Self {
        match error {
            DeploymentError::ModelMismatch { .. }
            | DeploymentError::ModelNotServed { .. }
            | DeploymentError::GalleryMismatch { .. }
            | DeploymentError::OtherVectors { .. }
            | DeploymentError::StateMismatch { .. }
            | DeploymentError::OperatingPointMismatch(_) => Self::Mismatch,
            DeploymentError::Folder { .. }
            | DeploymentError::OperatingPointNotFound { .. }
            | DeploymentError::NothingToRollBackTo
            | DeploymentError::ImageNotKept { .. }
            | DeploymentError::NothingWouldDecide { .. }
            | DeploymentError::RecordingMissing { .. } => Self::NoInput,
            DeploymentError::UnfinishedGraph { .. } => Self::Underpowered,
            DeploymentError::Calibration(error) => Self::of_calibration(error),
            DeploymentError::Analysis(AnalysisError::Calibration(error)) => {
                Self::of_calibration(error)
            }
            DeploymentError::Analysis(_) => Self::BadData,
            DeploymentError::Cancelled => Self::Interrupted,
            DeploymentError::Name { .. }
            | DeploymentError::NoImageModel
            | DeploymentError::Argument { .. }
            | DeploymentError::EtagMismatch { .. }
            | DeploymentError::ItemChanged { .. } => Self::Usage,
            DeploymentError::Damaged { .. }
            | DeploymentError::Image(_)
            | DeploymentError::Unembeddable { .. }
            | DeploymentError::Vector(_)
            | DeploymentError::Fitted { .. }
            | DeploymentError::FittedPerhaps { .. }
            | DeploymentError::Head(_)
            | DeploymentError::Dimension { .. }
            | DeploymentError::ItemNotFound { .. } => Self::BadData,
            DeploymentError::Io { .. } => Self::Io,
            DeploymentError::Store(error) => Self::of_remote(error),
            DeploymentError::Qdrant(error) => Self::of_qdrant(error),
            DeploymentError::NotWrittenHere => Self::Io,
            DeploymentError::StoreStopped { .. } => Self::BadData,
            DeploymentError::Archive(error) => Self::of_archive(error),
            DeploymentError::RecordsInUse { .. }
            | DeploymentError::Busy { .. }
            | DeploymentError::Delayed { .. }
            | DeploymentError::Late { .. }
            | DeploymentError::WriterBusy { .. }
            | DeploymentError::Switching
            | DeploymentError::Stopped => Self::Unavailable,
            DeploymentError::Model(ModelError::Cuda { .. } | ModelError::TensorRt { .. }) => {
                Self::NoDevice
            }
            DeploymentError::Model(ModelError::Thread { .. }) => Self::Io,
            DeploymentError::Model(_) => Self::BadData,
            DeploymentError::Runtime(_) => Self::Configuration,
            DeploymentError::ModelFailed { .. } | DeploymentError::Broken { .. } => Self::Internal,
            DeploymentError::Gallery(error) => Self::of_gallery(error),
            DeploymentError::Monitor(error) => Self::of_monitor(error),
        }
    }

    fn of_monitor(error: &MonitorError) -> Self {
        match error {
            MonitorError::GalleryMismatch { .. } => Self::Mismatch,
            MonitorError::NoImagesKept { .. }
            | MonitorError::JournalOff
            | MonitorError::NoActivePoint
            | MonitorError::TooManyResets { .. }
            | MonitorError::WrongReplica { .. }
            | MonitorError::DecisionNotFound { .. } => Self::NoInput,
            MonitorError::Argument { .. } => Self::Usage,
            MonitorError::File(FileError::Damaged { .. })
            | MonitorError::Image(_)
            | MonitorError::Monitoring(_) => Self::BadData,
            MonitorError::File(FileError::Io { .. }) | MonitorError::Thread { .. } => Self::Io,
            MonitorError::File(FileError::Content { .. }) => Self::Internal,
            MonitorError::Gallery(error) => Self::of_gallery(error),
            MonitorError::Journal(error) => Self::of_journal(error),
        }
    }

    fn of_journal(error: &JournalError) -> Self {
        match error {
            JournalError::NotFound { .. } => Self::NoInput,
            JournalError::NotAJournal { .. }
            | JournalError::Format { .. }
            | JournalError::Damaged { .. } => Self::BadData,
            JournalError::Full { .. }
            | JournalError::Storage { .. }
            | JournalError::File { .. } => Self::Io,
            JournalError::Batch { .. } => Self::Usage,
            JournalError::Busy => Self::Unavailable,
            JournalError::Ended => Self::Internal,
        }
    }

    fn of_archive(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Exists(_) => Self::Usage,
            ArchiveError::Refused { .. } => Self::BadData,
            ArchiveError::Io { .. } => Self::Io,
            ArchiveError::Cancelled => Self::Interrupted,
        }
    }

    fn of_gallery(error: &GalleryError) -> Self {
        match error {
            GalleryError::NotFound { .. } => Self::NoInput,
            GalleryError::InUse { .. } => Self::Unavailable,
            GalleryError::File { .. }
            | GalleryError::Storage { .. }
            | GalleryError::Full { .. } => Self::Io,
            GalleryError::Exists { .. }
            | GalleryError::NotAGallery { .. }
            | GalleryError::Format { .. }
            | GalleryError::Damaged { .. }
            | GalleryError::Changed { .. }
            | GalleryError::ReadOnly { .. }
            | GalleryError::Unusable { .. }
            | GalleryError::Description { .. }
            | GalleryError::Index(_)
            | GalleryError::IndexFile { .. }
            | GalleryError::IndexParams { .. }
            | GalleryError::Item { .. }
            | GalleryError::Duplicate { .. }
            | GalleryError::Batch { .. }
            | GalleryError::QueryDimension { .. }
            | GalleryError::Neighbours { .. } => Self::BadData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_a_message_ends_with_is_said_once() {
        let missing = matchpoint_arrays::read_text(std::path::Path::new("/none.csv")).unwrap_err();
        let said = message(&anyhow::Error::from(missing));
        assert_eq!(said.matches("No such file").count(), 1, "{said}");
        let within = fail(Exit::Io, "inside").context("outside");
        assert_eq!(message(&within), "outside: inside");
    }
}
