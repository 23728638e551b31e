//! An operating point in words: what its threshold is for, and what that assumes.

use super::record::{Binding, Content, GrowthAllowed, ThresholdEvidence, TrialCounts};
use crate::growth::GROWTH_ASSUMPTION;
use crate::policy::{CalibrationTarget, Choice};
use crate::rates::Confidence;

impl Content {
    /// What the threshold is for, in words.
    #[must_use]
    pub fn goal(&self) -> String {
        let at = |confidence: Confidence| percent(confidence.get());
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => {
                let target = promise.target;
                let verb = if self.policy.certifies() {
                    "promises"
                } else {
                    "aims at, and does not promise,"
                };
                format!(
                    "{verb} FAR <= {} per search, at {} confidence",
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
                "promises FRR <= {} per search, at {} confidence; nothing about FAR",
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

/// What the promise rests on beyond the trials: whole sentences.
pub(super) fn assumptions(
    choice: &Choice,
    binding: &Binding,
    counts: TrialCounts,
    growth: Option<GrowthAllowed>,
) -> Vec<String> {
    let mut all = vec![
        "Live searches are exchangeable with those of the calibration: the same kind of subjects, \
         the same kind of images, none chosen because of how they score."
            .to_owned(),
    ];
    all.extend(choice.assumptions.iter().cloned());
    all.push(match growth {
        None => format!(
            "The gallery holds at most the {} items that it was calibrated with. FAR grows with \
             the gallery; growth beyond that voids the promise.",
            binding.gallery_items
        ),
        Some(growth) => format!(
            "The threshold was tightened for a gallery that grows from {} to {} items, so that FAR \
             stays at most {} there: {}",
            binding.gallery_items,
            growth.items,
            percent(growth.target_far),
            GROWTH_ASSUMPTION,
        ),
    });
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

fn percent(share: f64) -> String {
    let digits = format!("{:.4}", share * 100.0);
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if digits == "0" && 0.0 < share {
        return format!("{:.2e} %", share * 100.0);
    }
    format!("{digits} %")
}
