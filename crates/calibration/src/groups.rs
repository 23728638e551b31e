//! Thresholds by group of the best match: stricter where strangers find more, never looser.
//!
//! A search is decided by the group of the item that it found: accepted iff the score of the best
//! match is at or above the threshold of that item's group, which is a value of one metadata
//! column. Hence the FAR per search is a sum over the groups of the best match,
//! FAR = sum over c of P(best match in c) P(accepted | best match in c), and the second factor,
//! the FAR of group c, is what is balanced here.
//!
//! **No group is looser than the global threshold.** For every search the threshold of its group
//! is at or above the global one, so that a score which reaches it reaches the global one too:
//! what the groups accept is a subset of what the global threshold accepts. Therefore FAR with groups <= FAR with the global threshold, on every set of
//! searches and in truth, however the groups were chosen, and a FAR that is certified for the
//! global threshold stays certified. The price is that the FRR can only rise.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::real;
use super::certify::TargetFar;
use super::decision::{Decision, Threshold};
use super::rates::{Confidence, recorded};
use matchpoint_vector::Similarity;

/// The most groups with a threshold of their own: they are meant to be coarse, since each needs
/// strangers in numbers.
pub const GROUPS_MAX: usize = 1_000;

/// One threshold for every group that has its own, and the global one for all else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedGroups")]
pub struct GroupThresholds {
    column: String,
    global: Threshold,
    groups: BTreeMap<String, Threshold>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedGroups {
    column: String,
    global: Threshold,
    groups: BTreeMap<String, Threshold>,
}

impl TryFrom<UncheckedGroups> for GroupThresholds {
    type Error = CalibrationError;

    fn try_from(raw: UncheckedGroups) -> Result<Self, CalibrationError> {
        Self::new(raw.column, raw.global, raw.groups)
    }
}

impl GroupThresholds {
    /// Takes thresholds by value of `column`.
    ///
    /// # Errors
    /// Refuses a group with a threshold below the global one, and more than [`GROUPS_MAX`] groups.
    pub fn new(
        column: String,
        global: Threshold,
        groups: BTreeMap<String, Threshold>,
    ) -> Result<Self, CalibrationError> {
        if GROUPS_MAX < groups.len() {
            return Err(CalibrationError::TooManyGroups {
                groups: groups.len(),
                limit: GROUPS_MAX,
            });
        }
        if let Some((group, threshold)) = groups.iter().find(|(_, own)| **own < global) {
            return Err(CalibrationError::GroupBelowGlobal {
                group: group.clone(),
                threshold: threshold.get(),
                global: global.get(),
            });
        }
        Ok(Self {
            column,
            global,
            groups,
        })
    }

    /// The metadata column whose value is the group.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// The threshold of every group that is not named.
    #[must_use]
    pub fn global(&self) -> Threshold {
        self.global
    }

    /// The groups with a threshold of their own; none below the global one.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<String, Threshold> {
        &self.groups
    }

    /// The threshold for a best match in `group`: the global one where the item has no group, or
    /// one that is not named.
    #[must_use]
    pub fn threshold_for(&self, group: Option<&str>) -> Threshold {
        group
            .and_then(|group| self.groups.get(group))
            .copied()
            .unwrap_or(self.global)
    }

    /// The score, lowered by as much as the threshold of the group is above the global one: it
    /// reaches the global threshold where `score` reaches that of its group.
    #[must_use]
    pub fn lowered(&self, score: Similarity, group: Option<&str>) -> Similarity {
        let own = f64::from(self.threshold_for(group).get());
        let margin = own - f64::from(self.global.get());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the nearest f32, as meant"
        )]
        let lowered = (f64::from(score.get()) - margin) as f32;
        Similarity::new(lowered).unwrap_or(score)
    }

    /// Decides a search by the best score found and the group of that item.
    #[must_use]
    pub fn decide(&self, best: Option<Similarity>, group: Option<&str>) -> Decision {
        self.threshold_for(group).decide(best)
    }
}

