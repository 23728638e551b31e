//! A calibration that the module for Python saved: the record, and everything that it takes to make it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::cli::exit::{Exit, fail};
use crate::files::read_file;
use matchpoint_arrays::{BYTES_MAX, ReadOptions, VectorTable};
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::procedure::{StatedSettings, VectorRow, vectors_digest};
use matchpoint_calibration::recording::Recording;

/// The format of `calibration.json`.
const FORMAT: u32 = 1;
/// What says how the other files belong together.
const FILE: &str = "calibration.json";

/// A saved calibration, all of whose files belong together.
pub(crate) struct SavedCalibration {
    pub(crate) record: OperatingPoint,
    /// The searches that the record was made from.
    pub(crate) recording: Recording,
    pub(crate) settings: StatedSettings,
    pub(crate) gallery: SavedVectors,
    pub(crate) queries: SavedVectors,
}

/// Vectors, and what is known of each.
pub(crate) struct SavedVectors {
    table: VectorTable,
    known: SavedRows,
}

#[derive(Deserialize)]
struct SavedFormat {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFile {
    #[serde(rename = "format")]
    _format: u32,
    operating_point: String,
    settings: StatedSettings,
    gallery: SavedRows,
    queries: SavedRows,
}

/// What is known of each vector, in the order of the rows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRows {
    ids: Vec<String>,
    labels: Vec<String>,
    #[serde(default)]
    conditions: BTreeMap<String, Vec<String>>,
}

impl SavedCalibration {
    /// Reads a folder that `Calibration.save` wrote.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = read_head(folder)?;
        let id = &file.operating_point;
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(damaged(folder, "the id of its operating point is none"));
        }
        let record = read(&folder.join("operating-points").join(format!("{id}.json")))?;
        let record = OperatingPoint::parse(&record)?;
        let recording = read(&folder.join("recordings").join(format!("{id}.json")))?;
        let recording = Recording::parse(&recording)?;
        if record.id() != id || recording.trials().digest() != record.content().calibration_digest {
            return Err(damaged(
                folder,
                "its operating point and its recording are of two calibrations",
            ));
        }
        let saved = Self {
            record,
            recording,
            settings: file.settings,
            gallery: SavedVectors::read(&folder.join("gallery.npy"), file.gallery)?,
            queries: SavedVectors::read(&folder.join("queries.npy"), file.queries)?,
        };
        let all = [&*saved.gallery.table.vectors, &saved.queries.table.vectors].concat();
        if vectors_digest(&all) != saved.record.content().binding.gallery_digest {
            return Err(damaged(
                folder,
                "gallery.npy and queries.npy are not the vectors that its operating point was made of",
            ));
        }
        Ok(saved)
    }
}

impl SavedVectors {
    fn read(path: &Path, known: SavedRows) -> anyhow::Result<Self> {
        let options = ReadOptions {
            name: None,
            text: None,
            bytes_max: BYTES_MAX,
        };
        let table = matchpoint_arrays::read(path, &options)?;
        let wrong = |what: String| {
            let message = format!(
                "{} and {FILE} beside it: {what}; save it again",
                path.display()
            );
            fail(Exit::BadData, message)
        };
        let rows = table.rows();
        let columns = [&known.ids, &known.labels].into_iter();
        for column in columns.chain(known.conditions.values()) {
            if column.len() != rows {
                let what = format!(
                    "{rows} vectors, and {} ids, labels or conditions",
                    column.len()
                );
                return Err(wrong(what));
            }
        }
        let mut seen = BTreeSet::new();
        if let Some(id) = known.ids.iter().find(|id| !seen.insert(id.as_str())) {
            return Err(wrong(format!("two vectors have the id {id:?}")));
        }
        let vectors = table.vectors.chunks_exact(table.dimension.max(1));
        if let Some(row) = vectors.clone().position(|vector| !is_direction(vector)) {
            let what = format!("row {row}, counted from 0, is zero or holds what is not a number");
            return Err(wrong(what));
        }
        Ok(Self { table, known })
    }

    /// Row by row.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = VectorRow<'_>> {
        let vectors = self.table.vectors.chunks_exact(self.table.dimension.max(1));
        let named = self.known.ids.iter().zip(&self.known.labels);
        vectors
            .zip(named)
            .enumerate()
            .map(|(row, (vector, (id, label)))| {
                let conditions = self.known.conditions.iter();
                let conditions = conditions
                    .filter_map(|(name, column)| Some((name.clone(), column.get(row)?.clone())))
                    .filter(|(_, value)| !value.is_empty());
                VectorRow {
                    id: id.clone(),
                    label,
                    conditions: conditions.collect(),
                    vector,
                }
            })
    }
}

fn is_direction(vector: &[f32]) -> bool {
    vector.iter().all(|value| value.is_finite()) && vector.iter().any(|value| *value != 0.0)
}

fn read_head(folder: &Path) -> anyhow::Result<SavedFile> {
    let path = folder.join(FILE);
    if !path.exists() {
        let what = if folder.join("operating-points").exists() {
            "an operating point without the vectors that it was made of, so nothing shows that it fits here"
        } else {
            "no calibration"
        };
        let message = format!(
            "{} holds {what}; write it by `found.save(folder)` of matchpoint_calibration, and not by that of the \
             operating point",
            folder.display()
        );
        return Err(fail(Exit::NoInput, message));
    }
    let json = read(&path)?;
    let not_json = |cause: serde_json::Error| damaged(folder, &format!("{FILE}: {cause}"));
    let SavedFormat { format } = serde_json::from_slice(&json).map_err(not_json)?;
    if format != FORMAT {
        return Err(damaged(
            folder,
            &format!("{FILE} has the format {format}, and this program reads {FORMAT}"),
        ));
    }
    serde_json::from_slice(&json).map_err(not_json)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let content = read_file(path);
    content.with_context(|| format!("cannot read {}", path.display()))
}

fn damaged(folder: &Path, what: &str) -> anyhow::Error {
    let message = format!(
        "{} is no calibration that can be taken: {what}; save it again, with the module for Python of this version",
        folder.display()
    );
    fail(Exit::BadData, message)
}
