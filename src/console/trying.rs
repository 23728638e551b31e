//! The page that tries a picture: it shows the decision in words, and the reasons.

use axum::body::Body;
use axum::extract::{Extension, Path};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use maud::{Markup, html};

use super::ask::path;
use super::layout::{Place, Tab, form, page as framed};
use super::posted::{Posted, PostedForm};
use super::problem::Problem;
use super::scale::ScoreScale;
use super::visitor::Visitor;
use super::words::{
    count, in_address, in_parts, milliseconds, percent, promise, score, shown, undecided,
};
use matchpoint_client::proto::{
    Decision, DecisionBasis, Match, Reference, SearchRequest, SearchResponse, StageTimings,
    VerifyRequest, VerifyResponse, reference, search_request, verify_request,
};

/// Number of matches that are shown.
const MATCHES: u32 = 8;
/// The picture types that can be searched for.
const ACCEPT: &str = "image/jpeg,image/png,image/webp,image/gif,image/bmp";

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Try).await?;
    let hint = html! { p.empty { "The answer comes here." } };
    Ok(asking(&visitor, &place, "", &hint))
}

/// Searches for the picture, and shows the answer next to the form.
pub(super) async fn ask(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
    Extension(form): Posted,
) -> Result<Response<Body>, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Try).await?;
    let filter = form.text("filter")?;
    let (status, answer) = match answered(&visitor, &place, &form).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(problem) if problem.is_of_input() => (problem.status(), refused(&problem)),
        Err(problem) => return Err(problem),
    };
    let page = asking(&visitor, &place, &filter, &answer);
    Ok((status, page).into_response())
}

fn refused(problem: &Problem) -> Markup {
    html! {
        section.verdict.refused role="alert" {
            p.standing { "Not asked" }
            p.headline { (shown(problem.message())) }
        }
    }
}

async fn answered(visitor: &Visitor, place: &Place, form: &PostedForm) -> Result<Markup, Problem> {
    let missing = || Problem::plain(StatusCode::BAD_REQUEST, "Pick a picture first.");
    let image = form.file("image").ok_or_else(missing)?;
    let deployment = place.name().to_owned();
    let Some(second) = form.file("second") else {
        let request = SearchRequest {
            deployment,
            query: Some(search_request::Query::Image(image)),
            limit: MATCHES,
            filter: form.text("filter")?,
            one_per_label: true,
            unrecorded: true,
            ..SearchRequest::default()
        };
        let found = visitor.search(request).await?;
        return Ok(searched(visitor, place, &found));
    };
    let request = VerifyRequest {
        deployment,
        query: Some(verify_request::Query::Image(image)),
        reference: Some(Reference {
            source: Some(reference::Source::Image(second)),
        }),
        ..VerifyRequest::default()
    };
    Ok(compared(&visitor.verify(request).await?))
}

fn asking(visitor: &Visitor, place: &Place, filter: &str, answer: &Markup) -> Markup {
    let inputs = html! {
        (drop_zone("image", "Drop, paste or pick a picture"))
        details.second {
            summary { "Compare with a second picture" }
            (drop_zone("second", "The other picture"))
        }
        details open[!filter.is_empty()] {
            summary { "Search a part of the gallery" }
            label for="filter" { "Filter" }
            input #filter name="filter" value=(filter) placeholder="label IN (mug, cup)" spellcheck="false" autocomplete="off";
        }
        button.main { "Ask" }
        p.note { "What you try enters no rate in service: somebody chose these pictures." }
    };
    framed(
        visitor,
        place,
        &html! {
            h1 { "Is this really the same thing?" }
            div.two {
                (form(visitor, &Tab::Try.of(place.name()), "asking live", &inputs))
                div #result aria-live="polite" { (answer) }
            }
        },
    )
}

/// An area where a picture is dropped, pasted, chosen or taken with a camera.
pub(super) fn drop_zone(name: &str, words: &str) -> Markup {
    let camera = format!("{name}-camera");
    html! {
        div.drop {
            label for=(name) { (words) }
            input id=(name) name=(name) type="file" accept=(ACCEPT);
            div.camera {
                label for=(camera) { "or take one" }
                input id=(camera) name=(name) type="file" accept="image/*" capture="environment";
            }
            img.preview alt="The picture that you picked" hidden;
        }
    }
}

/// The CSS class and the word of a decision.
fn standing(decision: Decision) -> (&'static str, &'static str) {
    match decision {
        Decision::Accept => ("verdict promised", "Accept"),
        Decision::Reject => ("verdict rejected", "Reject"),
        Decision::Undecided | Decision::Unspecified => ("verdict estimated", "Undecided"),
    }
}

/// What the picture is, in a sentence. The item that was decided on need not be the first match: the best of each label
/// is found by a wider search than the one that decides.
fn headline(found: &SearchResponse) -> Markup {
    match (found.decision(), found.matches.first()) {
        (Decision::Accept, _) => html! { "This is " b { (in_parts(&found.decided_label)) } "." },
        (Decision::Undecided | Decision::Unspecified, _) => {
            html! { "Nothing is decided, and nothing may be taken for the same." }
        }
        (_, None) => html! { "Nothing was found to compare it with." },
        (_, Some(best)) => {
            html! { "This is nothing that is enrolled; nearest is " b { (in_parts(&best.label)) } "." }
        }
    }
}

