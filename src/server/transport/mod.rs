//! Connections and their limits: how many, for how long, and how many bytes.

mod activity;
mod answer;
mod call;
mod connection;
mod inflated;
mod pages;
mod quota;
mod received;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::http::{Request, Response};
use tower::Service;

pub(super) use call::{Call, roomy};
pub(super) use quota::QuotaShare;

use super::connections::{ClientAddress, begin};
use super::listeners::{Carries, Listeners, NewConnection};
use super::log_throttle::LogThrottle;
use crate::config::ServerConfig;
use crate::console::Console;
use crate::identity::CallerAccess;
use crate::telemetry;
use connection::{Shared, streamed_paths};
use quota::Quota;

/// How long nothing is accepted after a failure, for example without free file descriptors, because other work
/// needs the time more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The service that answers calls, made once for each connection.
pub(super) trait Stack:
    Service<
        Request<tonic::body::Body>,
        Response = Response<tonic::body::Body>,
        Error: std::fmt::Display,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Stack for S where
    S: Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error: std::fmt::Display,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// The services that answer the connections.
#[derive(Clone)]
pub(super) struct Answering<S> {
    pub(super) stack: S,
    pub(super) pages: Option<Console>,
    pub(super) access: CallerAccess,
}

/// Answers on the listeners until `stop`, and ends after all calls have been answered.
pub(super) async fn serve<S: Stack>(
    listeners: Listeners,
    answering: Answering<S>,
    config: &ServerConfig,
    stop: impl Future<Output = ()>,
) {
    let (places, shared) = shared(config);
    let mut connections = JoinSet::new();
    let (close, closing) = watch::channel(false);
    let serving = Serving {
        answering,
        shared,
        closing,
    };
    let (mut refused, mut failed) = (LogThrottle::default(), LogThrottle::default());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listeners.accept() => match accepted {
                Ok(accepted) => match places.take(ClientAddress::of(accepted.address), 1) {
                    Ok(place) => {
                        let serving = serving.clone();
                        connections.spawn(async move {
                            let _place = place;
                            serving.serve(accepted).await;
                        });
                    }
                    Err(exceeded) => {
                        telemetry::connection_closed("refused");
                        if let Some(count) = refused.again() {
                            let address = accepted.address;
                            tracing::warn!(%exceeded, %address, count, "connections were refused");
                        }
                    }
                },
                Err(cause) => {
                    if let Some(count) = failed.again() {
                        tracing::error!(%cause, count, "connections could not be accepted");
                    }
                    if !is_of_one(&cause) {
                        telemetry::connection_closed("not_accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
        telemetry::connections_open(connections.len());
    }
    // No client should wait on an address that is not answered.
    drop(listeners);
    close.send_replace(true);
    while connections.join_next().await.is_some() {
        telemetry::connections_open(connections.len());
    }
}

fn shared(config: &ServerConfig) -> (Quota, Arc<Shared>) {
    let limits = config.limits;
    let quota = |setting, most, least| Quota::new(setting, most, limits.address_share, least);
    let largest = config.message_bytes_max as u64;
    let shared = Shared {
        limits,
        streams_per_connection_max: config.streams_per_connection_max,
        message_bytes_max: config.message_bytes_max,
        calls: quota("calls_max", limits.calls, 1),
        watches: quota("connections_max", limits.connections, 1),
        received: quota("receive_bytes_max", limits.receive_bytes, largest),
        answers: quota("answer_bytes_max", limits.answer_bytes, largest),
        streamed: Arc::new(streamed_paths()),
    };
    let places = quota("connections_max", limits.connections, 1);
    (places, Arc::new(shared))
}

/// The data that every connection is served with.
#[derive(Clone)]
struct Serving<S> {
    answering: Answering<S>,
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
}

impl<S: Stack> Serving<S> {
    /// Serves one connection, with encryption if required.
    async fn serve(mut self, accepted: NewConnection) {
        let NewConnection {
            stream,
            address,
            carries,
        } = accepted;
        let Answering {
            stack,
            pages,
            access,
        } = self.answering;
        let tls = match carries {
            Carries::Calls => access.tls(),
            Carries::LocalCalls => None,
            Carries::Pages => access.tls_of_pages(),
        };
        let begun = tokio::select! {
            begun = begin(stream, address, tls, self.shared.limits.handshake) => begun,
            _ = self.closing.wait_for(|close| *close) => return,
        };
        let (connection, peer) = match begun {
            Ok(begun) => begun,
            Err(cause) => {
                telemetry::connection_closed("handshake");
                tracing::debug!(%cause, %address, "a connection did not begin TLS");
                return;
            }
        };
        let shared = self.shared;
        match (carries, pages) {
            (Carries::Pages, Some(console)) => {
                pages::serve(connection, peer, console, shared, self.closing).await;
            }
            (Carries::Calls | Carries::LocalCalls | Carries::Pages, _) => {
                connection::serve(connection, peer, stack, shared, self.closing).await;
            }
        }
    }
}

/// Whether the error concerns only one connection, so that the next one can be accepted.
fn is_of_one(cause: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        cause.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}
