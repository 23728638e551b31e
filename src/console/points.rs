//! The page of operating points: lists them with their promises, shows what another one would change, and
//! activates one.

use axum::body::Body;
use axum::extract::{Extension, Path};
use axum::http::Response;
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};

use super::ask::path;
use super::layout::{Place, Tab, form, page as framed};
use super::posted::Posted;
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, in_address, in_parts, percent, score, shown, time};
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, CompareOperatingPointsRequest, CompareOperatingPointsResponse,
    GetOperatingPointRequest, ListOperatingPointsRequest, MeasuredRate, OperatingPoint,
    RollBackOperatingPointRequest,
};

/// Number of changed decisions that are shown.
const FLIPS: u32 = 40;

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Points).await?;
    let request = ListOperatingPointsRequest { deployment };
    let found = visitor.list_operating_points(request).await?;
    let active = found.active_id.as_str();
    Ok(framed(
        &visitor,
        &place,
        &html! {
            div.heading {
                h1 { "What decides" }
                @if visitor.may(path::CALIBRATE) { p { a.button href=(place.below("calibrate")) { "Calibrate" } } }
            }
            @if found.operating_points.is_empty() {
                p.empty { "There is no operating point yet: every decision is undecided. Calibrate the deployment." }
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Table" { table {
                    thead { tr { th scope="col" { "Operating point" } th scope="col" { "Promise" } th scope="col" { "Threshold" } th scope="col" { "FAR" } th scope="col" { "FRR" } th scope="col" { "Made" } } }
                    tbody { @for point in found.operating_points.iter().rev() { (row(&place, point, point.id == active)) } }
                } }
                details.change {
                    summary { "Go back to the one that decided before" }
                    (form(&visitor, &place.below("points/roll-back"), "choose", &html! {
                        input type="hidden" name="etag" value=(found.etag);
                        (reason("back-reason"))
                        button { "Roll back" }
                    }))
                }
            }
        },
    ))
}

fn address(place: &Place, id: &str) -> String {
    place.below(&format!("points/{}", in_address(id)))
}

fn row(place: &Place, point: &OperatingPoint, is_active: bool) -> Markup {
    html! {
        tr {
            th scope="row" {
                a href=(address(place, &point.id)) { code { (point.id) } }
                @if is_active { " " span.mark { "decides" } }
                span.small { (shown(&point.policy)) }
            }
            td { (target(point)) }
            td.number { (threshold(point)) }
            td { (rate(point.far.as_ref())) }
            td { (rate(point.frr.as_ref())) }
            td { (time(point.created_unix_seconds.saturating_mul(1000))) }
        }
    }
}

fn threshold(point: &OperatingPoint) -> String {
    if 1.0 < point.threshold && point.adjustment.is_empty() {
        return "accepts nothing".to_owned();
    }
    score(point.threshold)
}

/// The target that it promises or aims at.
fn target(point: &OperatingPoint) -> String {
    let word = if point.certified { "" } else { "aims at " };
    let confidence = point.confidence.map(percent);
    let confidence = confidence.filter(|_| point.certified);
    let confidence = confidence.map_or_else(String::new, |one| format!(" at {one}"));
    match (point.target_far, point.target_frr) {
        (Some(far), _) => format!("{word}FAR ≤ {}{confidence}", percent(far)),
        (None, Some(frr)) => format!("{word}FRR ≤ {}{confidence}", percent(frr)),
        (None, None) => "none".to_owned(),
    }
}

fn rate(measured: Option<&MeasuredRate>) -> Markup {
    match measured {
        Some(one) => html! {
            (percent(one.rate))
            span.small { (percent(one.lower)) " to " (percent(one.upper)) }
        },
        None => html! { "not known" },
    }
}

pub(super) async fn one(
    Extension(visitor): Extension<Visitor>,
    Path((deployment, id)): Path<(String, String)>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Points).await?;
    let request = GetOperatingPointRequest {
        deployment: deployment.clone(),
        id,
    };
    let found = visitor.get_operating_point(request).await?;
    let point = found.operating_point.unwrap_or_default();
    let content = if found.active {
        html! { p.said { "This one decides." } }
    } else {
        let request = CompareOperatingPointsRequest {
            deployment,
            from_id: String::new(),
            to_id: point.id.clone(),
            limit: FLIPS,
        };
        // The comparison can fail because searches were not stored or no operating point is active. The
        // operating point can be activated all the same.
        let compared = visitor.compare_operating_points(request).await;
        html! {
            @match compared {
                Ok(compared) => (differences(&visitor, &place, &compared)),
                Err(refused) => p.note { "What it would change is not known: " (shown(refused.message())) },
            }
            (choice(&visitor, &place, &point, &found.etag))
        }
    };
    Ok(framed(
        &visitor,
        &place,
        &html! {
            p { a href=(Tab::Points.of(place.name())) { "All operating points" } }
            h1 { code { (point.id) } }
            (facts(&point))
            (content)
        },
    ))
}

