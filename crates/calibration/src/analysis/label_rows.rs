//! The rates of single labels, and of groups of labels, at one threshold.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dyadic::{MatedCounts, NonMatedCounts};
use super::label_counts::LabelCounts;
use super::utility::{UtilityCurves, mean, trapezium, utility};
use crate::rates::{Confidence, Proportion, Rate, recorded};

/// The outcomes of the pairs of one label at a threshold.
///
/// The rates have no interval: the pairs of a label share its few images, so they cannot show how other images
/// of the label would do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRow {
    /// The index of the label.
    pub label: usize,
    /// Number of mated pairs of the label.
    pub mated: u64,
    /// Number of mated pairs that are accepted.
    pub mated_accepted: u64,
    /// Number of non-mated pairs of the label.
    pub non_mated: u64,
    /// Number of non-mated pairs that are accepted.
    pub non_mated_accepted: u64,
    /// The accepted share of non-mated pairs, in [0, 1]; `None` if there are none.
    pub far: Option<f64>,
    /// The rejected share of mated pairs, in [0, 1]; `None` if there are none.
    pub frr: Option<f64>,
    /// The harmonic mean of 1 - FRR and 1 - FAR, in [0, 1]; `None` if either rate is `None`.
    pub utility: Option<f64>,
}

/// All labels at the threshold with index `at` in the counts; empty if there is no such threshold.
#[must_use]
pub fn label_rows(counts: &LabelCounts, at: usize) -> Vec<LabelRow> {
    let width = counts.thresholds.len();
    if width <= at {
        return Vec::new();
    }
    let column = |accepted: &'_ [u64]| -> Vec<u64> {
        accepted.iter().skip(at).step_by(width).copied().collect()
    };
    let mated = counts
        .mated_total
        .iter()
        .zip(column(&counts.mated_accepted));
    let non_mated = counts
        .non_mated_total
        .iter()
        .zip(column(&counts.non_mated_accepted));
    let rows = mated.zip(non_mated).enumerate();
    rows.map(|(label, ((&mated, accepted), (&non_mated, falsely)))| {
        let far = Proportion::new(falsely, non_mated)
            .ok()
            .map(Proportion::estimate);
        let frr = mated.checked_sub(accepted).and_then(|rejected| {
            Proportion::new(rejected, mated)
                .ok()
                .map(Proportion::estimate)
        });
        LabelRow {
            label,
            mated,
            mated_accepted: accepted,
            non_mated,
            non_mated_accepted: falsely,
            far: far.map(recorded),
            frr: frr.map(recorded),
            utility: far
                .zip(frr)
                .map(|(far, frr)| recorded(utility(1.0 - frr, 1.0 - far))),
        }
    })
    .collect()
}

/// The `count` worst labels, the worst first: sorted by utility, then by number of wrong decisions, then by
/// label index. Labels without a utility are left out.
#[must_use]
pub fn worst_labels(rows: &[LabelRow], count: usize) -> Vec<LabelRow> {
    let wrong = |row: &LabelRow| row.non_mated_accepted + (row.mated - row.mated_accepted);
    let mut ranked: Vec<LabelRow> = rows
        .iter()
        .filter(|row| row.utility.is_some())
        .copied()
        .collect();
    ranked.sort_by(|a, b| {
        let utilities = a.utility.zip(b.utility).map(|(a, b)| a.total_cmp(&b));
        utilities
            .unwrap_or(Ordering::Equal)
            .then_with(|| wrong(b).cmp(&wrong(a)))
    });
    ranked.truncate(count);
    ranked
}

