//! Computes what an operating point still promises in today's gallery.

use super::adjustment::Adjustment;
use super::certify::TargetFar;
use super::certify_frr::FrrCertificate;
use super::coverage::{Coverage, LostItems};
use super::operating_point::Content;

/// The properties of today's gallery on which a promise depends.
#[derive(Clone, Copy, Debug)]
pub struct SearchedGallery {
    /// Number of items.
    pub items: u64,
    /// What it has in common with the gallery of the calibration; `None` if that is not known.
    pub coverage: Option<Coverage>,
    /// Whether a search may miss items.
    pub approximate: bool,
    /// Whether searches of its index miss more than was seen to be little when it was built.
    pub hard_to_search: bool,
    /// Number of items that are gone, or changed, of labels that were searched for in the calibration.
    pub searched_gone: u64,
}

/// What an operating point still promises in today's gallery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromiseToday {
    /// What today's gallery has in common with that of the calibration; `None` if that is not known.
    pub coverage: Option<Coverage>,
    /// Number of items in today's gallery.
    pub items: u64,
    /// Number of items of the calibration plus those added since; if that is not known, the number of today's
    /// items.
    pub extent: u64,
    /// Number of items that the operating point covers.
    pub covered_items: u64,
    /// The target FAR, promised or aimed at. In a gallery that has grown, it is the one that was asked for at
    /// the larger size, if growth was allowed for. `None` if there is no target FAR.
    pub target_far: Option<f64>,
    /// The upper bound on the FAR today. `None` if there is none, if it is only estimated, so that nobody knows
    /// whether the confidence holds for it, or if the coverage is not known.
    pub far_bound: Option<f64>,
    /// Whether the target FAR is that of a larger gallery, because this one has grown and growth was allowed for.
    pub grown: bool,
    /// Whether the target FAR is still certified today, and not only aimed at.
    pub certified: bool,
    /// The certified target FRR; `None` if there is none.
    pub target_frr: Option<f64>,
    /// The upper bound on the FRR today. `None` if there is no certificate, if the coverage is not known, if added
    /// items may lower a margin score, or if the gallery is searched through an index since.
    pub frr_bound: Option<f64>,
    /// What the review band still promises; `None` if there is no review band.
    pub unseen: Option<UnseenToday>,
}

/// What a review band still promises about the share of mated searches that are rejected unseen or accepted
/// with a wrong label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnseenToday {
    /// The certified target.
    pub target: f64,
    /// The upper bound today; `None` if the coverage is not known.
    pub bound: Option<f64>,
}

impl UnseenToday {
    /// The share that is promised today; `None` if so many items are gone that the bound exceeds the target.
    #[must_use]
    pub fn kept(self) -> Option<f64> {
        self.bound
            .is_some_and(|bound| bound <= self.target)
            .then_some(self.target)
    }
}

impl PromiseToday {
    /// What `content` promises in a gallery of today.
    #[must_use]
    pub fn of(content: &Content, today: &SearchedGallery) -> Self {
        let &SearchedGallery {
            items,
            coverage,
            approximate,
            hard_to_search,
            searched_gone,
        } = today;
        // Searches that may miss items, which those of the calibration did not. What is missed cannot raise a score that
        // falls with a filter, and every other promise may end with it.
        let indexed_since = approximate && content.index_check.is_none();
        let extent = coverage.map_or(items, Coverage::extent);
        let covered_items = content.covered_items();
        // The proof holds for the items that were searched. With added items there is a prediction, from the
        // growth that was allowed for or from the distance between bound and target.
        let grown = content
            .growth
            .filter(|_| content.binding.gallery_items < extent);
        // Once the gallery has grown by more than ordinary use, the target for the larger size is a prediction
        // and not certified.
        let predicted = grown.is_some() && !coverage.is_some_and(Coverage::is_ordinary);
        // If items were removed, another item can become the best or stand out more. That cannot raise a plain
        // best similarity, but it can raise an adjusted score.
        let adjustment = content.adjustment.as_ref();
        let falls = adjustment.is_none_or(Adjustment::falls_with_a_filter);
        let bounded = (adjustment.is_none()
            || coverage.is_some_and(|coverage| coverage.removed() == 0))
            && (falls || !indexed_since);
        let asked = content.target_far().map(TargetFar::far);
        let certifies = content.policy.certifies();
        let proven = content.far_bound().filter(|_| certifies);
        let far_bound = coverage.filter(|_| bounded).zip(proven);
        let frr = content.frr_certificate();
        let labels = content.binding.gallery_labels;
        let frr_today = |coverage: Coverage, found: &FrrCertificate| {
            // What the graph did not have, it may miss from its next build on.
            let index = content.index_check.filter(|_| approximate);
            let lost = LostItems {
                all: coverage.removed() + index.map_or(0, |index| index.outside),
                searched: searched_gone + index.map_or(0, |index| index.outside_searched),
            };
            let lost = lost.share(labels, found.independent_trials);
            coverage.frr_bound(found.frr_bound, found.lost_at_most(), lost)
        };
        // An added item of another label lowers a margin score even if it is not the best.
        let margin = adjustment.and_then(Adjustment::margin);
        let mates = coverage
            .filter(|coverage| margin.is_none() || coverage.added() == 0)
            // In an index that misses much, one with further items may miss more.
            .filter(|coverage| !hard_to_search || coverage.added() == 0)
            .filter(|_| !indexed_since);
        let unseen = content.review.map(|band| UnseenToday {
            target: band.unseen.target.frr(),
            bound: mates.map(|coverage| frr_today(coverage, &band.unseen)),
        });
        Self {
            coverage,
            items,
            extent,
            covered_items,
            grown: grown.is_some(),
            target_far: grown.map(|growth| growth.target_far).or(asked),
            far_bound: far_bound.and_then(|(coverage, bound)| coverage.far_bound(bound).ok()),
            certified: asked.is_some()
                && !predicted
                && bounded
                && coverage.is_some()
                && extent <= covered_items
                && certifies,
            target_frr: frr.map(|found| found.target.frr()),
            frr_bound: mates
                .zip(frr)
                .map(|(coverage, found)| frr_today(coverage, found)),
            unseen,
        }
    }

