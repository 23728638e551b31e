//! The page about promises: whether each deployment keeps its promise, since when, and what to do.

use axum::extract::{Extension, Path};
use maud::{Markup, html};

use super::course;
use super::layout::{Place, Tab, page as framed};
use super::problem::Problem;
use super::rates;
use super::visitor::Visitor;
use super::words::{count, percent, score, sentences, shown, time};
use matchpoint_client::proto::{
    CanaryRound, ErrorGroup, Evidence, Finding, GetDriftRequest, GetDriftResponse, LeftOutCheck,
    ReviewShare, TrafficComparison, Verdict,
};

/// Number of traffic shares that are shown, those with the most evidence.
const SHARES: usize = 8;

/// The state of a promise, judged by all findings together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Kept,
    Unknown,
    AtRisk,
    Broken,
}

impl Standing {
    /// The worst finding. Without findings, nothing is known.
    fn of(findings: &[Finding]) -> Self {
        let each = findings.iter().filter_map(|one| match one.verdict() {
            Verdict::Broken => Some(Self::Broken),
            Verdict::Warning => Some(Self::AtRisk),
            Verdict::Unknown => Some(Self::Unknown),
            Verdict::Kept => Some(Self::Kept),
            Verdict::Note | Verdict::Unspecified => None,
        });
        each.max().unwrap_or(Self::Unknown)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kept => "Kept",
            Self::Unknown => "Not known",
            Self::AtRisk => "At risk",
            Self::Broken => "Broken",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Kept => "promised",
            Self::Unknown | Self::AtRisk => "estimated",
            Self::Broken => "refused",
        }
    }
}

pub(super) async fn page(
    Extension(visitor): Extension<Visitor>,
    Path(deployment): Path<String>,
) -> Result<Markup, Problem> {
    let place = Place::of(&visitor, &deployment, Tab::Promise).await?;
    let mut all = Vec::new();
    for name in place.all() {
        all.push((name, drift(&visitor, name).await));
    }
    let own = drift(&visitor, place.name()).await?;
    Ok(framed(
        &visitor,
        &place,
        &html! {
            h1 { "Is the promise kept?" }
            @if 1 < all.len() {
                ul.overview {
                    @for (name, found) in &all { (card(name, name == &place.name(), found.as_ref().ok())) }
                }
            }
            (details(&own, &Tab::Label.of(place.name())))
        },
    ))
}

async fn drift(visitor: &Visitor, name: &str) -> Result<GetDriftResponse, Problem> {
    let request = GetDriftRequest {
        deployment: name.to_owned(),
        operating_point_id: String::new(),
    };
    Ok(visitor.get_drift(request).await?)
}

/// One deployment in the overview; `None` if it could not be asked.
fn card(name: &str, is_own: bool, found: Option<&GetDriftResponse>) -> Markup {
    let standing = found.map(|found| Standing::of(&found.findings));
    html! {
        li class=(standing.unwrap_or(Standing::Unknown).class()) {
            a href=(Tab::Promise.of(name)) aria-current=[is_own.then_some("true")] {
                span.label { (shown(name)) }
                span.standing { (standing.unwrap_or(Standing::Unknown).word()) }
                @if let Some(since) = found.and_then(since) { span.small { (since) } }
            }
        }
    }
}

/// The time since when this state exists.
fn since(found: &GetDriftResponse) -> Option<Markup> {
    let alarm = |evidence: Option<Evidence>| evidence?.alarm_unix_milliseconds;
    let alarms = [alarm(found.far_evidence), alarm(found.frr_evidence)];
    if let Some(at) = alarms.into_iter().flatten().min() {
        return Some(html! { "since " (time(at)) });
    }
    let reset = found.resets.last().map(|reset| reset.unix_milliseconds);
    let from = reset.or(found.first_sampled_unix_milliseconds)?;
    Some(html! { "by decisions since " (time(from)) })
}

