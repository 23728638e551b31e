//! Whether a gallery that was calibrated elsewhere is that of a deployment.

use std::collections::{BTreeMap, BTreeSet};

use crate::deployment::{Deployment, DeploymentError};
use crate::telemetry::escaped;
use matchpoint_calibration::procedure::VectorRow;
use matchpoint_vector::Embedding;

/// How many names of each kind of difference are listed.
const NAMES_MAX: usize = 3;

impl Deployment {
    /// Makes sure that `rows` are the items of this gallery: the same ids and labels, and the same vectors to the last
    /// bit. `strangers` are the labels that have to be strangers here.
    ///
    /// # Errors
    /// Returns an error that says which items differ, and how.
    pub fn check_calibrated_on(
        &self,
        rows: &[VectorRow<'_>],
        strangers: &BTreeSet<&str>,
    ) -> Result<(), DeploymentError> {
        let view = self.view();
        let expected = self.loaded().model.dimension();
        if let Some(row) = rows.iter().find(|row| row.vector.len() != expected) {
            let found = row.vector.len();
            return Err(DeploymentError::Dimension { expected, found });
        }
        let items = view.items();
        let mut items: BTreeMap<&str, (&str, &[f32])> = items
            .map(|(head, vector)| (head.id.as_str(), (head.label.as_str(), vector)))
            .collect();
        let here = items.len();
        let [mut missing, mut moved, mut relabelled] = [const { Vec::new() }; 3];
        for row in rows {
            let id = row.id.as_str();
            let Some((label, vector)) = items.remove(id) else {
                missing.push(id);
                continue;
            };
            if label != row.label {
                relabelled.push(id);
            }
            if !is_stored_as(row.vector, vector)? {
                moved.push(id);
            }
        }
        let enrolled = items.values().map(|(label, _)| *label);
        let enrolled: BTreeSet<&str> = enrolled.filter(|label| strangers.contains(label)).collect();
        let differences = [
            (missing, "of its items are not here"),
            (moved, "have another vector here"),
            (relabelled, "have another label here"),
            (
                items.into_keys().collect(),
                "are here and were not part of it",
            ),
            (
                enrolled.into_iter().collect(),
                "labels of its strangers are enrolled here",
            ),
        ];
        let said = differences.iter().filter(|(names, _)| !names.is_empty());
        let said: Vec<String> = said
            .map(|(names, what)| format!("{} {what} ({})", names.len(), listed(names)))
            .collect();
        if said.is_empty() {
            return Ok(());
        }
        Err(DeploymentError::OtherVectors {
            problem: format!(
                "the calibration was made on another gallery: of {} items, and here are {here}: {}; take ids, labels and \
                 vectors of the gallery as it is, and calibrate again",
                rows.len(),
                said.join("; ")
            ),
        })
    }
}

/// Whether a vector is the stored one, or what enrolling makes that one of: of the few components that some models give,
/// scaling what has unit length already may change a last bit.
fn is_stored_as(given: &[f32], stored: &[f32]) -> Result<bool, DeploymentError> {
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    let stored = bits(stored);
    Ok(bits(given) == stored || bits(Embedding::normalise(given.to_vec())?.as_slice()) == stored)
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES_MAX);
    let shown: Vec<String> = shown.map(|name| escaped(name).to_string()).collect();
    let rest = names.len().saturating_sub(NAMES_MAX);
    if rest == 0 {
        return shown.join(", ");
    }
    format!("{} and {rest} more", shown.join(", "))
}
