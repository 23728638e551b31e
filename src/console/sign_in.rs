//! Signing in: a person enters a key once and gets a session.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Extension;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};

use super::frame::{SIGN_IN, bare};
use super::posted::Posted;
use super::problem::Problem;
use super::visitor::Visitor;
use super::{ConsoleState, Visit};
use crate::identity::Unknown;

pub(super) async fn page() -> Markup {
    asking(None)
}

/// The page that asks for a key, with the problem of the previous one.
fn asking(problem: Option<&str>) -> Markup {
    let described = problem.map(|_| "wrong");
    bare(
        "Sign in",
        &html! {
            h1 { "Sign in" }
            form.sign-in method="post" action=(SIGN_IN) enctype="multipart/form-data" {
                label for="key" { "Your key" }
                input #key name="key" type="password" autocomplete="current-password" spellcheck="false" autofocus required aria-describedby=[described] aria-invalid=[problem.map(|_| "true")];
                @if let Some(problem) = problem { p.wrong #wrong role="alert" { (problem) } }
                button.main { "Sign in" }
                p.note { "The key is that of the API, as " code { "matchpoint keys new" } " wrote it. What it may do there it may do here." }
            }
        },
    )
}

/// Checks a key, and starts a session.
pub(super) async fn enter(
    Extension(state): Extension<Arc<ConsoleState>>,
    Extension(visit): Extension<Visit>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let key = form.text("key")?;
    let certificate = visit.certificate.as_deref();
    let found = state
        .setup
        .access
        .identify(Some(key.as_bytes()), certificate);
    let identity = match found {
        Ok(identity) => identity,
        Err(unknown) => {
            let problem = match unknown {
                Unknown::Missing | Unknown::Certificate => {
                    "This server asks for a client's certificate."
                }
                Unknown::Expired => "This key has expired. Have a new one made.",
                Unknown::Key | Unknown::Token(_) => {
                    "Nobody has this key. It may have been revoked, or cut short in copying."
                }
            };
            tracing::warn!(address = %visit.address, "somebody was not let into the console");
            return Ok((StatusCode::UNAUTHORIZED, asking(Some(problem))).into_response());
        }
    };
    tracing::info!(caller = %identity, address = %visit.address, "signed in to the console");
    let (_, cookie) = Visitor::begin(&state, identity)?;
    let mut response = Redirect::to("/").into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Ends the session.
pub(super) async fn leave(
    Extension(state): Extension<Arc<ConsoleState>>,
    headers: HeaderMap,
) -> Response<Body> {
    if let Some(token) = state.cookie.read(&headers) {
        state.sessions.close(token);
    }
    let mut response = Redirect::to(SIGN_IN).into_response();
    if let Some(cookie) = state.cookie.set(None) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
