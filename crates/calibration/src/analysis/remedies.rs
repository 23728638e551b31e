//! Remedies for labels that one threshold treats unequally, measured on the data of the calibration.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::error::AnalysisError;
use super::input::{AnalysisInput, EmbeddedSet};
use super::remedy::{Remedy, RemedyCandidate, RemedyPlan, RemedyTrial, Rule};
use super::remedy_comparison::{RemedyComparison, compare};
use crate::adjustment::ComparedPair;
use crate::binomial::real;
use crate::certify::TargetFar;
use crate::cohort::Cohort;
use crate::margin::MarginFactor;
use crate::normalise::PairStatistics;
use crate::policy::CalibrationTarget;
use crate::recording::{RecordedSearch, TrialKind};

/// Cohort statistics are computed for at most this many searches; each needs one pass over the cohort.
const SEARCHES_MAX: usize = 20_000;
/// The FAR at which remedies are compared if the policy has no target FAR.
const FAR_WITHOUT_TARGET: f64 = 0.05;
/// A label needs this many searches to be ranked.
const SEARCHES_MIN: u64 = 3;
/// Number of bootstrap samples of labels for the uncertainty of differences.
const RESAMPLES: u32 = 2_000;

/// Each remedy compared with the plain threshold, on labels that it was not fitted to.
#[derive(Clone, Debug, Serialize)]
pub struct Remedies {
    /// Size of the cohort that scores are normalised against, which consists of items of other labels.
    pub cohort: usize,
    /// The comparison of all remedies.
    #[serde(flatten)]
    pub comparison: RemedyComparison,
}

impl Remedies {
    /// Compares the remedies. `None`, with a note, if that is impossible.
    pub(super) fn measure(material: &AnalysisInput<'_>, notes: &mut Vec<String>) -> Option<Self> {
        let searches = material.recording.searches();
        if SEARCHES_MAX < searches.len() {
            notes.push(format!(
                "Remedies were not compared: {} searches, more than {SEARCHES_MAX}.",
                searches.len()
            ));
            return None;
        }
        let rows = SearchVectors::of(material);
        let compared = sampled_cohort(material).and_then(|cohort| {
            let trials = searches.iter().map(|search| {
                let compared = rows.compared(material, search);
                remedy_trial(search, compared.as_ref(), &cohort)
            });
            let trials = trials.collect::<Result<Vec<_>, _>>()?;
            let plan = plan(material.target, stranger_labels(searches), material.seed)?;
            Ok((cohort.members(), compare(&trials, &plan)?))
        });
        match compared {
            Ok((cohort, comparison)) => Some(Self { cohort, comparison }),
            Err(error) => {
                notes.push(format!("Remedies were not compared: {error}."));
                None
            }
        }
    }
}

fn sampled_cohort(material: &AnalysisInput<'_>) -> Result<Cohort, AnalysisError> {
    let set = material.gallery;
    let items = set.ids.iter().enumerate().filter_map(|(row, id)| {
        let vector = set.embeddings.row(row)?;
        Some((id.as_str(), set.label(row, material.names), vector))
    });
    Ok(Cohort::sampled(items, material.seed)?)
}

/// The number of labels of strangers among the searches.
fn stranger_labels(searches: &[RecordedSearch]) -> u64 {
    let strangers = searches
        .iter()
        .filter(|search| search.truth != TrialKind::Mated);
    let labels: BTreeSet<&str> = strangers.map(|search| search.label.as_str()).collect();
    labels.len() as u64
}

