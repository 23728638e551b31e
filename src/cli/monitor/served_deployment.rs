//! Which server a command asks, and about which of its deployments.

use super::replicas::{ReplicaFlags, Replicas};
use crate::cli::server_address::ServerAddress;

/// A server, and one of its deployments.
#[derive(Debug, clap::Args)]
pub(crate) struct ServedDeploymentFlags {
    #[command(flatten)]
    pub(crate) server: ServerAddress,
    /// The deployment; may be left out if the server has one
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) deployment: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ServedDeploymentFlags {
    pub(super) async fn replicas(&self, flags: &ReplicaFlags) -> anyhow::Result<Replicas> {
        Replicas::connect(flags, &self.server, &self.deployment).await
    }
}