/// What a stranger found: one of the independent non-mated searches, one for each label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrangerMatch<'a> {
    /// The group of the best match; `None` where the item has no value in the column.
    pub group: Option<&'a str>,
    /// Its similarity to the probe.
    pub score: Similarity,
}

/// How strongly the FAR of a group is drawn towards that of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// As by this many searches at the global rate: a + b of the beta prior. Above 0.
    Searches(f64),
    /// As the groups themselves suggest: the moment estimate of a + b at the global threshold.
    /// Where they differ no more than chance makes them, no group gets its own threshold.
    FromGroups,
}

/// What group thresholds are chosen from.
#[derive(Clone, Copy, Debug)]
pub struct GroupFitting<'a> {
    /// The metadata column whose value is the group.
    pub column: &'a str,
    /// The threshold that no group may undercut.
    pub global: Threshold,
    /// Strangers that found anything, one search for each label.
    pub strangers: &'a [StrangerMatch<'a>],
}

/// Group thresholds with what they rest on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupFit {
    /// The thresholds; only groups that are stricter than the global one are named in them.
    pub thresholds: GroupThresholds,
    /// Every group that a stranger found, in the order of their names.
    pub rows: Vec<GroupRow>,
}

/// One group, on the strangers that its threshold was chosen from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupRow {
    /// The value of the column.
    pub group: String,
    /// Strangers whose best match is in the group.
    pub strangers: u64,
    /// How many of them the global threshold accepts.
    pub accepted_by_global: u64,
    /// How many the threshold of the group accepts. Optimistic: the threshold knows them.
    pub accepted: u64,
    /// The threshold of the group; at or above the global one.
    pub threshold: Threshold,
    /// Why it is this one.
    pub basis: Basis,
}

/// What the threshold of a group rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Basis {
    /// The shrunken FAR of the group at its threshold. An estimate, not a promise.
    Shrunk {
        /// (k + a) / (n + a + b), in [0, 1].
        far: f64,
    },
    /// The FAR of the group is certified, together with that of all other such groups.
    Certified {
        /// For this group: 1 - delta / groups, so that all hold together at 1 - delta.
        confidence: Confidence,
    },
    /// The global threshold: the groups do not differ by more than chance.
    Alike,
    /// The global threshold: the group has too few strangers for a certificate of its own.
    TooFew {
        /// Strangers, of distinct labels, that it would take.
        needed: u64,
    },
}

impl<'a> GroupFitting<'a> {
    /// Tightens each group until its FAR, shrunk towards that of all, is at most `far`.
    ///
    /// At threshold t, FAR = (k + a) / (n + a + b) for k accepted of n strangers in the group, with
    /// a / (a + b) the rate of all strangers at t and a + b the strength. It only falls as t
    /// rises and is 0 in the end, so that there is a lowest such t from the global one up.
    ///
    /// # Errors
    /// Refuses a FAR outside [1e-9, 0.5], a strength that is not above 0 and finite, and more
    /// than [`GROUPS_MAX`] groups to tighten.
    pub fn shrunk(&self, far: f64, strength: Strength) -> Result<GroupFit, CalibrationError> {
        let far = TargetFar::new(far, Confidence::DISPLAY.get())?.far();
        let strength = match strength {
            Strength::Searches(value) if 0.0 < value && value.is_finite() => Some(value),
            Strength::Searches(value) => return Err(CalibrationError::Strength { value }),
            Strength::FromGroups => self.strength(),
        };
        let all = descending(self.strangers.iter().map(|stranger| stranger.score));
        let candidates = self.candidates(&all);
        let chosen = self.by_group().into_iter().map(|(group, scores)| {
            let Some(strength) = strength else {
                return self.row(group, &scores, self.global, Basis::Alike);
            };
            let rate = |threshold| shrunken(&scores, &all, threshold, strength);
            // Ascending candidates, falling rates: the first that is low enough.
            let index = candidates.partition_point(|&threshold| far < rate(threshold));
            let threshold = candidates.get(index).copied();
            let threshold = threshold.unwrap_or(Threshold::ACCEPT_NOTHING);
            let far = recorded(rate(threshold));
            self.row(group, &scores, threshold, Basis::Shrunk { far })
        });
        self.fit(chosen.collect())
    }

