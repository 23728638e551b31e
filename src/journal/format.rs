//! The format of the file: its tables, and how decisions become rows and back.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Type;
use rusqlite::{Connection, Row as SqlRow};

use crate::journal::entry::{
    AnnotatedTruth, Annotation, AnnotationKind, DecidedItem, DecisionEntry, DecisionId,
    DecisionRow, JournalId, Sampling, SearchSource, SourceKind, StateId,
};
use crate::journal::error::{JournalError, OPEN, failed};
use crate::journal::totals::{
    CountsByKey, DecisionCount, LostDecisions, NumberedKey, Total, TotalKey,
};
use matchpoint_calibration::decision::Decision;

/// Marks a `SQLite` file as a journal: the letters `MPjo`.
const APPLICATION_ID: i32 = 0x4d50_6a6f;
/// Format of the file; another one is refused.
pub(super) const FORMAT: i32 = 3;
/// The previous format, which is upgraded when it is opened for writing.
pub(super) const FORMAT_BEFORE: i32 = 2;
/// The number of the operating point of decisions that were made by none.
pub(super) const NO_POINT: i64 = 0;
/// The stratum of decisions that belong to none.
const NO_STRATUM: i64 = -1;

/// The tables as they are created, and as they must be found again.
const TABLES: [(&str, &str, &str); 9] = [
    // Rates and evidence are computed from these: a few in a hundred of all.
    (
        "index",
        "audited",
        "CREATE INDEX audited ON decisions (point, id) WHERE sampled = 1 OR labelled <> 0",
    ),
    // Ids are in the order of time, so new rows are appended.
    (
        "table",
        "decisions",
        "CREATE TABLE decisions (\
         id BLOB PRIMARY KEY, point INTEGER NOT NULL, generation INTEGER NOT NULL, \
         items INTEGER NOT NULL, decision INTEGER NOT NULL, label TEXT, item TEXT, \
         similarity REAL, held REAL, margin REAL, filtered INTEGER NOT NULL, \
         stratum INTEGER NOT NULL, probability REAL, sampled INTEGER NOT NULL, \
         source INTEGER NOT NULL, expected TEXT, labelled INTEGER NOT NULL, state BLOB) \
         STRICT, WITHOUT ROWID",
    ),
    (
        "table",
        "images",
        "CREATE TABLE images (id BLOB PRIMARY KEY, bytes BLOB NOT NULL) STRICT",
    ),
    // One row. No removed decision is newer than `removed_to`, and none that was sampled and removed for
    // space before anybody annotated it is newer than `crowded_to`.
    (
        "table",
        "journal",
        "CREATE TABLE journal (\
         one INTEGER PRIMARY KEY CHECK (one = 1), removed_to BLOB NOT NULL, \
         queue_full INTEGER NOT NULL, not_written INTEGER NOT NULL, images INTEGER NOT NULL, \
         name INTEGER, crowded_to BLOB) STRICT",
    ),
    // Only added to: of a decision's annotations the one with the greatest number counts.
    (
        "table",
        "labels",
        "CREATE TABLE labels (\
         number INTEGER PRIMARY KEY, decision BLOB NOT NULL, unix_ms INTEGER NOT NULL, \
         said_by TEXT NOT NULL, truth INTEGER NOT NULL, label TEXT) STRICT",
    ),
    (
        "index",
        "labels_of",
        "CREATE INDEX labels_of ON labels (decision)",
    ),
    (
        "table",
        "points",
        "CREATE TABLE points (number INTEGER PRIMARY KEY, id TEXT NOT NULL) STRICT",
    ),
    (
        "table",
        "totals",
        "CREATE TABLE totals (\
         point INTEGER NOT NULL, source INTEGER NOT NULL, decision INTEGER NOT NULL, \
         stratum INTEGER NOT NULL, filtered INTEGER NOT NULL, decisions INTEGER NOT NULL, \
         sampled INTEGER NOT NULL, removed INTEGER NOT NULL, \
         PRIMARY KEY (point, source, decision, stratum, filtered)) STRICT, WITHOUT ROWID",
    ),
    // The queue of decisions to annotate, with what it is filtered by.
    (
        "index",
        "waiting",
        "CREATE INDEX waiting ON decisions (id, stratum, point) \
         WHERE sampled = 1 AND labelled = 0 AND source = 0",
    ),
];

