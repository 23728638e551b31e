//! `matchpoint switch --servers`: switches several servers; none serves the new deployment before all have
//! prepared it.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::short;
use crate::cli::server_address::ServerAddress;
use matchpoint_client::proto::{DeploymentInfo, ReloadDeploymentRequest, ReloadStep};
use matchpoint_client::{Client, ClientError};

/// Servers that are switched together.
pub(crate) struct Fleet {
    deployment: String,
    servers: Vec<FleetServer>,
}

struct FleetServer {
    address: String,
    client: Client,
}

/// What all of them serve from now on.
#[derive(Serialize)]
pub(crate) struct FleetSwitched {
    state: String,
    /// Time from the first server's answer to the last one's, in seconds: while it lasted, two states
    /// answered.
    seconds_of_two_states: f64,
    servers: Vec<SwitchedServer>,
}

#[derive(Serialize)]
struct SwitchedServer {
    server: String,
    before: DeploymentInfo,
    now: DeploymentInfo,
}

/// The answer of a server, and when it came.
struct StepAnswer {
    number: usize,
    said: Result<[DeploymentInfo; 2], ClientError>,
    at: Instant,
}

impl Fleet {
    /// Connects to all of them.
    pub(crate) async fn connect(
        addresses: &[String],
        server: &ServerAddress,
        deployment: &str,
    ) -> anyhow::Result<Self> {
        let mut servers = Vec::with_capacity(addresses.len());
        for address in addresses {
            servers.push(FleetServer {
                address: address.clone(),
                client: server.of_another(address).connect().await?,
            });
        }
        Ok(Self {
            deployment: deployment.to_owned(),
            servers,
        })
    }

    /// Has all of them open and verify what the path of the deployment leads to; returns the common state.
    ///
    /// # Errors
    /// One cannot, or their states differ: then all of them discard it.
    pub(crate) async fn prepare(&self, allow_undecided: bool) -> anyhow::Result<String> {
        let request = ReloadDeploymentRequest {
            allow_undecided,
            ..self.step(ReloadStep::Prepare)
        };
        let mut states = BTreeSet::new();
        let mut refused = None;
        for answer in self.at_all(&request).await {
            match answer.said {
                Ok([_, prepared]) => drop(states.insert(prepared.state)),
                Err(error) => {
                    let address = self.address(answer.number);
                    refused = refused.or(Some(anyhow::Error::from(error).context(address)));
                }
            }
        }
        let error = match (refused, states.len()) {
            (None, 1) => return Ok(states.pop_first().unwrap_or_default()),
            (Some(refused), _) => refused,
            (None, _) => {
                let states: Vec<String> = states.into_iter().collect();
                let message = format!(
                    "the servers prepared different states ({}): their paths lead to different items or operating points",
                    states.join(", ")
                );
                fail(Exit::Mismatch, message)
            }
        };
        // A server that cannot be reached discards it by itself, after a while.
        drop(self.at_all(&self.step(ReloadStep::Discard)).await);
        Err(error)
    }

    /// Has all of them serve what they prepared.
    ///
    /// # Errors
    /// Some do not; the error names them.
    pub(crate) async fn serve(&self, state: String) -> anyhow::Result<FleetSwitched> {
        let request = ReloadDeploymentRequest {
            prepared_state: state.clone(),
            ..self.step(ReloadStep::ServePrepared)
        };
        let (mut servers, mut failed) = (Vec::new(), Vec::new());
        let mut times = Vec::new();
        for StepAnswer { number, said, at } in self.at_all(&request).await {
            let server = self.address(number);
            match said {
                Ok([before, now]) => {
                    times.push(at);
                    servers.push(SwitchedServer {
                        server,
                        before,
                        now,
                    });
                }
                Err(error) => failed.push(format!("{server}: {error}")),
            }
        }
        if !failed.is_empty() {
            let message = format!(
                "not all were switched, so that two states answer ({}); the others serve state {state}: restart those that do not, and they open what their path leads to",
                failed.join("; ")
            );
            return Err(fail(Exit::SomeFailed, message));
        }
        let (first, last) = (times.iter().min(), times.iter().max());
        let between = first.zip(last).map(|(first, last)| *last - *first);
        Ok(FleetSwitched {
            state,
            seconds_of_two_states: between.unwrap_or_default().as_secs_f64(),
            servers,
        })
    }

    fn step(&self, step: ReloadStep) -> ReloadDeploymentRequest {
        ReloadDeploymentRequest {
            deployment: self.deployment.clone(),
            step: step.into(),
            ..ReloadDeploymentRequest::default()
        }
    }

    fn address(&self, number: usize) -> String {
        let server = self.servers.get(number);
        server.map_or_else(String::new, |server| server.address.clone())
    }

    /// Calls all of them at once; the answers are in their order.
    async fn at_all(&self, request: &ReloadDeploymentRequest) -> Vec<StepAnswer> {
        let mut asked = JoinSet::new();
        for (number, server) in self.servers.iter().enumerate() {
            let (client, request) = (server.client.clone(), request.clone());
            asked.spawn(async move {
                StepAnswer {
                    number,
                    said: client.reload_step(request).await,
                    at: Instant::now(),
                }
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|answer| answer.number);
        answers
    }
}

impl FleetSwitched {
    pub(crate) fn text(&self) -> String {
        let line = |one: &SwitchedServer| {
            let point = match one.now.operating_point_id.as_str() {
                "" => "no valid operating point: nothing is accepted",
                point => point,
            };
            format!(
                "  {}: {} items, {} {} ({}), {point}\n",
                one.server,
                one.now.gallery_items,
                one.now.model_name,
                one.now.precision,
                short(&one.now.model_fingerprint)
            )
        };
        let lines: String = self.servers.iter().map(line).collect();
        format!(
            "{} servers serve state {}; two states answered for {:.3} s\n{lines}",
            self.servers.len(),
            self.state,
            self.seconds_of_two_states
        )
    }
}
