//! The report on a shadow: its decisions compared with the live ones.

use std::path::PathBuf;

use crate::journal::entry::{AnnotatedTruth, DecisionId};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::shadow::{ShadowCounts, ShadowMatch};

/// The number of disagreements that are kept; the latest ones.
pub const SHADOW_LATEST_MAX: usize = 200;

/// The answer of the live deployment or of the shadow to a query.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowDecision {
    /// The decision.
    pub decision: Decision,
    /// Label of the best match; empty if nothing was found.
    pub label: String,
    /// Id of the best match; empty if nothing was found.
    pub item: String,
    /// The similarity of the best match.
    pub score: f32,
    /// The score that was compared with the threshold; `None` if undecided or if nothing was found.
    pub decision_score: Option<f32>,
}

/// A query that the live deployment and the shadow answer differently.
#[derive(Clone, Debug)]
pub struct ShadowDisagreement {
    /// Id of the decision that was answered.
    pub id: DecisionId,
    /// The answer that was given.
    pub live: ShadowDecision,
    /// The answer that the shadow would have given.
    pub shadow: ShadowDecision,
    /// How the labels compare that the two found.
    pub best: ShadowMatch,
}

/// A description of the shadow.
#[derive(Clone, Debug)]
pub struct ShadowAbout {
    /// Its folder.
    pub path: PathBuf,
    /// Name of its model.
    pub model: String,
    /// The model's fingerprint.
    pub fingerprint: String,
    /// The precision of the model.
    pub precision: String,
    /// The execution provider that is really in use.
    pub execution_provider: String,
    /// Id of its active operating point; `None` if none is valid, so that every decision is UNDECIDED.
    pub operating_point: Option<String>,
    /// Number of items in its gallery.
    pub gallery_items: usize,
    /// The generation of its gallery.
    pub generation: u64,
    /// The share of live queries that is sampled for it.
    pub share: f64,
}

/// The comparison of the shadow with the served deployment since the shadow was opened. Nothing is stored on
/// disk.
#[derive(Clone, Debug)]
pub struct ShadowReport {
    /// The shadow.
    pub about: ShadowAbout,
    /// The outcomes of the queries that both answered.
    pub counts: ShadowCounts,
    /// Number of sampled queries that were not compared, by reason.
    pub skipped: Vec<(&'static str, u64)>,
    /// The latest queries that the two answer differently, the newest first, with what they showed if
    /// annotated.
    pub latest: Vec<(ShadowDisagreement, Option<AnnotatedTruth>)>,
}
