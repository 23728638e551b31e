//! The page of what may be wrong in a gallery: labels that are nearly one, pictures that are enrolled twice, and
//! look-alikes.

use std::collections::BTreeSet;

use axum::extract::{Extension, Path};
use maud::{Markup, html};

use super::ask::path;
use super::gallery::{Shelf, of_item};
use super::layout::{Place, Tab, page as framed};
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, in_parts, score, shown};
use matchpoint_client::proto::{CheckItemsRequest, CheckItemsResponse, GetDriftRequest, Lookalike};

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Gallery).await?;
    let request = CheckItemsRequest {
        deployment: deployment.clone(),
    };
    let found = visitor.check_items(request).await?;
    let drift = if visitor.may(path::GET_DRIFT) {
        let request = GetDriftRequest {
            deployment,
            operating_point_id: String::new(),
        };
        Some(visitor.get_drift(request).await?)
    } else {
        None
    };
    Ok(framed(
        &visitor,
        &place,
        &html! {
            p { a href=(Tab::Gallery.of(place.name())) { "All items" } }
            h1 { "What may be wrong" }
            (alike_labels(&place, &found))
            (repeated(&place, &found))
            @if let Some(drift) = drift {
                h2 { "Accepted as another" }
                p { "Items that the operating point accepts as one of another label: one thing under two labels, a wrong label, or two things that it cannot tell apart." }
                h3 { "When they were enrolled" }
                (alike(&place, &drift.enrolled_lookalikes))
                h3 { "Searched for with their label left out" }
                (alike(&place, &drift.left_out.map(|round| round.lookalikes).unwrap_or_default()))
            }
        },
    ))
}

fn alike_labels(place: &Place, found: &CheckItemsResponse) -> Markup {
    let link = |label: &str| {
        html! { a href=(Shelf::of_label(label).address(place)) { (in_parts(label)) } }
    };
    html! {
        h2 { "Labels that may be one" }
        @if found.alike_labels.is_empty() { p.note { "No two labels are spelled nearly alike." } }
        ul.pairs {
            @for pair in &found.alike_labels {
                li { (link(&pair.label)) " and " (link(&pair.other_label)) span.small { "They differ by " (shown(&pair.differ_by)) "." } }
            }
        }
        (rest(found.alike_labels.len(), found.alike_labels_total))
    }
}

fn repeated(place: &Place, found: &CheckItemsResponse) -> Markup {
    html! {
        h2 { "Enrolled twice" }
        @if found.repeated_items.is_empty() { p.note { "No picture is enrolled twice." } }
        ul.alike {
            @for one in &found.repeated_items {
                li {
                    (side(place, &one.id, &one.label))
                    (side(place, &one.first_id, &one.first_label))
                    p {
                        @if one.label == one.first_label { "Twice under one label" } @else { "Under two labels: one of them is wrong" }
                    }
                }
            }
        }
        (rest(found.repeated_items.len(), found.repeated_items_total))
    }
}

/// How many more there are than those that are listed.
fn rest(listed: usize, total: u64) -> Markup {
    let more = total.saturating_sub(listed as u64);
    html! { @if 0 < more { p.note { "And " (count(more, "other", "others")) ". Mend these, and look again." } } }
}

fn alike(place: &Place, found: &[Lookalike]) -> Markup {
    html! {
        @if found.is_empty() { p.note { "None is known." } }
        ul.alike {
            @for one in once_each(found) {
                @let other = one.accepted_as.clone().unwrap_or_default();
                li {
                    (side(place, &one.id, &one.label))
                    (side(place, &other.id, &other.label))
                    p { "Accepted at " (score(other.decision_score)) @if 1 < one.accepted_as_count { span.small { "and " (count(u64::from(one.accepted_as_count) - 1, "other", "others")) } } }
                }
            }
        }
    }
}

/// Keeps each pair once, because two items are often accepted as each other.
fn once_each(found: &[Lookalike]) -> impl Iterator<Item = &Lookalike> {
    let mut said = BTreeSet::new();
    found.iter().filter(move |one| {
        let other = one
            .accepted_as
            .as_ref()
            .map_or("", |other| other.id.as_str());
        let mut pair = [one.id.as_str(), other];
        pair.sort_unstable();
        said.insert(pair)
    })
}

fn side(place: &Place, id: &str, label: &str) -> Markup {
    html! {
        a href=(of_item(place, "item", id)) {
            img src=(of_item(place, "item/thumbnail", id)) alt="" loading="lazy" width="120" height="120";
            span.label { (in_parts(label)) }
            span.id { (in_parts(id)) }
        }
    }
}
