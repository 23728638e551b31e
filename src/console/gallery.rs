//! The page of the gallery: shows the enrolled items with their stored pictures, and enrols one.

use axum::body::Body;
use axum::extract::{Extension, Path, Query};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Place, Tab, form, page as framed};
use super::posted::{Posted, PostedForm};
use super::problem::Problem;
use super::trying::drop_zone;
use super::visitor::Visitor;
use super::words::{in_address, in_parts, score, shown};
use matchpoint_client::proto::{
    AcceptedItem, Item, ListItemsRequest, ListItemsResponse, ListLabelsRequest, ListLabelsResponse,
    UpsertItemRequest, UpsertItemResponse, upsert_item_request,
};

/// Number of items on a page, and of labels beside them.
const ITEMS: u32 = 48;
const LABELS: u32 = 60;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shelf {
    /// Only labels that contain this text.
    contains: String,
    /// Only items of this label.
    label: String,
    /// The token of the next page of items.
    items: String,
    labels: String,
}

impl Shelf {
    /// All items of a label.
    pub(super) fn of_label(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn address(&self, place: &Place) -> String {
        let pairs = [
            ("contains", &self.contains),
            ("label", &self.label),
            ("items", &self.items),
            ("labels", &self.labels),
        ];
        let set = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = set
            .map(|(name, value)| format!("{name}={}", in_address(value)))
            .collect();
        format!("{}?{}", Tab::Gallery.of(place.name()), pairs.join("&"))
    }
}

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(shelf): Query<Shelf>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    let labels = ListLabelsRequest {
        deployment: deployment.clone(),
        contains: shelf.contains.clone(),
        page_size: LABELS,
        page_token: shelf.labels.clone(),
    };
    let items = ListItemsRequest {
        deployment,
        page_size: ITEMS,
        page_token: shelf.items.clone(),
        include_embedding: false,
        label: shelf.label.clone(),
    };
    let labels = visitor.list_labels(labels).await?;
    let items = visitor.list_items(items).await?;
    Ok(framed(
        &visitor,
        &place,
        &html! {
            div.heading {
                h1 { "What is enrolled" }
                p {
                    span { b { (place.deployment.gallery_items) } " items of " b { (place.deployment.gallery_labels) } " labels" }
                    a.button href=(place.below("gallery/enrol")) { "Enrol one" }
                    a.button href=(place.below("gallery/doubts")) { "What may be wrong" }
                }
            }
            div.shelf {
                (of_labels(&place, &shelf, &labels))
                (of_items(&place, &shelf, &items))
            }
        },
    ))
}

fn of_labels(place: &Place, shelf: &Shelf, found: &ListLabelsResponse) -> Markup {
    let all = Shelf {
        contains: shelf.contains.clone(),
        ..Shelf::default()
    };
    let next = Shelf {
        labels: found.next_page_token.clone(),
        ..shelf.clone()
    };
    html! {
        nav.labels aria-label="Labels" {
            form method="get" action=(Tab::Gallery.of(place.name())) role="search" {
                label for="contains" { "Labels" }
                input #contains name="contains" type="search" value=(shelf.contains) placeholder="a part of a label" autocomplete="off" spellcheck="false";
            }
            ul {
                li { a href=(all.address(place)) aria-current=[shelf.label.is_empty().then_some("true")] { "All items" } }
                @for one in &found.labels {
                    @let of = Shelf { label: one.label.clone(), items: String::new(), ..shelf.clone() };
                    li { a href=(of.address(place)) aria-current=[(one.label == shelf.label).then_some("true")] { span { (in_parts(&one.label)) } " " span.small-in { (one.items) } } }
                }
            }
            @if found.labels.is_empty() { p.note { "No label has this in it." } }
            @if !found.next_page_token.is_empty() { p { a href=(next.address(place)) { "More of " (found.total_labels) " labels" } } }
        }
    }
}

fn of_items(place: &Place, shelf: &Shelf, found: &ListItemsResponse) -> Markup {
    let next = Shelf {
        items: found.next_page_token.clone(),
        ..shelf.clone()
    };
    let first = Shelf {
        items: String::new(),
        ..shelf.clone()
    };
    html! {
        section aria-label="Items" {
            @if found.items.is_empty() { p.empty { "Nothing here." } }
            ul.items { @for item in &found.items { (tile(place, item)) } }
            p.pages {
                @if !shelf.items.is_empty() { a.button href=(first.address(place)) { "To the first" } " " }
                @if !found.next_page_token.is_empty() { a.button href=(next.address(place)) data-key="n" { "Next page " kbd { "N" } } }
            }
        }
    }
}