    /// Certifies each group on its own strangers ("Mondrian"): with the confidence of the target,
    /// the FAR of every group so named is at most that of the target, all together.
    ///
    /// Of C groups that any stranger found, each is certified at 1 - delta / C; C counts groups,
    /// not scores, so it may be read off the same searches. A group with too few strangers
    /// keeps the global threshold and is promised nothing beyond what that one promises.
    ///
    /// # Errors
    /// Refuses a confidence that cannot be shared among so many groups, and more than
    /// [`GROUPS_MAX`] groups to tighten.
    pub fn certified(&self, target: TargetFar) -> Result<GroupFit, CalibrationError> {
        let groups = self.by_group();
        let delta = target.confidence().delta() / real(groups.len().max(1) as u64);
        let shared = TargetFar::new(target.far(), 1.0 - delta)?;
        let needed = shared.trials_needed();
        let chosen = groups.into_iter().map(|(group, scores)| {
            let Some(allowed) = shared.accepts_allowed(scores.len() as u64) else {
                return self.row(group, &scores, self.global, Basis::TooFew { needed });
            };
            let first_too_many = usize::try_from(allowed).ok().and_then(|i| scores.get(i));
            let own = first_too_many.map_or(self.global, |&score| Threshold::just_above(score));
            let confidence = shared.confidence();
            let basis = Basis::Certified { confidence };
            self.row(group, &scores, own.max(self.global), basis)
        });
        self.fit(chosen.collect())
    }

    /// The moment estimate of a + b at the global threshold; `None` where the groups differ no
    /// more than chance makes them, or too few strangers are accepted to tell.
    ///
    /// Over C groups, of n strangers and rate q each, N strangers and rate p in all, the sum of
    /// `n (q - p)^2` is on average `p (1 - p) [(C - 1) + r (N - sum(n^2) / N - (C - 1))]`, for the
    /// correlation within groups `r = 1 / (a + b + 1)` (Kleinman 1973, weighted by n).
    fn strength(&self) -> Option<f64> {
        let counts: Vec<(f64, f64)> = self
            .by_group()
            .values()
            .map(|scores| {
                let accepted = real(accepted(scores, self.global));
                (accepted, real(scores.len() as u64))
            })
            .collect();
        let total: f64 = counts.iter().map(|(_, strangers)| strangers).sum();
        let rate = counts.iter().map(|(accepted, _)| accepted).sum::<f64>() / total;
        let chance = rate * (1.0 - rate);
        let free = real(counts.len() as u64) - 1.0;
        let squares: f64 = counts
            .iter()
            .map(|(accepted, strangers)| strangers * (accepted / strangers - rate).powi(2))
            .sum();
        let sizes: f64 = counts.iter().map(|(_, strangers)| strangers.powi(2)).sum();
        let correlation = (squares / chance - free) / (total - sizes / total - free);
        // Written so that the NaN of no groups, one group or no accept ends here too.
        let differ = 0.0 < correlation && correlation.is_finite();
        // At a correlation of one, a group says all about itself and the prior nothing.
        differ.then(|| (1.0 / correlation - 1.0).clamp(1e-6, 1e12))
    }

