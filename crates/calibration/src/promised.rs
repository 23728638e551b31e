//! Says which promises of an operating point stand in today's gallery, and what ended the others.

use super::adjustment::Adjustment;
use super::certify::TargetFar;
use super::certify_frr::FrrCertificate;
use super::coverage::Coverage;
use super::operating_point::Content;
use super::percent::percent;
use super::rates::Confidence;
use super::standing::PromiseToday;

/// A rate that an operating point can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromisedRate {
    /// The share of searches for strangers that are accepted.
    Far,
    /// The share of mated searches that are rejected or accepted with a wrong label.
    Frr,
    /// The share of mated searches that are rejected below the review band or accepted with a wrong label.
    Review,
}

impl PromisedRate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Far, Self::Frr, Self::Review];

    /// Its name in messages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Far => "far",
            Self::Frr => "frr",
            Self::Review => "review",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Far => "FAR",
            Self::Frr => "FRR",
            Self::Review => "FRR without a review",
        }
    }
}

/// A promise that was made at the calibration, and what is left of it today.
#[derive(Clone, Debug, PartialEq)]
pub struct PromisedTarget {
    /// The rate.
    pub rate: PromisedRate,
    /// The rate is at most this one.
    pub target: f64,
    /// The confidence of that.
    pub confidence: Confidence,
    /// The bound on the rate today; `None` if there is none.
    pub bound: Option<f64>,
    /// Whether it is a prediction by now, because the growth that was allowed for has come.
    pub foreseen: bool,
    /// What has ended it, in words; `None` if it stands.
    pub ended: Option<String>,
}

impl PromisedTarget {
    /// All promises of `content`, by what is left of them `today`. `problem` is the reason why the items of the
    /// calibration are not known, if they are not.
    #[must_use]
    pub fn all(content: &Content, today: &PromiseToday, problem: Option<&str>) -> Vec<Self> {
        let ends = Ends {
            content,
            today,
            problem,
        };
        let certified = content.promise.as_ref();
        let certified = certified.filter(|_| content.policy.certifies());
        let far = certified.map(|promise| ends.far(promise.target));
        let frr = content.frr_certificate();
        let frr = frr.map(|found| ends.mates(PromisedRate::Frr, found, today.frr_bound));
        let band = content.review.as_ref().map(|band| {
            let bound = today.unseen.and_then(|unseen| unseen.bound);
            ends.mates(PromisedRate::Review, &band.unseen, bound)
        });
        far.into_iter().chain(frr).chain(band).collect()
    }

    /// Whether it stands.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.ended.is_none()
    }

    /// The rate and its target, such as `FAR <= 5 %`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} <= {}", self.rate.describe(), percent(self.target))
    }
}

/// Finds what ended a promise.
struct Ends<'a> {
    content: &'a Content,
    today: &'a PromiseToday,
    problem: Option<&'a str>,
}

impl Ends<'_> {
    fn far(&self, asked: TargetFar) -> PromisedTarget {
        let today = self.today;
        let bounded = today.far_bound.is_some();
        let foreseen = !today.certified && today.grown && bounded && today.within_calibrated_size();
        let ended = (!today.certified && !foreseen).then(|| match today.coverage {
            None => self.unknown(),
            Some(coverage) if !bounded && 0 < coverage.removed() => format!(
                "{} items of the calibration are gone, by which scores were adjusted",
                coverage.removed()
            ),
            Some(_) if !bounded => indexed_since(),
            Some(coverage) => format!(
                "{} items were added or changed since, which is more than the calibration leaves room for",
                coverage.added()
            ),
        });
        PromisedTarget {
            rate: PromisedRate::Far,
            target: today.target_far.unwrap_or(asked.far()),
            confidence: asked.confidence(),
            bound: today.far_bound,
            foreseen,
            ended,
        }
    }

    fn mates(
        &self,
        rate: PromisedRate,
        promised: &FrrCertificate,
        bound: Option<f64>,
    ) -> PromisedTarget {
        let target = promised.target.frr();
        let kept = bound.is_some_and(|bound| bound <= target);
        let ended = (!kept).then(|| match (self.today.coverage, bound) {
            (None, _) => self.unknown(),
            (Some(coverage), Some(bound)) => {
                let lost = what_mates_lost(coverage);
                format!("{lost}, so that the bound is {}", percent(bound))
            }
            (Some(coverage), None) => self.unbounded(coverage),
        });
        PromisedTarget {
            rate,
            target,
            confidence: promised.target.confidence(),
            bound,
            foreseen: false,
            ended,
        }
    }

    /// Why nothing bounds the share of mates that are missed, though the items of the calibration are known.
    fn unbounded(&self, coverage: Coverage) -> String {
        let margin = self.content.adjustment.as_ref();
        let margin = margin.and_then(Adjustment::margin);
        match coverage.added() {
            0 => indexed_since(),
            added if margin.is_some() => format!(
                "{added} items were added, and one that resembles a query lowers the margin of the right one"
            ),
            _ if self.content.index_check.is_none() => indexed_since(),
            added => format!(
                "{added} items were added, and the index misses so many that a larger one may miss more"
            ),
        }
    }

    fn unknown(&self) -> String {
        let problem = self.problem.unwrap_or("the list of them was not kept");
        format!("which items it was calibrated on is not known ({problem})")
    }
}

