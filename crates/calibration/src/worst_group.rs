//! Certifies a FAR for each group of strangers, and not only for all strangers together.
//!
//! A certificate for a mixture says nothing about its parts: if one stranger in four belongs to the group that
//! is accepted most, the FAR of that group can be four times the target. So each group is certified separately,
//! with one search for each of its labels, and the highest of the thresholds is used. No correction for the
//! number of groups is needed: the group that truly needs the highest threshold exceeds the target only if its
//! own certificate fails, and if it does not exceed it, no group does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::certify::TargetFar;
use super::decision::Threshold;
use super::likeness::without_spelling;
use super::policy::{CalibrationTarget, Choice, ChoiceBasis, Strength, choose};
use super::rates::recorded;
use super::recording::{RecordedSearch, TrialKind};
use super::refusal::{GroupShortage, GroupsUnderpowered};
use super::sweep::ThresholdSweep;
use super::trials::{NonMatedSearch, Trials};

/// The group of each search for a stranger: its value in a metadata column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrangerGroups {
    column: String,
    of_probe: BTreeMap<String, String>,
}

/// A target FAR that is certified for each value of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorstGroup {
    /// The metadata column.
    pub column: String,
    /// Its values among the strangers, in alphabetical order.
    pub groups: Vec<GroupCertificate>,
    /// The FRR at the threshold on these searches; `None` without mated searches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frr: Option<f64>,
    /// The FRR at the threshold that all strangers together would have certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frr_of_all: Option<f64>,
}

/// The certificate of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCertificate {
    /// The value of the column.
    pub value: String,
    /// Number of labels of strangers in the group, with one search each.
    pub labels: u64,
    /// The lowest threshold that they certify.
    pub threshold: Threshold,
    /// The upper bound on the group's FAR at that threshold.
    pub far_bound: f64,
}

impl StrangerGroups {
    /// Reads the group of each search for a stranger from its metadata.
    ///
    /// # Errors
    /// Returns an error if a search for a stranger has no value in the column, because nothing could be
    /// promised for it.
    pub fn of(searches: &[RecordedSearch], column: &str) -> Result<Self, CalibrationError> {
        let strangers = || {
            searches
                .iter()
                .filter(|search| search.truth != TrialKind::Mated)
        };
        let of_probe: BTreeMap<String, String> = strangers()
            .filter_map(|search| {
                let value = search.conditions.get(column)?;
                (!value.is_empty()).then(|| (search.probe.clone(), value.clone()))
            })
            .collect();
        let (known, all) = (of_probe.len() as u64, strangers().count() as u64);
        if known < all {
            return Err(CalibrationError::GroupUnknown {
                column: column.to_owned(),
                missing: all - known,
                strangers: all,
            });
        }
        Ok(Self {
            column: column.to_owned(),
            of_probe,
        })
    }

    /// The searches of each group.
    fn split(&self, trials: &Trials) -> Result<BTreeMap<&str, Trials>, CalibrationError> {
        let mut groups: BTreeMap<&str, Vec<NonMatedSearch>> = BTreeMap::new();
        for value in self.of_probe.values() {
            groups.entry(value).or_default();
        }
        for search in trials.non_mated() {
            if let Some(value) = self.of_probe.get(&search.probe) {
                groups.entry(value).or_default().push(search.clone());
            }
        }
        let groups = groups.into_iter();
        groups
            .map(|(value, searches)| {
                let searches = Trials::new(Vec::new(), searches)?;
                Ok((value, searches.with_repeats(trials.repeats().clone())))
            })
            .collect()
    }

