//! The database file: `SQLite`, with a checksum for every row and a digest of all rows that every write
//! updates.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use crate::connection::{connect, connect_to_read};
use crate::error::GalleryError;
use crate::format::{
    self, About, GalleryState, NewRow, StoredRow, check_kind, integer, read_row, read_state,
    state_checksum,
};
use crate::item::{Hash, embedding_bytes};
use crate::paths::with_suffix;
use crate::rows::{ExaminedRow, RowSource};

/// The write-ahead log is truncated to this size; a large batch can make it grow.
const LOG_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// An open database.
pub(super) struct ItemStore {
    pub(super) connection: Connection,
    path: PathBuf,
    about: About,
    state: GalleryState,
    keeps_images: bool,
}

impl ItemStore {
    /// Creates an empty gallery at `path`. The caller has the lock and has checked that nothing exists there.
    /// The file appears completely or not at all.
    pub(super) fn create(path: &Path, about: &About) -> Result<(), GalleryError> {
        let unfinished = with_suffix(path, ".new");
        let file_error = |doing| {
            let path = path.to_path_buf();
            move |source| GalleryError::File {
                path,
                doing,
                source,
            }
        };
        for leftover in ["", "-wal", "-shm", "-journal"] {
            match fs::remove_file(with_suffix(&unfinished, leftover)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("clear the way for")(error));
                }
                _ => {}
            }
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        connect(&unfinished, flags)
            .and_then(|connection| format::write_empty(connection, about))
            .map_err(|error| GalleryError::from_sqlite(path, "create", error))?;
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .map_err(file_error("create"))?;
        fs::rename(&unfinished, path).map_err(file_error("create"))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(file_error("create"))
    }

    /// Opens the database and checks everything except the items.
    pub(super) fn open(path: &Path, writable: bool) -> Result<Self, GalleryError> {
        let sql_error = |error| GalleryError::from_sqlite(path, "open", error);
        let connection = if writable {
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql_error)?
        } else {
            connect_to_read(path).map_err(sql_error)?
        };
        let keeps_images = check_kind(&connection, path)?;
        if writable {
            prepare_to_write(&connection, path)?;
        }
        let (about, state) = read_state(&connection, path)?;
        Ok(Self {
            connection,
            path: path.to_path_buf(),
            about,
            state,
            keeps_images,
        })
    }

    /// Writes a copy of the database, as of one moment, to a new file. It can run while another process writes.
    pub(super) fn copy(path: &Path, to: &Path) -> Result<(), GalleryError> {
        let sql_error = |error| GalleryError::from_sqlite(path, "copy", error);
        let connection = connect_to_read(path).map_err(sql_error)?;
        check_kind(&connection, path)?;
        let Some(to) = to.to_str() else {
            return Err(GalleryError::File {
                path: to.to_path_buf(),
                doing: "name in SQL",
                source: io::ErrorKind::InvalidFilename.into(),
            });
        };
        let copied = connection.execute("VACUUM INTO ?", [to]);
        copied.map(drop).map_err(sql_error)
    }

    /// The digest of the items that are in the file now.
    pub(super) fn stored_digest(path: &Path) -> Result<Hash, GalleryError> {
        let sql_error = |error| GalleryError::from_sqlite(path, "read", error);
        // This needs its own connection, because the existing one has pages in memory.
        let connection = connect_to_read(path).map_err(sql_error)?;
        let (_, state) = read_state(&connection, path)?;
        Ok(state.digest.to_bytes())
    }

    /// Reads some rows from the disk again and compares them with their checksums; returns the number of the
    /// last one.
    pub(super) fn check_rows(
        path: &Path,
        about: &About,
        after: i64,
        most: usize,
    ) -> Result<Option<i64>, GalleryError> {
        let sql_error = |error| GalleryError::from_sqlite(path, "read", error);
        // This needs its own connection, because the existing one has pages in memory.
        let connection = connect_to_read(path).map_err(sql_error)?;
        let query = "SELECT number, id, label, metadata, source_sha256, embedding, checksum FROM items \
                     WHERE ? < number ORDER BY number LIMIT ?";
        let mut statement = connection.prepare(query).map_err(sql_error)?;
        let asked = params![after, integer(most)];
        let mut rows = statement.query(asked).map_err(sql_error)?;
        let mut last = None;
        while let Some(row) = rows.next().map_err(sql_error)? {
            let number: i64 = row.get(0).map_err(sql_error)?;
            if let Err(bad) = read_row(row, about.dimension) {
                return Err(GalleryError::Damaged {
                    path: path.to_path_buf(),
                    what: format!("row {number} of its items: {bad}"),
                });
            }
            last = Some(number);
        }
        Ok(last)
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    pub(super) fn keeps_images(&self) -> bool {
        self.keeps_images
    }

    /// Creates the table for images if it does not exist.
    pub(super) fn keep_images(&mut self) -> Result<(), GalleryError> {
        if !self.keeps_images {
            let (_, sql) = format::IMAGES;
            let made = self.connection.execute(sql, []);
            made.map_err(|error| GalleryError::from_sqlite(&self.path, "write to", error))?;
            self.keeps_images = true;
        }
        Ok(())
    }

    /// Whether the image of a row is stored.
    pub(super) fn has_image(&self, number: i64) -> Result<bool, GalleryError> {
        let query = "SELECT count(*) FROM images WHERE number = ?";
        let count = self
            .connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row([number], |row| row.get::<_, i64>(0)));
        let count = count.map_err(|error| GalleryError::from_sqlite(&self.path, "read", error))?;
        Ok(0 < count)
    }

    /// Rewrites the file without the space of removed rows. The database's own copy is made beside it.
    pub(super) fn compact(&mut self) -> Result<(), GalleryError> {
        // By default it is below TMPDIR, which is often small. A name that is not in UTF-8 cannot be set.
        let folder = self.path.parent().and_then(Path::to_str);
        let temporary = |folder: &str| {
            self.connection
                .pragma_update(None, "temp_store_directory", folder)
        };
        let compacted = folder.map_or(Ok(()), temporary).and_then(|()| {
            self.connection.execute_batch("VACUUM")?;
            let mode = Some("TRUNCATE");
            self.connection
                .pragma(None, "wal_checkpoint", mode, |_| Ok(()))
        });
        // The setting is the whole process's.
        let as_before = temporary("");
        compacted
            .and(as_before)
            .map_err(|error| GalleryError::from_sqlite(&self.path, "compact", error))
    }

    /// The state that was read last.
    pub(super) fn state(&self) -> &GalleryState {
        &self.state
    }

    /// The source of its rows.
    pub(super) fn source(&self) -> RowSource<'_> {
        RowSource {
            path: &self.path,
            about: &self.about,
            connection: &self.connection,
        }
    }

    /// Reads and verifies every item: calls `take` with the result of `examine` for each, in the order of row
    /// numbers. `examine` may be called on several threads.
    pub(super) fn load<T: Send>(
        &mut self,
        examine: impl Fn(StoredRow) -> T + Sync,
        mut take: impl FnMut(ExaminedRow<T>),
    ) -> Result<GalleryState, GalleryError> {
        let source = self.source();
        let moment = source.moment()?;
        let state = moment.state;
        let mut found = GalleryState {
            generation: state.generation,
            ..GalleryState::default()
        };
        source.each(moment, examine, |row| {
            found.digest.add(&row.checksum);
            found.items += 1;
            take(row);
        })?;
        if found != state {
            let (have, had) = (found.items, state.items);
            return Err(self.damaged(format!(
                "it holds {have} items with digest {}, and {had} with digest {} were acknowledged",
                found.digest, state.digest
            )));
        }
        self.state = state;
        Ok(state)
    }

    pub(super) fn damaged(&self, what: String) -> GalleryError {
        GalleryError::Damaged {
            path: self.path.clone(),
            what,
        }
    }

    pub(super) fn repeated(&self, number: i64) -> GalleryError {
        self.damaged(format!("row {number} of its items repeats an id"))
    }

    /// Writes rows and removes others in one transaction, which is durable when this returns.
    pub(super) fn write(
        &mut self,
        rows: &[NewRow],
        removed: &[i64],
        state: GalleryState,
    ) -> Result<(), GalleryError> {
        self.try_write(rows, removed, state)
            .map_err(|error| self.write_error(error))?;
        self.state = state;
        Ok(())
    }

    pub(super) fn write_error(&self, error: rusqlite::Error) -> GalleryError {
        // The update of the state found no row with the expected state.
        if let rusqlite::Error::StatementChangedRows(_) = error {
            let what = "it was changed by something other than its writer".to_owned();
            return GalleryError::Damaged {
                path: self.path.clone(),
                what,
            };
        }
        GalleryError::from_sqlite(&self.path, "write to", error)
    }

    pub(super) fn out_of_rows(&self) -> GalleryError {
        GalleryError::Damaged {
            path: self.path.clone(),
            what: "its row numbers are used up".to_owned(),
        }
    }

    /// Starts a transaction. [`ItemStore::commit`] ends it, and closing without a commit undoes it. With
    /// `is_new`, the file is useless after a crash, so that no row has to be written twice.
    pub(super) fn begin(&self, is_new: bool) -> Result<(), GalleryError> {
        if is_new {
            self.set_journal("MEMORY")?;
        }
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(|error| self.write_error(error))
    }

    /// Commits the transaction with the new state; durable when it returns.
    pub(super) fn commit(&mut self, state: GalleryState) -> Result<(), GalleryError> {
        let before = state_checksum(&self.about, &self.state);
        let after = state_checksum(&self.about, &state);
        replace_state(&self.connection, &state, &before, &after)
            .and_then(|()| self.connection.execute_batch("COMMIT"))
            .map_err(|error| self.write_error(error))?;
        self.state = state;
        self.set_journal("WAL")
    }

    fn set_journal(&self, mode: &str) -> Result<(), GalleryError> {
        let set = self
            .connection
            .pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()));
        set.map_err(|error| self.write_error(error))
    }

    fn try_write(
        &mut self,
        rows: &[NewRow],
        removed: &[i64],
        state: GalleryState,
    ) -> Result<(), rusqlite::Error> {
        let before = state_checksum(&self.about, &self.state);
        let after = state_checksum(&self.about, &state);
        let transaction = self.connection.transaction()?;
        replace_state(&transaction, &state, &before, &after)?;
        for number in removed {
            delete(&transaction, "items", *number)?;
            if self.keeps_images {
                delete(&transaction, "images", *number)?;
            }
        }
        for row in rows {
            put_item(&transaction, row)?;
            if self.keeps_images {
                put_image(&transaction, row)?;
            }
        }
        transaction.commit()
    }
}

