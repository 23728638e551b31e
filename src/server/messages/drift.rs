//! The state of an operating point in service, as messages.

use crate::monitor::{
    DriftReset as Reset, LeftOutRound, Lookalike as Similar, OtherItem, PointInService,
    TrafficInService,
};
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::monitoring::audit::{AuditedRate as Rate, AuditedRates};
use matchpoint_calibration::monitoring::cusum::Onset;
use matchpoint_calibration::monitoring::drift::{
    DriftVerdict as How, Finding as Found, FindingSubject, Limit,
};
use matchpoint_calibration::monitoring::history::HistoryPoint;
use matchpoint_calibration::monitoring::left_out::LeftOutRate;
use matchpoint_calibration::monitoring::plain_sample::Recalibration as Needs;
use matchpoint_calibration::monitoring::reviews::{PredictionSide, ReviewsInService};
use matchpoint_calibration::monitoring::sequential::{EProcess, ErrorSide};
use matchpoint_calibration::monitoring::shared_causes::SharedCause;
use matchpoint_calibration::monitoring::traffic::{
    ShareInService, TrafficAssessment, TrafficFeature,
};
use matchpoint_client::proto::{
    AcceptedItem, AuditedRate, DriftReset, ErrorGroup, Evidence, Finding, GetDriftResponse,
    LeftOutCheck, Lookalike, RateHistoryPoint, Recalibration, ReviewShare, TrafficComparison,
    TrafficShare, Verdict,
};

pub(in crate::server) fn drift_response(found: PointInService) -> GetDriftResponse {
    let PointInService {
        point,
        drift,
        today,
        left_out: round,
        lookalikes,
        course,
        traffic,
        resets,
    } = found;
    let coverage = today.and_then(|today| today.coverage);
    let AuditedRates {
        far,
        frr,
        false_discovery,
        sampled,
        labelled,
        ..
    } = drift.rates;
    GetDriftResponse {
        operating_point_id: point.id().to_owned(),
        far_recent: drift.recent.far.map(rate),
        frr_recent: drift.recent.frr.map(rate),
        far: far.map(rate),
        frr: frr.map(rate),
        fdr: false_discovery.map(rate),
        far_evidence: evidence(drift.limits.far, drift.far_evidence, drift.far_onset),
        frr_evidence: evidence(drift.limits.frr, drift.frr_evidence, drift.frr_onset),
        sampled,
        annotated: labelled,
        unusable: drift.unusable,
        feedback_right: drift.feedback.right,
        feedback_wrong: drift.feedback.wrong,
        findings: drift.findings.into_iter().map(finding).collect(),
        canaries: None,
        active: false,
        first_sampled_unix_milliseconds: drift
            .sampled_unix_ms
            .map(|[first, _]| first.cast_signed()),
        last_sampled_unix_milliseconds: drift.sampled_unix_ms.map(|[_, last]| last.cast_signed()),
        recalibration: drift.recalibration.map(recalibration),
        error_groups: drift.groups.into_iter().map(group).collect(),
        resets: resets.into_iter().map(reset).collect(),
        history: course.into_iter().map(history_point).collect(),
        traffic: traffic.and_then(traffic_comparison),
        gallery_coverage: coverage.map(Coverage::share),
        items_added: coverage.map(Coverage::added),
        items_removed: coverage.map(Coverage::removed),
        far_bound: today.and_then(|today| today.far_bound),
        frr_bound: today.and_then(|today| today.frr_bound),
        left_out: round.as_deref().map(left_out),
        enrolled_lookalikes: lookalikes.iter().map(lookalike).collect(),
        reviews: drift.reviews.as_ref().map(review_share),
    }
}

fn review_share(found: &ReviewsInService) -> ReviewShare {
    let [(mated, _), (strangers, _)] = found.predicted.shares;
    let [lower, upper] = found.predicted.ends;
    ReviewShare {
        searches: found.counts.searches,
        reviewed: found.counts.reviewed,
        rate: found.share.map(|(share, _)| share),
        lower: found.share.map(|(_, interval)| interval.lower),
        upper: found.share.map(|(_, interval)| interval.upper),
        since_unix_milliseconds: found.counts.since_unix_ms.cast_signed(),
        calibrated_mated: mated,
        calibrated_non_mated: strangers,
        predicted_lower: lower,
        predicted_upper: upper,
        below_prediction: found.strays == Some(PredictionSide::Below),
        above_prediction: found.strays == Some(PredictionSide::Above),
    }
}

pub(in crate::server) fn left_out(round: &LeftOutRound) -> LeftOutCheck {
    let standing = round.standing;
    let LeftOutRate {
        searches,
        accepted,
        estimate,
        interval,
    } = standing.now;
    LeftOutCheck {
        searches,
        accepted,
        rate: estimate,
        lower: interval.lower,
        upper: interval.upper,
        limit: standing.limit(),
        above_limit: standing.exceeds(),
        first_rate: standing.first.map(|first| first.estimate),
        unix_milliseconds: round.unix_ms.cast_signed(),
        lookalikes: round.lookalikes.iter().map(lookalike).collect(),
    }
}

