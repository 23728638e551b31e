//! Converts between the contract's messages and the domain. Transport types stop here.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, UNIX_EPOCH};

use tonic::{Code, Status};

use crate::deployment::{
    DecisionBasis, Hit, PointComparison, Query, SearchAnswer, SearchOptions, Timings, Undecided,
    VerifyAnswer, VerifyReference, created,
};
use crate::journal::entry::{AnnotatedTruth, StateId};
use crate::server::status::status;
use matchpoint_calibration::adjustment::Adjustment;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::operating_point::{OperatingPoint, Policy};
use matchpoint_calibration::rates::Rate;
use matchpoint_calibration::recording::Flip;
use matchpoint_calibration::review::ReviewBand;
use matchpoint_client::proto;
use matchpoint_gallery::filter::{FilterError, ItemFilter};
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::view::{EF_MAX, NEIGHBOURS_MAX};

/// How many matches a search returns by default.
const LIMIT_DEFAULT: usize = 10;
/// How many items a page has by default.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// How many flips a comparison returns by default.
const FLIPS_DEFAULT: usize = 100;
const FLIPS_MAX: usize = 1000;

pub(in crate::server) fn invalid(message: &str) -> Status {
    status(Code::InvalidArgument, "ARGUMENT_INVALID", message)
}

pub(in crate::server) fn search_query(
    query: Option<proto::search_request::Query>,
) -> Result<Query, Status> {
    match query {
        Some(proto::search_request::Query::Image(bytes)) => Ok(Query::Image(bytes)),
        Some(proto::search_request::Query::Embedding(vector)) => {
            Ok(Query::Embedding(vector.values))
        }
        None => Err(invalid("query is required: set image or embedding")),
    }
}

pub(in crate::server) fn verify_query(
    query: Option<proto::verify_request::Query>,
) -> Result<Query, Status> {
    match query {
        Some(proto::verify_request::Query::Image(bytes)) => Ok(Query::Image(bytes)),
        Some(proto::verify_request::Query::Embedding(vector)) => {
            Ok(Query::Embedding(vector.values))
        }
        None => Err(invalid("query is required: set image or embedding")),
    }
}

pub(in crate::server) fn reference(
    reference: Option<proto::Reference>,
) -> Result<VerifyReference, Status> {
    use proto::reference::Source;
    match reference.and_then(|reference| reference.source) {
        Some(Source::Image(bytes)) => Ok(VerifyReference::Query(Query::Image(bytes))),
        Some(Source::Embedding(vector)) => {
            Ok(VerifyReference::Query(Query::Embedding(vector.values)))
        }
        Some(Source::ItemId(id)) => Ok(VerifyReference::Item(id)),
        None => Err(invalid(
            "reference is required: set image, embedding or item_id",
        )),
    }
}

/// The search options of a request.
pub(in crate::server) fn search_options(
    request: &proto::SearchRequest,
) -> Result<SearchOptions, Status> {
    let limit = request.limit;
    let limit = match usize::try_from(limit) {
        Ok(0) => LIMIT_DEFAULT,
        Ok(limit) if limit <= NEIGHBOURS_MAX => limit,
        _ => {
            return Err(invalid(&format!(
                "limit is {limit}; it must be 0 to {NEIGHBOURS_MAX}"
            )));
        }
    };
    let filter = match request.filter.as_str() {
        "" => None,
        text => Some(ItemFilter::parse(text).map_err(|cause| filter_invalid(&cause))?),
    };
    let score_min = request.min_score;
    if let Some(least) = score_min.filter(|least| !(-1.0..=1.0).contains(least)) {
        return Err(invalid(&format!(
            "min_score is {least}; it must be -1 to 1"
        )));
    }
    let ef = match usize::try_from(request.ef_search) {
        Ok(0) => None,
        Ok(ef) if ef <= EF_MAX => Some(ef),
        _ => {
            let ef = request.ef_search;
            return Err(invalid(&format!(
                "ef_search is {ef}; it must be 0 to {EF_MAX}"
            )));
        }
    };
    Ok(SearchOptions {
        limit,
        exact: request.exact,
        filter,
        without_label: None,
        one_per_label: request.one_per_label,
        score_min,
        ef,
        conditions: conditions(&request.conditions)?,
        expect_state: expected_state(&request.expect_state)?,
        unrecorded: request.unrecorded,
    })
}

