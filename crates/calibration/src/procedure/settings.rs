//! What a threshold is asked for.

use crate::CalibrationError;
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::strangers::UnnamedStrangers;
use crate::certify_frr::TargetFrr;
use crate::growth::{Growth, ahead_of_growth};
use crate::likeness::{Alike, LabelsAlike, refuse_spellings};
use crate::operating_point::GrowthAllowed;
use crate::policy::CalibrationTarget;
use crate::strangers;

/// What a threshold is asked for.
#[derive(Clone, Debug)]
pub struct ThresholdSettings {
    /// What the threshold is to achieve.
    pub target: CalibrationTarget,
    /// The seed of the draw of one probe for each label, and of the split into folds.
    pub seed: u64,
    /// The number of items that the gallery will grow to. Only with a target FAR.
    pub grow_to_items: Option<u64>,
    /// What the caller knows of the queries, and nobody can see in them.
    pub assured: Assured,
    /// A metadata column of the queries: the target FAR is certified for each of its values among the
    /// strangers. Only with a certified target FAR.
    pub worst_group_of: Option<String>,
    /// The share of mated searches that may be rejected unseen, or accepted with a wrong label: more than
    /// that goes to a person. Only with a target FAR.
    pub review: Option<TargetFrr>,
}

/// What the caller vouches for; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assured {
    /// Labels that differ by spelling alone are different things.
    pub labels_as_they_are: bool,
    /// Every picture of a stranger whom nobody named shows another one, and so do labels of strangers who are
    /// nearly alike.
    pub strangers_are_distinct: bool,
}

impl ThresholdSettings {
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
    pub fn counts_once(self) -> bool {
        !self.strangers_are_distinct
    }

    /// What has to be assumed of strangers who stand nearer to each other than different things do;
    /// `None` if there are none.
    #[must_use]
    pub fn crowded(self, crowded: Option<&CrowdedStrangers>) -> Option<String> {
        let crowded = crowded?;
        Some(if self.strangers_are_distinct {
            let labels = crowded.labels;
            format!(
                "{labels} labels of strangers who are nearly alike are different things, as was said."
            )
        } else {
            format!("{}.", crowded.describe())
        })
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