    /// Whether the number of items of the calibration plus those added since is within what it covers.
    #[must_use]
    pub fn within_calibrated_size(&self) -> bool {
        self.extent <= self.covered_items
    }

    /// The FRR that is promised today; `None` if so many items are gone that the bound exceeds the target.
    #[must_use]
    pub fn kept_frr(&self) -> Option<f64> {
        let bound = self.frr_bound?;
        self.target_frr.filter(|target| bound <= *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify_frr::TargetFrr;
    use crate::operating_point::{IndexMisses, OperatingPoint, PointPlan};
    use crate::policy::CalibrationTarget;
    use crate::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
    use matchpoint_vector::Similarity;

    /// What an operating point promises in its own gallery, from 100 labels of strangers.
    fn at_home(target: CalibrationTarget, origin: StrangerOrigin) -> PromiseToday {
        let strangers = (0_u8..100).map(|i| NonMatedSearch {
            label: format!("s{i}"),
            probe: format!("q{i}"),
            top_score: Similarity::new(f32::from(i) / 100.0),
            origin,
        });
        let trials = Trials::new(Vec::new(), strangers.collect()).unwrap();
        let point = OperatingPoint::calibrated(&trials, PointPlan::small(target)).unwrap();
        assert!(point.content().far_bound().is_some());
        let items = point.content().binding.gallery_items;
        let unchanged = Coverage {
            calibrated: items,
            kept: items,
            items,
        };
        let today = SearchedGallery {
            searched_gone: 0,
            items,
            coverage: Some(unchanged),
            approximate: false,
            hard_to_search: false,
        };
        PromiseToday::of(point.content(), &today)
    }

    #[test]
    fn an_frr_ends_where_an_index_misses_what_the_calibration_found() {
        let mated = (0_u8..100).map(|i| MatedSearch {
            label: format!("m{i}"),
            probe: format!("q{i}"),
            top: Similarity::new(0.5 + f32::from(i) / 250.0).map(|score| Top {
                score,
                label_matches: true,
            }),
        });
        let trials = Trials::new(mated.collect(), Vec::new()).unwrap();
        let target = CalibrationTarget::Frr(TargetFrr::new(0.1, 0.9).unwrap());
        let with = |checked, [approximate, hard_to_search]: [bool; 2], added, searched_gone| {
            let plan = PointPlan {
                index_check: checked,
                ..PointPlan::small(target)
            };
            let point = OperatingPoint::calibrated(&trials, plan).unwrap();
            let kept = point.content().binding.gallery_items;
            let items = kept + added;
            let coverage = Coverage {
                calibrated: kept,
                kept,
                items,
            };
            let today = SearchedGallery {
                searched_gone,
                items,
                coverage: Some(coverage),
                approximate,
                hard_to_search,
            };
            PromiseToday::of(point.content(), &today).frr_bound
        };
        let bound = |checked, index, added| with(checked, index, added, 0);
        let checked = Some(IndexMisses {
            outside: 0,
            outside_searched: 0,
            sampled: 100,
            missed: 1,
        });
        assert!(bound(None, [false, false], 0).is_some());
        assert_eq!(bound(None, [true, false], 0), None);
        assert!(bound(checked, [true, false], 1).is_some());
        assert!(bound(checked, [true, true], 0).is_some());
        assert_eq!(bound(checked, [true, true], 1), None);
        // One of a hundred labels has lost an item, or the next graph may lose it.
        let one_lost = bound(None, [false, false], 0).unwrap() + 0.01;
        let near = |bound: Option<f64>| (bound.unwrap() - one_lost).abs() < 1e-12;
        assert!(near(with(None, [false, false], 0, 1)));
        let unfinished = checked.map(|check| IndexMisses {
            outside_searched: 1,
            ..check
        });
        assert!(near(bound(unfinished, [true, false], 0)));
        // Without an index, nothing is missed.
        assert!(!near(bound(unfinished, [false, false], 0)));
    }

    #[test]
    fn a_bound_that_is_only_estimated_is_not_one_that_is_not_exceeded() {
        let target = TargetFar::new(0.1, 0.9).unwrap();
        let certified = at_home(
            CalibrationTarget::Far(target),
            StrangerOrigin::NeverEnrolled,
        );
        assert!(certified.certified && certified.far_bound.unwrap() <= 0.1);
        for (target, origin) in [
            (
                CalibrationTarget::FarEstimated(target),
                StrangerOrigin::NeverEnrolled,
            ),
            (CalibrationTarget::Far(target), StrangerOrigin::LeftOut),
        ] {
            let aimed = at_home(target, origin);
            assert_eq!((aimed.certified, aimed.far_bound), (false, None));
            assert_eq!(aimed.target_far, Some(0.1));
        }
    }
}
