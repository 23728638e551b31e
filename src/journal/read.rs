//! Reading the journal, beside its writer or without one.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use crate::journal::audit;
use crate::journal::entry::{
    Annotation, AnnotationRefusal, DecisionId, DecisionRow, JournalId, SourceKind,
};
use crate::journal::error::{JournalError, failed};
use crate::journal::file::connect_to_read;
use crate::journal::format::{
    self, COLUMNS, FORMAT, JOINED, NO_POINT, PointsByNumber, read_counts, read_row, read_state,
};
use crate::journal::store::count_rows;
use crate::journal::totals::{self, LostDecisions, Total};
use matchpoint_calibration::decision::Decision;

/// Decisions of one page of the queue.
pub const PAGE_MAX: u32 = 1000;

/// Which decisions are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionSelection {
    /// The operating point that made them; `None` for those made without one.
    pub operating_point: Option<String>,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: Range<u64>,
}

/// Which decisions are requested of those in the queue, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRequest {
    /// Only of this operating point.
    pub operating_point: Option<String>,
    /// Only of this stratum.
    pub stratum: Option<u16>,
    /// Only older than this one: the last of the page before.
    pub before: Option<DecisionId>,
    /// Only those made from this time on, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// How many at most; no more than [`PAGE_MAX`] are given.
    pub limit: u32,
}

/// How many decisions of a stratum there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StratumCount {
    /// The stratum; `None` if nothing was decided.
    pub stratum: Option<u16>,
    /// Decisions.
    pub decisions: u64,
    /// Those of them that were sampled for audit.
    pub sampled: u64,
    /// Sampled ones with an annotation.
    pub labelled: u64,
}

/// A journal that is open for reading. Each call sees one state of it.
#[derive(Debug)]
pub struct JournalReader {
    connection: Connection,
    path: PathBuf,
    format: i32,
}

