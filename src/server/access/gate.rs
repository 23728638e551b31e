//! Checks who calls, and whether they may make this call, before anything of the call is read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::denied::{
    expired_key, no_longer_known, scope_missing, token_refused, unauthenticated, unknown_key,
};
use super::rules::{CallRule, rule};
use crate::console::SignedIn;
use crate::identity::{CallerAccess, Identity, Unknown};
use crate::server::connections::Peer;
use crate::server::log_throttle::LogThrottle;
use crate::server::registry::code_name;
use crate::server::status::status;
use crate::telemetry;

/// The content types of calls. Browsers do not send them to another site unless that site allows it, and this
/// server never does.
const CONTENT_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];
/// The authentication scheme of keys.
const SCHEME: &str = "bearer";

/// Lets permitted calls through with the identity of their caller, and answers the others.
#[derive(Clone, Debug)]
pub(in crate::server) struct Gate {
    access: CallerAccess,
    refusals: Arc<Mutex<LogThrottle>>,
}

impl Gate {
    pub(in crate::server) fn new(access: CallerAccess) -> Self {
        Self {
            access,
            refusals: Arc::default(),
        }
    }

    /// The identity of the caller, if they may make this call.
    fn admit<B>(&self, request: &Request<B>) -> Result<Identity, Status> {
        let Some((method, rule)) = rule(request.uri().path()) else {
            // The message does not repeat the requested path, because that is untrusted text.
            return Err(Status::unimplemented("there is no such method"));
        };
        let identity = match rule {
            CallRule::Open => Ok(Identity::Nobody),
            CallRule::Known | CallRule::AnyOf(_) | CallRule::Everywhere(_) => {
                self.identify(request)
            }
        };
        let admitted = identity.and_then(|identity| {
            permit(&identity, rule)?;
            Ok(identity)
        });
        admitted.inspect_err(|status| {
            let code = code_name(status.code());
            telemetry::request_finished(method, code, Duration::ZERO);
            self.tell(request, method, code);
        })
    }

    fn identify<B>(&self, request: &Request<B>) -> Result<Identity, Status> {
        // Nothing from the network can have extensions, so our console has attached this one.
        if let Some(signed_in) = request.extensions().get::<SignedIn>() {
            let identity = Some(&signed_in.identity).filter(|identity| !identity.is_revoked());
            let gone = || no_longer_known(&signed_in.identity);
            return identity.cloned().ok_or_else(gone);
        }
        let peer = request.extensions().get::<Peer>();
        let certificate = peer.and_then(|peer| peer.certificate.as_deref());
        let key = key(request.headers())?;
        self.access
            .identify(key, certificate)
            .map_err(|unknown| match unknown {
                Unknown::Missing => unauthenticated(
                    "KEY_MISSING",
                    "this server asks who calls: send `authorization: Bearer KEY`",
                ),
                Unknown::Key => unknown_key(),
                Unknown::Expired => expired_key(),
                Unknown::Token(why) => token_refused(why),
                Unknown::Certificate => unauthenticated(
                    "CERTIFICATE_UNKNOWN",
                    "no name of the client's certificate is in the server's file of keys; send a key, or have it added by `matchpoint keys new --certificate`",
                ),
            })
    }

    /// Logs that a caller was refused. Lines are limited, because there may be many refusals.
    fn tell<B>(&self, request: &Request<B>, method: &str, code: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = refusals.again() else {
            return;
        };
        drop(refusals);
        let peer = request.extensions().get::<Peer>();
        let address = peer.map(|peer| peer.address.to_string());
        let address = address.unwrap_or_default();
        tracing::warn!(
            count,
            address,
            method,
            code,
            "calls were turned away; the details are of the latest"
        );
    }
}

/// Whether a caller may make the call at this path, as far as this does not depend on the deployment.
pub(in crate::server) fn may(identity: &Identity, path: &str) -> bool {
    rule(path).is_some_and(|(_, rule)| permit(identity, rule).is_ok())
}

/// Whether a caller may make a call.
fn permit(identity: &Identity, rule: CallRule) -> Result<(), Status> {
    let scopes = match rule {
        CallRule::Open | CallRule::Known => return Ok(()),
        CallRule::AnyOf(scopes) => scopes,
        CallRule::Everywhere(ref scope) => std::slice::from_ref(scope),
    };
    if !scopes.iter().any(|scope| identity.may(*scope)) {
        return Err(scope_missing(scopes));
    }
    if matches!(rule, CallRule::Everywhere(_)) && !identity.may_use_all() {
        let message = "this call is bound to no deployment, and the key to some; it takes a key for all of them";
        return Err(status(Code::PermissionDenied, "DEPLOYMENT_DENIED", message));
    }
    Ok(())
}

/// The key of a request; `None` if there is none.
fn key(headers: &HeaderMap) -> Result<Option<&[u8]>, Status> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = sent.next() else {
        return Ok(None);
    };
    let malformed = || {
        unauthenticated(
            "KEY_MISSING",
            "`authorization` must be `Bearer` and the key, once",
        )
    };
    let bytes = value.as_bytes();
    let space = bytes.iter().position(|byte| *byte == b' ');
    let (scheme, rest) = space
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or_else(malformed)?;
    if sent.next().is_some() || !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return Err(malformed());
    }
    Ok(Some(rest.trim_ascii()))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let sent = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let Some(Ok(sent)) = sent else { return false };
    let kind = sent.split_once(';').map_or(sent, |(kind, _)| kind).trim();
    CONTENT_TYPES.contains(&kind)
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner,
            gate: self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(in crate::server) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, B, R> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if !is_grpc(request.headers()) {
            let mut answer = Response::new(R::default());
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(std::future::ready(Ok(answer)));
        }
        match self.gate.admit(&request) {
            Ok(identity) => {
                // Nobody needs it any more, so it is removed and cannot appear in a log or an error.
                request.headers_mut().remove(header::AUTHORIZATION);
                request.extensions_mut().insert(identity);
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_read_from_one_header_of_one_form() {
        let sent = |values: &[&str]| {
            let headers = headers(&header::AUTHORIZATION, values);
            key(&headers).map(|key| key.map(<[u8]>::to_vec)).ok()
        };
        assert_eq!(sent(&[]), Some(None));
        assert_eq!(sent(&["Bearer mp_1"]), Some(Some(b"mp_1".to_vec())));
        assert_eq!(sent(&["bearer  mp_1 "]), Some(Some(b"mp_1".to_vec())));
        for wrong in [
            &["mp_1"][..],
            &["Basic mp_1"],
            &["Bearer mp_1", "Bearer mp_2"],
            &[""],
        ] {
            assert_eq!(sent(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_what_no_form_of_a_browser_sends_is_a_call() {
        for right in ["application/grpc", "application/grpc+proto; charset=utf-8"] {
            assert!(
                is_grpc(&headers(&header::CONTENT_TYPE, &[right])),
                "{right}"
            );
        }
        for wrong in [
            "text/plain",
            "application/grpc-web",
            "application/grpcx",
            "multipart/form-data; application/grpc",
            "application/x-www-form-urlencoded",
        ] {
            assert!(
                !is_grpc(&headers(&header::CONTENT_TYPE, &[wrong])),
                "{wrong}"
            );
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