/// The column that was added since the previous format, as `SQLite` writes what it adds.
const GAINED: (&str, &str) = ("journal", "crowded_to BLOB");

/// The columns that [`read_row`] reads, in its order.
pub(super) const COLUMNS: &str = "d.id, d.point, d.generation, d.items, d.decision, d.label, \
    d.item, d.similarity, d.held, d.margin, d.filtered, d.stratum, d.probability, d.sampled, \
    d.source, d.expected, l.unix_ms, l.said_by, l.truth, l.label, d.state";

/// Where they come from: a decision and the annotation that counts.
pub(super) const JOINED: &str = "decisions d LEFT JOIN labels l ON l.number = d.labelled";

/// The operating points by number.
pub(super) type PointsByNumber = BTreeMap<i64, String>;

/// Lays out an empty journal in an empty file, and closes it.
pub(super) fn write_empty(mut connection: Connection) -> Result<(), rusqlite::Error> {
    // Before the first table, so that unused space can be given back to the disk.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    // Indexes after their tables.
    for wanted in ["table", "index"] {
        for (_, _, sql) in TABLES.iter().filter(|(kind, _, _)| *kind == wanted) {
            transaction.execute(sql, [])?;
        }
    }
    let name = JournalId::fresh().get();
    transaction.execute(
        "INSERT INTO journal VALUES (1, x'', 0, 0, 0, ?, x'')",
        [name],
    )?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

/// Upgrades a journal of the previous format: whether what it removed had been sampled is unknown.
pub(super) fn upgrade(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    let (table, column) = GAINED;
    transaction.execute(&format!("ALTER TABLE {table} ADD COLUMN {column}"), [])?;
    transaction.execute("UPDATE journal SET crowded_to = removed_to", [])?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

/// The text of a table in a file of this format.
fn table_text(format: i32, name: &str, sql: &str) -> String {
    let (table, column) = GAINED;
    if table == name && format == FORMAT_BEFORE {
        sql.replace(&format!(", {column}"), "")
    } else {
        sql.to_owned()
    }
}

/// Refuses files that are not a journal of this format, or the previous one, with exactly its tables.
/// Returns the format.
pub(super) fn check_kind(connection: &Connection, path: &Path) -> Result<i32, JournalError> {
    let sql_error = |error| failed(path, OPEN, error);
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(sql_error)?;
    if application != i64::from(APPLICATION_ID) {
        return Err(JournalError::NotAJournal {
            path: path.to_path_buf(),
            what: format!("its application id is {application:#x}, not {APPLICATION_ID:#x}"),
        });
    }
    let found = number("user_version").map_err(sql_error)?;
    let format = [FORMAT_BEFORE, FORMAT].into_iter();
    let Some(format) = format.into_iter().find(|one| i64::from(*one) == found) else {
        return Err(JournalError::Format {
            path: path.to_path_buf(),
            found,
            readable: FORMAT.into(),
        });
    };
    // Tables that `SQLite` makes by itself have no text.
    let query = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    let tables = connection
        .prepare(query)
        .and_then(|mut statement| {
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            rows?.collect::<Result<Vec<(String, String, String)>, _>>()
        })
        .map_err(sql_error)?;
    let are_ours = tables.len() == TABLES.len()
        && tables.iter().zip(TABLES).all(|((kind, name, sql), table)| {
            (kind.as_str(), name.as_str()) == (table.0, table.1)
                && *sql == table_text(format, table.1, table.2)
        });
    if !are_ours {
        return Err(JournalError::Damaged {
            path: path.to_path_buf(),
            what: "its tables are not those of a journal".to_owned(),
        });
    }
    Ok(format)
}

/// The totals, by the numbers of operating points.
pub(super) fn read_counts(
    connection: &Connection,
) -> Result<(PointsByNumber, CountsByKey), rusqlite::Error> {
    let mut points = PointsByNumber::new();
    let mut statement = connection.prepare_cached("SELECT number, id FROM points")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        points.insert(row.get(0)?, row.get(1)?);
    }
    let mut counts = CountsByKey::new();
    let columns = "point, source, decision, stratum, filtered, decisions, sampled, removed";
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM totals"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = NumberedKey {
            point: row.get(0)?,
            source: source_kind(row, 1)?,
            decision: row.get(2)?,
            stratum: row.get(3)?,
            filtered: row.get(4)?,
        };
        let count = DecisionCount {
            decisions: whole(row, 5)?,
            sampled: whole(row, 6)?,
            removed: whole(row, 7)?,
        };
        counts.insert(key, count);
    }
    Ok((points, counts))
}

