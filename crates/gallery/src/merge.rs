//! Copies items of other galleries into one gallery, row by row in one transaction and without an index. No
//! vector stays in memory.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::types::ToSqlOutput;
use rusqlite::{OptionalExtension, Row, params};

use crate::Gallery;
use crate::error::GalleryError;
use crate::format::{GalleryState, read_row};
use crate::images::check;
use crate::item::{ContentSum, Hash, ItemHead};
use crate::items_before::{ItemsBefore, StoredAt};
use crate::lock::WriterLock;
use crate::store::ItemStore;

/// A gallery into which items of others are being copied. None of them is visible before
/// [`GalleryMerge::finish`].
pub struct GalleryMerge {
    store: ItemStore,
    /// Finds the items that existed before.
    before: ItemsBefore,
    state: GalleryState,
    last_row: i64,
    // Declared after the store, so that the file is closed before another process can open it.
    _lock: WriterLock,
}

/// The items that were taken from one gallery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenItems {
    /// Number of items whose id was new.
    pub inserted: usize,
    /// Number of items that replaced another item with the same id.
    pub replaced: usize,
    /// Number of items that already existed with identical content.
    pub unchanged: usize,
    sum: ContentSum,
}

impl TakenItems {
    /// Number of all these items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.inserted + self.replaced + self.unchanged
    }

    /// The digest that a gallery with only these items would have: 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        self.sum.to_string()
    }
}

impl std::fmt::Debug for GalleryMerge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GalleryMerge")
            .field("items", &self.state.items)
            .finish_non_exhaustive()
    }
}

impl GalleryMerge {
    /// Starts with an empty gallery in a new file. If the merge is not finished, an incomplete file is left,
    /// and the caller has to remove its folder.
    ///
    /// # Errors
    /// Returns the errors of [`Gallery::create`].
    pub fn create(
        path: &Path,
        dimension: usize,
        model_fingerprint: &str,
        gallery_id: &str,
    ) -> Result<Self, GalleryError> {
        let made = Gallery::create(path, dimension, model_fingerprint, gallery_id)?;
        drop(made);
        Self::open(path, true)
    }

    /// The same, with the model and dimension of another gallery.
    ///
    /// # Errors
    /// Returns the errors of [`Gallery::create`], and an error if `other` is not a gallery.
    pub fn create_like(other: &Path, path: &Path, gallery_id: &str) -> Result<Self, GalleryError> {
        let like = ItemStore::open(other, false)?;
        let about = like.about();
        Self::create(path, about.dimension, &about.model_fingerprint, gallery_id)
    }

    /// Starts with an existing gallery, which is verified. It stays unchanged until the merge is finished, even
    /// if the process crashes.
    ///
    /// # Errors
    /// Returns an error if there is no gallery, if it is damaged, or if it is open for writing.
    pub fn into_existing(path: &Path) -> Result<Self, GalleryError> {
        Self::open(path, false)
    }

    fn open(path: &Path, is_new: bool) -> Result<Self, GalleryError> {
        let path = path
            .canonicalize()
            .map_err(|source| GalleryError::not_found(path, source))?;
        let lock = WriterLock::take(&path)?;
        let mut store = ItemStore::open(&path, true)?;
        let (before, last_row, mut state) = read_before(&mut store)?;
        state.generation += 1;
        store.begin(is_new)?;
        Ok(Self {
            store,
            before,
            state,
            last_row,
            _lock: lock,
        })
    }

