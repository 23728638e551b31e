//! Everything that the data show besides the threshold: pairs, consistency over labels, growth, remedies.
//!
//! An analysis changes no decision. Read it in this order: the whole analysis (here), the embeddings that it
//! uses, their pairs and pairwise rates, consistency over labels, remedies.

pub mod candidate_lists;
mod clusters;
pub mod comparison_set;
pub mod consistency;
pub mod copies;
pub mod crowded;
pub mod discovery;
pub mod disjoint;
pub mod dyadic;
pub mod embeddings;
mod error;
pub mod far_by_size;
mod input;
pub mod label_counts;
pub mod label_crowds;
pub mod label_groups;
pub mod label_rows;
pub mod linkage;
pub mod nearest;
pub mod nearest_strangers;
pub mod pair_counts;
pub mod pairs_view;
pub mod pairwise;
pub mod remedies;
pub mod remedy;
pub mod remedy_comparison;
pub mod remedy_measured;
pub mod remedy_verdict;
pub mod rng;
pub mod score_curve;
pub mod score_histogram;
pub mod shared_pictures;
pub mod strangers;
pub mod stress;
pub mod utility;

pub use error::AnalysisError;
pub use input::{AnalysisInput, AnalysisScope, BAND_POINTS, CandidateList, EmbeddedSet};

use serde::Serialize;

use crate::decision::Threshold;
use crate::menu::PriceOfProof;
use crate::policy::{CalibrationTarget, choose};
use crate::rates::Proportion;
use crate::recording::{Condition, LabelOutcome, Recording};
use crate::sweep::ThresholdSweep;
use far_by_size::FarBySize;
use nearest_strangers::{LISTED_MAX, NearestStranger, nearest_strangers};
use pairs_view::PairsView;
use pairwise::{PairProgress, Scan};
use remedies::Remedies;
use stress::Stress;

/// If more pairs than this are accepted, they are only counted.
const INTRUDERS_MAX: u64 = 30_000_000;

/// Everything that the data show besides the threshold.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// The rates of pairs of embeddings. They must not be mixed with the rates of searches.
    pub pairwise: Option<PairsView>,
    /// The enrolled labels with the worst results in searches, the worst first.
    pub worst_labels: Vec<LabelOutcome>,
    /// Items of different labels that would be accepted as each other, the most similar first. They are wrong
    /// labels, things enrolled twice, or real look-alikes.
    pub intruders: Vec<Intruder>,
    /// Number of all such pairs; only the most similar ones are listed.
    pub intruder_pairs: u64,
    /// Number of labels that have such an item.
    pub intruded_labels: u64,
    /// Number of all labels with misses or impostors; only the worst ones are listed.
    pub worst_labels_total: u64,
    /// The non-mated searches with the highest scores, the highest first.
    pub nearest_strangers: Vec<NearestStranger>,
    /// The rates in searches for each value of each metadata column.
    pub conditions: Vec<Condition>,
    /// The FAR per search by size of the gallery.
    pub growth: Option<FarBySize>,
    /// Remedies for labels that one threshold treats unequally.
    pub remedies: Option<Remedies>,
    /// The FAR if service brings only some kinds of the strangers that were tested.
    pub stress: Vec<Stress>,
    /// How much FRR the proof of a target FAR costs; `None` for any other target.
    pub price: Option<PriceOfProof>,
    /// The parts of the analysis that were not done, with reasons, as whole sentences.
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Intruded {
    listed: Vec<Intruder>,
    pairs: u64,
    labels: u64,
}

/// Two items of different labels whose similarity is at or above the threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Intruder {
    /// Id of the first item.
    pub item_a: String,
    /// Label of the first item.
    pub label_a: String,
    /// Id of the second item.
    pub item_b: String,
    /// Label of the second item.
    pub label_b: String,
    /// Their cosine similarity, in [-1, 1].
    pub score: f32,
}

/// The searches that a threshold was chosen from.
#[derive(Clone, Copy, Debug)]
pub struct JudgedSearches<'a> {
    /// The searches.
    pub recording: &'a Recording,
    /// The threshold.
    pub threshold: Threshold,
    /// The target that it was chosen for.
    pub target: CalibrationTarget,
    /// The seed that it was chosen with.
    pub seed: u64,
}