    /// The lowest threshold at which each group certifies the target.
    ///
    /// # Errors
    /// Returns an error that names the groups with too few labels, and an error if there are no strangers.
    pub fn choose(
        &self,
        target: TargetFar,
        trials: &Trials,
        seed: u64,
    ) -> Result<(Choice, WorstGroup), CalibrationError> {
        let groups = self.split(trials)?;
        let asked = CalibrationTarget::Far(target);
        let (mut certified, mut short) = (Vec::new(), Vec::new());
        for (value, searches) in &groups {
            match choose(asked, searches, seed) {
                Ok(choice) => certified.push((*value, choice)),
                Err(CalibrationError::Underpowered(refused)) => short.push(GroupShortage {
                    group: (*value).to_owned(),
                    labels: refused.independent_trials,
                    best_supported_far: refused.best_supported_far,
                }),
                Err(error) => return Err(error),
            }
        }
        let highest = certified.iter().max_by_key(|(_, choice)| choice.threshold);
        let Some((_, highest)) = highest.filter(|_| short.is_empty()) else {
            return Err(GroupsUnderpowered {
                column: self.column.clone(),
                far: target.far(),
                growth: None,
                confidence: target.confidence().get(),
                needed: target.trials_needed(),
                short,
            }
            .into());
        };
        let all = choose(asked, trials, seed).ok();
        let sweep = ThresholdSweep::of(trials);
        let frr_at = |threshold| sweep.rates(threshold).map(|rates| recorded(rates.frr));
        let worst = WorstGroup {
            column: self.column.clone(),
            frr: frr_at(highest.threshold),
            frr_of_all: all.and_then(|all| frr_at(all.threshold)),
            groups: certified
                .iter()
                .filter_map(|(value, choice)| certificate(value, choice))
                .collect(),
        };
        let mut choice = highest.clone();
        let mut standings = certified.iter().map(|(_, choice)| choice.standing);
        if standings.any(|standing| standing == Strength::Estimated) {
            choice.standing = Strength::Estimated;
        }
        if let ChoiceBasis::Far(found) = &mut choice.basis {
            let bounds = worst.groups.iter().map(|group| group.far_bound);
            found.far_bound = bounds.fold(found.far_bound, f64::max);
        }
        choice.assumptions.push(format!(
            "The FAR is that of each group of strangers by itself ({}: {}), and so of any mixture of \
             them. Of strangers of another group nothing is said.",
            self.column,
            groups.keys().copied().collect::<Vec<_>>().join(", ")
        ));
        Ok((choice, worst))
    }
}

fn certificate(value: &str, choice: &Choice) -> Option<GroupCertificate> {
    Some(GroupCertificate {
        value: value.to_owned(),
        labels: choice.independent_trials()?,
        threshold: choice.threshold,
        far_bound: choice.far_bound()?,
    })
}

impl WorstGroup {
    /// Whether the certificate speaks of a search whose caller states these conditions: if they have the column, in
    /// whatever spelling, it has to be one of the groups. A search without it counts as of one of the groups, by the
    /// assumption that all promises rest on: live searches are like those of the calibration.
    #[must_use]
    pub fn covers(&self, conditions: &BTreeMap<String, String>) -> bool {
        let is_column = |key: &str| {
            key == self.column || without_spelling(key) == without_spelling(&self.column)
        };
        let mut stated = conditions.iter().filter(|(key, _)| is_column(key));
        stated.all(|(_, value)| self.groups.iter().any(|group| group.value == *value))
    }

    /// Describes the groups in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let values: BTreeSet<&str> = self
            .groups
            .iter()
            .map(|group| group.value.as_str())
            .collect();
        let values: Vec<&str> = values.into_iter().collect();
        format!("each {} ({})", self.column, values.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Recording;
    use crate::splitmix64::SimulatedDraws;
    use matchpoint_vector::Similarity;

    #[test]
    fn an_empty_value_is_no_group() {
        let mut searches = drawn(1, 30);
        searches[7]
            .conditions
            .insert("kind".to_owned(), String::new());
        let refused = StrangerGroups::of(&searches, "kind").unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("1 of 120 searches of strangers have no value"),
            "{refused}"
        );
    }

    const KINDS: [(&str, f32); 4] = [("crop", 0.3), ("dark", 0.45), ("low", 0.4), ("turned", 0.6)];

    /// Strangers that are each photographed in four conditions, which differ in how close the pictures come to
    /// the gallery.
    fn drawn(seed: u64, labels: u32) -> Vec<RecordedSearch> {
        let mut draws = SimulatedDraws(seed);
        let mut searches = Vec::new();
        for label in 0..labels {
            let own = 0.2 * draws.uniform_f32();
            for (kind, nearness) in KINDS {
                let score = nearness + own + 0.15 * draws.uniform_f32();
                let score = Similarity::new(score);
                let names = (format!("s{label}"), format!("{label}-{kind}"));
                searches.push(RecordedSearch {
                    conditions: BTreeMap::from([("kind".to_owned(), kind.to_owned())]),
                    ..RecordedSearch::of_stranger(names, score)
                });
            }
        }
        searches
    }

