//! The calls of a deployment: search, verify, embed, and the searches of a calibration.

pub(super) mod answer;
pub(super) mod deciding;
mod judging;
pub(super) mod open_shadow;
pub(super) mod request;
pub(super) mod shadow;
pub(super) mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::answer::{EmbeddedOriginal, Probed, SearchAnswer, VerifyAnswer};
use self::deciding::Deciding;
use self::judging::{JudgedSearch, Judging};
use self::open_shadow::{ShadowQuery, shadow_decision};
use self::request::{
    Comparison, ImageAt, ProbeRequest, ProbeSource, Query, SearchOptions, Timings, VerifyReference,
    image_failure,
};
use self::worker::{
    Compare, Known, ProbeQuestion, ToEnrol, compare, embed_probe, embed_query, probed,
};
use crate::deployment::enrolment::maintenance::{IndexChecks, Maintenance};
use crate::deployment::open::Deployment;
use crate::deployment::points::active::{ActivePoint, DecisionBasis, JudgedScore};
use crate::deployment::points::state::StateInUse;
use crate::deployment::proposals::Neighbours;
use crate::deployment::{DeploymentError, Unembeddable};
use crate::journal::entry::{SearchSource, StateId};
use crate::monitor::{DecisionRecord, ShadowTicket};
use crate::telemetry;
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_embed::pixels::{ImageLimits, precheck};
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::mapped_vectors::Vector;
use matchpoint_gallery::view::GalleryView;
use matchpoint_vector::Embedding;

/// How long a calibration waits if the queue is full, which is about the time that one image takes.
pub(in crate::deployment) const BUSY_PAUSE: Duration = Duration::from_millis(20);

impl Deployment {
    /// Finds the nearest items and decides on the best one.
    ///
    /// # Errors
    /// Returns an error if the query is invalid, if the queue is full, or if the model fails.
    pub async fn search(
        &self,
        caller: Caller,
        query: Query,
        options: SearchOptions,
    ) -> Result<SearchAnswer, DeploymentError> {
        let (probe, recorded) = (ProbeSource::Query(query), !options.unrecorded);
        let answer = self.search_from(caller, probe, options, SearchSource::Live);
        let answer = answer.await?;
        if !recorded {
            telemetry::search_unrecorded(&self.name);
        }
        Ok(answer)
    }

    pub(in crate::deployment) async fn search_from(
        &self,
        caller: Caller,
        probe: ProbeSource,
        options: SearchOptions,
        source: SearchSource,
    ) -> Result<SearchAnswer, DeploymentError> {
        let (live, filtered) = (source == SearchSource::Live, options.filter.is_some());
        let job = self.job_of(caller, &probe, live)?;
        let at = self.state_in_use(options.expect_state)?;
        let (view, active, state) = (at.view, at.active, at.id);
        let (recorded, covered) = (!options.unrecorded, active.covers(&options.conditions));
        let image = probe.kept(self.monitor.keeps_images());
        let ticket = (live && recorded).then(|| self.shadow_ticket(&probe, &options));
        let judging = Judging {
            view: Arc::clone(&view),
            active: Arc::clone(&active),
            gallery: Arc::clone(&self.gallery),
            checks: self.checks(),
            options,
        };
        let (judged, timings) = self
            .found_and_judged(job, probe, judging)
            .await
            .inspect_err(|error| self.note_damage(error))?;
        let JudgedSearch {
            hits,
            best,
            judged,
            norm,
            signs,
        } = judged;
        let id = self.monitor.fresh_id();
        let basis = self.basis(&active, &view, judged);
        let answer = SearchAnswer {
            decision: active.decide(judged),
            basis: basis.if_filtered(filtered).if_covered(covered),
            decision_id: id.to_string(),
            generation: view.generation(),
            gallery_items: view.len(),
            state,
            hits,
            decided: best.as_ref().map(|found| found.best.clone()),
            timings,
        };
        if !recorded {
            return Ok(answer);
        }
        if live {
            self.count_live(&answer, norm);
        }
        self.monitor.record(DecisionRecord {
            id,
            decision: answer.decision,
            point: active.valid(),
            generation: answer.generation,
            gallery_items: answer.gallery_items,
            state,
            best: best.as_ref().map(Deciding::record),
            decision_score: judged.score(),
            target_far: answer.basis.target_far,
            signs,
            filtered,
            image,
            source,
        });
        if let Some(ticket) = ticket.flatten() {
            let shadowed = shadow_decision(&active, answer.decided.as_ref(), judged);
            ticket.offer(id, shadowed);
        }
        Ok(answer)
    }

