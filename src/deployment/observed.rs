//! The view that a monitor has of a deployment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::points::active::ActivePoint;
use super::records_folder::RecordsFolder;
use crate::monitor::Observed;
use matchpoint_calibration::monitoring::traffic::TrafficReference;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::standing::PromiseToday;
use matchpoint_gallery::Gallery;

/// A deployment as its monitor sees it.
#[derive(Debug)]
pub(super) struct ObservedDeployment {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) records: Option<RecordsFolder>,
    pub(super) gallery: Arc<Gallery>,
    pub(super) active_point: Arc<ArcSwap<ActivePoint>>,
}

impl Observed for ObservedDeployment {
    fn name(&self) -> &str {
        &self.name
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn records(&self) -> Option<&Path> {
        self.records.as_ref().map(RecordsFolder::path)
    }

    fn gallery(&self) -> &Gallery {
        &self.gallery
    }

    fn active_point(&self) -> Option<Arc<OperatingPoint>> {
        self.active_point.load().shared()
    }

    fn traffic_reference(&self, id: &str) -> Option<Arc<TrafficReference>> {
        let active = self.active_point.load();
        let is_it = active.valid().is_some_and(|point| point.id() == id);
        active.traffic().filter(|_| is_it).cloned()
    }

    fn promise_today(&self) -> Option<PromiseToday> {
        self.active_point.load().promise_in(&self.gallery.view())
    }

    fn coverage_problem(&self) -> Option<String> {
        let active = self.active_point.load();
        active.coverage_problem().map(ToOwned::to_owned)
    }
}
