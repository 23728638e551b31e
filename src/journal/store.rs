//! Writes decisions, each transaction together with its totals.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use crate::journal::entry::{DecisionEntry, JournalId, Sampling, StateId};
use crate::journal::error::{JournalError, OPEN, failed, file_failed};
use crate::journal::file::{begin, check_header, connect, damaged, prepare_to_write, set_aside};
use crate::journal::format::{
    self, FORMAT_BEFORE, NO_POINT, PointsByNumber, check_kind, decision_number, key, read_counts,
    read_name, read_state, source_number,
};
use crate::journal::totals::{self, Committed, CountsByKey, LostDecisions};
use crate::journal::waiting::{self, WaitingLine};

/// A decision that is queued.
#[derive(Debug)]
pub(super) struct WaitingDecision {
    pub(super) entry: DecisionEntry,
    pub(super) image: Option<Bytes>,
}

/// An open journal, for writing.
pub(super) struct JournalStore {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    points: PointsByNumber,
    pub(super) counts: CountsByKey,
    lost: LostDecisions,
    /// Rows up to this id may have been removed; empty if none was.
    pub(super) removed_to: Vec<u8>,
    /// Its name in the ids of its decisions.
    pub(super) name: JournalId,
    /// Whether damage was found, so that a new file has to replace this one.
    broken: bool,
}

/// What a killed process left behind, and what of it is lost.
#[derive(Default)]
pub(super) struct LeftDecisions {
    pub(super) batch: Vec<WaitingDecision>,
    pub(super) lost: LostDecisions,
}

impl JournalStore {
    /// Opens the journal, or creates one. A damaged one is set aside first.
    pub(super) fn open_or_begin(path: &Path) -> Result<Self, JournalError> {
        match Self::open(path) {
            Err(JournalError::NotFound { .. }) => {
                begin(path)?;
                Self::open(path)
            }
            Err(error) if error.is_damage() => {
                let aside = set_aside(path)?;
                tracing::error!(%error, set_aside = %aside.display(), "a new journal is started; the totals of the damaged one are not in it");
                begin(path)?;
                Self::open(path)
            }
            opened => opened,
        }
    }

