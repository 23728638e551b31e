//! A request id for every call: the caller's own or a new one, in the logs and in the answer.
//! And what is under way is counted here, so that a shutdown can wait for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use super::registry::Registry;

/// The header that carries it, both ways.
const HEADER: &str = "x-request-id";
/// A caller's id goes into logs, so it is short and printable.
const BYTES_MAX: usize = 64;

/// Calls of our own services; health checks and reflection do not hold up a shutdown.
const OURS: &str = "/matchpoint.v1.";

#[derive(Clone, Debug)]
pub(super) struct RequestIds(pub(super) Registry);

impl<S> Layer<S> for RequestIds {
    type Service = WithRequestId<S>;

    fn layer(&self, inner: S) -> WithRequestId<S> {
        WithRequestId {
            inner,
            registry: self.0.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct WithRequestId<S> {
    inner: S,
    registry: Registry,
}

impl<S, B, R> Service<Request<B>> for WithRequestId<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let id = accepted(request.headers().get(HEADER))
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let span = tracing::info_span!("request", path = request.uri().path(), request_id = id);
        // From the first byte of a request on, also while its body still arrives.
        let under_way = request
            .uri()
            .path()
            .starts_with(OURS)
            .then(|| self.registry.enter());
        let answered = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let mut response = answered.await?;
            drop(under_way);
            if let Ok(value) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(HEADER, value);
            }
            Ok(response)
        })
    }
}

fn accepted(sent: Option<&HeaderValue>) -> Option<String> {
    let text = sent?.to_str().ok()?;
    let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    (printable && text.len() <= BYTES_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_taken_only_if_it_is_short_and_printable() {
        let sent = |text: &str| accepted(HeaderValue::from_str(text).ok().as_ref());
        assert_eq!(sent("order-17/3").as_deref(), Some("order-17/3"));
        for refused in ["", "two words", &"x".repeat(65)] {
            assert_eq!(sent(refused), None, "{refused}");
        }
        assert_eq!(accepted(None), None);
    }
}
