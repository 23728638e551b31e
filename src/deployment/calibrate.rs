//! From gathered searches to an operating point of this deployment.

use super::remedy::{self, Remedied, RemedyChoice};
use super::{Deployment, DeploymentError, Gathered, IndexCheck, now_rfc_3339};
use crate::calibration::CalibrationError;
use crate::calibration::adjustment::Adjuster;
use crate::calibration::growth::{Growth, ahead_of_growth};
use crate::calibration::operating_point::{
    GrowthAllowed, HeldOutRates, IndexMisses, OperatingPoint, Plan,
};
use crate::calibration::policy::Target;
use crate::calibration::recording::{Recording, Search};

/// What to calibrate for.
#[derive(Clone, Debug)]
pub struct CalibrationSettings {
    /// What the threshold is to achieve.
    pub target: Target,
    /// The seed of the draw of one probe for each label, and of the split into folds.
    pub seed: u64,
    /// The number of items that the gallery will grow to. Only with a target FAR.
    pub grow_to_items: Option<u64>,
    /// What to do about labels that one threshold treats unequally.
    pub remedy: RemedyChoice,
}

/// What a calibration came to: a new operating point, not kept yet.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The operating point.
    pub point: OperatingPoint,
    /// The searches that it was made from.
    pub recording: Recording,
    /// What adjusts the scores; `None` where the similarity decides.
    pub adjuster: Option<Adjuster>,
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
    ) -> Result<Calibrated, DeploymentError> {
        // As it was searched, whatever has become of it.
        let binding = self.binding_of(&gathered.snapshot());
        let (target, growth) = settings.tightened(binding.gallery_items)?;
        let Remedied {
            recording,
            choice,
            held_out,
            adjuster,
            remarks,
        } = remedy::remedied(gathered, &settings.remedy, target, settings.seed)?;
        let trials = recording.trials();
        let plan = Plan {
            created: now_rfc_3339(),
            target,
            seed: settings.seed,
            binding,
            software: format!("matchpoint {}", env!("CARGO_PKG_VERSION")),
            held_out: Some(HeldOutRates::of(&held_out, trials)),
            growth,
            index_check: misses(gathered.index),
            adjustment: adjuster.as_ref().map(|found| found.adjustment().clone()),
            remarks,
        };
        Ok(Calibrated {
            point: OperatingPoint::chosen(&choice, trials, plan)?,
            recording,
            adjuster,
        })
    }

    /// The searches with the scores that are held against the threshold at present.
    ///
    /// # Errors
    /// More searches than vectors are kept for.
    pub fn judged(&self, gathered: &Gathered) -> Result<Vec<Search>, DeploymentError> {
        match self.standing().adjuster() {
            Some(adjuster) => remedy::adjusted(gathered, adjuster),
            None => Ok(gathered.searches.clone()),
        }
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
