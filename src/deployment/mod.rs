//! A deployment: a gallery, the model that embeds it, and the active operating point.

mod backup;
mod calibration;
mod canaries;
mod enrolment;
mod error;
mod folder;
mod folder_watch;
mod in_order;
mod models;
mod observed;
mod open;
mod opening;
mod points;
mod proposals;
mod records_folder;
mod search;
mod shards;
mod temporary;

pub use backup::archive::ArchiveError;
pub use backup::{PackedIndex, PlaceOfModel, Progress, SnapshotReport, check_snapshot, restore};
pub use calibration::analysis_input::material_sets;
pub use calibration::calibrate::CalibrationSettings;
pub use calibration::calibrated::Calibrated;
pub use calibration::embedding_cache::EmbeddingCache;
pub use calibration::evaluation::{DeploymentEvaluation, StageLatency, labels_that_chose};
pub use calibration::labelled_queries::{QueryFailure, QuerySettings, QueryToSearch};
pub use calibration::remedy::RemedyChoice;
pub use calibration::searches::{Gathered, IndexCheck, LabelledQuery, MaskedSearches, Repeated};
pub use canaries::set_canaries;
pub use enrolment::held_changes::HeldChanges;
pub use enrolment::items::{EnrolledItem, NewItem};
pub use enrolment::maintenance::{IndexFindings, missed};
pub use enrolment::refused::RefusedItem;
pub use enrolment::source::{
    BatchProgress, EnrolSettings, Enrolled, NewImage, NewItems, OtherItems, SourceEnrolment,
    VectorSpace,
};
pub use enrolment::watched_gallery::NewLabel;
pub use error::{DeploymentError, Unembeddable};
pub use folder::{Folder, ModelReference, Record};
pub use models::{LoadedModel, Models};
pub use open::{Deployment, index_binding};
pub use opening::{OpenOptions, Opening};
pub use points::active::{ActivePoint, DecisionBasis, JudgedScore, Undecided, ValidPoint};
pub use points::promise_today::{OpenedPromise, promise_in_gallery};
pub use points::state::StateParts;
pub use points::{Activation, JudgedPoint, PointComparison, compare_points, created};
pub use search::answer::{SearchAnswer, VerifyAnswer};
pub use search::request::{
    Comparison, Hit, ImageAt, ProbeSource, Query, SearchOptions, Timings, VerifyReference,
    read_image,
};
pub use search::shadow::{DeploymentShadow, shadow_link};
pub use shards::merge::{MergeReport, MergeSettings, merge};
pub use shards::shard::{PublishedShard, Shard, ShardManifest, ShardSource, ShardWork, SourceList};
pub use temporary::{TemporaryFile, TemporaryFolder};
