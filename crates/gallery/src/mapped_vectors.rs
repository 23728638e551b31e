//! The location of stored vectors: in memory, or in the mapped file of the index.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use matchpoint_vector::kernels::map::Map;

/// The stored embedding of an item, of unit length. It is cheap to clone.
#[derive(Clone)]
pub struct Vector(VectorStorage);

#[derive(Clone)]
enum VectorStorage {
    InMemory(Arc<[f32]>),
    Mapped(Arc<MappedVectors>, u32),
}

impl Vector {
    pub(super) fn in_memory(values: Arc<[f32]>) -> Self {
        Self(VectorStorage::InMemory(values))
    }

    pub(super) fn mapped(vectors: &Arc<MappedVectors>, row: u32) -> Self {
        Self(VectorStorage::Mapped(Arc::clone(vectors), row))
    }

    /// The values in memory; they are read from the mapped file if necessary.
    #[must_use]
    pub fn to_shared(&self) -> Arc<[f32]> {
        match &self.0 {
            VectorStorage::InMemory(values) => Arc::clone(values),
            VectorStorage::Mapped(vectors, row) => vectors.row(*row).into(),
        }
    }

    /// Whether it is read from the disk when it is used.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.0, VectorStorage::Mapped(..))
    }
}

impl Deref for Vector {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        match &self.0 {
            VectorStorage::InMemory(values) => values,
            VectorStorage::Mapped(vectors, row) => vectors.row(*row),
        }
    }
}

impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Rows of vectors in a mapped file.
pub(super) struct MappedVectors {
    map: Arc<Map>,
    /// The position of the first row, in bytes.
    from: usize,
    rows: u32,
    dimension: usize,
}

impl MappedVectors {
    /// `None` if the file is too short for these rows.
    pub(super) fn new(map: &Arc<Map>, from: usize, rows: u32, dimension: usize) -> Option<Self> {
        let count = usize::try_from(rows).ok()?.checked_mul(dimension)?;
        map.floats(from, count)?;
        Some(Self {
            map: Arc::clone(map),
            from,
            rows,
            dimension,
        })
    }

    /// Advises the operating system that rows will be read in random order.
    pub(super) fn expect_any_order(&self) {
        self.map.expect_any_order();
    }

    /// All values, row after row.
    pub(super) fn all(&self) -> &[f32] {
        let count = self.rows as usize * self.dimension;
        self.map.floats(self.from, count).unwrap_or_default()
    }

    /// The values of a row; empty if the row does not exist.
    #[inline]
    pub(super) fn row(&self, row: u32) -> &[f32] {
        if self.rows <= row {
            return &[];
        }
        let before = row as usize * self.dimension * size_of::<f32>();
        self.map
            .floats(self.from + before, self.dimension)
            .unwrap_or_default()
    }
}
