//! A rate as a target: which one can be asked for, and how flags take it.

/// A share with three digits, rounded up, as flags take it: what is proposed must be supported.
#[must_use]
pub fn at_least(share: f64) -> String {
    let scale = 10_f64.powf(2.0 - share.log10().floor());
    // By way of its digits, so that no noise is written after them.
    let digits = format!("{:.2e}", ((share * scale).ceil() / scale).min(1.0));
    digits
        .parse()
        .map_or(digits, |value: f64| value.to_string())
}

/// A share with three digits, as flags take it.
pub(super) fn short(share: f64) -> String {
    let digits = format!("{share:.2e}");
    digits
        .parse()
        .map_or(digits, |value: f64| value.to_string())
}

/// Whether a target of this rate is none that is refused at once.
#[must_use]
pub fn can_be_asked_for(rate: f64) -> bool {
    rate <= TARGET_MAX
}

/// The highest rate that a target can have: from there on nothing is promised.
pub(super) const TARGET_MAX: f64 = 0.5;

/// The way out by another target, after the one by more labels; nothing if the target would be
/// refused.
pub(super) fn or_ask_for(what: &str, best: f64) -> String {
    if can_be_asked_for(best) {
        format!(", or ask for {what} {} or more", at_least(best))
    } else {
        format!("; so few support no {what} that can be asked for")
    }
}
