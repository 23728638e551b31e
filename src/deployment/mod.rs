//! The deep module: a gallery, the model that embeds it, and the operating point that decides.

mod answer;
mod archive;
mod backup;
mod calibrate;
mod calibrated;
mod error;
mod folder;
mod gather;
mod items;
mod material;
mod models;
mod observed;
mod open;
mod points;
mod remedy;
mod search;
mod shadow;
mod temporary;
mod upkeep;
mod writer;

pub use answer::{
    ActivePoint, DecisionBasis, Enrolment, Hit, ImageAt, ProbeRequest, ProbeSource, Probed, Query,
    SearchAnswer, SearchOptions, Timings, Undecided, VerifyAnswer, VerifyReference, read_image,
};
pub use archive::ArchiveError;
pub use backup::{PlaceOfModel, Progress, SnapshotReport, check_snapshot, restore};
pub use calibrate::{Assured, CalibrationSettings};
pub use calibrated::Calibrated;
pub use error::{DeploymentError, Unembeddable};
pub use folder::{Folder, ModelReference, Record};
pub use gather::{Copied, Gathered, IndexCheck, LabelledQuery, NearCopied, Repeated};
pub use items::NewItem;
pub use material::{MaterialSets, material_sets};
pub use models::{LoadedModel, Models};
pub use observed::set_canaries;
pub use open::{Deployment, OpenOptions, index_binding};
pub use points::{Activation, PointComparison, compare_points, created};
pub use remedy::RemedyChoice;
pub use shadow::shadow_link;
pub use temporary::TemporaryFile;
pub use upkeep::{IndexFindings, missed};