fn details(found: &GetDriftResponse, labelling: &str) -> Markup {
    if found.operating_point_id.is_empty() {
        return html! {
            section.verdict.estimated {
                p.standing { "Nothing is promised" }
                p.headline { "No operating point is valid here, so nothing is accepted. Calibrate the deployment, or activate an operating point." }
            }
        };
    }
    let standing = Standing::of(&found.findings);
    let class = format!("verdict {}", standing.class());
    html! {
        section class=(class) {
            p.standing { (standing.word()) @if let Some(since) = since(found) { span.quietly { " " (since) } } }
            @if let Some(first) = found.findings.first() {
                p.headline { (sentences(&first.summary)) }
                @if !first.recommendation.is_empty() { p { (sentences(&first.recommendation)) } }
            }
            p.basis { "Operating point " code { (found.operating_point_id) } "; " (found.annotated) " of " (found.sampled) " sampled decisions are labelled." }
            @if found.annotated < found.sampled { p { a.button href=(labelling) { "Label decisions" } } }
        }
        @if 1 < found.findings.len() {
            h2 { "What else is known, and what is not" }
            dl.findings { @for finding in found.findings.iter().skip(1) { (one(finding)) } }
        }
        h2 { "Rates in service" }
        (rates::table(found))
        (course::charts(&found.history, [found.far_evidence, found.frr_evidence]))
        (evidence(found))
        @if let Some(share) = &found.reviews { (reviews(share)) }
        @if let Some(traffic) = &found.traffic { (compared(traffic)) }
        @if let Some(round) = &found.canaries { (canaries(round)) }
        (gallery(found))
        @if !found.error_groups.is_empty() { (groups(&found.error_groups)) }
    }
}

fn one(finding: &Finding) -> Markup {
    let standing = Standing::of(std::slice::from_ref(finding));
    let (class, word) = match finding.verdict() {
        Verdict::Note => ("note", "Note"),
        Verdict::Kept
        | Verdict::Unknown
        | Verdict::Warning
        | Verdict::Broken
        | Verdict::Unspecified => (standing.class(), standing.word()),
    };
    html! {
        dt class=(class) { span.standing { (word) } }
        dd { (sentences(&finding.summary)) " " span.quietly { (sentences(&finding.recommendation)) } }
    }
}

/// The evidence for a rise, which is valid however often it is checked.
fn evidence(found: &GetDriftResponse) -> Markup {
    let each = [("FAR", found.far_evidence), ("FRR", found.frr_evidence)];
    html! {
        h2 { "Evidence that a rate is above its limit" }
        dl {
            @for (name, evidence) in each {
                dt { (name) }
                @match evidence {
                    Some(one) => dd {
                        "ln E = " (format!("{:.2}", one.log_e_value)) ", an alarm from " (format!("{:.2}", one.log_e_value_alarm))
                        "; a sudden rise: " (percent(one.cusum_ratio)) " of what makes it suspected"
                        @if let Some(onset) = one.onset_unix_milliseconds { ", beginning " (time(onset)) }
                    },
                    None => dd { "There is nothing to hold it against." },
                }
            }
        }
        @for reset in &found.resets {
            p.note { "Evidence was reset " (time(reset.unix_milliseconds)) " by " (shown(&reset.requested_by)) ": " (shown(&reset.reason)) }
        }
    }
}

/// The share of searches that go to a person, compared with the prediction of the calibration.
fn reviews(share: &ReviewShare) -> Markup {
    html! {
        h2 { "Searches that go to a person" }
        p {
            (share.reviewed) " of " (count(share.searches, "search", "searches"))
            @if let Some(rate) = share.rate { ": " b { (percent(rate)) } }
            ". At calibration " (percent(share.calibrated_mated)) " of what is enrolled and " (percent(share.calibrated_non_mated)) " of strangers: "
            (percent(share.predicted_lower)) " to " (percent(share.predicted_upper)) " is foreseen, whatever part is enrolled."
        }
    }
}

fn compared(traffic: &TrafficComparison) -> Markup {
    html! {
        h2 { "Do searches look like those of the calibration?" }
        p {
            @match traffic.alarm_unix_milliseconds {
                Some(since) if traffic.alarm => { b.wrong { "No, since " (time(since)) "." } },
                _ => "No alarm.",
            }
            " " (count(traffic.compared_searches, "search", "searches")) " compared, with "
            (count(traffic.mated_labels, "label", "labels")) " and " (count(traffic.stranger_labels, "stranger", "strangers")) " of the calibration."
        }
        @if !traffic.shares.is_empty() {
            div.scroll tabindex="0" role="region" aria-label="Table" { table {
                thead { tr { th scope="col" { "Searches that" } th scope="col" { "At calibration" } th scope="col" { "At most" } th scope="col" { "In all" } th scope="col" { "Lately" } } }
                tbody {
                    @for share in traffic.shares.iter().take(SHARES) {
                        tr {
                            th scope="row" { (shown(&share.name)) }
                            td { (percent(share.calibrated)) }
                            td { (percent(share.limit)) }
                            td { (known(share.overall)) }
                            td { (known(share.recent)) }
                        }
                    }
                }
            } }
        }
    }
}

