//! Image files below folders, and embedding many of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::exit::{Exit, fail};
use super::progress::Progress;
use crate::deployment::LoadedModel;
use crate::model::embedder::Embedded;
use crate::model::pool::Kind;
use crate::pixels::Limits;

/// Folders within folders; deeper than this it is a loop of links.
const DEPTH_MAX: usize = 16;

/// Names that images go by, supported or not: what is not supported is refused by name.
const IMAGE_EXTENSIONS: [&str; 13] = [
    "jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl",
];

/// Each path that is a file, and the images below each that is a folder, sorted by path.
pub(super) fn listed(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut below = Vec::new();
            below_folder(path, DEPTH_MAX, &mut below)?;
            below.sort();
            files.extend(below);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn below_folder(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = |cause: std::io::Error| {
        let message = format!("cannot read {}: {cause}", folder.display());
        fail(Exit::NoInput, message)
    };
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        let known = |name: &&str| extension.is_some_and(|end| end.eq_ignore_ascii_case(name));
        if hidden {
            continue;
        } else if path.is_dir() {
            if 0 < depth && !path.is_symlink() {
                below_folder(&path, depth - 1, files)?;
            }
        } else if IMAGE_EXTENSIONS.iter().any(known) {
            files.push(path);
        }
    }
    Ok(())
}

/// The embedding of each file, in their order, or why it has none.
pub(super) fn embedded(
    files: &[PathBuf],
    loaded: &LoadedModel,
    limits: Limits,
) -> Vec<Result<Embedded, String>> {
    let next = AtomicUsize::new(0);
    let progress = Mutex::new(Progress::new("embedding", files.len()));
    let found = Mutex::new(vec![None; files.len()]);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(at) else {
                return;
            };
            let one = embed(file, loaded, limits);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = found.get_mut(at) {
                *slot = Some(one);
            }
            drop(found);
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.step();
        }
    };
    // As many hands as there are workers, each of whom waits for its own image.
    let hands = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..hands {
            scope.spawn(work);
        }
    });
    let progress = progress.into_inner();
    progress.unwrap_or_else(PoisonError::into_inner).finish();
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing = || Err("it was not looked at".to_owned());
    found
        .into_iter()
        .map(|one| one.unwrap_or_else(missing))
        .collect()
}

fn embed(file: &Path, loaded: &LoadedModel, limits: Limits) -> Result<Embedded, String> {
    let bytes = fs::read(file).map_err(|cause| format!("it cannot be read: {cause}"))?;
    let job =
        move |embedder: &mut crate::model::embedder::Embedder| embedder.embed(&bytes, &limits);
    let embedded = loaded.pool.run_blocking(Kind::Image, job);
    embedded
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
