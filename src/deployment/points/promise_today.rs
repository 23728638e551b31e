//! Computes what a promise is worth in today's gallery.

use std::sync::Arc;

use crate::deployment::DeploymentError;
use crate::deployment::folder::Folder;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::standing::PromiseToday;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item_set::ItemSet;
use matchpoint_gallery::view::GalleryView;

/// What an operating point promises in a gallery that was opened separately and, if the items of its
/// calibration are not known, the reason.
#[must_use]
pub fn promise_in_gallery(
    folder: &Folder,
    gallery: &Gallery,
    point: &OperatingPoint,
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
    let coverage = coverage_in(&view, content, items.as_ref().ok());
    OpenedPromise {
        today: PromiseToday::of(content, view.len() as u64, coverage),
        problem,
    }
}

/// What a promise is worth today.
#[derive(Clone, Debug)]
pub struct OpenedPromise {
    /// The promise in today's gallery.
    pub today: PromiseToday,
    /// The reason why the items of the calibration are not known; `None` if they are.
    pub problem: Option<String>,
}

/// How much of a calibration's gallery a gallery still has; `None` if that is not known.
pub(in crate::deployment) fn coverage_in(
    gallery: &GalleryView,
    content: &Content,
    items: Option<&Arc<ItemSet>>,
) -> Option<Coverage> {
    let binding = &content.binding;
    let (calibrated, now) = (binding.gallery_items, gallery.len() as u64);
    let kept = items.and_then(|set| gallery.in_common_with(set));
    // For an unchanged gallery, no list is needed.
    let kept = kept.or_else(|| (gallery.digest() == binding.gallery_digest).then_some(now));
    Some(Coverage {
        calibrated,
        kept: kept?,
        items: now,
    })
}
