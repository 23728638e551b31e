//! The caller of a request, and the answers to callers without permission.

use tonic::{Code, Status};

use crate::identity::{Identity, Scope, TooManyCalls};
use crate::server::status::{status, status_to_retry};
use crate::telemetry;

/// Who sent a request that came through the gate; nobody for any other.
pub(in crate::server) fn identity_of<T>(request: &tonic::Request<T>) -> Identity {
    let identity = request.extensions().get::<Identity>();
    identity.cloned().unwrap_or_default()
}

/// The answer to a caller without any of these scopes.
pub(in crate::server) fn scope_missing(scopes: &[Scope]) -> Status {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let message = format!(
        "this call takes a key with the scope {}",
        names.join(" or ")
    );
    status(Code::PermissionDenied, "SCOPE_MISSING", &message)
}

/// The answer to a caller whose key is for other deployments.
pub(in crate::server) fn deployment_denied() -> Status {
    let message = "the key is for other deployments, or there is none of this name";
    status(Code::PermissionDenied, "DEPLOYMENT_DENIED", message)
}

/// The answer to an unknown key, or one that was revoked.
pub(in crate::server) fn unknown_key() -> Status {
    unauthenticated(
        "KEY_UNKNOWN",
        "nobody has this key; it may have been revoked",
    )
}

/// The answer to a key that has expired.
pub(in crate::server) fn expired_key() -> Status {
    unauthenticated(
        "KEY_EXPIRED",
        "this key has expired; have a new one made by `matchpoint keys new`",
    )
}

/// The answer to a key that has made all the calls that it may make for now.
pub(in crate::server) fn too_many_calls(refused: TooManyCalls) -> Status {
    telemetry::limit_refused("calls_per_second");
    let TooManyCalls {
        per_second,
        retry_after,
    } = refused;
    let milliseconds = retry_after.as_millis().max(1);
    let message = format!(
        "this key may make {per_second} calls a second, and has; come back in {milliseconds} ms, or have a key with more made by `matchpoint keys new --calls-per-second`"
    );
    status_to_retry(
        Code::ResourceExhausted,
        "CALLS_PER_SECOND",
        &message,
        Some(retry_after),
    )
}

/// The answer to a token that is refused.
pub(in crate::server) fn token_refused(why: &str) -> Status {
    let message = format!("the token is not taken: {why}");
    unauthenticated("TOKEN_REFUSED", &message)
}

/// The answer to a caller whose key or token was valid only when the call began.
pub(in crate::server) fn no_longer_known(identity: &Identity) -> Status {
    match identity {
        Identity::Token(_) => token_refused("it has expired, or the issuer took its key back"),
        Identity::Known(known) if known.is_expired() => expired_key(),
        Identity::Nobody | Identity::Anyone | Identity::Certified(_) | Identity::Known(_) => {
            unknown_key()
        }
    }
}

/// The answer to an unknown caller.
pub(in crate::server) fn unauthenticated(reason: &str, message: &str) -> Status {
    status(Code::Unauthenticated, reason, message)
}
