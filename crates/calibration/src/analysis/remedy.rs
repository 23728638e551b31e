//! Remedies for error rates that are too high or uneven with similarity alone: scores that are normalised
//! against a cohort, or reduced by the best score of another label.
//!
//! A remedy changes no decision by itself. It is fitted, compared with the plain threshold on labels that it
//! was not fitted to, and used only if somebody chooses it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::error::AnalysisError;
use crate::CalibrationError;
use crate::binomial::{self, real};
use crate::certify::TargetFar;
use crate::decision::{Decision, Threshold};
use crate::margin::MarginFactor;
use crate::normalise::{Normalisation, PairStatistics, StatisticsSide};
use crate::refusal::Underpowered;
use crate::seeded_hash::seeded_hash;
use matchpoint_vector::Similarity;

/// AS-norm uses at most this many nearest members of the cohort, and at most a quarter of the cohort.
const NEAREST_MAX: usize = 300;

/// The best candidate of a search, by plain similarity for every remedy.
#[derive(Clone, Debug, PartialEq)]
pub struct RemedyCandidate {
    /// Its similarity to the probe.
    pub score: Similarity,
    /// The best similarity to an item of another label; `None` if there is none.
    pub other: Option<Similarity>,
    /// Whether it has the label of the probe; ignored in a non-mated search.
    pub label_matches: bool,
    /// Statistics of scores against the whole cohort, which Z-, T- and S-norm need; `None` if they are unknown.
    pub whole_cohort: Option<PairStatistics>,
    /// Statistics of scores against the nearest members of the cohort, which AS-norm needs; `None` if they are
    /// unknown.
    pub nearest_cohort: Option<PairStatistics>,
}

/// One search with known truth.
#[derive(Clone, Debug, PartialEq)]
pub struct RemedyTrial {
    /// The label of the probe.
    pub label: String,
    /// The id of the probe. It occurs at most once among the mated and once among the non-mated searches.
    pub probe: String,
    /// Whether the label of the probe is enrolled and was searched.
    pub mated: bool,
    /// The best candidate; `None` if nothing was found, which is a reject.
    pub candidate: Option<RemedyCandidate>,
}

/// A way to compute the decision score of a search from its best candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// No remedy: the plain similarity.
    None,
    /// Z-norm: normalised by the item's scores against the cohort.
    ZNorm,
    /// T-norm: normalised by the probe's scores against the cohort.
    TNorm,
    /// S-norm: the mean of Z-norm and T-norm.
    SNorm,
    /// AS-norm: like S-norm, but only with the nearest members of the cohort.
    AsNorm,
    /// The similarity minus a multiple of the best similarity to another label.
    Margin,
    /// Both: the margin, in units of AS-norm.
    AsNormMargin,
}

impl Remedy {
    /// The scores among which the searches of a calibration can decide, the simplest first.
    pub const MEASURED: [Self; 4] = [Self::None, Self::Margin, Self::AsNorm, Self::AsNormMargin];

