//! The output of commands on operating points, in a folder or on a server.

use serde::Serialize;

use crate::cli::output::wrapped;
use matchpoint_client::proto::OperatingPoint;

/// How many flips are shown at first.
const FLIPS_SHOWN: usize = 2;
/// Shown if an operating point is requested, and there is none.
pub(crate) const NONE_ACTIVE: &str =
    "no operating point is active; name one, or run `matchpoint calibrate`";
/// Shown for an empty list.
const NO_POINTS: &str = "no operating points yet: run `matchpoint calibrate`\n";

/// What a list of operating points shows.
pub(crate) fn list_text(lines: impl IntoIterator<Item = String>) -> String {
    let lines: String = lines.into_iter().collect();
    if lines.is_empty() {
        return NO_POINTS.to_owned();
    }
    lines + "\n* decides now\n"
}

/// What two operating points decide differently.
#[derive(Serialize)]
pub(crate) struct ComparedPoints<F> {
    pub(crate) from: String,
    pub(crate) from_threshold: f32,
    pub(crate) to: String,
    pub(crate) to_threshold: f32,
    pub(crate) recorded: String,
    pub(crate) searches: u64,
    pub(crate) flips_total: u64,
    pub(crate) improvements: u64,
    pub(crate) flips: Vec<F>,
}

#[derive(Serialize)]
pub(crate) struct Activated {
    pub(crate) active: String,
    pub(crate) previous: Option<String>,
    pub(crate) etag: String,
}

impl Activated {
    /// As a server describes it.
    pub(crate) fn served(now: Option<OperatingPoint>, previous: String, etag: String) -> Self {
        Self {
            active: now.unwrap_or_default().id,
            previous: Some(previous).filter(|id| !id.is_empty()),
            etag,
        }
    }

    pub(crate) fn text(&self) -> String {
        let before = self.previous.as_deref().unwrap_or("none");
        format!("{} decides now; before it {before}\n", self.active)
    }
}

/// One search that two operating points decide differently, for a person to read.
pub(crate) struct FlipLine<'a> {
    pub(crate) improves: bool,
    pub(crate) query: &'a str,
    pub(crate) label: &'a str,
    pub(crate) accepted: bool,
    /// Id, label and score of what it found, if anything.
    pub(crate) found: Option<(&'a str, &'a str, f32)>,
}

impl FlipLine<'_> {
    fn text(&self, verbose: bool) -> String {
        let found = match self.found {
            None => "nothing".to_owned(),
            Some((item, label, score)) if verbose => format!("{item} ({label}), score {score:.4}"),
            Some((_, label, score)) => format!("{label}, score {score:.4}"),
        };
        let line = if verbose {
            format!("{} of {}, found {found}", self.query, self.label)
        } else {
            format!("{} as {found}", self.query)
        };
        let bullet = match (self.accepted, self.improves) {
            (true, true) => "  + accepts, rightly: ",
            (true, false) => "  - accepts, wrongly: ",
            (false, true) => "  + rejects, rightly: ",
            (false, false) => "  - rejects, wrongly: ",
        };
        wrapped(&line, bullet)
    }
}

/// A comparison, for a person to read: eight lines of usual names, or all flips. `flip` is what there is to say of one
/// search, `activate` the command that lets the second decide.
pub(crate) fn comparison_text<F>(
    compared: &ComparedPoints<F>,
    flip: impl Fn(&F) -> FlipLine<'_>,
    activate: &str,
    verbose: bool,
) -> String {
    let (from, to) = (&compared.from, &compared.to);
    let worse = compared.flips_total - compared.improvements;
    let mut text = wrapped(
        &format!(
            "{from} accepts from {:.4}; {to} would from {:.4}",
            compared.from_threshold, compared.to_threshold
        ),
        "",
    );
    let count = format!(
        "{} of the {} searches of {} would be decided otherwise: {} better, {worse} worse",
        compared.flips_total, compared.searches, compared.recorded, compared.improvements,
    );
    text.push_str(&wrapped(&count, "  "));
    let mut lines: Vec<FlipLine<'_>> = compared.flips.iter().map(flip).collect();
    // What would be lost comes first.
    lines.sort_by_key(|line| line.improves);
    let shown = if verbose { lines.len() } else { FLIPS_SHOWN };
    text.extend(lines.iter().take(shown).map(|line| line.text(verbose)));
    let listed = lines.len().min(shown) as u64;
    let more = match compared.flips_total.saturating_sub(listed) {
        0 => String::new(),
        more if verbose => format!("; {more} more searches are not listed"),
        more => format!("; {more} more searches: --verbose"),
    };
    text.push_str(&format!("next: {activate}{more}\n"));
    text
}