fn lookalike(found: &Similar) -> Lookalike {
    Lookalike {
        id: found.item.clone(),
        label: found.label.clone(),
        accepted_as: Some(other_item(&found.nearest)),
        accepted_as_count: u32::try_from(found.others).unwrap_or(u32::MAX),
        unix_milliseconds: found.unix_ms.cast_signed(),
    }
}

pub(in crate::server) fn other_item(other: &OtherItem) -> AcceptedItem {
    AcceptedItem {
        id: other.item.clone(),
        label: other.label.clone(),
        decision_score: other.decision_score,
    }
}

pub(in crate::server) fn reset(reset: Reset) -> DriftReset {
    DriftReset {
        unix_milliseconds: reset.unix_ms.cast_signed(),
        reason: reset.why,
        requested_by: reset.annotator,
    }
}

fn rate(rate: Rate) -> AuditedRate {
    AuditedRate {
        rate: rate.estimate,
        lower: rate.lower,
        upper: rate.upper,
        confidence: rate.confidence.get(),
        weighted_errors: rate.numerator,
        weighted_trials: rate.denominator,
        annotated_trials: rate.at_risk,
        annotated_errors: rate.errors,
    }
}

fn finding(finding: Found) -> Finding {
    Finding {
        subject: finding.subject.as_str().to_owned(),
        verdict: verdict(finding.verdict).into(),
        summary: finding.says,
        recommendation: finding.next,
    }
}

fn name(side: ErrorSide) -> String {
    FindingSubject::of(side).as_str().to_owned()
}

fn recalibration(found: Needs) -> Recalibration {
    Recalibration {
        rate: name(found.side),
        trials_needed: found.needed,
        trials_present: found.present,
        annotations_missing: found.labels_missing,
        since_unix_milliseconds: found.since_unix_ms.map(u64::cast_signed),
        unnamed_strangers: found.unnamed,
    }
}

fn group(found: SharedCause) -> ErrorGroup {
    ErrorGroup {
        rate: name(found.side),
        metadata_key: found.column.unwrap_or_default(),
        value: found.value,
        item_id: found.item.unwrap_or_default(),
        errors: found.errors,
        trials: found.trials,
        total_errors: found.all_errors,
        total_trials: found.all_trials,
        p_value: found.p_value,
    }
}

fn history_point(point: HistoryPoint) -> RateHistoryPoint {
    RateHistoryPoint {
        unix_milliseconds: point.unix_ms.cast_signed(),
        far: point.far.map(rate),
        frr: point.frr.map(rate),
    }
}

fn evidence(limit: Option<Limit>, found: Option<EProcess>, onset: Onset) -> Option<Evidence> {
    let (limit, found) = limit.zip(found)?;
    Some(Evidence {
        limit: limit.null.limit(),
        limit_is_target: limit.target,
        log_e_value: found.ln_e,
        log_e_value_alarm: found.ln_e_alarm,
        alarm: found.alarm_at.is_some(),
        observations: found.observations,
        alarm_unix_milliseconds: onset.alarm_unix_ms.map(u64::cast_signed),
        cusum_ratio: onset.cusum.map_or(0.0, |sum| sum.value / sum.limit),
        onset_unix_milliseconds: onset.rise_unix_ms.map(u64::cast_signed),
    })
}

/// Shares that are listed, besides those of conditions.
const SHARES_MAX: usize = 20;

fn traffic_comparison(found: TrafficInService) -> Option<TrafficComparison> {
    let TrafficAssessment {
        compared,
        labels: [mated, strangers],
        unwatched,
        ln_e,
        ln_e_alarm,
        alarm_at,
        shares,
        ..
    } = found.assessment?;
    let told = |(place, share): &(usize, ShareInService)| {
        *place < SHARES_MAX || share.feature == TrafficFeature::Condition
    };
    let shares = shares.into_iter().enumerate().filter(told);
    Some(TrafficComparison {
        compared_searches: compared,
        log_e_value: ln_e,
        log_e_value_alarm: ln_e_alarm,
        alarm: alarm_at.is_some(),
        alarm_unix_milliseconds: found.raised_unix_ms.map(u64::cast_signed),
        mated_labels: mated,
        stranger_labels: strangers,
        unwatched_shares: unwatched as u64,
        shares: shares.map(|(_, share)| traffic_share(share)).collect(),
    })
}

fn traffic_share(share: ShareInService) -> TrafficShare {
    TrafficShare {
        feature: share.feature.as_str().to_owned(),
        name: share.name,
        calibrated: share.calibrated,
        limit: share.limit,
        overall: share.overall,
        recent: share.lately,
        log_e_value: share.ln_e,
        accept_rate: share.accept_rate,
        accept_rate_elsewhere: share.accept_rate_elsewhere,
    }
}

fn verdict(verdict: How) -> Verdict {
    match verdict {
        How::Kept => Verdict::Kept,
        How::Note => Verdict::Note,
        How::Unknown => Verdict::Unknown,
        How::Warning => Verdict::Warning,
        How::Broken => Verdict::Broken,
    }
}