/// The remedies to compare if the threshold is chosen from one search for each of `stranger_labels` labels of
/// strangers. They are compared at the FAR that such a threshold has on these strangers.
///
/// # Errors
/// Never in practice, because the FAR that replaces a missing target is valid.
fn plan(
    target: CalibrationTarget,
    stranger_labels: u64,
    seed: u64,
) -> Result<RemedyPlan, AnalysisError> {
    let asked = match target.far() {
        Some(target) => target,
        None => TargetFar::new(FAR_WITHOUT_TARGET, 0.95)?,
    };
    let allowed = match target {
        CalibrationTarget::Far(target) => target.accepts_allowed(stranger_labels),
        CalibrationTarget::FarEstimated(_)
        | CalibrationTarget::Frr(_)
        | CalibrationTarget::EqualError
        | CalibrationTarget::Cost(_) => None,
    };
    // A certified threshold accepts a lower share of these strangers than its target: `allowed` of them, plus
    // half of the step to the next count.
    let certified = allowed.map(|allowed| (real(allowed) + 0.5) / real(stranger_labels));
    let far = certified.map_or(asked.far(), |share| share.min(asked.far()));
    Ok(RemedyPlan {
        seed,
        rule: Rule::Estimated(TargetFar::new(far, asked.confidence().get())?),
        remedies: vec![
            Remedy::ZNorm,
            Remedy::TNorm,
            Remedy::SNorm,
            Remedy::AsNorm,
            Remedy::Margin,
            Remedy::AsNormMargin,
        ],
        margin_factor: MarginFactor::DEFAULT,
        searches_min: SEARCHES_MIN,
        resamples: RESAMPLES,
    })
}

/// Converts a search into the form in which remedies are evaluated. `compared` has the vectors of the probe and
/// of the item that it found.
///
/// # Errors
/// Returns an error if the vectors have another dimension than the cohort, or if the cohort has no member of
/// another label.
fn remedy_trial(
    search: &RecordedSearch,
    compared: Option<&ComparedPair<'_>>,
    cohort: &Cohort,
) -> Result<RemedyTrial, AnalysisError> {
    let candidate = match (&search.found, compared) {
        (None, _) => None,
        (Some(found), None) => Some(RemedyCandidate {
            score: found.score,
            other: found.other,
            label_matches: found.label == search.label,
            whole_cohort: None,
            nearest_cohort: None,
        }),
        (Some(found), Some(compared)) => {
            let without: Vec<&str> = compared
                .label
                .into_iter()
                .chain(compared.left_out)
                .collect();
            let probe = cohort.scores(compared.probe, &without)?;
            let item = cohort.scores(compared.item, &without)?;
            let by = |remedy: Remedy| -> Result<Option<PairStatistics>, AnalysisError> {
                let Some(how) = remedy.normalisation(cohort.members()) else {
                    return Ok(None);
                };
                Ok(Some(PairStatistics {
                    probe: how.statistics(probe.clone())?,
                    item: how.statistics(item.clone())?,
                }))
            };
            Some(RemedyCandidate {
                score: found.score,
                other: compared.other,
                label_matches: found.label == search.label,
                whole_cohort: by(Remedy::SNorm)?,
                nearest_cohort: by(Remedy::AsNorm)?,
            })
        }
    };
    Ok(RemedyTrial {
        label: search.label.clone(),
        probe: search.probe.clone(),
        mated: search.truth == TrialKind::Mated,
        candidate,
    })
}

/// Finds the vectors of a search.
struct SearchVectors {
    items: BTreeMap<String, usize>,
    probes: BTreeMap<String, usize>,
}

impl SearchVectors {
    fn of(material: &AnalysisInput<'_>) -> Self {
        let numbered = |set: &EmbeddedSet| set.ids.iter().cloned().zip(0..).collect();
        Self {
            items: numbered(material.gallery),
            probes: numbered(material.queries.unwrap_or(material.gallery)),
        }
    }

    fn compared<'a>(
        &self,
        material: &AnalysisInput<'a>,
        search: &'a RecordedSearch,
    ) -> Option<ComparedPair<'a>> {
        let (gallery, found) = (material.gallery, search.found.as_ref()?);
        let item = *self.items.get(&found.item)?;
        let probe = *self.probes.get(&search.probe)?;
        let probes = material.queries.unwrap_or(gallery);
        Some(ComparedPair {
            score: found.score,
            other: found.other,
            probe: probes.embeddings.row(probe)?,
            item: gallery.embeddings.row(item)?,
            label: Some(&found.label),
            left_out: (search.truth == TrialKind::LeftOut).then_some(search.label.as_str()),
        })
    }
}
