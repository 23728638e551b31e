//! The labels of embeddings: a CSV table, or the text columns of the same Parquet file, whose row
//! i belongs to row i of the vectors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::delimited::{Columns, Delimited};
use super::error::ArraysError;

/// The columns that are looked for.
const COLUMNS: Columns = Columns {
    known: &["label", "class", "id", "role", "split"],
    required: &[&["label", "class"]],
    aligned: true,
};

/// What a row is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It is enrolled.
    Gallery,
    /// It is searched for, and its label is enrolled.
    Query,
    /// It is searched for, and its label is not enrolled.
    Unknown,
    /// It plays no part.
    Unused,
}

impl Role {
    /// All of them, in the order in which they are named.
    pub const ALL: [Self; 4] = [Self::Gallery, Self::Query, Self::Unknown, Self::Unused];

    /// As the column `role` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gallery => "gallery",
            Self::Query => "query",
            Self::Unknown => "unknown",
            Self::Unused => "unused",
        }
    }

    /// Whether a row of this role cannot have a label that is enrolled, or is not: it would turn a mate into a
    /// stranger, or the other way round.
    #[must_use]
    pub fn contradicts(self, is_enrolled: bool) -> bool {
        match self {
            Self::Query => !is_enrolled,
            Self::Unknown => is_enrolled,
            Self::Gallery | Self::Unused => false,
        }
    }

    /// The role of that name, whatever its case.
    ///
    /// # Errors
    /// What is wrong with a word that is not a role.
    pub fn parse(word: &str) -> Result<Self, String> {
        let named = |role: &Self| role.as_str().eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            let word = word.escape_debug();
            format!("its role is `{word}`; write gallery, query, unknown or unused")
        })
    }
}

/// Column by column, what is known of each row. Every list is as long as there are rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTable {
    /// What the row shows, never empty; the column `label`, or else `class`.
    pub label: Vec<String>,
    /// What the row is called, never empty and never repeated; the column `id`.
    pub id: Option<Vec<String>>,
    /// What the row is for; the column `role`.
    pub role: Option<Vec<Role>>,
    /// Which part of the data it belongs to, in the writer's words; the column `split`.
    pub split: Option<Vec<String>>,
    /// All other columns.
    pub metadata: BTreeMap<String, Vec<String>>,
}

impl LabelTable {
    /// Reads a CSV file whose first line names the columns. `rows` is the number of embeddings.
    ///
    /// # Errors
    /// Refuses what [`Delimited`] refuses, another number of rows than of embeddings, no column of
    /// labels, a label or id that is empty or holds a control character, an id given twice, and a role that is none.
    pub fn read(path: &Path, rows: usize) -> Result<Self, ArraysError> {
        let table = Delimited::read(path, &COLUMNS)?;
        let mut columns = vec![Vec::new(); table.names().len()];
        let mut read = 0_u64;
        for row in table.rows() {
            let row = row?;
            read += 1;
            // The other rows are only counted, for the message.
            if read <= rows as u64 {
                for (column, cell) in columns.iter_mut().zip(row.cells) {
                    column.push(cell.into_owned());
                }
            }
        }
        let place = path.display().to_string();
        if read != rows as u64 {
            return Err(count(&place, read, rows));
        }
        let named = table.names().iter().cloned().zip(columns);
        Self::assemble(&place, named.collect())
    }

    /// Takes columns of text by name, as [`super::read`] finds them beside the embeddings.
    ///
    /// # Errors
    /// Refuses what [`Self::read`] refuses, as far as it can occur.
    pub fn from_columns(
        path: &Path,
        columns: BTreeMap<String, Vec<String>>,
        rows: usize,
    ) -> Result<Self, ArraysError> {
        let place = path.display().to_string();
        match columns.values().find(|values| values.len() != rows) {
            Some(values) => Err(count(&place, values.len() as u64, rows)),
            None => Self::assemble(&place, columns),
        }
    }

    fn assemble(
        place: &str,
        mut columns: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, ArraysError> {
        let label = columns.remove("label").or_else(|| columns.remove("class"));
        let Some(label) = label else {
            let names: Vec<&str> = columns.keys().map(String::as_str).collect();
            return Err(wrong(
                place,
                format!(
                    "there is no column `label` or `class`; the columns are: {}",
                    names.join(", ")
                ),
            ));
        };
        full(place, "label", &label)?;
        plain(place, "label", &label)?;
        let id = columns.remove("id");
        if let Some(ids) = &id {
            full(place, "id", ids)?;
            plain(place, "id", ids)?;
            distinct(place, ids)?;
        }
        let role = match columns.remove("role") {
            Some(words) => Some(roles(place, &words)?),
            None => None,
        };
        Ok(Self {
            label,
            id,
            role,
            split: columns.remove("split"),
            metadata: columns,
        })
    }
}

fn full(place: &str, name: &str, values: &[String]) -> Result<(), ArraysError> {
    match values.iter().position(String::is_empty) {
        Some(row) => Err(bad_row(place, row, format!("its {name} is missing"))),
        None => Ok(()),
    }
}

/// No gallery accepts a name with control characters, and none is printed unescaped.
fn plain(place: &str, name: &str, values: &[String]) -> Result<(), ArraysError> {
    let controls = |value: &String| value.chars().any(char::is_control);
    match values.iter().position(controls) {
        Some(row) => {
            let what = format!("its {name} holds a control character; remove it");
            Err(bad_row(place, row, what))
        }
        None => Ok(()),
    }
}

fn distinct(place: &str, ids: &[String]) -> Result<(), ArraysError> {
    let mut seen = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        if let Some(first) = seen.insert(id, row) {
            let what = format!("its id `{id}` is that of row {first} already; give each its own");
            return Err(bad_row(place, row, what));
        }
    }
    Ok(())
}

