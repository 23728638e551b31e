//! Several servers of one deployment, each of which records its own decisions.

use std::cmp::Reverse;

use anyhow::Context;

use crate::cli::exit::{Exit, fail};
use crate::cli::points::served_point::whole_id;
use crate::cli::served_info::served_info;
use crate::cli::server_address::ServerAddress;
use matchpoint_client::proto::{
    Annotation, AnnotationOutcome, GetDecisionResponse, RecordedDecision,
};
use matchpoint_client::{Client, ClientError, Fault};

/// Annotations sent in one call.
const BATCH: usize = 10_000;
/// Characters of the whole id of a decision.
const DECISION_ID_LENGTH: usize = 36;
/// How many decisions are searched for the beginning of an id.
const LOOKED_THROUGH_MAX: u32 = 100_000;

/// The servers, if there are several.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplicaFlags {
    /// Several servers of the deployment, with commas between them: each is asked for the decisions that it recorded
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    servers: Vec<String>,
}

/// A server, and the journal with its decisions.
struct RecordingServer {
    client: Client,
    /// Its name, as the last digits of ids show it; empty if it was not requested.
    journal: String,
}

/// Servers of one deployment.
pub(crate) struct Replicas {
    deployment: String,
    servers: Vec<RecordingServer>,
}

impl Replicas {
    /// Connects to all of them, or to the one of `server` if no more are named.
    pub(crate) async fn connect(
        flags: &ReplicaFlags,
        server: &ServerAddress,
        deployment: &str,
    ) -> anyhow::Result<Self> {
        let mut servers = Vec::with_capacity(flags.servers.len().max(1));
        for address in &flags.servers {
            let client = server.of_another(address).connect().await?;
            let served = served_info(&client, deployment)
                .await
                .with_context(|| format!("at {address}"))?;
            servers.push(RecordingServer {
                client,
                journal: served.journal,
            });
        }
        if servers.is_empty() {
            servers.push(RecordingServer {
                client: server.connect().await?,
                journal: String::new(),
            });
        }
        Ok(Self {
            deployment: deployment.to_owned(),
            servers,
        })
    }

    /// The queue of annotations at all of them, newest first.
    pub(crate) async fn audit_queue(
        &self,
        stratum: Option<u32>,
        limit: u32,
    ) -> anyhow::Result<Vec<RecordedDecision>> {
        let mut waiting = Vec::new();
        for RecordingServer { client, .. } in &self.servers {
            let of_one = client.audit_queue(&self.deployment, stratum, limit);
            waiting.extend(of_one.await?);
        }
        // Ids are in the order of time.
        waiting.sort_by(|a, b| Reverse(&a.decision_id).cmp(&Reverse(&b.decision_id)));
        waiting.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(waiting)
    }

    /// The whole id for the beginning of one, among decisions in the queue.
    pub(crate) async fn whole_id(&self, begins: &str) -> anyhow::Result<String> {
        if DECISION_ID_LENGTH <= begins.len() {
            return Ok(begins.to_owned());
        }
        let waiting = self.audit_queue(None, LOOKED_THROUGH_MAX).await?;
        whole_id(begins, waiting.iter().map(|one| one.decision_id.as_str()))
    }

    /// A decision, from the server that recorded it.
    pub(crate) async fn decision(
        &self,
        id: &str,
        with_image: bool,
    ) -> anyhow::Result<GetDecisionResponse> {
        let mut missing = None;
        for number in self.recorder_first(id) {
            let Some(RecordingServer { client, .. }) = self.servers.get(number) else {
                continue;
            };
            match client.decision(&self.deployment, id, with_image).await {
                Ok(found) => return Ok(found),
                Err(
                    absent @ ClientError::Refused {
                        fault: Fault::Missing,
                        ..
                    },
                ) => missing = missing.or(Some(absent)),
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!("no server has decision {id}");
        Err(missing.map_or_else(|| fail(Exit::NoInput, message), Into::into))
    }

    /// Sends annotations to the servers that recorded the decisions. The answers are in the order of the
    /// annotations.
    pub(crate) async fn annotate(
        &self,
        annotations: &[Annotation],
    ) -> anyhow::Result<Vec<Result<AnnotationOutcome, String>>> {
        let mut outcomes: Vec<Result<AnnotationOutcome, String>> =
            vec![Err("no server was asked".to_owned()); annotations.len()];
        for (number, RecordingServer { client, .. }) in self.servers.iter().enumerate() {
            let is_its = |one: &&mut (&Annotation, &mut Result<AnnotationOutcome, String>)| {
                self.recorder_first(&one.0.decision_id).next() == Some(number)
            };
            let mut all: Vec<_> = annotations.iter().zip(&mut outcomes).collect();
            let mut its: Vec<_> = all.iter_mut().filter(is_its).collect();
            for batch in its.chunks_mut(BATCH) {
                let sent = batch.iter().map(|(annotation, _)| (*annotation).clone());
                let results = client.annotate(&self.deployment, sent.collect()).await?;
                for ((_, outcome), result) in batch.iter_mut().zip(results) {
                    **outcome = result;
                }
            }
        }
        Ok(outcomes)
    }

    /// The servers by number; first the one that the id of a decision names.
    fn recorder_first(&self, id: &str) -> impl Iterator<Item = usize> {
        let names = |one: &RecordingServer| !one.journal.is_empty() && id.ends_with(&one.journal);
        let recorder = self.servers.iter().position(names).unwrap_or(0);
        std::iter::once(recorder).chain((0..self.servers.len()).filter(move |one| *one != recorder))
    }
}
