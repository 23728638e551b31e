//! Metrics of shadow deployments.

use metrics::{counter, gauge};

use super::metric;

/// The labels of a shadow deployment.
#[derive(Clone, Copy, Debug)]
pub struct ShadowLabels<'a> {
    /// The deployment that it is compared with.
    pub deployment: &'a str,
    /// Its model's name.
    pub model: &'a str,
    /// The model's fingerprint.
    pub fingerprint: &'a str,
    /// Which of the model's precisions.
    pub precision: &'a str,
    /// The execution provider really in use.
    pub execution_provider: &'a str,
    /// Its active operating point; `None` without a valid one.
    pub operating_point: Option<&'a str>,
}

fn shadow_info(labels: ShadowLabels<'_>) -> metrics::Gauge {
    gauge!(metric::SHADOW_INFO, "deployment" => labels.deployment.to_owned(),
        "model" => labels.model.to_owned(),
        "fingerprint" => labels.fingerprint.to_owned(),
        "precision" => labels.precision.to_owned(),
        "execution_provider" => labels.execution_provider.to_owned(),
        "operating_point" => labels.operating_point.unwrap_or("none").to_owned())
}

fn shadow_decisions(
    deployment: &str,
    [live, shadow, label_agreement]: [&'static str; 3],
) -> metrics::Counter {
    counter!(metric::SHADOW_DECISIONS, "deployment" => deployment.to_owned(),
        "live" => live, "shadow" => shadow, "label_agreement" => label_agreement)
}

fn shadow_skips(deployment: &str, reason: &'static str) -> metrics::Counter {
    counter!(metric::SHADOW_SKIPPED, "deployment" => deployment.to_owned(), "reason" => reason)
}

/// Announces a shadow deployment, with every outcome (live, shadow, label agreement) and reason that there can be.
pub fn shadow_started(
    labels: ShadowLabels<'_>,
    outcomes: impl Iterator<Item = [&'static str; 3]>,
    reasons: &[&'static str],
) {
    shadow_info(labels).set(1.0);
    for outcome in outcomes {
        shadow_decisions(labels.deployment, outcome).increment(0);
    }
    for reason in reasons {
        shadow_skips(labels.deployment, reason).increment(0);
    }
}

/// A shadow deployment is closed.
pub fn shadow_ended(labels: ShadowLabels<'_>) {
    shadow_info(labels).set(0.0);
}

/// Counts a query that was also sent to a shadow deployment: the two decisions, and whether the labels
/// agree.
pub fn shadow_compared(deployment: &str, outcome: [&'static str; 3]) {
    shadow_decisions(deployment, outcome).increment(1);
}

/// Counts a query that was sampled for a shadow deployment but not compared.
pub fn shadow_skipped(deployment: &str, reason: &'static str) {
    shadow_skips(deployment, reason).increment(1);
}
