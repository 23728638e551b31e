//! The images that items were made from, if a gallery stores them.
//!
//! They are in the same file as the items, are written and removed in the same transactions, and are
//! compared with the item's `source_sha256` whenever they are read.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::Gallery;
use crate::connection::connect_to_read;
use crate::error::GalleryError;
use crate::format::{check_kind, read_state};
use crate::item::Hash;

impl Gallery {
    /// Stores the images of items that are enrolled from now on. Earlier items stay without an image.
    ///
    /// # Errors
    /// Returns an error if the handle is for reading only or the disk fails.
    pub fn keep_images(&self) -> Result<(), GalleryError> {
        let mut writer = self.writer()?;
        self.writable(&mut writer)?.store.keep_images()?;
        self.keeps_images.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether images of newly enrolled items are kept.
    #[must_use]
    pub fn keeps_images(&self) -> bool {
        self.keeps_images.load(Ordering::Relaxed)
    }

    /// The image that the item with this id was made from; `None` if it is not stored, or if there is no such
    /// item.
    ///
    /// # Errors
    /// Returns [`GalleryError::Damaged`] if it is not the image that was enrolled.
    pub fn image(&self, id: &str) -> Result<Option<Vec<u8>>, GalleryError> {
        if !self.keeps_images() {
            return Ok(None);
        }
        let Some(number) = self.item_table().find(id).map(|place| place.row) else {
            return Ok(None);
        };
        let connection = connect_to_read(&self.path);
        let connection =
            connection.map_err(|error| GalleryError::from_sqlite(&self.path, "read", error))?;
        read_image(&connection, &self.path, number, id)
    }

    /// Whether the image of this item is kept. Does not read it.
    ///
    /// # Errors
    /// Returns an error if the handle is for reading only or the disk fails.
    pub fn has_image(&self, id: &str) -> Result<bool, GalleryError> {
        let place = self.item_table().find(id).map(|place| place.row);
        match place.filter(|_| self.keeps_images()) {
            None => Ok(false),
            Some(number) => {
                let mut writer = self.writer()?;
                self.writable(&mut writer)?.store.has_image(number)
            }
        }
    }
}

/// The images that a gallery stores, read from its file without reading its items. It takes no lock, and can be
/// used while another process writes.
#[derive(Debug)]
pub struct KeptImages {
    connection: Connection,
    path: PathBuf,
    gallery_id: String,
}

/// An item whose image is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptItem {
    /// The number of its row.
    pub number: i64,
    /// Its id.
    pub id: String,
    /// Its label.
    pub label: String,
}

impl KeptImages {
    /// Opens the images of a gallery; `None` if it stores none.
    ///
    /// # Errors
    /// Returns an error if there is no gallery, if it is damaged, or if the disk fails.
    pub fn open(gallery: &Path) -> Result<Option<Self>, GalleryError> {
        let path = gallery
            .canonicalize()
            .map_err(|source| GalleryError::not_found(gallery, source))?;
        let connection = connect_to_read(&path)
            .map_err(|error| GalleryError::from_sqlite(&path, "open", error))?;
        if !check_kind(&connection, &path)? {
            return Ok(None);
        }
        let (about, _) = read_state(&connection, &path)?;
        Ok(Some(Self {
            connection,
            path,
            gallery_id: about.id,
        }))
    }

    /// The gallery's id.
    #[must_use]
    pub fn gallery_id(&self) -> &str {
        &self.gallery_id
    }

    /// The items whose images are stored, in the order in which they were first enrolled.
    ///
    /// # Errors
    /// Returns an error if the file is damaged or the disk fails.
    pub fn items(&self) -> Result<Vec<KeptItem>, GalleryError> {
        let query = "SELECT number, items.id, items.label \
             FROM images JOIN items USING (number) ORDER BY number";
        let item = |row: &rusqlite::Row<'_>| {
            Ok(KeptItem {
                number: row.get(0)?,
                id: row.get(1)?,
                label: row.get(2)?,
            })
        };
        self.connection
            .prepare(query)
            .and_then(|mut statement| statement.query_map([], item)?.collect())
            .map_err(|error| GalleryError::from_sqlite(&self.path, "read", error))
    }

    /// The image of an item; `None` if it was removed meanwhile.
    ///
    /// # Errors
    /// Returns [`GalleryError::Damaged`] if it is not the image that was enrolled, or an error of the disk.
    pub fn read(&self, item: &KeptItem) -> Result<Option<Vec<u8>>, GalleryError> {
        read_image(&self.connection, &self.path, item.number, &item.id)
    }
}

fn read_image(
    connection: &Connection,
    path: &Path,
    number: i64,
    id: &str,
) -> Result<Option<Vec<u8>>, GalleryError> {
    type ImageRow = (String, Option<Hash>, Vec<u8>);
    let query = "SELECT items.id, items.source_sha256, images.bytes \
         FROM images JOIN items USING (number) WHERE number = ?";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found = connection.query_row(query, [number], read).optional();
    let found = found.map_err(|error| GalleryError::from_sqlite(path, "read", error))?;
    // If there is another item with this number, or none, the item was removed meanwhile.
    let Some((_, source, bytes)) = found.filter(|(found, ..): &ImageRow| found == id) else {
        return Ok(None);
    };
    check(path, id, source.as_ref(), &bytes)?;
    Ok(Some(bytes))
}

/// Compares every stored image with the hash in its item, and returns the number of images. It can run while
/// another process writes.
///
/// # Errors
/// Returns [`GalleryError::Damaged`] if an image differs or belongs to no item.
pub fn check_images(gallery: &Path) -> Result<usize, GalleryError> {
    let sql_error = |error| GalleryError::from_sqlite(gallery, "read", error);
    let connection = connect_to_read(gallery).map_err(sql_error)?;
    if !check_kind(&connection, gallery)? {
        return Ok(0);
    }
    check_all(&connection, gallery)
}

fn check_all(connection: &Connection, path: &Path) -> Result<usize, GalleryError> {
    let sql_error = |error| GalleryError::from_sqlite(path, "read", error);
    let query = "SELECT items.id, items.source_sha256, images.bytes \
         FROM images LEFT JOIN items USING (number) ORDER BY number";
    let mut statement = connection.prepare(query).map_err(sql_error)?;
    let mut rows = statement.query([]).map_err(sql_error)?;
    let mut count = 0;
    while let Some(row) = rows.next().map_err(sql_error)? {
        let id: Option<String> = row.get(0).map_err(sql_error)?;
        let source: Option<Hash> = row.get(1).map_err(sql_error)?;
        let bytes = row.get_ref(2).map_err(sql_error)?;
        let bytes = bytes.as_blob().map_err(|error| sql_error(error.into()))?;
        check(
            path,
            id.as_deref().unwrap_or("(none)"),
            source.as_ref(),
            bytes,
        )?;
        count += 1;
    }
    Ok(count)
}

/// Compares an image with the hash in its item.
pub(super) fn check(
    path: &Path,
    id: &str,
    source: Option<&Hash>,
    bytes: &[u8],
) -> Result<(), GalleryError> {
    let found: Hash = Sha256::digest(bytes).into();
    if source == Some(&found) {
        return Ok(());
    }
    Err(GalleryError::Damaged {
        path: path.to_path_buf(),
        what: format!("the image of item `{id}` is not the one that was enrolled"),
    })
}
