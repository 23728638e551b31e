//! From labelled vectors to an operating point, or a refusal: the whole of a calibration.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use matchpoint_calibration::analysis::{AnalysisScope, BAND_POINTS, consistency::Band};
//! use matchpoint_calibration::policy::CalibrationTarget;
//! use matchpoint_calibration::procedure::{
//!     Assured, LabelledVectors, ThresholdSettings, VectorRequest, VectorRow, VectorSource,
//!     calibrate_vectors, vectors_digest,
//! };
//!
//! // Three things, two pictures of each: directions in the plane, by degrees.
//! let pictures = [("ash", 0.0_f32), ("ash", 4.0), ("elm", 40.0), ("elm", 46.0), ("oak", 80.0), ("oak", 89.0)];
//! let vectors: Vec<f32> = pictures
//!     .iter()
//!     .flat_map(|(_, degrees)| [degrees.to_radians().cos(), degrees.to_radians().sin()])
//!     .collect();
//! let rows: Vec<VectorRow<'_>> = pictures
//!     .iter()
//!     .zip(vectors.chunks(2))
//!     .enumerate()
//!     .map(|(number, ((label, _), vector))| VectorRow {
//!         id: format!("picture {number}"),
//!         label,
//!         conditions: BTreeMap::new(),
//!         vector,
//!     })
//!     .collect();
//! // Without queries, every row searches among the others.
//! let labelled = LabelledVectors::normalise(rows, Vec::new())?;
//! let request = VectorRequest {
//!     source: VectorSource {
//!         name: "trees".to_owned(),
//!         digest: vectors_digest(&vectors),
//!         created: "2026-01-01T00:00:00Z".to_owned(),
//!     },
//!     settings: ThresholdSettings {
//!         target: CalibrationTarget::EqualError,
//!         seed: 0,
//!         grow_to_items: None,
//!         assured: Assured::default(),
//!         worst_group_of: None,
//!         review: None,
//!     },
//!     scope: AnalysisScope { pairs_max: 1_000, band: Band::default(), band_points: BAND_POINTS },
//! };
//! let found = calibrate_vectors(&labelled, &request, &|_stage, _done, _total| true)?;
//! let supported = found.outcome?;
//! assert_eq!(found.trials.recording.searches().len(), 12);
//! assert!(supported.point.threshold().get() > 0.7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read in this order: the settings ([`ThresholdSettings`]), the vectors ([`LabelledVectors`]),
//! their trials ([`VectorTrials`]), and the calibration ([`calibrate_vectors`], or
//! [`calibrate_scores`] if there are only scores). [`PointDraft`] makes the operating point from
//! any trials, and [`VectorFindings`] is the form in which the result is printed.

mod best_score;
mod calibrate_scores;
mod calibrate_vectors;
mod labelled_vectors;
mod point_draft;
mod refusal;
mod settings;
mod stated_settings;
mod vector_findings;
mod vector_trials;

pub use best_score::{BestScore, ScoredSearches};
pub use calibrate_scores::{ScoredGallery, ScoredQuery, calibrate_scores};
pub use calibrate_vectors::{
    SupportedThreshold, VectorCalibration, VectorRequest, VectorSource, calibrate_vectors,
    vectors_digest,
};
pub use labelled_vectors::{LabelledVectors, VectorRow};
pub use point_draft::{ChosenThreshold, PointDraft, PointTrials};
pub use refusal::Refusal;
pub use settings::{Assured, ThresholdSettings, refuse_mutual_mates};
pub use stated_settings::StatedSettings;
pub use vector_findings::{CalibratedSizes, VectorFindings};
pub use vector_trials::{Copied, NearCopied, VectorStage, VectorTrials};
