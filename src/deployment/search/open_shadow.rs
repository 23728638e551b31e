//! Lets a shadow decide on a live query.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::deciding::Searched;
use super::request::{Hit, SearchOptions, Timings};
use super::worker::search_view;
use crate::deployment::DeploymentError;
use crate::deployment::models::LoadedModel;
use crate::deployment::points::active::{ActivePoint, JudgedScore};
use crate::deployment::proposals::Neighbours;
use crate::monitor::{ShadowDecision, ShadowDeployment};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_gallery::Gallery;
use matchpoint_vector::Similarity;

/// The lowest priority of a thread on Linux.
const NICE: i32 = 19;

/// A live query as a shadow receives it.
#[derive(Debug)]
pub(in crate::deployment) struct ShadowQuery {
    pub(in crate::deployment) image: Bytes,
    pub(in crate::deployment) options: SearchOptions,
}

/// The decision of the live deployment or of the shadow on a query.
pub(in crate::deployment) fn shadow_decision(
    active: &ActivePoint,
    best: Option<&Hit>,
    judged: JudgedScore,
) -> ShadowDecision {
    ShadowDecision {
        decision: active.decide(judged),
        label: best.map_or_else(String::new, |best| best.item.label.clone()),
        item: best.map_or_else(String::new, |best| best.item.id.clone()),
        score: best.map_or(0.0, |best| best.score.get()),
        decision_score: active.valid().and(judged.score()).map(Similarity::get),
    }
}

/// An open shadow. It is open for reading, without records and checks, and has its own worker and session with
/// the lowest priority of the system.
pub(in crate::deployment) struct OpenShadow {
    pub(in crate::deployment) loaded: LoadedModel,
    pub(in crate::deployment) limits: ImageLimits,
    pub(in crate::deployment) gallery: Arc<Gallery>,
    pub(in crate::deployment) active_point: Arc<ArcSwap<ActivePoint>>,
}

impl ShadowDeployment<ShadowQuery> for OpenShadow {
    fn yields(&self) -> bool {
        // On Linux this applies to the calling thread, which is the shadow's only worker. The runner's thread
        // keeps its priority, because it shares locks with callers of a report.
        let lower =
            |_: &mut PoolWorker<'_>| rustix::process::setpriority_process(None, NICE).is_ok();
        let pool = &self.loaded.pool;
        let lowered = pool.run_blocking(Caller::default(), JobKind::Image, lower);
        lowered == Ok(true) && self.loaded.model.provider() == "cpu"
    }

    fn has_label(&self, label: &str) -> bool {
        self.gallery.has_label(label)
    }

    fn decide(&self, query: Arc<ShadowQuery>) -> Result<ShadowDecision, String> {
        let (view, active) = (self.gallery.view(), self.active_point.load_full());
        let limits = self.limits;
        // It does not count as a request, neither in the times nor in the results.
        let job = move |worker: &mut PoolWorker<'_>| -> Result<ShadowDecision, DeploymentError> {
            let timings = &mut Timings::default();
            let embedding = worker.embed(&query.image, &limits)?.embedding;
            let neighbours = Neighbours::Here(Arc::clone(&view));
            let (_, best) = search_view(&neighbours, &embedding, &query.options, timings)?;
            let searched = Searched {
                view: &view,
                probe: &embedding,
                options: &query.options,
            };
            let judged = active.decision_score(&searched, best.as_ref(), timings)?;
            Ok(shadow_decision(
                &active,
                best.as_ref().map(|found| &found.best),
                judged,
            ))
        };
        let pool = &self.loaded.pool;
        let decided = pool.run_blocking(Caller::default(), JobKind::Image, job);
        let decided = decided.map_err(DeploymentError::from).flatten();
        decided.map_err(|error| error.to_string())
    }
}
