//! Where commands print: results to standard output, everything else to standard error.

use std::io::{self, Write};

use serde::Serialize;

use crate::telemetry::{escaped_json, escaped_lines};
use matchpoint_calibration::rates::Rate;
use matchpoint_client::proto::MeasuredRate;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: as JSON where that was asked for, else as text.
    pub(super) fn result<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        // Names of files and labels are others' text.
        let mut printed = if self.json {
            escaped_json(&serde_json::to_string_pretty(value)?).into_owned()
        } else {
            escaped_lines(&text(value)).into_owned()
        };
        if !printed.ends_with('\n') {
            printed.push('\n');
        }
        line(io::stdout().lock().write_all(printed.as_bytes()))
    }

    /// Prints what a person wants to know on the way.
    pub(super) fn note(self, text: &str) {
        if self.json {
            error(text);
        } else {
            // A reader who has seen enough is no error.
            drop(writeln!(io::stdout().lock(), "{}", escaped_lines(text)));
        }
    }
}

/// Prints what is no text for a person, byte by byte.
pub(super) fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    line(io::stdout().lock().write_all(bytes))
}

/// Prints a line to standard error.
pub(super) fn error(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", escaped_lines(text)));
}

/// A closed pipe on the other side is how `head` ends, not a failure.
fn line(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Rows of a name and a value, aligned.
pub(super) fn table(rows: &[(&str, String)]) -> String {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        text.push_str(&format!("  {name:<width$}  {value}\n"));
    }
    text
}

/// A share as a percentage with as many digits as it takes to see it.
pub(super) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value == 0.0 || 10.0 <= value {
        format!("{value:.1} %")
    } else if 0.1 <= value {
        format!("{value:.2} %")
    } else {
        format!("{value:.2e} %")
    }
}

/// A rate with its interval and what it rests on.
pub(super) fn rate(rate: Option<&Rate>) -> String {
    let rate = rate.map(|rate| MeasuredRate {
        rate: rate.estimate,
        lower: rate.interval.lower,
        upper: rate.interval.upper,
        confidence: rate.interval.confidence.get(),
        trials: rate.count.trials(),
        labels: rate.labels,
    });
    measured(rate.as_ref())
}

/// The same, of a server's.
pub(super) fn measured(rate: Option<&MeasuredRate>) -> String {
    let Some(rate) = rate else {
        return "unknown: no such searches".to_owned();
    };
    format!(
        "{} [{} .. {} at {:.0} %], {:.0} of {} searches, {} labels",
        percent(rate.rate),
        percent(rate.lower),
        percent(rate.upper),
        rate.confidence * 100.0,
        rate.rate * f64::from(u32::try_from(rate.trials).unwrap_or(u32::MAX)),
        rate.trials,
        rate.labels,
    )
}

/// What is to be said of a FAR beside a target that it is above.
pub(super) fn above_target(far: Option<&Rate>, target: Option<f64>) -> Option<String> {
    let (far, target) = (far?, target?);
    if far.estimate <= target {
        return None;
    }
    let asked = percent(target);
    Some(if target < far.interval.lower {
        format!(
            "FAR above the {asked} asked for, by more than chance: what holds for all does not hold here"
        )
    } else {
        format!("FAR above the {asked} asked for, within chance")
    })
}

/// The beginning of a fingerprint: enough to recognise it by.
pub(super) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// A sentence as an indented paragraph of at most 96 columns.
pub(super) fn wrapped(sentence: &str, bullet: &str) -> String {
    const COLUMNS: usize = 96;
    let indent = " ".repeat(bullet.len());
    let (mut text, mut line) = (String::new(), bullet.to_owned());
    for word in sentence.split_whitespace() {
        if COLUMNS < line.len() + word.len() && line.trim() != bullet.trim() {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clone_from(&indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}
