//! The target of a threshold, as flags.

use crate::cli::exit::{Exit, fail};
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::stated_target::StatedTarget;

/// One of the four, or none, and its parameters.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(
    clap::ArgGroup::new("target")
        .args(["target_far", "target_frr", "equal_error", "min_cost"])
))]
pub(crate) struct TargetFlags {
    /// The false accept rate that must not be exceeded, per search: 1e-9 to 0.5, or as 1%
    #[arg(long, value_name = "RATE", value_parser = share)]
    target_far: Option<f64>,
    /// The false reject rate that must not be exceeded, per search: 1e-9 to 0.5, or as 1%
    #[arg(long, value_name = "RATE", value_parser = share)]
    target_frr: Option<f64>,
    /// Take the threshold where both error rates are the same
    #[arg(long)]
    equal_error: bool,
    /// Take the threshold of the lowest cost
    #[arg(long, requires_all = ["cost_false_accept", "cost_false_reject", "prior_mated"])]
    min_cost: bool,
    /// Cost of a false accept
    #[arg(long, value_name = "COST", requires = "min_cost")]
    cost_false_accept: Option<f64>,
    /// Cost of a false reject
    #[arg(long, value_name = "COST", requires = "min_cost")]
    cost_false_reject: Option<f64>,
    /// Share of searches whose label is enrolled: above 0 to below 1
    #[arg(long, value_name = "SHARE", requires = "min_cost", value_parser = share)]
    prior_mated: Option<f64>,
    /// With --target-far: meet the target by an estimated bound, which promises nothing, and takes
    /// fewer labels
    #[arg(long, requires = "target_far",
        conflicts_with_all = ["target_frr", "equal_error", "min_cost"])]
    estimated: bool,
    /// With --target-far: the share of mated searches that may be rejected unseen, or accepted with a wrong
    /// label; scores below the threshold go to a person as far down as it takes to promise that
    #[arg(long, value_name = "RATE", requires = "target_far", value_parser = share,
        conflicts_with_all = ["target_frr", "equal_error", "min_cost"])]
    review_frr: Option<f64>,
    /// Confidence of what is promised: 0.5 to below 1, or as 95%
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, value_parser = share)]
    confidence: f64,
}

impl TargetFlags {
    /// The target; `None` if none is named.
    pub(crate) fn target(&self) -> anyhow::Result<Option<CalibrationTarget>> {
        let checked = self.stated().map(|stated| stated.checked(self.confidence));
        checked
            .transpose()
            .map_err(|cause| fail(Exit::Usage, cause.to_string()))
    }

    /// The target of a review band; `None` if none is named.
    pub(crate) fn review(&self) -> anyhow::Result<Option<TargetFrr>> {
        let review = self
            .review_frr
            .map(|frr| TargetFrr::new(frr, self.confidence));
        review
            .transpose()
            .map_err(|cause| fail(Exit::Usage, format!("--review-frr cannot be used: {cause}")))
    }

    pub(crate) fn confidence(&self) -> f64 {
        self.confidence
    }

    fn stated(&self) -> Option<StatedTarget> {
        if let Some(rate) = self.target_far {
            let estimated = self.estimated;
            return Some(StatedTarget::Far { rate, estimated });
        }
        if let Some(rate) = self.target_frr {
            return Some(StatedTarget::Frr(rate));
        }
        if self.equal_error {
            return Some(StatedTarget::EqualError);
        }
        if !self.min_cost {
            return None;
        }
        // clap requires all three values together.
        Some(StatedTarget::Cost {
            false_accept: self.cost_false_accept?,
            false_reject: self.cost_false_reject?,
            prior_mated: self.prior_mated?,
        })
    }
}

/// Parses a share: 0.01, or 1% as results write it.
fn share(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_suffix('%') {
        // Changes the digits and not the number, so that 0.747% is 0.00747 to the last bit.
        Some(percent) => format!("{}e-2", percent.trim_end()).parse(),
        None => text.parse(),
    };
    parsed.map_err(|_not_a_number: std::num::ParseFloatError| {
        "it is not a share; write it as 0.01, or as 1%".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_can_be_typed_as_results_write_it() {
        for (text, expected) in [
            ("0.01", 0.01),
            ("1%", 0.01),
            ("0.747 %", 0.007_47),
            ("99.9%", 0.999),
            ("1e-4", 0.000_1),
        ] {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "1%%", "1e-2%", "one", "1 per cent"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
