//! What a candidate beside what is served comes to: its decisions against the live ones.

use std::path::PathBuf;

use super::answer::{Hit, Standing};
use crate::journal::entry::{DecisionId, Truth};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::shadow::{ShadowCounts, ShadowMatch};
use matchpoint_vector::Similarity;

/// The latest disagreements that are kept to be looked at.
pub const SHADOW_LATEST_MAX: usize = 200;

/// What one side made of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// Label of the best match; empty where nothing was found.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its similarity.
    pub score: f32,
    /// What was held against the threshold; `None` when undecided, or where nothing was found.
    pub held: Option<f32>,
}

impl Outcome {
    pub(super) fn new(standing: &Standing, best: Option<&Hit>, held: Option<Similarity>) -> Self {
        Self {
            decision: standing.decide(held),
            label: best.map_or_else(String::new, |best| best.item.label.clone()),
            item: best.map_or_else(String::new, |best| best.item.id.clone()),
            score: best.map_or(0.0, |best| best.score.get()),
            held: standing.valid().and(held).map(Similarity::get),
        }
    }
}

/// A query that the two answer differently.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// Id of the decision that was answered.
    pub id: DecisionId,
    /// What was answered.
    pub live: Outcome,
    /// What the candidate would have answered.
    pub shadow: Outcome,
    /// Which label each found.
    pub best: ShadowMatch,
}

/// The candidate.
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
    /// What decides in it; `None` where nothing does, and every decision is UNDECIDED.
    pub operating_point: Option<String>,
    /// Items in its gallery.
    pub gallery_items: usize,
    /// State of its gallery.
    pub generation: u64,
    /// The share of live queries that is drawn for it.
    pub share: f64,
}

/// How the candidate compares with what is served. Since it was opened: nothing is kept on disk.
#[derive(Clone, Debug)]
pub struct ShadowReport {
    /// The candidate.
    pub about: ShadowAbout,
    /// What came of the queries that both answered.
    pub counts: ShadowCounts,
    /// Drawn queries that were not compared, by reason.
    pub skipped: Vec<(&'static str, u64)>,
    /// The latest that the two answer differently, newest first, with what they showed where
    /// somebody has said so.
    pub latest: Vec<(Disagreement, Option<Truth>)>,
}
