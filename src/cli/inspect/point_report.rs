//! An operating point of a folder, with what it is worth in the gallery as it is.

use serde::Serialize;

use crate::cli::output::percent;
use crate::deployment::{Folder, OpenedPromise};
use crate::server::promise;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_client::proto::PromiseStanding;

#[derive(Serialize)]
pub(super) struct PointReport {
    pub(super) id: String,
    pub(super) active: bool,
    /// Why it would decide nothing; absent if it is valid.
    pub(super) mismatch: Option<String>,
    pub(super) within_calibrated_size: bool,
    /// Whether its target FAR is promised for the gallery as it is.
    pub(super) certified: bool,
    /// Share of the gallery that its calibration saw; absent if that is unknown.
    pub(super) gallery_coverage: Option<f64>,
    pub(super) items_added: Option<u64>,
    pub(super) items_removed: Option<u64>,
    pub(super) far_bound: Option<f64>,
    pub(super) frr_bound: Option<f64>,
    /// Why the share is unknown.
    pub(super) coverage_problem: Option<String>,
    /// Why traffic is compared with nothing, if what its queries looked like was stored.
    pub(super) traffic_problem: Option<String>,
    /// What it promised, and what is left of that.
    pub(super) promises: Vec<PromiseStanding>,
    pub(super) content: Content,
}

impl PointReport {
    /// As if it belonged to the deployment.
    pub(super) fn of(
        folder: &Folder,
        point: &OperatingPoint,
        opened: OpenedPromise,
        active: bool,
    ) -> Self {
        let today = opened.today;
        let traffic = folder.calibrated_traffic(point.id());
        Self {
            id: point.id().to_owned(),
            active,
            mismatch: None,
            within_calibrated_size: today.within_calibrated_size(),
            certified: today.certified,
            gallery_coverage: today.coverage.map(Coverage::share),
            items_added: today.coverage.map(Coverage::added),
            items_removed: today.coverage.map(Coverage::removed),
            far_bound: today.far_bound,
            frr_bound: today.frr_bound,
            coverage_problem: opened.problem,
            traffic_problem: traffic.err().map(|problem| problem.to_string()),
            promises: opened.promised.into_iter().map(promise).collect(),
            content: point.content().clone(),
        }
    }
}

/// What the calibration covers of the gallery as it is, if that is not all of it.
pub(super) fn covered_text(point: &PointReport) -> String {
    let problem = point.coverage_problem.as_deref();
    let Some((share, added)) = point.gallery_coverage.zip(point.items_added) else {
        let problem = problem.unwrap_or("not known");
        return format!(
            "  NOT COVERED: which items it was calibrated on is not known ({problem}); recalibrate\n"
        );
    };
    let removed = point.items_removed.unwrap_or_default();
    if added == 0 && removed == 0 {
        return problem.map_or_else(String::new, |problem| {
            format!("  NOT COVERED once the gallery changes ({problem}); recalibrate\n")
        });
    }
    let bound = point
        .far_bound
        .map(|bound| format!("; a FAR of {} is not exceeded", percent(bound)));
    let outgrown = if point.within_calibrated_size {
        "  covers"
    } else {
        "  OUTGROWN: recalibrate; it covers"
    };
    format!(
        "{outgrown} {} of the gallery: {added} items were added or changed since, {removed} are gone{}\n",
        percent(share),
        bound.unwrap_or_default()
    )
}
