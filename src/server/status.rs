//! The only place where an error becomes a gRPC status, which says who has to act and how.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::deployment::{ArchiveError, DeploymentError, Unembeddable};
use crate::files::FileError;
use crate::journal::entry::DecisionId;
use crate::journal::error::JournalError;
use crate::monitor::MonitorError;
use matchpoint_calibration::CalibrationError;
use matchpoint_embed::pixels::PixelsError;
use matchpoint_gallery::error::GalleryError;
use matchpoint_remote::RemoteError;

/// The domain of every `ErrorInfo.reason`.
pub(super) const DOMAIN: &str = "matchpoint.dev";

/// The reason if a caller asks another server than the one that recorded a decision.
const WRONG_REPLICA: &str = "WRONG_REPLICA";

/// The suggested wait if nothing else is known.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The shortest and the longest suggested wait.
const RETRY_AFTER_RANGE: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(5)];
/// The header that the retry policies of gRPC libraries follow, which do not read `RetryInfo`: gRFC A6.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The longest message of an error, in bytes.
const MESSAGE_BYTES_MAX: usize = 1200;

/// A status with its machine-readable reason.
pub(super) fn status(code: Code, reason: &str, message: &str) -> Status {
    let again = matches!(
        reason,
        "QUEUE_FULL"
            | "MODEL_LOADING"
            | "SHUTTING_DOWN"
            | "DEPLOYMENT_SWITCHING"
            | "STORE_UNAVAILABLE"
            | "INDEX_UNAVAILABLE"
    );
    status_to_retry(code, reason, message, again.then_some(RETRY_AFTER))
}

pub(super) fn status_to_retry(
    code: Code,
    reason: &str,
    message: &str,
    retry_after: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    let mut trailers = MetadataMap::new();
    if let Some(after) = retry_after {
        let [least, most] = RETRY_AFTER_RANGE;
        // Whole milliseconds, because it is only an estimate.
        let after = u64::try_from(after.clamp(least, most).as_millis()).unwrap_or(u64::MAX);
        details.set_retry_info(Some(Duration::from_millis(after)));
        trailers.insert(PUSHBACK, MetadataValue::from(after));
    }
    Status::with_error_details_and_metadata(code, cut(message), details, trailers)
}

/// Shortens a message for the trailers, of which clients accept 8 KiB. Errors repeat what callers wrote, so the
/// start, which says what it is, and the end, which says what to do, are kept.
fn cut(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let (begins, ends) = (MESSAGE_BYTES_MAX * 2 / 3, MESSAGE_BYTES_MAX / 3);
    let begins = message.floor_char_boundary(begins);
    let ends = message.ceil_char_boundary(message.len() - ends);
    let (begins, ends) = (message.get(..begins), message.get(ends..));
    let bytes = message.len();
    format!(
        "{} [… of {bytes} bytes] {}",
        begins.unwrap_or_default(),
        ends.unwrap_or_default()
    )
}

/// The status for an error. A fault of the server is logged, and the answer contains no internals.
pub(super) fn from_error(error: &DeploymentError) -> Status {
    let (code, reason) = classify(error);
    if code == Code::Internal {
        tracing::error!(%error, "a request failed");
        return status(
            code,
            reason,
            "internal error; the server's log has the cause",
        );
    }
    if code == Code::DataLoss {
        tracing::error!(%error, "stored data is damaged");
        let what = if reason == "STORE_DIVERGED" {
            "the items of this server are not those of its store; the server's log says what differs"
        } else {
            "stored data is damaged; the server's log has the file"
        };
        return status(code, reason, what);
    }
    if let DeploymentError::Calibration(cause) = error
        && let Some((needed, present)) = cause.trials_needed()
    {
        return underpowered(code, reason, &message(error), needed, present);
    }
    if let DeploymentError::Busy {
        retry_after: after, ..
    }
    | DeploymentError::Delayed {
        retry_after: after, ..
    }
    | DeploymentError::Late { wait: after, .. } = error
    {
        return status_to_retry(code, reason, &message(error), Some(*after));
    }
    if let DeploymentError::Monitor(MonitorError::WrongReplica { id, .. }) = error {
        return wrong_replica(&message(error), *id);
    }
    status(code, reason, &message(error))
}

