//! The images that items were made from, where a gallery keeps them.
//!
//! They are in the file of the items, written and removed in the transactions of these, and compared
//! with the item's hash of its source whenever they are read.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::gallery::Gallery;
use crate::gallery::error::GalleryError;
use crate::gallery::format::{check_kind, failed};
use crate::gallery::item::Hash;
use crate::gallery::store::connect_to_read;

impl Gallery {
    /// Keeps the images of items that are enrolled from here on. Those of before are without one.
    ///
    /// # Errors
    /// The handle is for reading only, or the disk.
    pub fn keep_images(&self) -> Result<(), GalleryError> {
        let mut writer = self.writer()?;
        self.writable(&mut writer)?.store.keep_images()?;
        self.keeps_images.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether images are kept of what is enrolled.
    #[must_use]
    pub fn keeps_images(&self) -> bool {
        self.keeps_images.load(Ordering::Relaxed)
    }

    /// The image that the item of this id was made from; `None` where it is not kept, or there is no
    /// such item.
    ///
    /// # Errors
    /// [`GalleryError::Damaged`] where it is not the one that was enrolled.
    pub fn image(&self, id: &str) -> Result<Option<Vec<u8>>, GalleryError> {
        if !self.keeps_images() {
            return Ok(None);
        }
        let Some(number) = self.catalogue().find(id).map(|place| place.row) else {
            return Ok(None);
        };
        let query = "SELECT items.id, items.source_sha256, images.bytes \
             FROM images JOIN items USING (number) WHERE number = ?";
        let found = connect_to_read(&self.path)
            .and_then(|connection| {
                let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                connection.query_row(query, [number], read).optional()
            })
            .map_err(|error| failed(&self.path, "read", error))?;
        // Another item of this number, or none: it was removed meanwhile.
        let Some((_, source, bytes)) = found.filter(|(found, ..): &Row| found == id) else {
            return Ok(None);
        };
        check(&self.path, id, source.as_ref(), &bytes)?;
        Ok(Some(bytes))
    }

    /// Whether the image is kept that the item of this id was made from. Does not read it.
    ///
    /// # Errors
    /// The handle is for reading only, or the disk.
    pub fn has_image(&self, id: &str) -> Result<bool, GalleryError> {
        let place = self.catalogue().find(id).map(|place| place.row);
        match place.filter(|_| self.keeps_images()) {
            None => Ok(false),
            Some(number) => {
                let mut writer = self.writer()?;
                self.writable(&mut writer)?.store.has_image(number)
            }
        }
    }
}

type Row = (String, Option<Hash>, Vec<u8>);

/// Compares every image that a gallery keeps with the hash in its item, and returns their number.
/// Works beside a writer.
///
/// # Errors
/// [`GalleryError::Damaged`] where one differs, or belongs to no item.
pub fn check_images(gallery: &Path) -> Result<usize, GalleryError> {
    let sql_error = |error| failed(gallery, "read", error);
    let connection = connect_to_read(gallery).map_err(sql_error)?;
    if !check_kind(&connection, gallery)? {
        return Ok(0);
    }
    check_all(&connection, gallery)
}

fn check_all(connection: &Connection, path: &Path) -> Result<usize, GalleryError> {
    let sql_error = |error| failed(path, "read", error);
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

fn check(path: &Path, id: &str, source: Option<&Hash>, bytes: &[u8]) -> Result<(), GalleryError> {
    let found: Hash = Sha256::digest(bytes).into();
    if source == Some(&found) {
        return Ok(());
    }
    Err(GalleryError::Damaged {
        path: path.to_path_buf(),
        what: format!("the image of item `{id}` is not the one that was enrolled"),
    })
}
