//! The operating points of a deployment, and which of them is active.

pub(super) mod active;
pub(super) mod files;
mod judged;
pub(super) mod promise_today;
mod shared_point;
pub(super) mod state;

pub use judged::JudgedPoint;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::deployment::enrolment::maintenance::Maintenance;
use crate::deployment::enrolment::store_standing::StoreStanding;
use crate::deployment::enrolment::writer::ChangeWriter;
use crate::deployment::{
    ActivePoint, Calibrated, Deployment, DeploymentError, Folder, LoadedModel, ValidPoint,
};
use crate::telemetry;
use matchpoint_calibration::adjustment::Adjuster;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::monitoring::predicted_far::predicted_far;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::promised::PromisedTarget;
use matchpoint_calibration::recording::{Flip, Scale, ScaledThreshold};
use matchpoint_gallery::view::GalleryView;
use matchpoint_remote::SharedPoint;

/// The longest time that a worker may spend on one job, dozens of times what the slowest picture within the
/// limits needs.
const JOB_MAX: Duration = Duration::from_secs(60);

/// A change of the active operating point.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The operating point that is active from now on.
    pub point: OperatingPoint,
    /// The etag after this change.
    pub etag: String,
    /// Id of the one that was active before.
    pub previous: Option<String>,
}

/// The decisions that change if one operating point replaces another.
#[derive(Clone, Debug)]
pub struct PointComparison {
    /// The operating point that is replaced.
    pub before: OperatingPoint,
    /// The operating point that replaces it.
    pub after: OperatingPoint,
    /// Id of the one whose searches were judged by both: the first, unless only the second adjusts scores.
    pub recorded: String,
    /// Number of searches.
    pub searches: usize,
    /// The searches that the two decide differently.
    pub flips: Vec<Flip>,
}

/// The recorded searches that operating point `to` decides differently from `from`.
///
/// # Errors
/// Returns an error if either is missing or damaged, if the searches were not stored, or if the two adjust
/// scores in different ways.
pub fn compare_points(
    folder: &Folder,
    from: &str,
    to: &str,
) -> Result<PointComparison, DeploymentError> {
    let (before, after) = (folder.operating_point(from)?, folder.operating_point(to)?);
    let (adjusts, will) = (&before.content().adjustment, &after.content().adjustment);
    // Adjusted scores are recorded only with the searches of the second one.
    let recorded = match (adjusts, will) {
        (_, None) => from,
        (one, other) if one == other => from,
        (None, Some(_)) => to,
        (Some(_), Some(_)) => {
            return Err(DeploymentError::Argument {
                argument: "operating points",
                problem: format!(
                    "{from} and {to} adjust scores in two ways, and no search was recorded with both; compare each with one that holds the similarity against its threshold"
                ),
            });
        }
    };
    let recording = folder.recording(recorded)?;
    let recording = recording.ok_or_else(|| DeploymentError::RecordingMissing {
        id: recorded.to_owned(),
    })?;
    let by = |point: &OperatingPoint| ScaledThreshold {
        threshold: point.threshold(),
        scale: match point.content().adjustment {
            Some(_) => Scale::Held,
            None => Scale::Similarity,
        },
    };
    Ok(PointComparison {
        recorded: recorded.to_owned(),
        searches: recording.searches().len(),
        flips: recording.flips(by(&before), by(&after)),
        before,
        after,
    })
}

/// When an operating point was made; the Unix epoch if its record does not say so.
#[must_use]
pub fn created(point: &OperatingPoint) -> SystemTime {
    humantime::parse_rfc3339(&point.content().created).unwrap_or(UNIX_EPOCH)
}

impl Deployment {
    /// Stores a new operating point with the searches that it was made from. It is not active yet. Blocks, but
    /// does not block other callers.
    ///
    /// # Errors
    /// Returns an error if the operating point does not belong to this deployment, or if the disk fails.
    pub fn keep(&self, calibrated: &Calibrated) -> Result<(), DeploymentError> {
        self.writer()?;
        calibrated.point.check_binding(&self.binding())?;
        // These files never change, so no lock is needed.
        let folder = self.folder();
        folder.add_operating_point(calibrated)
    }

