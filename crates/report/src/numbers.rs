//! The format of numbers: with enough digits, and the same number always in the same way.

use super::estimate::{Estimate, RateInterval};

/// The text for an unknown number.
pub(super) const UNKNOWN: &str = "unknown";

/// The space between a number and its unit: narrow, and without a line break.
const THIN: char = '\u{202f}';

/// A share as a percentage with three significant digits. Near 100 %, the difference from it gets two
/// significant digits. So 0.000998 is 0.0998 %, and 0.99973 is 99.973 %.
pub(super) fn percent(share: Option<f64>) -> String {
    let Some(share) = share.filter(|share| share.is_finite()) else {
        return UNKNOWN.to_owned();
    };
    let value = share * 100.0;
    let lacking = 100.0 - value;
    let decimals = if value == 0.0 || lacking == 0.0 {
        0
    } else if value < 50.0 {
        decimals(value)
    } else {
        decimals(lacking).saturating_sub(1).max(1)
    };
    format!("{value:.decimals$}{THIN}%")
}

/// A share that a person chose, such as a target, without trailing zeros.
pub(super) fn short_percent(share: f64) -> String {
    if !share.is_finite() {
        return UNKNOWN.to_owned();
    }
    let text = format!("{:.9}", share * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{THIN}%")
}

/// A similarity.
pub(super) fn score(score: Option<f64>) -> String {
    match score {
        Some(score) if 1.0 < score => "above 1".to_owned(),
        Some(score) if score.is_finite() => signed(format!("{score:.4}")),
        Some(_) | None => UNKNOWN.to_owned(),
    }
}

/// A similarity with enough digits to distinguish it from its neighbours.
pub(super) fn exact_score(score: f64) -> String {
    if 1.0 < score {
        "above 1: nothing is accepted".to_owned()
    } else if score.is_finite() {
        signed(format!("{score:.7}"))
    } else {
        UNKNOWN.to_owned()
    }
}

/// A count, in groups of three digits.
pub(super) fn count(count: Option<u64>) -> String {
    let Some(count) = count else {
        return UNKNOWN.to_owned();
    };
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of trials, which need not be an integer.
pub(super) fn trials(trials: Option<f64>) -> String {
    match trials.filter(|trials| (0.0..1e15).contains(trials)) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range, and rounded"
        )]
        Some(trials) if 10.0 <= trials => count(Some(trials.round() as u64)),
        Some(trials) => format!("{trials:.1}"),
        None => UNKNOWN.to_owned(),
    }
}

/// A quantity that is not a share, with three significant digits.
pub(super) fn plain(value: Option<f64>) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return UNKNOWN.to_owned();
    };
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if (0.001..1e6).contains(&size) {
        signed(format!("{value:.*}", decimals(size)))
    } else {
        let scientific = format!("{value:.2e}");
        let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let power: String = power.chars().map(superscript).collect();
        signed(format!("{digits}{THIN}×{THIN}10{power}"))
    }
}

/// A number with this many decimals.
pub(super) fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let digits = text.trim_start_matches('-');
    if digits.contains(|digit| ('1'..='9').contains(&digit)) {
        signed(text)
    } else {
        digits.to_owned()
    }
}

/// A round number at an axis.
pub(super) fn tick(value: f64) -> String {
    let text = decimal(value, 6);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A round count at an axis.
pub(super) fn short_count(value: f64) -> String {
    match value {
        value if 1e9 <= value => format!("{}{THIN}G", tick(value / 1e9)),
        value if 1e6 <= value => format!("{}{THIN}M", tick(value / 1e6)),
        value if 1e3 <= value => format!("{}{THIN}k", tick(value / 1e3)),
        value => tick(value),
    }
}

/// The confidences of the intervals, such as `95 %`, without repetitions; `None` without an interval.
pub(super) fn confidences(spans: impl Iterator<Item = RateInterval>) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    for span in spans {
        let confidence = short_percent(span.confidence);
        if !found.contains(&confidence) {
            found.push(confidence);
        }
    }
    (!found.is_empty()).then(|| found.join(" or "))
}

