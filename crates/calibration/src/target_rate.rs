//! Target rates: which are allowed, and how one is proposed.

use super::percent::percent;

/// A share in percent, rounded up to three significant digits, so that a proposed target is supported.
#[must_use]
pub fn percent_at_least(share: f64) -> String {
    let scale = 10_f64.powf(2.0 - share.log10().floor());
    // Formatted and parsed again, so that no rounding noise is written after the digits.
    let digits = format!("{:.2e}", ((share * scale).ceil() / scale).min(1.0));
    percent(digits.parse().unwrap_or(share))
}

/// Whether a target with this rate is within the allowed range.
#[must_use]
pub fn can_be_asked_for(rate: f64) -> bool {
    rate <= TARGET_MAX
}

/// The highest allowed target rate; above it nothing would be promised.
pub(super) const TARGET_MAX: f64 = 0.5;

/// The advice to ask for another target, which follows the advice to use more labels; empty if that target
/// would be refused.
pub(super) fn or_ask_for(what: &str, best: f64) -> String {
    if can_be_asked_for(best) {
        format!(", or ask for {what} {} or more", percent_at_least(best))
    } else {
        format!("; so few support no {what} that can be asked for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proposed_is_never_less_than_what_is_supported() {
        for step in 0..4000 {
            let share = 0.5 * 0.995_f64.powi(step);
            let proposed = percent_at_least(share);
            let number: f64 = proposed.strip_suffix(" %").unwrap().parse().unwrap();
            let number = number / 100.0;
            assert!(
                share * (1.0 - 1e-12) <= number && number <= share * 1.0101,
                "{proposed} of {share}"
            );
        }
        assert_eq!(percent_at_least(0.007_461), "0.747 %");
    }
}