    fn open(path: &Path) -> Result<Self, JournalError> {
        let length = fs::metadata(path)
            .map_err(|source| file_failed(path, "open", source))?
            .len();
        if length == 0 {
            return Err(damaged(path, "it is empty"));
        }
        let sql_error = |error| failed(path, OPEN, error);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql_error)?;
        let format = check_kind(&connection, path)?;
        check_header(path)?;
        prepare_to_write(&connection, path)?;
        if format == FORMAT_BEFORE {
            format::upgrade(&mut connection).map_err(sql_error)?;
            tracing::info!(journal = %path.display(), "the journal is now one of this version; earlier ones refuse it");
        }
        let name = read_name(&connection).map_err(sql_error)?;
        let (points, counts) = read_counts(&connection).map_err(sql_error)?;
        let (lost, removed_to) = read_state(&connection).map_err(sql_error)?;
        format::totals(&counts, &points).map_err(sql_error)?;
        let found = count_rows(&connection).map_err(sql_error)?;
        let counted = totals::rows(&counts);
        if found != counted {
            let what = format!("it holds {found} decisions, and counts {counted}");
            return Err(damaged(path, &what));
        }
        Ok(Self {
            connection,
            path: path.to_path_buf(),
            points,
            counts,
            lost,
            removed_to,
            name,
            broken: false,
        })
    }

    /// Records what a killed process had answered and not written yet; returns it if the disk is full.
    pub(super) fn take_what_waited(&mut self) -> Result<Option<LeftDecisions>, JournalError> {
        let (lines, unreadable) = waiting::left(&self.path)?;
        let (mut batch, mut lost) = (Vec::new(), LostDecisions::default());
        lost.not_written = unreadable;
        for WaitingLine { entry, image } in lines {
            let known = self
                .has(&entry)
                .map_err(|error| failed(&self.path, "read", error))?;
            // What was removed has been in the journal.
            if known || entry.id.as_bytes()[..] <= self.removed_to[..] {
                continue;
            }
            lost.images += u64::from(image);
            batch.push(WaitingDecision { entry, image: None });
        }
        if batch.is_empty() && lost == LostDecisions::default() {
            return Ok(None);
        }
        let decisions = batch.len();
        match self.write(&batch, lost) {
            Ok(_changes) => {
                tracing::info!(
                    decisions,
                    unreadable,
                    "decisions that were answered before the last process ended are recorded"
                );
                Ok(None)
            }
            Err(error @ JournalError::Full { .. }) => {
                tracing::error!(%error, decisions, "decisions that were answered before the last process ended still wait to be recorded");
                Ok(Some(LeftDecisions { batch, lost }))
            }
            Err(error) => Err(error),
        }
    }

    fn has(&self, entry: &DecisionEntry) -> Result<bool, rusqlite::Error> {
        let query = "SELECT 1 FROM decisions WHERE id = ?";
        let mut statement = self.connection.prepare_cached(query)?;
        statement.exists([entry.id.as_bytes()])
    }

    /// Remembers an error, if the file may not be written after it.
    pub(super) fn note(&mut self, error: &JournalError) {
        self.broken |= error.is_damage();
    }

    /// What was lost, according to the disk.
    pub(super) fn lost(&self) -> LostDecisions {
        self.lost
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Sets a damaged journal aside while it is in use, and starts one that continues its totals: they were
    /// read at opening, and updated with each commit.
    fn replace_damaged(&mut self) -> Result<(), JournalError> {
        // Closed before another file gets its name.
        let unused =
            Connection::open_in_memory().map_err(|error| failed(&self.path, "begin", error))?;
        drop(std::mem::replace(&mut self.connection, unused));
        let aside = match set_aside(&self.path) {
            // An earlier attempt came this far.
            Err(JournalError::NotFound { .. }) => None,
            aside => Some(aside?),
        };
        tracing::error!(journal = %self.path.display(), ?aside, "the journal is damaged: a new one is started, with its totals and without its rows");
        begin(&self.path)?;
        let fresh = Self::open(&self.path)?;
        let mut counts = self.counts.clone();
        for count in counts.values_mut() {
            count.removed = count.decisions;
        }
        self.connection = fresh.connection;
        let path = self.path.clone();
        let mut carry = || {
            let transaction = immediate(&mut self.connection)?;
            for (number, id) in &self.points {
                let sql = "INSERT INTO points VALUES (?, ?)";
                transaction.execute(sql, params![number, id])?;
            }
            write_counts(&transaction, &counts)?;
            add_lost(&transaction, self.lost)?;
            // Ids with this name are being made.
            transaction.execute("UPDATE journal SET name = ?", [self.name.get()])?;
            transaction.commit()
        };
        let carried: Result<(), rusqlite::Error> = carry();
        carried.map_err(|error| failed(&path, "begin", error))?;
        (self.counts, self.removed_to) = (counts, Vec::new());
        self.broken = false;
        Ok(())
    }

    /// Writes decisions, and what was lost since the last time, in one transaction with their totals. What
    /// is in the journal already is skipped.
    ///
    /// If the file turns out to be damaged, it is set aside, and a new one takes them.
    pub(super) fn write(
        &mut self,
        batch: &[WaitingDecision],
        lost: LostDecisions,
    ) -> Result<CountsByKey, JournalError> {
        if !self.broken {
            let written = self.write_once(batch, lost);
            match written {
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "a decision could not be recorded");
                    self.broken = true;
                }
                written => return written,
            }
        }
        self.replace_damaged()?;
        self.write_once(batch, lost)
    }

    fn write_once(
        &mut self,
        batch: &[WaitingDecision],
        lost: LostDecisions,
    ) -> Result<CountsByKey, JournalError> {
        let written = self.try_write(batch, lost);
        let (changes, points) = written.map_err(|error| failed(&self.path, "write to", error))?;
        totals::add(&mut self.counts, &changes);
        self.points.extend(points);
        self.lost = self.lost.with(lost);
        Ok(changes)
    }

    fn try_write(
        &mut self,
        batch: &[WaitingDecision],
        lost: LostDecisions,
    ) -> Result<(CountsByKey, PointsByNumber), rusqlite::Error> {
        let (mut changes, mut new_points) = (CountsByKey::new(), PointsByNumber::new());
        let transaction = immediate(&mut self.connection)?;
        for WaitingDecision { entry, image } in batch {
            let known = |points: &PointsByNumber| {
                let is_it = |(_, id): &(&i64, &String)| entry.operating_point.as_ref() == Some(id);
                points.iter().find(is_it).map(|(number, _)| *number)
            };
            let number = match &entry.operating_point {
                None => NO_POINT,
                Some(id) => match known(&self.points).or_else(|| known(&new_points)) {
                    Some(number) => number,
                    None => {
                        let sql = "INSERT INTO points (id) VALUES (?)";
                        transaction.execute(sql, [id])?;
                        let number = transaction.last_insert_rowid();
                        new_points.insert(number, id.clone());
                        number
                    }
                },
            };
            if insert(&transaction, entry, number)? {
                let change = changes.entry(key(entry, number)).or_default();
                change.decisions += 1;
                let sampled = entry.sampling.is_some_and(|sampling| sampling.sampled());
                change.sampled += u64::from(sampled);
                if let Some(image) = image {
                    let sql = "INSERT OR REPLACE INTO images VALUES (?, ?)";
                    let mut insert = transaction.prepare_cached(sql)?;
                    insert.execute(params![entry.id.as_bytes(), &image[..]])?;
                }
            }
        }
        write_counts(&transaction, &changes)?;
        add_lost(&transaction, lost)?;
        transaction.commit()?;
        Ok((changes, new_points))
    }

    /// What is on the disk, with the totals of the `changed` kinds, or of all.
    pub(super) fn committed(
        &self,
        changed: Option<&CountsByKey>,
    ) -> Result<Committed, JournalError> {
        let counts: CountsByKey = match changed {
            None => self.counts.clone(),
            Some(changed) => {
                let now = |key: &totals::NumberedKey| Some((*key, *self.counts.get(key)?));
                changed.keys().filter_map(now).collect()
            }
        };
        let sql_error = |error| failed(&self.path, "read", error);
        Ok(Committed {
            changed: format::totals(&counts, &self.points).map_err(sql_error)?,
            rows: totals::rows(&self.counts),
            bytes: self.file_bytes()?,
            crowded_out: 0,
        })
    }

    /// Length of the file, without its log.
    pub(super) fn file_bytes(&self) -> Result<u64, JournalError> {
        Ok(self.pragma("page_count")? * self.page_bytes()?)
    }

    pub(super) fn page_bytes(&self) -> Result<u64, JournalError> {
        // Never 0 in a file of `SQLite`, but it is a divisor.
        Ok(self.pragma("page_size")?.max(512))
    }

    /// Bytes of the file that hold something.
    pub(super) fn used_bytes(&self) -> Result<u64, JournalError> {
        let pages = self.pragma("page_count")?;
        let used = pages.saturating_sub(self.pragma("freelist_count")?);
        Ok(used * self.page_bytes()?)
    }

    fn pragma(&self, name: &'static str) -> Result<u64, JournalError> {
        let query = format!("PRAGMA {name}");
        let read = || {
            let mut statement = self.connection.prepare_cached(&query)?;
            statement.query_row([], |row| format::whole(row, 0))
        };
        read().map_err(|error| failed(&self.path, "read", error))
    }
}

