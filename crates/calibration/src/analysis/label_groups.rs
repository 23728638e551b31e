//! Groups labels by the metadata of their items.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::input::AnalysisInput;
use super::label_rows::{GroupCounts, GroupOfLabels, groups_of_labels};
use crate::rates::Confidence;

/// A metadata column with more values than this is a name or a time, and not a group.
const GROUPS_MAX: usize = 20;

/// The pairwise rates of the labels that share a value of a metadata column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelGroup {
    /// The metadata column.
    pub column: String,
    /// The value in this column.
    pub value: String,
    /// The pairwise rates and the utility of these labels.
    #[serde(flatten)]
    pub outcome: GroupOfLabels,
}

/// One entry for each value of each usable column. A column is usable if it has one value for each enrolled
/// label. It is left out if its value differs within a label, if it has one value or more than twenty in all,
/// or if each label has a different value.
pub(super) fn label_groups(
    material: &AnalysisInput<'_>,
    counts: GroupCounts<'_>,
) -> Vec<LabelGroup> {
    let mut rows = Vec::new();
    for (column, of_label) in columns(material) {
        let values: BTreeSet<&str> = of_label.values().copied().collect();
        if !(2..=GROUPS_MAX).contains(&values.len()) || values.len() == of_label.len() {
            continue;
        }
        let numbered: BTreeMap<&str, u32> = values.iter().copied().zip(0..).collect();
        let group = |label: u32| {
            let value = of_label.get(&label);
            // Labels that are searched for but not enrolled belong to no group.
            value
                .and_then(|value| numbered.get(value))
                .copied()
                .unwrap_or(u32::MAX)
        };
        let labels = u32::try_from(material.names.len()).unwrap_or(u32::MAX);
        let groups: Vec<u32> = (0..labels).map(group).collect();
        for outcome in groups_of_labels(counts, &groups, Confidence::DISPLAY) {
            let value = numbered
                .iter()
                .find(|(_, number)| **number == outcome.group);
            if let Some((value, _)) = value {
                rows.push(LabelGroup {
                    column: column.to_owned(),
                    value: (*value).to_owned(),
                    outcome,
                });
            }
        }
    }
    rows
}

/// For each column, the value for each enrolled label. Only columns with exactly one value for each label are
/// included.
fn columns<'a>(material: &AnalysisInput<'a>) -> BTreeMap<&'a str, BTreeMap<u32, &'a str>> {
    let gallery = material.gallery;
    let mut columns: BTreeMap<&str, BTreeMap<u32, &str>> = BTreeMap::new();
    let mut torn: BTreeSet<&str> = BTreeSet::new();
    for (label, conditions) in gallery.labels.iter().zip(&gallery.conditions) {
        for (column, value) in conditions {
            let known = columns
                .entry(column)
                .or_default()
                .entry(*label)
                .or_insert(value);
            if *known != value {
                torn.insert(column);
            }
        }
    }
    columns.retain(|column, _| !torn.contains(column));
    columns
}