    /// Stores the images of items that have one.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn keep_images(&mut self) -> Result<(), GalleryError> {
        self.store.keep_images()
    }

    /// Number of components of every embedding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.store.about().dimension
    }

    /// The id of the gallery that is copied into.
    #[must_use]
    pub fn gallery_id(&self) -> &str {
        &self.store.about().id
    }

    /// Takes items of another gallery, in order of id, with their images if both store images. `choose` decides
    /// for each whether it is taken, or whether to stop. Each row is compared with its checksum, and each image
    /// with the hash in its item. Galleries that are taken one after the other must have no id in common; items
    /// that existed before the merge are replaced.
    ///
    /// # Errors
    /// Returns an error if the other gallery is damaged or has another model or dimension, or if the disk
    /// fails.
    pub fn take(
        &mut self,
        source: &Path,
        choose: &mut dyn FnMut(&ItemHead) -> ControlFlow<(), bool>,
    ) -> Result<TakenItems, GalleryError> {
        let from = ItemStore::open(source, false)?;
        let damaged = |what: String| GalleryError::Damaged {
            path: source.to_path_buf(),
            what,
        };
        let (theirs, ours) = (from.about(), self.store.about());
        if theirs.dimension != ours.dimension || theirs.model_fingerprint != ours.model_fingerprint
        {
            return Err(damaged(
                "its items are of another model or dimension".to_owned(),
            ));
        }
        let sql_error = |error| GalleryError::from_sqlite(source, "read", error);
        let connection = &from.connection;
        // Ids are sorted in memory, because a folder for temporary files may be small, and its errors would be
        // reported for the gallery.
        connection
            .pragma_update(None, "temp_store", "MEMORY")
            .map_err(sql_error)?;
        // Everything is read as of one moment, even if another process writes.
        let _moment = connection.unchecked_transaction().map_err(sql_error)?;
        let mut in_order = connection
            .prepare("SELECT number FROM items ORDER BY id")
            .map_err(sql_error)?;
        let numbers: Vec<i64> = in_order
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .map_err(sql_error)?;
        let query = "SELECT number, id, label, metadata, source_sha256, embedding, checksum FROM items WHERE number = ?";
        let mut one = connection.prepare(query).map_err(sql_error)?;
        let mut taken = TakenItems::default();
        let mut last_id = String::new();
        for number in numbers {
            let mut rows = one.query([number]).map_err(sql_error)?;
            let Some(row) = rows.next().map_err(sql_error)? else {
                return Err(damaged(format!("row {number} of its items is gone")));
            };
            let (head, _, checksum) = read_row(row, theirs.dimension)
                .map_err(|bad| damaged(format!("row {number} of its items: {bad}")))?;
            if head.id <= last_id {
                return Err(damaged(format!("row {number} of its items repeats an id")));
            }
            match choose(&head) {
                ControlFlow::Break(()) => break,
                ControlFlow::Continue(false) => {}
                ControlFlow::Continue(true) => {
                    let image = image_of(&from, source, number, &head)?;
                    let before = self.before.find(&self.store.source(), &head.id)?;
                    self.put(row, before.as_ref(), &checksum, image.as_deref())?;
                    self.count(before.as_ref(), &checksum, &mut taken)?;
                }
            }
            last_id = head.id;
        }
        Ok(taken)
    }

    fn put(
        &self,
        row: &Row<'_>,
        before: Option<&StoredAt>,
        checksum: &Hash,
        image: Option<&[u8]>,
    ) -> Result<(), GalleryError> {
        let number = before.map_or(self.last_row.saturating_add(1), |at| at.number);
        let unchanged = before.is_some_and(|at| at.checksum == *checksum);
        let put = || -> Result<(), rusqlite::Error> {
            if !unchanged {
                let cell = |column| row.get_ref(column).map(ToSqlOutput::Borrowed);
                let values = params![
                    number,
                    cell(1)?,
                    cell(2)?,
                    cell(3)?,
                    cell(4)?,
                    cell(5)?,
                    cell(6)?
                ];
                let sql = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?)";
                self.store.connection.prepare_cached(sql)?.execute(values)?;
            }
            match image {
                _ if !self.store.keeps_images() => {}
                None if unchanged => {}
                None => {
                    let sql = "DELETE FROM images WHERE number = ?";
                    self.store
                        .connection
                        .prepare_cached(sql)?
                        .execute([number])?;
                }
                Some(image) => {
                    let sql = "INSERT OR REPLACE INTO images VALUES (?, ?)";
                    let mut statement = self.store.connection.prepare_cached(sql)?;
                    statement.execute(params![number, image])?;
                }
            }
            Ok(())
        };
        put().map_err(|error| self.store.write_error(error))
    }

    fn count(
        &mut self,
        before: Option<&StoredAt>,
        checksum: &Hash,
        taken: &mut TakenItems,
    ) -> Result<(), GalleryError> {
        taken.sum.add(checksum);
        match before {
            Some(at) if at.checksum == *checksum => {
                taken.unchanged += 1;
                return Ok(());
            }
            Some(at) => {
                self.state.digest.subtract(&at.checksum);
                taken.replaced += 1;
            }
            None => {
                let next = self.last_row.checked_add(1);
                self.last_row = next.ok_or_else(|| self.store.out_of_rows())?;
                self.state.items += 1;
                taken.inserted += 1;
            }
        }
        self.state.digest.add(checksum);
        Ok(())
    }

    /// Number and digest of the items so far.
    #[must_use]
    pub fn so_far(&self) -> MergedGallery {
        MergedGallery {
            items: self.state.items,
            digest: self.state.digest.to_string(),
        }
    }

    /// Commits the merge; returns the content of the gallery after it.
    ///
    /// # Errors
    /// Returns an error if the disk fails; nothing was merged then.
    pub fn finish(mut self) -> Result<MergedGallery, GalleryError> {
        self.store.commit(self.state)?;
        Ok(self.so_far())
    }
}

