//! The page for labelling: shows the decisions that were sampled for the audit, one after the other, with
//! keyboard control.

use axum::body::Body;
use axum::extract::{Extension, Path, Query};
use axum::http::{Response, StatusCode};
use axum::response::{IntoResponse, Redirect};
use maud::{Markup, html};
use serde::Deserialize;

use super::desks::DeskKey;
use super::layout::{Place, Tab, form, page as framed};
use super::posted::{Posted, PostedForm};
use super::problem::Problem;
use super::rates;
use super::scale::ScoreScale;
use super::visitor::Visitor;
use super::words::{in_address, in_parts, score, sentences, shown, time};
use matchpoint_client::proto::annotation_result::Result as Answer;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, AnnotationKind, Decision, GetDecisionRequest,
    GetDecisionResponse, GetDriftRequest, GetDriftResponse, GroundTruth, ListAuditQueueRequest,
    ListLabelsRequest, RecordedDecision,
};

/// Number of decisions in a page of the queue; other people may have reserved some of them.
const PAGE: u32 = 100;
/// Number of labels that are suggested at once.
const OFFERED: u32 = 12;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Id of a decision to show again.
    decision: Option<String>,
}

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Label).await?;
    let id = match asked.decision {
        Some(id) => Some(id),
        None => next(&visitor, &place).await?,
    };
    shown_page(&visitor, &place, id.as_deref(), None).await
}

/// The next decision of the queue that no other person has.
async fn next(visitor: &Visitor, place: &Place) -> Result<Option<String>, Problem> {
    let mut page_token = String::new();
    loop {
        let request = ListAuditQueueRequest {
            deployment: place.name().to_owned(),
            page_size: PAGE,
            page_token,
            ..ListAuditQueueRequest::default()
        };
        let found = visitor.list_audit_queue(request).await?;
        let decisions = found.decisions.iter();
        let ids: Vec<&str> = decisions.map(|one| one.decision_id.as_str()).collect();
        let taken = visitor.state.desks.take(&desk(visitor, place), &ids);
        if taken.is_some() || found.next_page_token.is_empty() {
            return Ok(taken);
        }
        page_token = found.next_page_token;
    }
}

fn desk(visitor: &Visitor, place: &Place) -> DeskKey {
    DeskKey {
        session: visitor.session.number(),
        deployment: place.name().to_owned(),
    }
}

async fn shown_page(
    visitor: &Visitor,
    place: &Place,
    id: Option<&str>,
    problem: Option<&str>,
) -> Result<Markup, Problem> {
    let request = GetDriftRequest {
        deployment: place.name().to_owned(),
        operating_point_id: String::new(),
    };
    let drift = visitor.get_drift(request).await?;
    let back = visitor
        .state
        .desks
        .before(&desk(visitor, place), id.unwrap_or_default());
    let back = back.map(|id| {
        format!(
            "{}?decision={}",
            Tab::Label.of(place.name()),
            in_address(&id)
        )
    });
    let content = match id {
        Some(id) => {
            let found = decision(visitor, place, id).await?;
            let asked = Asking {
                visitor,
                place,
                found: &found,
                back: back.as_deref(),
                problem,
            };
            asked.markup()
        }
        None => nothing(&drift, back.as_deref()),
    };
    Ok(framed(
        visitor,
        place,
        &html! {
            (progress(&drift))
            (content)
            (so_far(&drift))
        },
    ))
}

/// Shows one decision with both pictures.
async fn decision(
    visitor: &Visitor,
    place: &Place,
    id: &str,
) -> Result<GetDecisionResponse, Problem> {
    let request = GetDecisionRequest {
        deployment: place.name().to_owned(),
        decision_id: id.to_owned(),
        include_image: true,
        include_matched_image: true,
    };
    Ok(visitor.get_decision(request).await?)
}

/// Records what a decision's picture showed.
pub(super) async fn answer(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Label).await?;
    let (id, own) = (form.text("decision")?, desk(&visitor, &place));
    let again = Redirect::to(&Tab::Label.of(place.name()));
    if form.text("answer")? == "skip" {
        visitor.state.desks.skip(&own, &id);
        return Ok(again.into_response());
    }
    let problem = match truth(&visitor, &place, &form).await? {
        Ok(truth) => annotate(&visitor, &place, &id, truth).await?,
        Err(problem) => Some(problem.to_owned()),
    };
    if let Some(problem) = problem {
        let page = shown_page(&visitor, &place, Some(&id), Some(&problem)).await?;
        return Ok((StatusCode::BAD_REQUEST, page).into_response());
    }
    visitor.state.desks.answered(&own, &id);
    Ok(again.into_response())
}

