//! Pairwise rates whose uncertainty is taken over labels.
//!
//! Two pairs of images that share a label are not independent: one image that resembles many others makes all
//! of its pairs worse at the same time. An interval that treats every pair as an independent trial covers the
//! truth far less often than it claims. Here the variance is computed over labels (Fogliato, Patil and Perona,
//! "Confidence Intervals for Error Rates in 1:1 Matching Tasks", IJCV 2024). It gives an effective number of
//! pairs, which is used in Wilson's interval. The results are approximate below about 100 labels and for a FAR
//! below 1e-3.

use super::error::AnalysisError;
use super::label_counts::LabelPairs;
use super::pair_counts::{Dyad, PairCounts, Sums, add, ordered};
use crate::CalibrationError;
use crate::binomial::{self, real};
use crate::rates::{Confidence, Interval, Proportion, Rate, recorded};

/// The number of non-mated pairs for each two labels, and the number of pairs accepted at one threshold.
#[derive(Clone, Debug)]
pub struct NonMatedCounts {
    counts: PairCounts,
    accepted: Vec<Dyad>,
    scope: LabelScope,
}

#[derive(Clone, Debug)]
enum LabelScope {
    All,
    /// At least one label is a member (its weight is 1).
    Touching(Vec<u64>),
    /// Both labels are members.
    Within(Vec<u64>),
}

impl NonMatedCounts {
    /// Takes triples (label a, label b, accepted pairs) with a < b, in ascending order and without repetition.
    /// Pairs of labels without an accepted pair may be left out.
    ///
    /// # Errors
    /// Returns an error if the order is another, or if two labels have more accepted pairs than pairs.
    pub fn new(
        counts: PairCounts,
        accepted: impl IntoIterator<Item = (u32, u32, u64)>,
    ) -> Result<Self, AnalysisError> {
        let accepted = ordered(accepted, |a, b| counts.between(a, b))?;
        Ok(Self {
            counts,
            accepted,
            scope: LabelScope::All,
        })
    }

    /// The counts of a scan.
    ///
    /// # Errors
    /// Returns the errors of [`NonMatedCounts::new`], which a scan never causes.
    pub fn of_scan(dyads: &LabelPairs) -> Result<Self, AnalysisError> {
        let counts = match &dyads.gallery_rows {
            None => PairCounts::all_pairs(dyads.rows.clone()),
            Some(gallery) => PairCounts::cross(dyads.rows.clone(), gallery.clone()),
        };
        let accepted = dyads.accepted.iter();
        Self::new(
            counts,
            accepted.map(|pair| (pair.label_a, pair.label_b, pair.accepted)),
        )
    }

    /// Only the pairs in which at least one label has `member` true.
    #[must_use]
    pub fn touching(&self, member: &[bool]) -> Self {
        let is = |label: usize| member.get(label).copied().unwrap_or(false);
        self.narrowed(LabelScope::Touching(self.mask(is)), |dyad| {
            is(dyad.a) || is(dyad.b)
        })
    }

    /// Only the pairs in which both labels have `member` true.
    #[must_use]
    pub fn within(&self, member: &[bool]) -> Self {
        let is = |label: usize| member.get(label).copied().unwrap_or(false);
        self.narrowed(LabelScope::Within(self.mask(is)), |dyad| {
            is(dyad.a) && is(dyad.b)
        })
    }

    /// The FAR with its dyadic variance over labels.
    ///
    /// With `d_ab = accepted - FAR pairs` for labels a and b, `r_a = sum_b d_ab` and M pairs in all,
    /// `V = (D + max(0, sum_a r_a^2 - 2 D)) / M^2`, where `D = sum d_ab^2`. `None` without a pair.
    #[must_use]
    pub fn far(&self, confidence: Confidence) -> Option<Rate> {
        self.rate(self.variance()?, confidence)
    }

