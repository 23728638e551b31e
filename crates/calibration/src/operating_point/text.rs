//! Describes an operating point in words: the purpose of its threshold, and its assumptions.

use super::record::{Content, GrowthAllowed, ThresholdEvidence, TrialCounts};
use crate::certify::TargetFar;
use crate::growth::{GROWTH_ASSUMPTION, items_within};
use crate::policy::{CalibrationTarget, Choice, ChoiceBasis};
use crate::rates::{Confidence, percent};
use crate::review::ReviewBand;
use crate::strangers::EITHER_WAY;

impl Content {
    /// Whether labels counted both as several strangers and as one. Which ones is not kept with the searches.
    #[must_use]
    pub fn holds_either_way(&self) -> bool {
        self.assumptions.iter().any(|one| one.contains(EITHER_WAY))
    }

    /// The purpose of the threshold, in words.
    #[must_use]
    pub fn goal(&self) -> String {
        let at = |confidence: Confidence| percent(confidence.get());
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => {
                let target = promise.target;
                let verb = if self.policy.certifies() {
                    "promised"
                } else {
                    "aims at, and does not promise,"
                };
                let groups = self.worst_group.as_ref();
                let groups =
                    groups.map_or_else(String::new, |groups| format!(" of {}", groups.describe()));
                format!(
                    "{verb} FAR <= {} per search{groups}, at {} confidence",
                    percent(target.far()),
                    at(target.confidence())
                )
            }
            (None, Some(ThresholdEvidence::FarEstimated(estimate))) => format!(
                "aims at, and does not promise, FAR <= {} per search, by an estimated bound at {} confidence",
                percent(estimate.target.far()),
                at(estimate.target.confidence())
            ),
            (None, Some(ThresholdEvidence::Frr(certificate))) => format!(
                "promised FRR <= {} per search, at {} confidence; nothing about FAR",
                percent(certificate.target.frr()),
                at(certificate.target.confidence())
            ),
            (None, Some(ThresholdEvidence::EqualError(_))) => {
                "aims at FAR = FRR, and promises nothing".to_owned()
            }
            (None, Some(ThresholdEvidence::Cost { model, .. })) => {
                let costs = model.costs();
                format!(
                    "aims at the lowest cost (false accept {}, false reject {}, {} of searches mated), and promises nothing",
                    costs.false_accept,
                    costs.false_reject,
                    percent(costs.prior_mated.get())
                )
            }
            (None, None) => "promises nothing".to_owned(),
        }
    }
}

/// The assumptions of the promise that the trials cannot show, as whole sentences.
pub(super) fn assumptions(choice: &Choice, counts: TrialCounts, room: GalleryRoom) -> Vec<String> {
    let mut all = vec![
        "Live searches are exchangeable with those of the calibration: the same kind of subjects, \
         the same kind of images, none chosen because of how they score."
            .to_owned(),
    ];
    all.extend(choice.assumptions.iter().cloned());
    all.push(room.describe(choice));
    all.push("Model, preprocessing and index are those of the binding.".to_owned());
    if 0 < counts.left_out.labels && !matches!(choice.target, CalibrationTarget::Frr(_)) {
        all.push(format!(
            "{} of the stranger labels are enrolled and were searched with their own items \
             masked. They were counted as independent, which they are not quite: two labels that \
             resemble each other are accepted both or neither. So the chance of missing the \
             target is above the one stated: up to about its square root where labels are alike \
             in pairs, more where they are in larger groups.",
            counts.left_out.labels
        ));
    }
    all
}

/// The assumptions of a review band's promise.
pub(super) fn reviewed(band: ReviewBand) -> String {
    let target = band.unseen.target;
    format!(
        "That at most {} of mated searches are rejected unseen or accepted with a wrong label is a promise of its own: \
         both hold together with a confidence of at least {}. It is one about the labels of the calibration, each of \
         whose items that is removed or changed counts as one more that is missed; what is added can come \
         before a mate.",
        percent(target.frr()),
        percent((1.0 - 2.0 * target.confidence().delta()).max(0.0)),
    )
}

/// How the gallery may change.
#[derive(Clone, Copy)]
pub(super) struct GalleryRoom {
    /// Number of items of the calibration.
    pub(super) items: u64,
    /// The growth that was allowed for.
    pub(super) growth: Option<GrowthAllowed>,
    /// The target that was asked for.
    pub(super) asked: CalibrationTarget,
}

impl GalleryRoom {
    fn describe(self, choice: &Choice) -> String {
        let Self {
            items,
            growth,
            asked,
        } = self;
        if let Some(growth) = growth {
            return format!(
                "The threshold was tightened for a gallery that grows from {items} to {} items, so that FAR \
                 stays at most {} there: {GROWTH_ASSUMPTION}",
                growth.items,
                percent(growth.target_far),
            );
        }
        let bound = match choice.basis {
            ChoiceBasis::Far(certificate) => certificate.far_bound,
            ChoiceBasis::FarEstimated(estimate) => estimate.far_upper,
            ChoiceBasis::Frr(_) => {
                return format!(
                    "The gallery holds the {items} items of the calibration. Each that is removed or changed counts \
                     as a label that is missed from then on; what is added can come before a mate."
                );
            }
            ChoiceBasis::EqualError(_) | ChoiceBasis::Cost(_) => {
                return format!(
                    "The gallery holds the {items} items of the calibration, and no others: FAR grows with what is \
                     added or exchanged."
                );
            }
        };
        let limit = asked.far().map_or(bound, TargetFar::far);
        let others = items_within(items, bound, limit).saturating_sub(items);
        format!(
            "The gallery holds the {items} items of the calibration, and at most {others} others: beyond that the \
             bound on FAR, which grows with what is added or exchanged, leaves the target: {GROWTH_ASSUMPTION}"
        )
    }
}
