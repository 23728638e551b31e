//! Searches for what was embedded, and judges what is found: with the worker that embedded it, or with an index elsewhere
//! beside the workers.

use std::sync::Arc;
use std::time::Instant;

use super::answer::Probed;
use super::deciding::{Deciding, Searched};
use super::request::{Hit, ProbeRequest, ProbeSource, SearchOptions, Timings};
use super::worker::{
    MeasuredQuery, ProbeQuestion, RequestProbes, embed_measured, embed_probe, probe_options,
    probed, search_view,
};
use super::{Waits, WorkerJob};
use crate::deployment::DeploymentError;
use crate::deployment::enrolment::maintenance::IndexChecks;
use crate::deployment::open::Deployment;
use crate::deployment::points::active::{ActivePoint, JudgedScore};
use crate::deployment::proposals::{AskedItems, Neighbours, QdrantIndex};
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::traffic::SearchSigns;
use matchpoint_embed::job::PoolWorker;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::view::GalleryView;

/// What a search is judged by, beside its embedding.
pub(super) struct Judging {
    pub(super) view: Arc<GalleryView>,
    pub(super) active: Arc<ActivePoint>,
    pub(super) gallery: Arc<Gallery>,
    pub(super) checks: Option<IndexChecks>,
    pub(super) options: SearchOptions,
}

/// What a search found, and its decision score.
pub(super) struct JudgedSearch {
    pub(super) hits: Vec<Hit>,
    pub(super) best: Option<Deciding>,
    pub(super) judged: JudgedScore,
    pub(super) norm: Option<f64>,
    pub(super) signs: Option<SearchSigns>,
}

impl Judging {
    fn judge(
        self,
        neighbours: &Neighbours,
        measured: &MeasuredQuery,
        timings: &mut Timings,
    ) -> Result<JudgedSearch, DeploymentError> {
        let Self {
            view,
            active,
            gallery,
            checks,
            options,
        } = self;
        let embedding = &measured.embedding;
        let (hits, best) = search_view(neighbours, embedding, &options, timings)?;
        let found = Searched {
            view: &view,
            probe: embedding,
            options: &options,
        };
        let judged = active.decision_score(&found, best.as_ref(), timings)?;
        check_accepted(&gallery, best.as_ref(), active.decide(judged))?;
        let signs = active.traffic_signs(&measured.facts(&options.conditions));
        // A search that leaves out a label did not use the index.
        if let Some(checks) = checks.filter(|_| options.without_label.is_none()) {
            checks.offer(&view, embedding);
        }
        Ok(JudgedSearch {
            hits,
            best,
            judged,
            norm: measured.feature_length,
            signs,
        })
    }
}

impl Deployment {
    /// Embeds a query, searches for it and judges what is found, with one worker or, if the index is elsewhere, beside
    /// them.
    pub(super) async fn found_and_judged(
        &self,
        job: WorkerJob,
        probe: ProbeSource,
        judging: Judging,
    ) -> Result<(JudgedSearch, Timings), DeploymentError> {
        if let Some(qdrant) = &self.qdrant {
            let elsewhere = self.judged_elsewhere(qdrant.index(), job, probe, judging);
            // What is asked here must not carry the size of it.
            return Box::pin(elsewhere).await;
        }
        self.work(job, move |worker, limits, timings| {
            let measured = embed_measured(worker, probe.read(limits)?, limits, timings)?;
            let neighbours = Neighbours::Here(Arc::clone(&judging.view));
            judging.judge(&neighbours, &measured, timings)
        })
        .await
    }

    async fn judged_elsewhere(
        &self,
        index: &Arc<QdrantIndex>,
        job: WorkerJob,
        probe: ProbeSource,
        judging: Judging,
    ) -> Result<(JudgedSearch, Timings), DeploymentError> {
        let waits = job.waits;
        let embed =
            move |worker: &mut PoolWorker<'_>, limits: &ImageLimits, timings: &mut Timings| {
                embed_measured(worker, probe.read(limits)?, limits, timings)
            };
        let (measured, mut timings) = self.work(job, embed).await?;
        let started = Instant::now();
        let view = Arc::clone(&judging.view);
        let plan = RequestProbes::of(&judging.options, view.is_approximate());
        let asked = AskedItems::ask(index, &view, &measured.embedding, plan.probes()).await?;
        let judge = move || {
            let neighbours = Neighbours::Asked(view, asked);
            judging.judge(&neighbours, &measured, &mut Timings::default())
        };
        let judged = index.beside_workers(judge).await??;
        self.searched_elsewhere(&mut timings, started, waits);
        Ok((judged, timings))
    }

    /// Adds the time that a search took after its embedding.
    fn searched_elsewhere(&self, timings: &mut Timings, started: Instant, waits: Waits) {
        timings.search = started.elapsed();
        timings.total += timings.search;
        if let Waits::Caller = waits {
            let search = timings.search;
            let searched = Timings {
                search,
                ..Timings::default()
            };
            searched.record(&self.name);
        }
    }

    pub(super) async fn probe_elsewhere(
        &self,
        index: &Arc<QdrantIndex>,
        job: WorkerJob,
        request: ProbeRequest,
    ) -> Result<Probed, DeploymentError> {
        let (question, view) = (ProbeQuestion::of(&request), Arc::clone(&request.view));
        let embed = move |by: &mut PoolWorker<'_>, limits: &ImageLimits, timings: &mut Timings| {
            embed_probe(by, request, limits, timings)
        };
        let (probe, mut timings) = self.work(job, embed).await?;
        let (started, options) = (Instant::now(), probe_options());
        let plan = RequestProbes::of(&options, view.is_approximate());
        let query = &probe.measured.embedding;
        let asked = AskedItems::ask(index, &view, query, plan.probes()).await?;
        let find = move || {
            let neighbours = Neighbours::Asked(view, asked);
            probed(&neighbours, probe, &question, &mut Timings::default())
        };
        let mut found = index.beside_workers(find).await??;
        self.searched_elsewhere(&mut timings, started, Waits::Nobody);
        found.timings = timings;
        Ok(found)
    }
}

/// Compares the item that a search accepts with its checksum, because a decision must not depend on data that
/// changed on the disk after they were verified.
fn check_accepted(
    gallery: &Gallery,
    deciding: Option<&Deciding>,
    decision: Decision,
) -> Result<(), DeploymentError> {
    match (decision, deciding) {
        (Decision::Accept, Some(Deciding { best, .. })) => {
            Ok(gallery.check_item(&best.item, &best.vector)?)
        }
        (Decision::Accept | Decision::Reject | Decision::Undecided, _) => Ok(()),
    }
}
