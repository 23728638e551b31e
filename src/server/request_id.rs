//! Gives every call a request id, the caller's or a new one, which appears in logs and in the answer. Running
//! calls are counted here, so that a shutdown can wait for them.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use super::access::denied::identity_of;
use super::connections::{ClientAddress, Peer};
use super::registry::Registry;
use crate::identity::Identity;
use matchpoint_embed::caller::{Caller, ClientId};

/// The header with the client's timeout.
const TIMEOUT: &str = "grpc-timeout";

/// The header with the urgency of a call, from `u=0` to `u=7` for the least (RFC 9218).
const PRIORITY: &str = "priority";

/// The header with the request id, in both directions.
const HEADER: &str = "x-request-id";
/// The longest request id of a caller in bytes. It must be short and printable, because it goes into logs.
const BYTES_MAX: usize = 64;

/// The path prefix of our services; health checks and reflection do not delay a shutdown.
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = accepted(request.headers().get(HEADER))
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let span = tracing::info_span!("request", path = request.uri().path(), request_id = id);
        // Counts from the first byte of a request, while its body is still arriving.
        let under_way = request
            .uri()
            .path()
            .starts_with(OURS)
            .then(|| self.registry.enter());
        let caller = caller(&request);
        request.extensions_mut().insert(caller);
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

/// The caller of a request that came through [`RequestIds`] and the gate; an unknown caller for any other.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Caller {
    let by_address: Caller = request.extensions().get().copied().unwrap_or_default();
    let Some(caller) = known_as(&identity_of(request)) else {
        return by_address;
    };
    Caller {
        client: ClientId {
            caller,
            ..by_address.client
        },
        ..by_address
    }
}

/// The caller of a call with one answer, which is better refused than kept waiting for long, unless it says itself that
/// it is less urgent than others.
pub(super) fn prompt_caller_of<T>(request: &tonic::Request<T>) -> Caller {
    let caller = caller_of(request);
    let priority = request.metadata().get(PRIORITY);
    let priority = priority.and_then(|value| value.to_str().ok());
    if priority.is_some_and(may_wait) {
        caller
    } else {
        caller.prompt()
    }
}

/// Whether a priority is of less urgency than that of a call without one, which is 3.
fn may_wait(priority: &str) -> bool {
    // Of several the last one counts, as in every structured field.
    let mut members = priority.split(',').rev();
    let urgency = members.find_map(|member| member.trim().strip_prefix("u="));
    let urgency = urgency.and_then(|urgency| urgency.parse().ok());
    urgency.is_some_and(|urgency: u8| (4..=7).contains(&urgency))
}

/// The number of a caller with a name, wherever its calls come from; `None` for one who has only an address.
fn known_as(identity: &Identity) -> Option<u64> {
    let name: &str = match identity {
        Identity::Certified(name) => name,
        Identity::Nobody | Identity::Anyone | Identity::Known(_) | Identity::Token(_) => {
            identity.name()?
        }
    };
    Some(number(&(std::mem::discriminant(identity), name)))
}

fn number(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The caller of a stream's items. The stream as a whole has a deadline, and each item has the server's time
/// limit; see [`Registry::waiting`].
pub(super) fn caller_of_items<T>(request: &tonic::Request<T>) -> Caller {
    Caller {
        deadline: None,
        ..caller_of(request)
    }
}

/// The caller of a request by its address, and by its connection, because clients behind a proxy may share an
/// address; and its deadline.
fn caller<B>(request: &Request<B>) -> Caller {
    let address = request.extensions().get::<Peer>().map(|peer| peer.address);
    Caller {
        client: ClientId {
            caller: number(&address.map(ClientAddress::of)),
            connection: number(&address),
        },
        deadline: time_of(request).and_then(|time| Instant::now().checked_add(time)),
        prompt: false,
    }
}

/// The client's timeout; `None` without one.
pub(super) fn time_of<B>(request: &Request<B>) -> Option<Duration> {
    parse_timeout(request.headers().get(TIMEOUT)?.to_str().ok()?)
}

/// Parses at most 8 digits and a unit, as gRPC over HTTP/2 defines.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || 8 < digits.len() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_client_waits_is_read_as_grpc_writes_it() {
        let seconds = |text| parse_timeout(text).map(|timeout| timeout.as_secs_f64());
        assert_eq!(seconds("250m"), Some(0.25));
        assert_eq!(seconds("3S"), Some(3.0));
        assert_eq!(seconds("1M"), Some(60.0));
        assert_eq!(seconds("99999999H"), Some(99_999_999.0 * 3600.0));
        assert_eq!(seconds("1500000u"), Some(1.5));
        for wrong in ["", "m", "10", "1x", "123456789S", "-1S", "1.5S", "é", "1é"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_caller_is_known_by_name_or_else_by_address() {
        let client = |address: &str, identity: Identity| {
            let mut request = Request::new(());
            let peer = Peer {
                address: address.parse().unwrap(),
                certificate: None,
            };
            request.extensions_mut().insert(peer);
            let caller = caller(&request);
            let mut call = tonic::Request::new(());
            call.extensions_mut().insert(caller);
            call.extensions_mut().insert(identity);
            caller_of(&call).client
        };
        let (one, another) = ("192.0.2.1:1000", "192.0.2.1:1001");
        let by_address = [one, another].map(|address| client(address, Identity::Anyone));
        assert_eq!(by_address[0].caller, by_address[1].caller);
        assert_ne!(by_address[0].connection, by_address[1].connection);
        let elsewhere = client("192.0.2.2:1000", Identity::Anyone);
        assert_ne!(elsewhere.caller, by_address[0].caller);
        // Whoever has one address of such a network has all.
        let network = ["[2001:db8::1]:1000", "[2001:db8::2]:1000"];
        let network = network.map(|address| client(address, Identity::Anyone).caller);
        assert_eq!(network[0], network[1]);

        let named = |name: &str| Identity::Certified(name.into());
        let till = [one, "192.0.2.2:1000"].map(|address| client(address, named("till")));
        assert_eq!(till[0].caller, till[1].caller);
        assert_ne!(till[0].connection, till[1].connection);
        let others = [client(one, named("robot")), by_address[0], elsewhere];
        assert!(others.iter().all(|other| other.caller != till[0].caller));
    }

    #[test]
    fn a_call_is_prompt_unless_it_says_that_it_is_less_urgent() {
        for may in ["u=4", "u=7", "i, u=5", "u=1, u=6"] {
            assert!(may_wait(may), "{may}");
        }
        for not in [
            "", "u=3", "u=0", "u=8", "u=-5", "u=x", "i", "u=6, u=2", "au=5",
        ] {
            assert!(!may_wait(not), "{not}");
        }
        let mut call = tonic::Request::new(());
        assert!(prompt_caller_of(&call).prompt);
        let less = tonic::metadata::MetadataValue::from_static("u=5");
        call.metadata_mut().insert(PRIORITY, less);
        let caller = prompt_caller_of(&call);
        assert!(!caller.prompt);
        // Each has turns of its own.
        assert_ne!(caller.client, caller.prompt().client);
    }

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
