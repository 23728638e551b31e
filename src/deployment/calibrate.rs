//! From gathered searches to an operating point of this deployment.

use super::calibrated::Calibrated;
use super::remedy::{self, Remedied, RemedyChoice};
use super::{Deployment, DeploymentError, Gathered, IndexCheck};
use crate::clock::now_rfc_3339;
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::analysis::strangers::UnnamedStrangers;
use matchpoint_calibration::growth::{Growth, ahead_of_growth};
use matchpoint_calibration::likeness::{Alike, LabelsAlike, refuse_spellings};
use matchpoint_calibration::operating_point::{
    GrowthAllowed, HeldOutRates, IndexMisses, OperatingPoint, PointPlan,
};
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::recording::RecordedSearch;
use matchpoint_calibration::strangers;

/// What to calibrate for.
#[derive(Clone, Debug)]
pub struct CalibrationSettings {
    /// What the threshold is to achieve.
    pub target: CalibrationTarget,
    /// The seed of the draw of one probe for each label, and of the split into folds.
    pub seed: u64,
    /// The number of items that the gallery will grow to. Only with a target FAR.
    pub grow_to_items: Option<u64>,
    /// What to do about labels that one threshold treats unequally.
    pub remedy: RemedyChoice,
    /// What the caller knows of the queries, and nobody can see in them.
    pub assured: Assured,
}

/// What the caller vouches for; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assured {
    /// Labels that differ by spelling alone are different things.
    pub labels_as_they_are: bool,
    /// Every picture of a stranger whom nobody named shows another one.
    pub strangers_are_distinct: bool,
}

impl Deployment {
    /// Chooses a threshold on gathered searches, for what is served now. Changes nothing: see
    /// [`Deployment::adopt`].
    ///
    /// # Errors
    /// The searches contradict each other, or cannot support the target; or a label that is not
    /// enrolled is another spelling of one that is.
    pub fn calibrate(
        &self,
        gathered: &Gathered,
        settings: &CalibrationSettings,
    ) -> Result<Calibrated, DeploymentError> {
        let assured = settings.assured;
        let taken_apart = assured.spellings(&gathered.alike())?;
        let counted_once = assured.counts_once(gathered.unnamed.as_ref());
        let counted_once = counted_once.then(|| gathered.unnamed_counted_once());
        let gathered = counted_once.as_ref().unwrap_or(gathered);
        // As it was searched, whatever has become of it.
        let binding = self.binding_of(&gathered.snapshot());
        let (target, growth) = settings.tightened(binding.gallery_items)?;
        let Remedied {
            recording,
            choice,
            held_out,
            adjuster,
            mut remarks,
        } = remedy::remedied(gathered, &settings.remedy, target, settings.seed)?;
        remarks.extend(taken_apart);
        remarks.extend(assured.strangers(gathered.unnamed.as_ref(), target)?);
        let trials = recording.trials();
        let plan = PointPlan {
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
    pub fn judged(&self, gathered: &Gathered) -> Result<Vec<RecordedSearch>, DeploymentError> {
        match self.active_point().adjuster() {
            Some(adjuster) => remedy::adjusted(gathered, adjuster),
            None => Ok(gathered.searches.clone()),
        }
    }
}

impl Assured {
    /// What has to be assumed of labels that differ by spelling alone; `None` where there are none.
    ///
    /// # Errors
    /// There are some, and nobody vouches for them.
    pub fn spellings(self, alike: &[Alike]) -> Result<Option<String>, CalibrationError> {
        match refuse_spellings(alike) {
            Ok(()) => Ok(None),
            Err(LabelsAlike { count, .. }) if self.labels_as_they_are => Ok(Some(format!(
                "{count} labels that are another label but for spelling are things of their own, as was said."
            ))),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Whether pictures that may show the same stranger count as one.
    #[must_use]
    pub fn counts_once(self, unnamed: Option<&UnnamedStrangers>) -> bool {
        unnamed.is_some() && !self.strangers_are_distinct
    }

    /// What has to be assumed of strangers whom nobody named; `None` where all are named.
    ///
    /// # Errors
    /// They would carry a certificate, and nobody vouches for them.
    pub fn strangers(
        self,
        unnamed: Option<&UnnamedStrangers>,
        target: CalibrationTarget,
    ) -> Result<Option<String>, CalibrationError> {
        let Some(UnnamedStrangers {
            pictures,
            strangers,
            ..
        }) = unnamed
        else {
            return Ok(None);
        };
        if self.strangers_are_distinct {
            return Ok(Some(format!(
                "{pictures} pictures of strangers whom nobody named show as many different ones, as was said."
            )));
        }
        if let CalibrationTarget::Far(_) = target {
            return Err(strangers::UnnamedRefused {
                pictures: *pictures,
                strangers: *strangers,
            }
            .into());
        }
        Ok(Some(format!(
            "{pictures} pictures of strangers whom nobody named count as {strangers}: those that are as alike as pictures of one label may show the same one."
        )))
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
    ) -> Result<(CalibrationTarget, Option<GrowthAllowed>), CalibrationError> {
        let Some(items) = self.grow_to_items.filter(|items| items_now < *items) else {
            return Ok((self.target, None));
        };
        let growth = Growth {
            items_now,
            items_later: items,
        };
        let tighten = |far| ahead_of_growth(far, growth);
        let (target, asked) = match self.target {
            CalibrationTarget::Far(far) => (CalibrationTarget::Far(tighten(far)?), far),
            CalibrationTarget::FarEstimated(far) => {
                (CalibrationTarget::FarEstimated(tighten(far)?), far)
            }
            CalibrationTarget::Frr(_)
            | CalibrationTarget::EqualError
            | CalibrationTarget::Cost(_) => {
                return Err(CalibrationError::GrowthWithoutTargetFar);
            }
        };
        let target_far = asked.far();
        Ok((target, Some(GrowthAllowed { items, target_far })))
    }
}
