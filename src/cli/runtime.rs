//! The async runtime of commands.

/// A runtime for commands that await one batch: the work itself is on the model's own threads.
pub(super) fn single_threaded() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