fn facts(point: &OperatingPoint) -> Markup {
    html! {
        dl.facts {
            dt { "Promise" } dd { (target(point)) }
            dt { "Threshold" } dd { (threshold(point)) @if !point.adjustment.is_empty() { ", on the scale of " (shown(&point.adjustment)) } }
            @if let Some(bound) = point.far_upper_bound { dt { "FAR at most" } dd { (percent(bound)) ", by " (count(point.independent_trials, "stranger label", "stranger labels")) } }
            @if let Some(bound) = point.frr_upper_bound { dt { "FRR at most" } dd { (percent(bound)) } }
            @if let Some(band) = &point.review { dt { "A person looks" } dd { "from " (score(band.threshold)) " on; at most " (percent(band.unseen_frr)) " of enrolled ones are missed unseen" } }
            dt { "FAR measured" } dd { (measured(point.far.as_ref())) }
            dt { "FRR measured" } dd { (measured(point.frr.as_ref())) }
            dt { "On labels that had no part" } dd { "FAR " (measured(point.held_out_far.as_ref())) br; "FRR " (measured(point.held_out_frr.as_ref())) }
            dt { "Policy" } dd { (shown(&point.policy)) }
            dt { "Gallery" } dd { (count(point.gallery_items, "item", "items")) ", valid to " (point.valid_to_items) "; " (shown(&point.index)) }
            dt { "Made" } dd { (time(point.created_unix_seconds.saturating_mul(1000))) }
        }
        @if !point.assumptions.is_empty() {
            h2 { "What the promise assumes" }
            ul { @for one in &point.assumptions { li { (shown(one)) } } }
        }
    }
}

fn measured(rate: Option<&MeasuredRate>) -> String {
    rate.map_or_else(
        || "not known".to_owned(),
        |one| {
            let ends = format!("{} to {}", percent(one.lower), percent(one.upper));
            let labels = count(one.labels, "label", "labels");
            format!("{} ({ends}), {labels}", percent(one.rate))
        },
    )
}

fn differences(
    visitor: &Visitor,
    place: &Place,
    compared: &CompareOperatingPointsResponse,
) -> Markup {
    // Seeing enrolled items needs another scope.
    let pictured = visitor.may(path::GET_ITEM);
    html! {
        h2 { "What it would change" }
        p {
            "Of " (count(compared.searches, "recorded search", "recorded searches")) " " b { (compared.flips_total) }
            " would be decided otherwise, " (compared.improvements_total) " of them for the better. Threshold "
            (score(compared.from_threshold)) " now, " (score(compared.to_threshold)) " then."
        }
        @if !compared.flips.is_empty() {
            div.scroll tabindex="0" role="region" aria-label="Table" { table {
                thead { tr { th scope="col" { "Query" } th scope="col" { "Best match" } th scope="col" { "Score" } th scope="col" { "Then" } th scope="col" { "Which is" } } }
                tbody {
                    @for flip in &compared.flips {
                        tr {
                            th scope="row" { (in_parts(&flip.query_label)) span.small { (in_parts(&flip.query_id)) } }
                            td {
                                @if pictured && !flip.matched_item_id.is_empty() {
                                    a.thumb href=(place.below(&format!("item?id={}", in_address(&flip.matched_item_id)))) {
                                        img src=(place.below(&format!("item/thumbnail?id={}", in_address(&flip.matched_item_id)))) alt=(shown(&flip.matched_label)) loading="lazy" width="64" height="64";
                                    }
                                }
                                (in_parts(&flip.matched_label)) span.small { (in_parts(&flip.matched_item_id)) }
                            }
                            td.number { (score(flip.score)) }
                            td { @if flip.accepted { "accepted" } @else { "rejected" } }
                            td { @if flip.improves { "better" } @else { span.wrong { "worse" } } }
                        }
                    }
                }
            } }
        }
    }
}

fn choice(visitor: &Visitor, place: &Place, point: &OperatingPoint, etag: &str) -> Markup {
    html! {
        h2 { "Let it decide" }
        (form(visitor, &place.below("points/activate"), "choose", &html! {
            input type="hidden" name="id" value=(point.id);
            input type="hidden" name="etag" value=(etag);
            (reason("reason"))
            button.main { "Activate" }
        }))
    }
}

fn reason(id: &str) -> Markup {
    html! {
        label for=(id) { "Why? It stands in the log." }
        input id=(id) name="reason" required maxlength="500" autocomplete="off";
    }
}

/// Activates an operating point, unless another was activated since the page was loaded.
pub(super) async fn activate(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let request = ActivateOperatingPointRequest {
        deployment: deployment.clone(),
        id: form.text("id")?,
        etag: form.text("etag")?,
        reason: form.required("reason", "Say why.")?,
    };
    visitor.activate_operating_point(request).await?;
    Ok(Redirect::to(&Tab::Points.of(&deployment)).into_response())
}

/// Activates the previous operating point again.
pub(super) async fn roll_back(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let request = RollBackOperatingPointRequest {
        deployment: deployment.clone(),
        etag: form.text("etag")?,
        reason: form.required("reason", "Say why.")?,
    };
    visitor.roll_back_operating_point(request).await?;
    Ok(Redirect::to(&Tab::Points.of(&deployment)).into_response())
}
