//! How large a share was at calibration, and what its labels say against it being larger than some value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::shares::SearchSigns;
use crate::binomial::real;
use crate::monitoring::sequential::ln_mean_exp;

/// The parts of its stake that each label bets. The first is a bet of nothing, so that labels never count for much
/// against a value that traffic alone contradicts.
const STAKES: [f64; 5] = [0.0, 0.1, 0.25, 0.5, 0.9];
/// Steps of the bisection for a limit.
const HALVINGS: usize = 30;

/// The counted labels of one kind, by how many of their queries are in a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum CountedLabels {
    /// The number of labels in the share, by one query of each. Formats before 3 have this.
    ByOneQuery(u64),
    /// By several queries of each label.
    ByQueries(Vec<LabelsWithin>),
}

/// Labels with so many queries in a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelsWithin {
    /// Number of queries in the share.
    within: u64,
    /// Number of queries that were counted.
    of: u64,
    /// Number of such labels.
    pub(super) labels: u64,
}

impl CountedLabels {
    /// Counts labels by the share with this index; each label is given by the signs of its queries.
    pub(super) fn of(labels: &[Vec<SearchSigns>], share: usize) -> Self {
        let mut found: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for queries in labels {
            let within = queries.iter().filter(|signs| signs.has(share)).count() as u64;
            *found.entry((within, queries.len() as u64)).or_default() += 1;
        }
        let counted = found.into_iter();
        let counted = counted.map(|((within, of), labels)| LabelsWithin { within, of, labels });
        Self::ByQueries(counted.collect())
    }

    /// Whether these can be so many labels.
    pub(super) fn can_be(&self, all: u64) -> bool {
        match self {
            Self::ByOneQuery(within) => *within <= all,
            Self::ByQueries(counted) => {
                let sound = |one: &LabelsWithin| 0 < one.of && one.within <= one.of;
                counted.iter().all(sound)
                    && counted
                        .iter()
                        .try_fold(0_u64, |sum, one| sum.checked_add(one.labels))
                        == Some(all)
            }
        }
    }

    /// The parts of labels' queries that are in the share; `all` is the number of labels.
    fn parts(&self, all: u64) -> LabelParts {
        LabelParts(match self {
            Self::ByOneQuery(within) => vec![
                (1.0, real(*within)),
                (0.0, real(all.saturating_sub(*within))),
            ],
            Self::ByQueries(counted) => counted
                .iter()
                .map(|one| (real(one.within) / real(one.of), real(one.labels)))
                .collect(),
        })
    }
}

/// The parts of labels' queries that are in a share, each with its number of labels.
#[derive(Clone, Debug)]
struct LabelParts(Vec<(f64, f64)>);

impl LabelParts {
    /// The mean part; `None` without labels.
    fn mean(&self) -> Option<f64> {
        let labels: f64 = self.0.iter().map(|(_, labels)| labels).sum();
        let sum: f64 = self.0.iter().map(|(part, labels)| part * labels).sum();
        (0.0 < labels).then(|| sum / labels)
    }

    /// The natural logarithm of an e-value against "the mean part of all labels is at least `value`", for a value below
    /// 1: a bet of each label on a lower one. It assumes of a label's queries nothing at all, and of labels that they are
    /// independent. It grows with the value.
    fn ln_e(&self, value: f64) -> f64 {
        let bets: [f64; STAKES.len()] = STAKES.map(|stake| {
            let of = |(part, labels): &(f64, f64)| {
                labels * (stake * (value - part) / (1.0 - value)).ln_1p()
            };
            self.0.iter().map(of).sum()
        });
        ln_mean_exp(&bets)
    }
}

/// A share among the mated searches and among the strangers of a calibration.
#[derive(Clone, Debug)]
pub(super) struct ShareAtCalibration([LabelParts; 2]);

impl ShareAtCalibration {
    /// Of enrolled labels and of strangers, each with their number.
    pub(super) fn of(counted: [(&CountedLabels, u64); 2]) -> Self {
        Self(counted.map(|(counted, all)| counted.parts(all)))
    }