/// Replaces the state, if the file still has the one that this writer knows, with the checksum `before`.
fn replace_state(
    connection: &Connection,
    state: &GalleryState,
    before: &Hash,
    after: &Hash,
) -> Result<(), rusqlite::Error> {
    let changed = connection
        .prepare_cached(
            "UPDATE gallery SET items = ?, generation = ?, digest = ?, checksum = ? \
             WHERE checksum = ?",
        )?
        .execute(params![
            integer(state.items),
            state.generation.cast_signed(),
            state.digest.to_bytes(),
            after,
            before
        ])?;
    if changed != 1 {
        return Err(rusqlite::Error::StatementChangedRows(changed));
    }
    Ok(())
}

fn delete(
    connection: &Connection,
    table: &'static str,
    number: i64,
) -> Result<(), rusqlite::Error> {
    let query = format!("DELETE FROM {table} WHERE number = ?");
    connection.prepare_cached(&query)?.execute([number])?;
    Ok(())
}

fn put_item(connection: &Connection, row: &NewRow) -> Result<(), rusqlite::Error> {
    let head = &row.head;
    let metadata = serde_json::to_string(&head.metadata)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            row.number,
            head.id,
            head.label,
            metadata,
            head.source_sha256,
            embedding_bytes(row.embedding.as_slice()),
            row.checksum
        ])?;
    Ok(())
}

