//! Labels that are suspiciously alike, as commands report them.

use std::collections::BTreeSet;

use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::ImageSources;
use crate::cli::output;
use matchpoint_calibration::likeness::{Alike, Spellings, alike, refuse_spellings};
use matchpoint_calibration::procedure::Assured;

/// Pairs that a warning names; `--json` has all.
const SHOWN: usize = 5;

/// What the user knows of the labels, and the data do not show.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LabelFlags {
    /// Take labels that differ by spelling alone (capitals, Unicode form, spaces, hyphens,
    /// underscores, 7 and 7.0) as different things; without it they are refused
    #[arg(long)]
    pub(crate) labels_as_they_are: bool,
}

impl LabelFlags {
    pub(crate) fn spellings(self) -> Spellings {
        Spellings::said(self.labels_as_they_are)
    }
}

/// What the user knows of the queries, and the data do not show.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct AssuredFlags {
    #[command(flatten)]
    pub(crate) labels: LabelFlags,
    /// Every picture of a stranger whom nobody named (label stranger-DECISION, as `audit export`
    /// writes it) shows another one; without it those that may be one count as one, and certify
    /// nothing. Labels of strangers who are nearer to each other than different things are show
    /// different ones too; without it they count as one
    #[arg(long)]
    strangers_are_distinct: bool,
}

impl AssuredFlags {
    pub(crate) fn assured(self) -> Assured {
        Assured {
            labels_as_they_are: self.labels.labels_as_they_are,
            strangers_are_distinct: self.strangers_are_distinct,
        }
    }
}

/// The labels of a source, each once.
pub(crate) fn labels_of(sources: &ImageSources) -> BTreeSet<&str> {
    let items = sources.items.iter();
    items.map(|item| item.label.as_str()).collect()
}

/// Finds labels of queries that are suspiciously like enrolled ones, or like each other, and refuses
/// those that differ by spelling alone.
pub(crate) fn check(
    labels: &BTreeSet<&str>,
    enrolled: &BTreeSet<String>,
    flags: LabelFlags,
) -> anyhow::Result<Vec<Alike>> {
    let found = alike(labels.iter().copied(), enrolled.iter().map(String::as_str));
    if !flags.labels_as_they_are {
        refuse_spellings(&found).map_err(|refused| fail(Exit::BadData, refused.to_string()))?;
    }
    Ok(found)
}

/// A warning that names the first of them.
pub(crate) fn warning(alike: &[Alike]) -> String {
    if alike.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = alike.iter().take(SHOWN).map(Alike::describe).collect();
    let more = if SHOWN < alike.len() {
        ", … (--json has all)"
    } else {
        ""
    };
    let what = format!(
        "labels that are suspiciously like another ({}): {}{more}; is each a thing of its own?",
        alike.len(),
        shown.join(", "),
    );
    output::wrapped(&what, "warning: ")
}
