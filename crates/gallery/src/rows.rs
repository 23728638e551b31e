//! Reads every row of a gallery and compares it with its checksum, with several threads if there are many rows.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::connection::connect_to_read;
use crate::error::GalleryError;
use crate::format::{About, GalleryState, StoredRow, read_row, read_state};
use crate::item::Hash;

/// With fewer items than this, threads cost more time than they save.
const SHARED_FROM: usize = 16 * 1024;
/// The size of the range of row numbers that a thread takes at a time, which is also the highest number of rows
/// in it: 5 MB with 1,280 components.
const PART_NUMBERS: i64 = 1024;
/// Number of parts for each thread that are being read or wait for their turn.
const PARTS_AHEAD: usize = 2;
/// With more threads, reading would wait for memory.
const THREADS_MAX: usize = 16;
/// Number of attempts to open all connections at the same state, because another process may write in between.
const MOMENTS_MAX: usize = 3;

/// The result of examining a row that matches its checksum.
pub(super) struct ExaminedRow<T> {
    pub(super) number: i64,
    pub(super) checksum: Hash,
    pub(super) found: T,
}

/// The rows of a part, in order.
type ExaminedPart<T> = Result<Vec<ExaminedRow<T>>, GalleryError>;

/// A range of row numbers for a thread to read, and where to send the result.
type PartTask<T> = (RangeInclusive<i64>, Sender<ExaminedPart<T>>);

/// The source of rows.
pub(super) struct RowSource<'a> {
    pub(super) path: &'a Path,
    pub(super) about: &'a About,
    pub(super) connection: &'a Connection,
}

/// A gallery as of one moment: all reads see the same state, whoever writes meanwhile.
pub(super) struct Moment<'a> {
    pub(super) state: GalleryState,
    /// Further connections to the same state; empty if one thread reads alone.
    others: Vec<Connection>,
    /// Keeps the state as long as it is open.
    _transaction: Transaction<'a>,
}

