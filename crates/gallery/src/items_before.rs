//! Where the items of a gallery are, by id, while others are merged into it: in a temporary database, since the ids of
//! ten millions take a gigabyte.

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::item::Hash;

/// A database that is in a temporary file, beyond what is in the cache of pages, and goes with this.
pub(super) struct ItemsBefore(Connection);

/// Where an item is stored, and what it is.
pub(super) struct StoredAt {
    pub(super) number: i64,
    pub(super) checksum: Hash,
}

impl ItemsBefore {
    pub(super) fn new() -> Result<Self, rusqlite::Error> {
        // SQLite takes an empty name for that of a temporary file.
        let connection = Connection::open("")?;
        connection.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
        connection.execute_batch(
            "CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL, checksum BLOB NOT NULL) STRICT; BEGIN",
        )?;
        Ok(Self(connection))
    }

    pub(super) fn add(&self, id: &str, at: &StoredAt) -> Result<(), rusqlite::Error> {
        let mut insert = self
            .0
            .prepare_cached("INSERT INTO items VALUES (?, ?, ?)")?;
        insert
            .execute(params![at.number, id, at.checksum])
            .map(drop)
    }

    /// Makes all that was added findable; gives the number of the first row whose id another row has, if there is one.
    pub(super) fn finish(&self) -> Result<Option<i64>, rusqlite::Error> {
        self.0.execute_batch("COMMIT")?;
        match self
            .0
            .execute_batch("CREATE UNIQUE INDEX by_id ON items (id)")
        {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let repeated = "SELECT max(number) AS last FROM items GROUP BY id HAVING 1 < count(*) ORDER BY last LIMIT 1";
                self.0.query_row(repeated, [], |row| row.get(0)).map(Some)
            }
            indexed => indexed.map(|()| None),
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<Option<StoredAt>, rusqlite::Error> {
        let mut find = self
            .0
            .prepare_cached("SELECT number, checksum FROM items WHERE id = ?")?;
        let found = find.query_row([id], |row| {
            Ok(StoredAt {
                number: row.get(0)?,
                checksum: row.get(1)?,
            })
        });
        found.optional()
    }
}
