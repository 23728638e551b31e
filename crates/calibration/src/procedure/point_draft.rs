//! An operating point in the making: its target, then its trials.

use super::settings::{Assured, ThresholdSettings};
use crate::CalibrationError;
use crate::adjustment::Adjustment;
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::strangers::UnnamedStrangers;
use crate::held_out::{Folds, HeldOut, cross_fit};
use crate::operating_point::{
    Binding, GrowthAllowed, HeldOutRates, IndexMisses, OperatingPoint, PointPlan,
};
use crate::policy::{CalibrationTarget, Choice, choose};
use crate::trials::Trials;

/// What stands in an operating point as the software that made it.
const SOFTWARE: &str = concat!("matchpoint ", env!("CARGO_PKG_VERSION"));

/// A threshold, and how the way to choose it does on labels that did not choose.
#[derive(Clone, Debug)]
pub struct ChosenThreshold {
    /// The threshold.
    pub choice: Choice,
    /// Rates by cross-fitting.
    pub held_out: HeldOut,
}

impl ChosenThreshold {
    /// Chooses a threshold on these trials.
    ///
    /// # Errors
    /// As [`choose`].
    pub fn on(
        trials: &Trials,
        target: CalibrationTarget,
        seed: u64,
    ) -> Result<Self, CalibrationError> {
        let folds = Folds::new(Folds::COUNT_DEFAULT, seed)?;
        Ok(Self {
            choice: choose(target, trials, seed)?,
            held_out: cross_fit(target, trials, folds),
        })
    }
}

/// What an operating point rests on.
#[derive(Debug)]
pub struct PointTrials<'a> {
    /// The threshold.
    pub chosen: &'a ChosenThreshold,
    /// All trials, which are measured at it.
    pub trials: &'a Trials,
    /// What is held against the threshold, where that is not the plain similarity.
    pub adjustment: Option<Adjustment>,
    /// The index against exact search; `None` where the search was exact.
    pub index_check: Option<IndexMisses>,
    /// What pictures of strangers are worth whom nobody named; `None` where all are named.
    pub unnamed: Option<&'a UnnamedStrangers>,
    /// Labels of strangers that may be fewer things than they are; `None` if there are none.
    pub crowded: Option<&'a CrowdedStrangers>,
    /// What has to be assumed: whole sentences.
    pub remarks: Vec<String>,
}

/// An operating point in the making: what it is for, and what it will be valid for.
#[derive(Clone, Debug)]
pub struct PointDraft {
    created: String,
    binding: Binding,
    target: CalibrationTarget,
    growth: Option<GrowthAllowed>,
    seed: u64,
    assured: Assured,
}

impl PointDraft {
    /// Begins with what was searched; `created` is the time, RFC 3339.
    ///
    /// # Errors
    /// Refuses growth with a policy that has no target FAR.
    pub fn new(
        settings: &ThresholdSettings,
        binding: Binding,
        created: String,
    ) -> Result<Self, CalibrationError> {
        let (target, growth) = settings.tightened(binding.gallery_items)?;
        Ok(Self {
            created,
            binding,
            target,
            growth,
            seed: settings.seed,
            assured: settings.assured,
        })
    }

    /// What to choose for: the target that was asked for, or the tighter one that the gallery needs
    /// today so that it holds once the gallery has grown.
    #[must_use]
    pub fn target(&self) -> CalibrationTarget {
        self.target
    }

    /// The operating point.
    ///
    /// # Errors
    /// [`CalibrationError::EmptyGallery`] where nothing was enrolled, and the refusal of strangers
    /// whom nobody named and nobody vouches for, where they would carry a certificate.
    pub fn point(self, from: PointTrials<'_>) -> Result<OperatingPoint, CalibrationError> {
        let ChosenThreshold { choice, held_out } = from.chosen;
        let mut remarks = from.remarks;
        remarks.extend(self.assured.strangers(from.unnamed, self.target)?);
        remarks.extend(self.assured.crowded(from.crowded));
        let plan = PointPlan {
            created: self.created,
            target: self.target,
            seed: self.seed,
            binding: self.binding,
            software: SOFTWARE.to_owned(),
            held_out: Some(HeldOutRates::of(held_out, from.trials)),
            growth: self.growth,
            index_check: from.index_check,
            adjustment: from.adjustment,
            remarks,
        };
        OperatingPoint::chosen(choice, from.trials, plan)
    }
}