    /// What a decision rests on here and now.
    fn basis(
        &self,
        active: &ActivePoint,
        view: &GalleryView,
        judged: JudgedScore,
    ) -> DecisionBasis {
        let basis = active.basis(view, judged);
        basis.if_folder_changed(self.folder_has_changed())
    }

    fn job_of(
        &self,
        caller: Caller,
        probe: &ProbeSource,
        live: bool,
    ) -> Result<WorkerJob, DeploymentError> {
        let kind = match probe {
            ProbeSource::Query(query) => self.precheck(query)?,
            ProbeSource::File(_) => probe.kind(),
        };
        // The searches for canaries come here too.
        let waits = if live { Waits::Caller } else { Waits::Nobody };
        Ok(WorkerJob::now(caller, kind, waits))
    }

    /// An item in the state in use, and that state: an answer must not name a state in which the item was another.
    fn item_in_use(
        &self,
        id: &str,
        expect_state: Option<StateId>,
    ) -> Result<(StateInUse, Arc<ItemHead>, Vector), DeploymentError> {
        loop {
            let at = self.state_in_use(expect_state)?;
            if let Some((head, vector)) = self.gallery.item_of(&at.view, id) {
                return Ok((at, head, vector));
            }
            // Either there is no such item, or it was written after the state was taken.
            self.item(id)?;
        }
    }

    /// Compares a query with one reference and decides.
    ///
    /// # Errors
    /// Returns an error if the query or the reference is invalid, if there is no such item, if the queue is
    /// full, or if the model fails.
    pub async fn verify(
        &self,
        caller: Caller,
        comparison: Comparison,
    ) -> Result<VerifyAnswer, DeploymentError> {
        let arrived = Instant::now();
        let Comparison {
            query,
            reference,
            expect_state,
        } = comparison;
        let mut kind = self.precheck(&query)?;
        let with_item = matches!(reference, VerifyReference::Item(_));
        let (at, reference) = match reference {
            VerifyReference::Query(reference) => {
                kind = kind.longer(self.precheck(&reference)?);
                (self.state_in_use(expect_state)?, Known::Query(reference))
            }
            VerifyReference::Item(id) => {
                let (at, head, vector) = self.item_in_use(&id, expect_state)?;
                let whole = self.gallery.check_item(&head, &vector);
                whole
                    .map_err(DeploymentError::from)
                    .inspect_err(|error| self.note_damage(error))?;
                (at, Known::Item(head, vector))
            }
        };
        let (view, active, state) = (at.view, at.active, at.id);
        let (judge, enrolled) = (Arc::clone(&active), Arc::clone(&view));
        let job = WorkerJob {
            caller,
            kind,
            waits: Waits::Caller,
            arrived,
        };
        let ((score, judged), timings) = self
            .work(job, move |worker, limits, timings| {
                let pair = Compare {
                    query,
                    reference,
                    view: enrolled,
                };
                compare(worker, pair, &judge, limits, timings)
            })
            .await?;
        let id = self.monitor.fresh_id();
        let basis = self.basis(&active, &view, judged);
        let answer = VerifyAnswer {
            decision: active.decide(judged),
            basis: basis.of_comparison(with_item),
            decision_id: id.to_string(),
            generation: view.generation(),
            state,
            score,
            timings,
        };
        // The score of a comparison is not that of a search, so it is left out of the histogram.
        self.count(answer.decision.as_str(), &answer.basis, None);
        self.monitor.record(DecisionRecord {
            id,
            decision: answer.decision,
            point: active.valid(),
            generation: answer.generation,
            gallery_items: view.len(),
            state,
            best: None,
            decision_score: judged.score(),
            target_far: answer.basis.target_far,
            signs: None,
            filtered: false,
            image: None,
            source: SearchSource::Comparison,
        });
        Ok(answer)
    }