impl JournalReader {
    /// Opens the journal at `path`, also while another process writes to it.
    ///
    /// # Errors
    /// There is none, it is damaged or of another version, or the disk.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let (connection, format) = connect_to_read(path)?;
        Ok(Self {
            connection,
            path: path.to_path_buf(),
            format,
        })
    }

    /// All totals, and what was lost.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn totals(&self) -> Result<(Vec<Total>, LostDecisions), JournalError> {
        self.read(|connection| {
            let (points, counts) = read_counts(connection)?;
            let (lost, _) = read_state(connection)?;
            Ok((format::totals(&counts, &points)?, lost))
        })
    }

    /// Passes the selected decisions of one operating point to `take`, in the order in which they were
    /// made, with the annotations that count, until it has enough. One at a time is in memory.
    ///
    /// The writer's log grows while this runs.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn decisions(
        &self,
        selection: &DecisionSelection,
        mut take: impl FnMut(DecisionRow) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let Some(point) = number(&points, selection.operating_point.as_deref()) else {
                return Ok(());
            };
            let [first, end] = bounds(&selection.unix_ms);
            let query = format!(
                "SELECT {COLUMNS} FROM {JOINED} WHERE ? <= d.id AND d.id < ? AND d.point = ? \
                 ORDER BY d.id"
            );
            let mut statement = connection.prepare_cached(&query)?;
            let mut rows = statement.query(params![first.as_bytes(), end.as_bytes(), point])?;
            while let Some(row) = rows.next()? {
                if take(read_row(row, &points)?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Passes to `take` the decisions of live searches without a filter that operating point
    /// `operating_point` made from `since_ms` on and that were sampled or annotated, in the order in which
    /// they were made, with the feedback on them.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn audited(
        &self,
        operating_point: &str,
        since_ms: u64,
        mut take: impl FnMut(DecisionRow),
    ) -> Result<(), JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let Some(point) = number(&points, Some(operating_point)) else {
                return Ok(());
            };
            let [first, _] = bounds(&(since_ms..since_ms));
            let query = format!(
                "SELECT {COLUMNS} FROM decisions d INDEXED BY audited \
                 LEFT JOIN labels l ON l.number = d.labelled \
                 WHERE (d.sampled = 1 OR d.labelled <> 0) AND d.point = ? AND ? <= d.id \
                 AND d.source = 0 AND d.filtered = 0 ORDER BY d.id"
            );
            let mut statement = connection.prepare_cached(&query)?;
            let mut unasked = audit::feedback(connection)?;
            let mut rows = statement.query(params![point, first.as_bytes()])?;
            while let Some(row) = rows.next()? {
                let mut row = read_row(row, &points)?;
                if row.inclusion_probability().is_some() {
                    row.feedback = unasked.remove(&row.entry.id);
                }
                take(row);
            }
            Ok(())
        })
    }

    /// The time from which on all recorded decisions are present, in milliseconds since 1970-01-01 UTC:
    /// what was removed for its age or for space is older.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn complete_since_ms(&self) -> Result<u64, JournalError> {
        self.read(|connection| {
            let (_, removed_to) = read_state(connection)?;
            Ok(just_after(removed_to))
        })
    }

    /// The time from which on no sampled decision was removed for space before anybody annotated it, in
    /// milliseconds since 1970-01-01 UTC. Of earlier ones those that are left may not represent the others.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn representative_since_ms(&self) -> Result<u64, JournalError> {
        self.read(|connection| {
            // Of what the previous format removed nobody knows whether it had been sampled.
            let column = if self.format == FORMAT {
                "crowded_to"
            } else {
                "removed_to"
            };
            let query = format!("SELECT {column} FROM journal");
            connection.query_row(&query, [], |row| row.get(0).map(just_after))
        })
    }

    /// How many sampled decisions of an operating point were removed, of live searches without a filter.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn sampled_removed(&self, operating_point: &str) -> Result<u64, JournalError> {
        self.read(|connection| {
            let (points, counts) = read_counts(connection)?;
            let Some(point) = number(&points, Some(operating_point)) else {
                return Ok(0);
            };
            let of_audit = counts.iter().filter(|(key, _)| {
                key.point == point && key.source == SourceKind::Live && !key.filtered
            });
            let ever: u64 = of_audit.map(|(_, count)| count.sampled).sum();
            let mut statement = connection.prepare_cached(
                "SELECT count(*) FROM decisions INDEXED BY audited \
                 WHERE (sampled = 1 OR labelled <> 0) AND point = ? \
                 AND sampled = 1 AND source = 0 AND filtered = 0",
            )?;
            let kept = statement.query_row([point], |row| format::whole(row, 0))?;
            Ok(ever.saturating_sub(kept))
        })
    }

    /// How many of the selected decisions each stratum has, of live searches without a filter.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn strata(&self, selection: &DecisionSelection) -> Result<Vec<StratumCount>, JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let Some(point) = number(&points, selection.operating_point.as_deref()) else {
                return Ok(Vec::new());
            };
            let [first, end] = bounds(&selection.unix_ms);
            let mut statement = connection.prepare_cached(
                "SELECT stratum, count(*), sum(sampled), sum(sampled = 1 AND labelled <> 0) \
                 FROM decisions WHERE ? <= id AND id < ? AND point = ? AND source = 0 \
                 AND filtered = 0 GROUP BY stratum ORDER BY stratum",
            )?;
            let bounds = params![first.as_bytes(), end.as_bytes(), point];
            let rows = statement.query_map(bounds, |row| {
                Ok(StratumCount {
                    stratum: format::stratum(row.get(0)?)?,
                    decisions: format::whole(row, 1)?,
                    sampled: format::whole(row, 2)?,
                    labelled: format::whole(row, 3)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Passes to `take`, for each of the selected decisions of live searches without a filter, in the order in which
    /// they were made, whether it is a reject whose score is at `low` or above.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn rejected_from(
        &self,
        selection: &DecisionSelection,
        low: f32,
        mut take: impl FnMut(bool),
    ) -> Result<(), JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let Some(point) = number(&points, selection.operating_point.as_deref()) else {
                return Ok(());
            };
            let [first, end] = bounds(&selection.unix_ms);
            let mut statement = connection.prepare_cached(
                "SELECT decision = ? AND ? <= held FROM decisions WHERE ? <= id AND id < ? \
                 AND point = ? AND source = 0 AND filtered = 0 ORDER BY id",
            )?;
            let reject = format::decision_number(Decision::Reject);
            let (first, end) = (first.as_bytes(), end.as_bytes());
            let mut rows = statement.query(params![reject, f64::from(low), first, end, point])?;
            while let Some(row) = rows.next()? {
                // Nothing was found, and so nothing compared.
                let found: Option<bool> = row.get(0)?;
                take(found.unwrap_or(false));
            }
            Ok(())
        })
    }

    /// A page of the decisions of live searches that were sampled and are not annotated yet, newest first;
    /// without those under a filter, which count in no rate.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn queue(&self, request: &QueueRequest) -> Result<Vec<DecisionRow>, JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let asked = request.operating_point.as_deref();
            let point = asked.map(|id| number(&points, Some(id)));
            if point == Some(None) {
                return Ok(Vec::new());
            }
            let newest = DecisionId::at(u64::MAX >> 16, [u8::MAX; 10]);
            let query = format!(
                "SELECT {COLUMNS} FROM {JOINED} WHERE d.id IN (\
                 SELECT id FROM decisions INDEXED BY waiting \
                 WHERE sampled = 1 AND labelled = 0 AND source = 0 AND filtered = 0 AND id < ?1 \
                 AND ?5 <= id AND (?2 IS NULL OR stratum = ?2) AND (?3 IS NULL OR point = ?3) \
                 ORDER BY id DESC LIMIT ?4) ORDER BY d.id DESC"
            );
            let mut statement = connection.prepare_cached(&query)?;
            let rows = statement.query_map(
                params![
                    request.before.unwrap_or(newest).as_bytes(),
                    request.stratum,
                    point.flatten(),
                    request.limit.min(PAGE_MAX),
                    bounds(&(request.since_ms..request.since_ms))[0].as_bytes()
                ],
                |row| read_row(row, &points),
            )?;
            rows.collect()
        })
    }

    /// One decision, with the annotation that counts; `None` if there is none with this id, or not any
    /// more.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn decision(&self, id: DecisionId) -> Result<Option<DecisionRow>, JournalError> {
        self.read(|connection| {
            let (points, _) = read_counts(connection)?;
            let query = format!("SELECT {COLUMNS} FROM {JOINED} WHERE d.id = ?");
            let mut statement = connection.prepare_cached(&query)?;
            let row = statement.query_row([id.as_bytes()], |row| read_row(row, &points));
            row.optional()
        })
    }

    /// Why a decision is missing that [`JournalReader::decision`] has not found.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn absent(
        &self,
        id: DecisionId,
        name: JournalId,
    ) -> Result<AnnotationRefusal, JournalError> {
        self.read(|connection| {
            let (_, removed_to) = read_state(connection)?;
            Ok(audit::absent(id, &removed_to, name))
        })
    }

    /// All annotations of a decision; the latest, which counts, is last.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn history(&self, id: DecisionId) -> Result<Vec<Annotation>, JournalError> {
        self.read(|connection| audit::history(connection, id))
    }

    /// The image of a decision, if it is kept.
    ///
    /// # Errors
    /// The file is damaged, or the disk.
    pub fn image(&self, id: DecisionId) -> Result<Option<Vec<u8>>, JournalError> {
        self.read(|connection| {
            let query = "SELECT bytes FROM images WHERE id = ?";
            let mut statement = connection.prepare_cached(query)?;
            let bytes = statement.query_row([id.as_bytes()], |row| row.get(0));
            bytes.optional()
        })
    }

    /// Counts every row and compares the result with the totals. Reads the whole file.
    ///
    /// # Errors
    /// They differ, the file is damaged otherwise, or the disk failed.
    pub fn verify(&self) -> Result<u64, JournalError> {
        let (different, rows) = self.read(|connection| {
            let check: String =
                connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
            if check != "ok" {
                return Ok((Some(check), 0));
            }
            let (_, counts) = read_counts(connection)?;
            let recounted = recount(connection)?;
            let kept = counts
                .iter()
                .map(|(key, count)| (*key, count.decisions.saturating_sub(count.removed)))
                .filter(|(_, kept)| 0 < *kept);
            let different = kept.collect::<Vec<_>>() != recounted;
            let what = "its totals are not those of its rows".to_owned();
            Ok((different.then_some(what), count_rows(connection)?))
        })?;
        match different {
            None => Ok(rows),
            Some(what) => Err(JournalError::Damaged {
                path: self.path.clone(),
                what,
            }),
        }
    }

    /// Reads in one transaction, so that all of it is from one state.
    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, JournalError> {
        let read = || {
            let transaction = self.connection.unchecked_transaction()?;
            read(&transaction)
        };
        read().map_err(|error| failed(&self.path, "read", error))
    }
}

