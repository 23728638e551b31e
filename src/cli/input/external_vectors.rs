//! Vectors that are made elsewhere, as items to be enrolled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::array_flags::ArrayFlags;
use super::left_out::LeftOut;
use crate::cli::exit::{Exit, fail};
use crate::deployment::{RefusedItem, Shard, SourceList};
use crate::telemetry::escaped;
use matchpoint_arrays::{LabelTable, Role, VectorTable};
use matchpoint_gallery::item::Item;
use matchpoint_vector::Embedding;

/// Which vectors to enrol.
#[derive(Debug, clap::Args)]
pub(crate) struct ExternalVectorFlags {
    /// Enrol vectors instead of images: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    embeddings: Option<PathBuf>,
    /// A .csv file whose row i belongs to vector i: column `label` (or `class`), perhaps `id`, `role`
    /// (rows of the role gallery are enrolled) and `split`; further columns become metadata. For
    /// Parquet, columns of the same file without it
    #[arg(long, value_name = "FILE", requires = "embeddings")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    rows: ArrayFlags,
    /// Name of what makes the vectors, for a new deployment without a model: vectors of another name
    /// are never compared with these
    #[arg(
        long,
        value_name = "NAME",
        requires = "embeddings",
        conflicts_with = "model"
    )]
    pub(crate) vectors_of: Option<String>,
}

/// Vectors with what is known of each.
pub(crate) struct ExternalVectors {
    table: VectorTable,
    rows: LabelTable,
    /// The rows of the requested split.
    in_split: Vec<usize>,
    /// Those of them that are enrolled.
    chosen: Vec<usize>,
}

impl ExternalVectorFlags {
    /// Reads the vectors; `None` if none were named.
    pub(crate) fn read(&self) -> anyhow::Result<Option<ExternalVectors>> {
        let Some(path) = &self.embeddings else {
            return Ok(None);
        };
        let table = self.rows.read(path)?;
        let rows = match &self.labels {
            Some(labels) => LabelTable::read(labels, table.rows())?,
            None => table.labels(path)?,
        };
        let in_split = self.in_split(&rows);
        let is_enrolled = |row: &usize| match &rows.role {
            None => true,
            Some(roles) => roles.get(*row) == Some(&Role::Gallery),
        };
        let chosen: Vec<usize> = in_split.iter().copied().filter(is_enrolled).collect();
        if chosen.is_empty() {
            let message = format!(
                "no vector of {} is to be enrolled: none has the role gallery and the split asked for",
                path.display()
            );
            return Err(fail(Exit::BadData, message));
        }
        Ok(Some(ExternalVectors {
            table,
            rows,
            in_split,
            chosen,
        }))
    }

    fn in_split(&self, rows: &LabelTable) -> Vec<usize> {
        let is_asked_for = |row: &usize| match (&self.rows.split, &rows.split) {
            (None, _) => true,
            (Some(wanted), Some(splits)) => splits.get(*row) == Some(wanted),
            (Some(_), None) => false,
        };
        (0..rows.label.len()).filter(is_asked_for).collect()
    }
}

impl ExternalVectors {
    pub(crate) fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Adds every row that is enrolled to a list.
    pub(crate) fn list(&self, list: &mut SourceList) {
        for &row in &self.chosen {
            let at =
                |column: &'_ Vec<String>| column.get(row).map_or("", String::as_str).to_owned();
            let mut texts = vec![self.id(row), at(&self.rows.label)];
            for (key, column) in &self.rows.metadata {
                let value = at(column);
                if !value.is_empty() {
                    texts.extend([key.clone(), value]);
                }
            }
            list.add(texts.iter().map(String::as_str));
        }
    }

    /// Keeps one part of them.
    pub(crate) fn keep(&mut self, shard: Shard) {
        let chosen = std::mem::take(&mut self.chosen).into_iter();
        self.chosen = chosen.filter(|row| shard.takes(&self.id(*row))).collect();
    }

    /// The rows of the split that have a role.
    fn roles(&self) -> impl Iterator<Item = (usize, Role)> {
        let roles = self.rows.role.as_deref().unwrap_or_default();
        let rows = self.in_split.iter();
        rows.filter_map(|&row| Some((row, *roles.get(row)?)))
    }

    /// Rows of other roles than the gallery's.
    pub(crate) fn left_out(&self) -> LeftOut {
        let mut left_out = LeftOut::default();
        for (_, role) in self.roles().filter(|(_, role)| *role != Role::Gallery) {
            left_out.pass(role.as_str());
        }
        left_out
    }

