//! Where commands print: results to standard output, everything else to standard error.

pub(super) mod alike;
mod colours;
pub(super) mod csv_file;
pub(super) mod doubts;
pub(super) mod file;
pub(super) mod image_ending;
pub(super) mod in_words;
pub(super) mod npy;
pub(super) mod pictures;
pub(super) mod progress;
pub(super) mod steps_shown;

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use self::colours::coloured;
use crate::cli::standard_streams::is_standard;
use crate::deployment::RefusedItem;
use crate::server::measured_rate;
use crate::telemetry::{escaped_json, escaped_lines};
use matchpoint_calibration::rates::Rate;
pub(crate) use matchpoint_calibration::rates::percent;
use matchpoint_client::proto::MeasuredRate;

/// The width of what commands print.
const COLUMNS: usize = 96;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    /// Whether something else is on standard output, so that results go to standard error.
    aside: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self::beside(json, None)
    }

    /// The same if a file is written too, which may be standard output.
    pub(crate) fn beside(json: bool, file: Option<&Path>) -> Self {
        let aside = file.is_some_and(is_standard);
        Self { json, aside }
    }

    /// Prints a result: as JSON if requested, else as text.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let end = |text: &str| if text.ends_with('\n') { "" } else { "\n" };
        // Names of files and labels are untrusted text.
        if self.json {
            let printed = serde_json::to_string_pretty(value)?;
            let printed = format!("{}\n", escaped_json(&printed));
            return if self.aside {
                line(io::stderr().lock().write_all(printed.as_bytes()))
            } else {
                raw(printed.as_bytes())
            };
        }
        let text = text(value);
        let printed = coloured(&escaped_lines(&text)) + end(&text);
        line(if self.aside {
            anstream::stderr().lock().write_all(printed.as_bytes())
        } else {
            anstream::stdout().lock().write_all(printed.as_bytes())
        })
    }

    /// Prints a remark for a person.
    pub(crate) fn note(self, text: &str) {
        if self.json || self.aside {
            error(text);
        } else {
            // A reader that closes the pipe is not an error.
            let printed = coloured(&escaped_lines(text)) + "\n";
            drop(anstream::stdout().lock().write_all(printed.as_bytes()));
        }
    }
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ShownFlags {
    /// Show every figure
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) verbose: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much of a result is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) json: bool,
    /// Every figure, not only those needed to decide.
    pub(crate) verbose: bool,
    /// Whether a report has everything, too.
    pub(crate) has_report: bool,
}

impl Shown {
    /// Where the other figures are.
    pub(crate) fn hint(self) -> Option<&'static str> {
        let hidden = !self.verbose && !self.has_report;
        hidden.then_some("every figure: --verbose")
    }
}

/// Lists what could not be used; all of it, or the first few.
pub(crate) fn failed(items: &[RefusedItem], all: bool) -> String {
    failed_but(items, (!all).then_some("--verbose and --json"))
}

/// Lists what could not be used: the first few, and the flags that name the others; or all without such flags.
pub(crate) fn failed_but(items: &[RefusedItem], others: Option<&str>) -> String {
    /// More would hide the result.
    const SHOWN: usize = 5;
    let shown = others.map_or(items.len(), |_| SHOWN);
    let mut text: String = items
        .iter()
        .take(shown)
        .map(|one| format!("failed: {one}\n"))
        .collect();
    if let Some(flags) = others.filter(|_| shown < items.len()) {
        let rest = items.len() - shown;
        text.push_str(&format!("failed: {rest} more, which {flags} name\n"));
    }
    text
}

/// Prints raw bytes.
pub(crate) fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    line(io::stdout().lock().write_all(bytes))
}

/// Prints a line to standard error.
pub(crate) fn error(text: &str) {
    let printed = coloured(&escaped_lines(text)) + "\n";
    drop(anstream::stderr().lock().write_all(printed.as_bytes()));
}

/// A closed pipe is how `head` ends, not a failure.
pub(crate) fn line(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Rows of a name and a value, aligned; a long value goes on below itself.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let row = format!("  {name:<width$}  ");
        if row.chars().count() + value.chars().count() <= COLUMNS {
            text.push_str(&format!("{row}{value}\n"));
        } else {
            text.push_str(&wrapped(value, &row));
        }
    }
    text
}

/// A rate with its interval and what it rests on.
pub(crate) fn rate(rate: Option<&Rate>) -> String {
    measured(rate.map(measured_rate).as_ref())
}

/// The same, of a server's.
pub(crate) fn measured(rate: Option<&MeasuredRate>) -> String {
    let Some(rate) = rate else {
        return "unknown: no such searches".to_owned();
    };
    format!(
        "{} [{} .. {} at {}], {:.0} of {} searches, {} labels",
        percent(rate.rate),
        percent(rate.lower),
        percent(rate.upper),
        percent(rate.confidence),
        rate.rate * f64::from(u32::try_from(rate.trials).unwrap_or(u32::MAX)),
        rate.trials,
        rate.labels,
    )
}

/// A number of items, in words.
pub(crate) fn items(number: u64) -> String {
    match number {
        1 => "1 item".to_owned(),
        _ => format!("{number} items"),
    }
}

/// The beginning of a fingerprint: enough to recognise it by.
pub(crate) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// A sentence as an indented paragraph, as wide as the terminal of most; a longer word stands alone.
pub(crate) fn wrapped(sentence: &str, bullet: &str) -> String {
    let indent = " ".repeat(bullet.chars().count());
    let (mut text, mut line) = (String::new(), bullet.to_owned());
    let mut empty = true;
    for word in sentence.split_whitespace() {
        if COLUMNS < line.chars().count() + word.chars().count() && !empty {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clone_from(&indent);
        }
        empty = false;
        line.push_str(word);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}