/// The outcomes of a group of labels at a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupOfLabels {
    /// The number of the group.
    pub group: u32,
    /// Number of labels in the group, with or without pairs.
    pub labels: u64,
    /// Mean utility of its labels over the band of the counts, in [0, 1]; `None` if no label has both mated and
    /// non-mated pairs.
    pub mean_utility: Option<f64>,
    /// The FAR over the non-mated pairs with at least one label in the group, where each pair counts once, with
    /// its dyadic variance. `None` if there are none.
    pub far: Option<Rate>,
    /// The FAR over the non-mated pairs whose labels are both in the group, where look-alikes are more
    /// frequent.
    pub far_within: Option<Rate>,
    /// The FRR over the mated pairs of its labels; `None` if there are none.
    pub frr: Option<Rate>,
}

/// Counts of the same scan: pairs at the operating threshold, and labels over the band.
#[derive(Clone, Copy, Debug)]
pub struct GroupCounts<'a> {
    /// Counts by label over the band of thresholds, for the utility.
    pub over_band: &'a LabelCounts,
    /// Non-mated pairs at the operating threshold.
    pub non_mated: &'a NonMatedCounts,
    /// Mated pairs at the operating threshold.
    pub mated: &'a MatedCounts,
}

/// One entry for each group, in ascending order, given the group of every label.
///
/// The intervals are taken over labels. They cannot be computed by adding up the FARs of single labels: a pair
/// within the group would count twice, and labels would be treated as independent.
#[must_use]
pub fn groups_of_labels(
    counts: GroupCounts<'_>,
    group_of_label: &[u32],
    confidence: Confidence,
) -> Vec<GroupOfLabels> {
    let utilities = UtilityCurves::of(counts.over_band);
    let means: BTreeMap<usize, f64> = utilities
        .labels
        .iter()
        .zip(&utilities.curves)
        .map(|(&label, curve)| (label, trapezium(curve)))
        .collect();
    let mut groups: Vec<u32> = group_of_label.to_vec();
    groups.sort_unstable();
    groups.dedup();
    let row = |group: u32| {
        let member: Vec<bool> = group_of_label.iter().map(|&of| of == group).collect();
        let labels = || member.iter().enumerate().filter(|label| *label.1);
        let measured: Vec<f64> = labels()
            .filter_map(|(label, _)| means.get(&label).copied())
            .collect();
        GroupOfLabels {
            group,
            labels: labels().count() as u64,
            mean_utility: (!measured.is_empty()).then(|| recorded(mean(&measured))),
            far: counts.non_mated.touching(&member).far(confidence),
            far_within: counts.non_mated.within(&member).far(confidence),
            frr: counts.mated.of(&member).frr(confidence),
        }
    };
    groups.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pair_counts::PairCounts;
    use crate::decision::Threshold;

    /// Four labels at two thresholds; the last label has no mated pair.
    fn counts() -> LabelCounts {
        LabelCounts {
            labels: 4,
            thresholds: [0.2, 0.6].map(|t| Threshold::new(t).unwrap()).to_vec(),
            mated_total: vec![10, 10, 5, 0],
            mated_accepted: vec![10, 9, 10, 4, 0, 0, 0, 0],
            non_mated_total: vec![20, 20, 20, 10],
            non_mated_accepted: vec![4, 2, 8, 1, 20, 20, 3, 1],
        }
    }

    #[test]
    fn a_row_has_the_rates_of_its_label_at_one_threshold() {
        let rows = label_rows(&counts(), 1);
        assert_eq!(rows.len(), 4);
        let first = rows[0];
        assert_eq!((first.mated, first.mated_accepted), (10, 9));
        assert_eq!((first.non_mated, first.non_mated_accepted), (20, 2));
        assert_eq!((first.far, first.frr), (Some(0.1), Some(0.1)));
        assert_eq!(first.utility, Some(0.9));
        assert_eq!(
            rows[2].utility,
            Some(0.0),
            "rejects its own, accepts all others"
        );
        assert_eq!(
            (rows[3].far, rows[3].frr, rows[3].utility),
            (Some(0.1), None, None)
        );
        assert_eq!(label_rows(&counts(), 0)[1].non_mated_accepted, 8);
        assert!(label_rows(&counts(), 2).is_empty());
    }

    #[test]
    fn the_worst_come_first_and_labels_without_utility_not_at_all() {
        let rows = label_rows(&counts(), 1);
        let worst = |count| {
            let rows = worst_labels(&rows, count);
            rows.iter().map(|row| row.label).collect::<Vec<_>>()
        };
        assert_eq!(worst(9), [2, 1, 0]);
        assert_eq!(worst(1), [2]);
        let mut tied = vec![rows[0]; 3];
        tied[1].label = 7;
        tied[2].label = 8;
        tied[2].non_mated_accepted = 5;
        let order: Vec<usize> = worst_labels(&tied, 3).iter().map(|row| row.label).collect();
        assert_eq!(order, [8, 0, 7]);
        assert!(worst_labels(&[], 3).is_empty());
    }

    #[test]
    fn a_pair_within_a_group_counts_once() {
        // Four labels with two images each; labels 0 and 1 are alike.
        let accepted = [(0, 1, 4), (1, 2, 1)];
        let non_mated = NonMatedCounts::new(PairCounts::all_pairs(vec![2; 4]), accepted).unwrap();
        let mated = MatedCounts::new(vec![(1, 10), (6, 10), (5, 5), (0, 0)]).unwrap();
        let over_band = counts();
        let counts = GroupCounts {
            over_band: &over_band,
            non_mated: &non_mated,
            mated: &mated,
        };
        let found = groups_of_labels(counts, &[5, 5, 2, 9], Confidence::DISPLAY);
        assert_eq!(
            found.iter().map(|row| row.group).collect::<Vec<_>>(),
            [2, 5, 9]
        );
        let alike = found[1];
        assert_eq!(alike.labels, 2);
        let far = alike.far.unwrap();
        assert_eq!(
            (far.count.events(), far.count.trials(), far.labels),
            (5, 20, 2)
        );
        let within = alike.far_within.unwrap();
        assert_eq!((within.count.events(), within.count.trials()), (4, 4));
        assert!((within.effective_trials - 1.0).abs() < f64::EPSILON);
        let frr = alike.frr.unwrap();
        assert_eq!(
            (frr.count.events(), frr.count.trials(), frr.labels),
            (7, 20, 2)
        );
        // With two thresholds, the trapezium rule gives the mean.
        let (a, b) = (utility(1.0, 0.8), utility(0.9, 0.9));
        let (c, d) = (utility(1.0, 0.6), utility(0.4, 0.95));
        assert!((alike.mean_utility.unwrap() - (a + b + c + d) / 4.0).abs() < 1e-11);
        let alone = found[2];
        assert!(alone.mean_utility.is_none() && alone.frr.is_none() && alone.far_within.is_none());
        assert_eq!(alone.far.unwrap().count.events(), 0);
    }

    #[test]
    fn groups_of_everyone_are_the_whole() {
        let accepted = [(0, 1, 2), (0, 4, 1), (1, 2, 1), (2, 3, 3)];
        let non_mated = NonMatedCounts::new(PairCounts::all_pairs(vec![3; 5]), accepted).unwrap();
        let mated = MatedCounts::new(vec![(1, 3), (0, 3), (2, 3), (0, 3), (1, 3)]).unwrap();
        let over_band = counts();
        let counts = GroupCounts {
            over_band: &over_band,
            non_mated: &non_mated,
            mated: &mated,
        };
        let found = groups_of_labels(counts, &[0; 5], Confidence::DISPLAY);
        assert_eq!(found[0].far, non_mated.far(Confidence::DISPLAY));
        assert_eq!(found[0].far_within, non_mated.far(Confidence::DISPLAY));
        assert_eq!(found[0].frr, mated.frr(Confidence::DISPLAY));
        assert!(groups_of_labels(counts, &[], Confidence::DISPLAY).is_empty());
    }
}