/// Conditions that a caller may give for a query: entries, and bytes of a key or a value.
const CONDITIONS_MAX: usize = 16;
const CONDITION_BYTES_MAX: usize = 128;

/// The state that a caller expects; `None` if they expect none.
pub(in crate::server) fn expected_state(text: &str) -> Result<Option<StateId>, Status> {
    match text {
        "" => Ok(None),
        text => StateId::parse(text).map(Some).ok_or_else(|| {
            invalid("expect_state must be 32 hexadecimal digits, as `state` in answers")
        }),
    }
}

fn conditions(said: &HashMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    if CONDITIONS_MAX < said.len() {
        return Err(invalid(&format!(
            "conditions has {} entries; at most {CONDITIONS_MAX} are allowed",
            said.len()
        )));
    }
    let fits = |text: &String| (1..=CONDITION_BYTES_MAX).contains(&text.len());
    if let Some((key, _)) = said.iter().find(|(key, value)| !(fits(key) && fits(value))) {
        return Err(invalid(&format!(
            "conditions has a key or value of another length than 1 to {CONDITION_BYTES_MAX} bytes, at {:?}",
            key.chars().take(40).collect::<String>()
        )));
    }
    Ok(said.clone().into_iter().collect())
}

fn filter_invalid(cause: &FilterError) -> Status {
    status(Code::InvalidArgument, "FILTER_INVALID", &cause.to_string())
}

pub(in crate::server) fn page_size(size: u32) -> Result<usize, Status> {
    match usize::try_from(size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) if size <= PAGE_MAX => Ok(size),
        _ => Err(invalid(&format!(
            "page_size is {size}; it must be 0 to {PAGE_MAX}"
        ))),
    }
}

pub(in crate::server) fn search_response(
    answer: SearchAnswer,
    model_fingerprint: &str,
) -> proto::SearchResponse {
    let decided = answer.decided.map(|hit| hit.item);
    let [decided_item_id, decided_label] = decided
        .map(|item| [item.id.clone(), item.label.clone()])
        .unwrap_or_default();
    proto::SearchResponse {
        decision: decision(answer.decision).into(),
        matches: answer.hits.iter().map(matched).collect(),
        basis: Some(basis(answer.basis)),
        decision_id: answer.decision_id,
        generation: answer.generation,
        gallery_items: answer.gallery_items as u64,
        model_fingerprint: model_fingerprint.to_owned(),
        timings: Some(timings(&answer.timings)),
        state: answer.state.to_string(),
        decided_item_id,
        decided_label,
    }
}

pub(in crate::server) fn verify_response(
    answer: VerifyAnswer,
    model_fingerprint: &str,
) -> proto::VerifyResponse {
    proto::VerifyResponse {
        decision: decision(answer.decision).into(),
        score: answer.score.get(),
        basis: Some(basis(answer.basis)),
        decision_id: answer.decision_id,
        generation: answer.generation,
        model_fingerprint: model_fingerprint.to_owned(),
        timings: Some(timings(&answer.timings)),
        state: answer.state.to_string(),
    }
}

pub(in crate::server) fn decision(decision: Decision) -> proto::Decision {
    match decision {
        Decision::Accept => proto::Decision::Accept,
        Decision::Reject => proto::Decision::Reject,
        Decision::Undecided => proto::Decision::Undecided,
    }
}

fn matched(hit: &Hit) -> proto::Match {
    proto::Match {
        id: hit.item.id.clone(),
        label: hit.item.label.clone(),
        score: hit.score.get(),
        metadata: hit.item.metadata.clone().into_iter().collect(),
    }
}