    /// The variance V of the FAR over labels; zero if the counts show none. `None` if there is no pair.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        let of = self.count()?;
        let far = of.estimate();
        let sums = self.sums(&self.everyone());
        let mut per_label: Vec<f64> = sums.per_label.iter().map(|pairs| -far * pairs).collect();
        let mut own = far * far * sums.squares;
        for dyad in &self.accepted {
            let accepted = real(dyad.pairs);
            let pairs = real(self.counts.between(dyad.a, dyad.b));
            own += accepted * (accepted - 2.0 * far * pairs);
            add(&mut per_label, dyad, accepted);
        }
        // A sum of squares is never negative, but the rounded difference can be.
        let own = if 0.0 < own { own } else { 0.0 };
        let all: f64 = per_label.iter().map(|sum| sum * sum).sum();
        let shared = all - 2.0 * own;
        let shared = if 0.0 < shared { shared } else { 0.0 };
        Some((own + shared) / real(of.trials()).powi(2))
    }

    /// The design effect: the variance divided by that of the same number of independent pairs. `None` if every
    /// pair had the same outcome, which shows no variance.
    #[must_use]
    pub fn design_effect(&self) -> Option<f64> {
        let of = self.count()?;
        if of.events() == 0 || of.events() == of.trials() {
            return None;
        }
        let far = of.estimate();
        Some(self.variance()? * real(of.trials()) / (far * (1.0 - far)))
    }

    /// An upper bound on the FAR at about this confidence: Wilson's one-sided bound with the effective number
    /// of pairs. It is an estimate without a guarantee, in [0, 1]. `None` if there is no pair.
    #[must_use]
    pub fn far_upper(&self, confidence: Confidence) -> Option<f64> {
        Some(wilson_upper(&self.far(confidence)?, confidence))
    }

    fn mask(&self, is: impl Fn(usize) -> bool) -> Vec<u64> {
        (0..self.counts.labels())
            .map(|label| u64::from(is(label)))
            .collect()
    }

    /// Scopes cannot be nested: the new scope replaces the old one.
    fn narrowed(&self, scope: LabelScope, keep: impl Fn(&Dyad) -> bool) -> Self {
        Self {
            counts: self.counts.clone(),
            accepted: self.accepted.iter().copied().filter(keep).collect(),
            scope,
        }
    }

    fn everyone(&self) -> Vec<u64> {
        vec![1; self.counts.labels()]
    }

    fn sums(&self, weights: &[u64]) -> Sums {
        let product =
            |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        match &self.scope {
            LabelScope::All => self.counts.sums(weights),
            LabelScope::Within(members) => self.counts.sums(&product(weights, members)),
            LabelScope::Touching(members) => {
                let others: Vec<u64> = members.iter().map(|member| 1 - member).collect();
                let apart = self.counts.sums(&product(weights, &others));
                self.counts.sums(weights).minus(&apart)
            }
        }
    }

    fn count(&self) -> Option<Proportion> {
        let events = self.accepted.iter().map(|dyad| dyad.pairs).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a sum of whole numbers, exact below 2^53"
        )]
        let trials = self.sums(&self.everyone()).pairs as u64;
        Proportion::new(events, trials).ok()
    }

    fn rate(&self, variance: f64, confidence: Confidence) -> Option<Rate> {
        let per_label = self.sums(&self.everyone()).per_label;
        let with_pairs = |members: &[u64]| {
            per_label
                .iter()
                .zip(members)
                .filter(|(p, m)| 0.0 < **p && 0 < **m)
                .count() as u64
        };
        let all_disjoint = || self.counts.disjoint(&self.everyone());
        let (labels, disjoint) = match &self.scope {
            LabelScope::All => (with_pairs(&self.everyone()), all_disjoint()),
            LabelScope::Within(members) => (with_pairs(members), self.counts.disjoint(members)),
            LabelScope::Touching(members) => {
                let labels = with_pairs(members);
                (labels, labels.min(all_disjoint()))
            }
        };
        Some(rate(self.count()?, labels, disjoint, variance, confidence))
    }
}

/// The mated pairs of each label at one threshold: (rejected, pairs).
#[derive(Clone, Debug)]
pub struct MatedCounts(Vec<(u64, u64)>);

impl MatedCounts {
    /// Takes (rejected pairs, pairs) for every label, in the order of the labels.
    ///
    /// # Errors
    /// Returns an error if a label has more rejected pairs than pairs.
    pub fn new(per_label: Vec<(u64, u64)>) -> Result<Self, AnalysisError> {
        for &(events, trials) in &per_label {
            if trials < events {
                return Err(CalibrationError::NotAProportion { events, trials }.into());
            }
        }
        Ok(Self(per_label))
    }

    /// The counts of a scan.
    ///
    /// # Errors
    /// Returns the errors of [`MatedCounts::new`], which a scan never causes.
    pub fn of_scan(dyads: &LabelPairs) -> Result<Self, AnalysisError> {
        let counts = dyads.mated_rejected.iter().zip(&dyads.mated_total);
        Self::new(
            counts
                .map(|(&rejected, &pairs)| (rejected, pairs))
                .collect(),
        )
    }

