//! The view that a monitor has of its deployment, and the decisions that it receives.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::entry::{DecisionId, SearchSource, StateId};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::traffic::{SearchSigns, TrafficReference};
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::standing::PromiseToday;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::view::GalleryMatch;
use matchpoint_vector::Similarity;

/// A deployment as a monitor needs it.
pub trait Observed: Debug + Send + Sync {
    /// The name in metrics and logs.
    fn name(&self) -> &str;

    /// Its folder.
    fn folder(&self) -> &Path;

    /// The folder for the monitor's own files; `None` if it may not store any.
    fn records(&self) -> Option<&Path>;

    /// Its gallery.
    fn gallery(&self) -> &Gallery;

    /// The active operating point; `None` if none is valid.
    fn active_point(&self) -> Option<Arc<OperatingPoint>>;

    /// The description of the searches that an operating point was made from; `None` if it was not stored, or
    /// if the operating point is not the active one.
    fn traffic_reference(&self, id: &str) -> Option<Arc<TrafficReference>>;

    /// What its promise is worth in today's gallery; `None` if no operating point is valid.
    fn promise_today(&self) -> Option<PromiseToday>;

    /// The reason why the items of its calibration are not known; `None` if they are.
    fn coverage_problem(&self) -> Option<String>;
}

/// A decision of a deployment, to be recorded.
#[derive(Debug)]
pub struct DecisionRecord<'a> {
    /// Its id.
    pub id: DecisionId,
    /// The decision.
    pub decision: Decision,
    /// The active operating point; `None` if undecided.
    pub point: Option<&'a OperatingPoint>,
    /// The gallery's generation that was searched.
    pub generation: u64,
    /// Number of items in that generation.
    pub gallery_items: usize,
    /// The id of the state that determined the decision.
    pub state: StateId,
    /// The item that was decided on; `None` if nothing was found.
    pub best: Option<MatchRecord<'a>>,
    /// The score that was compared with the threshold.
    pub decision_score: Option<Similarity>,
    /// The target FAR that the answer states; `None` if there is none.
    pub target_far: Option<f64>,
    /// The traffic shares that the search belongs to; `None` if unknown.
    pub signs: Option<SearchSigns>,
    /// Whether the search had a filter.
    pub filtered: bool,
    /// The image, if images are stored.
    pub image: Option<Bytes>,
    /// The source of the search.
    pub source: SearchSource,
}

/// The item that was decided on.
#[derive(Clone, Copy, Debug)]
pub struct MatchRecord<'a> {
    /// The item, and its similarity.
    pub found: &'a GalleryMatch,
    /// Its similarity minus that of the best item of another label; `None` if there is none.
    pub margin: Option<f32>,
}
