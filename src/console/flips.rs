//! What another operating point would decide otherwise, with the pictures that are kept.

use maud::{Markup, html};
use tonic::Code;

use super::ask::path;
use super::layout::{Place, Tab};
use super::visitor::Visitor;
use super::words::{count, in_address, in_parts, score, shown, time};
use matchpoint_client::proto::{
    CompareOperatingPointsRequest, CompareOperatingPointsResponse, Decision, Flip,
    ListAuditQueueRequest, OperatingPoint, RecordedDecision,
};

/// Number of changed decisions that are shown, of each kind.
const FLIPS: u16 = 40;
/// Number of sampled decisions that are looked at, the newest.
const SAMPLED: u32 = 1000;
/// The length of a decision's id.
const DECISION_ID: usize = 36;

/// What would change if this operating point took the place of the active one.
pub(super) async fn differences(
    visitor: &Visitor,
    place: &Place,
    point: &OperatingPoint,
) -> Markup {
    let request = CompareOperatingPointsRequest {
        deployment: place.name().to_owned(),
        from_id: String::new(),
        to_id: point.id.clone(),
        limit: u32::from(FLIPS),
    };
    // The comparison can fail because searches were not stored or no operating point is active. The
    // operating point can be activated all the same.
    let compared = visitor.compare_operating_points(request).await;
    let table_of = FlipTable {
        place,
        items: visitor.may(path::GET_ITEM),
        decisions: visitor.may(path::ANNOTATE),
    };
    let in_service = match table_of.decisions {
        true => table_of.of_service(visitor, point).await,
        false => html! {},
    };
    html! {
        h2 { "What it would change" }
        @match compared {
            Ok(compared) => (table_of.of_calibration(&compared)),
            Err(refused) => p.note { "What it would change is not known: " (shown(refused.message())) },
        }
        (in_service)
    }
}

/// What shows queries beside their best matches.
struct FlipTable<'a> {
    place: &'a Place,
    /// Whether the person may see pictures of items.
    items: bool,
    /// Whether the person may see pictures of decisions.
    decisions: bool,
}

