//! `matchpoint switch --servers`: switches several servers; none serves the new deployment before all have
//! prepared it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::{items, short};
use crate::cli::served_info::served_info;
use crate::cli::server_address::ServerAddress;
use matchpoint_client::proto::{DeploymentInfo, ReloadDeploymentRequest, ReloadStep};
use matchpoint_client::{Client, ClientError};

/// The reason if another state is served than the expected one.
pub(crate) const STATE_MISMATCH: &str = "STATE_MISMATCH";

/// Servers that are switched together.
pub(crate) struct Fleet {
    deployment: String,
    servers: Vec<FleetServer>,
}

struct FleetServer {
    address: String,
    client: Client,
    /// The state that it has to serve until the replacement; empty if none has to.
    expected: String,
    /// Whether its items cannot change.
    read_only: bool,
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

/// Which of the servers are called.
#[derive(Clone, Copy, Debug)]
enum Whose {
    All,
    /// Those whose items can change.
    Writable,
    ReadOnly,
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
                expected: String::new(),
                read_only: false,
            });
        }
        Ok(Self {
            deployment: deployment.to_owned(),
            servers,
        })
    }

    /// Asks what each of them serves, and which of its states has to be served until the replacement.
    pub(crate) async fn look(
        &mut self,
        expected: impl Fn(DeploymentInfo) -> String,
    ) -> anyhow::Result<()> {
        for server in &mut self.servers {
            let info = served_info(&server.client, &self.deployment).await;
            let info = info.with_context(|| server.address.clone())?;
            server.read_only = info.read_only;
            server.expected = expected(info);
        }
        Ok(())
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
        let mut states = BTreeMap::new();
        let mut refused = None;
        for answer in self.at(Whose::All, &request).await {
            match answer.said {
                Ok([_, prepared]) => {
                    drop(states.insert(prepared.state, self.address(answer.number)));
                }
                Err(error) => {
                    let address = self.address(answer.number);
                    refused = refused.or(Some(anyhow::Error::from(error).context(address)));
                }
            }
        }
        let error = match (refused, states.len()) {
            (None, 1) => return Ok(states.pop_first().unwrap_or_default().0),
            (Some(refused), _) => refused,
            (None, _) => {
                let states = states
                    .iter()
                    .map(|(state, address)| format!("{state} at {address}"));
                let states: Vec<String> = states.collect();
                let message = format!(
                    "the servers prepared different states ({}): their paths lead to different items or operating points",
                    states.join(", ")
                );
                fail(Exit::Mismatch, message)
            }
        };
        // A server that cannot be reached discards it by itself, after a while.
        self.discard().await;
        Err(error)
    }

    async fn discard(&self) {
        let discard = self.step(ReloadStep::Discard);
        drop(self.at(Whose::All, &discard).await);
    }

    /// Has all of them serve what they prepared; first those whose items can change. If what these serve has
    /// changed meanwhile, `None`: then all go on with what they serve, and have discarded the other.
    ///
    /// # Errors
    /// Some do not; the error names them.
    pub(crate) async fn serve(&self, state: &str) -> anyhow::Result<Option<FleetSwitched>> {
        let request = ReloadDeploymentRequest {
            prepared_state: state.to_owned(),
            ..self.step(ReloadStep::ServePrepared)
        };
        let mut answers = self.at(Whose::Writable, &request).await;
        let is_changed = |answer: &StepAnswer| {
            let reason = answer.said.as_ref().err().and_then(ClientError::reason);
            reason == Some(STATE_MISMATCH)
        };
        if !answers.is_empty() && answers.iter().all(is_changed) {
            self.discard().await;
            return Ok(None);
        }
        answers.extend(self.at(Whose::ReadOnly, &request).await);
        answers.sort_by_key(|answer| answer.number);
        let (mut servers, mut failed) = (Vec::new(), Vec::new());
        let mut times = Vec::new();
        for StepAnswer { number, said, at } in answers {
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
        Ok(Some(FleetSwitched {
            state: state.to_owned(),
            seconds_of_two_states: between.unwrap_or_default().as_secs_f64(),
            servers,
        }))
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

    /// Calls these at once; the answers are in their order.
    async fn at(&self, whose: Whose, request: &ReloadDeploymentRequest) -> Vec<StepAnswer> {
        let mut asked = JoinSet::new();
        for (number, server) in self.servers.iter().enumerate() {
            let is_meant = match whose {
                Whose::All => true,
                Whose::Writable => !server.read_only,
                Whose::ReadOnly => server.read_only,
            };
            if !is_meant {
                continue;
            }
            let client = server.client.clone();
            let mut request = request.clone();
            if request.step() == ReloadStep::ServePrepared {
                request.expect_state.clone_from(&server.expected);
            }
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
                "  {}: {}, {} {} ({}), {point}\n",
                one.server,
                items(one.now.gallery_items),
                one.now.model_name,
                one.now.precision,
                short(&one.now.model_fingerprint)
            )
        };
        let lines: String = self.servers.iter().map(line).collect();
        let count = self.servers.len();
        let serve = if count == 1 {
            "server serves"
        } else {
            "servers serve"
        };
        format!(
            "{count} {serve} state {}; two states answered for {:.3} s\n{lines}",
            self.state, self.seconds_of_two_states
        )
    }
}
