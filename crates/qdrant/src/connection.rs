//! Connections to the nodes of a Qdrant, and calls over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::{QdrantAddress, QdrantError};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a node may take to refuse a call without the key.
const KEYLESS_MAX: Duration = Duration::from_secs(2);
/// How often an idle connection is tried, and how long an answer to that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3);

/// The nodes, of which one is asked until it fails.
pub(crate) struct QdrantConnection {
    address: QdrantAddress,
    nodes: Vec<Channel>,
    /// The node that answered last.
    preferred: AtomicUsize,
    /// Number of connections that were ever made.
    made: Arc<AtomicU64>,
}

impl QdrantConnection {
    /// Connects to nobody yet. Is to be called within a runtime, on which the connections then live.
    pub(crate) fn new(address: QdrantAddress) -> Result<Self, QdrantError> {
        let made = Arc::new(AtomicU64::new(0));
        let nodes = address.nodes.iter().map(|node| channel(node, &made));
        let nodes = nodes.collect::<Result<Vec<_>, _>>();
        let nodes = nodes.map_err(|cause| QdrantError::Address {
            problem: cause.to_string(),
        })?;
        Ok(Self {
            address,
            nodes,
            preferred: AtomicUsize::new(0),
            made,
        })
    }

    pub(crate) fn address(&self) -> &QdrantAddress {
        &self.address
    }

    /// Number of connections that were ever made: another node, one that was started again, or one that refused a call,
    /// is a new one.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Makes a call that may be repeated, each time within this time. If a node does not answer, the next one is
    /// asked, or, if there is only one, the same over a new connection.
    pub(crate) async fn call<Q, A>(
        &self,
        path: &'static str,
        message: &Q,
        within: Duration,
    ) -> Result<A, QdrantError>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failed = Status::unavailable("there is no node");
        for number in first..first + self.nodes.len().max(2) {
            let at = number % self.nodes.len().max(1);
            let Some(node) = self.nodes.get(at) else {
                break;
            };
            match ask(node, path, self.request(message.clone()), within).await {
                Ok(answer) => {
                    // Another node has another copy, also over a connection that was there.
                    if self.preferred.swap(at, Ordering::AcqRel) != at {
                        self.made.fetch_add(1, Ordering::AcqRel);
                    }
                    return Ok(answer);
                }
                Err(status) if is_of_the_way(status.code()) => failed = status,
                Err(status) => {
                    // The collection may be gone, and another one come in its place: compared again before it counts.
                    self.made.fetch_add(1, Ordering::AcqRel);
                    return Err(QdrantError::Refused {
                        address: self.address.shown(),
                        cause: said(&status),
                    });
                }
            }
        }
        Err(QdrantError::Unreachable {
            address: self.address.shown(),
            cause: said(&failed),
        })
    }

    /// The first node that answers a call without the key.
    pub(crate) async fn answers_without_key<Q>(
        &self,
        path: &'static str,
        message: &Q,
    ) -> Option<&Uri>
    where
        Q: Message + Clone + Send + Sync + 'static,
    {
        for (node, uri) in self.nodes.iter().zip(&self.address.nodes) {
            let request = Request::new(message.clone());
            let answer =
                ask::<Q, crate::wire::HealthCheckRequest>(node, path, request, KEYLESS_MAX);
            if answer.await.is_ok() {
                return Some(uri);
            }
        }
        None
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(key) = &self.address.key {
            request.metadata_mut().insert("api-key", key.clone());
        }
        request
    }
}

fn channel(node: &Uri, made: &Arc<AtomicU64>) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from(node.clone())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .keep_alive_while_idle(true);
    if node.scheme_str() == Some("https") {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    let made = Arc::clone(made);
    let connect = move |node: Uri| {
        let made = Arc::clone(&made);
        async move {
            let host = node.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let to = (host, node.port_u16().unwrap_or_default());
            let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(to)).await??;
            stream.set_nodelay(true)?;
            made.fetch_add(1, Ordering::AcqRel);
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(connect)))
}

async fn ask<Q, A>(
    node: &Channel,
    path: &'static str,
    request: Request<Q>,
    within: Duration,
) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(node.clone());
    let call = async {
        let ready = grpc.ready().await;
        ready.map_err(|cause| Status::unavailable(cause.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec);
        Ok(answer.await?.into_inner())
    };
    let late = |_elapsed| {
        Status::deadline_exceeded(format!("nothing came within {} ms", within.as_millis()))
    };
    tokio::time::timeout(within, call).await.map_err(late)?
}

/// Whether another node, or another connection, may answer.
fn is_of_the_way(code: Code) -> bool {
    match code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::ResourceExhausted
        | Code::Aborted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// What a status says, with its cause, in at most so many characters.
fn said(status: &Status) -> String {
    const SHOWN: usize = 300;
    let cause = std::error::Error::source(status);
    let text = match (status.message(), cause) {
        ("", None) => format!("{:?}", status.code()),
        (message, None) => message.to_owned(),
        (message, Some(cause)) => format!("{message}: {cause}"),
    };
    text.chars().take(SHOWN).collect()
}