/// Why nothing is decided.
pub(in crate::server) fn undecided(reason: Option<Undecided>) -> proto::UndecidedReason {
    match reason {
        None => proto::UndecidedReason::Unspecified,
        Some(Undecided::Missing) => proto::UndecidedReason::OperatingPointMissing,
        Some(Undecided::Mismatch) => proto::UndecidedReason::OperatingPointMismatch,
        Some(Undecided::Unreadable) => proto::UndecidedReason::OperatingPointUnreadable,
        Some(Undecided::GalleryDamaged) => proto::UndecidedReason::GalleryDamaged,
        Some(Undecided::NoOtherLabel) => proto::UndecidedReason::NoOtherLabel,
    }
}

fn basis(basis: DecisionBasis) -> proto::DecisionBasis {
    let undecided = undecided(basis.undecided);
    proto::DecisionBasis {
        operating_point_id: basis.operating_point_id.unwrap_or_default(),
        threshold: basis.threshold,
        target_far: basis.target_far,
        confidence: basis.confidence,
        valid_to_items: basis.calibrated_items,
        within_calibrated_size: basis.within_calibrated_size,
        undecided_reason: undecided.into(),
        certified: basis.certified,
        target_frr: basis.target_frr,
        decision_score: basis.decision_score,
        adjustment: basis.adjustment,
        gallery_coverage: basis.coverage.map(Coverage::share),
        items_added: basis.coverage.map(Coverage::added),
        far_bound: basis.far_bound,
        frr_bound: basis.frr_bound,
        review: basis.review.is_some_and(|review| review.due),
        review_threshold: basis.review.map(|review| review.threshold),
        unseen_frr: basis.review.and_then(|review| review.unseen_frr),
    }
}

pub(in crate::server) fn timings(timings: &Timings) -> proto::StageTimings {
    let seconds = |duration: Duration| duration.as_secs_f64();
    proto::StageTimings {
        queue_seconds: seconds(timings.queue),
        decode_seconds: seconds(timings.decode),
        inference_seconds: seconds(timings.inference),
        search_seconds: seconds(timings.search),
        total_seconds: seconds(timings.total),
    }
}

pub(in crate::server) fn vector(values: &[f32]) -> proto::Vector {
    proto::Vector {
        values: values.to_vec(),
    }
}

pub(in crate::server) fn item(head: &ItemHead, embedding: Option<&[f32]>) -> proto::Item {
    proto::Item {
        id: head.id.clone(),
        label: head.label.clone(),
        metadata: head.metadata.clone().into_iter().collect(),
        embedding: embedding.map(vector),
        etag: String::new(),
    }
}

pub(in crate::server) fn operating_point(point: &OperatingPoint) -> proto::OperatingPoint {
    let content = point.content();
    let binding = &content.binding;
    let frr = content.frr_certificate();
    let created = created(point)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let policy = match content.policy {
        Policy::TargetFarCertified => "target-far-certified",
        Policy::TargetFarLeftOut => "target-far-left-out",
        Policy::TargetFarEstimated => "target-far-estimated",
        Policy::TargetFrrCertified => "target-frr-certified",
        Policy::EqualError => "equal-error",
        Policy::MinimumCost => "minimum-cost",
    };
    let far_trials = content.promise.map(|promise| promise.independent_trials);
    let held_out = content.held_out.as_ref();
    proto::OperatingPoint {
        id: point.id().to_owned(),
        policy: policy.to_owned(),
        threshold: point.threshold().get(),
        target_far: content.target_far().map(TargetFar::far),
        confidence: content.confidence(),
        independent_trials: far_trials
            .or(frr.map(|frr| frr.independent_trials))
            .unwrap_or_default(),
        far_upper_bound: content.far_bound(),
        far: content.measured.far.as_ref().map(measured_rate),
        frr: content.measured.frr.as_ref().map(measured_rate),
        model_fingerprint: binding.model_fingerprint.clone(),
        gallery_id: binding.gallery_id.clone(),
        gallery_items: binding.gallery_items,
        index: binding.index.clone(),
        created_unix_seconds: i64::try_from(created.as_secs()).unwrap_or(i64::MAX),
        assumptions: content.assumptions.clone(),
        certified: content.policy.certifies(),
        target_frr: frr.map(|frr| frr.target.frr()),
        frr_upper_bound: frr.map(|frr| frr.frr_bound),
        valid_to_items: content.valid_to_items(),
        growth_target_far: content.growth.map(|growth| growth.target_far),
        held_out_far: held_out
            .and_then(|rates| rates.far.as_ref())
            .map(measured_rate),
        held_out_frr: held_out
            .and_then(|rates| rates.frr.as_ref())
            .map(measured_rate),
        adjustment: content
            .adjustment
            .as_ref()
            .map(Adjustment::describe)
            .unwrap_or_default(),
        review: content.review.as_ref().map(review_band),
    }
}

