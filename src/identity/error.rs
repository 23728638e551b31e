//! Why callers cannot be identified.

use std::path::PathBuf;

/// Why a file of keys or certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A change of the file of keys is not possible.
    #[error("{problem}")]
    Argument {
        /// What is wrong.
        problem: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The thread that checks the files cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
