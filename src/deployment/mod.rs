//! The deep module: a gallery, the model that embeds it, and the operating point that decides.

mod active_point;
mod analysis_input;
mod answer;
mod archive;
mod backup;
mod calibrate;
mod calibrated;
mod calibration_searches;
mod canaries;
mod error;
mod folder;
mod items;
mod maintenance;
mod models;
mod observed;
mod open;
mod open_shadow;
mod points;
mod remedy;
mod request;
mod search;
mod shadow;
mod temporary;
mod worker;
mod writer;

pub use active_point::{ActivePoint, DecisionBasis, Undecided, ValidPoint};
pub use analysis_input::material_sets;
pub use answer::{Enrolment, Probed, SearchAnswer, VerifyAnswer};
pub use archive::ArchiveError;
pub use backup::{PlaceOfModel, Progress, SnapshotReport, check_snapshot, restore};
pub use calibrate::CalibrationSettings;
pub use calibrated::Calibrated;
pub use calibration_searches::{
    Gathered, IndexCheck, LabelledQuery, MaskedSearches, ProbeRequests, Repeated,
};
pub use canaries::set_canaries;
pub use error::{DeploymentError, Unembeddable};
pub use folder::{Folder, ModelReference, Record};
pub use items::NewItem;
pub use maintenance::{IndexFindings, missed};
pub use models::{LoadedModel, Models};
pub use open::{Deployment, OpenOptions, index_binding};
pub use points::{Activation, PointComparison, compare_points, created};
pub use remedy::RemedyChoice;
pub use request::{
    Hit, ImageAt, ProbeRequest, ProbeSource, Query, SearchOptions, Timings, VerifyReference,
    read_image,
};
pub use shadow::shadow_link;
pub use temporary::TemporaryFile;