    /// The larger one of the two shares; 0 without labels.
    pub(super) fn larger(&self) -> f64 {
        let means = self.0.iter().filter_map(LabelParts::mean);
        means.fold(0.0, f64::max)
    }

    /// The natural logarithm of the evidence against "the larger one of the two shares is `value`". Whichever is the
    /// larger one, this is at most an e-value against it. Without labels of a kind there is none.
    pub(super) fn ln_e(&self, value: f64) -> f64 {
        let both = self.0.iter().map(|parts| parts.ln_e(value));
        both.fold(f64::INFINITY, f64::min)
    }

    /// The lowest value against which the labels alone have this evidence; `None` if there is none up to `most`.
    pub(super) fn limit(&self, ln_e: f64, most: f64) -> Option<f64> {
        if self.ln_e(most) < ln_e {
            return None;
        }
        let (mut below, mut limit) = (0.0, most);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(below, limit);
            if self.ln_e(middle) < ln_e {
                below = middle;
            } else {
                limit = middle;
            }
        }
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix64::SimulatedDraws;

    impl CountedLabels {
        /// So many times each label, as if they were certain.
        pub(in super::super) fn times(&mut self, times: u64) {
            match self {
                Self::ByOneQuery(within) => *within *= times,
                Self::ByQueries(counted) => counted.iter_mut().for_each(|one| one.labels *= times),
            }
        }
    }

    /// Labels with four queries each, a tenth of which is in the share. Those of one label are alike, or independent.
    fn drawn(labels: u64, alike: bool, draws: &mut SimulatedDraws) -> LabelParts {
        let mut counted: BTreeMap<u64, f64> = BTreeMap::new();
        for _ in 0..labels {
            let within = if alike {
                4 * u64::from(draws.uniform() < 0.1)
            } else {
                (0..4).map(|_| u64::from(draws.uniform() < 0.1)).sum()
            };
            *counted.entry(within).or_default() += 1.0;
        }
        let parts = counted.into_iter();
        LabelParts(
            parts
                .map(|(within, labels)| (real(within) / 4.0, labels))
                .collect(),
        )
    }

    #[test]
    fn evidence_of_labels_against_the_true_share_is_one_on_average_however_alike_their_queries_are()
    {
        let mut draws = SimulatedDraws(11);
        for alike in [false, true] {
            for labels in [5, 40, 200] {
                let found: Vec<f64> = (0..4000)
                    .map(|_| drawn(labels, alike, &mut draws).ln_e(0.1).exp())
                    .collect();
                let mean = found.iter().sum::<f64>() / 4000.0;
                assert!(mean < 1.15, "{mean} of {labels} labels");
                let beyond = found.iter().filter(|e| 20.0 <= **e).count();
                assert!(beyond <= 200, "{beyond} of 4000 above 20");
            }
        }
    }

    #[test]
    fn queries_that_differ_within_labels_bring_the_limit_nearer_and_alike_ones_do_not() {
        let mut draws = SimulatedDraws(12);
        let mut limit = |alike| {
            let both = [(); 2].map(|()| drawn(100, alike, &mut draws));
            ShareAtCalibration(both).limit(8.0, 0.95).unwrap()
        };
        let (differ, alike) = (limit(false), limit(true));
        assert!(differ < 0.22 && 0.25 < alike, "{differ} {alike}");
    }

    #[test]
    fn nothing_is_known_of_a_kind_without_labels() {
        let labels = CountedLabels::ByOneQuery(10);
        let none = CountedLabels::ByQueries(Vec::new());
        let found = ShareAtCalibration::of([(&labels, 100), (&none, 0)]);
        assert_eq!(found.limit(1.0, 0.95), None);
        assert!((found.larger() - 0.1).abs() < 1e-12 && found.ln_e(0.9).abs() < 1e-12);
        assert!(labels.can_be(10) && !labels.can_be(9));
        assert!(none.can_be(0) && !none.can_be(1));
    }
}
