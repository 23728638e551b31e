//! The person at the browser: known by the session of a cookie, or anyone, if the server does not ask who they
//! are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::problem::Problem;
use super::{ConsoleState, SignedIn, Visit};
use crate::identity::{BrowserSession, Identity, SESSION};

/// A person with a session.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) state: Arc<ConsoleState>,
    pub(super) session: Arc<BrowserSession>,
    pub(super) address: SocketAddr,
}

/// The cookie that contains the token of a session.
#[derive(Debug)]
pub(super) struct Cookie {
    name: String,
    secure: bool,
}

impl Cookie {
    pub(super) fn new(address: SocketAddr, secure: bool) -> Self {
        // Browsers share cookies between all ports of a host, so two servers would otherwise share one.
        let prefix = if secure { "__Host-" } else { "" };
        let port = address.port();
        Self {
            name: format!("{prefix}matchpoint-{port}"),
            secure,
        }
    }

    /// The token in a request.
    pub(super) fn read<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let sent = headers.get_all(header::COOKIE).iter();
        sent.filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .find_map(|pair| {
                let (name, token) = pair.trim().split_once('=')?;
                (name == self.name).then_some(token)
            })
    }

    /// The header that sets the cookie to a token, or deletes it.
    pub(super) fn set(&self, token: Option<&str>) -> Option<HeaderValue> {
        let seconds = token.map_or(0, |_| SESSION.as_secs());
        let secure = if self.secure { "; Secure" } else { "" };
        let (name, token) = (&self.name, token.unwrap_or_default());
        let text =
            format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
        HeaderValue::from_str(&text).ok()
    }
}

impl Visitor {
    /// The person who sent a request, and the cookie to set if a session starts; `None` if the person has to
    /// sign in first.
    pub(super) fn of(
        state: &Arc<ConsoleState>,
        headers: &HeaderMap,
        visit: &Visit,
    ) -> Result<(Option<Self>, Option<HeaderValue>), Problem> {
        let found = state.cookie.read(headers);
        if let Some(session) = found.and_then(|token| state.sessions.find(token)) {
            return Ok((Some(Self::with(state, session, visit)), None));
        }
        let certificate = visit.certificate.as_deref();
        let Ok(identity) = state.setup.access.identify(None, certificate) else {
            return Ok((None, None));
        };
        let (session, cookie) = Self::begin(state, identity)?;
        Ok((Some(Self::with(state, session, visit)), cookie))
    }

    /// Starts a session; returns the cookie that contains its token.
    pub(super) fn begin(
        state: &ConsoleState,
        identity: Identity,
    ) -> Result<(Arc<BrowserSession>, Option<HeaderValue>), Problem> {
        let opened = state.sessions.open(identity);
        let (token, session) = opened.map_err(|error| {
            tracing::error!(%error, "a session could not be opened");
            let message = "a session could not be opened; the server's log has the cause";
            Problem::plain(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        Ok((session, state.cookie.set(Some(&token))))
    }

    fn with(state: &Arc<ConsoleState>, session: Arc<BrowserSession>, visit: &Visit) -> Self {
        Self {
            state: Arc::clone(state),
            session,
            address: visit.address,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        self.session.identity()
    }

    /// Whether this person may make the call at a path. Pages do not offer what the person may not do.
    pub(super) fn may(&self, path: &str) -> bool {
        (self.state.setup.may)(self.identity(), path)
    }

    pub(super) fn signed_in(&self) -> SignedIn {
        SignedIn {
            identity: self.identity().clone(),
            address: self.address,
        }
    }
}

/// Whether the person who sent a request has a session, or gets one for the asking.
pub(super) fn is_known(state: &ConsoleState, headers: &HeaderMap, visit: &Visit) -> bool {
    let token = state.cookie.read(headers);
    let session = token.and_then(|token| state.sessions.find(token));
    let certificate = visit.certificate.as_deref();
    session.is_some() || state.setup.access.identify(None, certificate).is_ok()
}

/// If the server does not ask who people are, a page of another site must not reach the console through a host
/// name that it points to this machine (DNS rebinding). So only this machine's own names are accepted then.
pub(super) fn check_host(headers: &HeaderMap, state: &ConsoleState) -> Result<(), Problem> {
    let anyone = state.setup.access.identify(None, None).is_ok();
    if !anyone || !state.setup.address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if host.is_some_and(is_this_machine) {
        return Ok(());
    }
    let message =
        "without keys the console answers to localhost and to addresses of this machine alone";
    Err(Problem::plain(StatusCode::MISDIRECTED_REQUEST, message))
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

/// Refuses a form that, according to the browser, comes from another site.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_none_or(|site| site == b"same-origin") {
        return Ok(());
    }
    let message = "the form was sent by a page of another site";
    Err(Problem::plain(StatusCode::FORBIDDEN, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_named_by_itself_alone() {
        for here in [
            "localhost",
            "LOCALHOST:8",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_this_machine(here), "{here}");
        }
        for elsewhere in [
            "",
            "evil.example:80",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.nip.io:1",
        ] {
            assert!(!is_this_machine(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_cookie_is_read_by_its_whole_name() {
        let cookie = Cookie::new("127.0.0.1:80".parse().unwrap(), true);
        let mut headers = HeaderMap::new();
        let sent = "a=b; x__Host-matchpoint-80=no; __Host-matchpoint-8=no;__Host-matchpoint-80=yes";
        headers.insert(header::COOKIE, HeaderValue::from_static(sent));
        assert_eq!(cookie.read(&headers), Some("yes"));
        let set = cookie.set(Some("t")).unwrap();
        assert!(set.to_str().unwrap().ends_with("; Secure"));
    }
}
