//! A gallery and what was searched for in it, as an analysis takes them.

use std::collections::BTreeMap;

use super::{DeploymentError, Gathered};
use matchpoint_calibration::analysis::EmbeddedSet;
use matchpoint_calibration::analysis::embeddings::Embeddings;

/// A gallery and queries whose labels share their indices.
#[derive(Debug)]
pub struct MaterialSets {
    /// The names of the labels, by index.
    pub names: Vec<String>,
    /// The items, in the order of their ids.
    pub gallery: EmbeddedSet,
    /// The queries; `None` where the gallery searched for itself, or their vectors were not kept.
    pub queries: Option<EmbeddedSet>,
}

/// One row of a set: id, label, conditions, vector of unit length.
type LabelledVector<'a> = (&'a str, &'a str, &'a BTreeMap<String, String>, &'a [f32]);

/// Copies the vectors of a gallery and of what was searched for.
///
/// # Errors
/// None in practice: stored vectors are of unit length.
pub fn material_sets(gathered: &Gathered) -> Result<MaterialSets, DeploymentError> {
    let snapshot = gathered.snapshot();
    let mut items: Vec<LabelledVector<'_>> = snapshot
        .items()
        .map(|(head, vector)| {
            (
                head.id.as_str(),
                head.label.as_str(),
                &head.metadata,
                vector,
            )
        })
        .collect();
    items.sort_unstable_by_key(|(id, ..)| *id);
    let queries: Vec<LabelledVector<'_>> = gathered
        .queries
        .iter()
        .map(|(query, vector)| {
            (
                query.id.as_str(),
                query.label.as_str(),
                &query.conditions,
                &**vector,
            )
        })
        .collect();
    let mut names: Vec<String> = items
        .iter()
        .chain(&queries)
        .map(|(_, label, ..)| (*label).to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(MaterialSets {
        gallery: set(&items, &names)?,
        queries: if queries.is_empty() {
            None
        } else {
            Some(set(&queries, &names)?)
        },
        names,
    })
}

fn set(rows: &[LabelledVector<'_>], names: &[String]) -> Result<EmbeddedSet, DeploymentError> {
    let dimension = rows.first().map_or(1, |(.., vector)| vector.len());
    let mut vectors = Vec::with_capacity(rows.len() * dimension);
    let mut labels = Vec::with_capacity(rows.len());
    for (_, label, _, vector) in rows {
        vectors.extend_from_slice(vector);
        let index = names.binary_search_by(|name| name.as_str().cmp(label));
        labels.push(u32::try_from(index.unwrap_or_default()).unwrap_or(u32::MAX));
    }
    Ok(EmbeddedSet {
        ids: rows.iter().map(|(id, ..)| (*id).to_owned()).collect(),
        conditions: rows
            .iter()
            .map(|(_, _, known, _)| (*known).clone())
            .collect(),
        embeddings: Embeddings::from_unit(dimension, vectors, labels.clone())?,
        labels,
    })
}
