//! One HTTP/1.1 connection of a browser. Its requests have the same limits as calls.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::codegen::http::{HeaderValue, Request, Response, StatusCode, header};

use super::answer::AnswerBody;
use super::call::{Call, Taking};
use super::connection::Shared;
use crate::console::{Console, Visit};
use crate::server::connections::{ClientAddress, Peer};
use crate::server::pace::Pace;
use crate::telemetry;

/// The longest head of a request in bytes; addresses can contain the names of items.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// How often it is checked whether an answer is being read.
const LOOK: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, has to end, or `closing` asks it to.
pub(super) async fn serve<T>(
    stream: T,
    peer: Peer,
    console: Console,
    shared: Arc<Shared>,
    mut closing: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let taking = Arc::new(ArcSwap::from_pointee(Taking::new(shared.limits.stall)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // This also applies between two requests; a browser connects again.
        .header_read_timeout(shared.limits.handshake)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            TokioIo::new(stream),
            PageRequests {
                client: ClientAddress::of(peer.address),
                peer,
                console,
                shared,
                taking: Arc::clone(&taking),
            },
        );
    tokio::pin!(connection);
    let mut look = tokio::time::interval(LOOK);
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection of a browser ended");
                }
                return;
            }
            // If the sender is gone, the server has ended.
            _ = closing.wait_for(|close| *close), if !asked => {
                connection.as_mut().graceful_shutdown();
                asked = true;
            }
            _ = look.tick() => if taking.load().is_overdue() {
                telemetry::limit_refused("stall_seconds");
                return;
            }
        }
    }
}

/// The requests of one connection.
#[derive(Clone)]
struct PageRequests {
    client: ClientAddress,
    peer: Peer,
    console: Console,
    shared: Arc<Shared>,
    /// Whether the last answer is being read.
    taking: Arc<ArcSwap<Taking>>,
}

/// A request that is refused before it is read.
struct PageRefusal(StatusCode, String);

/// How much of a request is read.
struct BodyLimit {
    bytes_max: usize,
    /// Whose limit it is, and what to do.
    named: &'static str,
}

type PageAnswered = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for PageRequests {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = PageAnswered;

    fn call(&self, request: Request<Incoming>) -> PageAnswered {
        let this = self.clone();
        Box::pin(async move {
            let taking = Arc::new(Taking::new(this.shared.limits.stall));
            this.taking.store(Arc::clone(&taking));
            let (response, call) = match this.answer(request).await {
                Ok((response, call)) => (response, Some(call)),
                Err(refusal) => (refusal.response(), None),
            };
            Ok(sized(response).map(|bytes| {
                let whole = tonic::body::Body::new(Full::new(bytes));
                AnswerBody::new(whole, call, Some(taking))
            }))
        })
    }
}

/// Adds the length, because the body is complete.
fn sized(mut response: Response<Bytes>) -> Response<Bytes> {
    let length = HeaderValue::from(response.body().len());
    let said = response.headers_mut().entry(header::CONTENT_LENGTH);
    said.or_insert(length);
    response
}

impl PageRequests {
    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<(Response<Bytes>, Arc<Call>), PageRefusal> {
        let shared = &self.shared;
        let full = |message: String| PageRefusal(StatusCode::SERVICE_UNAVAILABLE, message);
        let place = shared.calls.take(self.client, 1);
        let place = place.map_err(|exceeded| full(exceeded.refusal().message().to_owned()))?;
        let (received, answers) = (&shared.received, &shared.answers);
        let call = Arc::new(Call::new(self.client, received, answers, Some(place)));
        let (head, body) = request.into_parts();
        let visit = Visit {
            address: self.peer.address,
            certificate: self.peer.certificate.clone(),
        };
        let limit = match self.console.body_bytes_max(&head.headers, &visit) {
            None => BodyLimit {
                bytes_max: shared.message_bytes_max,
                named: "as message_bytes_max says",
            },
            Some(bytes_max) => BodyLimit {
                bytes_max,
                named: "before you have signed in; sign in, and send it again",
            },
        };
        let body = self.whole(body, limit, &call).await?;
        let answer = self.console.answer(Request::from_parts(head, body), visit);
        let response = answer.await;
        let room = call.make_room(response.body().len() as u64);
        room.map_err(|status| full(status.message().to_owned()))?;
        drop(call.take_received());
        Ok((response, call))
    }

    /// Reads the whole body, which is charged as it arrives and must keep a minimum pace.
    async fn whole(
        &self,
        mut body: Incoming,
        limit: BodyLimit,
        call: &Call,
    ) -> Result<Bytes, PageRefusal> {
        let BodyLimit { bytes_max, named } = limit;
        let stall = self.shared.limits.stall;
        let mut pace = Pace::new(stall);
        let mut came = Vec::new();
        loop {
            let since = tokio::time::Instant::now();
            let frame = tokio::time::timeout(pace.left(), body.frame()).await;
            pace.waited(since.elapsed());
            let Ok(frame) = frame else {
                telemetry::limit_refused("stall_seconds");
                let seconds = stall.as_secs();
                let message = format!("the request came too slowly: stall_seconds = {seconds}");
                return Err(PageRefusal(StatusCode::REQUEST_TIMEOUT, message));
            };
            let Some(frame) = frame else {
                return Ok(came.into());
            };
            let broken =
                |error: hyper::Error| PageRefusal(StatusCode::BAD_REQUEST, error.to_string());
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if bytes_max < came.len() + data.len() {
                telemetry::limit_refused("message_bytes_max");
                let message = format!("a request may have {bytes_max} bytes, {named}");
                return Err(PageRefusal(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            let room = call.receive(data.len() as u64);
            room.map_err(|status| {
                PageRefusal(StatusCode::SERVICE_UNAVAILABLE, status.message().to_owned())
            })?;
            pace.moved(data.len() as u64);
            came.extend_from_slice(&data);
        }
    }
}

impl PageRefusal {
    fn response(self) -> Response<Bytes> {
        let Self(status, message) = self;
        let mut response = Response::new(Bytes::from(message));
        *response.status_mut() = status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        // Otherwise the rest of the request would be read as the next request.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}
