//! What could be done about labels that fare unequally, measured on this material.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::Serialize;

use super::normalise::{CohortStatistics, Normalisation, PairStatistics, Side};
use super::remedy::{Candidate, Plan, Remedy, RemedyTrial, Rule};
use super::remedy_comparison::{Comparison, compare};
use super::sizes::target_far;
use super::{AnalysisError, Material, Set};
use crate::calibration::certify::TargetFar;
use crate::calibration::recording::{Search, Truth};
use crate::vector::Similarity;

/// Members of the cohort: a blind draw from the gallery.
const COHORT_MAX: usize = 1_000;
/// The nearest of the cohort, for AS-norm; a quarter of it at most.
const NEAREST_MAX: usize = 300;
/// Searches that the statistics are computed for; each takes one pass over the cohort.
const SEARCHES_MAX: usize = 20_000;
/// The FAR that remedies are compared at where the policy has none.
const FAR_WITHOUT_TARGET: f64 = 0.05;
/// Searches from which a label, or a group, is ranked.
const SEARCHES_MIN: u64 = 3;
/// Draws of labels for the uncertainty of differences.
const RESAMPLES: u32 = 2_000;
/// A metadata column with more values than this is no group.
const GROUPS_MAX: usize = 20;

/// Each remedy beside the one threshold, on labels that it was not fitted to.
#[derive(Clone, Debug, Serialize)]
pub struct Remedies {
    /// Members of the cohort that scores were normalised against: items of other labels.
    pub cohort: usize,
    /// The outcome.
    #[serde(flatten)]
    pub comparison: Comparison,
}

impl Remedies {
    /// Compares. `None`, with a note, where that cannot be done.
    pub(super) fn measure(material: &Material<'_>, notes: &mut Vec<String>) -> Option<Self> {
        let searches = material.recording.searches();
        if SEARCHES_MAX < searches.len() {
            notes.push(format!(
                "Remedies were not compared: {} searches, more than {SEARCHES_MAX}.",
                searches.len()
            ));
            return None;
        }
        let cohort = Cohort::drawn(material);
        let column = group_column(material.gallery);
        let trials: Result<Vec<RemedyTrial>, _> = searches
            .iter()
            .map(|search| cohort.trial(material, search, column))
            .collect();
        let compared = trials.and_then(|trials| compare(&trials, &plan(material, column)?));
        match compared {
            Ok(comparison) => Some(Self {
                cohort: cohort.rows.len(),
                comparison,
            }),
            Err(error) => {
                notes.push(format!("Remedies were not compared: {error}."));
                None
            }
        }
    }
}

fn plan(material: &Material<'_>, column: Option<&str>) -> Result<Plan, AnalysisError> {
    let mut remedies = vec![Remedy::ZNorm, Remedy::TNorm, Remedy::SNorm, Remedy::AsNorm];
    if column.is_some() {
        remedies.extend([Remedy::ShrunkGroups, Remedy::CertifiedGroups]);
    }
    let target = match target_far(material.target) {
        Some(target) => target,
        None => TargetFar::new(FAR_WITHOUT_TARGET, 0.95)?,
    };
    Ok(Plan {
        seed: material.seed,
        rule: Rule::Estimated(target),
        remedies,
        column: column.unwrap_or("none").to_owned(),
        searches_min: SEARCHES_MIN,
        resamples: RESAMPLES,
    })
}

/// The first metadata column of the items with a few values: what items are grouped by.
fn group_column(gallery: &Set) -> Option<&str> {
    let mut columns: BTreeMap<&str, std::collections::BTreeSet<&str>> = BTreeMap::new();
    for conditions in &gallery.conditions {
        for (column, value) in conditions {
            columns.entry(column).or_default().insert(value);
        }
    }
    let grouping = |values: &usize| (2..=GROUPS_MAX).contains(values);
    let mut columns = columns.into_iter();
    columns.find_map(|(column, values)| grouping(&values.len()).then_some(column))
}