/// An interval of shares.
pub(super) fn percent_span(span: Option<RateInterval>) -> String {
    span.map_or_else(
        || UNKNOWN.to_owned(),
        |span| {
            format!(
                "{} to {}",
                percent(Some(span.lower)),
                percent(Some(span.upper))
            )
        },
    )
}

/// An interval of quantities that are not shares.
pub(super) fn plain_span(span: Option<RateInterval>) -> String {
    span.map_or_else(
        || UNKNOWN.to_owned(),
        |span| format!("{} to {}", plain(Some(span.lower)), plain(Some(span.upper))),
    )
}

/// A share with its interval in brackets.
pub(super) fn percent_with_span(estimate: Estimate) -> String {
    match (estimate.value, estimate.interval) {
        (Some(_), Some(span)) => {
            format!("{} ({})", percent(estimate.value), percent_span(Some(span)))
        }
        _ => percent(estimate.value),
    }
}

/// The numbers of events and trials.
pub(super) fn events(estimate: Estimate) -> String {
    match (estimate.events, estimate.trials) {
        (None, None) => UNKNOWN.to_owned(),
        (events, trials) => format!("{} of {}", count(events), count(trials)),
    }
}

/// At most `limit` characters of a text, with a mark if it was cut.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The number of decimals that shows three significant digits of a positive number; at most twelve.
fn decimals(value: f64) -> usize {
    let rounded = format!("{value:.2e}");
    let power: i64 = rounded
        .split_once('e')
        .and_then(|(_, power)| power.parse().ok())
        .unwrap_or(0);
    usize::try_from((2 - power).clamp(0, 12)).unwrap_or(0)
}

fn signed(text: String) -> String {
    match text.strip_prefix('-') {
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

fn superscript(character: char) -> char {
    match character {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        _ => '⁰',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_has_the_digits_it_takes() {
        let rows = [
            (0.0, "0 %"),
            (1.0, "100 %"),
            (0.5, "50.0 %"),
            (0.0321, "3.21 %"),
            (0.000_998_079, "0.0998 %"),
            (0.000_001, "0.000100 %"),
            (0.967_9, "96.8 %"),
            (0.999_73, "99.973 %"),
            (0.123_45, "12.3 %"),
        ];
        for (share, expected) in rows {
            assert_eq!(percent(Some(share)).replace(THIN, " "), expected);
        }
        assert_eq!(percent(None), UNKNOWN);
        assert_eq!(percent(Some(f64::NAN)), UNKNOWN);
    }

    #[test]
    fn a_target_is_written_as_it_was_given() {
        for (share, expected) in [
            (0.001, "0.1 %"),
            (1e-9, "0.0000001 %"),
            (0.25, "25 %"),
            (0.5, "50 %"),
        ] {
            assert_eq!(short_percent(share).replace(THIN, " "), expected);
        }
    }

    #[test]
    fn other_numbers() {
        assert_eq!(count(Some(1_234_567)), "1,234,567");
        assert_eq!(count(Some(123)), "123");
        assert_eq!(trials(Some(1_234.6)), "1,235");
        assert_eq!(trials(Some(2.0)), "2.0");
        assert_eq!(trials(Some(f64::INFINITY)), UNKNOWN);
        assert_eq!(plain(Some(0.009_310_321)), "0.00931");
        assert_eq!(plain(Some(-2.0e-6)).replace(THIN, " "), "−2.00 × 10⁻⁶");
        assert_eq!(score(Some(-0.25)), "−0.2500");
        assert_eq!(score(Some(1.000_000_1)), "above 1");
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(events(Estimate::default()), UNKNOWN);
    }

    #[test]
    fn no_number_is_too_strange_to_write() {
        for value in [
            f64::MIN,
            f64::MAX,
            f64::MIN_POSITIVE,
            f64::INFINITY,
            -0.5,
            1e-300,
        ] {
            for text in [
                percent(Some(value)),
                score(Some(value)),
                plain(Some(value)),
                trials(Some(value)),
            ] {
                assert!(!text.is_empty() && text.len() < 400, "{value:e}: {text}");
            }
        }
    }
}