fn searched(visitor: &Visitor, place: &Place, found: &SearchResponse) -> Markup {
    let basis = found.basis.clone().unwrap_or_default();
    let headline = headline(found);
    let plain = basis.adjustment.is_none();
    let scores = found.matches.iter().map(|one| one.score);
    let threshold = basis.threshold.filter(|_| plain);
    let scale = ScoreScale::of(scores, threshold);
    let pictures = visitor.may(path::GET_ITEM);
    html! {
        (verdict(found.decision(), &headline, &basis))
        @if !found.matches.is_empty() {
            h2 { "Nearest labels" }
            ol.matches {
                @for one in &found.matches { (matched(place, one, &scale, pictures)) }
            }
        }
        (grounds(found.timings, &[
            ("Searched", count(found.gallery_items, "item", "items")),
            ("Model", shown(&place.deployment.model_name).into_owned()),
            ("Index", shown(&place.deployment.index).into_owned()),
        ]))
    }
}

fn compared(found: &VerifyResponse) -> Markup {
    let headline = match found.decision() {
        Decision::Accept => "Both pictures show the same.",
        Decision::Reject => "The pictures do not show the same.",
        Decision::Undecided | Decision::Unspecified => "Nothing is decided.",
    };
    let basis = found.basis.clone().unwrap_or_default();
    html! {
        (verdict(found.decision(), &html! { (headline) }, &basis))
        (grounds(found.timings, &[("Similarity", score(found.score))]))
    }
}

fn verdict(decision: Decision, headline: &Markup, basis: &DecisionBasis) -> Markup {
    let (class, name) = match basis.review {
        true => ("verdict estimated", "Reject, and a person is to look"),
        false => standing(decision),
    };
    html! {
        section class=(class) {
            p.standing { (name) }
            p.headline { (headline) }
            @match (basis.decision_score, basis.threshold) {
                (Some(value), Some(threshold)) => {
                    (ScoreScale::of(std::iter::once(value), Some(threshold)).draw(value))
                    p { "Score " b { (score(value)) } ", accepted from " b { (score(threshold)) } " on." }
                },
                (None, Some(threshold)) => p { "Accepted from " b { (score(threshold)) } " on." },
                (_, None) => p { (undecided(basis.undecided_reason())) },
            }
            @if basis.threshold.is_some() {
                p.basis { (promise(basis)) " Operating point " code { (basis.operating_point_id) } "." }
                @if let Some(from) = basis.review_threshold { p.basis { "From " (score(from)) " on a person looks at what is rejected." } }
                @if let Some(adjustment) = &basis.adjustment {
                    p.basis { "The score is not the plain similarity: " (shown(adjustment)) "." }
                }
                @if !basis.within_calibrated_size { p.basis { (outgrown(basis)) } }
            }
        }
    }
}

/// How the gallery has changed since the calibration.
fn outgrown(basis: &DecisionBasis) -> String {
    let bound = basis.far_bound.map(percent);
    let bound = bound.map(|bound| format!(": up to {bound} of strangers may be accepted"));
    let bound = bound.unwrap_or_default();
    format!("The gallery has outgrown this operating point{bound}. Calibrate again.")
}

fn matched(place: &Place, one: &Match, scale: &ScoreScale, pictures: bool) -> Markup {
    let picture = place.below(&format!("item/thumbnail?id={}", in_address(&one.id)));
    html! {
        li {
            @if pictures { img src=(picture) alt="" loading="lazy" width="88" height="88"; }
            div {
                p.label { (in_parts(&one.label)) }
                p.id { (in_parts(&one.id)) }
                (scale.draw(one.score))
            }
            span.number { (score(one.score)) }
        }
    }
}

fn grounds(timings: Option<StageTimings>, facts: &[(&str, String)]) -> Markup {
    let timings = timings.unwrap_or_default();
    html! {
        details.grounds open {
            summary { "What it rests on" }
            dl {
                @for (name, value) in facts { dt { (name) } dd { (value) } }
                dt { "Time" }
                dd {
                    (milliseconds(timings.total_seconds)) ": waiting " (milliseconds(timings.queue_seconds))
                    ", decoding " (milliseconds(timings.decode_seconds)) ", model " (milliseconds(timings.inference_seconds))
                    ", search " (milliseconds(timings.search_seconds))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_is_named_and_not_what_a_wider_search_found_nearer() {
        let found = SearchResponse {
            decision: Decision::Accept.into(),
            decided_label: "jug".to_owned(),
            matches: vec![Match {
                label: "mug".to_owned(),
                ..Match::default()
            }],
            ..SearchResponse::default()
        };
        let said = headline(&found).into_string();
        assert!(said.contains("jug") && !said.contains("mug"), "{said}");
        let rejected = SearchResponse {
            decision: Decision::Reject.into(),
            ..found
        };
        let said = headline(&rejected).into_string();
        assert!(said.contains("nearest is <b>mug"), "{said}");
    }
}
