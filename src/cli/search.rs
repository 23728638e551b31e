//! `matchpoint search`: ask a running server about images.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Output, ShownFlags, percent, wrapped};
use super::server_address::ServerAddress;
use super::standard_streams::read_image_at;
use crate::telemetry;
use matchpoint_client::Client;
use matchpoint_client::proto::search_request::Query;
use matchpoint_client::proto::{Decision, DecisionBasis, SearchRequest, SearchResponse};

/// Ask a running server about images
///
/// Prints the decision on each image, its nearest items with their scores, and what the decision
/// rests on. A REJECT is an answer, not an error: the exit code is 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint search photo.jpg
  matchpoint search --server http://10.0.0.5:50051 --deployment shop --limit 3 a.jpg b.png
  matchpoint search photo.jpg --filter 'metadata.camera = front AND label != mug'
  matchpoint search photo.jpg --condition camera=gate
  convert photo.heic jpg:- | matchpoint search -
  matchpoint search photo.jpg --json")]
pub(super) struct SearchArgs {
    /// The images; - for one on standard input
    #[arg(required = true)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    server: ServerAddress,
    /// The deployment to search; may be left out if the server has one
    #[arg(long, default_value = "", hide_default_value = true)]
    deployment: String,
    /// How many items to show, at most: 1 to 1000
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Compare with every item, instead of asking an approximate index
    #[arg(long)]
    exact: bool,
    /// The items that may be found and decided on, as in docs/filters.md
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    /// Show the best item of each label
    #[arg(long)]
    one_per_label: bool,
    /// Show no item that is less similar: -1 to 1. The decision stays what it is
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// What is known of the images beside what they show, such as `camera=gate`; may be repeated
    ///
    /// Compared with the columns of the same names that the calibration's queries had. Does not influence
    /// the decision.
    #[arg(long = "condition", value_name = "NAME=VALUE", value_parser = condition)]
    conditions: Vec<(String, String)>,
    /// The state that is to decide, as `matchpoint status` shows it; another one is refused
    #[arg(
        long,
        value_name = "STATE",
        default_value = "",
        hide_default_value = true
    )]
    expect_state: String,
    #[command(flatten)]
    shown: ShownFlags,
}