    /// Only the labels for which `member` is true.
    #[must_use]
    pub fn of(&self, member: &[bool]) -> Self {
        let counts = self.0.iter().zip(member);
        Self(
            counts
                .map(|(&count, &is)| if is { count } else { (0, 0) })
                .collect(),
        )
    }

    /// The FRR with its variance over labels. `None` if there is no pair.
    #[must_use]
    pub fn frr(&self, confidence: Confidence) -> Option<Rate> {
        Some(self.rate(self.count()?, self.variance()?, confidence))
    }

    /// The variance of the FRR as a ratio estimate over labels: `V = sum (e - FRR m)^2 / (sum m)^2`, where a
    /// label has e rejected of m pairs. `None` if there is no pair.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        let of = self.count()?;
        let frr = of.estimate();
        let squares = self
            .0
            .iter()
            .map(|&(e, m)| (real(e) - frr * real(m)).powi(2));
        Some(squares.sum::<f64>() / real(of.trials()).powi(2))
    }

    fn count(&self) -> Option<Proportion> {
        let (events, trials) = self
            .0
            .iter()
            .fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        Proportion::new(events, trials).ok()
    }

    fn rate(&self, of: Proportion, variance: f64, confidence: Confidence) -> Rate {
        let labels = self.0.iter().filter(|count| 0 < count.1).count() as u64;
        rate(of, labels, labels, variance, confidence)
    }
}

/// `independent` is the number of trials that share no label. It is used if no variance can be estimated,
/// because every pair had the same outcome or because there are fewer than two such trials.
fn rate(
    count: Proportion,
    labels: u64,
    independent: u64,
    variance: f64,
    confidence: Confidence,
) -> Rate {
    let estimate = count.estimate();
    let most = real(count.trials());
    let uniform = count.events() == 0 || count.events() == count.trials();
    let effective = if uniform || independent < 2 {
        real(independent.max(1))
    } else {
        estimate * (1.0 - estimate) / variance
    };
    let effective_trials = recorded(if effective < most { effective } else { most });
    Rate {
        count,
        estimate: recorded(estimate),
        labels,
        effective_trials,
        interval: Interval::wilson(estimate, effective_trials, confidence),
    }
}

