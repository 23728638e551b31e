//! `matchpoint serve`: the server.

use std::future::Future;

use anyhow::Context;

use super::exit::Exit;
use crate::config::{ListenWhen, ProcessEnvironment, ServerConfig, ServerFlags};
use crate::server;
use crate::telemetry;

/// Serve deployments over gRPC
///
/// Settings come from flags, then MATCHPOINT_* variables, then the configuration file, then
/// defaults; `matchpoint config show` prints each with its source. The server answers health checks
/// at once, and requests when every deployment is loaded and verified. On SIGTERM or SIGINT it
/// finishes the requests under way, for at most `drain_seconds`, and ends with exit code 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint serve --deployments shop
  matchpoint serve --deployments shop,faces=/data/faces --listen 0.0.0.0:50051 \\
    --tls-certificate server.pem --tls-key server.key --keys-file keys.json
  matchpoint serve --deployments shop --console-listen 127.0.0.1:50080
  matchpoint serve --deployments shop --listen unix:/run/matchpoint/shop.sock
  MATCHPOINT_LOG_FORMAT=json matchpoint serve --config matchpoint.toml")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: ServerFlags,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = self.settings.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&config.engine.log, config.engine.log_json)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("grpc")
            .build()
            .context("cannot start the server's threads")?;
        let served = runtime.block_on(serve(config));
        // Ends remaining connections that only watched.
        runtime.shutdown_background();
        served
    }
}

async fn serve(config: ServerConfig) -> anyhow::Result<Exit> {
    if let Some(address) = config.metrics_listen {
        tokio::spawn(telemetry::install_metrics(address)?);
        tracing::info!(%address, path = "/metrics", "metrics");
    }
    let loading = config.clone();
    let load = move || server::load(&loading);
    match config.listen_when {
        ListenWhen::Start => {
            let listeners = server::Listeners::open(&config)?;
            server::announce(&listeners, &config)?;
            server::serve(listeners, &config, load, stop_signal()?).await?;
        }
        ListenWhen::Ready => {
            let bound = server::bind(&config.listen)?;
            tracing::info!(address = %config.listen, "connections are taken once everything is loaded");
            server::serve_when_ready(bound, &config, load, stop_signal()?).await?;
        }
    }
    Ok(Exit::Done)
}

/// Ends with the first SIGTERM or SIGINT.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
