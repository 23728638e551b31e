//! The page of operating points: lists them with their promises, shows what another one would change, and
//! activates one.

use axum::body::Body;
use axum::extract::{Extension, Path};
use axum::http::{Response, header};
use axum::response::{Html, IntoResponse, Redirect};
use maud::{Markup, html};

use super::ask::path;
use super::flips::differences;
use super::layout::{Place, Tab, form, page as framed};
use super::posted::Posted;
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, in_address, percent, score, shown, time, undecided};
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, GetOperatingPointReportRequest, GetOperatingPointRequest,
    ListOperatingPointsRequest, MeasuredRate, OperatingPoint, PromiseStanding,
    RollBackOperatingPointRequest,
};

/// The policy of a report, which brings its style sheet along and nothing else.
const REPORT_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

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
            }
            td { (target(point)) @if is_active { (today(place, &point.id)) } }
            td.number { (threshold(point)) }
            td { (rate(point.far.as_ref())) }
            td { (rate(point.frr.as_ref())) }
            td { (time(point.created_unix_seconds.saturating_mul(1000))) }
        }
    }
}

/// What is left today of what the active operating point promised.
fn today(place: &Place, id: &str) -> Markup {
    let served = &place.deployment;
    html! {
        @if served.operating_point_id != id {
            span.small { b.wrong { "Nothing is accepted by it" } ": " (undecided(served.undecided_reason())) }
        } @else {
            @for one in &served.promises { span.small { (standing(one)) } }
        }
    }
}

fn standing(one: &PromiseStanding) -> Markup {
    let name = match one.rate.as_str() {
        "review" => "the share that is missed unseen".to_owned(),
        rate => rate.to_uppercase(),
    };
    if !one.stands {
        return html! { b.wrong { "The promise of " (name) " has ended" } ": " (shown(&one.ended)) "; calibrate again." };
    }
    html! {
        "Today " (name)
        @if one.foreseen { " is foreseen by the growth that was allowed for, and not certified" } @else { " is promised" }
        @if let Some(bound) = one.bound { ", at most " (percent(bound)) }
        "."
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
    let confidence = confidence.map_or_else(String::new, |one| format!(" at {one} confidence"));
    match (point.target_far, point.target_frr) {
        (Some(far), _) => format!("{word}FAR ≤ {}{confidence}", percent(far)),
        (None, Some(frr)) => format!("{word}FRR ≤ {}{confidence}", percent(frr)),
        (None, None) => format!("none ({})", point.policy.replace('-', " ")),
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
    let request = GetOperatingPointRequest { deployment, id };
    let found = visitor.get_operating_point(request).await?;
    let point = found.operating_point.unwrap_or_default();
    let content = if found.active {
        html! { p.said { "This one decides." (today(&place, &point.id)) } }
    } else {
        let changed = differences(&visitor, &place, &point).await;
        html! {
            (changed)
            (choice(&visitor, &place, &point, &found.etag))
        }
    };
    Ok(framed(
        &visitor,
        &place,
        &html! {
            p { a href=(Tab::Points.of(place.name())) { "All operating points" } }
            div.heading {
                h1 { code { (point.id) } }
                p { a.button href={ (address(&place, &point.id)) "/report" } { "Report" } }
            }
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
        label for=(id) { "Why? It is kept in the log." }
        input id=(id) name="reason" required maxlength="500" autocomplete="off";
    }
}

/// Serves the report of an operating point.
pub(super) async fn report(
    Extension(visitor): Extension<Visitor>,
    Path((deployment, id)): Path<(String, String)>,
) -> Result<Response<Body>, Problem> {
    let request = GetOperatingPointReportRequest { deployment, id };
    let found = visitor.get_operating_point_report(request).await?;
    let policy = [(header::CONTENT_SECURITY_POLICY, REPORT_POLICY)];
    Ok((policy, Html(found.html)).into_response())
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