    /// Activates an operating point.
    ///
    /// # Errors
    /// Returns an error if there is no operating point with this id, if it does not fit the deployment, if the
    /// etag is out of date, or if the disk fails.
    pub fn activate(&self, id: &str, etag: Option<&str>) -> Result<Activation, DeploymentError> {
        self.writer()?;
        let _alone = self.lock_activations();
        let folder = self.folder();
        self.check_undamaged(&folder)?;
        self.check_not_held()?;
        let point = folder.operating_point(id)?;
        point.check_binding(&self.binding())?;
        folder.check_etag(etag)?;
        self.share_point(&folder, id)?;
        let mut folder = self.lock_folder();
        let adjuster = folder.adjuster(&point)?;
        let previous = folder.record().active_operating_point.clone();
        folder.activate(point.id(), etag)?;
        Ok(self.now_decides(&folder, point, adjuster, previous))
    }

    /// Nobody else changes the active operating point as long as this is held. The folder itself is locked only
    /// while it is written: whoever asks for its record does not wait for the store.
    pub(in crate::deployment) fn lock_activations(&self) -> MutexGuard<'_, ()> {
        let lock = self.activations.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses an operating point in the store, if there is one, before it is activated here. Waits for the store.
    fn share_point(&self, folder: &Folder, id: &str) -> Result<(), DeploymentError> {
        match self.writer()?.standing() {
            Some(_) => self.writer()?.choose(folder.shared_point(id)?),
            None => Ok(()),
        }
    }

    /// Activates the operating point that another server has chosen, if one waits. If it cannot be
    /// activated here, every decision is UNDECIDED, as the others decide by it.
    ///
    /// # Errors
    /// Returns an error if it does not fit the deployment, or if the disk fails.
    pub fn follow_point(&self) -> Result<(), DeploymentError> {
        let _alone = self.lock_activations();
        let Some(standing) = self.standing() else {
            return Ok(());
        };
        let Some(shared) = standing.waiting_point() else {
            return Ok(());
        };
        let followed = self.follow_shared(&shared);
        if let Err(error) = &followed {
            let problem = format!("the store's operating point {}: {error}", shared.id);
            let unreadable = ActivePoint::Unreadable(problem);
            self.active_point.store(Arc::new(unreadable));
            standing.decides_by_nothing();
        }
        followed
    }

    fn follow_shared(&self, shared: &SharedPoint) -> Result<(), DeploymentError> {
        let folder = self.folder();
        self.check_undamaged(&folder)?;
        let point = folder.add_shared_point(shared)?;
        point.check_binding(&self.binding())?;
        let adjuster = folder.adjuster(&point)?;
        let mut folder = self.lock_folder();
        let previous = folder.record().active_operating_point.clone();
        folder.activate_shared(&shared.id)?;
        let activation = self.now_decides(&folder, point, adjuster, previous);
        tracing::info!(
            deployment = self.name,
            operating_point = activation.point.id(),
            "decides by the store's operating point"
        );
        Ok(())
    }

    /// Whether another server has chosen an operating point that is not active here yet.
    #[must_use]
    pub fn point_waits(&self) -> bool {
        self.standing()
            .is_some_and(|standing| standing.waiting_point().is_some())
    }

    /// Activates the operating point that was active before the present one.
    ///
    /// # Errors
    /// Returns an error if there was none, if it no longer fits, if the etag is out of date, or if the disk
    /// fails.
    pub fn roll_back(&self, etag: Option<&str>) -> Result<Activation, DeploymentError> {
        self.writer()?;
        let _alone = self.lock_activations();
        let folder = self.folder();
        self.check_undamaged(&folder)?;
        self.check_not_held()?;
        let earlier = folder.record().history.last();
        let earlier = earlier.ok_or(DeploymentError::NothingToRollBackTo)?;
        let point = folder.operating_point(earlier)?;
        point.check_binding(&self.binding())?;
        let adjuster = folder.adjuster(&point)?;
        let previous = folder.record().active_operating_point.clone();
        folder.check_etag(etag)?;
        self.share_point(&folder, point.id())?;
        let mut folder = self.lock_folder();
        folder.roll_back(etag)?;
        Ok(self.now_decides(&folder, point, adjuster, previous))
    }

    /// What follows from a change of the record, under the same lock, so that the two cannot differ.
    fn now_decides(
        &self,
        folder: &Folder,
        point: OperatingPoint,
        adjuster: Option<Adjuster>,
        previous: Option<String>,
    ) -> Activation {
        let valid = self.valid_point(folder, point.clone(), adjuster);
        self.active_point.store(Arc::new(ActivePoint::Valid(valid)));
        if let Some(standing) = self.standing() {
            standing.decides_by(point.id());
        }
        // After the store: damage that is found from now on holds back by itself.
        self.hold_back();
        self.publish_active_point(
            previous
                .as_deref()
                .filter(|previous| *previous != point.id()),
        );
        Activation {
            point,
            etag: folder.etag(),
            previous,
        }
    }

