//! The output of commands on operating points, in a folder or on a server.

use serde::Serialize;

use super::output::table;
use matchpoint_client::proto::OperatingPoint;

/// How many flips are shown as text; `--json` has all.
const FLIPS_SHOWN: usize = 40;
/// Shown if an operating point is requested, and there is none.
pub(super) const NONE_ACTIVE: &str =
    "no operating point is active; name one, or run `matchpoint calibrate`";
/// Shown for an empty list.
const NO_POINTS: &str = "no operating points yet: run `matchpoint calibrate`\n";

/// What a list of operating points shows.
pub(super) fn list_text(lines: impl IntoIterator<Item = String>) -> String {
    let lines: String = lines.into_iter().collect();
    if lines.is_empty() {
        return NO_POINTS.to_owned();
    }
    lines + "\n* decides now\n"
}

/// What two operating points decide differently.
#[derive(Serialize)]
pub(super) struct ComparedPoints<F> {
    pub(super) from: String,
    pub(super) from_threshold: f32,
    pub(super) to: String,
    pub(super) to_threshold: f32,
    pub(super) recorded: String,
    pub(super) searches: u64,
    pub(super) flips_total: u64,
    pub(super) improvements: u64,
    pub(super) flips: Vec<F>,
}

#[derive(Serialize)]
pub(super) struct Activated {
    pub(super) active: String,
    pub(super) previous: Option<String>,
    pub(super) etag: String,
}

impl Activated {
    /// As a server describes it.
    pub(super) fn served(now: Option<OperatingPoint>, previous: String, etag: String) -> Self {
        Self {
            active: now.unwrap_or_default().id,
            previous: Some(previous).filter(|id| !id.is_empty()),
            etag,
        }
    }

    pub(super) fn text(&self) -> String {
        let before = self.previous.as_deref().unwrap_or("none");
        format!("{} decides now; before it {before}\n", self.active)
    }
}

/// A comparison, for a person to read; `flip` describes one search.
pub(super) fn comparison_text<F>(
    compared: &ComparedPoints<F>,
    flip: impl Fn(&F) -> String,
) -> String {
    let worse = compared.flips_total - compared.improvements;
    let accept = |id: &str, threshold: f32| format!("{id}: accept from {threshold:.4}");
    let mut text = table(&[
        ("from", accept(&compared.from, compared.from_threshold)),
        ("to", accept(&compared.to, compared.to_threshold)),
        (
            "would flip",
            format!(
                "{} of {} decisions recorded with {}: {} for the better, {worse} for the worse",
                compared.flips_total, compared.searches, compared.recorded, compared.improvements,
            ),
        ),
    ]);
    for one in compared.flips.iter().take(FLIPS_SHOWN) {
        text.push_str(&flip(one));
    }
    if FLIPS_SHOWN < compared.flips.len() {
        let more = compared.flips.len() - FLIPS_SHOWN;
        text.push_str(&format!("  and {more} more; --json has all\n"));
    }
    text
}
