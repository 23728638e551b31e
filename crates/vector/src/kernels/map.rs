//! A memory-mapped file, whose pages are read from the disk when they are used, and may be dropped again.
//!
//! A mapped file must not be written in place. Files here are only ever replaced by renaming, which does not
//! affect a map of the old file. If another program truncates a mapped file, reading beyond its new end ends
//! the process.

use std::io;

use memmap2::{Advice, Mmap, MmapAsRawDesc};

/// Numbers are used as they are stored.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "files are mapped as little-endian numbers"
);

/// A whole file, for reading.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    /// Maps an open file with its present length.
    ///
    /// # Errors
    /// Returns an error if the system refuses.
    pub fn of(file: impl MmapAsRawDesc) -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "nothing here writes to a file that may be mapped: they are replaced by renaming"
        )]
        let map = unsafe { Mmap::map(file) }?;
        Ok(Self(map))
    }

    /// Advises the system that reads will be in random order, so that it does not read ahead.
    pub fn expect_any_order(&self) {
        // A hint: without it, reading is only slower.
        drop(self.0.advise(Advice::Random));
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `count` numbers that start at byte `from`, a multiple of 4; `None` if the file is too short.
    #[inline]
    #[must_use]
    pub fn floats(&self, from: usize, count: usize) -> Option<&[f32]> {
        let end = count.checked_mul(size_of::<f32>())?.checked_add(from)?;
        let bytes = self.0.get(from..end)?;
        #[expect(unsafe_code, reason = "any four bytes are a number")]
        let (before, numbers, after) = unsafe { bytes.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn numbers_are_read_where_they_are_and_nowhere_else() {
        let mut file = tempfile::tempfile().unwrap();
        for number in [1.5_f32, -2.0, 0.25] {
            file.write_all(&number.to_le_bytes()).unwrap();
        }
        let map = Map::of(&file).unwrap();
        map.expect_any_order();
        assert_eq!(map.bytes().len(), 12);
        assert_eq!(map.floats(0, 3).unwrap(), [1.5, -2.0, 0.25]);
        assert_eq!(map.floats(4, 1).unwrap(), [-2.0]);
        assert!(map.floats(12, 0).is_some_and(<[f32]>::is_empty));
        for (from, count) in [
            (0, 4),
            (4, 3),
            (2, 1),
            (16, 0),
            (4, usize::MAX),
            (usize::MAX, 1),
        ] {
            assert_eq!(map.floats(from, count), None, "{count} at {from}");
        }
        let empty = Map::of(&tempfile::tempfile().unwrap()).unwrap();
        assert!(empty.bytes().is_empty() && empty.floats(0, 1).is_none());
    }
}
