//! How the FAR per search grows with the gallery: predicted, and measured on parts of the gallery.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::real;
use super::certify::TargetFar;
use super::decision::{Decision, Threshold};
use super::rates::recorded;
use matchpoint_vector::Similarity;

/// The assumption of a prediction for other sizes, in words for a report.
pub const GROWTH_ASSUMPTION: &str = "items added later attract strangers as often as those \
     enrolled now, and independently of them; where strangers differ in how often they are \
     accepted, the gallery grows more harmlessly than predicted, and where later items resemble \
     the strangers more, less so";

/// The FAR per search (FPIR) in a gallery of a known size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FpirAt {
    /// Number of items in the gallery; at least one.
    pub items: u64,
    /// Share of non-mated searches that are accepted, in [0, 1].
    pub fpir: f64,
}

/// Predicts the FPIR at the same threshold in a gallery of `items` items: 1 - (1 - FPIR)^(items / items now),
/// under [`GROWTH_ASSUMPTION`].
///
/// If strangers differ in how easily they are accepted, the prediction is too high for a larger gallery and too
/// low for a smaller one (Jensen's inequality).
///
/// # Errors
/// Returns an error for a size of zero and for an FPIR outside [0, 1].
pub fn predicted(now: FpirAt, items: u64) -> Result<FpirAt, CalibrationError> {
    if now.items == 0 || items == 0 {
        return Err(CalibrationError::EmptyGallery);
    }
    if !(0.0..=1.0).contains(&now.fpir) {
        return Err(CalibrationError::NotARate { value: now.fpir });
    }
    Ok(FpirAt {
        items,
        fpir: recorded(scaled(now.fpir, real(items) / real(now.items))),
    })
}

/// The highest number of items for which the predicted bound on the FPIR is at most `limit`, given the bound in
/// a gallery of `items`: items * ln(1 - limit) / ln(1 - bound), under [`GROWTH_ASSUMPTION`]. It is `items` if
/// the bound is already at or above the limit.
#[must_use]
pub fn items_within(items: u64, bound: f64, limit: f64) -> u64 {
    let room = (-limit).ln_1p() / (-bound).ln_1p();
    if !(room.is_finite() && 1.0 < room) {
        return items;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "above zero, and a cast keeps to the largest number"
    )]
    let most = (real(items) * room).floor() as u64;
    most.max(items)
}

/// A gallery that is expected to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Number of items today; at least one.
    pub items_now: u64,
    /// Number of items up to which the target has to hold; more than `items_now`.
    pub items_later: u64,
}

/// The target that is needed today so that the predicted FAR of the grown gallery meets `target`: 1 - (1 -
/// FAR)^(items now / items later), at the same confidence.
///
/// A certificate for it is valid for today's gallery. Its extension to the grown gallery is a prediction under
/// [`GROWTH_ASSUMPTION`].
///
/// # Errors
/// Returns an error for a size of zero, for a gallery that does not grow, and if today's target would be too low
/// for any number of trials.
pub fn ahead_of_growth(target: TargetFar, growth: Growth) -> Result<TargetFar, CalibrationError> {
    if growth.items_now == 0 {
        return Err(CalibrationError::EmptyGallery);
    }
    if growth.items_later <= growth.items_now {
        return Err(CalibrationError::NoGrowth {
            now: growth.items_now,
            later: growth.items_later,
        });
    }
    let far = scaled(
        target.far(),
        real(growth.items_now) / real(growth.items_later),
    );
    TargetFar::new(far, target.confidence().get()).or(Err(CalibrationError::GrowthTooFar {
        far: target.far(),
        now: growth.items_now,
        later: growth.items_later,
        far_today: far,
    }))
}

/// Ordinary use is expected to add or exchange one item in this many before the next calibration.
const TURNOVER_ONE_IN: u64 = 10;

/// Room for ordinary changes of a gallery in service: the growth by a tenth of its items, and by at least one,
/// and the target that is needed today so that `target` still holds after it.
///
/// Returns `None` for an empty gallery, and if today's target would be too low for any number of trials.
#[must_use]
pub fn ahead_of_turnover(target: TargetFar, items_now: u64) -> Option<(Growth, TargetFar)> {
    let growth = Growth {
        items_now,
        items_later: items_now.saturating_add((items_now / TURNOVER_ONE_IN).max(1)),
    };
    let today = ahead_of_growth(target, growth).ok()?;
    Some((growth, today))
}

