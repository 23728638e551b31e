//! Canaries are searches whose truth is known in advance. They measure FAR and FRR directly, within limits.
//!
//! They detect faults that affect every search: of a model, of preprocessing, of an index, or from a gallery
//! that has grown. They cannot detect that traffic has changed, and mated canaries are usually easier than
//! the pictures that callers send.

use std::collections::BTreeSet;

use super::drift::{DriftVerdict, Finding, FindingSubject, Limit, PromisedLimits};
use super::sequential::{EProcess, of_outcomes};
use crate::rates::{Confidence, Interval, Proportion, percent};

/// The outcomes of one round, with one search for each canary: its label, and whether it was an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CanaryCounts {
    mated: Vec<(String, bool)>,
    non_mated: Vec<(String, bool)>,
}

impl CanaryCounts {
    /// Records one search for a picture of `label`. `mated`: the label is enrolled and was not left out.
    /// `accepted`: the best match was accepted. `right`: the best match has this label.
    pub fn take(&mut self, label: &str, mated: bool, accepted: bool, right: bool) {
        if mated {
            self.mated.push((label.to_owned(), !(accepted && right)));
        } else {
            self.non_mated.push((label.to_owned(), accepted));
        }
    }
}

/// A rate in one round of canaries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanaryRate {
    /// Number of canaries that can have this error.
    pub trials: u64,
    /// Number of these canaries that were in error.
    pub errors: u64,
    /// The interval of Clopper and Pearson; `None` if there are no trials.
    pub interval: Option<Interval>,
    /// The evidence that canaries fail more often than the limit allows. It uses the first picture of each
    /// label, because further pictures of a label are not independent trials. `None` without trials or limit.
    /// It is the evidence of one round: if nothing has changed, the next round repeats this one and adds no
    /// evidence.
    pub evidence: Option<EProcess>,
}

/// Both rates of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanaryRates {
    /// The share of non-mated canaries that were accepted.
    pub far: CanaryRate,
    /// The share of mated canaries that were rejected or matched to a wrong label.
    pub frr: CanaryRate,
}

impl CanaryRates {
    /// Computes both rates of a round and compares them with the limits of the operating point.
    #[must_use]
    pub fn new(counts: &CanaryCounts, limits: PromisedLimits) -> Self {
        Self {
            far: rate(&counts.non_mated, limits.far),
            frr: rate(&counts.mated, limits.frr),
        }
    }

    /// The findings as text. `changed` is the number of canaries whose outcome differs from the first round
    /// under this operating point.
    #[must_use]
    pub fn findings(&self, changed: usize) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, rate) in [("FAR", &self.far), ("FRR", &self.frr)] {
            let (Some(interval), Some(share)) = (
                rate.interval,
                Proportion::new(rate.errors, rate.trials).ok(),
            ) else {
                continue;
            };
            let alarm = rate.evidence.is_some_and(|found| found.alarm_at.is_some());
            findings.push(Finding {
                subject: FindingSubject::Canary,
                verdict: if alarm { DriftVerdict::Broken } else { DriftVerdict::Note },
                says: format!(
                    "Canaries: {name} {} ({} to {}), {} of {} in error{}.",
                    percent(share.estimate()),
                    percent(interval.lower),
                    percent(interval.upper),
                    rate.errors,
                    rate.trials,
                    if alarm { ": more often than the limit allows" } else { "" }
                ),
                next: if alarm {
                    "Model, preprocessing, index and gallery are the suspects: canaries know nothing of new traffic.".to_owned()
                } else {
                    String::new()
                },
            });
        }
        if 0 < changed {
            findings.push(Finding {
                subject: FindingSubject::Canary,
                verdict: DriftVerdict::Warning,
                says: format!(
                    "{changed} canaries come out otherwise than when this operating point began to decide."
                ),
                next: "The log names them. Has the gallery changed, the index been rebuilt, the model or the machine been replaced?".to_owned(),
            });
        }
        findings
    }
}

fn rate(outcomes: &[(String, bool)], limit: Option<Limit>) -> CanaryRate {
    let (trials, errors) = (
        outcomes.len() as u64,
        outcomes.iter().filter(|(_, error)| *error).count() as u64,
    );
    let seen = limit.filter(|_| 0 < trials);
    let mut labels = BTreeSet::new();
    let first = outcomes.iter().filter(|(label, _)| labels.insert(label));
    let first: Vec<bool> = first.map(|(_, error)| *error).collect();
    CanaryRate {
        trials,
        errors,
        interval: Proportion::new(errors, trials)
            .ok()
            .map(|share| Interval::clopper_pearson(share, Confidence::DISPLAY)),
        evidence: seen.map(|limit| of_outcomes(limit.null, first)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sequential::Null;
    use super::*;

    fn limits() -> PromisedLimits {
        let null = Null::new(0.1, 0.05).unwrap();
        let limit = Some(Limit { null, target: true });
        PromisedLimits {
            far: limit,
            far_grown: None,
            frr: limit,
        }
    }

    #[test]
    fn each_kind_has_its_own_errors_and_evidence() {
        let mut counts = CanaryCounts::default();
        for number in 0..40 {
            let label = number.to_string();
            counts.take(&label, true, number != 0, number != 1);
            counts.take(&label, false, number % 2 == 0, false);
        }
        let found = CanaryRates::new(&counts, limits());
        assert_eq!((found.frr.trials, found.frr.errors), (40, 2));
        assert_eq!((found.far.trials, found.far.errors), (40, 20));
        assert!(found.far.evidence.unwrap().alarm_at.is_some());
        assert_eq!(found.frr.evidence.unwrap().alarm_at, None);
        let said = found.findings(3);
        let verdicts: Vec<DriftVerdict> = said.iter().map(|finding| finding.verdict).collect();
        assert_eq!(
            verdicts,
            [
                DriftVerdict::Broken,
                DriftVerdict::Note,
                DriftVerdict::Warning
            ]
        );
    }

    #[test]
    fn pictures_of_one_label_are_one_piece_of_evidence_and_all_of_them_are_counted() {
        let mut counts = CanaryCounts::default();
        for _ in 0..100 {
            counts.take("one", false, true, false);
        }
        let far = CanaryRates::new(&counts, limits()).far;
        assert_eq!((far.trials, far.errors), (100, 100));
        let evidence = far.evidence.unwrap();
        assert_eq!((evidence.observations, evidence.alarm_at), (1, None));
    }

    #[test]
    fn without_canaries_of_a_kind_nothing_is_said_of_its_rate() {
        let mut counts = CanaryCounts::default();
        counts.take("label", true, true, true);
        let found = CanaryRates::new(&counts, limits());
        assert_eq!((found.far.interval, found.far.evidence), (None, None));
        assert_eq!(found.findings(0).len(), 1);
    }
}
