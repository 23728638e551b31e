//! The file format: its tables, and the conversion between rows and items.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use crate::error::{BadRow, GalleryError};
use crate::item::{ContentSum, FieldHash, Hash, ItemHead};
use matchpoint_vector::Embedding;

/// The application id that marks a `SQLite` file as a gallery: the letters `MPga`.
const APPLICATION_ID: i32 = 0x4d50_6761;
/// The version of the format; other versions are refused.
const FORMAT: i32 = 1;
/// The page size. Three rows with 1,280 dimensions fill such a page, so little of the file is padding.
const PAGE_BYTES: i64 = 16 * 1024;
/// The tables as they are created, and as they must be found when the file is opened.
pub(super) const TABLES: [(&str, &str); 2] = [
    (
        "gallery",
        "CREATE TABLE gallery (\
         one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, \
         model_fingerprint TEXT NOT NULL, dimension INTEGER NOT NULL, items INTEGER NOT NULL, \
         generation INTEGER NOT NULL, digest BLOB NOT NULL, checksum BLOB NOT NULL) STRICT",
    ),
    // There is no index: ids are looked up in memory, so that no second structure can be inconsistent.
    (
        "items",
        "CREATE TABLE items (\
         number INTEGER PRIMARY KEY, id TEXT NOT NULL, label TEXT NOT NULL, \
         metadata TEXT NOT NULL, source_sha256 BLOB, embedding BLOB NOT NULL, \
         checksum BLOB NOT NULL) STRICT",
    ),
];

/// The table of a gallery that stores images: the bytes that an item was made from, by row number.
pub(super) const IMAGES: (&str, &str) = (
    "images",
    "CREATE TABLE images (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT",
);

/// The properties of a gallery that never change after its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) id: String,
    pub(super) model_fingerprint: String,
    pub(super) dimension: usize,
}

/// The properties that change with every write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GalleryState {
    pub(super) items: usize,
    pub(super) generation: u64,
    pub(super) digest: ContentSum,
}

/// A row to write.
pub(super) struct NewRow {
    pub(super) number: i64,
    pub(super) head: ItemHead,
    pub(super) embedding: Embedding,
    pub(super) checksum: Hash,
    /// The image that it was made from, which is stored if the gallery stores images.
    pub(super) image: Option<Vec<u8>>,
}

/// A row that was read and matches its checksum.
pub(super) struct StoredRow {
    pub(super) head: ItemHead,
    pub(super) embedding: Embedding,
    pub(super) checksum: Hash,
}

/// Creates the tables of an empty gallery in an empty file, and closes it.
pub(super) fn write_empty(
    mut connection: Connection,
    about: &About,
) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    for (_, sql) in TABLES {
        transaction.execute(sql, [])?;
    }
    let state = GalleryState::default();
    transaction.execute(
        "INSERT INTO gallery VALUES (1, ?, ?, ?, 0, 0, ?, ?)",
        params![
            about.id,
            about.model_fingerprint,
            integer(about.dimension),
            state.digest.to_bytes(),
            state_checksum(about, &state)
        ],
    )?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

/// Refuses files that are not a gallery of this format with exactly these tables. Returns whether images are
/// stored.
pub(super) fn check_kind(connection: &Connection, path: &Path) -> Result<bool, GalleryError> {
    let sql_error = |error| GalleryError::from_sqlite(path, "open", error);
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(sql_error)?;
    if application != i64::from(APPLICATION_ID) {
        let what = format!("its application id is {application:#x}, not {APPLICATION_ID:#x}");
        return Err(GalleryError::NotAGallery {
            path: path.to_path_buf(),
            what,
        });
    }
    let found = number("user_version").map_err(sql_error)?;
    let readable = i64::from(FORMAT);
    if found != readable {
        return Err(GalleryError::Format {
            path: path.to_path_buf(),
            found,
            readable,
        });
    }
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
        .map_err(sql_error)?;
    let tables = statement
        .query_map([], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        })
        .and_then(Iterator::collect::<Result<Vec<[Option<String>; 4]>, _>>)
        .map_err(sql_error)?;
    let [gallery, items] = TABLES;
    let described = |(name, sql): (&str, &str)| {
        let words = ["table", name, name, sql];
        words.map(|word| Some(word.to_owned()))
    };
    let keeps_images = tables == [gallery, IMAGES, items].map(described);
    if !keeps_images && tables != TABLES.map(described) {
        let what = "its tables are not those of a gallery".to_owned();
        return Err(GalleryError::Damaged {
            path: path.to_path_buf(),
            what,
        });
    }
    Ok(keeps_images)
}

pub(super) fn read_state(
    connection: &Connection,
    path: &Path,
) -> Result<(About, GalleryState), GalleryError> {
    let read = |row: &Row<'_>| {
        let about = About {
            id: row.get(0)?,
            model_fingerprint: row.get(1)?,
            dimension: whole(row, 2)?,
        };
        let digest = ContentSum::from_bytes(&row.get(5)?);
        let generation = row.get::<_, i64>(4)?.cast_unsigned();
        Ok((
            about,
            GalleryState {
                items: whole(row, 3)?,
                generation,
                digest,
            },
            row.get(6)?,
        ))
    };
    let columns = "id, model_fingerprint, dimension, items, generation, digest, checksum";
    let query = format!("SELECT {columns} FROM gallery");
    let (about, state, checksum): (About, GalleryState, Hash) = connection
        .query_row(&query, [], read)
        .map_err(|error| GalleryError::from_sqlite(path, "read", error))?;
    if checksum != state_checksum(&about, &state) {
        let what = "the checksum of its description does not match".to_owned();
        return Err(GalleryError::Damaged {
            path: path.to_path_buf(),
            what,
        });
    }
    Ok((about, state))
}

pub(super) fn read_row(
    row: &Row<'_>,
    dimension: usize,
) -> Result<(ItemHead, Embedding, Hash), BadRow> {
    let metadata = serde_json::from_str(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?;
    let source = row
        .get_ref(4)?
        .as_blob_or_null()
        .map_err(rusqlite::Error::from)?;
    let source_sha256 = source
        .map(Hash::try_from)
        .transpose()
        .map_err(|_wrong_length| BadRow::HashBytes("source hash"))?;
    let bytes = row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?;
    let (found, expected) = (bytes.len(), dimension * size_of::<f32>());
    if found != expected {
        return Err(BadRow::EmbeddingBytes { found, expected });
    }
    let values = bytes
        .as_chunks()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect();
    let embedding = Embedding::from_unit(values)?;
    let head = ItemHead {
        id: row.get(1)?,
        label: row.get(2)?,
        metadata,
        source_sha256,
    };
    let stored = row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?;
    let checksum = head.checksum(bytes);
    if stored != checksum {
        return Err(BadRow::Checksum);
    }
    Ok((head, embedding, checksum))
}

pub(super) fn state_checksum(about: &About, state: &GalleryState) -> Hash {
    let mut hash = FieldHash::new("matchpoint gallery 1");
    hash.field(about.id.as_bytes());
    hash.field(about.model_fingerprint.as_bytes());
    hash.number(about.dimension);
    hash.number(state.items);
    hash.field(&state.generation.to_le_bytes());
    hash.field(&state.digest.to_bytes());
    hash.finish()
}

fn whole(row: &Row<'_>, column: usize) -> Result<usize, rusqlite::Error> {
    let value: i64 = row.get(column)?;
    usize::try_from(value)
        .map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

pub(super) fn integer(value: usize) -> i64 {
    (value as u64).cast_signed()
}