/// A review band as a message.
#[must_use]
pub fn review_band(band: &ReviewBand) -> proto::ReviewBand {
    let ReviewBand {
        unseen,
        mated_reviewed,
        strangers_reviewed,
    } = band;
    proto::ReviewBand {
        threshold: unseen.threshold.get(),
        unseen_frr: unseen.target.frr(),
        unseen_frr_bound: unseen.frr_bound,
        confidence: unseen.target.confidence().get(),
        independent_trials: unseen.independent_trials,
        mated_reviewed: mated_reviewed.as_ref().map(measured_rate),
        strangers_reviewed: strangers_reviewed.as_ref().map(measured_rate),
    }
}

pub(in crate::server) fn flips_limit(limit: u32) -> Result<usize, Status> {
    match usize::try_from(limit) {
        Ok(0) => Ok(FLIPS_DEFAULT),
        Ok(limit) if limit <= FLIPS_MAX => Ok(limit),
        _ => Err(invalid(&format!(
            "limit is {limit}; it must be 0 to {FLIPS_MAX}"
        ))),
    }
}

pub(in crate::server) fn comparison(
    comparison: &PointComparison,
    limit: usize,
) -> proto::CompareOperatingPointsResponse {
    let flips = &comparison.flips;
    proto::CompareOperatingPointsResponse {
        from_threshold: comparison.before.threshold().get(),
        to_threshold: comparison.after.threshold().get(),
        recording_id: comparison.recorded.clone(),
        searches: comparison.searches as u64,
        flips_total: flips.len() as u64,
        improvements_total: flips.iter().filter(|flip| flip.improves).count() as u64,
        flips: flips.iter().take(limit).map(flip).collect(),
    }
}

fn flip(flip: &Flip) -> proto::Flip {
    let (search, found) = (&flip.search, flip.search.found.as_ref());
    proto::Flip {
        query_id: search.probe.clone(),
        query_label: search.label.clone(),
        trial_kind: search.truth.as_str().to_owned(),
        matched_item_id: found.map(|found| found.item.clone()).unwrap_or_default(),
        matched_label: found.map(|found| found.label.clone()).unwrap_or_default(),
        score: found.map(|found| found.score.get()).unwrap_or_default(),
        accepted: flip.after == Decision::Accept.as_str(),
        improves: flip.improves,
    }
}

/// A rate as a message.
#[must_use]
pub fn measured_rate(rate: &Rate) -> proto::MeasuredRate {
    proto::MeasuredRate {
        rate: rate.estimate,
        lower: rate.interval.lower,
        upper: rate.interval.upper,
        confidence: rate.interval.confidence.get(),
        trials: rate.count.trials(),
        labels: rate.labels,
    }
}

/// A ground truth as a message.
pub(in crate::server) fn truth(said: AnnotatedTruth) -> proto::GroundTruth {
    let (shown, stranger) = match said {
        AnnotatedTruth::Mated { label } => {
            (proto::ground_truth::Truth::Label(label), String::new())
        }
        AnnotatedTruth::NonMated => (proto::ground_truth::Truth::NotEnrolled(true), String::new()),
        AnnotatedTruth::Stranger { name } => (proto::ground_truth::Truth::NotEnrolled(true), name),
        AnnotatedTruth::Unusable => (proto::ground_truth::Truth::Unusable(true), String::new()),
    };
    proto::GroundTruth {
        truth: Some(shown),
        stranger_name: stranger,
    }
}
