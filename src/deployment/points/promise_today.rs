//! Computes what a promise is worth in today's gallery.

use std::sync::Arc;

use crate::deployment::DeploymentError;
use crate::deployment::folder::Folder;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::promised::PromisedTarget;
use matchpoint_calibration::standing::{PromiseToday, SearchedGallery};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item_set::ItemSet;
use matchpoint_gallery::view::GalleryView;

/// What an operating point promises in a gallery that was opened separately, without an index, and, if the items of
/// its calibration are not known, the reason. From `graph_from_items` on a server searches it through an index.
#[must_use]
pub fn promise_in_gallery(
    folder: &Folder,
    gallery: &Gallery,
    point: &OperatingPoint,
    graph_from_items: usize,
) -> OpenedPromise {
    let items = folder.calibrated_items(point).map(Arc::new);
    let compared = items.as_ref().ok().cloned();
    let compared = gallery
        .compare_with(compared)
        .map_err(DeploymentError::from);
    let view = gallery.view();
    let content = point.content();
    let problem = items.as_ref().err().or(compared.as_ref().err());
    let problem = problem.map(ToString::to_string);
    let searched = SearchedGallery {
        approximate: graph_from_items <= view.len(),
        ..searched_gallery(&view, content, items.as_ref().ok())
    };
    let today = PromiseToday::of(content, &searched);
    OpenedPromise {
        today,
        promised: PromisedTarget::all(content, &today, problem.as_deref()),
        problem,
    }
}

/// What a promise is worth today.
#[derive(Clone, Debug)]
pub struct OpenedPromise {
    /// The promise in today's gallery.
    pub today: PromiseToday,
    /// The promises of the operating point, by what is left of each.
    pub promised: Vec<PromisedTarget>,
    /// The reason why the items of the calibration are not known; `None` if they are.
    pub problem: Option<String>,
}

/// What a promise depends on, with the part of the calibration's gallery that this one still has; that is not known
/// without the `items` of the calibration, unless the gallery is unchanged.
pub(in crate::deployment) fn searched_gallery(
    gallery: &GalleryView,
    content: &Content,
    items: Option<&Arc<ItemSet>>,
) -> SearchedGallery {
    let kept = items.and_then(|set| Some((set, gallery.in_common_with(set)?)));
    let searched_gone = kept.map(|(set, kept)| set.len().searched.saturating_sub(kept.searched));
    SearchedGallery {
        items: gallery.len() as u64,
        coverage: coverage_in(gallery, content, items),
        searched_gone: searched_gone.unwrap_or(0),
        approximate: gallery.is_approximate(),
        hard_to_search: gallery
            .search_breadth()
            .is_some_and(|breadth| !breadth.suffices()),
    }
}

/// How much of a calibration's gallery a gallery still has; `None` if that is not known.
fn coverage_in(
    gallery: &GalleryView,
    content: &Content,
    items: Option<&Arc<ItemSet>>,
) -> Option<Coverage> {
    let binding = &content.binding;
    let (calibrated, now) = (binding.gallery_items, gallery.len() as u64);
    // For an unchanged gallery, no list is needed.
    let unchanged = gallery.digest() == binding.gallery_digest;
    let kept = items.and_then(|set| gallery.in_common_with(set));
    let kept = kept
        .map(|kept| kept.all)
        .or_else(|| unchanged.then_some(now))?;
    let estimate = KeptItems {
        estimate: kept,
        sampled: items.is_some_and(|set| set.is_sample()),
        unchanged,
        adjusted: content.adjustment.is_some(),
    };
    Some(Coverage {
        calibrated,
        kept: estimate.of(calibrated, now),
        items: now,
    })
}

/// What is known of the items of a calibration that are still present.
struct KeptItems {
    /// Their number, as far as a list or a sample shows.
    estimate: u64,
    /// Whether that is a sample.
    sampled: bool,
    /// Whether the gallery is exactly that of the calibration.
    unchanged: bool,
    /// Whether scores are adjusted.
    adjusted: bool,
}

impl KeptItems {
    fn of(self, calibrated: u64, now: u64) -> u64 {
        // A sample seldom shows that a single item is gone, but this ends a promise about adjusted scores.
        let one_may_be_gone = self.sampled && self.adjusted && !self.unchanged;
        let there_at_most = calibrated.saturating_sub(u64::from(one_may_be_gone));
        self.estimate.min(now).min(there_at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sample_does_not_show_is_not_taken_for_kept() {
        let kept = |estimate, adjusted, unchanged, now| {
            let known = KeptItems {
                estimate,
                sampled: true,
                unchanged,
                adjusted,
            };
            known.of(100_000, now)
        };
        // Seven items were removed, none of them in the sample.
        assert_eq!(kept(100_000, false, false, 99_993), 99_993);
        // One was exchanged, or one was added.
        assert_eq!(kept(100_000, true, false, 100_000), 99_999);
        assert_eq!(kept(100_000, true, false, 100_001), 99_999);
        assert_eq!(kept(100_000, true, true, 100_000), 100_000);
        assert_eq!(kept(60_000, true, false, 100_000), 60_000);
    }
}
