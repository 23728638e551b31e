//! What a monitor sees of the deployment that it watches, and what it is handed.

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

    /// Where the monitor keeps files of its own; `None` if it may not.
    fn records(&self) -> Option<&Path>;

    /// Its gallery.
    fn gallery(&self) -> &Gallery;

    /// The active operating point; `None` if none is valid.
    fn active_point(&self) -> Option<Arc<OperatingPoint>>;

    /// What the searches looked like that an operating point was made from; `None` if that was not kept, or if it is not
    /// the active one.
    fn traffic_reference(&self, id: &str) -> Option<Arc<TrafficReference>>;

    /// What is left of its promise in today's gallery; `None` if none is valid.
    fn promise_today(&self) -> Option<PromiseToday>;

    /// Why it is not known which items its calibration saw; `None` if it is.
    fn coverage_problem(&self) -> Option<String>;
}

/// One decision of a deployment, to be recorded.
#[derive(Debug)]
pub struct DecisionRecord<'a> {
    /// Its id.
    pub id: DecisionId,
    /// What was decided.
    pub decision: Decision,
    /// The operating point that decided; `None` when undecided.
    pub point: Option<&'a OperatingPoint>,
    /// Number of the gallery's state that was searched.
    pub generation: u64,
    /// Items in it.
    pub gallery_items: usize,
    /// The state that decided.
    pub state: StateId,
    /// The item that was decided on; `None` if nothing was found.
    pub best: Option<MatchRecord<'a>>,
    /// The score that was compared with the threshold.
    pub decision_score: Option<Similarity>,
    /// What tells it from other searches, beside those of the calibration; `None` if that is not known.
    pub signs: Option<SearchSigns>,
    /// Whether a filter named the items that could be found.
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
    /// Its similarity less that of the best item of another label; `None` if there is no other.
    pub margin: Option<f32>,
}