    /// Embeds one image.
    ///
    /// # Errors
    /// Returns an error if the image is invalid, if the queue is full, or if the model fails.
    pub async fn embed(
        &self,
        caller: Caller,
        query: Query,
    ) -> Result<(Embedding, Timings), DeploymentError> {
        let job = WorkerJob::now(caller, self.precheck(&query)?, Waits::Caller);
        self.work(job, move |worker, limits, timings| {
            embed_query(worker, query, limits, timings)
        })
        .await
    }

    /// Reads and embeds an image; `None` if `known` is the SHA-256 of its bytes, because its embedding is then
    /// known.
    ///
    /// # Errors
    /// Returns the errors of [`Deployment::embed`], and an error if the image cannot be read or is not stored.
    pub(in crate::deployment) async fn embed_image(
        &self,
        at: ImageAt,
        known: Option<[u8; 32]>,
    ) -> Result<Option<EmbeddedOriginal>, DeploymentError> {
        let image = ToEnrol {
            at,
            known,
            keep: self.gallery.keeps_images(),
        };
        let job = WorkerJob::now(Caller::default(), JobKind::Image, Waits::Nobody);
        let embedded = self.work(job, move |by, limits, timings| {
            worker::embed_image(by, &image, limits, timings)
        });
        Ok(embedded.await?.0)
    }

    /// Searches for a labelled query, once in the whole gallery and, on request, once more without its own
    /// label: these are the two trials that it can give. It waits while the queue is full, so that searches of
    /// callers come first and no query is lost.
    ///
    /// # Errors
    /// Returns the errors of [`Deployment::embed_image`], except for a full queue.
    pub(in crate::deployment) async fn probe(
        &self,
        request: ProbeRequest,
    ) -> Result<Probed, DeploymentError> {
        loop {
            match self.probe_now(request.clone()).await {
                Err(DeploymentError::Busy { .. } | DeploymentError::Late { .. }) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                probed => return probed,
            }
        }
    }

    async fn probe_now(&self, request: ProbeRequest) -> Result<Probed, DeploymentError> {
        let job = WorkerJob::now(Caller::default(), request.source.kind(), Waits::Nobody);
        if let Some(qdrant) = &self.qdrant {
            return Box::pin(self.probe_elsewhere(qdrant.index(), job, request)).await;
        }
        let (mut found, timings) = self
            .work(job, move |by, limits, timings| {
                let neighbours = Neighbours::Here(Arc::clone(&request.view));
                let question = ProbeQuestion::of(&request);
                let probe = embed_probe(by, request, limits, timings)?;
                probed(&neighbours, probe, &question, timings)
            })
            .await?;
        found.timings = timings;
        Ok(found)
    }

    fn checks(&self) -> Option<IndexChecks> {
        self.maintenance.get().map(Maintenance::checks)
    }

    /// Stops accepting after an item was found changed.
    fn note_damage(&self, error: &DeploymentError) {
        if let DeploymentError::Gallery(changed @ GalleryError::Changed { .. }) = error
            && let Some(maintenance) = self.maintenance.get()
        {
            maintenance.found(changed);
        }
    }

    fn shadow_ticket(
        &self,
        probe: &ProbeSource,
        options: &SearchOptions,
    ) -> Option<ShadowTicket<ShadowQuery>> {
        let ProbeSource::Query(query) = probe else {
            return None;
        };
        let image = match query {
            Query::Image(image) => Some(|| ShadowQuery {
                image: image.clone(),
                options: options.clone(),
            }),
            Query::Embedding(_) => None,
        };
        self.shadow.ticket(image, || self.loaded.pool.queue_len())
    }

    /// Counts searches of callers; canaries have their own counters.
    fn count_live(&self, answer: &SearchAnswer, norm: Option<f64>) {
        let score = answer.decided.as_ref().map(|hit| hit.score.get());
        self.count(answer.decision.as_str(), &answer.basis, score);
        if let Some(norm) = norm {
            telemetry::feature_measured(&self.name, norm);
        }
    }

