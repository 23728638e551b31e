//! Finds the items of a gallery by id while others are merged into it. It needs only 16 bytes for each item,
//! because the ids of ten million items would need a gigabyte.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use crate::error::GalleryError;
use crate::item::Hash;
use crate::rows::{ExaminedRow, RowSource};

/// The rows of a gallery by a hash of their ids. The ids themselves are read from the gallery, whose rows stay
/// in place during a merge.
#[derive(Default)]
pub(super) struct ItemsBefore {
    hashes: RandomState,
    /// The hash of an id, and the number of its row.
    rows: Vec<(u64, i64)>,
}

/// The location of a stored item, and its checksum.
pub(super) struct StoredAt {
    pub(super) number: i64,
    pub(super) checksum: Hash,
}

impl ItemsBefore {
    pub(super) fn hash(&self, id: &str) -> u64 {
        self.hashes.hash_one(id)
    }

    /// The same, with these rows and the hashes of their ids.
    pub(super) fn with(self, mut rows: Vec<(u64, i64)>) -> Self {
        rows.sort_unstable();
        Self { rows, ..self }
    }

    /// The number of the first row whose id an earlier row also has.
    pub(super) fn repeated(&self, source: &RowSource<'_>) -> Result<Option<i64>, GalleryError> {
        let mut first: Option<i64> = None;
        for same in self.rows.chunk_by(|(one, _), (other, _)| one == other) {
            let mut ids = BTreeSet::new();
            for (_, number) in same.iter().filter(|_| 1 < same.len()) {
                let row = id_at(source, *number)?;
                if row.is_some_and(|row| !ids.insert(row.found)) {
                    first = Some(first.map_or(*number, |first| first.min(*number)));
                    break;
                }
            }
        }
        Ok(first)
    }

    pub(super) fn find(
        &self,
        source: &RowSource<'_>,
        id: &str,
    ) -> Result<Option<StoredAt>, GalleryError> {
        let hash = self.hash(id);
        let first = self.rows.partition_point(|(other, _)| *other < hash);
        let from = self.rows.iter().skip(first);
        for (_, number) in from.take_while(|(other, _)| *other == hash) {
            // Different ids can have the same hash.
            let row = id_at(source, *number)?.filter(|row| row.found == id);
            if let Some(row) = row {
                return Ok(Some(StoredAt {
                    number: row.number,
                    checksum: row.checksum,
                }));
            }
        }
        Ok(None)
    }
}

fn id_at(source: &RowSource<'_>, number: i64) -> Result<Option<ExaminedRow<String>>, GalleryError> {
    let mut found = None;
    source.read(number..=number, &|row| row.head.id, |row| found = Some(row))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ItemStore;
    use crate::store::tests::{gallery, row};

    fn items(ids: &[&str]) -> (tempfile::TempDir, ItemStore) {
        let numbered = (1..).zip(ids);
        let rows: Vec<_> = numbered.map(|(at, id)| row(at, id, vec![1.0])).collect();
        let (folder, path) = gallery(&rows, rows.len());
        (folder, ItemStore::open(&path, false).unwrap())
    }

    #[test]
    fn ids_with_the_same_hash_are_told_apart() {
        let (_folder, store) = items(&["a", "b", "c"]);
        let before = ItemsBefore::default();
        let [b, x] = ["b", "x"].map(|id| before.hash(id));
        let before = before.with(vec![(b, 3), (b, 2), (b, 1), (x, 1)]);
        let found = |id| before.find(&store.source(), id).unwrap();
        assert_eq!(found("b").map(|at| at.number), Some(2));
        assert!(found("x").is_none() && found("a").is_none());
        assert_eq!(before.repeated(&store.source()).unwrap(), None);
    }

    #[test]
    fn the_first_row_that_repeats_an_id_is_named_by_a_merge_as_by_opening() {
        let ids = ["a", "a", "b", "b", "a"];
        let numbered = (1..).zip(ids);
        let rows: Vec<_> = numbered.map(|(at, id)| row(at, id, vec![1.0])).collect();
        let (_folder, path) = gallery(&rows, rows.len());
        let merged = crate::merge::GalleryMerge::into_existing(&path).unwrap_err();
        let params = crate::params::IndexParams::default();
        let opened = crate::Gallery::open(&path, crate::Access::ReadOnly, params).unwrap_err();
        assert!(
            merged
                .to_string()
                .contains("row 2 of its items repeats an id"),
            "{merged}"
        );
        assert_eq!(merged.to_string(), opened.to_string());
    }
}
