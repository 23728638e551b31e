//! The reasons why a server does not start, or ends.

use std::path::PathBuf;

use crate::deployment::DeploymentError;
use crate::identity::IdentityError;
use matchpoint_stores::StoreError;

/// The reasons why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address}: {cause}; is another server running? set listen to another address, or stop it"
    )]
    Listen {
        /// The address.
        address: String,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// Callers cannot be identified.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A deployment cannot be served.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// A snapshot to be served cannot be fetched.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two deployments have the same name.
    #[error("two deployments are named `{name}`; name one of them otherwise, as in NAME=DIR")]
    SameName {
        /// The name.
        name: String,
    },
    /// The folder of restored deployments cannot be read.
    #[error("cannot read {}: {cause}; set data_dir to a folder that the server may use", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// There would be too few file descriptors for connections.
    #[error(
        "the process may have {limit} files open, and takes at least {wanted} with a few connections, each of which takes one more; raise the limit (`ulimit -n 65536`, LimitNOFILE=65536 of systemd, --ulimit nofile=65536 of a container)"
    )]
    Descriptors {
        /// The number of files that the system allows.
        limit: u64,
        /// The number of files that the server and a few connections need.
        wanted: u64,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The loading thread is gone.
    #[error("loading ended without an outcome; the log has the cause")]
    LoadingPanicked,
    /// The task that accepts connections is gone.
    #[error("the server ended without an outcome; the log has the cause")]
    TransportPanicked,
    /// Reflection could not be set up from the compiled contract.
    #[error("the compiled contract cannot be reflected: {0}")]
    Reflection(String),
}