    /// Loads the active operating point when the deployment is opened. If it cannot be read, every decision is
    /// UNDECIDED, and a new one can replace it.
    pub(in crate::deployment) fn load_active_point(&self) {
        let folder = self.folder();
        let active = match folder.active_operating_point() {
            Ok(None) => ActivePoint::Missing,
            Ok(Some(point)) => match point.check_binding(&self.binding()) {
                Ok(()) => match folder.adjuster(&point) {
                    Ok(adjuster) => ActivePoint::Valid(self.valid_point(&folder, point, adjuster)),
                    Err(error) => ActivePoint::Unreadable(error.to_string()),
                },
                Err(mismatch) => ActivePoint::Mismatch(mismatch),
            },
            Err(error) => ActivePoint::Unreadable(error.to_string()),
        };
        if active.valid().is_none()
            && let Some(standing) = self.standing()
        {
            standing.decides_by_nothing();
        }
        self.active_point.store(Arc::new(active));
        self.hold_back();
    }

    /// From now on, compares the gallery with the items that the operating point was calibrated on.
    fn valid_point(
        &self,
        folder: &Folder,
        point: OperatingPoint,
        adjuster: Option<Adjuster>,
    ) -> ValidPoint {
        let items = folder.calibrated_items(&point).map(Arc::new);
        let traffic = folder.calibrated_traffic(point.id()).inspect_err(|error| {
            tracing::warn!(
                deployment = self.name,
                %error,
                "what searches of the calibration looked like cannot be read: traffic is compared with nothing; recalibrate, or restore the file"
            );
        });
        let traffic = traffic.ok().flatten().map(Arc::new);
        // If a write has failed, nothing is compared and nothing is promised any more.
        let compared = self.gallery.compare_with(items.as_ref().ok().cloned());
        let items = items.and_then(|items| Ok(compared.map(|()| items)?));
        let items = items.map_err(|error| error.to_string());
        if let Err(problem) = &items {
            tracing::warn!(
                deployment = self.name,
                problem,
                "which items were calibrated on is not known: nothing is promised once the gallery changes; recalibrate"
            );
        }
        ValidPoint {
            point: Arc::new(point),
            adjuster: adjuster.map(Box::new),
            items,
            traffic,
        }
    }

    /// Nothing decides again until a damaged deployment has been opened anew, whichever point is chosen.
    fn check_undamaged(&self, folder: &Folder) -> Result<(), DeploymentError> {
        if let Some(reason) = self.standing().and_then(StoreStanding::stopped) {
            let reason = reason.to_owned();
            return Err(DeploymentError::StoreStopped { reason });
        }
        self.damage().map_or(Ok(()), |damage| {
            Err(DeploymentError::Damaged {
                path: folder.gallery_file(),
                problem: damage.to_owned(),
            })
        })
    }

    /// Makes every decision UNDECIDED after an item has changed on the disk.
    fn hold_back(&self) {
        if let Some(damage) = self.damage() {
            let damaged = ActivePoint::GalleryDamaged(damage.to_owned());
            self.active_point.store(Arc::new(damaged));
        }
    }

