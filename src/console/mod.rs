//! The console: pages for people. Each page makes the same calls as a program would, through the same checks
//! and limits, as the person who signed in. There is no other access.

mod ask;
mod assets;
mod calibrating;
mod calibrations;
mod course;
mod desks;
mod doubts;
mod flips;
mod frame;
mod gallery;
mod item;
mod labelling;
mod layout;
mod picked_pictures;
mod pictures;
mod points;
mod posted;
mod problem;
mod promise;
mod rates;
mod scale;
mod sign_in;
mod thumbnails;
mod trying;
mod visitor;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Collected};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::identity::{CallerAccess, Identity, Sessions};
use calibrations::Calibrations;
use desks::Desks;
use matchpoint_embed::pixels::ImageLimits;
use posted::PostedForm;
use problem::Problem;
use thumbnails::Thumbnails;
use visitor::{Cookie, Visitor};

/// The service that answers the calls of pages.
pub type CallService =
    BoxCloneSyncService<Request<tonic::body::Body>, Response<tonic::body::Body>, tonic::Status>;

/// Bytes of a request of somebody unknown, at most: it can only be a form to sign in, which is copied when it is read.
const UNKNOWN_BYTES_MAX: usize = 64 * 1024;

/// The content security policy: pages may load only from this server, and use only our own style sheet and
/// script.
const POLICY: &str = "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// Headers of every answer.
const HEADERS: [(&str, &str); 8] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=()",
    ),
    ("cache-control", "no-store"),
];

/// Everything that the console needs.
pub struct ConsoleSetup {
    /// The service that answers calls.
    pub calls: CallService,
    /// Whether an identity may make the call at a path.
    pub may: fn(&Identity, &str) -> bool,
    /// Who may sign in.
    pub access: CallerAccess,
    /// The address at which the console is reached.
    pub address: SocketAddr,
    /// Limits for decoding a picture.
    pub image_limits: ImageLimits,
}

/// The person on whose behalf a page makes a call. It is attached to the call inside this process, and no
/// request from the network can contain it.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The person's identity.
    pub identity: Identity,
    /// The address of the person's browser.
    pub address: SocketAddr,
}

/// The connection that carried a request of a browser.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The address of the browser.
    pub address: SocketAddr,
    /// The names in its client certificate; `None` without one.
    pub certificate: Option<Arc<[String]>>,
}

/// The state that all pages share.
struct ConsoleState {
    setup: ConsoleSetup,
    sessions: Sessions,
    cookie: Cookie,
    desks: Desks,
    calibrations: Calibrations,
    thumbnails: Thumbnails,
}

/// The console. Clones share its state.
#[derive(Clone)]
pub struct Console {
    state: Arc<ConsoleState>,
    router: Router,
}

impl Console {
    /// Makes the console of a server.
    #[must_use]
    pub fn new(setup: ConsoleSetup) -> Self {
        let state = Arc::new(ConsoleState {
            cookie: Cookie::new(setup.address, setup.access.tls().is_some()),
            sessions: Sessions::default(),
            desks: Desks::default(),
            calibrations: Calibrations::default(),
            thumbnails: Thumbnails::new(setup.image_limits),
            setup,
        });
        Self {
            state,
            router: router(),
        }
    }

    /// How many bytes of a request's body are read, if that is less than of any other: it comes from somebody who has
    /// not signed in, of whom nothing else is taken. Asked before the body is read.
    #[must_use]
    pub fn body_bytes_max(&self, headers: &HeaderMap, visit: &Visit) -> Option<usize> {
        let known = visitor::is_known(&self.state, headers, visit);
        (!known).then_some(UNKNOWN_BYTES_MAX)
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Bytes>, visit: Visit) -> Response<Bytes> {
        let answered = self.admitted(request, visit).await;
        let (mut head, body) = answered
            .unwrap_or_else(IntoResponse::into_response)
            .into_parts();
        for (name, value) in HEADERS {
            let value = HeaderValue::from_static(value);
            head.headers.entry(name).or_insert(value);
        }
        // The body is completely in memory, because no page streams.
        let body = body.collect().await.map(Collected::to_bytes);
        Response::from_parts(head, body.unwrap_or_default())
    }

