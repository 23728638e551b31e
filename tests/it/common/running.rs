//! A server in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use matchpoint::config::{ServerConfig, ServerFlags};
use matchpoint::server::{self, Listeners, ServeError, ServedState};
use matchpoint_client::Client;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A server's configuration for one deployment, with some settings.
pub fn config(deployment: &Path, settings: &[(&str, &str)]) -> ServerConfig {
    let mut environment: BTreeMap<&str, &str> = settings.iter().copied().collect();
    environment.insert("MATCHPOINT_LISTEN", "127.0.0.1:0");
    let runtime = std::env::var("ORT_DYLIB_PATH").unwrap_or_default();
    if !runtime.is_empty() {
        environment.insert("ORT_DYLIB_PATH", runtime.leak());
    }
    ServerFlags::default()
        .resolve_for(&environment, deployment)
        .unwrap()
}

/// A server in this process, on a port of its own.
pub struct Running {
    pub channel: Channel,
    pub address: SocketAddr,
    /// Where the console is, if it was asked for.
    pub console: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    pub server: JoinHandle<Result<(), ServeError>>,
    /// What goes with it.
    pub folder: Option<TempDir>,
}

impl Running {
    /// Serves a deployment and waits until it is ready.
    pub async fn start(deployment: &Path, settings: &[(&str, &str)]) -> Self {
        let config = config(deployment, settings);
        let loading = config.clone();
        let mut running = Self::start_loading(config, move || server::load(&loading)).await;
        let client = Client::over(running.channel.clone());
        tokio::select! {
            ready = client.wait_until_ready() => ready.unwrap(),
            ended = &mut running.server => panic!("the server ended before it was ready: {ended:?}"),
        }
        running
    }

    /// Serves what `load` loads, and does not wait for it.
    #[expect(
        clippy::unused_async,
        reason = "listening takes a runtime, which an async caller has"
    )]
    pub async fn start_loading(
        config: ServerConfig,
        load: impl FnOnce() -> Result<ServedState, ServeError> + Send + 'static,
    ) -> Self {
        let listeners = Listeners::open(&config).unwrap();
        let address = listeners.local_addr().unwrap();
        let pages = listeners.pages.as_ref();
        let console = pages.map(|pages| pages.local_addr().unwrap());
        let url = format!("http://{address}");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            server::serve(listeners, &config, load, stopped).await
        });
        let channel = Channel::from_shared(url).unwrap().connect_lazy();
        Self {
            channel,
            address,
            console,
            stop,
            server,
            folder: None,
        }
    }

    /// Asks the server to stop, without waiting for it.
    pub fn ask_to_stop(self) -> JoinHandle<Result<(), ServeError>> {
        self.stop.send(()).unwrap();
        self.server
    }

    pub async fn stop(self) {
        drop(self.channel);
        self.stop.send(()).unwrap();
        self.server.await.unwrap().unwrap();
    }
}