    /// The change that was found on the disk since the deployment was opened, or how its items differ from those
    /// of its store. After it nothing is accepted.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        let on_disk = self.maintenance.get().and_then(Maintenance::damage);
        on_disk.or_else(|| self.standing().and_then(StoreStanding::stopped))
    }

    /// Whether its store is known to have more than this for longer than allowed.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.standing().is_some_and(StoreStanding::is_too_late)
    }

    fn standing(&self) -> Option<&StoreStanding> {
        self.writer.as_ref().and_then(ChangeWriter::standing)
    }

    /// Announces the deployment to Prometheus, in place of the earlier one with the same name.
    pub fn publish(&self, earlier: Option<&Self>) {
        if let Some(watch) = &self.folder_watch {
            watch.publish();
        }
        if self.qdrant.is_some() {
            telemetry::index_started(&self.name);
        }
        let Some(earlier) = earlier else {
            telemetry::deployment_started(self.metric_labels());
            return self.publish_active_point(None);
        };
        telemetry::deployment_ended(earlier.metric_labels());
        telemetry::deployment_started(self.metric_labels());
        let (before, now) = (earlier.active_point.load(), self.active_point.load());
        let before = before.valid().map(OperatingPoint::id);
        let now = now.valid().map(OperatingPoint::id);
        earlier.monitor.end();
        // The canaries may be those of another folder, even if the operating point is the same.
        if let Some(round) = earlier.monitor.latest_canaries() {
            telemetry::canaries_ended(&self.name, &round.operating_point);
        }
        self.publish_active_point(before.filter(|before| Some(*before) != now));
        self.monitor.evaluate_soon();
    }

    fn metric_labels(&self) -> telemetry::DeploymentLabels<'_> {
        let model = &self.loaded.model;
        telemetry::DeploymentLabels {
            name: &self.name,
            model: model.name(),
            fingerprint: model.fingerprint(),
            precision: model.precision(),
            execution_provider: model.provider(),
        }
    }

    fn publish_active_point(&self, previous: Option<&str>) {
        let active = self.active_point.load();
        let active = active.valid().map(|point| telemetry::OperatingPointGauges {
            id: point.id(),
            threshold: point.threshold().get(),
            target_far: point.content().target_far().map(TargetFar::far),
            far_upper_bound: point.content().far_bound(),
            created: created(point),
        });
        telemetry::operating_point_activated(&self.name, previous, active);
        self.publish_size();
    }

    /// Updates the gauges that change without a call of this deployment, and gives up workers that are
    /// stuck.
    pub fn publish_gauges(&self) {
        let LoadedModel { model, pool, .. } = &self.loaded;
        pool.give_up_after(JOB_MAX);
        let dropped = pool.take_dropped();
        telemetry::queue_seen(
            model.name(),
            model.precision(),
            pool.queue_len(),
            [dropped.gone, dropped.late, dropped.displaced, dropped.stuck],
        );
        self.publish_size();
        if let Some(standing) = self.standing() {
            telemetry::store_followed(&self.name, standing.lag(), standing.is_writer());
        }
    }

    /// Whether so many of its workers are stuck that the process should be restarted.
    #[must_use]
    pub fn is_worn_out(&self) -> bool {
        self.loaded.pool.is_worn_out()
    }

    pub(in crate::deployment) fn publish_size(&self) {
        let (view, active) = (self.gallery.view(), self.active_point.load_full());
        telemetry::state_decides(&self.name, self.state_of(&view, &active));
        let today = active.promise_in(&view);
        let coverage = today.and_then(|today| today.coverage);
        let extent = today.map_or(view.len() as u64, |today| today.extent);
        telemetry::gallery_changed(
            &self.name,
            telemetry::GalleryGauges {
                items: view.len(),
                labels: view.label_count(),
                generation: view.generation(),
                index_bytes: view.index_bytes(),
                extent,
                coverage: coverage.map(Coverage::share),
                far_bound: today.and_then(|today| today.far_bound),
                calibrated: active
                    .valid()
                    .map(|point| (point.id(), point.content().covered_items())),
            },
        );
        if let ActivePoint::GalleryDamaged(_) = &*active {
            // The chosen one does not decide any more, and no other took its place.
            let folder = self.folder();
            let chosen = folder.record().active_operating_point.as_deref();
            telemetry::operating_point_activated(&self.name, chosen, None);
        }
        let Some(point) = active.valid() else {
            return;
        };
        for one in self.promised_in(&active, &view) {
            telemetry::promise_seen(&self.name, point.id(), one.rate.as_str(), one.stands());
        }
        // How many items were added is not known without the coverage.
        let far = coverage.and_then(|_| predicted_far(point.content(), extent));
        let bounds = far.map(|far| [far.estimate, far.upper]);
        telemetry::far_predicted(&self.name, point.id(), bounds);
    }

    /// The promises of an operating point, by what is left of each in this state of the gallery; empty if it makes none.
    #[must_use]
    pub fn promised_in(&self, active: &ActivePoint, view: &GalleryView) -> Vec<PromisedTarget> {
        let mut promised = active.promised_in(view);
        if self.folder_has_changed() {
            for one in &mut promised {
                one.bound = None;
                one.foreseen = false;
                one.ended = Some("the folder has changed since it was opened".to_owned());
            }
        }
        promised
    }
}