struct Cohort {
    /// Rows of the gallery.
    rows: Vec<usize>,
    all: Normalisation,
    nearest: Normalisation,
    item_rows: BTreeMap<String, usize>,
    query_rows: BTreeMap<String, usize>,
}

impl Cohort {
    fn drawn(material: &Material<'_>) -> Self {
        let mut rows: Vec<usize> = (0..material.gallery.ids.len()).collect();
        super::draws::Draws::new(material.seed, 7).shuffle(&mut rows);
        rows.truncate(COHORT_MAX);
        let nearest = (rows.len() / 4).clamp(1, NEAREST_MAX);
        let by = |nearest| Normalisation::both_sides(nearest);
        let numbered = |set: &Set| set.ids.iter().cloned().zip(0..).collect();
        Self {
            all: by(None),
            nearest: by(u32::try_from(nearest).ok().and_then(NonZeroU32::new)),
            item_rows: numbered(material.gallery),
            query_rows: numbered(material.queries.unwrap_or(material.gallery)),
            rows,
        }
    }

    fn trial(
        &self,
        material: &Material<'_>,
        search: &Search,
        column: Option<&str>,
    ) -> Result<RemedyTrial, AnalysisError> {
        let candidate = match &search.found {
            None => None,
            Some(found) => {
                let (gallery, queries) = (material.gallery, material.queries);
                let item = self.item_rows.get(&found.item).copied();
                let probe = self.query_rows.get(&search.probe).copied();
                let (whole, nearest) = match (probe, item) {
                    (Some(probe), Some(item)) => {
                        let vectors = [
                            queries.unwrap_or(gallery).embeddings.row(probe),
                            gallery.embeddings.row(item),
                        ];
                        self.statistics(material, vectors, [&search.label, &found.label])?
                    }
                    _ => (None, None),
                };
                let conditions = item.and_then(|item| gallery.conditions.get(item));
                let group = column.and_then(|column| conditions?.get(column)).cloned();
                Some(Candidate {
                    score: found.score,
                    label_matches: found.label == search.label,
                    group,
                    whole_cohort: whole,
                    nearest_cohort: nearest,
                })
            }
        };
        Ok(RemedyTrial {
            label: search.label.clone(),
            probe: search.probe.clone(),
            mated: search.truth == Truth::Mated,
            candidate,
        })
    }

    /// Against members of neither label: a mate in the cohort would lower exactly the mates.
    fn statistics(
        &self,
        material: &Material<'_>,
        [probe, item]: [Option<&[f32]>; 2],
        without: [&str; 2],
    ) -> Result<(Option<PairStatistics>, Option<PairStatistics>), AnalysisError> {
        let (Some(probe), Some(item)) = (probe, item) else {
            return Ok((None, None));
        };
        let gallery = material.gallery;
        let strangers = || {
            let rows = self.rows.iter().copied();
            rows.filter(|&row| !without.contains(&gallery.label(row, material.names)))
        };
        let scores = |vector: &[f32]| -> Vec<Similarity> {
            strangers()
                .filter_map(|row| Similarity::between(vector, gallery.embeddings.row(row)?))
                .collect()
        };
        let (probe, item) = (scores(probe), scores(item));
        let by = |how: Normalisation| -> Result<PairStatistics, AnalysisError> {
            let side = |scores: &[Similarity]| -> Result<CohortStatistics, AnalysisError> {
                how.statistics(scores.to_vec())
            };
            Ok(PairStatistics {
                probe: side(&probe)?,
                item: side(&item)?,
            })
        };
        Ok((Some(by(self.all)?), Some(by(self.nearest)?)))
    }
}

impl Normalisation {
    /// By both sides, with the usual floor.
    fn both_sides(nearest: Option<NonZeroU32>) -> Self {
        // The floor is a constant within its range.
        Self::new(Side::Both, nearest, Self::DEVIATION_FLOOR).unwrap_or_else(|_| unreachable!())
    }
}
