//! From gathered searches to an operating point of this deployment.

use super::{Deployment, DeploymentError, Gathered, IndexCheck, now_rfc_3339};
use crate::calibration::CalibrationError;
use crate::calibration::growth::{Growth, ahead_of_growth};
use crate::calibration::held_out::{Folds, cross_fit};
use crate::calibration::operating_point::{
    GrowthAllowed, HeldOutRates, IndexMisses, OperatingPoint, Plan,
};
use crate::calibration::policy::Target;
use crate::calibration::recording::Recording;

/// What to calibrate for.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationSettings {
    /// What the threshold is to achieve.
    pub target: Target,
    /// The seed of the draw of one probe for each label, and of the split into folds.
    pub seed: u64,
    /// The number of items that the gallery will grow to. Only with a target FAR.
    pub grow_to_items: Option<u64>,
}

impl Deployment {
    /// Chooses a threshold on gathered searches, for what is served now. Changes nothing: see
    /// [`Deployment::adopt`].
    ///
    /// # Errors
    /// The searches contradict each other, or cannot support the target.
    pub fn calibrate(
        &self,
        gathered: &Gathered,
        settings: &CalibrationSettings,
    ) -> Result<(OperatingPoint, Recording), DeploymentError> {
        let recording = Recording::new(gathered.searches.clone())?;
        // As it was searched, whatever has become of it.
        let binding = self.binding_of(&gathered.snapshot());

        let (target, growth) = settings.tightened(binding.gallery_items)?;
        let folds = Folds::new(Folds::COUNT_DEFAULT, settings.seed)?;
        let trials = recording.trials();
        let held_out = cross_fit(target, trials, folds);
        let point = OperatingPoint::calibrated(
            trials,
            Plan {
                created: now_rfc_3339(),
                target,
                seed: settings.seed,
                binding,
                software: format!("matchpoint {}", env!("CARGO_PKG_VERSION")),
                held_out: Some(HeldOutRates::of(&held_out, trials)),
                growth,
                index_check: misses(gathered.index),
            },
        )?;
        Ok((point, recording))
    }
}

fn misses(check: IndexCheck) -> Option<IndexMisses> {
    let IndexCheck { sampled, missed } = check;
    (0 < sampled).then_some(IndexMisses { sampled, missed })
}

impl CalibrationSettings {
    /// The target that a gallery of `items_now` needs, so that what was asked for holds once it
    /// has grown.
    ///
    /// # Errors
    /// Refuses growth with a policy that has no target FAR.
    pub fn tightened(
        &self,
        items_now: u64,
    ) -> Result<(Target, Option<GrowthAllowed>), CalibrationError> {
        let Some(items) = self.grow_to_items.filter(|items| items_now < *items) else {
            return Ok((self.target, None));
        };
        let growth = Growth {
            items_now,
            items_later: items,
        };
        let tighten = |far| ahead_of_growth(far, growth);
        let (target, asked) = match self.target {
            Target::Far(far) => (Target::Far(tighten(far)?), far),
            Target::FarEstimated(far) => (Target::FarEstimated(tighten(far)?), far),
            Target::Frr(_) | Target::EqualError | Target::Cost(_) => {
                return Err(CalibrationError::GrowthWithoutTargetFar);
            }
        };
        let target_far = asked.far();
        Ok((target, Some(GrowthAllowed { items, target_far })))
    }
}