impl JudgedSearches<'_> {
    /// Analyses searches alone. Pairs, other sizes of the gallery and remedies are left out, because they need
    /// embeddings.
    #[must_use]
    pub fn analyse(&self) -> Analysis {
        let mut worst_labels = self.recording.by_label(self.threshold);
        worst_labels.retain(|one| 0 < one.missed + one.impostors);
        let worst_labels_total = worst_labels.len() as u64;
        worst_labels.truncate(LISTED_MAX);
        Analysis {
            pairwise: None,
            worst_labels,
            intruders: Vec::new(),
            intruder_pairs: 0,
            intruded_labels: 0,
            worst_labels_total,
            nearest_strangers: nearest_strangers(self.recording, self.threshold),
            conditions: self.recording.by_condition(self.threshold),
            growth: None,
            remedies: None,
            stress: Vec::new(),
            price: self.price(),
            notes: Vec::new(),
        }
    }

    fn price(&self) -> Option<PriceOfProof> {
        let CalibrationTarget::Far(target) = self.target else {
            return None;
        };
        let trials = self.recording.trials();
        let proven = choose(self.target, trials, self.seed).ok()?;
        // If the threshold was chosen for a tighter target or for each group separately, this price would be
        // that of another choice.
        if proven.threshold != self.threshold {
            return None;
        }
        let labels = proven.independent_trials()?;
        PriceOfProof::of(&ThresholdSweep::of(trials), self.threshold, labels, target)
    }
}