impl RowSource<'_> {
    /// Starts to read the gallery as of one moment.
    pub(super) fn moment(&self) -> Result<Moment<'_>, GalleryError> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let mut tries = 0;
        loop {
            let transaction = self
                .connection
                .unchecked_transaction()
                .map_err(|error| self.unreadable(error))?;
            let (about, state) = read_state(&transaction, self.path)?;
            if about != *self.about {
                return Err(
                    self.damaged("its description changed while it was being opened".to_owned())
                );
            }
            tries += 1;
            let alone = threads < 2 || state.items < SHARED_FROM || MOMENTS_MAX < tries;
            let others = if alone { 0 } else { threads.min(THREADS_MAX) };
            let others: Option<Vec<Connection>> =
                (0..others).map(|_| self.another(&state)).collect();
            if let Some(others) = others {
                return Ok(Moment {
                    state,
                    others,
                    _transaction: transaction,
                });
            }
        }
    }

    /// Another connection to the same state. Every write increases the generation, so equal states have equal
    /// rows.
    fn another(&self, state: &GalleryState) -> Option<Connection> {
        let connection = connect_to_read(self.path).ok()?;
        connection.execute_batch("BEGIN").ok()?;
        let (about, found) = read_state(&connection, self.path).ok()?;
        ((&about, &found) == (self.about, state)).then_some(connection)
    }

    /// Calls `take` with the result of `examine` for each row, in the order of row numbers. It uses a thread
    /// for each further connection.
    pub(super) fn each<T: Send>(
        &self,
        moment: Moment<'_>,
        examine: impl Fn(StoredRow) -> T + Sync,
        mut take: impl FnMut(ExaminedRow<T>),
    ) -> Result<(), GalleryError> {
        let Moment { others, .. } = moment;
        let (path, about, examine) = (self.path, self.about, &examine);
        let (hand_out, tasks) = mpsc::channel::<PartTask<T>>();
        // It is dropped with the last thread, so that no part waits for a thread that panicked.
        let tasks = Arc::new(Mutex::new(tasks));
        thread::scope(|scope| {
            let mut threads = 0;
            for connection in others {
                let tasks = Arc::clone(&tasks);
                let work = move || {
                    let source = RowSource {
                        path,
                        about,
                        connection: &connection,
                    };
                    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    while let Ok((numbers, to)) = next() {
                        // This fails if an earlier part could not be read.
                        drop(to.send(source.part(numbers, examine)));
                    }
                };
                let thread = thread::Builder::new().name("rows".to_owned());
                // If the system cannot start more threads, the existing ones read everything.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
                threads += 1;
            }
            drop(tasks);
            if threads == 0 {
                return self.read(i64::MIN..=i64::MAX, examine, take);
            }
            let read = self.hand_out(&hand_out, threads * PARTS_AHEAD, &mut take);
            // This ends the threads.
            drop(hand_out);
            read
        })
    }

    /// Hands out all parts, some of them ahead of the one that is awaited, and calls `take` with their rows.
    fn hand_out<T>(
        &self,
        hand_out: &Sender<PartTask<T>>,
        ahead: usize,
        take: &mut impl FnMut(ExaminedRow<T>),
    ) -> Result<(), GalleryError> {
        let (mut waiting, mut from) = (VecDeque::new(), Some(i64::MIN));
        let ended = loop {
            let numbers = match from.map_or(Ok(None), |from| self.part_from(from)) {
                Ok(Some(numbers)) => numbers,
                ended => break ended.map(drop),
            };
            from = numbers.end().checked_add(1);
            let (to, part) = mpsc::channel();
            // This fails only if every thread panicked, in which case the end of the scope panics too.
            if hand_out.send((numbers, to)).is_err() {
                break Ok(());
            }
            waiting.push_back(part);
            if ahead <= waiting.len() {
                take_first(&mut waiting, take)?;
            }
        };
        while !waiting.is_empty() {
            take_first(&mut waiting, take)?;
        }
        // Damage in earlier rows is reported first.
        ended
    }

    /// The range of a part that starts with the first row from a number on. Its size does not depend on what
    /// the file claims, and gaps between parts cost nothing.
    fn part_from(&self, from: i64) -> Result<Option<RangeInclusive<i64>>, GalleryError> {
        let query = "SELECT number FROM items WHERE ? <= number ORDER BY number LIMIT 1";
        let first: Option<i64> = self
            .connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row([from], |row| row.get(0)).optional())
            .map_err(|error| self.unreadable(error))?;
        let Some(first) = first else {
            return Ok(None);
        };
        if first < from {
            return Err(self.out_of_order(first));
        }
        Ok(Some(first..=first.saturating_add(PART_NUMBERS - 1)))
    }

    /// Calls `take` with the result of `examine` for each row in this range, in order.
    pub(super) fn read<T>(
        &self,
        numbers: RangeInclusive<i64>,
        examine: &impl Fn(StoredRow) -> T,
        mut take: impl FnMut(ExaminedRow<T>),
    ) -> Result<(), GalleryError> {
        let sql_error = |error| self.unreadable(error);
        let query = "SELECT number, id, label, metadata, source_sha256, embedding, checksum FROM items \
                     WHERE number BETWEEN ? AND ? ORDER BY number";
        let mut statement = self.connection.prepare_cached(query).map_err(sql_error)?;
        let asked = params![numbers.start(), numbers.end()];
        let mut rows = statement.query(asked).map_err(sql_error)?;
        let mut before = None;
        while let Some(row) = rows.next().map_err(sql_error)? {
            let number: i64 = row.get(0).map_err(sql_error)?;
            // A forged file could otherwise make reading endless.
            if before.is_some_and(|before| number <= before) || !numbers.contains(&number) {
                return Err(self.out_of_order(number));
            }
            before = Some(number);
            let (head, embedding, checksum) = read_row(row, self.about.dimension)
                .map_err(|bad| self.damaged(format!("row {number} of its items: {bad}")))?;
            let row = StoredRow {
                head,
                embedding,
                checksum,
            };
            take(ExaminedRow {
                number,
                checksum,
                found: examine(row),
            });
        }
        Ok(())
    }

    fn part<T>(
        &self,
        numbers: RangeInclusive<i64>,
        examine: &impl Fn(StoredRow) -> T,
    ) -> ExaminedPart<T> {
        let mut rows = Vec::new();
        self.read(numbers, examine, |row| rows.push(row))?;
        Ok(rows)
    }

    fn unreadable(&self, error: rusqlite::Error) -> GalleryError {
        GalleryError::from_sqlite(self.path, "read", error)
    }

    fn out_of_order(&self, number: i64) -> GalleryError {
        self.damaged(format!("row {number} of its items is out of order"))
    }

    fn damaged(&self, what: String) -> GalleryError {
        let path = self.path.to_path_buf();
        GalleryError::Damaged { path, what }
    }
}

/// Waits for the part that was handed out first.
fn take_first<T>(
    waiting: &mut VecDeque<Receiver<ExaminedPart<T>>>,
    take: &mut impl FnMut(ExaminedRow<T>),
) -> Result<(), GalleryError> {
    // A result is sent unless the thread panics, which ends the whole read.
    for part in waiting.pop_front().into_iter().flatten() {
        part?.into_iter().for_each(&mut *take);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_rows_once_and_few_at_a_time_wherever_they_are() {
        let connection = Connection::open_in_memory().unwrap();
        let table = "CREATE TABLE items (number INTEGER PRIMARY KEY)";
        connection.execute(table, []).unwrap();
        let alone = [i64::MIN, -7, 1 << 40, i64::MAX - 5, i64::MAX];
        let numbers: Vec<i64> = (1..=5000).chain(alone).collect();
        for number in &numbers {
            let sql = "INSERT INTO items VALUES (?)";
            connection.execute(sql, [number]).unwrap();
        }
        let about = About {
            id: String::new(),
            model_fingerprint: String::new(),
            dimension: 1,
        };
        let source = RowSource {
            path: Path::new("items.db"),
            about: &about,
            connection: &connection,
        };
        let mut parts = Vec::new();
        let mut from = Some(i64::MIN);
        while let Some(part) = from.and_then(|from| source.part_from(from).unwrap()) {
            from = part.end().checked_add(1);
            parts.push(part);
        }
        let rows = |part: &RangeInclusive<i64>| numbers.iter().filter(|n| part.contains(n)).count();
        let rows: Vec<usize> = parts.iter().map(rows).collect();
        // The one of -7 takes the first of the others in.
        assert_eq!(rows, [1, 1017, 1024, 1024, 1024, 912, 1, 2]);
        assert_eq!(rows.iter().sum::<usize>(), numbers.len());
    }
}
