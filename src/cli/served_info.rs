//! One of the deployments of a running server.

use super::exit::{Exit, fail};
use matchpoint_client::Client;
use matchpoint_client::proto::DeploymentInfo;

/// What a server says of a deployment; of the only one that it serves if `name` is empty.
pub(super) async fn served_info(client: &Client, name: &str) -> anyhow::Result<DeploymentInfo> {
    let served = client.server_info().await?.deployments;
    chosen(served, name)
}

fn chosen(served: Vec<DeploymentInfo>, name: &str) -> anyhow::Result<DeploymentInfo> {
    let names: Vec<String> = served.iter().map(|one| one.name.clone()).collect();
    let mut fitting = served
        .into_iter()
        .filter(|one| name.is_empty() || one.name == name);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let message = format!(
                "the server has several deployments, name one: {}",
                names.join(", ")
            );
            Err(fail(Exit::Usage, message))
        }
        (None, _) => {
            let message = format!(
                "the server has no deployment `{name}` that you may use, but: {}",
                names.join(", ")
            );
            Err(fail(Exit::NoInput, message))
        }
    }
}
