//! Serves stored pictures unchanged, and never as any other type of content.

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query};
use axum::http::{HeaderValue, Response, header};
use serde::Deserialize;
use tonic::Code;

use super::problem::Problem;
use super::visitor::Visitor;
use matchpoint_client::proto::{GetDecisionRequest, GetDecisionResponse, GetItemRequest};

/// The drawing that is shown if no picture is stored.
const NONE: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120" fill="#8881"/><path d="M40 76l14-18 10 12 8-9 12 15z" fill="none" stroke="#888" stroke-width="2" stroke-linejoin="round"/><circle cx="50" cy="46" r="5" fill="none" stroke="#888" stroke-width="2"/><text x="60" y="100" text-anchor="middle" font-family="sans-serif" font-size="10" fill="#888">no picture kept</text></svg>"##;

/// The picture types that can be enrolled and searched for, by the first bytes of their files.
const TYPES: [(&[u8], &str); 5] = [
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"RIFF", "image/webp"),
];

/// Whether a file starts like a picture.
pub(super) fn is_picture(bytes: &[u8]) -> bool {
    TYPES.iter().any(|(begins, _)| bytes.starts_with(begins))
}

/// An answer with the picture, or with a drawing that says that there is none.
pub(super) fn answer(bytes: Vec<u8>) -> Response<Body> {
    let found = TYPES.iter().find(|(begins, _)| bytes.starts_with(begins));
    let (kind, bytes) = match found {
        Some((_, kind)) => (*kind, Bytes::from(bytes)),
        None => ("image/svg+xml", Bytes::from_static(NONE.as_bytes())),
    };
    let mut response = Response::new(Body::from(bytes));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The item that a page is about.
#[derive(Deserialize)]
pub(super) struct AskedItem {
    pub(super) id: String,
}

/// Serves the picture of an item, if it is stored.
pub(super) async fn of_item(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(AskedItem { id }): Query<AskedItem>,
) -> Result<Response<Body>, Problem> {
    Ok(answer(kept(&visitor, deployment, id).await?))
}

/// The same as a thumbnail, for pages with many pictures.
pub(super) async fn small(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(AskedItem { id }): Query<AskedItem>,
) -> Result<Response<Body>, Problem> {
    let picture = kept(&visitor, deployment, id).await?;
    let small = visitor.state.thumbnails.of(picture.into()).await;
    Ok(answer(small.into()))
}

async fn kept(visitor: &Visitor, deployment: String, id: String) -> Result<Vec<u8>, Problem> {
    let request = GetItemRequest {
        deployment,
        id,
        include_embedding: false,
        include_image: true,
    };
    Ok(visitor.get_item(request).await?.image)
}

/// The path of a decision: the name of its deployment, and its id.
type PlaceOfDecision = Path<(String, String)>;

/// Serves the picture that was searched for.
pub(super) async fn of_decision(
    Extension(visitor): Extension<Visitor>,
    place: PlaceOfDecision,
) -> Result<Response<Body>, Problem> {
    let found = visitor.get_decision(asked(place, false)).await?;
    Ok(answer(found.image))
}

/// The same as a thumbnail, for pages with many pictures; that of a decision that is gone is not kept either.
pub(super) async fn small_of_decision(
    Extension(visitor): Extension<Visitor>,
    place: PlaceOfDecision,
) -> Result<Response<Body>, Problem> {
    let found = match visitor.get_decision(asked(place, false)).await {
        Err(gone) if gone.code() == Code::NotFound => GetDecisionResponse::default(),
        found => found?,
    };
    let small = visitor.state.thumbnails.of(found.image.into()).await;
    Ok(answer(small.into()))
}

/// Serves the picture of its best match.
pub(super) async fn of_match(
    Extension(visitor): Extension<Visitor>,
    place: PlaceOfDecision,
) -> Result<Response<Body>, Problem> {
    let found = visitor.get_decision(asked(place, true)).await?;
    Ok(answer(found.matched_image))
}

/// The request for a decision with one of its two pictures.
fn asked(Path((deployment, decision_id)): PlaceOfDecision, matched: bool) -> GetDecisionRequest {
    GetDecisionRequest {
        deployment,
        decision_id,
        include_image: !matched,
        include_matched_image: matched,
    }
}
