//! A calibration of scores that another system computed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use matchpoint_calibration::procedure::{
    self, CalibratedSizes, ScoredGallery, ScoredQuery, vectors_digest,
};
use matchpoint_calibration::recording::RecordedMatch;
use matchpoint_vector::{Embedding, Similarity};

use super::outcome::Outcome;
use super::request::{InputError, Request, not_analysed};
use super::vectors::{conditions_of, floats};
use super::watched::{interruptible, unless_stopped};

/// Similarities in one array: 4 GiB.
const SIMILARITIES_MAX: usize = 1 << 30;

/// The best match of each of many searches.
#[derive(FromPyObject)]
pub(super) struct GivenMatches {
    /// Single precision, little endian.
    scores: PyBackedBytes,
    labels: Vec<String>,
    ids: Vec<String>,
    items: Vec<String>,
    item_labels: Vec<String>,
    conditions: BTreeMap<String, Vec<String>>,
}

impl GivenMatches {
    fn queries(&self) -> PyResult<Vec<ScoredQuery>> {
        let scores = floats(&self.scores);
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
#[expect(
    clippy::needless_pass_by_value,
    reason = "what Python gives is converted"
)]
pub(super) fn calibrate_scores(
    py: Python<'_>,
    request: &str,
    gallery: Vec<String>,
    matches: GivenMatches,
) -> PyResult<Outcome> {
    let request = Request::parse(request)?;
    let matches = &matches;
    interruptible(py, |stopped| {
        calibrated(&request, gallery, matches, stopped)
    })?
}

/// The same, away from Python's thread.
fn calibrated(
    request: &Request,
    gallery: Vec<String>,
    matches: &GivenMatches,
    stopped: &AtomicBool,
) -> PyResult<Outcome> {
    let settings = request.settings()?;
    let source = request.source(vectors_digest(&floats(&matches.scores)));
    unless_stopped(stopped)?;
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
    unless_stopped(stopped)?;
    let found = procedure::calibrate_scores(&gallery, queries, &source, &settings);
    let found = found.map_err(|error| not_analysed(&error))?;
    unless_stopped(stopped)?;
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
    let row = dimension.max(1).saturating_mul(size_of::<f32>());
    let (rows, columns) = (queries.len() / row, items.len() / row);
    let count = rows.saturating_mul(columns);
    if count > SIMILARITIES_MAX {
        return Err(InputError::new_err(format!(
            "{rows} queries and {columns} items have {count} similarities, and one array takes {SIMILARITIES_MAX}; \
             give fewer queries at a time"
        )));
    }
    let scores = interruptible(py, |stopped| {
        let (queries, items) = (unit(queries, dimension)?, unit(items, dimension)?);
        let mut scores = Vec::with_capacity(count.saturating_mul(size_of::<f32>()));
        for query in &queries {
            unless_stopped(stopped)?;
            for item in &items {
                let score = Similarity::between(query.as_slice(), item.as_slice());
                let score = score.map_or(f32::NAN, Similarity::get);
                scores.extend_from_slice(&score.to_le_bytes());
            }
        }
        PyResult::Ok(scores)
    })??;
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
