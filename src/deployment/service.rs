//! How an operating point does in service, for whoever asks.

use super::alarms::Alarms;
use super::audited::{Span, drift};
use super::resets::{Reset, Resets};
use super::{Deployment, DeploymentError};
use crate::calibration::operating_point::OperatingPoint;
use crate::monitoring::course::CoursePoint;
use crate::monitoring::drift::Drift;

/// How an operating point does in service.
#[derive(Clone, Debug)]
pub struct InService {
    /// The operating point.
    pub point: OperatingPoint,
    /// What is known of it, since it decides or since the latest reset.
    pub drift: Drift,
    /// How its rates came to what they are.
    pub course: Vec<CoursePoint>,
    /// When and why its evidence was begun anew, the earliest first.
    pub resets: Vec<Reset>,
}

impl Deployment {
    /// How an operating point does in service, or did: the one of this id, or without one that which
    /// decides; `None` where none is valid. Blocks.
    ///
    /// # Errors
    /// There is none of this id, decisions are not recorded, the journal is damaged, or the disk.
    pub fn drift(&self, id: Option<&str>) -> Result<Option<InService>, DeploymentError> {
        let monitor = self.monitor()?;
        let reader = monitor.reader()?;
        let standing = self.standing.load_full();
        let active = standing.valid();
        let earlier = match id.filter(|id| Some(*id) != active.map(OperatingPoint::id)) {
            Some(id) => Some(self.folder().clone().operating_point(id)?),
            None => None,
        };
        let Some(point) = earlier.as_ref().or(active) else {
            return Ok(None);
        };
        let folder = self.path();
        let resets = Resets::of(&folder, point.id(), monitor.since_ms);
        let span = Span::of(&monitor.strata, monitor.delta, &resets);
        let alarms = Alarms::of(&folder, point.id(), span.since_ms);
        // The gallery of today is nothing that an earlier one had to hold for.
        let items = if earlier.is_some() {
            0
        } else {
            self.gallery.len()
        };
        let gallery = (items as u64, Some(&*self.gallery));
        let kept = (&alarms, &*monitor.enrolments);
        let (mut drift, told) = drift(&reader, point, &span, gallery, kept)?;
        let round = self.canaries();
        if let Some(round) = round.filter(|round| round.operating_point == point.id()) {
            drift.add(round.rates.findings(round.changed.len()));
        }
        Ok(Some(InService {
            point: point.clone(),
            drift,
            course: told.course(&monitor.strata)?,
            resets: resets.into_all(),
        }))
    }
}
