//! The part of the demo in which a server decides on queries.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::asked::{AskedQueries, DecisionCounts, DemoRates, ShownKinds};
use super::{NAME, Story};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSources, Purpose};
use crate::cli::search;
use crate::cli::serve::stop_signal;
use crate::config::{AccessConfig, ProcessEnvironment, ServerConfig, ServerFlags};
use crate::server;
use crate::telemetry;
use matchpoint_client::Client;
use matchpoint_client::proto::SearchRequest;
use matchpoint_client::proto::search_request::Query;

pub(super) struct ServedStory {
    pub(super) ready_seconds: f64,
    pub(super) counts: DecisionCounts,
    pub(super) rates: DemoRates,
    pub(super) metrics: Vec<String>,
}

impl Story<'_> {
    pub(super) async fn serve(&self) -> anyhow::Result<ServedStory> {
        let config = self.server_config()?;
        let metrics_at = self.start_metrics()?;
        let started = Instant::now();
        let listeners = server::Listeners::open(&config)?;
        let address = listeners.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (loading, serving) = (config.clone(), config.clone());
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server::serve(listeners, &serving, move || server::load(&loading), stopped).await
        });
        self.say(&format!(
            "3. Serve.\n   $ matchpoint serve --deployments {} --listen {address}\n",
            self.demo.deployment.display()
        ));
        let client = Client::connect(&address.to_string()).await?;
        client.wait_until_ready().await?;
        let ready_seconds = started.elapsed().as_secs_f64();
        self.say(&format!("  ready after {ready_seconds:.2} s\n"));

        let asked = self.ask_all(&client).await?;
        let metrics = read_metrics(metrics_at).await?;
        self.say(&format!(
            "5. Watch. http://{metrics_at}/metrics counts it for Prometheus:\n"
        ));
        for line in &metrics {
            self.say(&format!("  {line}"));
        }
        if self.demo.serve {
            self.keep_serving(address, metrics_at).await?;
        }
        stop.send(()).unwrap_or_default();
        server.await??;
        Ok(ServedStory {
            ready_seconds,
            counts: asked.counts,
            rates: asked.measure()?,
            metrics,
        })
    }

    pub(super) fn server_config(&self) -> anyhow::Result<ServerConfig> {
        // Only on this machine, whatever a container's environment sets.
        let port = if self.demo.serve { 50_051 } else { 0 };
        let usual = SocketAddr::from(([127, 0, 0, 1], port));
        let listen = self.demo.listen.unwrap_or(usual);
        let flags = ServerFlags::default().listening_on(listen);
        let mut config = flags.resolve_for(&ProcessEnvironment, &self.demo.deployment)?;
        config.engine = self.engine.clone();
        // The sample is not secret, and the demo uses no key.
        if config.access.tls.is_some() || config.access.asks() {
            if !listen.ip().is_loopback() {
                let problem = "the demo asks nobody who they are; let it listen on 127.0.0.1, or unset MATCHPOINT_KEYS_FILE and MATCHPOINT_TLS_*";
                return Err(fail(Exit::Usage, problem));
            }
            config.access = AccessConfig::default();
        }
        Ok(config)
    }

    /// Port 0 is resolved here, since the endpoint does not report its port.
    pub(super) fn start_metrics(&self) -> anyhow::Result<SocketAddr> {
        let port = if self.demo.serve { 9464 } else { 0 };
        let wanted = self
            .demo
            .metrics_listen
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
        let address = std::net::TcpListener::bind(wanted)
            .and_then(|probe| probe.local_addr())
            .map_err(|cause| {
                fail(
                    Exit::Unavailable,
                    format!("the metrics cannot listen on {wanted}: {cause}"),
                )
            })?;
        tokio::spawn(telemetry::install_metrics(address)?);
        Ok(address)
    }

    async fn ask_all(&self, client: &Client) -> anyhow::Result<AskedQueries> {
        self.say(
            "4. Decide. Photographs whose labels had no part in the calibration, sent over gRPC:\n",
        );
        let sources = ImageSources::read(&self.examples.join("evaluate.csv"), Purpose::Search)?;
        let gallery = ImageSources::read(&self.examples.join("gallery.csv"), Purpose::Enrol)?;
        let request = |image: Vec<u8>| SearchRequest {
            deployment: NAME.to_owned(),
            query: Some(Query::Image(image.into())),
            limit: 1,
            ..SearchRequest::default()
        };
        let mut asked = AskedQueries::default();
        let mut shown = ShownKinds::default();
        for source in sources.items {
            let known = gallery.items.iter().any(|item| item.label == source.label);
            let image = std::fs::read(&source.path)?;
            match client.search(request(image), None).await {
                Ok(found) => {
                    let kind = asked.count(&source, known, &found);
                    if shown.wants(kind) {
                        let told = if known { "enrolled" } else { "never enrolled" };
                        self.say(&format!(
                            "  {} ({told}): {kind}\n{}",
                            source.id,
                            search::describe(&found)
                        ));
                    }
                }
                Err(error) => {
                    asked.counts.failed += 1;
                    self.say(&format!("  {} failed: {error}", source.id));
                }
            }
        }
        self.say(&asked.text()?);
        Ok(asked)
    }

    async fn keep_serving(&self, address: SocketAddr, metrics: SocketAddr) -> anyhow::Result<()> {
        let sample = self.examples.join("images");
        let first = std::fs::read_dir(&sample)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .min();
        let image = first.unwrap_or(sample).join("q1_rotpersp.jpg");
        self.say(&format!(
            "\nServing on {address} until Ctrl-C. In another terminal:\n  matchpoint search --server http://{address} {}\n  curl http://{metrics}/metrics",
            image.display()
        ));
        stop_signal()?.await;
        Ok(())
    }
}

/// The series that a person would look at first.
async fn read_metrics(address: SocketAddr) -> anyhow::Result<Vec<String>> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let telling = [
        "matchpoint_decisions_total",
        "matchpoint_gallery_items",
        "matchpoint_target_far_ratio",
        "matchpoint_threshold",
    ];
    let shown = |line: &&str| {
        telling.iter().any(|name| line.starts_with(name)) && !line.contains("\"none\"")
    };
    Ok(answer
        .lines()
        .filter(shown)
        .map(ToOwned::to_owned)
        .collect())
}
