//! The style sheet and the script. They are part of the program, and their address changes with their content,
//! so that browsers can cache them.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use sha2::{Digest, Sha256};

/// The start of their addresses.
pub(super) const PATH: &str = "/assets/";
pub(super) const STYLE: &str = "/assets/console.css";
pub(super) const SCRIPT: &str = "/assets/console.js";

const STYLE_TEXT: &str = include_str!("assets/console.css");
const SCRIPT_TEXT: &str = include_str!("assets/console.js");
const KEPT: &str = "public, max-age=31536000, immutable";

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let both = [STYLE_TEXT, SCRIPT_TEXT].concat();
    let mut digest = base16ct::lower::encode_string(&Sha256::digest(both));
    digest.truncate(16);
    digest
});

/// The current address of an asset.
pub(super) fn address(path: &str) -> String {
    format!("{path}?v={}", *VERSION)
}

pub(super) async fn style() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, KEPT),
    ];
    (headers, STYLE_TEXT)
}

pub(super) async fn script() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (CACHE_CONTROL, KEPT),
    ];
    (headers, SCRIPT_TEXT)
}