fn known(share: Option<f64>) -> String {
    share.map_or_else(|| "not known".to_owned(), percent)
}

fn canaries(round: &CanaryRound) -> Markup {
    html! {
        h2 { "Canaries" }
        p {
            "Searched for " (time(round.unix_milliseconds)) ": of " (count(round.mated, "enrolled one", "enrolled ones")) " "
            (round.mated_errors) " missed, of " (count(round.non_mated, "stranger", "strangers")) " " (round.non_mated_errors) " accepted."
        }
        @if !round.changed.is_empty() { p { "Answered otherwise than before: " (shown(&round.changed.join(", "))) } }
        @if !round.failed.is_empty() { p.wrong { "Failed: " (shown(&round.failed.join("; "))) } }
    }
}

/// How the gallery has changed, and what it accepts among its own items.
fn gallery(found: &GetDriftResponse) -> Markup {
    html! {
        h2 { "The gallery since the calibration" }
        @match (found.gallery_coverage, found.items_added, found.items_removed) {
            (Some(share), added, removed) => p {
                "The calibration has seen " (percent(share)) " of today's gallery; "
                (count(added.unwrap_or_default(), "item", "items")) " added or changed since, "
                (count(removed.unwrap_or_default(), "item", "items")) " removed or changed."
            },
            (None, ..) => p { "How much of today's gallery the calibration has seen is not known." },
        }
        @if let Some(round) = &found.left_out { (left_out(round)) }
    }
}

fn left_out(round: &LeftOutCheck) -> Markup {
    html! {
        p {
            "Of " (count(round.searches, "label", "labels")) " searched for with itself left out, " (round.accepted)
            " were accepted as another: " (percent(round.rate)) " (" (percent(round.lower)) " to " (percent(round.upper)) ")"
            @if round.above_limit { ", " b.wrong { "more than the promise allows" } }
            ". " span.quietly { (time(round.unix_milliseconds)) }
        }
        @if !round.lookalikes.is_empty() {
            details {
                summary { "Which ones" }
                ul {
                    @for one in &round.lookalikes {
                        @let other = one.accepted_as.clone().unwrap_or_default();
                        li { b { (shown(&one.label)) } " as " b { (shown(&other.label)) } ", " (score(other.decision_score)) " " span.id { (shown(&one.id)) " as " (shown(&other.id)) } }
                    }
                }
            }
        }
    }
}

fn groups(groups: &[ErrorGroup]) -> Markup {
    html! {
        h2 { "What errors have in common" }
        ul {
            @for group in groups {
                li {
                    @if !group.metadata_key.is_empty() { (shown(&group.metadata_key)) " = " }
                    b { (shown(&group.value)) } ": " (group.errors) " of " (group.total_errors) " errors of the " (group.rate.to_uppercase())
                    ", in " (group.trials) " of " (group.total_trials) " labels"
                }
            }
        }
        p.note { "More than chance explains: a hint where to look." }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_stands_as_the_worst_of_what_was_found() {
        let finding = |verdict: Verdict| Finding {
            verdict: verdict.into(),
            ..Finding::default()
        };
        let standing = |verdicts: &[Verdict]| {
            let findings: Vec<Finding> = verdicts.iter().copied().map(finding).collect();
            Standing::of(&findings)
        };
        assert_eq!(standing(&[]), Standing::Unknown);
        assert_eq!(standing(&[Verdict::Note]), Standing::Unknown);
        assert_eq!(standing(&[Verdict::Kept, Verdict::Note]), Standing::Kept);
        assert_eq!(
            standing(&[Verdict::Kept, Verdict::Unknown]),
            Standing::Unknown
        );
        assert_eq!(
            standing(&[Verdict::Broken, Verdict::Kept]),
            Standing::Broken
        );
    }
}
