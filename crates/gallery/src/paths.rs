//! The paths of the files of a gallery, next to the file of its items.

use std::path::{Path, PathBuf};

/// `path` with something appended to the file name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The path of the file of the base segment.
pub(super) fn index_file(gallery: &Path) -> PathBuf {
    gallery.with_extension("graph")
}

/// The path where a base segment is written before it replaces the existing file.
pub(super) fn unfinished_index(index: &Path) -> PathBuf {
    index.with_extension("graph.tmp")
}
