//! A calibration of vectors.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use matchpoint_calibration::analysis::consistency::Band;
use matchpoint_calibration::analysis::{AnalysisScope, BAND_POINTS};
use matchpoint_calibration::procedure::{
    self, CalibratedSizes, LabelledVectors, VectorRequest, VectorRow, vectors_digest,
};

use super::outcome::Outcome;
use super::request::{Request, not_analysed};
use super::watched::{interruptible, unless_stopped};

/// Vectors in one block, and what is known of each.
#[derive(FromPyObject)]
pub(super) struct GivenRows {
    /// Single precision, little endian, row after row.
    values: PyBackedBytes,
    dimension: usize,
    labels: Vec<String>,
    ids: Vec<String>,
    conditions: BTreeMap<String, Vec<String>>,
}

impl GivenRows {
    fn read(&self) -> ReadRows<'_> {
        ReadRows {
            values: floats(&self.values),
            of: self,
        }
    }
}

/// The same, with numbers that can be computed with.
struct ReadRows<'a> {
    values: Vec<f32>,
    of: &'a GivenRows,
}

impl ReadRows<'_> {
    fn rows(&self) -> Vec<VectorRow<'_>> {
        let vectors = self.values.chunks_exact(self.of.dimension.max(1));
        let named = self.of.labels.iter().zip(&self.of.ids);
        let rows = vectors.zip(named).enumerate();
        rows.map(|(row, (vector, (label, id)))| VectorRow {
            id: id.clone(),
            label,
            conditions: conditions_of(&self.of.conditions, row),
            vector,
        })
        .collect()
    }
}

/// What is known of one row.
pub(super) fn conditions_of(
    columns: &BTreeMap<String, Vec<String>>,
    row: usize,
) -> BTreeMap<String, String> {
    let known = columns.iter();
    let known =
        known.filter_map(|(column, values)| Some((column.clone(), values.get(row)?.clone())));
    // As in a list of pictures, an empty one says nothing.
    known.filter(|(_, value)| !value.is_empty()).collect()
}

/// Numbers as numpy has them in memory.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Chooses a threshold for labelled vectors; without queries, each searches among the others.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "what Python gives is converted"
)]
pub(super) fn calibrate_vectors(
    py: Python<'_>,
    request: &str,
    gallery: GivenRows,
    queries: Option<GivenRows>,
) -> PyResult<Outcome> {
    let request = Request::parse(request)?;
    let (gallery, queries) = (&gallery, queries.as_ref());
    interruptible(py, |stopped| {
        calibrated(&request, gallery, queries, stopped)
    })?
}

/// The same, away from Python's thread.
fn calibrated(
    request: &Request,
    gallery: &GivenRows,
    queries: Option<&GivenRows>,
    stopped: &AtomicBool,
) -> PyResult<Outcome> {
    let settings = request.settings()?;
    let gallery = gallery.read();
    let queries = queries.map(GivenRows::read);
    let mut all = gallery.values.clone();
    all.extend(queries.iter().flat_map(|queries| &queries.values));
    unless_stopped(stopped)?;
    let digest = vectors_digest(&all);
    drop(all);
    unless_stopped(stopped)?;
    let query_rows = queries.as_ref().map(ReadRows::rows).unwrap_or_default();
    let vectors = LabelledVectors::normalise(gallery.rows(), query_rows);
    let vectors = vectors.map_err(|error| not_analysed(&error))?;
    unless_stopped(stopped)?;
    let asked = VectorRequest {
        source: request.source(digest),
        settings,
        scope: AnalysisScope {
            pairs_max: request.pairs_max.unwrap_or(VectorRequest::PAIRS_MAX),
            band: Band::default(),
            band_points: BAND_POINTS,
        },
    };
    let found = procedure::calibrate_vectors(&vectors, &asked, &|_, _, _| {
        !stopped.load(Ordering::Relaxed)
    });
    let found = found.map_err(|error| not_analysed(&error))?;
    unless_stopped(stopped)?;
    Outcome::of(
        &asked.source,
        &asked.settings,
        CalibratedSizes::of(&vectors),
        found,
    )
}
