//! `matchpoint status`: what a running server serves, what it promises, and what needs a person.

use serde::Serialize;

use super::exit::Exit;
use super::output::{Output, percent, short, wrapped};
use super::points::served_point::covered_items;
use super::server_address::ServerAddress;
use matchpoint_client::proto::{
    DeploymentInfo, Finding, GetServerInfoResponse, OperatingPoint, UndecidedReason,
    UnopenedDeployment, Verdict,
};
use matchpoint_client::{Client, ClientError, Fault};

/// Show what a running server serves, what it promises, and what needs a person
///
/// A few lines for each deployment: its promise, its gallery and how much of that the calibration has
/// seen, and every finding of `matchpoint drift report` that asks for something to be done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint status
  matchpoint status --server http://10.0.0.5:50051
  matchpoint status --json

What the scopes of your key do not allow is named, and left out: what is promised takes `calibrate`, the
findings take `label`.

Ends with 5 if a deployment is not served or accepts nothing, or a promise has ended or is broken.")]
pub(super) struct Status {
    #[command(flatten)]
    server: ServerAddress,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ServerStatus {
    version: String,
    onnxruntime_version: String,
    deployments: Vec<DeploymentStatus>,
    /// Those that could not be opened.
    unopened: Vec<UnopenedDeployment>,
}

#[derive(Serialize)]
struct DeploymentStatus {
    #[serde(flatten)]
    info: DeploymentInfo,
    /// What decides, in words.
    promise: String,
    /// Whether it decides, and nothing that this caller may see says that what it promises has ended.
    promise_stands: bool,
    /// What the drift report says, the most urgent first.
    findings: Vec<Finding>,
    /// Scopes that this caller lacks for the rest.
    scopes_missing: Vec<&'static str>,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let status = super::runtime::single_threaded()?.block_on(self.ask())?;
        Output::new(self.json).result(&status, text)?;
        let stands = |one: &DeploymentStatus| one.promise_stands;
        let all_stand = status.unopened.is_empty() && status.deployments.iter().all(stands);
        Ok(if all_stand {
            Exit::Done
        } else {
            Exit::Underpowered
        })
    }

    async fn ask(&self) -> anyhow::Result<ServerStatus> {
        let client = self.server.connect().await?;
        let GetServerInfoResponse {
            version,
            onnxruntime_version,
            deployments: served,
            unopened,
            ..
        } = client.server_info().await?;
        let mut deployments = Vec::new();
        for info in served {
            deployments.push(look(&client, info).await?);
        }
        Ok(ServerStatus {
            version,
            onnxruntime_version,
            deployments,
            unopened,
        })
    }
}

