//! How an operating point does in service, for whoever asks.

use super::alarms::Alarms;
use super::audited::{Known, Span, any_labelled, drift};
use super::clock::now_ms;
use super::resets::{RESETS_MAX, Reset, Resets, keep};
use super::{Deployment, DeploymentError};
use crate::journal::entry::TEXT_BYTES_MAX;
use matchpoint_calibration::monitoring::drift::DriftAssessment;
use matchpoint_calibration::monitoring::history::HistoryPoint;
use matchpoint_calibration::operating_point::OperatingPoint;

/// How an operating point does in service.
#[derive(Clone, Debug)]
pub struct InService {
    /// The operating point.
    pub point: OperatingPoint,
    /// What is known of it, since it decides or since the latest reset.
    pub drift: DriftAssessment,
    /// How its rates came to what they are.
    pub course: Vec<HistoryPoint>,
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
        let known = Known {
            items: items as u64,
            advise: Some(&*self.gallery),
            alarms: &alarms,
            enrolments: &monitor.enrolments,
        };
        let (mut drift, told) = drift(&reader, point, &span, &known)?;
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

    /// Begins evidence, alarms and CUSUM of the operating point that decides anew from now on: what made
    /// them rise is mended. What was recorded stays, and enters no rate any more. Blocks.
    ///
    /// While no decision since the latest reset has a label, that one is moved to now and costs nothing,
    /// so that the call may be repeated.
    ///
    /// # Errors
    /// No operating point decides, a reason or name that is empty or too long, too many resets, decisions
    /// are not recorded, or the disk.
    pub fn reset_drift(&self, why: &str, said_by: &str) -> Result<Reset, DeploymentError> {
        let monitor = self.monitor()?;
        let why = text("why", why)?;
        let said_by = match said_by.trim() {
            "" => "unnamed".to_owned(),
            name => text("said_by", name)?,
        };
        // One at a time: the file is read, and then replaced.
        let _turn = monitor.turn();
        let standing = self.standing.load_full();
        let point = standing
            .valid()
            .ok_or(DeploymentError::NothingDecides)?
            .id()
            .to_owned();
        let folder = self.path();
        let known = Resets::of(&folder, &point, monitor.since_ms).into_all();
        let instead = match known.last() {
            Some(latest) => !any_labelled(&monitor.reader()?, &point, latest.unix_ms)?,
            None => false,
        };
        if !instead && RESETS_MAX <= known.len() {
            return Err(DeploymentError::TooManyResets { limit: RESETS_MAX });
        }
        let reset = Reset {
            operating_point: point,
            unix_ms: now_ms(),
            why,
            said_by,
        };
        keep(&folder, &reset, instead)?;
        monitor.look_again();
        Ok(reset)
    }
}

fn text(argument: &'static str, text: &str) -> Result<String, DeploymentError> {
    let text = text.trim();
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(DeploymentError::Argument {
        argument,
        problem: format!("must have 1 to {TEXT_BYTES_MAX} bytes"),
    })
}