/// Adds the journal that the decision's id names as metadata, for programs.
pub(super) fn wrong_replica(message: &str, id: DecisionId) -> Status {
    let metadata = HashMap::from([("journal".to_owned(), id.journal().to_string())]);
    let mut details = ErrorDetails::new();
    details.set_error_info(WRONG_REPLICA, DOMAIN, metadata);
    Status::with_error_details(Code::NotFound, cut(message), details)
}

/// Adds the numbers of the message as metadata, for programs.
fn underpowered(
    code: Code,
    reason: &str,
    message: &str,
    needed: Option<u64>,
    present: u64,
) -> Status {
    let mut metadata = HashMap::from([("trials_present".to_owned(), present.to_string())]);
    metadata.extend(needed.map(|needed| ("trials_needed".to_owned(), needed.to_string())));
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, cut(message), details)
}

/// The message for a caller, without any path of this machine.
fn message(error: &DeploymentError) -> String {
    if let DeploymentError::Archive(cause) = error
        && !matches!(cause, ArchiveError::Cancelled)
    {
        return "the snapshot failed or is damaged; the server's log has the cause".to_owned();
    }
    if let DeploymentError::Monitor(MonitorError::Journal(JournalError::Full { .. })) = error {
        return "the disk of the journal is full; nothing was written".to_owned();
    }
    if let DeploymentError::Gallery(cause)
    | DeploymentError::Monitor(MonitorError::Gallery(cause)) = error
    {
        return gallery_message(cause);
    }
    if let DeploymentError::ModelMismatch {
        expected_name,
        expected,
        found_name,
        found,
        ..
    } = error
    {
        return format!(
            "the deployment was embedded by model `{expected_name}` (fingerprint {expected}), and this one is `{found_name}` (fingerprint {found}); their embeddings cannot be compared"
        );
    }
    if let DeploymentError::GalleryMismatch {
        expected, found, ..
    }
    | DeploymentError::Monitor(MonitorError::GalleryMismatch {
        expected, found, ..
    }) = error
    {
        return format!(
            "the gallery is {found}, and the deployment was made with gallery {expected}; restore the file that belongs there"
        );
    }
    if let DeploymentError::Store(RemoteError::Unreachable { .. }) = error {
        return "the store did not answer, and whether the change was made is not known; send it again in a moment".to_owned();
    }
    if let DeploymentError::Qdrant(cause) = error {
        tracing::debug!(%cause, "nothing was decided");
        return cause.told();
    }
    if let DeploymentError::NothingWouldDecide { problem } = error {
        tracing::info!(problem, "what would decide nothing is not served");
        return "every decision would be UNDECIDED: it has no valid operating point, the server's log has why; calibrate it first, or say that this is meant (`matchpoint switch --anyway`)".to_owned();
    }
    error.to_string()
}

fn gallery_message(cause: &GalleryError) -> String {
    match cause {
        GalleryError::Item { field, problem, .. } => format!("the item's {field} {problem}"),
        GalleryError::ReadOnly { .. } => "the gallery is open for reading only".to_owned(),
        GalleryError::Full { .. } => {
            "the disk of the gallery is full; nothing was written".to_owned()
        }
        GalleryError::InUse { .. } | GalleryError::Unusable { .. } => {
            "the gallery cannot be written; the server's log has the cause".to_owned()
        }
        GalleryError::QueryDimension { .. } | GalleryError::Neighbours { .. } => cause.to_string(),
        GalleryError::NotFound { .. }
        | GalleryError::Exists { .. }
        | GalleryError::NotAGallery { .. }
        | GalleryError::Format { .. }
        | GalleryError::Damaged { .. }
        | GalleryError::Changed { .. }
        | GalleryError::Storage { .. }
        | GalleryError::File { .. }
        | GalleryError::Description { .. }
        | GalleryError::Index(_)
        | GalleryError::IndexFile { .. }
        | GalleryError::IndexParams { .. }
        | GalleryError::Duplicate { .. }
        | GalleryError::Batch { .. } => {
            "the gallery failed; the server's log has the cause".to_owned()
        }
    }
}

