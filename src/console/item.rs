//! The page of an item: shows it, gives it another label, and removes it.

use axum::body::Body;
use axum::extract::{Extension, Path, Query};
use axum::http::{Response, StatusCode};
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};

use super::gallery::{Shelf, alike_elsewhere, of_item};
use super::layout::{Place, Tab, form, page as framed};
use super::pictures::AskedItem;
use super::posted::Posted;
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{in_parts, shown};
use matchpoint_client::proto::{DeleteItemRequest, GetItemRequest, Item, RelabelItemRequest};

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(AskedItem { id }): Query<AskedItem>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    item_page(&visitor, &place, id, &html! {}).await
}

async fn item_page(
    visitor: &Visitor,
    place: &Place,
    id: String,
    said: &Markup,
) -> Result<Markup, Problem> {
    let request = GetItemRequest {
        deployment: place.name().to_owned(),
        id,
        ..GetItemRequest::default()
    };
    let item = visitor.get_item(request).await?.item.unwrap_or_default();
    let mut metadata: Vec<_> = item.metadata.iter().collect();
    metadata.sort();
    let label = Shelf::of_label(&item.label);
    Ok(framed(
        visitor,
        place,
        &html! {
            p { a href=(Tab::Gallery.of(place.name())) { "All items" } }
            h1 { (in_parts(&item.label)) }
            (said)
            div.two {
                figure { img src=(of_item(place, "item/picture", &item.id)) alt="The picture that was enrolled"; }
                div {
                    dl.facts {
                        dt { "Id" } dd { code { (shown(&item.id)) } }
                        dt { "Label" } dd { a href=(label.address(place)) { (shown(&item.label)) } }
                        @for (name, value) in metadata { dt { (shown(name)) } dd { (shown(value)) } }
                    }
                    (changes(visitor, place, &item))
                }
            }
        },
    ))
}

/// What can be done with an item.
fn changes(visitor: &Visitor, place: &Place, item: &Item) -> Markup {
    html! {
        details.change {
            summary { "Give it another label" }
            (form(visitor, &place.below("gallery/relabel"), "choose", &html! {
                input type="hidden" name="id" value=(item.id);
                input type="hidden" name="etag" value=(item.etag);
                label for="label" { "What is it?" }
                input #label name="label" list="labels" data-labels=(place.below("labels")) data-key="r" required maxlength="512" autocomplete="off" spellcheck="false" aria-describedby="about-label";
                datalist #labels {}
                p.note #about-label { "Its picture and all else stay. Correct the list that it was enrolled from too: another build of that list would bring the old label back." }
                button { "Relabel" }
            }))
        }
        details.change {
            summary { "Remove it" }
            (form(visitor, &place.below("gallery/remove"), "choose", &html! {
                input type="hidden" name="id" value=(item.id);
                p { "It will be found no more. That cannot be taken back; the log keeps its id and who did it." }
                button.danger { "Remove for good" }
            }))
        }
    }
}

/// Gives an item another label, if it is still as the person saw it.
pub(super) async fn relabel(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    let id = form.text("id")?;
    let request = RelabelItemRequest {
        deployment,
        id: id.clone(),
        label: form.required("label", "Say what it is.")?,
        etag: form.text("etag")?,
    };
    let (status, said) = match visitor.relabel_item(request).await.map_err(Problem::from) {
        Ok(done) => (
            StatusCode::OK,
            html! {
                p.said role="status" { "It has another label now." }
                (alike_elsewhere(&place, &done.accepted_as))
            },
        ),
        Err(problem) if problem.is_of_input() => {
            let said = html! { p.wrong role="alert" { (shown(problem.message())) } };
            (problem.status(), said)
        }
        Err(problem) => return Err(problem),
    };
    let page = item_page(&visitor, &place, id, &said).await?;
    Ok((status, page).into_response())
}

/// Removes an item.
pub(super) async fn remove(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let request = DeleteItemRequest {
        deployment: deployment.clone(),
        id: form.text("id")?,
    };
    visitor.delete_item(request).await?;
    Ok(Redirect::to(&Tab::Gallery.of(&deployment)).into_response())
}