fn roles(place: &str, words: &[String]) -> Result<Vec<Role>, ArraysError> {
    let words = words.iter().enumerate();
    let role = |(row, word): (usize, &String)| {
        Role::parse(word).map_err(|problem| bad_row(place, row, problem))
    };
    words.map(role).collect()
}

fn bad_row(place: &str, row: usize, what: String) -> ArraysError {
    ArraysError::Row {
        place: place.to_owned(),
        row: row as u64,
        what,
    }
}

fn wrong(place: &str, what: String) -> ArraysError {
    ArraysError::Labels {
        place: place.to_owned(),
        what,
    }
}

fn count(place: &str, labels: u64, rows: usize) -> ArraysError {
    ArraysError::Count {
        place: place.to_owned(),
        labels,
        rows: rows as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str, rows: usize) -> Result<LabelTable, ArraysError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        fs::write(&path, text).unwrap();
        LabelTable::read(&path, rows)
    }

    #[test]
    fn every_column_finds_its_place() {
        let text = "\u{feff}id,class,role,split,camera\n\
            1, ann ,gallery,train,x\n2,\"bob, jr\",query,test,\n3,cy,unknown,test,y\n4,d,unused,,z\n";
        let rows = read(text, 4).unwrap();
        assert_eq!(rows.label, ["ann", "bob, jr", "cy", "d"]);
        assert_eq!(rows.id.unwrap(), ["1", "2", "3", "4"]);
        let roles = [Role::Gallery, Role::Query, Role::Unknown, Role::Unused];
        assert_eq!(rows.role.unwrap(), roles);
        assert_eq!(rows.split.unwrap(), ["train", "test", "test", ""]);
        assert_eq!(rows.metadata["camera"], ["x", "", "y", "z"]);

        let rows = read("label,class\na,one\n", 1).unwrap();
        assert_eq!(
            (rows.label, rows.id, rows.role),
            (vec!["a".to_owned()], None, None)
        );
        assert_eq!(rows.metadata["class"], ["one"]);
    }

    #[test]
    fn names_are_found_whatever_their_case_and_the_index_of_a_data_frame_is_left_out() {
        for header in [",ID;CAM,Label, Role ", "Unnamed: 0,ID;CAM,Label, Role "] {
            let text = format!("{header}\r\n0,x,ann,Gallery\r\n1,y,bob,unused\r\n,,,\r\n");
            let rows = read(&text, 2).unwrap();
            assert_eq!(rows.label, ["ann", "bob"]);
            assert_eq!(rows.role.unwrap(), [Role::Gallery, Role::Unused]);
            assert_eq!(rows.metadata.keys().collect::<Vec<_>>(), ["ID;CAM"]);
        }
    }

    #[test]
    fn a_count_that_differs_names_both() {
        for (rows, lines) in [(3, "labels 2 rows"), (1, "labels 2 rows")] {
            let error = read("label\na\nb\n", rows).unwrap_err().to_string();
            let there = format!("there are {rows} embeddings");
            assert!(error.contains(lines) && error.contains(&there), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_row() {
        for (text, want) in [
            (
                "name\na\nb\n",
                "no column `label` or `class`; the columns are: name",
            ),
            (
                "label\na\n\"\"\n",
                "row 1 counted from 0: its label is missing",
            ),
            (
                "label,id\na,1\nb,\n",
                "row 1 counted from 0: its id is missing",
            ),
            (
                "label,id\na,1\nb,1\n",
                "its id `1` is that of row 0 already",
            ),
            (
                "label,role\na,query\nb,probe\n",
                "its role is `probe`; write gallery,",
            ),
            (
                "label\na\n\"b\nc\"\n",
                "row 1 counted from 0: its label holds a control character",
            ),
            ("label,x,x\na,1,2\nb,3,4\n", "two columns are named `x`"),
            (
                "label,x\na,1\nb\n",
                "line 3: the row has 1 cells, and the header names 2",
            ),
            (
                "label,x\na,1\n,\nb,2\n",
                "line 3: the row is empty, and others follow",
            ),
        ] {
            let error = read(text, 2).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(read(&",".repeat(2_000), 0).is_err());
        assert!(LabelTable::read(Path::new("/nowhere/at/all"), 0).is_err());
    }
}