pub(super) fn classify(error: &DeploymentError) -> (Code, &'static str) {
    match error {
        DeploymentError::Image(PixelsError::NoMemory { .. }) => {
            (Code::ResourceExhausted, "MEMORY_SHORT")
        }
        DeploymentError::Image(cause) => (Code::InvalidArgument, image_reason(cause)),
        DeploymentError::Unembeddable { kind, .. } => {
            (Code::InvalidArgument, unembeddable_reason(*kind))
        }
        DeploymentError::Vector(_) | DeploymentError::Dimension { .. } => {
            (Code::InvalidArgument, "VECTOR_INVALID")
        }
        DeploymentError::Argument { .. } | DeploymentError::Name { .. } => {
            (Code::InvalidArgument, "ARGUMENT_INVALID")
        }
        DeploymentError::Fitted { .. } | DeploymentError::FittedPerhaps { .. } => {
            (Code::InvalidArgument, "QUERIES_FITTED")
        }
        DeploymentError::Head(_) => (Code::Internal, "INTERNAL"),
        DeploymentError::ItemNotFound { .. } => (Code::NotFound, "ITEM_NOT_FOUND"),
        DeploymentError::OperatingPointNotFound { .. } => {
            (Code::NotFound, "OPERATING_POINT_NOT_FOUND")
        }
        DeploymentError::EtagMismatch { .. } | DeploymentError::ItemChanged { .. } => {
            (Code::Aborted, "ETAG_MISMATCH")
        }
        DeploymentError::StateMismatch { .. } => (Code::FailedPrecondition, "STATE_MISMATCH"),
        DeploymentError::NothingToRollBackTo => {
            (Code::FailedPrecondition, "NOTHING_TO_ROLL_BACK_TO")
        }
        DeploymentError::RecordingMissing { .. } => (Code::FailedPrecondition, "RECORDING_MISSING"),
        DeploymentError::UnfinishedGraph { .. } => (Code::FailedPrecondition, "GRAPH_UNFINISHED"),
        DeploymentError::Calibration(cause) => calibration_reason(cause),
        DeploymentError::Analysis(_) => (Code::Internal, "INTERNAL"),
        DeploymentError::Cancelled => (Code::Cancelled, "OPERATION_CANCELLED"),
        DeploymentError::OperatingPointMismatch(_) => {
            (Code::FailedPrecondition, "OPERATING_POINT_MISMATCH")
        }
        DeploymentError::ModelMismatch { .. }
        | DeploymentError::ModelNotServed { .. }
        | DeploymentError::GalleryMismatch { .. }
        | DeploymentError::OtherVectors { .. } => {
            (Code::FailedPrecondition, "MODEL_INDEX_MISMATCH")
        }
        DeploymentError::Busy { .. }
        | DeploymentError::Delayed { .. }
        | DeploymentError::WriterBusy { .. } => (Code::ResourceExhausted, "QUEUE_FULL"),
        DeploymentError::ImageNotKept { .. } => (Code::NotFound, "IMAGE_NOT_KEPT"),
        DeploymentError::Late { .. } => (Code::ResourceExhausted, "DEADLINE_TOO_NEAR"),
        DeploymentError::NothingWouldDecide { .. } => {
            (Code::FailedPrecondition, "NO_OPERATING_POINT")
        }
        DeploymentError::Monitor(cause) => monitor_reason(cause),
        DeploymentError::NoImageModel => (Code::FailedPrecondition, "IMAGE_MODEL_MISSING"),
        DeploymentError::Switching => (Code::Unavailable, "DEPLOYMENT_SWITCHING"),
        DeploymentError::Stopped => (Code::Unavailable, "SHUTTING_DOWN"),
        DeploymentError::Gallery(cause) => gallery_reason(cause),
        DeploymentError::Archive(cause) => archive_reason(cause),
        DeploymentError::Store(cause) => store_reason(cause),
        DeploymentError::Qdrant(_) => (Code::Unavailable, "INDEX_UNAVAILABLE"),
        DeploymentError::NotWrittenHere => (Code::Unavailable, "STORE_UNAVAILABLE"),
        DeploymentError::StoreStopped { .. } => (Code::DataLoss, "STORE_DIVERGED"),
        DeploymentError::Damaged { .. } => (Code::DataLoss, "DEPLOYMENT_DAMAGED"),
        DeploymentError::Folder { .. }
        | DeploymentError::RecordsInUse { .. }
        | DeploymentError::Io { .. }
        | DeploymentError::ModelFailed { .. }
        | DeploymentError::Broken { .. }
        | DeploymentError::Model(_)
        | DeploymentError::Runtime(_) => (Code::Internal, "INTERNAL"),
    }
}