impl AnalysisInput<'_> {
    /// Makes the whole analysis. `watch` is called with the number of pairs done and their total; if it returns
    /// `false`, the work stops.
    ///
    /// # Errors
    /// Returns [`AnalysisError::Stopped`] if `watch` returned `false`.
    pub fn analyse(&self, watch: PairProgress<'_>) -> Result<Analysis, AnalysisError> {
        let mut notes = Vec::new();
        if self.on_similarity != self.threshold {
            notes.push(format!(
                "Pairs, look-alikes and FAR by size of the gallery are shown at {}, the threshold that the same rule gives for the plain similarity.",
                self.on_similarity
            ));
        }
        let scan = self.scan()?;
        let pairwise = if self.scope.pairs_max < scan.pairs() {
            notes.push(format!(
                "Pairs were not looked at: there are {}, more than the {} that were allowed.",
                scan.pairs(),
                self.scope.pairs_max
            ));
            None
        } else {
            PairsView::measure(&scan, self, &mut notes, watch)?
        };
        drop(scan);
        let intruded = self.intruders(&mut notes, watch)?;
        let stress = self.stress(&mut notes, watch)?;
        let searches = JudgedSearches {
            recording: self.recording,
            threshold: self.threshold,
            target: self.target,
            seed: self.seed,
        };
        Ok(Analysis {
            pairwise,
            intruders: intruded.listed,
            intruder_pairs: intruded.pairs,
            intruded_labels: intruded.labels,
            growth: FarBySize::measure(self, &mut notes),
            remedies: Remedies::measure(self, &mut notes),
            stress,
            notes,
            ..searches.analyse()
        })
    }

    fn scan(&self) -> Result<Scan<'_>, AnalysisError> {
        match self.queries {
            Some(queries) => Scan::cross(&queries.embeddings, &self.gallery.embeddings),
            None => Ok(Scan::all_pairs(&self.gallery.embeddings)),
        }
    }

    /// Always examines the pairs of the gallery itself, even if there are separate queries.
    fn intruders(
        &self,
        notes: &mut Vec<String>,
        watch: PairProgress<'_>,
    ) -> Result<Intruded, AnalysisError> {
        let scan = Scan::all_pairs(&self.gallery.embeddings);
        if self.scope.pairs_max < scan.pairs() {
            notes.push(
                "Items of the gallery that resemble those of other labels were not looked for: too many pairs."
                    .to_owned(),
            );
            return Ok(Intruded::default());
        }
        let curve = scan.curve(watch)?;
        let accepted = curve
            .far_at(self.on_similarity)
            .map_or(0, Proportion::events);
        if INTRUDERS_MAX < accepted {
            notes.push(format!(
                "{accepted} pairs of items of different labels would be accepted; they are not listed."
            ));
            return Ok(Intruded {
                pairs: accepted,
                ..Intruded::default()
            });
        }
        let dyads = scan.dyads(self.on_similarity, watch)?;
        let mut labels: Vec<u32> = dyads
            .accepted
            .iter()
            .flat_map(|pair| [pair.label_a, pair.label_b])
            .collect();
        labels.sort_unstable();
        labels.dedup();
        let pairs = scan.accepted_non_mated(self.on_similarity, LISTED_MAX, watch)?;
        let id = |row: usize| self.gallery.ids.get(row).cloned().unwrap_or_default();
        let label = |row: usize| self.gallery.label(row, self.names).to_owned();
        let intruders = pairs
            .iter()
            .map(|pair| Intruder {
                item_a: id(pair.row_a),
                label_a: label(pair.row_a),
                item_b: id(pair.row_b),
                label_b: label(pair.row_b),
                score: pair.score,
            })
            .collect();
        Ok(Intruded {
            listed: intruders,
            pairs: accepted,
            labels: labels.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::consistency::Band;
    use super::embeddings::Embeddings;
    use super::stress::StressKind;
    use super::*;
    use crate::certify::TargetFar;
    use crate::decision::Threshold;
    use crate::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
    use matchpoint_vector::Similarity;

    /// Unit vectors in the plane, given by angles in degrees.
    fn set(rows: &[(&str, u32, f32, &str)]) -> EmbeddedSet {
        let vectors = rows.iter().flat_map(|(_, _, degrees, _)| {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            [cosine, sine]
        });
        let labels: Vec<u32> = rows.iter().map(|row| row.1).collect();
        EmbeddedSet {
            ids: rows.iter().map(|row| row.0.to_owned()).collect(),
            conditions: rows
                .iter()
                .map(|row| BTreeMap::from([("hall".to_owned(), row.3.to_owned())]))
                .collect(),
            embeddings: Embeddings::normalise(2, vectors.collect(), labels.clone()).unwrap(),
            labels,
        }
    }

    fn search(
        probe: &str,
        label: &str,
        truth: TrialKind,
        found: (&str, &str, f32),
    ) -> RecordedSearch {
        RecordedSearch {
            probe: probe.to_owned(),
            label: label.to_owned(),
            truth,
            found: Some(RecordedMatch {
                item: found.0.to_owned(),
                label: found.1.to_owned(),
                score: Similarity::new(found.2.to_radians().cos()).unwrap(),
                adjusted: None,
                other: None,
            }),
            conditions: BTreeMap::new(),
        }
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "one gallery, looked at from all sides"
    )]
    fn what_is_listed_is_what_the_threshold_does() {
        let names = ["ash", "beech", "cedar", "none"].map(str::to_owned);
        // Two beeches are 4 degrees from an ash, and the threshold accepts up to 10 degrees.
        let gallery = set(&[
            ("a1", 0, 0.0, "north"),
            ("a2", 0, 30.0, "north"),
            ("b1", 1, 34.0, "south"),
            ("b2", 1, 26.0, "south"),
            ("c1", 2, 90.0, "south"),
        ]);
        let queries = set(&[
            ("q1", 0, 1.0, "x"),
            ("q2", 1, 60.0, "x"),
            ("q3", 3, 95.0, "x"),
        ]);
        let recording = Recording::new(vec![
            search("q1", "ash", TrialKind::Mated, ("a1", "ash", 1.0)),
            search("q2", "beech", TrialKind::Mated, ("b1", "beech", 26.0)),
            search("q3", "none", TrialKind::NeverEnrolled, ("c1", "cedar", 5.0)),
        ])
        .unwrap();
        let near = |degrees: f32, label: &str| {
            let score = Similarity::new(degrees.to_radians().cos()).unwrap();
            (score, label.to_owned())
        };
        let deep = [(
            "none".to_owned(),
            vec![near(5.0, "cedar"), near(61.0, "beech"), near(65.0, "ash")],
        )];
        let material = AnalysisInput {
            names: &names,
            gallery: &gallery,
            queries: Some(&queries),
            recording: &recording,
            deep: &deep,
            depth: 3,
            target: CalibrationTarget::Far(TargetFar::new(0.5, 0.5).unwrap()),
            threshold: Threshold::new(10.0_f32.to_radians().cos()).unwrap(),
            on_similarity: Threshold::new(10.0_f32.to_radians().cos()).unwrap(),
            seed: 0,
            scope: AnalysisScope {
                pairs_max: 1_000,
                band: Band::default(),
                band_points: BAND_POINTS,
            },
        };
        let found = material.analyse(&|_, _| true).unwrap();
        let intruders: Vec<(&str, &str)> = found
            .intruders
            .iter()
            .map(|pair| (pair.item_a.as_str(), pair.item_b.as_str()))
            .collect();
        assert_eq!(intruders, [("a2", "b1"), ("a2", "b2")]);
        assert_eq!(found.intruded_labels, 2);
        let worst: Vec<(&str, u64, u64)> = found
            .worst_labels
            .iter()
            .map(|one| (one.label.as_str(), one.missed, one.impostors))
            .collect();
        assert_eq!(worst, [("beech", 1, 0), ("cedar", 0, 1)]);

        let pairs = found.pairwise.unwrap();
        assert_eq!((pairs.mated_pairs, pairs.non_mated_pairs), (4, 11));
        let far = pairs.at_threshold.far.unwrap();
        assert_eq!((far.count.events(), far.count.trials()), (1, 11));
        let frr = pairs.at_threshold.frr.unwrap();
        assert_eq!((frr.count.events(), frr.count.trials()), (3, 4));
        let groups: Vec<(&str, u64)> = pairs
            .groups
            .iter()
            .map(|one| (one.value.as_str(), one.outcome.labels))
            .collect();
        assert_eq!(groups, [("north", 1), ("south", 2)]);
        a_part_of_the_gallery_accepts_less(&found.growth.unwrap());
        // Both beeches and the ash between them accept each other. The stranger is accepted in any case.
        let stress: Vec<(StressKind, f64)> = found
            .stress
            .iter()
            .map(|one| (one.kind, (one.far.estimate * 100.0).round()))
            .collect();
        assert_eq!(
            stress,
            [
                (StressKind::Enrolled, 60.0),
                (StressKind::TwiceTheGallery, 100.0)
            ]
        );
    }

    fn a_part_of_the_gallery_accepts_less(growth: &FarBySize) {
        // One of three labels accepts the stranger, so a part with one label does so in a third of the draws.
        let fpir: Vec<f64> = growth.measured.iter().map(|point| point.fpir).collect();
        assert_eq!(fpir.len(), 3);
        assert!((fpir[0] - 1.0 / 3.0).abs() < 1e-9 && (fpir[2] - 1.0).abs() < 1e-9);
        assert_eq!(growth.holds_until, None);
    }

    #[test]
    fn too_many_pairs_are_not_looked_at_and_a_note_says_so() {
        let names = ["ash", "beech"].map(str::to_owned);
        let gallery = set(&[
            ("a1", 0, 0.0, "n"),
            ("b1", 1, 90.0, "n"),
            ("b2", 1, 91.0, "n"),
        ]);
        let recording = Recording::new(vec![]).unwrap();
        let material = AnalysisInput {
            names: &names,
            gallery: &gallery,
            queries: None,
            recording: &recording,
            deep: &[],
            depth: 1,
            target: CalibrationTarget::EqualError,
            threshold: Threshold::ACCEPT_NOTHING,
            on_similarity: Threshold::ACCEPT_NOTHING,
            seed: 0,
            scope: AnalysisScope {
                pairs_max: 2,
                band: Band::default(),
                band_points: BAND_POINTS,
            },
        };
        let found = material.analyse(&|_, _| true).unwrap();
        assert!(found.pairwise.is_none() && found.intruders.is_empty());
        assert!(
            found
                .notes
                .iter()
                .any(|note| note.contains("Pairs were not looked at"))
        );
        let everything = AnalysisInput {
            scope: AnalysisScope {
                pairs_max: 3,
                ..material.scope
            },
            ..material
        };
        assert!(everything.analyse(&|_, _| true).unwrap().pairwise.is_some());
        let stopped = everything.analyse(&|_, _| false).unwrap_err();
        assert!(matches!(stopped, AnalysisError::Stopped));
    }
}