    /// The name used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "one threshold",
            Self::ZNorm => "Z-norm",
            Self::TNorm => "T-norm",
            Self::SNorm => "S-norm",
            Self::AsNorm => "AS-norm",
            Self::Margin => "margin",
            Self::AsNormMargin => "AS-norm with margin",
        }
    }

    /// The normalisation of this remedy for a cohort of this size; `None` if it does not normalise.
    #[must_use]
    pub fn normalisation(self, cohort: usize) -> Option<Normalisation> {
        let (side, nearest) = match self {
            Self::None | Self::Margin => return None,
            Self::ZNorm => (StatisticsSide::Item, None),
            Self::TNorm => (StatisticsSide::Probe, None),
            Self::SNorm => (StatisticsSide::Both, None),
            Self::AsNorm | Self::AsNormMargin => {
                let nearest = (cohort / 4).clamp(1, NEAREST_MAX);
                (
                    StatisticsSide::Both,
                    u32::try_from(nearest).ok().and_then(NonZeroU32::new),
                )
            }
        };
        // The floor is a constant within the allowed range.
        Normalisation::new(side, nearest, Normalisation::DEVIATION_FLOOR).ok()
    }

    /// Whether it uses the best similarity to another label.
    #[must_use]
    pub fn takes_margin(self) -> bool {
        matches!(self, Self::Margin | Self::AsNormMargin)
    }

    /// Whether the candidate has the statistics that the remedy needs. Another label is not required: without
    /// one there is no score, and the search is rejected.
    fn is_given(self, candidate: &RemedyCandidate) -> bool {
        match self {
            Self::None | Self::Margin => true,
            Self::ZNorm | Self::TNorm | Self::SNorm => candidate.whole_cohort.is_some(),
            Self::AsNorm | Self::AsNormMargin => candidate.nearest_cohort.is_some(),
        }
    }

    /// `None` if the candidate lacks the statistics or another label.
    fn score(self, candidate: &RemedyCandidate, factor: MarginFactor) -> Option<Similarity> {
        let (score, both) = (candidate.score, StatisticsSide::Both);
        let (side, statistics) = match self {
            Self::None => return Some(score),
            Self::Margin => return Some(factor.score(score, candidate.other?)),
            Self::AsNormMargin => {
                let statistics = candidate.nearest_cohort?;
                return Some(both.normalise_margin(score, candidate.other?, factor, statistics));
            }
            Self::ZNorm => (StatisticsSide::Item, candidate.whole_cohort),
            Self::TNorm => (StatisticsSide::Probe, candidate.whole_cohort),
            Self::SNorm => (both, candidate.whole_cohort),
            Self::AsNorm => (both, candidate.nearest_cohort),
        };
        Some(side.normalise(score, statistics?))
    }
}

/// How the threshold of each remedy is chosen; the same for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// As [`crate::certify::certify`] does: from one search for each label, with a certified target.
    Certified(TargetFar),
    /// The lowest threshold at which the accepted share of strangers, over all searches, is at most the target
    /// FAR. Nothing is certified, so the confidence of the target is not used.
    Estimated(TargetFar),
}

impl Rule {
    /// The target FAR of the thresholds.
    #[must_use]
    pub fn target(self) -> TargetFar {
        match self {
            Self::Certified(target) | Self::Estimated(target) => target,
        }
    }
}

/// Which remedies are compared, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RemedyPlan {
    /// Seed for splitting the labels and for every other random choice.
    pub seed: u64,
    /// How thresholds are chosen.
    pub rule: Rule,
    /// The remedies; the plain threshold is always measured as well.
    pub remedies: Vec<Remedy>,
    /// The multiple of the best similarity to another label that margins subtract.
    pub margin_factor: MarginFactor,
    /// The number of mated searches that a label needs to be ranked.
    pub searches_min: u64,
    /// Number of bootstrap samples of labels, in [200, 100000]; usually 2000.
    pub resamples: u32,
}

/// A remedy with its threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitted {
    /// The remedy.
    pub remedy: Remedy,
    /// The multiple of the best similarity to another label that is subtracted, by the remedies that use it.
    #[serde(skip)]
    pub margin_factor: MarginFactor,
    /// The threshold on the scale of the remedy's scores.
    pub threshold: Threshold,
}

impl Fitted {
    /// Decides a search by its best candidate. A candidate without the statistics that the remedy needs is
    /// rejected.
    #[must_use]
    pub fn decide(&self, best: Option<&RemedyCandidate>) -> Decision {
        self.threshold
            .decide(best.and_then(|candidate| self.remedy.score(candidate, self.margin_factor)))
    }
}

/// Chooses the threshold of a remedy from all of `trials`, for use in service once the remedy is preferred.
///
/// # Errors
/// Returns an error if the trials lack the statistics that the remedy needs, if there are no strangers, or if
/// there are too few labels of strangers for the target.
pub fn fit(
    trials: &[RemedyTrial],
    remedy: Remedy,
    plan: &RemedyPlan,
) -> Result<Fitted, AnalysisError> {
    refuse_without_input(trials, remedy)?;
    let trials: Vec<&RemedyTrial> = trials.iter().collect();
    fit_by(&trials, remedy, plan.rule, plan)
}