fn tile(place: &Place, item: &Item) -> Markup {
    html! {
        li {
            a href=(of_item(place, "item", &item.id)) {
                img src=(of_item(place, "item/thumbnail", &item.id)) alt="" loading="lazy" width="160" height="160";
                span.label { (in_parts(&item.label)) }
                span.id { (in_parts(&item.id)) }
            }
        }
    }
}

pub(super) fn of_item(place: &Place, rest: &str, id: &str) -> String {
    place.below(&format!("{rest}?id={}", in_address(id)))
}

pub(super) async fn enrolling(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    Ok(enrol_page(&visitor, &place, "", &html! {}))
}

/// Enrols an item, and says which labels it is accepted as.
pub(super) async fn enrol(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    let problem = match enrolled(&visitor, &place, &form).await {
        Ok(said) => return Ok(enrol_page(&visitor, &place, "", &said).into_response()),
        Err(problem) if problem.is_of_input() => problem,
        Err(problem) => return Err(problem),
    };
    let said = html! { p.wrong role="alert" { (shown(problem.message())) } };
    let page = enrol_page(&visitor, &place, &form.text("label")?, &said);
    Ok((problem.status(), page).into_response())
}

async fn enrolled(visitor: &Visitor, place: &Place, form: &PostedForm) -> Result<Markup, Problem> {
    let missing = || Problem::plain(StatusCode::BAD_REQUEST, "Pick a picture first.");
    let image = form.file("image").ok_or_else(missing)?;
    let (id, label) = (form.text("id")?, form.required("label", "Say what it is.")?);
    let id = if id.is_empty() { fresh_id(&label) } else { id };
    let request = UpsertItemRequest {
        deployment: place.name().to_owned(),
        id: id.clone(),
        label,
        source: Some(upsert_item_request::Source::Image(image)),
        ..UpsertItemRequest::default()
    };
    let done = visitor.upsert_item(request).await?;
    Ok(outcome(place, &id, &done))
}

/// A new id made from the label, if none was given.
fn fresh_id(label: &str) -> String {
    let cut = label.floor_char_boundary(label.len().min(400));
    let (label, _) = label.split_at_checked(cut).unwrap_or_default();
    format!("{label}/{}", uuid::Uuid::now_v7())
}

fn outcome(place: &Place, id: &str, done: &UpsertItemResponse) -> Markup {
    html! {
        p.said {
            @if done.replaced { "Replaced: " } @else { "Enrolled: " }
            a href=(of_item(place, "item", id)) { (shown(id)) }
        }
        (alike_elsewhere(place, &done.accepted_as))
    }
}

/// The warning that an item is accepted as others.
pub(super) fn alike_elsewhere(place: &Place, accepted_as: &[AcceptedItem]) -> Markup {
    html! {
        @if !accepted_as.is_empty() {
            section.verdict.estimated {
                p.standing { "It looks like what is enrolled under another label" }
                ul {
                    @for other in accepted_as {
                        li { a href=(of_item(place, "item", &other.id)) { (shown(&other.label)) } ", " (score(other.decision_score)) }
                    }
                }
                p.basis { "A search for it is accepted as each of these. Is one thing enrolled under two labels, or a label wrong?" }
            }
        }
    }
}

fn enrol_page(visitor: &Visitor, place: &Place, label: &str, said: &Markup) -> Markup {
    framed(
        visitor,
        place,
        &html! {
            p { a href=(Tab::Gallery.of(place.name())) { "All items" } }
            h1 { "Enrol one" }
            (said)
            (form(visitor, &place.below("gallery/enrol"), "asking narrow", &html! {
                (drop_zone("image", "Drop, paste or pick a picture"))
                div {
                    label for="label" { "What is it?" }
                    input #label name="label" value=(label) list="labels" data-labels=(place.below("labels")) required maxlength="512" autocomplete="off" spellcheck="false";
                    datalist #labels {}
                }
                div {
                    label for="id" { "Id" }
                    input #id name="id" maxlength="512" autocomplete="off" spellcheck="false" aria-describedby="about-id";
                    p.note #about-id { "Empty for a new one. An item of the same id is replaced." }
                }
                button.main { "Enrol" }
            }))
        },
    )
}