    fn by_group(&self) -> BTreeMap<&'a str, Vec<Similarity>> {
        let mut groups: BTreeMap<&str, Vec<Similarity>> = BTreeMap::new();
        for stranger in self.strangers {
            if let Some(group) = stranger.group {
                groups.entry(group).or_default().push(stranger.score);
            }
        }
        for scores in groups.values_mut() {
            scores.sort_unstable_by_key(|&score| Reverse(score));
        }
        groups
    }

    /// The thresholds at which any rate changes, from the global one up.
    fn candidates(&self, all: &[Similarity]) -> Vec<Threshold> {
        let steps = all.iter().copied().map(Threshold::just_above);
        let above = steps.filter(|&threshold| self.global < threshold);
        let distinct: BTreeSet<Threshold> = above.chain([self.global]).collect();
        distinct.into_iter().collect()
    }

    fn row(
        &self,
        group: &str,
        scores: &[Similarity],
        threshold: Threshold,
        basis: Basis,
    ) -> GroupRow {
        GroupRow {
            group: group.to_owned(),
            strangers: scores.len() as u64,
            accepted_by_global: accepted(scores, self.global),
            accepted: accepted(scores, threshold),
            threshold,
            basis,
        }
    }

    fn fit(&self, rows: Vec<GroupRow>) -> Result<GroupFit, CalibrationError> {
        let stricter = rows
            .iter()
            .filter(|row| self.global < row.threshold)
            .map(|row| (row.group.clone(), row.threshold));
        let groups = stricter.collect();
        let thresholds = GroupThresholds::new(self.column.to_owned(), self.global, groups)?;
        Ok(GroupFit { thresholds, rows })
    }
}

fn descending(scores: impl Iterator<Item = Similarity>) -> Vec<Similarity> {
    let mut scores: Vec<Similarity> = scores.collect();
    scores.sort_unstable_by_key(|&score| Reverse(score));
    scores
}

/// How many of the descending `scores` a threshold accepts.
fn accepted(scores: &[Similarity], threshold: Threshold) -> u64 {
    scores.partition_point(|&score| threshold.decide(Some(score)) == Decision::Accept) as u64
}