    /// A role that contradicts the labels would turn an enrolled label into a stranger, or the other way
    /// round.
    pub(crate) fn refuse_contradictions(
        &self,
        mut enrolled: BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let at = |row: &usize| self.rows.label.get(*row);
        enrolled.extend(self.chosen.iter().filter_map(at).cloned());
        let denied = self.roles().filter(|(row, role)| {
            let is_enrolled = at(row).is_some_and(|label| enrolled.contains(label));
            role.contradicts(is_enrolled)
        });
        let denied: Vec<(usize, Role)> = denied.collect();
        let Some((row, role)) = denied.first() else {
            return Ok(());
        };
        let label = escaped(at(row).map_or("", String::as_str));
        let (what, role) = match role {
            Role::Unknown => ("enrolled", "a query"),
            Role::Query | Role::Gallery | Role::Unused => ("not enrolled", "unknown"),
        };
        let message = format!(
            "{} rows have a role that their labels deny; the first is row {row} counted from 0: its label {label} is {what}; make it {role}, or correct its label",
            denied.len()
        );
        Err(fail(Exit::BadData, message))
    }

    pub(crate) fn dimension(&self) -> usize {
        self.table.dimension
    }

    /// Every item, or why it has none.
    pub(crate) fn items(&self) -> impl Iterator<Item = Result<Item, RefusedItem>> {
        self.chosen.iter().map(|&row| self.item(row))
    }

    fn item(&self, row: usize) -> Result<Item, RefusedItem> {
        let id = self.id(row);
        let from = row * self.table.dimension;
        let values = self.table.vectors.get(from..from + self.table.dimension);
        let embedding = Embedding::normalise(values.unwrap_or_default().to_vec());
        let embedding = embedding.map_err(|cause| RefusedItem {
            item: id.clone(),
            reason: cause.to_string(),
        })?;
        let at = |column: &Vec<String>| column.get(row).cloned().unwrap_or_default();
        let metadata = self.rows.metadata.iter();
        let metadata = metadata.map(|(key, column)| (key.clone(), at(column)));
        Ok(Item {
            id,
            label: at(&self.rows.label),
            // An empty field is no metadata.
            metadata: metadata
                .filter(|(_, value)| !value.is_empty())
                .collect::<BTreeMap<_, _>>(),
            embedding,
            source_sha256: None,
            image: None,
        })
    }

    /// The given id, or the number of the row.
    fn id(&self, row: usize) -> String {
        let given = self.rows.id.as_ref().and_then(|ids| ids.get(row));
        given.cloned().unwrap_or_else(|| format!("{row:08}"))
    }

    pub(crate) fn labels(&self) -> BTreeSet<&str> {
        let labels = self
            .chosen
            .iter()
            .filter_map(|&row| self.rows.label.get(row));
        labels.map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five vectors and their labels.
    fn given(labels: &str, split: Option<&str>) -> ExternalVectors {
        let folder = tempfile::tempdir().unwrap();
        let (vectors, list) = (folder.path().join("v.fvecs"), folder.path().join("l.csv"));
        let row = [&1_u32.to_le_bytes()[..], &1_f32.to_le_bytes()].concat();
        std::fs::write(&vectors, row.repeat(5)).unwrap();
        std::fs::write(&list, labels).unwrap();
        let flags = ExternalVectorFlags {
            embeddings: Some(vectors),
            labels: Some(list),
            rows: ArrayFlags {
                array: None,
                split: split.map(ToOwned::to_owned),
            },
            vectors_of: None,
        };
        flags.read().unwrap().unwrap()
    }

    #[test]
    fn roles_of_the_split_are_held_against_what_is_enrolled() {
        let labels =
            "label,role,split\na,gallery,x\na,query,x\nb,unknown,x\nb,gallery,y\nb,query,y\n";
        let split = given(labels, Some("x"));
        assert_eq!(split.len(), 1);
        let left_out = split.left_out().by_role;
        assert_eq!(
            left_out.into_iter().collect::<Vec<_>>(),
            [("query".to_owned(), 1), ("unknown".to_owned(), 1)]
        );
        assert!(split.refuse_contradictions(BTreeSet::new()).is_ok());
        for (given, enrolled) in [(&split, "b"), (&given(labels, None), "a")] {
            let enrolled = BTreeSet::from([enrolled.to_owned()]);
            let error = given
                .refuse_contradictions(enrolled)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("row 2 counted from 0: its label b is enrolled"),
                "{error}"
            );
        }
        let query = given(&labels.replace("a,query", "c,query"), Some("x"));
        let error = query
            .refuse_contradictions(BTreeSet::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("row 1 counted from 0: its label c is not enrolled"),
            "{error}"
        );
    }
}