/// What was lost, and up to which id rows were removed; empty if none was.
pub(super) fn read_state(
    connection: &Connection,
) -> Result<(LostDecisions, Vec<u8>), rusqlite::Error> {
    let query = "SELECT queue_full, not_written, images, removed_to FROM journal";
    connection.query_row(query, [], |row| {
        let lost = LostDecisions {
            queue_full: whole(row, 0)?,
            not_written: whole(row, 1)?,
            images: whole(row, 2)?,
        };
        Ok((lost, row.get(3)?))
    })
}

/// The journal's name in the ids of its decisions.
pub(super) fn read_name(connection: &Connection) -> Result<JournalId, rusqlite::Error> {
    connection.query_row("SELECT name FROM journal", [], |row| {
        row.get(0).map(JournalId::kept)
    })
}

/// Counts as they are shown.
pub(super) fn totals(
    counts: &CountsByKey,
    points: &PointsByNumber,
) -> Result<Vec<Total>, rusqlite::Error> {
    let named = |(key, count): (&NumberedKey, &DecisionCount)| {
        let operating_point = point_id(points, key.point)?;
        let key = TotalKey {
            operating_point,
            source: key.source,
            decision: decision(key.decision).ok_or_else(|| wrong(2, "decision"))?,
            stratum: stratum(key.stratum)?,
            filtered: key.filtered,
        };
        Ok(Total { key, count: *count })
    };
    counts.iter().map(named).collect()
}

/// Reads a decision with its annotation.
pub(super) fn read_row(
    row: &SqlRow<'_>,
    points: &PointsByNumber,
) -> Result<DecisionRow, rusqlite::Error> {
    let id = DecisionId::from_bytes(row.get(0)?).ok_or_else(|| wrong(0, "id"))?;
    let best = match row.get::<_, Option<String>>(5)? {
        None => None,
        Some(label) => Some(DecidedItem {
            label,
            item: row.get(6)?,
            similarity: row.get(7)?,
            decision_score: row.get(8)?,
            margin: row.get(9)?,
        }),
    };
    let sampling = match stratum(row.get(11)?)? {
        None => None,
        Some(stratum) => {
            let sampling = Sampling::new(stratum, row.get(12)?, row.get(13)?);
            Some(sampling.ok_or_else(|| wrong(12, "probability"))?)
        }
    };
    let source = match source_kind(row, 14)? {
        SourceKind::Live => SearchSource::Live,
        SourceKind::Comparison => SearchSource::Comparison,
        SourceKind::MatedCanary => SearchSource::MatedCanary {
            expected: row.get(15)?,
        },
        SourceKind::NonMatedCanary => SearchSource::NonMatedCanary {
            expected: row.get(15)?,
        },
    };
    let entry = DecisionEntry {
        id,
        operating_point: point_id(points, row.get(1)?)?,
        generation: whole(row, 2)?,
        gallery_items: whole(row, 3)?,
        state: row.get::<_, Option<[u8; 16]>>(20)?.map(StateId::from_bytes),
        decision: decision(row.get(4)?).ok_or_else(|| wrong(4, "decision"))?,
        best,
        filtered: row.get(10)?,
        sampling,
        source,
    };
    let annotation = match row.get::<_, Option<i64>>(16)? {
        None => None,
        Some(_) => Some(read_annotation(row, id, 16)?),
    };
    Ok(DecisionRow {
        entry,
        annotation,
        feedback: None,
    })
}