    async fn admitted(
        &self,
        request: Request<Bytes>,
        visit: Visit,
    ) -> Result<Response<Body>, Problem> {
        let (mut head, body) = request.into_parts();
        let posts = match head.method {
            Method::GET | Method::HEAD => false,
            Method::POST => true,
            _ => {
                return Err(Problem::plain(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "pages are read by GET, and forms are sent by POST",
                ));
            }
        };
        visitor::check_host(&head.headers, &self.state)?;
        if head.uri.path().starts_with(assets::PATH) {
            return self.routed(Request::from_parts(head, Body::empty())).await;
        }
        let (visitor, cookie) = Visitor::of(&self.state, &head.headers, &visit)?;
        let signing_in = head.uri.path() == frame::SIGN_IN;
        // Before a form of somebody unknown is read.
        if visitor.is_none() && !signing_in {
            return Ok(Redirect::to(frame::SIGN_IN).into_response());
        }
        if posts {
            visitor::check_origin(&head.headers)?;
            let form = PostedForm::read(&head, body).await?;
            // A person who is signing in has no session yet.
            if !signing_in {
                form.check_token(visitor.as_ref())?;
            }
            head.extensions.insert(Arc::new(form));
        }
        if let Some(visitor) = visitor {
            head.extensions.insert(visitor);
        }
        head.extensions.insert(visit);
        head.extensions.insert(Arc::clone(&self.state));
        let mut response = self
            .routed(Request::from_parts(head, Body::empty()))
            .await?;
        if let Some(cookie) = cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    async fn routed(&self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let answered = self.router.clone().oneshot(request).await;
        answered.map_err(|never| match never {})
    }
}

fn router() -> Router {
    Router::new()
        .route(assets::STYLE, get(assets::style))
        .route(assets::SCRIPT, get(assets::script))
        .route("/", get(home))
        .route(frame::SIGN_IN, get(sign_in::page).post(sign_in::enter))
        .route(frame::SIGN_OUT, post(sign_in::leave))
        .route("/d/{deployment}/try", get(trying::page).post(trying::ask))
        .route("/d/{deployment}/item/picture", get(pictures::of_item))
        .route("/d/{deployment}/item/thumbnail", get(pictures::small))
        .route(
            "/d/{deployment}/label",
            get(labelling::page).post(labelling::answer),
        )
        .route("/d/{deployment}/promise", get(promise::page))
        .route("/d/{deployment}/points", get(points::page))
        .route("/d/{deployment}/points/activate", post(points::activate))
        .route("/d/{deployment}/points/roll-back", post(points::roll_back))
        .route(
            "/d/{deployment}/calibrate",
            get(calibrating::page).post(calibrating::begin),
        )
        .route(
            "/d/{deployment}/calibrate/{id}",
            get(calibrating::course).post(calibrating::stop),
        )
        .route("/d/{deployment}/points/{id}", get(points::one))
        .route("/d/{deployment}/points/{id}/report", get(points::report))
        .route("/d/{deployment}/gallery", get(gallery::page))
        .route("/d/{deployment}/gallery/doubts", get(doubts::page))
        .route(
            "/d/{deployment}/gallery/enrol",
            get(gallery::enrolling).post(gallery::enrol),
        )
        .route("/d/{deployment}/gallery/relabel", post(item::relabel))
        .route("/d/{deployment}/gallery/remove", post(item::remove))
        .route("/d/{deployment}/item", get(item::page))
        .route("/d/{deployment}/labels", get(labelling::labels))
        .route(
            "/d/{deployment}/decision/{id}/picture",
            get(pictures::of_decision),
        )
        .route(
            "/d/{deployment}/decision/{id}/thumbnail",
            get(pictures::small_of_decision),
        )
        .route(
            "/d/{deployment}/decision/{id}/match",
            get(pictures::of_match),
        )
        .fallback(nowhere)
}

async fn home(Extension(visitor): Extension<Visitor>) -> Result<Response<Body>, Problem> {
    let to = layout::first_page(&visitor).await?;
    Ok(Redirect::to(&to).into_response())
}

async fn nowhere() -> Problem {
    Problem::plain(StatusCode::NOT_FOUND, "there is no such page").with_way_back()
}