async fn look(client: &Client, info: DeploymentInfo) -> Result<DeploymentStatus, ClientError> {
    let mut scopes_missing = Vec::new();
    let point = match info.operating_point_id.as_str() {
        "" => None,
        id => match client.operating_point(&info.name, id).await {
            Ok(point) => Some(point),
            Err(error) if is_denied(&error) => {
                scopes_missing.push("calibrate");
                None
            }
            Err(error) => return Err(error),
        },
    };
    let findings = match client.drift(&info.name, "").await {
        Ok(drift) => drift.findings,
        // Without a journal there is nothing to report on.
        Err(ClientError::Refused {
            fault: Fault::Request,
            ..
        }) => Vec::new(),
        Err(error) if is_denied(&error) => {
            scopes_missing.push("label");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let broken = findings.iter().any(|one| one.verdict() == Verdict::Broken);
    let decides = !info.operating_point_id.is_empty();
    Ok(DeploymentStatus {
        promise: match &point {
            None if decides => promise_unseen(&info),
            point => promise(point.as_ref(), &info),
        },
        promise_stands: decides && stands(point.as_ref(), &info) && !broken && !info.folder_changed,
        findings,
        scopes_missing,
        info,
    })
}

/// Whether the server knows this caller, and does not let it see this.
fn is_denied(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Refused {
            fault: Fault::Caller,
            ..
        }
    )
}

/// What is known of a promise to whoever may not see its operating point.
fn promise_unseen(info: &DeploymentInfo) -> String {
    let standing = match (info.certified, info.far_bound, info.frr_bound) {
        (true, Some(bound), _) => format!("a FAR of at most {} is promised", percent(bound)),
        (_, _, Some(bound)) => format!("an FRR of at most {} is promised", percent(bound)),
        _ => "nothing is promised".to_owned(),
    };
    format!("{} decides; {standing}", info.operating_point_id)
}

/// Whether nothing that was enrolled or removed since the calibration has ended the promise.
fn stands(point: Option<&OperatingPoint>, info: &DeploymentInfo) -> bool {
    let frr = point.and_then(|point| point.target_frr);
    let kept = match (frr, info.frr_bound) {
        (Some(target), Some(bound)) => bound <= target,
        (Some(_), None) | (None, _) => true,
    };
    let far = point.filter(|point| point.certified && point.target_far.is_some());
    let certified = far.is_none_or(|point| info.certified || is_foreseen(point, info));
    info.within_calibrated_size && kept && certified
}

/// Whether the growth that was allowed for has come, and stands as a prediction. Without a bound for today's gallery (its
/// record is lost, or items are gone that scores were adjusted by) there is none.
fn is_foreseen(point: &OperatingPoint, info: &DeploymentInfo) -> bool {
    let is_grown = info.items_added.is_some_and(|added| 0 < added);
    point.growth_target_far.is_some() && is_grown && info.far_bound.is_some()
}

fn promise(point: Option<&OperatingPoint>, info: &DeploymentInfo) -> String {
    let Some(point) = point else {
        return format!(
            "accepts nothing: {}",
            why_undecided(info.undecided_reason())
        );
    };
    let aim = match (
        point.growth_target_far.or(point.target_far),
        point.target_frr,
    ) {
        (Some(far), _) => format!("FAR <= {}", percent(far)),
        (None, Some(frr)) => format!("FRR <= {}, and nothing about FAR", percent(frr)),
        (None, None) => return "decides by an estimate; nothing is promised".to_owned(),
    };
    match point.confidence {
        Some(confidence) if point.certified => {
            let (confidence, items) = (percent(confidence), covered_items(point));
            let of = format!("{aim} at {confidence} confidence, up to {items} items");
            let grown = point.target_far.is_some() && !info.certified;
            match (stands(Some(point), info), grown) {
                (true, false) => format!("promises {of}"),
                (true, true) => {
                    format!("foresees {of}, by the growth that was allowed for; not certified")
                }
                (false, _) => format!("promised {of}; nothing is promised of today's gallery"),
            }
        }
        _ => format!("aims at {aim}; nothing is promised"),
    }
}

/// Why a deployment decides nothing, and what to do.
fn why_undecided(reason: UndecidedReason) -> &'static str {
    match reason {
        UndecidedReason::OperatingPointMissing => {
            "no operating point is active; run `matchpoint calibrate`, or activate one (`matchpoint points`)"
        }
        UndecidedReason::OperatingPointMismatch => {
            "its operating point was calibrated with another model, gallery or index; run `matchpoint calibrate`"
        }
        UndecidedReason::OperatingPointUnreadable => {
            "its operating point is missing from the disk, or damaged, and the server's log says what; restore the deployment, or run `matchpoint calibrate`"
        }
        UndecidedReason::GalleryDamaged => {
            "an item has changed on the disk while it was served, and the server's log names it; stop the server, remove items.graph and start it, which verifies every item; look after the disk"
        }
        // Of searches only, or of a server that does not say.
        UndecidedReason::NoOtherLabel | UndecidedReason::Unspecified => {
            "there is no valid operating point"
        }
    }
}

fn text(status: &ServerStatus) -> String {
    let mut text = format!(
        "Matchpoint {}, ONNX Runtime {}\n",
        status.version, status.onnxruntime_version
    );
    for one in &status.deployments {
        text.push('\n');
        text.push_str(&deployment(one));
    }
    for one in &status.unopened {
        text.push_str(&format!(
            "\n{}: not served, {}: the log of the server's start has the words\n",
            one.name, one.reason
        ));
    }
    if status.deployments.is_empty() {
        text.push_str("no deployment is served\n");
    }
    text
}

