//! Labels that a model was fitted to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, fail};
use matchpoint_arrays::read_list;
use matchpoint_calibration::held_out::{LabelSet, refuse_overlap};
use matchpoint_calibration::likeness::Spellings;

/// What the user says about labels that a model was fitted to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct FittedFlags {
    /// A file of labels, one on each line, that the model or a head of it was fitted to; any of
    /// them among the queries is refused
    #[arg(long, value_name = "FILE")]
    pub(crate) fitted_on: Option<PathBuf>,
    /// Leave out queries that the head of the model was fitted to, instead of refusing them
    #[arg(long, conflicts_with = "server")]
    pub(crate) without_fitted: bool,
}

/// Refuses queries of labels that a head was fitted to. Such labels score better than new ones, so a threshold
/// chosen on them would be too loose.
pub(crate) fn refuse_fitted(
    fitted_on: &Path,
    labels: &BTreeSet<&str>,
    spellings: Spellings,
) -> anyhow::Result<()> {
    let list = read_list(fitted_on)?;
    let fitted = LabelSet {
        used_to: "fitted the model",
        labels: list.iter().map(String::as_str).collect(),
    };
    let queries = LabelSet {
        used_to: "choose the threshold",
        labels: labels.clone(),
    };
    refuse_overlap(&fitted, &queries, spellings)
        .map_err(|overlap| fail(Exit::BadData, overlap.to_string()))
}