fn store_reason(error: &RemoteError) -> (Code, &'static str) {
    match error {
        RemoteError::NotTheWriter { .. } => (Code::FailedPrecondition, "NOT_THE_WRITER"),
        RemoteError::Unreachable { .. } | RemoteError::Moved { .. } => {
            (Code::Unavailable, "STORE_UNAVAILABLE")
        }
        RemoteError::OtherGallery { .. } | RemoteError::TooOld { .. } => {
            (Code::FailedPrecondition, "MODEL_INDEX_MISMATCH")
        }
        RemoteError::Diverged { .. } | RemoteError::Damaged { .. } => {
            (Code::DataLoss, "STORE_DIVERGED")
        }
        RemoteError::Address { .. } | RemoteError::OtherSchema { .. } => {
            (Code::Internal, "INTERNAL")
        }
    }
}

fn monitor_reason(error: &MonitorError) -> (Code, &'static str) {
    match error {
        MonitorError::JournalOff => (Code::FailedPrecondition, "JOURNAL_OFF"),
        MonitorError::NoActivePoint => (Code::FailedPrecondition, "NO_OPERATING_POINT"),
        MonitorError::TooManyResets { .. } => (Code::FailedPrecondition, "TOO_MANY_RESETS"),
        MonitorError::WrongReplica { .. } => (Code::NotFound, WRONG_REPLICA),
        MonitorError::DecisionNotFound { .. } => (Code::NotFound, "DECISION_NOT_FOUND"),
        MonitorError::Argument { .. } => (Code::InvalidArgument, "ARGUMENT_INVALID"),
        MonitorError::Image(cause) => (Code::InvalidArgument, image_reason(cause)),
        MonitorError::Journal(cause) => journal_reason(cause),
        MonitorError::Gallery(cause) => gallery_reason(cause),
        MonitorError::GalleryMismatch { .. } => (Code::FailedPrecondition, "MODEL_INDEX_MISMATCH"),
        MonitorError::File(FileError::Damaged { .. }) => (Code::DataLoss, "DEPLOYMENT_DAMAGED"),
        MonitorError::File(FileError::Io { .. } | FileError::Content { .. })
        | MonitorError::Monitoring(_)
        | MonitorError::NoImagesKept { .. }
        | MonitorError::Thread { .. } => (Code::Internal, "INTERNAL"),
    }
}

fn journal_reason(error: &JournalError) -> (Code, &'static str) {
    match error {
        JournalError::Batch { .. } => (Code::InvalidArgument, "ARGUMENT_INVALID"),
        JournalError::Full { .. } => (Code::ResourceExhausted, "DISK_FULL"),
        JournalError::Busy => (Code::ResourceExhausted, "QUEUE_FULL"),
        JournalError::Damaged { .. } => (Code::DataLoss, "JOURNAL_DAMAGED"),
        JournalError::NotFound { .. }
        | JournalError::NotAJournal { .. }
        | JournalError::Format { .. }
        | JournalError::Storage { .. }
        | JournalError::File { .. }
        | JournalError::Ended => (Code::Internal, "INTERNAL"),
    }
}

fn archive_reason(error: &ArchiveError) -> (Code, &'static str) {
    match error {
        ArchiveError::Exists(_) => (Code::AlreadyExists, "SNAPSHOT_EXISTS"),
        ArchiveError::Refused { .. } => (Code::DataLoss, "SNAPSHOT_DAMAGED"),
        ArchiveError::Io { .. } if error.is_disk_full() => (Code::ResourceExhausted, "DISK_FULL"),
        ArchiveError::Io { .. } => (Code::Internal, "INTERNAL"),
        ArchiveError::Cancelled => (Code::Cancelled, "OPERATION_CANCELLED"),
    }
}

fn image_reason(error: &PixelsError) -> &'static str {
    match error {
        PixelsError::UnsupportedFormat { .. } | PixelsError::UnsupportedFeature { .. } => {
            "IMAGE_UNSUPPORTED_FORMAT"
        }
        PixelsError::NoMemory { .. } => "MEMORY_SHORT",
        PixelsError::TooManyBytes { .. }
        | PixelsError::TooMuchMemory { .. }
        | PixelsError::TooManyScans { .. }
        | PixelsError::SideTooLong { .. } => "IMAGE_TOO_LARGE",
        PixelsError::Empty
        | PixelsError::Truncated { .. }
        | PixelsError::Undecodable { .. }
        | PixelsError::Geometry { .. } => "IMAGE_UNDECODABLE",
    }
}

