//! Formats numbers, times and foreign text for people.

use std::borrow::Cow;

use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::clock::rfc_3339;
use crate::telemetry::escaped;
use matchpoint_client::proto::{DecisionBasis, UndecidedReason};

/// Foreign text. The page escapes it, and characters that would be invisible are written out.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    escaped(text)
}

/// A foreign name, which may break after what separates its parts.
pub(super) fn in_parts(text: &str) -> Markup {
    let text = shown(text);
    html! { @for part in text.split_inclusive(['_', '/', '-', '.']) { (part) wbr; } }
}

/// Sentences of the server, in which names of commands and settings are between backticks.
pub(super) fn sentences(text: &str) -> Markup {
    let text = shown(text);
    html! {
        @for (number, part) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// A foreign name as part of an address.
pub(super) fn in_address(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// A share, such as `0.5 %`.
pub(super) fn percent(share: f64) -> String {
    let value = 100.0 * share;
    let digits = match value.abs() {
        size if size >= 10.0 || size <= 0.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} %")
}

/// A similarity or decision score.
pub(super) fn score(value: f32) -> String {
    format!("{value:.4}")
}

/// A number of things, with the singular or the plural.
pub(super) fn count(number: u64, one: &str, more: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {more}"),
    }
}

/// A time, in milliseconds since 1970-01-01 UTC.
pub(super) fn time(unix_milliseconds: i64) -> Markup {
    let written = rfc_3339(u64::try_from(unix_milliseconds).unwrap_or(0));
    let (minute, _) = written.split_at_checked(16).unwrap_or((&written, ""));
    html! { time datetime=(written) { (minute.replace('T', " ")) " UTC" } }
}

/// Seconds as milliseconds.
pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", 1e3 * seconds)
}

/// The promise of an operating point for a search, in a sentence.
pub(super) fn promise(basis: &DecisionBasis) -> String {
    let confidence = percent(basis.confidence.unwrap_or_default());
    match (basis.target_far, basis.target_frr) {
        (Some(far), _) if basis.certified => format!(
            "Promised: at most {} of searches for strangers are accepted, at {confidence} confidence.",
            percent(far)
        ),
        (Some(far), _) => format!(
            "Aimed at, and not promised for today's gallery: at most {} of searches for strangers accepted.",
            percent(far)
        ),
        (None, Some(frr)) => format!(
            "Promised: at most {} of searches for what is enrolled are missed, at {confidence} confidence. Nothing is promised of strangers.",
            percent(frr)
        ),
        (None, None) => "The threshold is an estimate: nothing is promised.".to_owned(),
    }
}

/// The reason why there was no decision, and what to do.
pub(super) fn undecided(reason: UndecidedReason) -> &'static str {
    match reason {
        UndecidedReason::OperatingPointMissing => {
            "No operating point is active. Calibrate the deployment, or activate one."
        }
        UndecidedReason::OperatingPointMismatch => {
            "The active operating point belongs to another model, gallery or index. Calibrate again."
        }
        UndecidedReason::OperatingPointUnreadable => {
            "The active operating point is missing from the disk, or damaged. Restore it, or calibrate again."
        }
        UndecidedReason::GalleryDamaged => {
            "An item of the gallery has changed on the server's disk, and nothing is accepted any more. The log names it. Restart the server, which verifies all items, and look after the disk."
        }
        UndecidedReason::NoOtherLabel => {
            "The score takes an item of another label, and there is none to take. Compare with an enrolled item, or enrol more labels."
        }
        UndecidedReason::Unspecified => "The server did not say why.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_as_short_as_they_can_be() {
        let texts = [0.0, 0.001, 0.0123, 0.5, 1.0, 0.000_04].map(percent);
        assert_eq!(
            texts,
            ["0 %", "0.1 %", "1.23 %", "50 %", "100 %", "0.004 %"]
        );
    }
}