/// The truth that a form states, or a message that says what is missing.
async fn truth(
    visitor: &Visitor,
    place: &Place,
    form: &PostedForm,
) -> Result<Result<GroundTruth, &'static str>, Problem> {
    let truth = match form.text("answer")?.as_str() {
        "same" => {
            let found = decision(visitor, place, &form.text("decision")?).await?;
            GroundTruth::label(found.decision.unwrap_or_default().matched_label)
        }
        "other" => match form.text("label")? {
            label if label.is_empty() => return Ok(Err("Say which label it is.")),
            label => GroundTruth::label(label),
        },
        "stranger" => GroundTruth::stranger(form.text("stranger")?),
        "unusable" => GroundTruth::unusable(),
        _ => return Ok(Err("Say what the picture shows.")),
    };
    Ok(Ok(truth))
}

/// Sends an annotation; returns the reason if it is refused.
async fn annotate(
    visitor: &Visitor,
    place: &Place,
    id: &str,
    truth: GroundTruth,
) -> Result<Option<String>, Problem> {
    let annotation = Annotation {
        decision_id: id.to_owned(),
        ground_truth: Some(truth),
        kind: AnnotationKind::Audit.into(),
        ..Annotation::default()
    };
    let request = AnnotateDecisionsRequest {
        deployment: place.name().to_owned(),
        annotations: vec![annotation],
    };
    let answer = visitor.annotate_decisions(request).await?;
    let result = answer.results.into_iter().next().and_then(|one| one.result);
    Ok(match result {
        Some(Answer::Outcome(_)) => None,
        Some(Answer::Error(error)) => Some(error.message),
        None => Some("The server did not say whether it took the answer down.".to_owned()),
    })
}

fn progress(drift: &GetDriftResponse) -> Markup {
    html! {
        div.progress {
            h1 { "What does the picture show?" }
            @if 0 < drift.sampled {
                p {
                    b { (drift.annotated) } " of " b { (drift.sampled) } " sampled decisions labelled"
                    @if 0 < drift.unusable { ", " b { (drift.unusable) } " show what nobody can tell" }
                    progress max=(drift.sampled) value=(drift.annotated.saturating_add(drift.unusable)) aria-label="Looked at" {}
                }
            }
        }
    }
}

fn nothing(drift: &GetDriftResponse, back: Option<&str>) -> Markup {
    let words = match (drift.operating_point_id.is_empty(), drift.sampled) {
        (true, _) => {
            "No operating point is valid here, so nothing is decided and nothing sampled. Calibrate first."
        }
        (false, 0) => "No decision has been sampled yet. They come with the searches of callers.",
        (false, _) => {
            "Nothing waits for you: all sampled decisions are labelled, skipped, or on somebody else's desk."
        }
    };
    html! {
        p.empty { (words) }
        @if let Some(back) = back { p { a.button href=(back) data-key="u" { "Back to the last one " kbd { "U" } } } }
    }
}

/// A decision that the page asks about.
struct Asking<'a> {
    visitor: &'a Visitor,
    place: &'a Place,
    found: &'a GetDecisionResponse,
    back: Option<&'a str>,
    problem: Option<&'a str>,
}