fn deployment(status: &DeploymentStatus) -> String {
    let info = &status.info;
    let mut text = wrapped(&status.promise, &format!("{}: ", info.name));
    let gallery = format!(
        "{} items of {} labels{}",
        info.gallery_items,
        info.gallery_labels,
        coverage(info)
    );
    text.push_str(&wrapped(&gallery, "  gallery  "));
    if !info.state.is_empty() {
        let access = if info.read_only { ", read-only" } else { "" };
        text.push_str(&format!("  state    {}{access}\n", info.state));
    }
    text.push_str(&format!(
        "  model    {} {} on {}, {}\n",
        info.model_name,
        info.precision,
        info.execution_provider,
        short(&info.model_fingerprint)
    ));
    // Without a journal there is no report that would say so.
    let told = status.findings.iter().any(|one| one.subject == "gallery");
    if !info.operating_point_id.is_empty() && !info.within_calibrated_size && !told {
        let what =
            "the gallery has outgrown the calibration, and the promise has ended: calibrate again";
        text.push_str(&wrapped(what, "  WARNING  "));
    }
    let urgent = |one: &&Finding| matches!(one.verdict(), Verdict::Broken | Verdict::Warning);
    if !info.copy_of.is_empty() {
        let what = format!(
            "this is a copy, restored from snapshot {}, and takes writes: each makes it differ from the other copies; serve copies with read_only = true, or say by only_copy = true that no other takes writes",
            short(&info.copy_of)
        );
        text.push_str(&wrapped(&what, "  WARNING  "));
    }
    if info.folder_changed {
        let what = "the folder has changed since it was opened: reload it (matchpoint switch --servers URL); until then nothing is promised";
        text.push_str(&wrapped(what, "  WARNING  "));
    }
    for one in status.findings.iter().filter(urgent) {
        let sentence = format!("{} {}", one.summary, one.recommendation);
        text.push_str(&wrapped(
            sentence.trim(),
            &format!("  {:<8} ", one.verdict().name()),
        ));
    }
    if !status.scopes_missing.is_empty() {
        text.push_str(&format!(
            "  not allowed to see the rest, which takes a key with: {}\n",
            status.scopes_missing.join(", ")
        ));
    }
    let unknown = status.findings.iter();
    let unknown = unknown.filter(|one| one.verdict() == Verdict::Unknown);
    match unknown.count() {
        0 => {}
        count => text.push_str(&format!(
            "  not known in service: {count} of {} findings (matchpoint drift report)\n",
            status.findings.len()
        )),
    }
    text
}

fn coverage(info: &DeploymentInfo) -> String {
    match (info.gallery_coverage, info.items_added) {
        (Some(share), Some(added)) => format!(
            "; its calibration covers {} of them, {} ({added}) were added or changed since{}",
            percent(share),
            percent(1.0 - share),
            left_out(info)
        ),
        _ => left_out(info),
    }
}

/// What it accepts of its own labels.
fn left_out(info: &DeploymentInfo) -> String {
    let Some(round) = &info.left_out else {
        return String::new();
    };
    format!(
        "; with their label left out, {} of {} are accepted as others ({} to {})",
        round.accepted,
        round.searches,
        percent(round.lower),
        percent(round.upper)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_stands_by_allowed_growth_only_where_the_gallery_grew_and_has_a_bound() {
        let point = OperatingPoint {
            certified: true,
            target_far: Some(0.01),
            growth_target_far: Some(0.02),
            confidence: Some(0.95),
            ..OperatingPoint::default()
        };
        let today = |items_added, far_bound| DeploymentInfo {
            within_calibrated_size: true,
            items_added,
            far_bound,
            ..DeploymentInfo::default()
        };
        let says =
            |info: &DeploymentInfo| (stands(Some(&point), info), promise(Some(&point), info));
        let (stood, said) = says(&today(Some(50), Some(0.015)));
        assert!(stood && said.starts_with("foresees FAR <= 2 %"), "{said}");
        // The record of what the calibration saw is lost; items are gone that scores were adjusted by.
        for info in [
            today(None, None),
            today(Some(0), None),
            today(Some(50), None),
        ] {
            let (stood, said) = says(&info);
            assert!(!stood && said.starts_with("promised FAR"), "{said}");
        }
    }
}
