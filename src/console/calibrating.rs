//! The page that calibrates: labelled pictures give a threshold or a refusal.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Extension, Path};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};

use super::ask::path;
use super::calibrations::CalibrationStatus;
use super::layout::{Place, Tab, form, page as framed};
use super::picked_pictures::{LIST, NotSearched, PickedPictures};
use super::posted::{FOLDER, Posted, PostedForm};
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, in_address, percent, score, shown};
use matchpoint_client::proto::calibration_settings::Target;
use matchpoint_client::proto::longrunning::Operation;
use matchpoint_client::proto::{
    CalibrateMetadata, CalibrateResponse, CalibrationSettings, CalibrationStage,
};
use matchpoint_client::{CalibrationEnd, ClientError};

/// Number of unusable queries that are listed.
const FAILED: usize = 10;

/// The path of a calibration: the name of its deployment, and its id.
type PlaceOfCalibration = Path<(String, String)>;

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = allowed(&visitor, &deployment).await?;
    Ok(asking(&visitor, &place, &html! {}))
}

async fn allowed(visitor: &Visitor, deployment: &str) -> Result<Place, Problem> {
    if !visitor.may(path::CALIBRATE) {
        let message = "your key may not calibrate; ask for one with the scope calibrate";
        return Err(Problem::plain(StatusCode::FORBIDDEN, message).with_way_back());
    }
    Place::of(visitor, deployment, Tab::Points).await
}

fn asking(visitor: &Visitor, place: &Place, said: &Markup) -> Markup {
    framed(
        visitor,
        place,
        &html! {
            p { a href=(Tab::Points.of(place.name())) { "All operating points" } }
            h1 { "Calibrate" }
            (said)
            (form(visitor, &place.below("calibrate"), "asking narrow", &html! {
                div {
                    label for="folder" { "A folder of labelled pictures" }
                    input #folder name=(FOLDER) type="file" webkitdirectory multiple required aria-describedby="about-folder";
                    p.note #about-folder {
                        "With one folder in it for each thing, named by its label; folders within that are of the same thing. Things that are not enrolled are the strangers: the promise rests on them, and each counts once. "
                        "Take other pictures than those that are enrolled. For more than fits into one request: " code { "matchpoint calibrate --server" } "."
                    }
                }
                div {
                    label for="list" { "A list of their labels, if the folders do not say them" }
                    input #list name=(LIST) type="file" accept=".csv,.tsv,text/csv,text/tab-separated-values" aria-describedby="about-list";
                    p.note #about-list {
                        "CSV or TSV: a first line with " code { "path" } " and " code { "label" } ", and " code { "id" } ", " code { "role" } " or conditions if there are any; paths from that folder on."
                    }
                }
                div {
                    label for="far" { "Of a hundred strangers, how many may be accepted at most?" }
                    input #far name="far" type="number" value="1" min="0.0000001" max="50" step="any" required;
                }
                div {
                    label for="confidence" { "At a confidence of" }
                    select #confidence name="confidence" {
                        @for (value, words) in [("0.9", "90 %"), ("0.95", "95 %"), ("0.99", "99 %")] {
                            option value=(value) selected[value == "0.95"] { (words) }
                        }
                    }
                }
                div.field {
                    button name="then" value="look" { "Only say what would come out" }
                    button.main name="then" value="decide" { "Calibrate, and let it decide" }
                }
            }))
        },
    )
}

/// Starts a calibration, and redirects to its page.
pub(super) async fn begin(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let place = allowed(&visitor, &deployment).await?;
    match started(&visitor, &place, &form).await {
        Ok(id) => {
            let course = place.below(&format!("calibrate/{}", in_address(&id)));
            Ok(Redirect::to(&course).into_response())
        }
        Err(problem) => {
            let said = html! { p.wrong role="alert" { (shown(problem.message())) } };
            let page = asking(&visitor, &place, &said);
            Ok((problem.status(), page).into_response())
        }
    }
}

/// Starts the calibration that a form asks for, and returns its id.
async fn started(visitor: &Visitor, place: &Place, form: &PostedForm) -> Result<String, Problem> {
    let settings = settings(place, form)?;
    let pictures = PickedPictures::of(form)?;
    let pictures = pictures.checked(visitor, place.name()).await?;
    start(visitor, settings, pictures)
}