/// 1 - (1 - rate)^times, accurate for small rates.
fn scaled(rate: f64, times: f64) -> f64 {
    -((-rate).ln_1p() * times).exp_m1()
}

/// One item in the candidate list of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundItem<'a> {
    /// Its similarity to the probe.
    pub score: Similarity,
    /// Its label.
    pub label: &'a str,
}

/// A non-mated search with its candidate list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrangerSearch<'a> {
    /// The label of the probe.
    pub label: &'a str,
    /// The best candidates: as many as the depth of the searches, or all if there are fewer.
    pub candidates: Vec<FoundItem<'a>>,
}

/// Non-mated searches of a whole gallery with candidate lists, from which the results in parts of the gallery
/// follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeepSearches<'a> {
    /// The searches.
    pub strangers: Vec<StrangerSearch<'a>>,
    /// Number of candidates requested in each search. With 64, a random tenth of the gallery contains none of
    /// them in 0.1 % of the draws. For smaller parts, the FPIR is bounded from both sides.
    pub depth: usize,
    /// Number of items in the gallery that was searched.
    pub items: u64,
    /// Number of labels in the gallery.
    pub labels: u64,
}

/// The unit in which parts of a gallery are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Single items: the gallery grows by more images of existing things.
    Items,
    /// Labels with all their items: the gallery grows by new things. The items of a label are alike, so this is
    /// how a gallery grows with a new customer.
    Labels,
}

/// The FPIR in a random part of the gallery.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FpirBySize {
    /// The unit of sampling.
    pub unit: Unit,
    /// Number of items or labels in the part.
    pub size: u64,
    /// The expected FPIR over all parts of this size, in [0, 1]. It is a lower bound unless `exact` is true.
    pub fpir: f64,
    /// An upper bound on the expected FPIR; equal to `fpir` if `exact` is true.
    pub fpir_at_most: f64,
    /// Whether the candidate lists suffice. A search with more candidates above the threshold than were
    /// requested leaves some uncertainty.
    pub exact: bool,
    /// The standard error of `fpir` over the labels of the strangers.
    pub standard_error: f64,
}

impl DeepSearches<'_> {
    /// Computes the expected FPIR at `threshold` in a random part of `size` items or labels.
    ///
    /// No sampling is involved: if c of N items are at or above the threshold, a search is rejected in a part
    /// of n items with probability C(N-c, n) / C(N, n), when none of the c items is in the part.
    ///
    /// # Errors
    /// Returns an error for an empty gallery, without searches, for an empty part or one larger than the
    /// gallery, and if the candidates cannot come from such a gallery.
    pub fn fpir(
        &self,
        threshold: Threshold,
        unit: Unit,
        size: u64,
    ) -> Result<FpirBySize, CalibrationError> {
        let whole = match unit {
            Unit::Items => self.items,
            Unit::Labels => self.labels,
        };
        self.check(whole, size)?;
        let mut by_label: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
        let (mut sum, mut at_most, mut exact) = (0.0, 0.0, true);
        for stranger in &self.strangers {
            let part = RandomPart { whole, size };
            let accepting = accepting(&stranger.candidates, threshold);
            let chance = part.chance_of_any(match unit {
                Unit::Items => accepting.items,
                Unit::Labels => accepting.labels,
            });
            let all_seen = accepting.items < self.depth as u64
                || stranger.candidates.len() as u64 == self.items
                || 1.0 <= chance;
            exact &= all_seen;
            sum += chance;
            at_most += if all_seen { chance } else { 1.0 };
            let of_label = by_label.entry(stranger.label).or_default();
            *of_label = (of_label.0 + chance, of_label.1 + 1);
        }
        let searches = real(self.strangers.len() as u64);
        let fpir = sum / searches;
        // The same as the variance of a ratio over labels in `rates::Rate`.
        let squares: f64 = by_label
            .values()
            .map(|&(chances, count)| (chances - fpir * real(count)).powi(2))
            .sum();
        Ok(FpirBySize {
            unit,
            size,
            fpir: recorded(fpir),
            fpir_at_most: recorded(at_most / searches),
            exact,
            standard_error: recorded(squares.sqrt() / searches),
        })
    }

    fn check(&self, whole: u64, size: u64) -> Result<(), CalibrationError> {
        if self.items == 0 || self.labels == 0 {
            return Err(CalibrationError::EmptyGallery);
        }
        if self.strangers.is_empty() {
            return Err(CalibrationError::NoEvidence { kind: "non-mated" });
        }
        if size == 0 || whole < size {
            return Err(CalibrationError::NotAPart { size, whole });
        }
        let most = self
            .depth
            .min(usize::try_from(self.items).unwrap_or(usize::MAX));
        let longest = self.strangers.iter().map(|s| s.candidates.len()).max();
        if longest.is_some_and(|found| most < found) {
            return Err(CalibrationError::TooManyCandidates { most });
        }
        Ok(())
    }
}

