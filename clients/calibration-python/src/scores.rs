//! A calibration of scores that another system computed.

use std::collections::{BTreeMap, BTreeSet};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use matchpoint_calibration::procedure::{
    self, CalibratedSizes, ScoredGallery, ScoredQuery, vectors_digest,
};
use matchpoint_calibration::recording::RecordedMatch;
use matchpoint_vector::{Embedding, Similarity};

use super::outcome::Outcome;
use super::request::{InputError, Request, not_analysed};
use super::vectors::{conditions_of, floats};
use super::watched::interruptible;

/// The best match of each of many searches.
#[derive(FromPyObject)]
pub(super) struct GivenMatches<'py> {
    /// Single precision, little endian.
    scores: Bound<'py, PyBytes>,
    labels: Vec<String>,
    ids: Vec<String>,
    items: Vec<String>,
    item_labels: Vec<String>,
    conditions: BTreeMap<String, Vec<String>>,
}

impl GivenMatches<'_> {
    fn queries(&self) -> PyResult<Vec<ScoredQuery>> {
        let scores = floats(self.scores.as_bytes());
        let queries = self.labels.iter().zip(&self.ids);
        let found = self.items.iter().zip(&self.item_labels);
        let all = queries.zip(found).zip(scores).enumerate();
        all.map(|(row, (((label, id), (item, item_label)), score))| {
            let score = Similarity::new(score);
            let score = score.ok_or_else(|| InputError::new_err("a score is not a number"))?;
            Ok(ScoredQuery {
                id: id.clone(),
                label: label.clone(),
                found: RecordedMatch {
                    item: item.clone(),
                    label: item_label.clone(),
                    score,
                    adjusted: None,
                    other: None,
                },
                conditions: conditions_of(&self.conditions, row),
            })
        })
        .collect()
    }
}

/// Chooses a threshold on searches that another system did in a gallery of these labels, one for each item.
#[pyfunction]
pub(super) fn calibrate_scores(
    py: Python<'_>,
    request: &str,
    gallery: Vec<String>,
    matches: GivenMatches<'_>,
) -> PyResult<Outcome> {
    let request = Request::parse(request)?;
    let settings = request.settings()?;
    let source = request.source(vectors_digest(&floats(matches.scores.as_bytes())));
    let queries = matches.queries()?;
    let items = gallery.len();
    let labels: BTreeSet<String> = gallery.into_iter().collect();
    let searched = matches.labels.iter().chain(&labels);
    let sizes = CalibratedSizes {
        gallery: items,
        queries: queries.len(),
        labels: searched.collect::<BTreeSet<_>>().len(),
    };
    let gallery = ScoredGallery {
        items: items as u64,
        labels,
    };
    let found = interruptible(py, |_stopped| {
        procedure::calibrate_scores(&gallery, queries, &source, &settings)
    })?;
    let found = found.map_err(|error| not_analysed(&error))?;
    Outcome::of(&source, &settings, sizes, found)
}

/// The score of each query with each item, to the last bit as the service computes it: single precision, little
/// endian, row after row.
#[pyfunction]
pub(super) fn similarities<'py>(
    py: Python<'py>,
    queries: &[u8],
    items: &[u8],
    dimension: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let (queries, items) = (unit(queries, dimension)?, unit(items, dimension)?);
    let scores = py.detach(|| {
        let pairs = queries
            .iter()
            .flat_map(|query| items.iter().map(move |item| (query, item)));
        let scores =
            pairs.map(|(query, item)| Similarity::between(query.as_slice(), item.as_slice()));
        let scores = scores.flat_map(|score| score.map_or(f32::NAN, Similarity::get).to_le_bytes());
        scores.collect::<Vec<u8>>()
    });
    Ok(PyBytes::new(py, &scores))
}

/// Vectors of unit length.
fn unit(bytes: &[u8], dimension: usize) -> PyResult<Vec<Embedding>> {
    let values = floats(bytes);
    let rows = values.chunks_exact(dimension.max(1));
    rows.map(|row| {
        Embedding::normalise(row.to_vec()).map_err(|cause| InputError::new_err(cause.to_string()))
    })
    .collect()
}
