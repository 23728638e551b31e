//! The report on a shadow: its decisions compared with the live ones.

use std::path::PathBuf;

use crate::journal::entry::{AnnotatedTruth, DecisionId};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::shadow::{ShadowCounts, ShadowMatch};

/// Disagreements that are kept, the latest.
pub const SHADOW_LATEST_MAX: usize = 200;

/// The answer of one side to a query.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowDecision {
    /// The decision.
    pub decision: Decision,
    /// Label of the best match; empty if nothing was found.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its similarity.
    pub score: f32,
    /// What was compared with the threshold; `None` when undecided, or if nothing was found.
    pub decision_score: Option<f32>,
}

/// A query that the two answer differently.
#[derive(Clone, Debug)]
pub struct ShadowDisagreement {
    /// Id of the decision that was answered.
    pub id: DecisionId,
    /// What was answered.
    pub live: ShadowDecision,
    /// What the shadow would have answered.
    pub shadow: ShadowDecision,
    /// Which label each found.
    pub best: ShadowMatch,
}

/// The shadow.
#[derive(Clone, Debug)]
pub struct ShadowAbout {
    /// Its folder.
    pub path: PathBuf,
    /// Name of its model.
    pub model: String,
    /// The model's fingerprint.
    pub fingerprint: String,
    /// Which of the model's precisions.
    pub precision: String,
    /// The execution provider really in use.
    pub execution_provider: String,
    /// Its active operating point; `None` if none is valid, and every decision is UNDECIDED.
    pub operating_point: Option<String>,
    /// Items in its gallery.
    pub gallery_items: usize,
    /// State of its gallery.
    pub generation: u64,
    /// The share of live queries that is sampled for it.
    pub share: f64,
}

/// How the shadow compares with the served deployment, since it was opened: nothing is stored on disk.
#[derive(Clone, Debug)]
pub struct ShadowReport {
    /// The shadow.
    pub about: ShadowAbout,
    /// The outcomes of the queries that both answered.
    pub counts: ShadowCounts,
    /// Sampled queries that were not compared, by reason.
    pub skipped: Vec<(&'static str, u64)>,
    /// The latest that the two answer differently, newest first, with what they showed if annotated.
    pub latest: Vec<(ShadowDisagreement, Option<AnnotatedTruth>)>,
}
