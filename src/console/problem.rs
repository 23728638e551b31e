//! An error as a page: the status code, the message of the call that failed, and a link to continue.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use maud::html;
use tonic::{Code, Status};

use super::frame::{SIGN_IN, bare};
use super::words::shown;

/// The reason why a page cannot be shown.
pub(super) struct Problem {
    status: StatusCode,
    message: String,
    /// Whether the same request may succeed in a moment.
    passes: bool,
    /// Whether the person has to sign in first.
    signs_in: bool,
    /// The link to continue.
    way: Way,
}

enum Way {
    None,
    Back,
    Out,
}

impl Problem {
    pub(super) fn plain(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            message: message.to_owned(),
            passes: false,
            signs_in: false,
            way: Way::None,
        }
    }

    /// The same, with a link back.
    pub(super) fn with_way_back(self) -> Self {
        Self {
            way: Way::Back,
            ..self
        }
    }

    /// The same, with a link to sign in with another key.
    pub(super) fn with_way_out(self) -> Self {
        Self {
            way: Way::Out,
            ..self
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the sent data are wrong, so that the form can be shown again with the message.
    pub(super) fn is_of_input(&self) -> bool {
        self.status.is_client_error() && !self.signs_in
    }
}

impl From<Status> for Problem {
    fn from(refused: Status) -> Self {
        let code = refused.code();
        Self {
            passes: code == Code::Unavailable,
            signs_in: code == Code::Unauthenticated,
            ..Self::plain(http_status(code), refused.message()).with_way_back()
        }
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        if self.signs_in {
            return Redirect::to(SIGN_IN).into_response();
        }
        let title = match self.status {
            StatusCode::NOT_FOUND => "Not here",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::SERVICE_UNAVAILABLE => "In a moment",
            _ => "That did not work",
        };
        let page = bare(
            title,
            &html! {
                h1 { (title) }
                p.lead { (shown(&self.message)) }
                @match self.way {
                    Way::None => {}
                    Way::Back => p { a href="/" { "To the console" } },
                    Way::Out => p { a href=(SIGN_IN) { "Show another key" } },
                }
            },
        );
        let mut response = (self.status, page).into_response();
        if self.passes {
            let soon = HeaderValue::from_static("2");
            response.headers_mut().insert(header::REFRESH, soon);
        }
        response
    }
}