fn wilson_upper(rate: &Rate, confidence: Confidence) -> f64 {
    let (estimate, trials) = (rate.count.estimate(), rate.effective_trials);
    if 1.0 <= estimate {
        return 1.0;
    }
    let z_squared = binomial::normal_quantile(confidence.delta()).powi(2);
    let spread = (z_squared * estimate * (1.0 - estimate) / trials
        + (z_squared / (2.0 * trials)).powi(2))
    .sqrt();
    let upper = (estimate + z_squared / (2.0 * trials) + spread) / (1.0 + z_squared / trials);
    recorded(upper.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::analysis::disjoint::DisjointPairs;
    use crate::analysis::rng::SeededRng;

    const AT: Confidence = Confidence::DISPLAY;

    fn close(found: f64, expected: f64) {
        let error = (found - expected).abs();
        assert!(
            error <= 1e-9 * expected.abs(),
            "{found:e} is not {expected:e}"
        );
    }

    /// Six labels with two images each, so that each two labels have four pairs.
    fn reference() -> NonMatedCounts {
        let accepted = [
            (0, 2, 1),
            (0, 5, 3),
            (1, 5, 2),
            (2, 4, 1),
            (2, 5, 4),
            (3, 5, 1),
            (4, 5, 2),
        ];
        NonMatedCounts::new(PairCounts::all_pairs(vec![2; 6]), accepted).unwrap()
    }

    #[test]
    fn the_example_of_the_reference() {
        let found = reference();
        let far = found.far(AT).unwrap();
        assert_eq!((far.count.events(), far.count.trials()), (14, 60));
        assert_eq!(far.labels, 6);
        close(found.variance().unwrap(), 0.015_666_666_666_7);
        close(found.design_effect().unwrap(), 5.254_658_385_09);
        close(far.effective_trials, 11.418_439_716_3);
        assert!((far.interval.lower - 0.077_889_097_24).abs() < 1e-11);
        assert!((far.interval.upper - 0.523_036_524_9).abs() < 1e-10);
        let mated = vec![(0, 3), (0, 3), (1, 3), (0, 3), (0, 3), (0, 3)];
        let mated = MatedCounts::new(mated).unwrap();
        close(mated.variance().unwrap(), 0.002_572_016_460_905_350_2);
        // The variance is lower than that of 18 independent pairs. Such a value is not used.
        close(mated.frr(AT).unwrap().effective_trials, 18.0);
    }

    #[test]
    fn the_upper_bound_is_the_end_of_a_wider_interval() {
        let found = reference();
        let one_sided = found.far_upper(Confidence::new(0.95).unwrap()).unwrap();
        let two_sided = found.far(Confidence::new(0.9).unwrap()).unwrap();
        close(one_sided, two_sided.interval.upper);
        let even = found.far_upper(Confidence::new(0.5).unwrap()).unwrap();
        close(even, 14.0 / 60.0);
        let all = PairCounts::listed(4, &[(0, 1, 2), (2, 3, 2)]).unwrap();
        let all = NonMatedCounts::new(all, [(0, 1, 2), (2, 3, 2)]).unwrap();
        close(all.far_upper(AT).unwrap(), 1.0);
    }

    #[derive(Deserialize)]
    struct Case {
        rows: Option<Vec<u64>>,
        queries: Option<Vec<u64>>,
        gallery: Option<Vec<u64>>,
        pairs: Option<Vec<(u32, u32, u64)>>,
        labels: usize,
        accepted: Vec<(u32, u32, u64)>,
        far: (u64, u64),
        far_variance: f64,
        far_wilson: (f64, f64),
        mated: Vec<(u64, u64)>,
        frr_variance: f64,
        member: Vec<bool>,
        touching: (u64, u64),
        touching_variance: f64,
        within: (u64, u64),
        within_variance: f64,
    }

    #[derive(Deserialize)]
    struct Oracle {
        dyadic: Vec<Case>,
    }

    impl Case {
        fn counts(&self) -> PairCounts {
            match (&self.rows, &self.queries, &self.gallery, &self.pairs) {
                (Some(rows), ..) => PairCounts::all_pairs(rows.clone()),
                (_, Some(queries), Some(gallery), _) => {
                    PairCounts::cross(queries.clone(), gallery.clone())
                }
                (_, _, _, Some(pairs)) => PairCounts::listed(self.labels, pairs).unwrap(),
                _ => panic!("no counts"),
            }
        }
    }

    fn counted(rate: &Rate) -> (u64, u64) {
        (rate.count.events(), rate.count.trials())
    }

    /// The expected values for the whole were computed with `cimat`, the others with numpy over the full matrix
    /// of labels: see `make_uncertainty.py` beside the file.
    #[test]
    fn variances_agree_with_cimat_and_numpy() {
        let text = include_str!("../../tests/fixtures/oracle/uncertainty.json");
        let oracle: Oracle = serde_json::from_str(text).unwrap();
        assert_eq!(oracle.dyadic.len(), 3);
        for case in oracle.dyadic {
            let found = NonMatedCounts::new(case.counts(), case.accepted.clone()).unwrap();
            let far = found.far(AT).unwrap();
            assert_eq!(counted(&far), case.far);
            close(found.variance().unwrap(), case.far_variance);
            close(far.interval.lower, case.far_wilson.0);
            close(far.interval.upper, case.far_wilson.1);
            let mated = MatedCounts::new(case.mated.clone()).unwrap();
            close(mated.variance().unwrap(), case.frr_variance);
            let touching = found.touching(&case.member);
            assert_eq!(counted(&touching.far(AT).unwrap()), case.touching);
            close(touching.variance().unwrap(), case.touching_variance);
            let within = found.within(&case.member);
            assert_eq!(counted(&within.far(AT).unwrap()), case.within);
            close(within.variance().unwrap(), case.within_variance);
        }
    }

    #[test]
    fn where_the_variance_says_nothing_only_disjoint_labels_count() {
        let none = |counts: PairCounts| NonMatedCounts::new(counts, []).unwrap().far(AT).unwrap();
        let seven = none(PairCounts::all_pairs(vec![5; 7]));
        assert_eq!(seven.count.trials(), 525);
        close(seven.effective_trials, 3.0);
        assert!(0.5 < seven.interval.upper);
        // Three labels have queries only, six are enrolled only, and one is both.
        let queries = vec![2, 2, 2, 0, 0, 0, 0, 0, 0, 2];
        let gallery = vec![0, 0, 0, 1, 1, 1, 1, 1, 1, 1];
        close(
            none(PairCounts::cross(queries, gallery)).effective_trials,
            4.0,
        );
        let star = PairCounts::listed(5, &[(0, 1, 9), (0, 2, 9), (0, 3, 9), (0, 4, 9)]).unwrap();
        close(none(star).effective_trials, 1.0);
        // Two labels form one pair of labels, whose deviation from itself is zero.
        let two = PairCounts::all_pairs(vec![10, 10]);
        let two = NonMatedCounts::new(two, [(0, 1, 30)]).unwrap();
        close(two.far(AT).unwrap().effective_trials, 1.0);
        // The same holds for one label.
        let one = MatedCounts::new(vec![(3, 10)]).unwrap();
        close(one.frr(AT).unwrap().effective_trials, 1.0);
    }

    #[test]
    fn without_a_pair_there_is_no_rate() {
        for rows in [vec![], vec![4], vec![4, 0]] {
            let none = NonMatedCounts::new(PairCounts::all_pairs(rows), []).unwrap();
            assert!(none.far(AT).is_none() && none.variance().is_none());
            assert!(none.far_upper(AT).is_none() && none.design_effect().is_none());
            assert!(none.touching(&[true]).far(AT).is_none());
        }
        assert!(MatedCounts::new(vec![(0, 0)]).unwrap().frr(AT).is_none());
    }

    #[test]
    fn counts_that_contradict_each_other_are_refused() {
        let refused = |accepted: &[(u32, u32, u64)]| {
            let counts = PairCounts::all_pairs(vec![2, 2, 3]);
            NonMatedCounts::new(counts, accepted.iter().copied())
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[(0, 1, 5)]).contains("5 pairs are given for labels 0 and 1"));
        assert!(refused(&[(1, 1, 1)]).contains("which have 0"));
        assert!(refused(&[(0, 3, 1)]).contains("labels 0 and 3"));
        assert!(refused(&[(0, 2, 1), (0, 1, 1)]).contains("ascending"));
        assert!(refused(&[(0, 1, 1), (0, 1, 1)]).contains("ascending"));
        assert!(PairCounts::listed(2, &[(0, 2, 1)]).is_err());
        assert!(MatedCounts::new(vec![(2, 1)]).is_err());
    }

    proptest! {
        /// Compares the variance by its definition, and the closed forms, with a loop over all pairs of labels.
        #[test]
        fn sums_agree_with_a_walk_over_all_pairs_of_labels(
            sides in prop::collection::vec((0_u64..6, 0_u64..4), 2..9),
            shares in prop::collection::vec(0.0_f64..1.0, 36),
        ) {
            let (queries, gallery) = sides.iter().copied().unzip();
            let counts = PairCounts::cross(queries, gallery);
            let (mut accepted, mut pairs) = (Vec::new(), Vec::new());
            let mut share = shares.iter();
            for a in 0..sides.len() {
                for b in a + 1..sides.len() {
                    let m = counts.between(a, b);
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
                    let e = (share.next().unwrap() * real(m)).round() as u64;
                    let (a, b) = (u32::try_from(a).unwrap(), u32::try_from(b).unwrap());
                    if 0 < m { pairs.push((a, b, m)); }
                    if 0 < e { accepted.push((a, b, e)); }
                }
            }
            let listed = PairCounts::listed(sides.len(), &pairs).unwrap();
            let closed = NonMatedCounts::new(counts, accepted.clone()).unwrap();
            let listed = NonMatedCounts::new(listed, accepted).unwrap();
            prop_assert_eq!(closed.count(), listed.count());
            if let (Some(a), Some(b)) = (closed.variance(), listed.variance()) {
                prop_assert!((a - b).abs() < 1e-9, "{} {}", a, b);
                prop_assert!(a.is_finite() && 0.0 <= a);
                let far = closed.far(AT).unwrap();
                prop_assert!(far.interval.lower <= far.estimate + 1e-11);
                prop_assert!(far.estimate <= far.interval.upper + 1e-11);
                prop_assert!(1.0 <= far.effective_trials + 1e-9);
                prop_assert!(far.effective_trials <= real(far.count.trials()) + 1e-9);
            }
        }

        #[test]
        fn one_label_with_all_errors_widens_the_interval(
            labels in 6_u64..40, rows in 1_u64..6
        ) {
            let counts = PairCounts::all_pairs(vec![rows; usize::try_from(labels).unwrap()]);
            let accepted = (1..u32::try_from(labels).unwrap()).map(|b| (0, b, rows * rows));
            let found = NonMatedCounts::new(counts, accepted).unwrap();
            prop_assert!(1.0 < found.design_effect().unwrap());
            let far = found.far(AT).unwrap();
            let independent = Interval::wilson(far.estimate, real(far.count.trials()), AT);
            prop_assert!(independent.upper < far.interval.upper);
            prop_assert!(far.interval.lower < independent.lower);
        }
    }

    /// Each label and each image gets a normal number, and the score of a pair is their sum. So the score of a
    /// random non-mated pair is normal with variance 4, and the true FAR is known.
    fn simulated(labels: usize, images: usize, draws: &mut SeededRng) -> Vec<f64> {
        let mut normal = || {
            let uniform = |bits: u64| (real(bits >> 12) + 0.5) / real(1 << 52);
            binomial::normal_quantile(uniform(draws.bits()))
        };
        let label_share = 0.6_f64;
        let mut effects = Vec::new();
        for _ in 0..labels {
            let label = normal() * label_share.sqrt();
            effects.extend((0..images).map(|_| label + normal() * (1.0 - label_share).sqrt()));
        }
        effects
    }

    fn accepted(effects: &[f64], images: usize, threshold: f64) -> Vec<(u32, u32, u64)> {
        let labels: Vec<&[f64]> = effects.chunks(images).collect();
        let mut dyads = Vec::new();
        for (a, left) in (0_u32..).zip(&labels) {
            for (b, right) in (0_u32..).zip(&labels).skip(a as usize + 1) {
                let pairs = left.iter().flat_map(|x| right.iter().map(move |y| x + y));
                let count = pairs.filter(|score| threshold <= *score).count() as u64;
                if 0 < count {
                    dyads.push((a, b, count));
                }
            }
        }
        dyads
    }

    /// 400 data sets of 100 labels with 5 images each. The standard error of a coverage near 0.9 is 0.015.
    #[test]
    fn intervals_over_labels_cover_where_intervals_over_pairs_do_not() {
        let (labels, images, far, sets) = (100, 5, 1e-2, 400_u64);
        let threshold = binomial::normal_quantile(far) * 2.0_f64.sqrt();
        let mut covered = [0_u64; 2];
        for set in 0..sets {
            let effects = simulated(labels, images, &mut SeededRng::new(20_240_607, set));
            let counts = PairCounts::all_pairs(vec![images as u64; labels]);
            let dyads = accepted(&effects, images, threshold);
            let found = NonMatedCounts::new(counts, dyads).unwrap();
            let dyadic = found.far(AT).unwrap();
            let intervals = [
                Interval::wilson(dyadic.estimate, real(dyadic.count.trials()), AT),
                dyadic.interval,
            ];
            for (covered, interval) in covered.iter_mut().zip(intervals) {
                *covered += u64::from(interval.lower <= far && far <= interval.upper);
            }
        }
        let [pairs, dyadic] = covered.map(|count| real(count) / real(sets));
        assert!(pairs < 0.5, "{pairs}");
        assert!(0.85 < dyadic, "{dyadic}");
    }

    /// The number of accepted disjoint pairs is binomial. That of all pairs is not: there the exact upper bound
    /// for independent trials is exceeded in about half of the data sets.
    #[test]
    fn disjoint_pairs_keep_an_exact_bound_and_all_pairs_do_not() {
        let (labels, images, far, sets) = (60_usize, 3, 0.05, 400_u64);
        let threshold = binomial::normal_quantile(far) * 2.0_f64.sqrt();
        let label_of_row: Vec<u32> = (0..60).flat_map(|label| [label; 3]).collect();
        let mut exceeded = [0_u64; 2];
        for set in 0..sets {
            let effects = simulated(labels, images, &mut SeededRng::new(5, set));
            let drawn = DisjointPairs::of_one_set(&label_of_row, set);
            let scores = drawn
                .pairs()
                .iter()
                .map(|pair| effects[pair.a] + effects[pair.b]);
            let events = scores.filter(|score| threshold <= *score).count() as u64;
            let counts = PairCounts::all_pairs(vec![images as u64; labels]);
            let dyads = accepted(&effects, images, threshold);
            let all = NonMatedCounts::new(counts, dyads).unwrap().count().unwrap();
            let bounds = [
                binomial::upper_bound(events, drawn.pairs().len() as u64, 0.1),
                binomial::upper_bound(all.events(), all.trials(), 0.1),
            ];
            for (exceeded, bound) in exceeded.iter_mut().zip(bounds) {
                *exceeded += u64::from(bound < far);
            }
        }
        let [disjoint, all] = exceeded.map(|count| real(count) / real(sets));
        // The true value is at most 0.1; three standard errors of 0.015 are added.
        assert!(disjoint < 0.145, "{disjoint}");
        assert!(0.3 < all, "{all}");
    }
}
