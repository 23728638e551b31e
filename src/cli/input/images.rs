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
    let next = AtomicUsize::new(0);
    let progress = Mutex::new(ItemProgress::new("embedding", files.len()));
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

fn embed(file: &Path, loaded: &LoadedModel, limits: ImageLimits) -> Result<Embedded, String> {
    let bytes = if is_standard(file) {
        read_image_at(file).map_err(|cause| cause.to_string())?
    } else {
        read_image(file, &limits).map_err(|error| {
            // Its path is shown anyway.
            if let DeploymentError::Io { cause, .. } = error {
                cause
            } else {
                error.to_string()
            }
        })?
    };
    let job = move |worker: &mut PoolWorker<'_>| worker.embed(&bytes, &limits);
    let embedded = loaded
        .pool
        .run_blocking(Caller::default(), JobKind::Image, job);
    embedded
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