fn condition(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("has no `=`; write NAME=VALUE, such as camera=gate")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// One image's answer, or its error.
#[derive(Serialize)]
struct Answer {
    image: PathBuf,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    found: Option<SearchResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl SearchArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let answers = super::runtime::single_threaded()?.block_on(self.ask())?;
        let failed = answers.iter().any(|answer| answer.error.is_some());
        Output::new(self.shown.json).result(&answers, |answers| {
            let text = answers
                .iter()
                .map(|answer| text(answer, self.shown.verbose));
            text.collect::<Vec<_>>().join("\n")
        })?;
        Ok(if failed { Exit::SomeFailed } else { Exit::Done })
    }

    async fn ask(&self) -> anyhow::Result<Vec<Answer>> {
        let client = self.server.connect().await?;
        let mut answers = Vec::new();
        for image in &self.images {
            let outcome = self.ask_one(&client, image).await;
            let (found, error) = match outcome {
                Ok(found) => (Some(found), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            answers.push(Answer {
                image: image.clone(),
                found,
                error,
            });
        }
        Ok(answers)
    }

    async fn ask_one(&self, client: &Client, image: &Path) -> anyhow::Result<SearchResponse> {
        let bytes =
            read_image_at(image).map_err(|cause| anyhow::anyhow!("cannot be read: {cause}"))?;
        let request = SearchRequest {
            deployment: self.deployment.clone(),
            query: Some(Query::Image(bytes.into())),
            limit: self.limit,
            exact: self.exact,
            filter: self.filter.clone(),
            one_per_label: self.one_per_label,
            min_score: self.min_score,
            ef_search: 0,
            conditions: self.conditions.iter().cloned().collect(),
            expect_state: self.expect_state.clone(),
            unrecorded: false,
        };
        Ok(client.search(request, None).await?)
    }
}

fn text(answer: &Answer, verbose: bool) -> String {
    let image = answer.image.display().to_string();
    let image = telemetry::escaped(&image);
    match (&answer.found, &answer.error) {
        (Some(found), _) => {
            let figures = if verbose {
                figures(found)
            } else {
                String::new()
            };
            format!("{image}\n{}{figures}", describe(found))
        }
        (None, error) => format!(
            "{image}\n  failed: {}\n",
            error.as_deref().unwrap_or("unknown")
        ),
    }
}

/// How the gallery has changed since the calibration, and what it costs the promise.
fn outgrown(basis: &DecisionBasis) -> String {
    let seen = match (basis.gallery_coverage, basis.items_added) {
        (Some(share), Some(added)) => format!(
            "its calibration covers {} of today's gallery, {} ({added} items) were added or changed since",
            percent(share),
            percent(1.0 - share)
        ),
        _ => "how much of today's gallery its calibration covers is not known".to_owned(),
    };
    let bound = basis
        .far_bound
        .map(|bound| format!("; up to {} of strangers may be accepted", percent(bound)))
        .unwrap_or_default();
    format!("  note: the gallery has outgrown this operating point: {seen}{bound}; recalibrate\n")
}

/// What the operating point promises, in words.
fn promise(basis: &DecisionBasis) -> String {
    let confidence = percent(basis.confidence.unwrap_or_default());
    match (basis.target_far, basis.target_frr) {
        (Some(far), _) if basis.certified => {
            format!(
                "promised: FAR <= {} at {confidence} confidence",
                percent(far)
            )
        }
        (Some(far), _) => format!(
            "aimed at, not promised: FAR <= {} at {confidence} confidence",
            percent(far)
        ),
        (None, Some(frr)) => format!(
            "promised: FRR <= {} at {confidence} confidence, nothing about FAR",
            percent(frr)
        ),
        (None, None) => "an estimate, nothing is promised".to_owned(),
    }
}

/// An answer, for a person to read.
pub(super) fn describe(found: &SearchResponse) -> String {
    let basis = found.basis.clone().unwrap_or_default();
    let decision = found.decision().name();
    let decision = if basis.review {
        format!("{decision}, for a person to review:")
    } else {
        decision.to_owned()
    };
    let mut text = match basis.threshold {
        Some(threshold) => {
            let line = format!(
                "{} {} against threshold {threshold:.4} ({}, {})",
                if basis.adjustment.is_some() {
                    "decision score"
                } else {
                    "best score"
                },
                basis
                    .decision_score
                    .map_or_else(|| "none".to_owned(), |score| format!("{score:.4}")),
                promise(&basis),
                basis.operating_point_id,
            );
            wrapped(&line, &format!("  {decision}  "))
        }
        None => format!(
            "  {decision}  {}; nothing is accepted without a valid operating point\n",
            basis.undecided_reason().name(),
        ),
    };
    if basis.threshold.is_some() && !basis.within_calibrated_size {
        text.push_str(&outgrown(&basis));
    }
    if let Some(adjustment) = &basis.adjustment {
        text.push_str(&format!("  decision score: {adjustment}\n"));
    }
    let first = found.matches.first();
    if found.decision() == Decision::Accept
        // An older server does not name it.
        && !found.decided_item_id.is_empty()
        && first.is_none_or(|first| first.id != found.decided_item_id)
    {
        // The matches are of another search than the one that decides, such as an exact one.
        text.push_str(&format!(
            "  accepted: {} ({})\n",
            found.decided_label, found.decided_item_id
        ));
    }
    let width = found
        .matches
        .iter()
        .map(|one| one.label.chars().count())
        .max()
        .unwrap_or(0);
    for one in &found.matches {
        text.push_str(&format!(
            "    {:.4}  {:<width$}  {}\n",
            one.score, one.label, one.id
        ));
    }
    text
}

/// Every figure besides what was found.
fn figures(found: &SearchResponse) -> String {
    let timings = found.timings.unwrap_or_default();
    format!(
        "  {} items searched, model {}, {:.1} ms (decode {:.1}, inference {:.1}, search {:.2})\n",
        found.gallery_items,
        output::short(&found.model_fingerprint),
        timings.total_seconds * 1e3,
        timings.decode_seconds * 1e3,
        timings.inference_seconds * 1e3,
        timings.search_seconds * 1e3,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchpoint_client::proto::Match;

    #[test]
    fn what_was_accepted_is_named_where_it_is_not_the_first_match() {
        let of = |id: &str| Match {
            id: id.to_owned(),
            label: format!("label of {id}"),
            ..Match::default()
        };
        let found = |matches: &[&str]| SearchResponse {
            decision: Decision::Accept.into(),
            decided_item_id: "jug".to_owned(),
            decided_label: "label of jug".to_owned(),
            matches: matches.iter().map(|id| of(id)).collect(),
            ..SearchResponse::default()
        };
        let accepted = "accepted: label of jug (jug)";
        assert!(!describe(&found(&["jug", "mug"])).contains(accepted));
        for matches in [&["mug", "jug"][..], &[]] {
            assert!(describe(&found(matches)).contains(accepted));
        }
    }
}
