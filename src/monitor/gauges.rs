//! Publishes the results of a monitor to Prometheus: totals of the journal, rates, evidence, and lost
//! decisions.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::audit_evaluation::Labelling;
use crate::journal::totals::{Committed, LostDecisions, TotalKey};
use crate::telemetry;
use matchpoint_calibration::monitoring::audit::AuditedRate;
use matchpoint_calibration::monitoring::drift::{DriftAssessment, Limit};
use matchpoint_calibration::monitoring::reviews::{PredictionSide, ReviewsInService};
use matchpoint_calibration::monitoring::sequential::EProcess;
use matchpoint_calibration::monitoring::traffic::{TrafficAssessment, TrafficFeature};

/// The operating point whose gauges are shown. Once another deployment has taken the place of this one, nothing
/// is shown any more.
#[derive(Debug, Default)]
pub(super) struct ShownPoint(Mutex<(Option<String>, bool)>);

impl ShownPoint {
    fn lock(&self) -> MutexGuard<'_, (Option<String>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `show` with the gauges of `point`, in place of those shown before.
    pub(super) fn show(&self, deployment: &str, point: Option<&str>, show: impl FnOnce()) {
        let mut showing = self.lock();
        if showing.1 {
            return;
        }
        if showing.0.as_deref() != point
            && let Some(earlier) = showing.0.take()
        {
            telemetry::audit_ended(deployment, &earlier);
        }
        showing.0 = point.map(ToOwned::to_owned);
        show();
    }

    pub(super) fn end(&self, deployment: &str) {
        let mut showing = self.lock();
        showing.1 = true;
        if let Some(shown) = showing.0.take() {
            telemetry::audit_ended(deployment, &shown);
        }
    }
}

/// The totals that were published before; `None` at opening.
pub(super) type PublishedTotals = Option<HashMap<TotalKey, u64>>;

/// Publishes what a commit changed. At opening, earlier operating points are left out, so that the number of
/// series is limited to those active while the server runs.
pub(super) fn publish(
    deployment: &str,
    committed: &Committed,
    active: Option<&str>,
    before: &mut PublishedTotals,
) {
    let opening = before.is_none();
    let before = before.get_or_insert_default();
    for total in &committed.changed {
        let point = total.key.operating_point.as_deref();
        let count = total.count.decisions;
        let earlier = before.insert(total.key.clone(), count).unwrap_or(0);
        if !opening || point.is_none() || point == active {
            telemetry::decisions_recorded(
                deployment,
                telemetry::RecordedDecisions {
                    operating_point: point,
                    source: total.key.source.as_str(),
                    decision: total.key.decision.as_str(),
                    stratum: total.key.stratum,
                    filtered: total.key.filtered,
                    count: (count, (!opening).then(|| count.saturating_sub(earlier))),
                },
            );
        }
    }
    telemetry::journal_changed(deployment, committed.rows, committed.bytes);
    telemetry::crowded_out(deployment, committed.crowded_out);
}

/// Publishes the decisions that were lost since the last call.
pub(super) fn publish_lost(deployment: &str, lost: LostDecisions, before: Option<LostDecisions>) {
    let reasons = |lost: LostDecisions| [lost.queue_full, lost.not_written, lost.images];
    let now = ["queue_full", "not_written", "image"]
        .into_iter()
        .zip(reasons(lost));
    let before = before.map_or([None; 3], |before| reasons(before).map(Some));
    for ((reason, total), earlier) in now.zip(before) {
        let since = earlier.map(|earlier| total.saturating_sub(earlier));
        telemetry::recording_lost(deployment, reason, total, since);
    }
}

/// Publishes the comparison of traffic with the calibration of an operating point.
pub(super) fn show_traffic(deployment: &str, point: &str, found: &TrafficAssessment) {
    telemetry::traffic_compared(
        deployment,
        point,
        telemetry::TrafficGauges {
            compared: found.compared,
            evidence: [found.ln_e, found.ln_e_alarm],
            raised: found.alarm_at.is_some(),
        },
    );
    for feature in TrafficFeature::ALL {
        // The share with the most evidence.
        let share = found.shares.iter().find(|share| share.feature == feature);
        if let Some(share) = share {
            let gauges = telemetry::TrafficShareGauges {
                calibrated: share.calibrated,
                limit: share.limit,
                recent: share.lately,
            };
            telemetry::traffic_share(deployment, point, feature.as_str(), gauges);
        }
    }
}

/// Publishes the assessment of an operating point.
pub(super) fn show(deployment: &str, point: &str, drift: &DriftAssessment, labelling: Labelling) {
    let gauges = |rate, found: Option<AuditedRate>| telemetry::AuditedRateGauges {
        rate,
        interval: found.map(|found| [found.estimate, found.lower, found.upper]),
        weighted: found.map(|found| [found.numerator, found.denominator]),
        limit: None,
        evidence: None,
    };
    let held = |limit: Option<Limit>| limit.map(|limit| (limit.null.limit(), limit.target));
    let evidence = |found: Option<EProcess>| {
        found.map(|found| (found.ln_e, found.ln_e_alarm, found.alarm_at.is_some()))
    };
    let far = telemetry::AuditedRateGauges {
        limit: held(drift.limits.far),
        evidence: evidence(drift.far_evidence),
        ..gauges("far", drift.rates.far)
    };
    let frr = telemetry::AuditedRateGauges {
        limit: held(drift.limits.frr),
        evidence: evidence(drift.frr_evidence),
        ..gauges("frr", drift.rates.frr)
    };
    for rate in [far, frr, gauges("fdr", drift.rates.false_discovery)] {
        telemetry::rate_audited(deployment, point, rate);
    }
    for (rate, onset) in [("far", drift.far_onset), ("frr", drift.frr_onset)] {
        let alarm = onset.alarm_unix_ms.map(Duration::from_millis);
        let cusum = onset.cusum.map(|sum| sum.value / sum.limit);
        telemetry::rate_onset(deployment, point, rate, alarm, cusum);
    }
    let counts = telemetry::AuditCounts {
        sampled: drift.rates.sampled,
        annotated: drift.rates.labelled,
        since_annotation: labelling.since,
        latest_annotation_ms: labelling.latest_ms,
        feedback: (drift.feedback.right, drift.feedback.wrong),
    };
    telemetry::audit_counted(deployment, point, counts);
    if let Some(reviews) = &drift.reviews {
        telemetry::reviews_shown(deployment, point, Some(review_gauges(reviews)));
    }
}

fn review_gauges(reviews: &ReviewsInService) -> telemetry::ReviewGauges {
    telemetry::ReviewGauges {
        share: reviews
            .share
            .map(|(share, interval)| [share, interval.lower, interval.upper]),
        predicted: reviews.predicted.ends,
        strays: match reviews.strays {
            None => 0.0,
            Some(PredictionSide::Below) => -1.0,
            Some(PredictionSide::Above) => 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_feature_is_taken_away_with_its_operating_point() {
        let features = TrafficFeature::ALL.map(TrafficFeature::as_str);
        assert_eq!(features, telemetry::TRAFFIC_FEATURE_VALUES);
    }
}
