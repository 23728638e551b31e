//! A head on the disk: its record, and its weights beside it.

use std::path::Path;

use crate::cli::exit::{Exit, fail};
use crate::files::read_file;
use matchpoint_adapt::{Head, HeadRecord, LabelledRows, vector_sha256};
use matchpoint_arrays::{LabelTable, Role, VectorTable};
use matchpoint_vector::Embedding;

/// The record of a head, in its folder or in that of its model.
pub(crate) const RECORD_NAME: &str = "head.json";
/// Its weights, in the same folder.
pub(crate) const WEIGHTS_NAME: &str = "head.f32";

/// A head with its record.
pub(crate) struct StoredHead {
    pub(crate) record: HeadRecord,
    pub(crate) head: Head,
}

impl StoredHead {
    /// Reads what `matchpoint adapt` wrote.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            read_file(&path).map_err(|cause| {
                let message = format!("cannot read the head {}: {cause}", path.display());
                fail(Exit::NoInput, message)
            })
        };
        let wrong = |error: matchpoint_adapt::AdaptError| {
            fail(Exit::BadData, format!("{}: {error}", folder.display()))
        };
        let record = HeadRecord::parse(&read(RECORD_NAME)?).map_err(wrong)?;
        let head = record.head(&read(WEIGHTS_NAME)?).map_err(wrong)?;
        Ok(Self { record, head })
    }

    /// The vectors of a file behind the head. Rows that it was fitted to are removed from `rows`, or
    /// refused.
    pub(crate) fn behind(
        &self,
        data: &VectorTable,
        rows: &mut LabelTable,
        without_fitted: bool,
    ) -> anyhow::Result<VectorTable> {
        let (expected, found) = (self.head.from(), data.dimension);
        if expected != found {
            let base = self.record.base.as_ref();
            let layer = base.and_then(|base| base.second_layer.as_ref());
            let layer = layer.map_or_else(String::new, |tensor| {
                format!(
                    "; it reads a second layer ({tensor}) beside the embedding: embed the images by its model, and leave --head out"
                )
            });
            let message = format!(
                "the head takes vectors of {expected} components, and these have {found}{layer}"
            );
            return Err(fail(Exit::Mismatch, message));
        }
        let units = data
            .vectors
            .chunks(data.dimension)
            .map(|raw| Embedding::normalise(raw.to_vec()));
        let units: Vec<Option<Embedding>> = units.map(Result::ok).collect();
        let is_fitted = |row: &usize| {
            let unit = units.get(*row).and_then(Option::as_ref);
            unit.is_some_and(|unit| self.was_fitted_to(unit.as_slice(), *row, rows))
        };
        let fitted: Vec<usize> = (0..units.len()).filter(is_fitted).collect();
        let known = units
            .iter()
            .flatten()
            .flat_map(|unit| unit.as_slice().iter().copied());
        let count = units.iter().flatten().count();
        let known = LabelledRows::normalise(data.dimension, known.collect(), vec![0; count])?;
        let behind = self.head.apply_to(&known)?;
        let mut next = behind.vectors().chunks(behind.dimension());
        let mut vectors = Vec::with_capacity(units.len() * behind.dimension());
        for unit in &units {
            // A row that is not an embedding is kept, and refused by its number if it is used.
            match unit.as_ref().and_then(|_| next.next()) {
                Some(row) => vectors.extend_from_slice(row),
                None => vectors.resize(vectors.len() + behind.dimension(), 0.0),
            }
        }
        if let (Some(first), false) = (fitted.first(), without_fitted) {
            let message = format!(
                "the head was fitted to {} of the rows, or to labels of these strangers (the first: row {first} counted from 0): a \
                 threshold chosen on them accepts too much; take labels that it has not seen ({RECORD_NAME} lists its own), or \
                 leave these out by --without-fitted",
                fitted.len()
            );
            return Err(fail(Exit::BadData, message));
        }
        if !fitted.is_empty() {
            let count = rows.label.len();
            let roles = rows.role.get_or_insert_with(|| vec![Role::Gallery; count]);
            for row in fitted {
                if let Some(role) = roles.get_mut(row) {
                    *role = Role::Unused;
                }
            }
        }
        Ok(VectorTable {
            dimension: self.head.to(),
            vectors,
            ..data.clone()
        })
    }

    /// Rows of the gallery may be, if they are not searched for too.
    fn was_fitted_to(&self, unit: &[f32], row: usize, rows: &LabelTable) -> bool {
        let role = rows.role.as_ref().and_then(|roles| roles.get(row));
        let label = rows.label.get(row).map_or("", String::as_str);
        match role {
            Some(Role::Gallery | Role::Unused) => false,
            Some(Role::Query) => self.record.fitted_on.contains(&vector_sha256(unit)),
            Some(Role::Unknown) | None => {
                self.record.fitted_label(label)
                    || self.record.fitted_on.contains(&vector_sha256(unit))
            }
        }
    }
}