/// The mean of the beta posterior of a group's FAR: `strength` searches at the rate of all, and
/// the strangers of the group.
fn shrunken(group: &[Similarity], all: &[Similarity], threshold: Threshold, strength: f64) -> f64 {
    let pooled = real(accepted(all, threshold)) / real(all.len().max(1) as u64);
    let own = real(accepted(group, threshold));
    (own + strength * pooled) / (real(group.len() as u64) + strength)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    fn threshold(value: f32) -> Threshold {
        Threshold::new(value).unwrap()
    }

    /// `count` strangers of a group with scores evenly over [0, `top`).
    fn even(group: &'static str, count: u16, top: f32) -> Vec<StrangerMatch<'static>> {
        (0..count)
            .map(|i| StrangerMatch {
                group: Some(group),
                score: score(top * f32::from(i) / f32::from(count)),
            })
            .collect()
    }

    fn fitting<'a>(strangers: &'a [StrangerMatch<'a>], global: f32) -> GroupFitting<'a> {
        GroupFitting {
            column: "site",
            global: threshold(global),
            strangers,
        }
    }

    fn far(
        strangers: &[StrangerMatch<'_>],
        decide: impl Fn(&StrangerMatch<'_>) -> Decision,
    ) -> u64 {
        let accepted = strangers.iter().filter(|s| decide(s) == Decision::Accept);
        accepted.count() as u64
    }

    #[test]
    fn an_unknown_group_and_no_group_have_the_global_threshold() {
        let groups = BTreeMap::from([("a".to_owned(), threshold(0.7))]);
        let found = GroupThresholds::new("site".into(), threshold(0.5), groups).unwrap();
        assert_eq!(found.threshold_for(Some("a")), threshold(0.7));
        for group in [None, Some("b"), Some("")] {
            assert_eq!(found.threshold_for(group), threshold(0.5));
        }
        assert_eq!(found.decide(Some(score(0.6)), Some("a")), Decision::Reject);
        assert_eq!(found.decide(Some(score(0.6)), None), Decision::Accept);
        assert_eq!(found.decide(None, Some("a")), Decision::Reject);
    }

    #[test]
    fn a_record_with_a_looser_group_or_an_unknown_field_is_refused() {
        let good = r#"{"column":"site","global":0.5,"groups":{"a":0.5,"b":0.75}}"#;
        let read: GroupThresholds = serde_json::from_str(good).unwrap();
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(
            serde_json::from_str::<GroupThresholds>(&text).unwrap(),
            read
        );
        for (from, to, expected) in [
            ("0.75", "0.25", "group 'b'"),
            ("\"groups\"", "\"more\":1,\"groups\"", "unknown field"),
            ("0.75", "null", "null"),
        ] {
            let bad = good.replace(from, to);
            let error = serde_json::from_str::<GroupThresholds>(&bad).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let many = (0..=GROUPS_MAX).map(|i| (i.to_string(), threshold(0.9)));
        assert!(GroupThresholds::new("site".into(), threshold(0.5), many.collect()).is_err());
    }

    /// Group a: 100 strangers over [0, 1); b: 100 over [0, 0.5). At 0.9 a has 10 accepts, b none.
    #[test]
    fn shrinkage_has_the_value_of_its_formula() {
        let strangers = [even("a", 100, 1.0), even("b", 100, 0.5)].concat();
        let fit = fitting(&strangers, 0.899)
            .shrunk(0.5, Strength::Searches(100.0))
            .unwrap();
        let [a, b] = fit.rows.as_slice() else {
            panic!()
        };
        assert_eq!(
            (a.strangers, a.accepted_by_global, a.accepted),
            (100, 10, 10)
        );
        // The rate of all is 10 / 200: (10 + 100 * 0.05) / 200 and (0 + 100 * 0.05) / 200.
        assert_eq!(a.basis, Basis::Shrunk { far: 0.075 });
        assert_eq!(b.basis, Basis::Shrunk { far: 0.025 });
        assert!(fit.thresholds.groups().is_empty());
        // At a FAR of 0.04: (k + 100 * k / 200) / 200 <= 0.04 for k = 5.
        let fit = fitting(&strangers, 0.899)
            .shrunk(0.04, Strength::Searches(100.0))
            .unwrap();
        assert_eq!(fit.rows[0].accepted, 5);
        assert_eq!(fit.rows[0].threshold, Threshold::just_above(score(0.94)));
        assert_eq!(fit.thresholds.groups().len(), 1);
        // A prior of great weight leaves the rate of all: k / 200 <= 0.0401.
        let fit = fitting(&strangers, 0.899)
            .shrunk(0.0401, Strength::Searches(1e9))
            .unwrap();
        assert_eq!(fit.rows[0].accepted, 8);
        // One of no weight leaves that of the group: k / 100 <= 0.04.
        let fit = fitting(&strangers, 0.899)
            .shrunk(0.04, Strength::Searches(1e-9))
            .unwrap();
        assert_eq!(fit.rows[0].accepted, 4);
    }

    /// Counts (10 of 100, 0 of 100): S = 0.5, p (1 - p) = 0.0475, r = (10.526 - 1) / 99.
    #[test]
    fn the_strength_is_the_moment_estimate() {
        let strangers = [even("a", 100, 1.0), even("b", 100, 0.5)].concat();
        let found = fitting(&strangers, 0.899).strength().unwrap();
        let correlation = (0.5 / 0.0475 - 1.0) / 99.0;
        assert!((found - (1.0 / correlation - 1.0)).abs() < 1e-9, "{found}");
    }

    #[test]
    fn groups_that_are_alike_or_alone_or_without_accepts_keep_the_global_threshold() {
        let alike = [even("a", 100, 1.0), even("b", 100, 1.0)].concat();
        let alone = even("a", 100, 1.0);
        for (strangers, global) in [(&alike, 0.9), (&alone, 0.9), (&alike, 1.0)] {
            let fit = fitting(strangers, global)
                .shrunk(0.01, Strength::FromGroups)
                .unwrap();
            assert!(fit.thresholds.groups().is_empty());
            assert!(fit.rows.iter().all(|row| row.basis == Basis::Alike));
        }
        let none = fitting(&[], 0.9)
            .shrunk(0.01, Strength::FromGroups)
            .unwrap();
        assert!(none.rows.is_empty());
    }

    #[test]
    fn each_group_is_certified_at_its_share_of_delta_where_it_has_enough_strangers() {
        let strangers = [even("a", 200, 1.0), even("b", 200, 0.5), even("c", 20, 1.0)].concat();
        let target = TargetFar::new(0.05, 0.94).unwrap();
        let fit = fitting(&strangers, 0.6).certified(target).unwrap();
        let [a, b, c] = fit.rows.as_slice() else {
            panic!()
        };
        let shared = TargetFar::new(0.05, 0.98).unwrap();
        let allowed = shared.accepts_allowed(200).unwrap();
        assert_eq!(a.accepted, allowed);
        assert!(allowed < target.accepts_allowed(200).unwrap());
        let Basis::Certified { confidence } = a.basis else {
            panic!()
        };
        assert!((confidence.get() - 0.98).abs() < 1e-9);
        // Its own certificate would allow 0.49; the clamp keeps the global threshold.
        assert_eq!((b.threshold, b.accepted), (threshold(0.6), 0));
        let needed = shared.trials_needed();
        assert_eq!(
            (c.threshold, c.basis),
            (threshold(0.6), Basis::TooFew { needed })
        );
        assert_eq!(fit.thresholds.groups().keys().collect::<Vec<_>>(), ["a"]);
        assert!(fitting(&[], 0.6).certified(target).unwrap().rows.is_empty());
    }

    #[test]
    fn a_strength_or_a_rate_that_is_none_is_refused() {
        let strangers = even("a", 10, 1.0);
        for strength in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let refused = fitting(&strangers, 0.5).shrunk(0.1, Strength::Searches(strength));
            assert!(refused.is_err());
        }
        for far in [0.0, f64::NAN, 0.6] {
            let refused = fitting(&strangers, 0.5).shrunk(far, Strength::FromGroups);
            assert!(refused.is_err());
        }
    }

    const NAMES: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];

    prop_compose! {
        fn stranger()(name in 0..NAMES.len(), level in -10_i8..=10) -> StrangerMatch<'static> {
            StrangerMatch { group: NAMES[name], score: score(f32::from(level) / 10.0) }
        }
    }

    proptest! {
        /// On the strangers that the thresholds were chosen from, and on any others.
        #[test]
        fn groups_accept_a_subset_of_what_the_global_threshold_accepts(
            strangers in prop::collection::vec(stranger(), 0..60),
            others in prop::collection::vec(stranger(), 0..60),
            global in -1.1_f32..1.1, far_target in 0.001_f64..0.5, weight in 0.01_f64..1e3
        ) {
            let fitting = fitting(&strangers, global);
            let target = TargetFar::new(far_target, 0.6).unwrap();
            for fit in [
                fitting.shrunk(far_target, Strength::Searches(weight)),
                fitting.shrunk(far_target, Strength::FromGroups),
                fitting.certified(target),
            ] {
                let found = fit.unwrap().thresholds;
                for searches in [&strangers, &others] {
                    for search in searches {
                        if found.decide(Some(search.score), search.group) == Decision::Accept {
                            let global = found.global().decide(Some(search.score));
                            prop_assert_eq!(global, Decision::Accept);
                        }
                    }
                    let with = far(searches, |s| found.decide(Some(s.score), s.group));
                    let without = far(searches, |s| found.global().decide(Some(s.score)));
                    prop_assert!(with <= without);
                }
            }
        }

        #[test]
        fn a_shrunken_rate_is_at_most_what_was_asked_for(
            strangers in prop::collection::vec(stranger(), 1..60),
            far_target in 0.001_f64..0.5, weight in 0.01_f64..1e3
        ) {
            let fit = fitting(&strangers, -1.0)
                .shrunk(far_target, Strength::Searches(weight)).unwrap();
            for row in fit.rows {
                let Basis::Shrunk { far } = row.basis else { panic!() };
                prop_assert!(far <= far_target + 1e-9);
                prop_assert!(row.accepted <= row.accepted_by_global);
            }
        }
    }
}