/// The rows of each kind, counted one by one, in the order of the totals.
fn recount(connection: &Connection) -> Result<Vec<(totals::NumberedKey, u64)>, rusqlite::Error> {
    let mut statement = connection.prepare(
        "SELECT point, source, decision, stratum, filtered, count(*) FROM decisions \
         GROUP BY 1, 2, 3, 4, 5",
    )?;
    let rows = statement.query_map([], |row| {
        let key = totals::NumberedKey {
            point: row.get(0)?,
            source: format::source_kind(row, 1)?,
            decision: row.get(2)?,
            stratum: row.get(3)?,
            filtered: row.get(4)?,
        };
        Ok((key, format::whole(row, 5)?))
    })?;
    let mut counted = rows.collect::<Result<Vec<_>, _>>()?;
    counted.sort_unstable();
    Ok(counted)
}

fn number(points: &PointsByNumber, id: Option<&str>) -> Option<i64> {
    let Some(id) = id else {
        return Some(NO_POINT);
    };
    let found = points.iter().find(|(_, known)| known.as_str() == id);
    found.map(|(number, _)| *number)
}

/// The first millisecond after a row that may have been removed; 0 if none was.
fn just_after(removed_to: Vec<u8>) -> u64 {
    let removed = removed_to.try_into().ok().and_then(DecisionId::from_bytes);
    removed.map_or(0, |id| id.unix_ms().saturating_add(1))
}

/// The least ids of the first moment, and of the first moment after the range.
fn bounds(unix_ms: &Range<u64>) -> [DecisionId; 2] {
    // Ids have room for 48 bits of time.
    let latest = u64::MAX >> 16;
    [unix_ms.start, unix_ms.end].map(|time| DecisionId::at(time.min(latest), [0; 10]))
}