/// Stores the image of a row, or removes that of the item that the row replaces.
fn put_image(connection: &Connection, row: &NewRow) -> Result<(), rusqlite::Error> {
    let Some(image) = &row.image else {
        return delete(connection, "images", row.number);
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO images VALUES (?, ?)")?
        .execute(params![row.number, image])?;
    Ok(())
}

fn prepare_to_write(connection: &Connection, path: &Path) -> Result<(), GalleryError> {
    let set = || {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
        // Every commit waits until it is on the disk.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Deleted data are overwritten, because an embedding can be personal data.
        connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
        let limit = LOG_BYTES_MAX;
        connection.pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
        // Writing to a file with broken pages could destroy rows that are still good.
        let check = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
        Ok((mode, check))
    };
    let (mode, check): (String, String) =
        set().map_err(|error| GalleryError::from_sqlite(path, "open", error))?;
    let what = if mode != "wal" {
        format!("its journal mode is {mode} and cannot be set to wal")
    } else if check != "ok" {
        check
    } else {
        return Ok(());
    };
    Err(GalleryError::Damaged {
        path: path.to_path_buf(),
        what,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::item::ItemHead;
    use matchpoint_vector::Embedding;

    pub(crate) fn row(number: i64, id: &str, values: Vec<f32>) -> NewRow {
        let head = ItemHead {
            id: id.to_owned(),
            label: "one".to_owned(),
            metadata: [].into(),
            source_sha256: None,
        };
        let embedding = Embedding::from_unit(values).unwrap();
        let checksum = head.checksum(&embedding_bytes(embedding.as_slice()));
        NewRow {
            number,
            head,
            embedding,
            checksum,
            image: None,
        }
    }

    /// A gallery of these rows, which says that it has `items`.
    pub(crate) fn gallery(rows: &[NewRow], items: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gallery.db");
        let about = About {
            id: "rows".to_owned(),
            model_fingerprint: "none".to_owned(),
            dimension: 1,
        };
        ItemStore::create(&path, &about).unwrap();
        let mut state = GalleryState {
            items,
            ..GalleryState::default()
        };
        rows.iter().for_each(|row| state.digest.add(&row.checksum));
        let mut store = ItemStore::open(&path, true).unwrap();
        store.write(rows, &[], state).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_says_it_has_far_more_items_than_it_has_is_refused_at_once() {
        let rows = [1, 1 << 40].map(|number| row(number, &number.to_string(), vec![1.0]));
        let (_folder, path) = gallery(&rows, 1 << 50);
        let mut store = ItemStore::open(&path, false).unwrap();
        let refused = store.load(|_| (), |_| ()).unwrap_err().to_string();
        assert!(refused.contains("it holds 2 items"), "{refused}");
    }

    #[test]
    fn rows_out_of_order_are_refused() {
        let rows = [1, 2].map(|number| row(number, &number.to_string(), vec![1.0]));
        let (_folder, path) = gallery(&rows, 2);
        let mut bytes = fs::read(&path).unwrap();
        // The leaf of the items, after the pages of the schema and of the description: its pointers to cells.
        let pointers = 2 * 16 * 1024 + 8;
        bytes[pointers..pointers + 4].rotate_left(2);
        fs::write(&path, bytes).unwrap();
        let mut store = ItemStore::open(&path, false).unwrap();
        let refused = store.load(|_| (), |_| ()).unwrap_err().to_string();
        assert!(
            refused.contains("row 1 of its items is out of order"),
            "{refused}"
        );
    }

    #[test]
    fn a_panic_of_every_thread_that_reads_ends_reading() {
        let number = |number: i64| row(number, &number.to_string(), vec![1.0]);
        let rows: Vec<NewRow> = (1..=17_000).map(number).collect();
        let (_folder, path) = gallery(&rows, rows.len());
        let mut store = ItemStore::open(&path, false).unwrap();
        // Without the end of the threads noticed, this waits for ever.
        let panics = || drop(store.load(|_| assert_eq!(1, 2, "as intended"), |_| ()));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
    }

    #[test]
    fn a_full_disk_is_named_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gallery.db");
        let about = About {
            id: "full".to_owned(),
            model_fingerprint: "none".to_owned(),
            dimension: 4096,
        };
        ItemStore::create(&path, &about).unwrap();
        let mut store = ItemStore::open(&path, true).unwrap();
        store
            .connection
            .pragma_update_and_check(None, "max_page_count", 8, |_| Ok(()))
            .unwrap();

        let mut state = GalleryState::default();
        let error = loop {
            let mut values = vec![0.0; 4096];
            values[0] = 1.0;
            let number = i64::try_from(state.items).unwrap();
            let row = row(number, &format!("item {number}"), values);
            let mut next = state;
            next.items += 1;
            next.digest.add(&row.checksum);
            match store.write(&[row], &[], next) {
                Ok(()) => state = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, GalleryError::Full { .. }), "{error}");
        assert!(0 < state.items);

        drop(store);
        let mut store = ItemStore::open(&path, true).unwrap();
        assert_eq!(store.load(|_| (), |_| ()).unwrap(), state);
    }
}
