//! Settings for choosing a threshold.

use crate::CalibrationError;
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::shared_pictures::SharedPictures;
use crate::analysis::strangers::UnnamedStrangers;
use crate::certify_frr::TargetFrr;
use crate::growth::{Growth, ahead_of_growth};
use crate::likeness::{Alike, LabelsAlike, refuse_spellings};
use crate::operating_point::GrowthAllowed;
use crate::policy::CalibrationTarget;
use crate::strangers;

/// Settings for choosing a threshold.
#[derive(Clone, Debug)]
pub struct ThresholdSettings {
    /// The policy and the error rate that the threshold has to achieve.
    pub target: CalibrationTarget,
    /// Seed for drawing one probe of each label and for splitting the labels into folds.
    pub seed: u64,
    /// Number of items that the gallery is expected to grow to. Needs a target FAR.
    pub grow_to_items: Option<u64>,
    /// Facts about the queries that the caller vouches for, because the data cannot show them.
    pub assured: Assured,
    /// A metadata column of the queries. The target FAR is certified for the strangers of each
    /// value of this column. Needs a certified target FAR.
    pub worst_group_of: Option<String>,
    /// The largest share of mated searches that may be rejected without review or accepted with a
    /// wrong label. A review band sends others to a person to keep to it. Needs a target FAR.
    pub review: Option<TargetFrr>,
}

/// Facts that the caller vouches for; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assured {
    /// Labels that differ only in spelling are different things.
    pub labels_as_they_are: bool,
    /// Each picture of an unnamed stranger shows a different one, and labels of strangers whose
    /// embeddings are nearly alike are different things.
    pub strangers_are_distinct: bool,
}

/// Refuses a promise about mates from a gallery that searches itself: items that find each other are accepted both or
/// neither.
///
/// # Errors
/// Returns [`CalibrationError::MutualMates`] for a target FRR and for a review band.
pub fn refuse_mutual_mates(
    target: CalibrationTarget,
    review: Option<TargetFrr>,
) -> Result<(), CalibrationError> {
    if matches!(target, CalibrationTarget::Frr(_)) || review.is_some() {
        return Err(CalibrationError::MutualMates);
    }
    Ok(())
}

impl ThresholdSettings {
    /// The target that a gallery of `items_now` items needs today, so that the requested target
    /// holds after the gallery has grown.
    ///
    /// # Errors
    /// Returns an error if growth is asked for and the policy has no target FAR, or if the gallery has so many items
    /// already.
    pub fn tightened(
        &self,
        items_now: u64,
    ) -> Result<(CalibrationTarget, Option<GrowthAllowed>), CalibrationError> {
        let Some(items) = self.grow_to_items else {
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
    /// The assumption about labels that differ only in spelling; `None` if there are no such
    /// labels.
    ///
    /// # Errors
    /// Returns an error if there are such labels and the caller does not vouch for them.
    pub fn spellings(self, alike: &[Alike]) -> Result<Option<String>, CalibrationError> {
        match refuse_spellings(alike) {
            Ok(()) => Ok(None),
            Err(LabelsAlike { count, .. }) if self.labels_as_they_are => Ok(Some(format!(
                "{count} labels that are another label but for spelling are things of their own, as was said."
            ))),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Whether pictures that may show the same stranger are counted as one trial.
    #[must_use]
    pub fn counts_once(self) -> bool {
        !self.strangers_are_distinct
    }

    /// The assumption about strangers that are closer to each other than different things usually
    /// are; `None` if there are no such strangers.
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

    /// The assumption about labels of strangers that share a picture; `None` if there are none.
    #[must_use]
    pub fn shared(self, shared: &SharedPictures) -> Option<String> {
        let [labels, _] = shared.counted()?;
        if self.strangers_are_distinct {
            return Some(format!(
                "{labels} labels of strangers that share pictures are different things, as was said."
            ));
        }
        Some(format!("{}.", shared.describe()?))
    }

    /// The assumption about unnamed strangers; `None` if all strangers have a name.
    ///
    /// # Errors
    /// Returns an error if a certificate would depend on them and the caller does not vouch for
    /// them.
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
