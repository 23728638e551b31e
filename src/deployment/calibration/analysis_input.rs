//! A gallery and the queries that were searched for in it, in the form that an analysis needs.

use crate::deployment::{DeploymentError, Gathered};
use matchpoint_calibration::procedure::{LabelledVectors, VectorRow};

/// Copies the vectors of a gallery, in the order of their ids, and of the queries. There are no queries if the
/// gallery's own items were the queries, or if their vectors were not kept.
///
/// # Errors
/// Never in practice, because stored vectors have unit length.
pub fn material_sets(gathered: &Gathered) -> Result<LabelledVectors, DeploymentError> {
    let view = gathered.view();
    let items = view.items().map(|(head, vector)| VectorRow {
        id: head.id.clone(),
        label: &head.label,
        conditions: head.metadata.clone(),
        vector,
    });
    let mut items: Vec<VectorRow<'_>> = items.collect();
    items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let queries = gathered.queries.iter().map(|(query, vector)| VectorRow {
        id: query.id.clone(),
        label: &query.label,
        conditions: query.conditions.clone(),
        vector,
    });
    Ok(LabelledVectors::from_unit(items, queries.collect())?)
}