/// The content of a gallery after a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedGallery {
    /// Number of its items.
    pub items: usize,
    /// The digest of its items: 64 hexadecimal digits.
    pub digest: String,
}

impl MergedGallery {
    /// The content of a gallery if its recorded digest is this one, in which case all of it is verified; `None`
    /// otherwise. It can run while another process writes.
    ///
    /// # Errors
    /// Returns an error if there is no gallery or it is damaged.
    pub fn with_digest(path: &Path, digest: &str) -> Result<Option<Self>, GalleryError> {
        let mut store = ItemStore::open(path, false)?;
        if store.state().digest.to_string() != digest {
            return Ok(None);
        }
        let state = store.load(|_| (), |_| ())?;
        let digest_now = state.digest.to_string();
        Ok((digest_now == digest).then_some(Self {
            items: state.items,
            digest: digest_now,
        }))
    }
}

/// Verifies the existing items. Returns their locations, the last row, and the state.
fn read_before(store: &mut ItemStore) -> Result<(ItemsBefore, i64, GalleryState), GalleryError> {
    let (before, mut rows, mut last_row) = (ItemsBefore::default(), Vec::new(), 0);
    let state = store.load(
        |row| before.hash(&row.head.id),
        |row| {
            last_row = last_row.max(row.number);
            rows.push((row.found, row.number));
        },
    )?;
    let before = before.with(rows);
    if let Some(number) = before.repeated(&store.source())? {
        return Err(store.repeated(number));
    }
    Ok((before, last_row, state))
}

/// The digest of several galleries together that have no item in common, computed from their digests; `None` if
/// one of these is not a digest.
#[must_use]
pub fn digest_together(digests: &[&str]) -> Option<String> {
    let mut sum = ContentSum::default();
    for digest in digests {
        sum.add(&ContentSum::parse(digest)?.to_bytes());
    }
    Some(sum.to_string())
}

/// The image of an item of another gallery, after comparing it with the item's hash.
fn image_of(
    from: &ItemStore,
    path: &Path,
    number: i64,
    head: &ItemHead,
) -> Result<Option<Vec<u8>>, GalleryError> {
    if !from.keeps_images() {
        return Ok(None);
    }
    let sql = "SELECT bytes FROM images WHERE number = ?";
    let image: Option<Vec<u8>> = from
        .connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([number], |row| row.get(0)).optional())
        .map_err(|error| GalleryError::from_sqlite(path, "read", error))?;
    if let Some(image) = &image {
        check(path, &head.id, head.source_sha256.as_ref(), image)?;
    }
    Ok(image)
}