fn indexed_since() -> String {
    "searches go through an index now, which may miss items; those of the calibration did not"
        .to_owned()
}

/// How many of the items that the calibration saw are gone, and how many were added since.
fn what_mates_lost(coverage: Coverage) -> String {
    let [gone, added] = [coverage.removed(), coverage.added()];
    let came = format!("{added} items were added, which may come before the right ones");
    let gone = match gone {
        0 => return came,
        gone => format!("{gone} items of the calibration are gone, by which labels were found"),
    };
    if added == 0 {
        gone
    } else {
        format!("{gone}, and {came}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify_frr::TargetFrr;
    use crate::operating_point::{OperatingPoint, PointPlan};
    use crate::policy::CalibrationTarget;
    use crate::standing::SearchedGallery;
    use crate::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
    use matchpoint_vector::Similarity;

    fn point(target: CalibrationTarget) -> OperatingPoint {
        let mated = (0_u8..100).map(|i| MatedSearch {
            label: format!("m{i}"),
            probe: format!("q{i}"),
            top: Similarity::new(0.5 + f32::from(i) / 250.0).map(|score| Top {
                score,
                label_matches: true,
            }),
        });
        let strangers = (0_u8..100).map(|i| NonMatedSearch {
            label: format!("s{i}"),
            probe: format!("q{i}"),
            top_score: Similarity::new(f32::from(i) / 100.0),
            origin: StrangerOrigin::NeverEnrolled,
        });
        let trials = Trials::new(mated.collect(), strangers.collect()).unwrap();
        OperatingPoint::calibrated(&trials, PointPlan::small(target)).unwrap()
    }

    /// What is left of the only promise of `point`; `None` of its coverage if the list is lost.
    fn left(
        point: &OperatingPoint,
        changed: Option<[u64; 2]>,
        approximate: bool,
    ) -> PromisedTarget {
        let calibrated = point.content().binding.gallery_items;
        let coverage = changed.map(|[gone, added]| Coverage {
            calibrated,
            kept: calibrated - gone,
            items: calibrated - gone + added,
        });
        let today = SearchedGallery {
            searched_gone: 0,
            items: coverage.map_or(calibrated, |coverage| coverage.items),
            coverage,
            approximate,
            hard_to_search: false,
        };
        let today = PromiseToday::of(point.content(), &today);
        let all = PromisedTarget::all(point.content(), &today, None);
        let [one] = <[_; 1]>::try_from(all).unwrap();
        // What answers say.
        let answered = match one.rate {
            PromisedRate::Far => today.certified,
            PromisedRate::Frr | PromisedRate::Review => today.kept_frr().is_some(),
        };
        assert_eq!(one.stands(), answered);
        one
    }

    #[test]
    fn a_promise_without_a_bound_is_not_kept_and_what_ended_it_is_named() {
        let frr = point(CalibrationTarget::Frr(TargetFrr::new(0.1, 0.9).unwrap()));
        let far = point(CalibrationTarget::Far(TargetFar::new(0.1, 0.9).unwrap()));
        for point in [&frr, &far] {
            assert!(left(point, Some([0, 0]), false).stands());
            let lost = left(point, None, false);
            assert_eq!(lost.bound, None);
            let why = lost.ended.unwrap();
            assert!(why.starts_with("which items it was calibrated on"), "{why}");
        }
        let indexed = left(&frr, Some([0, 0]), true);
        assert_eq!(indexed.bound, None);
        let why = indexed.ended.unwrap();
        assert!(why.contains("through an index now"), "{why}");
        assert!(left(&far, Some([0, 0]), true).stands());
        let items = frr.content().binding.gallery_items;
        let removed = left(&frr, Some([items, 0]), false);
        let why = removed.ended.clone().unwrap();
        assert!(why.starts_with(&format!("{items} items of the")), "{why}");
        assert!(removed.bound.unwrap() > removed.target);
        assert_eq!(removed.describe(), "FRR <= 10 %");
        assert!(left(&far, Some([items, 0]), false).stands());
        let outgrown = left(&far, Some([0, 10 * items]), false);
        let why = outgrown.ended.unwrap();
        assert!(why.contains("more than the calibration"), "{why}");
    }
}
