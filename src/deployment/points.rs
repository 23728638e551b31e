//! What decides in a deployment: its operating points, and which of them is active.

use std::sync::Arc;

use super::{Deployment, DeploymentError, Folder, LoadedModel, Standing, created};
use crate::calibration::certify::TargetFar;
use crate::calibration::operating_point::OperatingPoint;
use crate::calibration::recording::{Flip, Recording};
use crate::telemetry;

/// A choice of operating point, as it was made.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The operating point that decides from now on.
    pub point: OperatingPoint,
    /// Etag of this choice.
    pub etag: String,
    /// Id of the one that was active before.
    pub previous: Option<String>,
}

/// What changes where one operating point takes the place of another.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The one that is replaced.
    pub before: OperatingPoint,
    /// The one that takes its place.
    pub after: OperatingPoint,
    /// Recorded searches of the first that were judged by both.
    pub searches: usize,
    /// Those that the two decide differently.
    pub flips: Vec<Flip>,
}

/// The searches that operating point `from` was made from and that `to` decides otherwise.
///
/// # Errors
/// Either is missing or damaged, or the searches were not kept.
pub fn compare_points(
    folder: &Folder,
    from: &str,
    to: &str,
) -> Result<Comparison, DeploymentError> {
    let (before, after) = (folder.operating_point(from)?, folder.operating_point(to)?);
    let recording = folder.recording(from)?;
    let recording = recording.ok_or_else(|| DeploymentError::RecordingMissing {
        id: from.to_owned(),
    })?;
    Ok(Comparison {
        searches: recording.searches().len(),
        flips: recording.flips(before.threshold(), after.threshold()),
        before,
        after,
    })
}

impl Deployment {
    /// Every operating point, oldest first, the id of the active one, and the etag of that choice.
    ///
    /// # Errors
    /// A damaged operating point, or the disk.
    pub fn operating_points(
        &self,
    ) -> Result<(Vec<OperatingPoint>, Option<String>, String), DeploymentError> {
        let folder = self.folder();
        let active = folder.record().active_operating_point.clone();
        Ok((folder.operating_points()?, active, folder.etag()))
    }

