//! The page that calibrates: labelled pictures from a folder give a threshold or a refusal.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Extension, Path};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};

use super::ask::path;
use super::calibrations::CalibrationStatus;
use super::layout::{Place, Tab, form, page as framed};
use super::pictures::is_picture;
use super::posted::{FOLDER, Posted, PostedForm};
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, in_address, percent, score, shown};
use matchpoint_client::proto::calibration_settings::Target;
use matchpoint_client::proto::labelled_query::Query;
use matchpoint_client::proto::longrunning::Operation;
use matchpoint_client::proto::{
    CalibrateMetadata, CalibrateResponse, CalibrationSettings, CalibrationStage, LabelledQuery,
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
                        "With one folder in it for each thing, named by its label. Things that are not enrolled are the strangers: the promise rests on them, and each counts once. "
                        "Take other pictures than those that are enrolled. For more than fits into one request: " code { "matchpoint calibrate --server" } "."
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
    let started =
        settings(&place, &form).and_then(|settings| start(&visitor, settings, queries(&form)?));
    match started {
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

/// The pictures of a form, each labelled with the name of its folder. Other files are left out.
fn queries(form: &PostedForm) -> Result<Vec<LabelledQuery>, Problem> {
    let mut queries = Vec::new();
    for file in form.folder().iter().filter(|file| is_picture(&file.bytes)) {
        let mut folders = file.path.split(['/', '\\']).rev();
        let label = folders
            .nth(1)
            .filter(|_| 1 < file.path.matches(['/', '\\']).count());
        let Some(label) = label else {
            let message = format!(
                "{} lies in no folder of its own thing: pick the folder that has one folder in it for each thing",
                file.path
            );
            return Err(Problem::plain(StatusCode::BAD_REQUEST, &message));
        };
        queries.push(LabelledQuery {
            id: file.path.clone(),
            label: label.to_owned(),
            query: Some(Query::Image(file.bytes.clone())),
            ..LabelledQuery::default()
        });
    }
    if queries.is_empty() {
        let message =
            "There is no picture in that folder. Pick one with a folder in it for each thing.";
        return Err(Problem::plain(StatusCode::BAD_REQUEST, message));
    }
    Ok(queries)
}

fn start(
    visitor: &Visitor,
    settings: CalibrationSettings,
    queries: Vec<LabelledQuery>,
) -> Result<String, Problem> {
    let id = settings.operation_id.clone();
    let calibrations = visitor.state.calibrations.clone();
    if !calibrations.begin(&id, visitor.session.number()) {
        let message = "another calibration is running, and its pictures are in memory; wait until it has ended";
        return Err(Problem::plain(StatusCode::TOO_MANY_REQUESTS, message));
    }
    let work = visitor.calibrate(settings, queries);
    let own = id.clone();
    // The page answers immediately while the work goes on. A server that stops also ends the task.
    tokio::spawn(async move { calibrations.ended(&own, work.await) });
    Ok(id)
}

/// The progress of a calibration, or its result.
pub(super) async fn course(
    Extension(visitor): Extension<Visitor>,
    Path((deployment, id)): PlaceOfCalibration,
) -> Result<Response<Body>, Problem> {
    let place = allowed(&visitor, &deployment).await?;
    let found = visitor
        .state
        .calibrations
        .status(&id, visitor.session.number());
    let gone = || {
        let message = "this calibration is not known any more, or is another person's; see the operating points for what it changed";
        Problem::plain(StatusCode::NOT_FOUND, message).with_way_back()
    };
    let content = match found.ok_or_else(gone)? {
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
        CalibrationStatus::Ended(Ok(operation)) => ended(&place, operation)?,
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

/// The result: an operating point, or an error such as a refusal with the number of labels needed.
fn ended(place: &Place, operation: Operation) -> Result<Markup, Problem> {
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
        (queries.failed_total, "pictures could not be used"),
        (
            queries.gallery_duplicates_total,
            "are enrolled themselves, or nearly: of their own label not counted",
        ),
        (
            queries.query_duplicates_total,
            "are another picture once more: not counted",
        ),
        (
            queries.stranger_near_duplicates_total,
            "of strangers are nearly those of others: counted once",
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

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::Request;

    use super::*;

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture";

    /// A form with these files in its folder.
    async fn form(files: &[(&str, &[u8])]) -> PostedForm {
        let mut body = Vec::new();
        for (path, bytes) in files {
            body.extend_from_slice(
                format!("--x\r\nContent-Disposition: form-data; name=\"folder\"; filename=\"{path}\"\r\n\r\n").as_bytes(),
            );
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--x--\r\n");
        let kind = "multipart/form-data; boundary=x";
        let request = Request::builder()
            .header("content-type", kind)
            .body(())
            .unwrap();
        let read = PostedForm::read(&request.into_parts().0, Bytes::from(body)).await;
        read.map_err(|problem| problem.message().to_owned())
            .unwrap()
    }

    #[tokio::test]
    async fn the_folder_of_a_picture_is_its_label_and_what_is_no_picture_is_left_out() {
        let files: &[(&str, &[u8])] = &[
            ("mine/mug/one.jpg", JPEG),
            ("mine/mug/notes.txt", b"text"),
            ("mine/deep/jug/two.jpg", JPEG),
            ("mine/.DS_Store", b"\0"),
        ];
        let found = queries(&form(files).await).map_err(|problem| problem.message().to_owned());
        let found = found.unwrap();
        let labels: Vec<&str> = found.iter().map(|one| one.label.as_str()).collect();
        assert_eq!(labels, ["mug", "jug"]);
        assert_eq!(found[0].id, "mine/mug/one.jpg");
    }

    #[tokio::test]
    async fn a_picture_without_a_folder_of_its_own_and_an_empty_folder_are_refused() {
        for (files, said) in [
            (
                &[("mine/one.jpg", JPEG)][..],
                "mine/one.jpg lies in no folder",
            ),
            (&[("one.jpg", JPEG)], "one.jpg lies in no folder"),
            (
                &[("mine/mug/a.txt", b"text".as_slice())],
                "There is no picture",
            ),
            (&[], "There is no picture"),
        ] {
            let problem = queries(&form(files).await).err().unwrap();
            assert!(problem.message().starts_with(said), "{}", problem.message());
        }
    }
}
