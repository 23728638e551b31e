//! What an operating point promises in today's gallery.

use super::adjustment::Adjustment;
use super::certify::TargetFar;
use super::certify_frr::FrrCertificate;
use super::coverage::Coverage;
use super::operating_point::Content;

/// What is left of an operating point's promise in the gallery as it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromiseToday {
    /// What the gallery has in common with that of the calibration; `None` if that is not known.
    pub coverage: Option<Coverage>,
    /// Items in the gallery today.
    pub items: u64,
    /// Items of the calibration and those added since; those of today if that is not known.
    pub extent: u64,
    /// As many as the operating point covers.
    pub covered_items: u64,
    /// The FAR that is promised, or aimed at: that of the gallery as it was, or beyond it that of growth which was
    /// allowed for. `None` without such a target.
    pub target_far: Option<f64>,
    /// The FAR that is not exceeded today; `None` without a bound, or coverage.
    pub far_bound: Option<f64>,
    /// Whether the target FAR is a promise today, and not only aimed at.
    pub certified: bool,
    /// The FRR that was certified; `None` without.
    pub target_frr: Option<f64>,
    /// The FRR that is not exceeded today; `None` without a certificate, or coverage, and where items were added that
    /// may take from a margin.
    pub frr_bound: Option<f64>,
    /// What a review band promises; `None` without one.
    pub unseen: Option<UnseenToday>,
}

/// What is left of a review band's promise: the share of mated searches that are rejected unseen, or accepted with a
/// wrong label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnseenToday {
    /// What was certified.
    pub target: f64,
    /// What is not exceeded today; `None` without coverage.
    pub bound: Option<f64>,
}

impl UnseenToday {
    /// What is promised today: nothing once so many items are gone that the bound is above it.
    #[must_use]
    pub fn kept(self) -> Option<f64> {
        self.bound
            .is_some_and(|bound| bound <= self.target)
            .then_some(self.target)
    }
}

impl PromiseToday {
    /// Of an operating point, in a gallery of `items`.
    #[must_use]
    pub fn of(content: &Content, items: u64, coverage: Option<Coverage>) -> Self {
        let extent = coverage.map_or(items, Coverage::extent);
        let covered_items = content.covered_items();
        // What was proven is proven for the items that were searched. With others beside them, a
        // prediction stands: by the growth that was allowed for, or by what the bound leaves.
        let grown = content
            .growth
            .filter(|_| content.binding.gallery_items < extent);
        // Growth that was asked for is no promise once more than ordinary turnover has come of it.
        let predicted = grown.is_some() && !coverage.is_some_and(Coverage::is_ordinary);
        // Without the items that were removed, another one may be the best, or stand out more: a score
        // that is more than the best similarity can rise by that.
        let bounded = content.adjustment.is_none()
            || coverage.is_some_and(|coverage| coverage.removed() == 0);
        let asked = content.target_far().map(TargetFar::far);
        let far_bound = coverage.filter(|_| bounded).zip(content.far_bound());
        let frr = content.frr_certificate();
        let labels = content.binding.gallery_labels;
        let frr_today = |coverage: Coverage, found: &FrrCertificate| {
            coverage.frr_bound(found.frr_bound, found.lost_at_most(), labels)
        };
        // An item of another label that was added takes from a margin, without being the best.
        let margin = content.adjustment.as_ref().and_then(Adjustment::margin);
        let mates = coverage.filter(|coverage| margin.is_none() || coverage.added() == 0);
        let unseen = content.review.map(|band| UnseenToday {
            target: band.unseen.target.frr(),
            bound: mates.map(|coverage| frr_today(coverage, &band.unseen)),
        });
        Self {
            coverage,
            items,
            extent,
            covered_items,
            target_far: grown.map(|growth| growth.target_far).or(asked),
            far_bound: far_bound.and_then(|(coverage, bound)| coverage.far_bound(bound).ok()),
            certified: asked.is_some()
                && !predicted
                && bounded
                && coverage.is_some()
                && extent <= covered_items
                && content.policy.certifies(),
            target_frr: frr.map(|found| found.target.frr()),
            frr_bound: mates
                .zip(frr)
                .map(|(coverage, found)| frr_today(coverage, found)),
            unseen,
        }
    }

    /// Whether the items of the calibration and those added since are no more than it covers.
    #[must_use]
    pub fn within_calibrated_size(&self) -> bool {
        self.extent <= self.covered_items
    }

    /// The FRR that is promised today: none once so many items are gone that its bound is above it.
    #[must_use]
    pub fn kept_frr(&self) -> Option<f64> {
        let bound = self.frr_bound?;
        self.target_frr.filter(|target| bound <= *target)
    }
}