pub(super) fn fit_by(
    trials: &[&RemedyTrial],
    remedy: Remedy,
    rule: Rule,
    plan: &RemedyPlan,
) -> Result<Fitted, AnalysisError> {
    let chosen_on = strangers(trials, rule, plan.seed);
    let allowed = allowed(rule, chosen_on.len() as u64)?;
    let margin_factor = plan.margin_factor;
    let scores = chosen_on
        .iter()
        .filter_map(|trial| remedy.score(trial.candidate.as_ref()?, margin_factor));
    Ok(Fitted {
        remedy,
        margin_factor,
        threshold: lowest(scores.collect(), allowed),
    })
}

/// The non-mated searches that a rule uses.
fn strangers<'a>(trials: &[&'a RemedyTrial], rule: Rule, seed: u64) -> Vec<&'a RemedyTrial> {
    let all = trials.iter().copied().filter(|trial| !trial.mated);
    match rule {
        Rule::Estimated(_) => all.collect(),
        Rule::Certified(_) => {
            let mut drawn: BTreeMap<&str, (u64, &str, &RemedyTrial)> = BTreeMap::new();
            for trial in all {
                let hash = seeded_number(seed, &["probe", &trial.label, &trial.probe]);
                let entry = (hash, trial.probe.as_str(), trial);
                let slot = drawn.entry(&trial.label).or_insert(entry);
                if (entry.0, entry.1) < (slot.0, slot.1) {
                    *slot = entry;
                }
            }
            drawn.into_values().map(|(_, _, trial)| trial).collect()
        }
    }
}

/// The highest number of strangers that a rule accepts among `trials` of them.
fn allowed(rule: Rule, trials: u64) -> Result<u64, AnalysisError> {
    let (target, certified) = match rule {
        Rule::Certified(target) => (target, target.accepts_allowed(trials)),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most half of a count, never negative"
        )]
        // The small addition keeps a product that should be whole, such as 0.07 * 100, from being rounded down.
        Rule::Estimated(target) => {
            let share = target.far() * real(trials) * (1.0 + 1e-12);
            (target, (0 < trials).then_some(share as u64))
        }
    };
    let confidence = target.confidence();
    certified.ok_or_else(|| {
        CalibrationError::Underpowered(Underpowered {
            independent_trials: trials,
            scores: 1,
            needed: target.trials_needed(),
            far: target.far(),
            growth: None,
            confidence: confidence.get(),
            best_supported_far: binomial::upper_bound(0, trials, confidence.delta()),
        })
        .into()
    })
}

/// The lowest threshold at which at most `allowed` strangers are accepted.
fn lowest(mut scores: Vec<Similarity>, allowed: u64) -> Threshold {
    scores.sort_unstable_by_key(|&score| Reverse(score));
    let first_too_many = usize::try_from(allowed)
        .ok()
        .and_then(|index| scores.get(index));
    first_too_many.map_or(Threshold::ACCEPT_ANYTHING_FOUND, |&score| {
        Threshold::just_above(score)
    })
}

pub(super) fn refuse_without_input(
    trials: &[RemedyTrial],
    remedy: Remedy,
) -> Result<(), AnalysisError> {
    let lacking = trials.iter().find(|trial| {
        let found = trial.candidate.as_ref();
        found.is_some_and(|candidate| !remedy.is_given(candidate))
    });
    lacking.map_or(Ok(()), |trial| {
        Err(AnalysisError::RemedyInput {
            remedy: remedy.as_str(),
            probe: trial.probe.clone(),
        })
    })
}

/// A pseudo-random number that depends only on the texts and the seed.
pub(super) fn seeded_number(seed: u64, texts: &[&str]) -> u64 {
    let digest = seeded_hash(seed, texts);
    digest.first_chunk().copied().map_or(0, u64::from_le_bytes)
}
