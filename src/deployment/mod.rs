//! The deep module: a gallery, the model that embeds it, and the active operating point.

mod active_point;
mod analysis_input;
mod answer;
mod archive;
mod backup;
mod calibrate;
mod calibrated;
mod calibration_searches;
mod canaries;
mod deciding;
mod embedding_cache;
mod enrolment_check;
mod error;
mod evaluation;
mod folder;
mod gallery_searches;
mod in_order;
mod items;
mod labelled_queries;
mod lookalikes;
mod maintenance;
mod merge;
mod models;
mod observed;
mod open;
mod open_shadow;
mod point_files;
mod points;
mod promise_today;
mod records_folder;
mod refused;
mod remedy;
mod request;
mod search;
mod shadow;
mod shard;
mod source_enrolment;
mod state;
mod temporary;
mod traffic_sample;
mod worker;
mod writer;

pub use active_point::{ActivePoint, DecisionBasis, JudgedScore, Undecided, ValidPoint};
pub use analysis_input::material_sets;
pub use answer::{SearchAnswer, VerifyAnswer};
pub use archive::ArchiveError;
pub use backup::{PackedIndex, PlaceOfModel, Progress, SnapshotReport, check_snapshot, restore};
pub use calibrate::CalibrationSettings;
pub use calibrated::Calibrated;
pub use calibration_searches::{Gathered, IndexCheck, LabelledQuery, MaskedSearches, Repeated};
pub use canaries::set_canaries;
pub use embedding_cache::EmbeddingCache;
pub use error::{DeploymentError, Unembeddable};
pub use evaluation::{DeploymentEvaluation, StageLatency, labels_that_chose};
pub use folder::{Folder, ModelReference, Record};
pub use items::{EnrolledItem, NewItem};
pub use labelled_queries::{QueryFailure, QuerySettings, QueryToSearch};
pub use maintenance::{IndexFindings, missed};
pub use merge::{MergeReport, MergeSettings, merge};
pub use models::{LoadedModel, Models};
pub use open::{Deployment, OpenOptions, index_binding};
pub use points::{Activation, PointComparison, compare_points, created};
pub use promise_today::{OpenedPromise, promise_in_gallery};
pub use refused::RefusedItem;
pub use remedy::RemedyChoice;
pub use request::{
    Comparison, Hit, ImageAt, ProbeSource, Query, SearchOptions, Timings, VerifyReference,
    read_image,
};
pub use shadow::{DeploymentShadow, shadow_link};
pub use shard::{PublishedShard, Shard, ShardManifest, ShardSource, ShardWork, SourceList};
pub use source_enrolment::{
    BatchProgress, EnrolSettings, Enrolled, NewImage, NewItems, OtherItems, SourceEnrolment,
    VectorSpace,
};
pub use state::StateParts;
pub use temporary::{TemporaryFile, TemporaryFolder};