/// A random sample of `size` out of `whole`, without replacement.
#[derive(Clone, Copy)]
struct RandomPart {
    whole: u64,
    size: u64,
}

impl RandomPart {
    /// The probability that the sample contains at least one of `marked` marked units.
    fn chance_of_any(self, marked: u64) -> f64 {
        let none: f64 = (0..marked.min(self.whole))
            .map(|i| {
                // The probability that the next marked unit is not drawn, given that the ones before it are
                // not.
                real((self.whole - i).saturating_sub(self.size)) / real(self.whole - i)
            })
            .product();
        1.0 - none
    }
}

struct Accepting {
    items: u64,
    labels: u64,
}

fn accepting(candidates: &[FoundItem<'_>], threshold: Threshold) -> Accepting {
    let accepted = || {
        candidates
            .iter()
            .filter(|candidate| threshold.decide(Some(candidate.score)) == Decision::Accept)
    };
    let labels: BTreeSet<&str> = accepted().map(|candidate| candidate.label).collect();
    Accepting {
        items: accepted().count() as u64,
        labels: labels.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::binomial;
    use crate::rates::{Confidence, Rate};

    fn at(items: u64, fpir: f64) -> FpirAt {
        FpirAt { items, fpir }
    }

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    const LABELS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    /// The candidate list of one probe: item i has label i / `items_each`.
    fn stranger<'a>(label: &'a str, scores: &[f32], items_each: usize) -> StrangerSearch<'a> {
        let candidates = scores.iter().enumerate().map(|(i, &value)| FoundItem {
            score: score(value),
            label: LABELS[i / items_each],
        });
        StrangerSearch {
            label,
            candidates: candidates.collect(),
        }
    }

    #[test]
    fn a_bound_below_the_limit_leaves_room_for_items() {
        // ln(.95) / ln(.96) = 1.2565
        assert_eq!(items_within(400, 0.04, 0.05), 502);
        let grown = predicted(
            FpirAt {
                items: 400,
                fpir: 0.04,
            },
            502,
        )
        .unwrap();
        assert!(grown.fpir <= 0.05);
        let one_more = predicted(
            FpirAt {
                items: 400,
                fpir: 0.04,
            },
            503,
        )
        .unwrap();
        assert!(0.05 < one_more.fpir);
        for (bound, limit) in [
            (0.05, 0.05),
            (0.06, 0.05),
            (0.0, 0.0),
            (1.0, 0.05),
            (f64::NAN, 0.05),
        ] {
            assert_eq!(items_within(400, bound, limit), 400, "{bound} {limit}");
        }
        assert_eq!(items_within(0, 0.01, 0.05), 0);
    }

    #[test]
    fn predictions_agree_with_the_reference() {
        for (fpir, times, expected) in [
            (1e-3, 10, 0.009_955_119_79),
            (1e-2, 10, 0.095_617_924_99),
            (1e-3, 100, 0.095_207_852_89),
        ] {
            let found = predicted(at(1_000, fpir), 1_000 * times).unwrap();
            assert!((found.fpir - expected).abs() < 1e-11, "{found:?}");
            let back = predicted(found, 1_000).unwrap();
            assert!((back.fpir - fpir).abs() < 1e-13);
        }
        assert!((predicted(at(10, 0.02), 10).unwrap().fpir - 0.02).abs() < 1e-12);
        assert!(predicted(at(10, 0.0), 1_000).unwrap().fpir.abs() < 1e-12);
        assert!((predicted(at(10, 1.0), 1_000).unwrap().fpir - 1.0).abs() < 1e-12);
        for (now, items) in [
            (at(0, 0.1), 5),
            (at(5, 0.1), 0),
            (at(5, f64::NAN), 5),
            (at(5, 1.1), 5),
        ] {
            assert!(predicted(now, items).is_err());
        }
    }

    #[test]
    fn a_target_met_today_is_met_after_the_growth_it_was_tightened_for() {
        let target = TargetFar::new(0.01, 0.95).unwrap();
        let growth = |items_now, items_later| Growth {
            items_now,
            items_later,
        };
        let today = ahead_of_growth(target, growth(1_000, 10_000)).unwrap();
        let later = predicted(at(1_000, today.far()), 10_000).unwrap();
        assert!((later.fpir - 0.01).abs() < 1e-12);
        assert!(
            (today.far() - 0.001_004_528_708_25).abs() < 1e-12,
            "{}",
            today.far()
        );
        for (refused, why) in [
            (growth(0, 10), "empty"),
            (growth(10, 9), "does not grow to 9"),
            (growth(7, 7), "does not grow to 7"),
            (growth(1, 1_000_000_000), "FAR 1 % in a gallery that grows"),
        ] {
            let said = ahead_of_growth(target, refused).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    /// Enumerates every part of the gallery.
    fn enumerated(
        strangers: &[StrangerSearch<'_>],
        threshold: Threshold,
        size: u32,
        by: Unit,
    ) -> f64 {
        let (mut accepted, mut searches) = (0_u32, 0_u32);
        for part in (0_u32..64).filter(|part| part.count_ones() == size) {
            for stranger in strangers {
                let in_part = stranger
                    .candidates
                    .iter()
                    .enumerate()
                    .filter(|(i, candidate)| {
                        let unit = match by {
                            Unit::Items => *i,
                            Unit::Labels => {
                                LABELS.iter().position(|l| *l == candidate.label).unwrap()
                            }
                        };
                        part & (1 << unit) != 0
                    });
                let best = in_part.map(|(_, candidate)| candidate.score).max();
                accepted += u32::from(threshold.decide(best) == Decision::Accept);
                searches += 1;
            }
        }
        f64::from(accepted) / f64::from(searches)
    }

    #[test]
    fn parts_have_the_rate_of_all_their_draws() {
        let threshold = Threshold::new(0.5).unwrap();
        for (items_each, unit) in [(1, Unit::Items), (2, Unit::Labels)] {
            let scores: [&[f32]; 4] = [
                &[0.9, 0.8, 0.7, 0.1, 0.1, 0.1],
                &[0.1, 0.2, 0.3, 0.1, 0.6, 0.1],
                &[0.1; 6],
                &[0.5; 6],
            ];
            let strangers: Vec<_> = scores
                .into_iter()
                .zip(["s", "t", "u", "u"])
                .map(|(scores, label)| stranger(label, scores, items_each))
                .collect();
            let searches = DeepSearches {
                strangers: strangers.clone(),
                depth: 64,
                items: 6,
                labels: 6,
            };
            for size in 1..=6 {
                let found = searches.fpir(threshold, unit, u64::from(size)).unwrap();
                let expected = enumerated(&strangers, threshold, size, unit);
                assert!(
                    (found.fpir - expected).abs() < 1e-11,
                    "{found:?} {expected}"
                );
                assert!(found.exact && (found.fpir_at_most - found.fpir).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_whole_gallery_has_the_plain_rate_and_its_error() {
        let scores = [0.9_f32, 0.8, 0.1, 0.2, 0.3, 0.1];
        let labels = ["s", "s", "t", "t", "u", "v"];
        let strangers = scores
            .iter()
            .zip(labels)
            .map(|(&s, l)| stranger(l, &[s], 1))
            .collect();
        let searches = DeepSearches {
            strangers,
            depth: 1,
            items: 100,
            labels: 100,
        };
        let threshold = Threshold::new(0.5).unwrap();
        let found = searches.fpir(threshold, Unit::Items, 100).unwrap();
        let outcomes: Vec<_> = scores
            .iter()
            .zip(labels)
            .map(|(&s, l)| (l, 0.5 <= s))
            .collect();
        let rate = Rate::over_labels(&outcomes, Confidence::DISPLAY).unwrap();
        assert!(found.exact && (found.fpir - rate.estimate).abs() < 1e-11);
        let variance = rate.estimate * (1.0 - rate.estimate) / rate.effective_trials;
        assert!((found.standard_error.powi(2) - variance).abs() < 1e-9);
    }

    #[test]
    fn a_list_that_ends_above_the_threshold_gives_bounds_on_both_sides() {
        let searches = |depth: usize| DeepSearches {
            strangers: vec![stranger("s", &[0.9, 0.8, 0.7, 0.6, 0.2, 0.1][..depth], 1)],
            depth,
            items: 6,
            labels: 6,
        };
        let threshold = Threshold::new(0.5).unwrap();
        for size in 1..=6 {
            let truth = searches(6).fpir(threshold, Unit::Items, size).unwrap();
            let cut = searches(2).fpir(threshold, Unit::Items, size).unwrap();
            assert!(truth.exact);
            assert!(cut.fpir <= truth.fpir + 1e-12 && truth.fpir <= cut.fpir_at_most);
            // Of six labels, a part of five contains at least one of the two.
            assert_eq!(cut.exact, 5 <= size);
        }
        let deep = searches(5).fpir(threshold, Unit::Items, 1).unwrap();
        assert!(deep.exact);
    }

    /// All strangers are alike and items are independent, so the number of items that accept a stranger is
    /// binomial.
    #[test]
    fn prediction_and_measurement_agree_where_the_assumption_holds() {
        const ITEMS: u64 = 10_000;
        let rate = 1e-4;
        let mean_of_parts = |size| {
            let part = RandomPart { whole: ITEMS, size };
            (0..60)
                .map(|count| {
                    let below = if count == 0 {
                        0.0
                    } else {
                        binomial::cdf(count - 1, ITEMS, rate)
                    };
                    let chance = binomial::cdf(count, ITEMS, rate) - below;
                    chance * part.chance_of_any(count)
                })
                .sum::<f64>()
        };
        for (small, large) in [(1_000, 10_000), (100, 5_000), (3_000, 4_000)] {
            let found = predicted(at(small, mean_of_parts(small)), large).unwrap();
            assert!((found.fpir - mean_of_parts(large)).abs() < 1e-9);
        }
    }

    /// Half of the strangers resemble nothing, so the prediction is too high, as documented.
    #[test]
    fn unlike_strangers_make_growth_more_harmless_than_predicted() {
        let strangers = vec![
            stranger("s", &[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], 1),
            stranger("t", &[0.1; 6], 1),
        ];
        let searches = DeepSearches {
            strangers,
            depth: 6,
            items: 6,
            labels: 6,
        };
        let measured = |size| {
            searches
                .fpir(Threshold::new(0.5).unwrap(), Unit::Items, size)
                .unwrap()
        };
        let found = predicted(at(1, measured(1).fpir), 6).unwrap();
        assert!(measured(6).fpir + 0.2 < found.fpir);
    }

    #[test]
    fn what_cannot_be_a_part_is_refused() {
        let good = DeepSearches {
            strangers: vec![stranger("s", &[0.9, 0.8], 1)],
            depth: 2,
            items: 2,
            labels: 2,
        };
        let threshold = Threshold::ACCEPT_ANYTHING_FOUND;
        let fpir = |searches: &DeepSearches<'_>, size| searches.fpir(threshold, Unit::Items, size);
        assert!(fpir(&good, 2).is_ok());
        assert!(fpir(&good, 0).is_err() && fpir(&good, 3).is_err());
        let changed = |change: fn(&mut DeepSearches<'_>)| {
            let mut searches = good.clone();
            change(&mut searches);
            fpir(&searches, 1).unwrap_err().to_string()
        };
        assert!(changed(|s| s.strangers.clear()).contains("no non-mated searches"));
        assert!(changed(|s| s.items = 0).contains("gallery is empty"));
        assert!(changed(|s| s.depth = 1).contains("more than 1 candidates"));
        assert!(changed(|s| s.items = 1).contains("more than 1 candidates"));
    }

    proptest! {
        #[test]
        fn fpir_never_falls_with_the_size(
            scores in prop::collection::vec(prop::collection::vec(-1.0_f32..=1.0, 6), 1..8),
            threshold in -1.0_f32..=1.0
        ) {
            let strangers = scores.iter().map(|scores| stranger("s", scores, 1)).collect();
            let searches = DeepSearches { strangers, depth: 6, items: 6, labels: 6 };
            let threshold = Threshold::new(threshold).unwrap();
            let rates: Vec<f64> = (1..=6)
                .map(|size| searches.fpir(threshold, Unit::Items, size).unwrap().fpir)
                .collect();
            prop_assert!(rates.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
        }
    }
}
