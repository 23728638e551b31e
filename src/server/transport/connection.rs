//! One HTTP/2 connection: its calls within the limits, and its end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::{HeaderValue, Request, Response};

use super::Stack;
use super::activity::{Activity, CallTasks, Heard, Outstayed, taking};
use super::answer::AnswerBody;
use super::call::Call;
use super::inflated::{ACCEPTED, take_gzip};
use super::quota::{Quota, QuotaShare};
use super::received::{MessageRules, ReceivedBody};
use crate::config::LimitsConfig;
use crate::server::connections::{ClientAddress, Peer};
use crate::server::request_id::time_of;
use crate::telemetry;
use matchpoint_client::proto;

/// The flow-control window of a call and of a connection: the number of bytes that may arrive before they are
/// read.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Interval of keepalive pings, which detect that the other end has disappeared.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The highest size of headers in bytes: enough for tracing and authentication, but not for an attack.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How often a connection is checked for whether it has to end.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection may take to close when asked, if no call is running.
const LEAVE: Duration = Duration::from_secs(5);
/// The calls that are answered whatever the limits say, because a full server is not a dead one.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// The exception among them, because this call may never end.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The state that all connections share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) limits: LimitsConfig,
    pub(super) streams_per_connection_max: u32,
    pub(super) message_bytes_max: usize,
    pub(super) calls: Quota,
    /// The quota for watching health, which each client needs once.
    pub(super) watches: Quota,
    pub(super) received: Quota,
    pub(super) answers: Quota,
    /// Paths of calls whose clients send several messages.
    pub(super) streamed: Arc<BTreeSet<String>>,
}

/// The paths of calls with a stream of requests, according to the protocol.
pub(super) fn streamed_paths() -> BTreeSet<String> {
    let described = [
        proto::DESCRIPTORS,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = BTreeSet::new();
    for bytes in described {
        // The descriptor is compiled in, and a test reads it.
        let files = prost_types::FileDescriptorSet::decode(bytes).unwrap_or_default();
        for file in files.file {
            for service in &file.service {
                let streamed = service
                    .method
                    .iter()
                    .filter(|method| method.client_streaming());
                paths.extend(streamed.map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }));
            }
        }
    }
    paths
}

/// Serves one connection until it ends, has to end, or `closing` asks it to.
pub(super) async fn serve<T, S>(
    stream: T,
    peer: Peer,
    stack: S,
    shared: Arc<Shared>,
    mut closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Stack,
{
    let activity = Arc::new(Activity::new());
    let limits = shared.limits;
    let http = http(&shared, &activity);
    let calls = Calls {
        stack,
        client: ClientAddress::of(peer.address),
        peer,
        shared,
    };
    let heard = Heard {
        stream,
        activity: Arc::clone(&activity),
    };
    let connection = http.serve_connection(TokioIo::new(heard), calls);
    tokio::pin!(connection);
    let mut look = tokio::time::interval(LOOK);
    let (mut asked, mut leaves) = (false, None);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            // If the sender is gone, the server has ended.
            _ = closing.wait_for(|close| *close), if !asked => {
                connection.as_mut().graceful_shutdown();
                asked = true;
            }
            _ = look.tick() => match (leaves, activity.outstayed(limits.handshake, limits.idle)) {
                (Some(at), Some(_)) if at < Instant::now() => return,
                (_, Some(Outstayed::Handshake)) => {
                    telemetry::connection_closed("handshake");
                    return;
                }
                (None, Some(Outstayed::Idle)) => {
                    telemetry::connection_closed("idle");
                    connection.as_mut().graceful_shutdown();
                    leaves = Some(Instant::now() + LEAVE);
                }
                (_, _) => {}
            },
        }
    }
}

fn http(shared: &Shared, activity: &Arc<Activity>) -> http2::Builder<CallTasks> {
    let mut http = http2::Builder::new(CallTasks {
        activity: Arc::clone(activity),
        stall: shared.limits.stall,
    });
    http.timer(TokioTimer::new())
        .max_concurrent_streams(shared.streams_per_connection_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http
}

/// The calls of one connection.
#[derive(Clone, Debug)]
struct Calls<S> {
    stack: S,
    client: ClientAddress,
    peer: Peer,
    shared: Arc<Shared>,
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>> + Send>>;

impl<S> Calls<S> {
    /// The share that a running call uses, by its path.
    fn place(&self, path: &str) -> Result<Option<QuotaShare>, Status> {
        let places = match path {
            WATCH => &self.shared.watches,
            _ if path.starts_with(HEALTH) => return Ok(None),
            _ => &self.shared.calls,
        };
        let place = places.take(self.client, 1).map(Some);
        place.map_err(|exceeded| exceeded.refusal())
    }
}

impl<S: Stack> hyper::service::Service<Request<Incoming>> for Calls<S> {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, mut request: Request<Incoming>) -> Answered {
        let shared = &self.shared;
        let place = match self.place(request.uri().path()) {
            Ok(place) => place,
            Err(refused) => {
                let refused = refused.into_http();
                return Box::pin(async { Ok(answered(refused, None)) });
            }
        };
        let (received, answers) = (&shared.received, &shared.answers);
        let call = Arc::new(Call::new(self.client, received, answers, place));
        let streamed = shared.streamed.contains(request.uri().path());
        let rules = MessageRules {
            bytes_max: shared.message_bytes_max,
            stall: shared.limits.stall,
            streamed,
            gzip: take_gzip(request.headers_mut()),
        };
        let time = time_of(&request);
        let body = |body| tonic::body::Body::new(ReceivedBody::new(body, Arc::clone(&call), rules));
        let mut request = request.map(body);
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(Arc::clone(&call));
        let mut stack = self.stack.clone();
        Box::pin(async move {
            let work = async {
                std::future::poll_fn(|context| stack.poll_ready(context)).await?;
                stack.call(request).await
            };
            let done = match time {
                Some(time) => tokio::time::timeout(time, work).await,
                None => Ok(work.await),
            };
            let response = match done {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    tracing::error!(%error, "a call failed");
                    Status::internal("internal error").into_http()
                }
                Err(_elapsed) => {
                    Status::deadline_exceeded("the client's deadline has passed").into_http()
                }
            };
            if !streamed {
                drop(call.take_received());
            }
            Ok(answered(response, Some(call)))
        })
    }
}

/// Adds the check whether the answer is read, and the accepted compressions of requests.
fn answered(
    response: Response<tonic::body::Body>,
    call: Option<Arc<Call>>,
) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    let accepted = HeaderValue::from_static(ACCEPTED);
    head.headers.insert("grpc-accept-encoding", accepted);
    Response::from_parts(head, AnswerBody::new(body, call, taking()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_says_which_clients_stream() {
        let paths = streamed_paths();
        for streamed in [
            "/matchpoint.v1.RetrievalService/SearchStream",
            "/matchpoint.v1.CalibrationService/Calibrate",
            "/matchpoint.v1.SnapshotService/WriteSnapshot",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(paths.contains(streamed), "{streamed}");
        }
        assert!(!paths.contains("/matchpoint.v1.RetrievalService/Search"));
    }
}
