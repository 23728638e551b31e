//! Reading every row of a gallery and comparing it with its checksum: on several threads if there are many.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rusqlite::{Connection, Transaction, params};

use crate::connection::connect_to_read;
use crate::error::GalleryError;
use crate::format::{About, GalleryState, StoredRow, read_row, read_state};
use crate::item::Hash;

/// With fewer items, threads cost more than they save.
const SHARED_FROM: usize = 16 * 1024;
/// Rows that a thread takes at a time, about: 5 MB of 1,280 components.
const PART_ROWS: usize = 1024;
/// Parts for each thread that are being read, or wait for their turn.
const PARTS_AHEAD: usize = 2;
/// Beyond that, reading waits for memory.
const THREADS_MAX: usize = 16;
/// Moments that are tried: while somebody writes, connections may come to see different ones.
const MOMENTS_MAX: usize = 3;

/// What was made of a row that agrees with its checksum.
pub(super) struct ExaminedRow<T> {
    pub(super) number: i64,
    pub(super) checksum: Hash,
    pub(super) found: T,
}

/// The rows of a part, in order.
type ExaminedPart<T> = Result<Vec<ExaminedRow<T>>, GalleryError>;

/// Numbers of rows that a thread is to read, and where they go.
type PartTask<T> = (RangeInclusive<i64>, Sender<ExaminedPart<T>>);

/// What rows are read from.
pub(super) struct RowSource<'a> {
    pub(super) path: &'a Path,
    pub(super) about: &'a About,
    pub(super) connection: &'a Connection,
}

/// One moment of a gallery: whoever writes meanwhile, what is read is all of it.
pub(super) struct Moment<'a> {
    pub(super) state: GalleryState,
    /// Connections that see it too; none if one thread is to read it alone.
    others: Vec<Connection>,
    /// For as long as it is open.
    _transaction: Transaction<'a>,
}

impl RowSource<'_> {
    /// Begins to read one moment of the gallery.
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

    /// A connection that reads the same state. Every write counts the generation up, so that of equal states all rows
    /// are the same.
    fn another(&self, state: &GalleryState) -> Option<Connection> {
        let connection = connect_to_read(self.path).ok()?;
        connection.execute_batch("BEGIN").ok()?;
        let (about, found) = read_state(&connection, self.path).ok()?;
        ((&about, &found) == (self.about, state)).then_some(connection)
    }

    /// Calls `take` with what `examine` makes of each row, in order of their numbers: on the threads of a moment's
    /// other connections, if there are any.
    pub(super) fn each<T: Send>(
        &self,
        moment: Moment<'_>,
        examine: impl Fn(StoredRow) -> T + Sync,
        mut take: impl FnMut(ExaminedRow<T>),
    ) -> Result<(), GalleryError> {
        let Moment { state, others, .. } = moment;
        if others.is_empty() {
            return self.read(i64::MIN..=i64::MAX, &examine, take);
        }
        let Some((first, last)) = self.bounds()? else {
            return Ok(());
        };
        let ahead = others.len() * PARTS_AHEAD;
        let (parts, examine) = (parts(state.items, first, last), &examine);
        let (path, about) = (self.path, self.about);
        let (hand_out, tasks) = mpsc::channel::<PartTask<T>>();
        let tasks = &Mutex::new(tasks);
        thread::scope(|scope| {
            for connection in others {
                scope.spawn(move || {
                    let source = RowSource {
                        path,
                        about,
                        connection: &connection,
                    };
                    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    while let Ok((numbers, to)) = next() {
                        // Fails if what came before it cannot be read.
                        drop(to.send(source.part(numbers, examine)));
                    }
                });
            }
            // Dropped with the first error, which ends the threads.
            let (hand_out, mut waiting) = (hand_out, VecDeque::new());
            for numbers in parts {
                let (to, from) = mpsc::channel();
                drop(hand_out.send((numbers, to)));
                waiting.push_back(from);
                if ahead <= waiting.len() {
                    take_first(&mut waiting, &mut take)?;
                }
            }
            while !waiting.is_empty() {
                take_first(&mut waiting, &mut take)?;
            }
            Ok(())
        })
    }

    /// Calls `take` with what `examine` makes of each row of these numbers, in order.
    fn read<T>(
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
        while let Some(row) = rows.next().map_err(sql_error)? {
            let number: i64 = row.get(0).map_err(sql_error)?;
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
        let mut rows = Vec::with_capacity(PART_ROWS);
        self.read(numbers, examine, |row| rows.push(row))?;
        Ok(rows)
    }

    /// The first and the last number of a row, if there is one.
    fn bounds(&self) -> Result<Option<(i64, i64)>, GalleryError> {
        // Each by itself is found at an end of the table; together they would be looked for in all of it.
        let query = "SELECT (SELECT min(number) FROM items), (SELECT max(number) FROM items)";
        let found = self
            .connection
            .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(|error| self.unreadable(error))?;
        let (first, last): (Option<i64>, Option<i64>) = found;
        Ok(first.zip(last))
    }

    fn unreadable(&self, error: rusqlite::Error) -> GalleryError {
        GalleryError::from_sqlite(self.path, "read", error)
    }

    fn damaged(&self, what: String) -> GalleryError {
        let path = self.path.to_path_buf();
        GalleryError::Damaged { path, what }
    }
}

/// The numbers from `first` to `last` in parts of some rows each, if these are spread evenly.
fn parts(items: usize, first: i64, last: i64) -> impl Iterator<Item = RangeInclusive<i64>> {
    let numbers = last.abs_diff(first).saturating_add(1);
    let parts = items.div_ceil(PART_ROWS).max(1) as u64;
    let each = numbers.div_ceil(parts);
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let begins = next?;
        let ends = begins.saturating_add_unsigned(each - 1).min(last);
        next = (ends < last).then(|| ends + 1);
        Some(begins..=ends)
    })
}

/// Waits for the part that was handed out first.
fn take_first<T>(
    waiting: &mut VecDeque<Receiver<ExaminedPart<T>>>,
    take: &mut impl FnMut(ExaminedRow<T>),
) -> Result<(), GalleryError> {
    // One is sent, if the thread does not panic, which ends all of this.
    for part in waiting.pop_front().into_iter().flatten() {
        part?.into_iter().for_each(&mut *take);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_numbers_once() {
        for (items, first, last) in [
            (1, 1, 1),
            (5000, 1, 5000),
            (5000, -7, 1 << 40),
            (3, i64::MIN, i64::MAX),
            (1 << 20, i64::MAX - 1, i64::MAX),
        ] {
            let parts: Vec<RangeInclusive<i64>> = parts(items, first, last).collect();
            assert_eq!(parts.first().map(|part| *part.start()), Some(first));
            assert_eq!(parts.last().map(|part| *part.end()), Some(last));
            assert!(parts.iter().all(|part| part.start() <= part.end()));
            let follows = |pair: &[RangeInclusive<i64>]| pair[0].end() + 1 == *pair[1].start();
            assert!(parts.windows(2).all(follows));
            assert!(parts.len() <= items.div_ceil(PART_ROWS) + 1);
        }
    }
}