/// Reads the settings of a calibration from a form.
fn settings(place: &Place, form: &PostedForm) -> Result<CalibrationSettings, Problem> {
    let number = |name: &str, missing: &str| -> Result<f64, Problem> {
        let text = form.required(name, missing)?;
        let problem = |_not_a_number| Problem::plain(StatusCode::BAD_REQUEST, missing);
        text.replace(',', ".").parse().map_err(problem)
    };
    let far = number("far", "Say how many of a hundred, such as 1 or 0.5.")?;
    Ok(CalibrationSettings {
        deployment: place.name().to_owned(),
        target: Some(Target::TargetFar(far / 100.0)),
        confidence: number("confidence", "Say at which confidence.")?,
        validate_only: form.text("then")? != "decide",
        operation_id: format!("console-{}", uuid::Uuid::now_v7()),
        ..CalibrationSettings::default()
    })
}

fn start(
    visitor: &Visitor,
    settings: CalibrationSettings,
    pictures: PickedPictures,
) -> Result<String, Problem> {
    let id = settings.operation_id.clone();
    let PickedPictures {
        queries, left_out, ..
    } = pictures;
    let calibrations = &visitor.state.calibrations;
    let Some(running) = calibrations.begin(&id, visitor.session.number(), left_out) else {
        let message = "another calibration is running, and its pictures are in memory; wait until it has ended";
        return Err(Problem::plain(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let work = visitor.calibrate(settings, queries);
    // The page answers meanwhile. A server that stops ends the task too.
    tokio::spawn(async move { running.ended(work.await) });
    Ok(id)
}

/// The progress of a calibration, or its result.
pub(super) async fn course(
    Extension(visitor): Extension<Visitor>,
    Path((deployment, id)): PlaceOfCalibration,
) -> Result<Response<Body>, Problem> {
    let place = allowed(&visitor, &deployment).await?;
    let own = visitor.session.number();
    let found = visitor.state.calibrations.status(&id, own);
    let gone = || {
        let message = "this calibration is not known any more, or is another person's; see the operating points for what it changed";
        Problem::plain(StatusCode::NOT_FOUND, message).with_way_back()
    };
    let (status, left_out) = found.ok_or_else(gone)?;
    let content = match status {
        CalibrationStatus::Running => {
            let so_far = visitor.operation(&format!("operations/{id}")).await;
            let so_far = so_far.ok().and_then(|one| CalibrationEnd::of(one).ok());
            let queries = so_far.map(|one| one.queries).unwrap_or_default();
            let page = framed(&visitor, &place, &running(&visitor, &place, &id, &queries));
            let mut response = page.into_response();
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::REFRESH, soon);
            return Ok(response);
        }
        CalibrationStatus::Ended(Ok(operation)) => ended(&place, operation, &left_out)?,
        CalibrationStatus::Ended(Err(refused)) => not_started(&place, refused.message()),
    };
    Ok(framed(&visitor, &place, &content).into_response())
}

/// Stops a calibration.
pub(super) async fn stop(
    Extension(visitor): Extension<Visitor>,
    Path((deployment, id)): PlaceOfCalibration,
) -> Result<Response<Body>, Problem> {
    let place = allowed(&visitor, &deployment).await?;
    let own = visitor.session.number();
    if visitor.state.calibrations.status(&id, own).is_some() {
        visitor.cancel(&format!("operations/{id}")).await?;
    }
    let course = place.below(&format!("calibrate/{}", in_address(&id)));
    Ok(Redirect::to(&course).into_response())
}

fn running(visitor: &Visitor, place: &Place, id: &str, queries: &CalibrateMetadata) -> Markup {
    let words = match queries.stage() {
        CalibrationStage::Choosing | CalibrationStage::Done => "A threshold is chosen and judged",
        CalibrationStage::Searching | CalibrationStage::Unspecified => {
            "Each picture is searched for"
        }
    };
    html! {
        h1 { "Calibrating" }
        div.progress aria-live="polite" {
            p {
                (words)
                @if 0 < queries.queries_total {
                    ": " b { (queries.queries_done) } " of " b { (queries.queries_total) }
                    progress max=(queries.queries_total) value=(queries.queries_done) aria-label="Searched for" {}
                } @else {
                    ": " b { (queries.queries_done) } " so far"
                }
            }
        }
        p.note { "Searches of callers go first. The page asks again by itself; nothing is changed before the end." }
        (form(visitor, &place.below(&format!("calibrate/{}", in_address(id))), "choose", &html! {
            button { "Stop" }
        }))
    }
}

/// The result: an operating point, or an error, such as a refusal with the number of labels it needs.
fn ended(place: &Place, operation: Operation, left_out: &NotSearched) -> Result<Markup, Problem> {
    let unread =
        |error: ClientError| Problem::plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
    let end = CalibrationEnd::of(operation).map_err(unread)?;
    let (title, said) = match &end.result {
        Ok(done) => ("Calibrated", chosen(place, done)),
        Err(error) => ("Not calibrated", refused(error)),
    };
    Ok(html! {
        h1 { (title) }
        (said)
        (doubts(&end.queries))
        (left_out.markup())
        p {
            a.button href=(place.below("calibrate")) { "Calibrate again" } " "
            a.button href=(Tab::Points.of(place.name())) { "All operating points" }
        }
    })
}

fn not_started(place: &Place, why: &str) -> Markup {
    html! {
        h1 { "Not calibrated" }
        section.verdict.refused role="alert" {
            p.standing { "It could not start: nothing was changed" }
            p.headline { (shown(why)) }
        }
        p { a.button href=(place.below("calibrate")) { "Try again" } }
    }
}

fn chosen(place: &Place, done: &CalibrateResponse) -> Markup {
    let point = done.operating_point.clone().unwrap_or_default();
    let far = point
        .far
        .map_or_else(|| "not known".to_owned(), |one| percent(one.rate));
    let frr = point
        .frr
        .map_or_else(|| "not known".to_owned(), |one| percent(one.rate));
    let class = if point.certified {
        "verdict promised"
    } else {
        "verdict estimated"
    };
    html! {
        section class=(class) {
            p.standing { @if done.active { "It decides now" } @else { "It would come out like this; nothing was changed" } }
            p.headline { "Accept from " (score(point.threshold)) }
            p.basis {
                @if let Some(target) = point.target_far {
                    @if point.certified { "Promised: of strangers at most " } @else { "Aimed at, and not promised: of strangers at most " }
                    (percent(target)) " are accepted"
                    @if let Some(confidence) = point.confidence { ", at a confidence of " (percent(confidence)) }
                    ". "
                }
                "Measured on " (count(point.independent_trials, "label of a stranger", "labels of strangers")) ": FAR " (far) ", FRR " (frr) "."
            }
            @if done.active {
                p { a href=(place.below(&format!("points/{}", in_address(&point.id)))) { code { (point.id) } } }
            }
        }
    }
}

fn refused(error: &ClientError) -> Markup {
    if error.reason() == Some("OPERATION_CANCELLED") {
        return html! {
            section.verdict.estimated role="status" { p.standing { "Stopped: nothing was changed" } }
        };
    }
    let (details, why) = if let ClientError::Refused {
        details, message, ..
    } = error
    {
        (Some(details), message.clone())
    } else {
        (None, error.to_string())
    };
    let detail = |key: &str| details.and_then(|all| all.get(key));
    html! {
        section.verdict.refused role="alert" {
            p.standing { "Refused: nothing was changed" }
            p.headline { (shown(&why)) }
            @if let (Some(needed), Some(present)) = (detail("trials_needed"), detail("trials_present")) {
                p.basis { "It takes " b { (shown(needed)) } " labels of strangers, and there are " b { (shown(present)) } ". More pictures of the same ones do not help." }
            }
        }
    }
}

/// Warnings about pictures and labels that count for less than they seem.
fn doubts(queries: &CalibrateMetadata) -> Markup {
    let alike: BTreeSet<(&str, &str)> = queries
        .alike_labels
        .iter()
        .map(|one| (one.label.as_str(), one.other_label.as_str()))
        .collect();
    let counted = [
        (queries.failed_total, "could not be used"),
        (
            queries.gallery_duplicates_total,
            "are enrolled themselves, or nearly: of their own label not counted",
        ),
        (
            queries.query_duplicates_total,
            "are another picture once more: under one label not counted",
        ),
        (
            queries.stranger_near_duplicates_total,
            "of strangers are nearly those of others: a certified FAR holds with their labels as one stranger and as several",
        ),
    ];
    html! {
        @if counted.iter().any(|(number, _)| 0 < *number) || !alike.is_empty() {
            h2 { "What to look at" }
            ul {
                @for (number, what) in counted.iter().filter(|(number, _)| 0 < *number) { li { b { (number) } " " (what) } }
                @for one in queries.failed.iter().take(FAILED) { li { code { (shown(&one.id)) } ": " (shown(&one.reason)) } }
                @for (label, other) in alike { li { b { (shown(label)) } " is nearly " b { (shown(other)) } ": the same thing?" } }
            }
        }
    }
}