/// Reads an annotation from four columns: time, annotator, truth, and the label meant.
pub(super) fn read_annotation(
    row: &SqlRow<'_>,
    decision: DecisionId,
    first: usize,
) -> Result<Annotation, rusqlite::Error> {
    let number: i64 = row.get(first + 2)?;
    let (kind, number) = if UNASKED < number {
        (AnnotationKind::Feedback, number - UNASKED)
    } else {
        (AnnotationKind::Audit, number)
    };
    let truth = match number {
        1 => AnnotatedTruth::Mated {
            label: row.get(first + 3)?,
        },
        2 => match row.get(first + 3)? {
            None => AnnotatedTruth::NonMated,
            Some(name) => AnnotatedTruth::Stranger { name },
        },
        3 => AnnotatedTruth::Unusable,
        _ => return Err(wrong(first + 2, "truth")),
    };
    Ok(Annotation {
        decision,
        truth,
        annotator: row.get(first + 1)?,
        unix_ms: whole(row, first)?,
        kind,
    })
}

/// Added to the number of a truth that nobody asked for.
pub(super) const UNASKED: i64 = 3;

/// The number of an annotation's truth, and its label.
pub(super) fn truth_columns(label: &Annotation) -> (i64, Option<&str>) {
    let (number, text) = match &label.truth {
        AnnotatedTruth::Mated { label } => (1, Some(label.as_str())),
        AnnotatedTruth::NonMated => (2, None),
        AnnotatedTruth::Stranger { name } => (2, Some(name.as_str())),
        AnnotatedTruth::Unusable => (3, None),
    };
    match label.kind {
        AnnotationKind::Audit => (number, text),
        AnnotationKind::Feedback => (number + UNASKED, text),
    }
}

/// What an entry is counted under.
pub(super) fn key(entry: &DecisionEntry, point: i64) -> NumberedKey {
    NumberedKey {
        point,
        source: entry.source.kind(),
        decision: decision_number(entry.decision),
        stratum: entry
            .sampling
            .map_or(NO_STRATUM, |sampling| sampling.stratum().into()),
        filtered: entry.filtered,
    }
}

pub(super) fn decision_number(decision: Decision) -> i64 {
    match decision {
        Decision::Accept => 1,
        Decision::Reject => 2,
        Decision::Undecided => 3,
    }
}

fn decision(number: i64) -> Option<Decision> {
    let all = [Decision::Accept, Decision::Reject, Decision::Undecided];
    all.into_iter()
        .find(|decision| decision_number(*decision) == number)
}

pub(super) fn source_number(kind: SourceKind) -> i64 {
    match kind {
        SourceKind::Live => 0,
        SourceKind::MatedCanary => 1,
        SourceKind::NonMatedCanary => 2,
        SourceKind::Comparison => 3,
    }
}

pub(super) fn source_kind(row: &SqlRow<'_>, column: usize) -> Result<SourceKind, rusqlite::Error> {
    let number: i64 = row.get(column)?;
    let all = [
        SourceKind::Live,
        SourceKind::MatedCanary,
        SourceKind::NonMatedCanary,
        SourceKind::Comparison,
    ];
    all.into_iter()
        .find(|kind| source_number(*kind) == number)
        .ok_or_else(|| wrong(column, "source"))
}

pub(super) fn stratum(number: i64) -> Result<Option<u16>, rusqlite::Error> {
    if number == NO_STRATUM {
        return Ok(None);
    }
    let stratum = u16::try_from(number).map_err(|_range| wrong(11, "stratum"))?;
    Ok(Some(stratum))
}

fn point_id(points: &PointsByNumber, number: i64) -> Result<Option<String>, rusqlite::Error> {
    if number == NO_POINT {
        return Ok(None);
    }
    let id = points.get(&number).ok_or_else(|| wrong(1, "point"))?;
    Ok(Some(id.clone()))
}

/// A column with a value that is never written.
fn wrong(column: usize, name: &str) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(column, name.to_owned(), Type::Blob)
}

pub(super) fn whole(row: &SqlRow<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    let value: i64 = row.get(column)?;
    u64::try_from(value)
        .map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