fn unembeddable_reason(kind: Unembeddable) -> &'static str {
    match kind {
        Unembeddable::NoContent => "IMAGE_WITHOUT_CONTENT",
        Unembeddable::NoEmbedding => "IMAGE_WITHOUT_EMBEDDING",
    }
}

/// The code and reason of a refused calibration: too few data, no data would suffice, or the searches
/// contradict each other.
fn calibration_reason(error: &CalibrationError) -> (Code, &'static str) {
    match (error.refusal(), error) {
        (Some(reason), _) => (Code::FailedPrecondition, reason),
        (None, CalibrationError::EmptyGallery) => (Code::FailedPrecondition, "GALLERY_EMPTY"),
        (None, CalibrationError::Alike(_)) => (Code::InvalidArgument, "LABELS_ALIKE"),
        (None, _) => (Code::InvalidArgument, "CALIBRATION_INVALID"),
    }
}

/// Whether only one query of many is at fault, so that the others are not affected.
pub(super) fn is_the_fault_of_one(error: &DeploymentError) -> bool {
    matches!(
        error,
        DeploymentError::Image(_)
            | DeploymentError::Unembeddable { .. }
            | DeploymentError::Vector(_)
            | DeploymentError::Dimension { .. }
    )
}

fn gallery_reason(error: &GalleryError) -> (Code, &'static str) {
    match error {
        GalleryError::Item { .. } => (Code::InvalidArgument, "ITEM_INVALID"),
        GalleryError::ReadOnly { .. } => (Code::FailedPrecondition, "GALLERY_READ_ONLY"),
        GalleryError::Full { .. } => (Code::ResourceExhausted, "DISK_FULL"),
        GalleryError::Damaged { .. }
        | GalleryError::Changed { .. }
        | GalleryError::NotAGallery { .. } => (Code::DataLoss, "GALLERY_DAMAGED"),
        GalleryError::QueryDimension { .. } | GalleryError::Neighbours { .. } => {
            (Code::InvalidArgument, "ARGUMENT_INVALID")
        }
        GalleryError::InUse { .. } | GalleryError::Unusable { .. } => (Code::Internal, "INTERNAL"),
        GalleryError::NotFound { .. }
        | GalleryError::Exists { .. }
        | GalleryError::Format { .. }
        | GalleryError::Storage { .. }
        | GalleryError::File { .. }
        | GalleryError::Description { .. }
        | GalleryError::Index(_)
        | GalleryError::IndexFile { .. }
        | GalleryError::IndexParams { .. }
        | GalleryError::Duplicate { .. }
        | GalleryError::Batch { .. } => (Code::Internal, "INTERNAL"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_long_message_keeps_its_beginning_and_its_end() {
        assert_eq!(cut("short"), "short");
        let long = format!("there is no item `{}`; look again", "é".repeat(50_000));
        let cut = cut(&long);
        assert!(cut.len() < MESSAGE_BYTES_MAX + 50, "{}", cut.len());
        assert!(cut.starts_with("there is no item `é") && cut.ends_with("é`; look again"));
    }

    #[test]
    fn no_path_of_this_machine_is_in_an_error() {
        let path = || PathBuf::from("/secret/place");
        let text = || "x".to_owned();
        for error in [
            DeploymentError::ModelMismatch {
                expected_name: text(),
                expected: text(),
                folder: path(),
                found_name: text(),
                found: text(),
            },
            DeploymentError::GalleryMismatch {
                path: path(),
                expected: text(),
                found: text(),
            },
            DeploymentError::Monitor(MonitorError::GalleryMismatch {
                path: path(),
                expected: text(),
                found: text(),
            }),
            DeploymentError::NothingWouldDecide {
                problem: "/secret/place/op-1.json is damaged".to_owned(),
            },
            DeploymentError::Folder {
                path: path(),
                problem: text(),
            },
            DeploymentError::RecordsInUse { path: path() },
            DeploymentError::Damaged {
                path: path(),
                problem: text(),
            },
            DeploymentError::Monitor(MonitorError::Journal(JournalError::Full { path: path() })),
            DeploymentError::Monitor(MonitorError::NoImagesKept { folder: path() }),
        ] {
            let answered = format!("{:?}", from_error(&error));
            assert!(!answered.contains("secret"), "{answered}");
        }
    }
}