impl FlipTable<'_> {
    fn of_calibration(&self, compared: &CompareOperatingPointsResponse) -> Markup {
        html! {
            p {
                "Of " (count(compared.searches, "recorded search", "recorded searches")) " " b { (compared.flips_total) }
                " would be decided otherwise, " (compared.improvements_total) " of them for the better. Threshold "
                (score(compared.from_threshold)) " now, " (score(compared.to_threshold)) " then."
            }
            @if !compared.flips.is_empty() {
                (table("Searches of the calibration", &["Query", "Best match", "Score", "Then", "Effect"], &html! {
                    @for flip in &compared.flips { (self.flip(flip)) }
                }))
            }
        }
    }

    fn flip(&self, flip: &Flip) -> Markup {
        html! {
            tr {
                th scope="row" { div.beside {
                    @if let Some(id) = decision_of(&flip.query_id) { (self.query(id)) }
                    div { (in_parts(&flip.query_label)) span.small { (in_parts(&flip.query_id)) } }
                } }
                (self.matched(&flip.matched_item_id, &flip.matched_label))
                td.number { (score(flip.score)) }
                td { (then(flip.accepted)) }
                td { @if flip.improves { "better" } @else { span.wrong { "worse" } } }
            }
        }
    }

    /// What would change of the sampled decisions that wait for a label.
    async fn of_service(&self, visitor: &Visitor, point: &OperatingPoint) -> Markup {
        // Scores of the journal are not those that an adjustment gives.
        if !point.adjustment.is_empty() {
            return html! { p.note { "What it would change in service is not known: it adjusts scores." } };
        }
        let request = ListAuditQueueRequest {
            deployment: self.place.name().to_owned(),
            page_size: SAMPLED,
            ..ListAuditQueueRequest::default()
        };
        match visitor.list_audit_queue(request).await {
            Ok(found) => self.of_sampled(&found.decisions, point.threshold),
            // Decisions are not recorded.
            Err(refused) if refused.code() == Code::FailedPrecondition => html! {},
            Err(refused) => {
                html! { p.note { "What it would change in service is not known: " (shown(refused.message())) } }
            }
        }
    }

    fn of_sampled(&self, sampled: &[RecordedDecision], threshold: f32) -> Markup {
        let turned = sampled.iter().filter_map(|one| {
            let then = threshold <= one.score?;
            (then != (one.decision() == Decision::Accept)).then_some((one, then))
        });
        let turned: Vec<_> = turned.collect();
        html! {
            @if !sampled.is_empty() {
                h3 { "In service" }
                p {
                    "Of the " (count(sampled.len() as u64, "latest sampled decision", "latest sampled decisions"))
                    " without a label " b { (turned.len()) } " would be decided otherwise."
                    @if usize::from(FLIPS) < turned.len() { " The first " (FLIPS) ":" }
                }
            }
            @if !turned.is_empty() {
                (table("Sampled decisions", &["Searched for", "Best match", "Score", "Then"], &html! {
                    @for (one, accepted) in turned.iter().take(usize::from(FLIPS)) {
                        tr {
                            th scope="row" { div.beside { (self.query(&one.decision_id)) (time(one.unix_milliseconds)) } }
                            (self.matched(&one.matched_item_id, &one.matched_label))
                            td.number { (score(one.score.unwrap_or_default())) }
                            td { (then(*accepted)) }
                        }
                    }
                }))
            }
        }
    }

    /// The picture of a decision, which leads to where it is labelled.
    fn query(&self, id: &str) -> Markup {
        let id = in_address(id);
        let labelling = format!("{}?decision={id}", Tab::Label.of(self.place.name()));
        let picture = self.place.below(&format!("decision/{id}/thumbnail"));
        html! { @if self.decisions { (thumb(&labelling, &picture, "What was searched for")) } }
    }

    fn matched(&self, id: &str, label: &str) -> Markup {
        let item = in_address(id);
        let page = self.place.below(&format!("item?id={item}"));
        let picture = self.place.below(&format!("item/thumbnail?id={item}"));
        html! {
            td { div.beside {
                @if self.items && !id.is_empty() { (thumb(&page, &picture, label)) }
                div { (in_parts(label)) span.small { (in_parts(id)) } }
            } }
        }
    }
}

fn thumb(page: &str, picture: &str, what: &str) -> Markup {
    html! { a.thumb href=(page) { img src=(picture) alt=(shown(what)) loading="lazy" width="64" height="64"; } }
}

fn table(name: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(name) { table {
            thead { tr { @for column in columns { th scope="col" { (column) } } } }
            tbody { (rows) }
        } }
    }
}

fn then(accepted: bool) -> &'static str {
    match accepted {
        true => "accepted",
        false => "rejected",
    }
}

/// The decision whose picture a query was: `audit export --for-calibration` names its files by decisions.
fn decision_of(query: &str) -> Option<&str> {
    let file = query.rsplit('/').next()?;
    let (name, _) = file.rsplit_once('.')?;
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        // The version of a UUID by time.
        14 => byte == b'7',
        _ => byte.is_ascii_hexdigit(),
    };
    (name.len() == DECISION_ID && name.bytes().enumerate().all(fits)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_decision_by_the_name_of_its_file() {
        let id = "0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f";
        assert_eq!(decision_of(&format!("pictures/{id}.jpg")), Some(id));
        assert_eq!(
            decision_of("images/gc_monuments_greatWall/g0_ref.jpg"),
            None
        );
        assert_eq!(decision_of(id), None);
        let other = "0199f0aa-7c1b-4e0e-8d63-0f2a9c1d4e5f";
        assert_eq!(decision_of(&format!("pictures/{other}.jpg")), None);
        assert_eq!(decision_of(&format!("{}.jpg", "-".repeat(36))), None);
    }
}