impl Asking<'_> {
    fn markup(&self) -> Markup {
        let decision = self.found.decision.clone().unwrap_or_default();
        html! {
            @if let Some(problem) = self.problem { p.wrong role="alert" { (shown(problem)) } }
            @if let Some(truth) = &decision.ground_truth {
                p.said { "Labelled as " b { (shown(&truth.to_string())) } ". Another answer corrects it." }
            }
            div.label-pair { (self.pictures(&decision)) (self.answers(&decision)) }
        }
    }

    fn pictures(&self, decision: &RecordedDecision) -> Markup {
        let id = in_address(&decision.decision_id);
        let query = self.place.below(&format!("decision/{id}/picture"));
        let matched = self.place.below(&format!("decision/{id}/match"));
        html! {
            div.pair {
                figure {
                    @if self.found.image.is_empty() {
                        p.empty { "The picture was not kept. Set " code { "audit_images = true" } " to keep those of sampled decisions." }
                    } @else { img src=(query) alt="The picture that was searched for"; }
                    figcaption { "Searched for, " (time(decision.unix_milliseconds)) }
                }
                figure {
                    @if decision.matched_item_id.is_empty() {
                        p.empty { "Nothing was found." }
                    } @else if self.found.matched_image.is_empty() {
                        p.empty { "Its picture is not kept. Build with " code { "--keep-images" } " to keep those of items." }
                    } @else { img src=(matched) alt="The best match"; }
                    figcaption { "Best match: " b { (in_parts(&decision.matched_label)) } " " span.id { (in_parts(&decision.matched_item_id)) } }
                }
                (decided(decision))
            }
        }
    }

    fn answers(&self, decision: &RecordedDecision) -> Markup {
        let label = in_parts(&decision.matched_label);
        let labels = self.place.below("labels");
        html! {
            div.answers {
                @if !decision.matched_item_id.is_empty() {
                    (self.form(decision, &html! {
                        button.main name="answer" value="same" data-key="s" { "The same: " (label) " " kbd { "S" } }
                    }))
                }
                (self.form(decision, &html! {
                    label for="label" { "Another label " kbd { "O" } }
                    div.field {
                        input #label name="label" list="labels" data-labels=(labels) data-enrolled data-key="o" autocomplete="off" spellcheck="false";
                        datalist #labels {}
                        button name="answer" value="other" { "This one" }
                    }
                }))
                (self.form(decision, &html! {
                    label for="stranger" { "A stranger: nothing that is enrolled " }
                    div.field {
                        input #stranger name="stranger" placeholder="name, if known" data-key="m" autocomplete="off" spellcheck="false" aria-describedby="named";
                        button name="answer" value="stranger" data-key="n" { "Stranger " kbd { "N" } }
                    }
                    p.note #named { kbd { "M" } " to name it. The same name for the same stranger: a calibration counts each once." }
                }))
                (self.form(decision, &html! {
                    div.field {
                        button name="answer" value="unusable" data-key="x" { "Nobody can tell " kbd { "X" } }
                        button name="answer" value="skip" data-key="k" { "Skip " kbd { "K" } }
                        @if let Some(back) = self.back { a.button href=(back) data-key="u" { "Back " kbd { "U" } } }
                    }
                }))
            }
        }
    }

    fn form(&self, decision: &RecordedDecision, content: &Markup) -> Markup {
        let action = Tab::Label.of(self.place.name());
        form(
            self.visitor,
            &action,
            "answer",
            &html! {
                input type="hidden" name="decision" value=(decision.decision_id);
                (content)
            },
        )
    }
}

fn decided(decision: &RecordedDecision) -> Markup {
    let word = match decision.decision() {
        Decision::Accept => "accepted",
        Decision::Reject => "rejected",
        Decision::Undecided | Decision::Unspecified => "undecided",
    };
    let Some(value) = decision.decision_score.or(decision.score) else {
        return html! {};
    };
    let scale = ScoreScale::of(std::iter::once(value), None);
    html! {
        details.decided {
            summary { "What was decided" }
            (scale.draw(value))
            p.note { "Score " (score(value)) ": " (word) "." }
        }
    }
}

/// The rates from the labels so far, and how many more labels are needed.
fn so_far(drift: &GetDriftResponse) -> Markup {
    let missing = drift
        .recalibration
        .as_ref()
        .and_then(|one| one.annotations_missing);
    html! {
        section.so-far {
            h2 { "What the labels so far say" }
            (rates::table(drift))
            @for finding in drift.findings.iter().filter(|one| matches!(one.subject.as_str(), "far" | "frr" | "audit")) {
                p { (sentences(&finding.summary)) " " span.quietly { (sentences(&finding.recommendation)) } }
            }
            @match missing {
                Some(0) => p { "The labels at hand can certify the target again." },
                Some(more) => p { "To certify the target again from these labels it takes about " b { (more) } " more, sampled as up to now." },
                None => {}
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Typed {
    contains: String,
}

/// Lists the labels that contain the typed text.
pub(super) async fn labels(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Query(Typed { contains }): Query<Typed>,
) -> Result<Markup, Problem> {
    let request = ListLabelsRequest {
        deployment,
        contains,
        page_size: OFFERED,
        page_token: String::new(),
    };
    let found = visitor.list_labels(request).await?;
    Ok(html! {
        @for one in &found.labels { option value=(one.label) {} }
    })
}