    /// The true FAR of a group at a threshold, from many draws.
    fn true_far(kind: usize, threshold: Threshold) -> f64 {
        let (mut draws, mut accepted) = (SimulatedDraws(99), 0_u32);
        for _ in 0..4_000 {
            let score = KINDS[kind].1 + 0.2 * draws.uniform_f32() + 0.15 * draws.uniform_f32();
            accepted += u32::from(threshold.get() <= score);
        }
        f64::from(accepted) / 4_000.0
    }

    fn target() -> TargetFar {
        TargetFar::new(0.1, 0.9).unwrap()
    }

    #[test]
    fn each_kind_keeps_the_target_as_often_as_promised_where_the_mixture_does_not() {
        let (mut of_groups, mut of_all, runs) = (0, 0, 200);
        for seed in 0..runs {
            let searches = drawn(seed, 90);
            let groups = StrangerGroups::of(&searches, "kind").unwrap();
            let recording = Recording::new(searches).unwrap();
            let trials = recording.trials();
            let (choice, worst) = groups.choose(target(), trials, seed).unwrap();
            let any = |threshold| (0..4).any(|kind| 0.1 < true_far(kind, threshold));
            of_groups += u64::from(any(choice.threshold));
            let all = choose(CalibrationTarget::Far(target()), trials, seed).unwrap();
            of_all += u64::from(any(all.threshold));
            assert_eq!(worst.groups.len(), 4);
            assert!(
                worst
                    .groups
                    .iter()
                    .all(|group| group.labels == 90 && group.threshold <= choice.threshold)
            );
        }
        assert!(of_groups * 100 <= 14 * runs, "{of_groups} of {runs} missed");
        assert!(
            runs * 90 <= of_all * 100,
            "{of_all} of {runs} missed for all together"
        );
    }

    #[test]
    fn a_group_is_covered_in_whatever_spelling_its_column_is_stated() {
        let group = |value: &str| GroupCertificate {
            value: value.to_owned(),
            labels: 90,
            threshold: Threshold::ACCEPT_NOTHING,
            far_bound: 0.1,
        };
        let worst = WorstGroup {
            column: "kind of light".to_owned(),
            groups: vec![group("day"), group("night")],
            frr: None,
            frr_of_all: None,
        };
        let covers = |stated: &[(&str, &str)]| {
            let stated = stated.iter();
            let stated = stated.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            worst.covers(&stated.collect())
        };
        assert!(covers(&[]) && covers(&[("camera", "fog")]));
        for column in ["kind of light", "Kind of Light", "kind_of_light"] {
            assert!(covers(&[(column, "night")]), "{column}");
            assert!(!covers(&[(column, "fog")]) && !covers(&[(column, "Day")]));
        }
        assert!(!covers(&[
            ("kind of light", "day"),
            ("KIND OF LIGHT", "fog")
        ]));
    }

    #[test]
    fn a_group_of_too_few_labels_is_refused_by_name() {
        let mut searches = drawn(1, 60);
        searches.retain(|search| !search.probe.ends_with("dark") || search.label.as_str() < "s2");
        let groups = StrangerGroups::of(&searches, "kind").unwrap();
        let recording = Recording::new(searches.clone()).unwrap();
        let refused = groups.choose(target(), recording.trials(), 0).unwrap_err();
        assert_eq!(refused.refusal(), Some("CALIBRATION_UNDERPOWERED"));
        let (needed, present) = refused.trials_needed().unwrap();
        let said = refused.to_string();
        assert!(
            said.contains("'dark' has 12 (10 more)") && !said.contains("turned"),
            "{said}"
        );
        assert_eq!((needed, present), (Some(22), 12));
        searches[3].conditions.clear();
        let unknown = StrangerGroups::of(&searches, "kind")
            .unwrap_err()
            .to_string();
        assert!(
            unknown.contains("1 of 192") && unknown.contains("'kind'"),
            "{unknown}"
        );
    }
}
