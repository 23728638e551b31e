//! Labels that a model was fitted to.

use std::collections::BTreeSet;
use std::path::Path;

use super::exit::{Exit, fail};
use matchpoint_arrays::read_list;
use matchpoint_calibration::held_out::{LabelSet, refuse_overlap};

/// A threshold chosen on labels that a head was fitted to is too loose: such labels look better
/// than any that will come.
pub(super) fn refuse_fitted(fitted_on: &Path, labels: &BTreeSet<&str>) -> anyhow::Result<()> {
    let list = read_list(fitted_on)?;
    let fitted = LabelSet {
        used_to: "fitted the model",
        labels: list.iter().map(String::as_str).collect(),
    };
    let queries = LabelSet {
        used_to: "choose the threshold",
        labels: labels.clone(),
    };
    refuse_overlap(&fitted, &queries).map_err(|overlap| fail(Exit::BadData, overlap.to_string()))
}
