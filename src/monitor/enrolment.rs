//! Records items that are enrolled although the gallery accepts them as items of other labels.

use super::lookalikes::{Lookalike, OtherItem};
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::telemetry;
use matchpoint_calibration::operating_point::OperatingPoint;

impl Monitor {
    /// Records which items of other labels an enrolled item is accepted as. `others` has the nearest first; it
    /// is `None` if this was not checked.
    pub fn enrolled(&self, item: &str, label: &str, others: Option<&[OtherItem]>) {
        let deployment = self.observed().name();
        let Some(others) = others else {
            telemetry::enrolment_checked(deployment, "unchecked");
            return;
        };
        let active = self.observed().active_point();
        let Some((nearest, point)) = others.first().zip(active) else {
            telemetry::enrolment_checked(deployment, "apart");
            return;
        };
        telemetry::enrolment_checked(deployment, "lookalike");
        let found = Lookalike {
            unix_ms: now_ms(),
            item: item.to_owned(),
            label: label.to_owned(),
            others: others.len(),
            nearest: nearest.clone(),
        };
        // Logged only for the first one, because a faulty import has thousands.
        if self.lookalikes.take(point.id(), found) {
            tracing::warn!(
                deployment,
                item,
                label,
                accepted_as = nearest.item,
                of_label = nearest.label,
                "an item was enrolled that is accepted as another; further ones are counted and listed (`matchpoint drift report`)"
            );
        }
    }

    /// Items that were accepted as items of other labels when they were enrolled under the active operating
    /// point, and that still exist, like those others; the latest first.
    #[must_use]
    pub fn enrolled_lookalikes(&self) -> Vec<Lookalike> {
        let active = self.observed().active_point();
        let point = active.as_deref().map(OperatingPoint::id);
        let mut found = self.lookalikes.of(point.unwrap_or_default());
        let gallery = self.observed().gallery();
        let is_there =
            |item: &str, label: &str| gallery.get(item).is_some_and(|head| head.label == label);
        found.retain(|one| {
            is_there(&one.item, &one.label) && is_there(&one.nearest.item, &one.nearest.label)
        });
        found
    }
}