    /// One operating point, or the active one, whether it is the active one, and the etag of the
    /// choice.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn operating_point(
        &self,
        id: Option<&str>,
    ) -> Result<(OperatingPoint, bool, String), DeploymentError> {
        let folder = self.folder();
        let active = folder.record().active_operating_point.as_deref();
        let none = || DeploymentError::OperatingPointNotFound {
            id: "(active)".to_owned(),
        };
        let id = id.or(active).ok_or_else(none)?;
        Ok((
            folder.operating_point(id)?,
            active == Some(id),
            folder.etag(),
        ))
    }

    /// Keeps a new operating point with the searches that it was made from. It decides nothing
    /// yet. Blocks; keeps nobody else waiting.
    ///
    /// # Errors
    /// It does not belong here, or the disk.
    pub fn keep(
        &self,
        point: &OperatingPoint,
        recording: &Recording,
    ) -> Result<(), DeploymentError> {
        self.writer()?;
        point.check_binding(&self.binding())?;
        // Files that never change need no guard.
        let folder = self.folder().clone();
        folder.add_operating_point(point, recording)
    }

    /// [`Deployment::keep`] and [`Deployment::activate`].
    ///
    /// # Errors
    /// As these.
    pub fn adopt(
        &self,
        point: &OperatingPoint,
        recording: &Recording,
    ) -> Result<Activation, DeploymentError> {
        self.keep(point, recording)?;
        self.activate(point.id(), None)
    }

    /// Etag of the present choice.
    #[must_use]
    pub fn etag(&self) -> String {
        self.folder().etag()
    }

    /// Makes an operating point decide from now on.
    ///
    /// # Errors
    /// There is none of this id, it does not belong here, the etag is out of date, or the disk.
    pub fn activate(&self, id: &str, etag: Option<&str>) -> Result<Activation, DeploymentError> {
        let mut folder = self.folder();
        let point = folder.operating_point(id)?;
        point.check_binding(&self.binding())?;
        self.decide_by(&mut folder, point, etag)
    }

    /// Makes the operating point decide that did before the present one.
    ///
    /// # Errors
    /// There was none, it does not belong here any more, the etag is out of date, or the disk.
    pub fn roll_back(&self, etag: Option<&str>) -> Result<Activation, DeploymentError> {
        let mut folder = self.folder();
        let earlier = folder.record().history.last();
        let earlier = earlier.ok_or(DeploymentError::NothingToRollBackTo)?;
        let point = folder.operating_point(earlier)?;
        point.check_binding(&self.binding())?;
        let previous = folder.record().active_operating_point.clone();
        folder.roll_back(etag)?;
        Ok(self.now_decides(&folder, point, previous))
    }

    /// The searches that operating point `from` was made from and that `to` decides otherwise.
    ///
    /// # Errors
    /// Either is missing or damaged, or the searches were not kept.
    pub fn compare(&self, from: &str, to: &str) -> Result<Comparison, DeploymentError> {
        let folder = self.folder().clone();
        compare_points(&folder, from, to)
    }

    /// The searches that an operating point was made from; `None` where they were not kept.
    ///
    /// # Errors
    /// There is no such operating point, or its recording is damaged.
    pub fn recording(&self, id: &str) -> Result<Option<Recording>, DeploymentError> {
        let folder = self.folder().clone();
        folder.recording(id)
    }

    /// Record and standing change under one guard, so that they cannot come to differ.
    fn decide_by(
        &self,
        folder: &mut Folder,
        point: OperatingPoint,
        etag: Option<&str>,
    ) -> Result<Activation, DeploymentError> {
        let previous = folder.record().active_operating_point.clone();
        folder.activate(point.id(), etag)?;
        Ok(self.now_decides(folder, point, previous))
    }

    fn now_decides(
        &self,
        folder: &Folder,
        point: OperatingPoint,
        previous: Option<String>,
    ) -> Activation {
        self.standing
            .store(Arc::new(Standing::Valid(Box::new(point.clone()))));
        self.publish_standing(
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

    /// Finds out at opening what decides. An operating point that cannot be read decides nothing,
    /// and can be replaced by a new one.
    pub(super) fn take_standing(&self) {
        let standing = match self.folder().active_operating_point() {
            Ok(None) => Standing::Missing,
            Ok(Some(point)) => match point.check_binding(&self.binding()) {
                Ok(()) => Standing::Valid(Box::new(point)),
                Err(mismatch) => Standing::Mismatch(mismatch),
            },
            Err(error) => Standing::Unreadable(error.to_string()),
        };
        self.standing.store(Arc::new(standing));
    }

    /// Announces the deployment to Prometheus.
    pub fn publish(&self) {
        let model = &self.loaded.model;
        telemetry::deployment_started(telemetry::DeploymentLabels {
            name: &self.name,
            model: model.name(),
            fingerprint: model.fingerprint(),
            execution_provider: model.provider(),
        });
        self.publish_standing(None);
        self.publish_size();
    }

    fn publish_standing(&self, previous: Option<&str>) {
        let standing = self.standing.load();
        let active = standing
            .valid()
            .map(|point| telemetry::OperatingPointGauges {
                id: point.id(),
                threshold: point.threshold().get(),
                target_far: point.content().target_far().map(TargetFar::far),
                far_upper_bound: point.content().far_bound(),
                created: created(point),
            });
        telemetry::operating_point_activated(&self.name, previous, active);
        self.publish_size();
    }

    /// Brings the gauges up to date that change without a call of this deployment.
    pub fn publish_gauges(&self) {
        let LoadedModel { model, pool, .. } = &self.loaded;
        telemetry::queue_length(model.name(), pool.queue_len());
        self.publish_size();
    }

    pub(super) fn publish_size(&self) {
        let (snapshot, standing) = (self.gallery.snapshot(), self.standing.load());
        telemetry::gallery_changed(
            &self.name,
            telemetry::GallerySize {
                items: snapshot.len(),
                labels: snapshot.label_count(),
                generation: snapshot.generation(),
                calibrated: standing
                    .valid()
                    .map(|point| (point.id(), point.content().valid_to_items())),
            },
        );
    }
}