/// Writes one decision; false if its id is there already.
fn insert(
    transaction: &Transaction<'_>,
    entry: &DecisionEntry,
    point: i64,
) -> Result<bool, rusqlite::Error> {
    let best = entry.best.as_ref();
    let counted = key(entry, point);
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO decisions VALUES \
         (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
    )?;
    let changed = insert.execute(params![
        entry.id.as_bytes(),
        point,
        entry.generation.cast_signed(),
        entry.gallery_items.cast_signed(),
        decision_number(entry.decision),
        best.map(|best| &best.label),
        best.map(|best| &best.item),
        best.map(|best| best.similarity),
        best.and_then(|best| best.decision_score),
        best.and_then(|best| best.margin),
        entry.filtered,
        counted.stratum,
        entry.sampling.as_ref().map(Sampling::probability),
        entry.sampling.as_ref().is_some_and(Sampling::sampled),
        source_number(entry.source.kind()),
        entry.source.expected(),
        entry.state.as_ref().map(StateId::as_bytes)
    ])?;
    Ok(changed == 1)
}

/// Adds to the totals.
pub(super) fn write_counts(
    transaction: &Transaction<'_>,
    changes: &CountsByKey,
) -> Result<(), rusqlite::Error> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET \
         decisions = decisions + excluded.decisions, sampled = sampled + excluded.sampled, \
         removed = removed + excluded.removed",
    )?;
    for (key, change) in changes {
        add.execute(params![
            key.point,
            source_number(key.source),
            key.decision,
            key.stratum,
            key.filtered,
            change.decisions.cast_signed(),
            change.sampled.cast_signed(),
            change.removed.cast_signed()
        ])?;
    }
    Ok(())
}

fn add_lost(transaction: &Transaction<'_>, lost: LostDecisions) -> Result<(), rusqlite::Error> {
    if lost == LostDecisions::default() {
        return Ok(());
    }
    let mut add = transaction.prepare_cached(
        "UPDATE journal SET queue_full = queue_full + ?, not_written = not_written + ?, \
         images = images + ?",
    )?;
    let added = [lost.queue_full, lost.not_written, lost.images].map(u64::cast_signed);
    add.execute(added).map(drop)
}

/// A transaction that has the right to write from its beginning.
pub(super) fn immediate(connection: &mut Connection) -> Result<Transaction<'_>, rusqlite::Error> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

pub(super) fn count_rows(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT count(*) FROM decisions", [], |row| {
        format::whole(row, 0)
    })
}
