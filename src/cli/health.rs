//! `matchpoint health`: is a server serving? For probes and scripts.

use std::time::Duration;

use serde::Serialize;

use super::exit::Exit;
use super::output::Output;
use super::server_address::ServerAddress;
use matchpoint_client::ClientError;

/// Say whether a server answers requests
///
/// Ends with 0 if it does, else with 69: for the health check of a container, and for scripts that
/// wait for a server. Asks grpc.health.v1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint health
  matchpoint health --server http://10.0.0.5:50051 --timeout 1
  matchpoint health --service liveness              # is the process alive, ready or not?
  until matchpoint health --quiet; do sleep 1; done")]
pub(super) struct Health {
    #[command(flatten)]
    server: ServerAddress,
    /// What to ask for: empty for whether requests are answered, `liveness` for whether the process
    /// is alive
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    service: String,
    /// How long the answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print nothing: the exit code is the answer
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ServerHealth {
    serving: bool,
    /// Why it is unknown whether it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Health {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let health = match super::runtime::single_threaded()?.block_on(self.ask()) {
            Ok(serving) => ServerHealth {
                serving,
                error: None,
            },
            Err(error) => match error.downcast_ref() {
                Some(
                    ClientError::Unreachable { .. }
                    | ClientError::Broken { .. }
                    | ClientError::Refused { .. },
                ) => ServerHealth {
                    serving: false,
                    error: Some(error.to_string()),
                },
                // A mistake in the arguments, whatever the server's state.
                Some(ClientError::Address { .. } | ClientError::Credentials { .. }) | None => {
                    return Err(error);
                }
            },
        };
        if !self.quiet {
            Output::new(self.json).result(&health, text)?;
        }
        Ok(if health.serving {
            Exit::Done
        } else {
            Exit::Unavailable
        })
    }

    async fn ask(&self) -> anyhow::Result<bool> {
        let client = self.server.connect().await?;
        let timeout = Duration::from_secs(self.timeout);
        Ok(client.is_serving(&self.service, timeout).await?)
    }
}

fn text(health: &ServerHealth) -> String {
    match &health.error {
        Some(error) => format!("not serving: {error}"),
        None if health.serving => "serving".to_owned(),
        None => "not serving: the server loads, ends, or is not fit to serve; `matchpoint status` and its log say why".to_owned(),
    }
}
