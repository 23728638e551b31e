//! Checks that the process may open as many files as serving needs.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::error::ServeError;

/// Number of further files: listening sockets, a few connections, and files that are open briefly.
const SPARE: u64 = 16;

/// Called after everything is loaded, because files that are open by then stay open. If the system does not
/// list open files, as on other systems than Linux, nothing is checked.
pub(super) fn check() -> Result<(), ServeError> {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return Ok(());
    };
    let is_kept = |target: &std::path::Path| !target.to_string_lossy().starts_with("socket:");
    // Connections are not counted, because there may be many by now, and they end.
    let kept = open.filter_map(|one| fs::read_link(one.ok()?.path()).ok());
    let kept = kept.filter(|target| is_kept(target)).count() as u64;
    let wanted = kept + SPARE;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < wanted => Err(ServeError::Descriptors { limit, wanted }),
        Some(_) | None => Ok(()),
    }
}
