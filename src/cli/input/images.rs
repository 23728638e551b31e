//! Image files below folders, and embedding many of them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::listing::images_below;
use crate::cli::output::progress::ItemProgress;
use crate::cli::standard_streams::{is_standard, read_image_at};
use crate::deployment::{DeploymentError, LoadedModel, read_image};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_embed::pixels::ImageLimits;

/// Each path that is a file, and the images below each folder, sorted by path.
pub(crate) fn listed(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(images_below(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// The embedding of each file, in their order, or why it has none.
pub(crate) fn embedded(
    files: &[PathBuf],
    loaded: &LoadedModel,
    limits: ImageLimits,
) -> Vec<Result<Embedded, String>> {
    let read = |at: usize| {
        files
            .get(at)
            .map_or(Ok(Vec::new()), |file| read(file, limits))
    };
    embedded_from(files.len(), &read, loaded, limits)
}

/// The embedding of each of so many images, which `read` reads by their numbers, or why it has none.
pub(crate) fn embedded_from(
    images: usize,
    read: &(dyn Fn(usize) -> Result<Vec<u8>, String> + Sync),
    loaded: &LoadedModel,
    limits: ImageLimits,
) -> Vec<Result<Embedded, String>> {
    let next = AtomicUsize::new(0);
    let progress = Mutex::new(ItemProgress::new("embedding", images));
    let found = Mutex::new(vec![None; images]);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if images <= at {
                return;
            }
            let one = read(at).and_then(|bytes| embed(bytes, loaded, limits));
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = found.get_mut(at) {
                *slot = Some(one);
            }
            drop(found);
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.step();
        }
    };
    // As many threads as workers, each of which waits for its own image.
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

/// The bytes of a file, or of standard input, or why there are none.
pub(crate) fn read(file: &Path, limits: ImageLimits) -> Result<Vec<u8>, String> {
    if is_standard(file) {
        read_image_at(file).map_err(|cause| cause.to_string())
    } else {
        read_image(file, &limits).map_err(|error| {
            // Its path is shown anyway.
            if let DeploymentError::Io { cause, .. } = error {
                cause
            } else {
                error.to_string()
            }
        })
    }
}

fn embed(bytes: Vec<u8>, loaded: &LoadedModel, limits: ImageLimits) -> Result<Embedded, String> {
    let job = move |worker: &mut PoolWorker<'_>| worker.embed(&bytes, &limits);
    let embedded = loaded
        .pool
        .run_blocking(Caller::default(), JobKind::Image, job);
    embedded
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