    fn count(&self, decision: &'static str, basis: &DecisionBasis, score: Option<f32>) {
        telemetry::decided(
            &self.name,
            basis.operating_point_id.as_deref(),
            decision,
            score,
        );
        if basis.review.is_some_and(|review| review.due) {
            telemetry::to_be_reviewed(&self.name, basis.operating_point_id.as_deref());
        }
    }

    /// Refuses an image immediately if that is possible without decoding it, so that it does not wait for a
    /// worker. Returns the kind of job for any other query.
    pub(in crate::deployment) fn precheck(
        &self,
        query: &Query,
    ) -> Result<JobKind, DeploymentError> {
        let model = &self.loaded.model;
        match query {
            Query::Image(image) if model.embeds_images() => {
                let passes = precheck(image, &self.limits).map_err(DeploymentError::Image);
                passes.inspect_err(|error| self.record_failure(error))?;
                Ok(model.kind_of(image, &self.limits))
            }
            // If no image can be embedded here, that is the answer to any image.
            Query::Image(_) | Query::Embedding(_) => Ok(query.kind()),
        }
    }

    /// Runs a job on a worker, and measures its stages. Only jobs that callers wait for are counted.
    pub(in crate::deployment) async fn work<T: Send + 'static>(
        &self,
        job: WorkerJob,
        run: impl FnOnce(&mut PoolWorker<'_>, &ImageLimits, &mut Timings) -> Result<T, DeploymentError>
        + Send
        + 'static,
    ) -> Result<(T, Timings), DeploymentError> {
        let WorkerJob {
            caller,
            kind,
            waits,
            arrived,
        } = job;
        let limits = self.limits;
        let pool = &self.loaded.pool;
        let done = pool.run(caller, kind, move |worker| {
            let mut timings = Timings {
                queue: arrived.elapsed(),
                ..Timings::default()
            };
            run(worker, &limits, &mut timings).map(|value| (value, timings))
        });
        let done = done.await;

        let outcome = done
            .map_err(DeploymentError::from)
            .and_then(|result| result);
        match outcome {
            Ok((value, mut timings)) => {
                timings.total = arrived.elapsed();
                match waits {
                    Waits::Caller => timings.record(&self.name),
                    Waits::Nobody => {}
                }
                Ok((value, timings))
            }
            Err(error) => {
                match waits {
                    Waits::Caller => self.record_failure(&error),
                    Waits::Nobody => {}
                }
                Err(error)
            }
        }
    }

    pub(in crate::deployment) fn record_failure(&self, error: &DeploymentError) {
        if let DeploymentError::Busy { .. }
        | DeploymentError::Delayed { .. }
        | DeploymentError::Late { .. }
        | DeploymentError::WriterBusy { .. } = error
        {
            telemetry::queue_rejected(&self.name);
        }
        if let DeploymentError::Image(cause) = error {
            telemetry::image_failed(&self.name, image_failure(cause));
        }
        if let DeploymentError::Unembeddable { kind, .. } = error {
            let reason = match kind {
                Unembeddable::NoContent => "no_content",
                Unembeddable::NoEmbedding => "no_embedding",
            };
            telemetry::image_failed(&self.name, reason);
        }
    }
}

/// A job for a worker: its caller, its kind, and the time of the request.
pub(in crate::deployment) struct WorkerJob {
    caller: Caller,
    kind: JobKind,
    waits: Waits,
    arrived: Instant,
}

impl WorkerJob {
    /// A job that is requested now.
    pub(in crate::deployment) fn now(caller: Caller, kind: JobKind, waits: Waits) -> Self {
        Self {
            caller,
            kind,
            waits,
            arrived: Instant::now(),
        }
    }
}

/// Who waits for a job.
#[derive(Clone, Copy)]
pub(in crate::deployment) enum Waits {
    /// A caller.
    Caller,
    /// Nobody waits: canaries and calibrations try again later, so a full queue refuses nobody.
    Nobody,
}
