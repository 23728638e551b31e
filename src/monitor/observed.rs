//! What a monitor sees of its deployment, and the decisions that it gets.

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

/// A deployment, as far as a monitor needs it.
pub trait Observed: Debug + Send + Sync {
    /// The name in metrics and logs.
    fn name(&self) -> &str;

    /// Its folder.
    fn folder(&self) -> &Path;

    /// Where the monitor stores files of its own; `None` if it may not.
    fn records(&self) -> Option<&Path>;

    /// Its gallery.
    fn gallery(&self) -> &Gallery;

    /// The active operating point; `None` if none is valid.
    fn active_point(&self) -> Option<Arc<OperatingPoint>>;

    /// What the searches looked like that an operating point was made from; `None` if that was not stored,
    /// or if it is not the active one.
    fn traffic_reference(&self, id: &str) -> Option<Arc<TrafficReference>>;

    /// What still holds of its promise in today's gallery; `None` if no point is valid.
    fn promise_today(&self) -> Option<PromiseToday>;

    /// Why it is unknown which items its calibration saw; `None` if it is known.
    fn coverage_problem(&self) -> Option<String>;
}

/// One decision of a deployment, to be recorded.
#[derive(Debug)]
pub struct DecisionRecord<'a> {
    /// Its id.
    pub id: DecisionId,
    /// What was decided.
    pub decision: Decision,
    /// The active operating point; `None` when undecided.
    pub point: Option<&'a OperatingPoint>,
    /// The gallery's generation that was searched.
    pub generation: u64,
    /// Items in it.
    pub gallery_items: usize,
    /// The state by which it was decided.
    pub state: StateId,
    /// The item that was decided on; `None` if nothing was found.
    pub best: Option<MatchRecord<'a>>,
    /// The score that was compared with the threshold.
    pub decision_score: Option<Similarity>,
    /// How it differs from the searches of the calibration; `None` if unknown.
    pub signs: Option<SearchSigns>,
    /// Whether a filter restricted the items that could be found.
    pub filtered: bool,
    /// The image, if images are kept.
    pub image: Option<Bytes>,
    /// Where the search came from.
    pub source: SearchSource,
}

/// The item that was decided on.
#[derive(Clone, Copy, Debug)]
pub struct MatchRecord<'a> {
    /// The item, and its similarity.
    pub found: &'a GalleryMatch,
    /// Its similarity minus that of the best item of another label; `None` if there is no other.
    pub margin: Option<f32>,
}
