//! `matchpoint status`: what a running server serves, what it promises, and what needs a person.

use serde::Serialize;

use super::exit::Exit;
use super::output::{Output, percent, short, wrapped};
use super::points::promises::{ended, promised};
use super::points::served_point::covered_items;
use super::server_address::ServerAddress;
use matchpoint_client::proto::{
    DeploymentInfo, Finding, GetServerInfoResponse, OperatingPoint, PromiseStanding,
    UndecidedReason, UnopenedDeployment, Verdict,
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

What the scopes of your key do not allow is named, and left out: the sizes that a promise covers take `calibrate`,
the findings take `label`.

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
        promise: promise(point.as_ref(), &info),
        promise_stands: decides && stands(&info) && !broken && !info.folder_changed,
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

/// Whether nothing that was enrolled or removed since the calibration has ended what it promised.
fn stands(info: &DeploymentInfo) -> bool {
    match info.promises.as_slice() {
        [] => info.within_calibrated_size,
        promises => promises.iter().all(|one| one.stands),
    }
}

/// What decides, and what it promises. `point` is `None` for whoever may not see it.
fn promise(point: Option<&OperatingPoint>, info: &DeploymentInfo) -> String {
    if info.operating_point_id.is_empty() {
        return format!(
            "accepts nothing: {}",
            why_undecided(info.undecided_reason())
        );
    }
    let said = info.promises.iter().map(|one| standing(one, point));
    let said: Vec<String> = said.collect();
    if !said.is_empty() {
        return said.join("; ");
    }
    let aim = point.map(|point| (point.growth_target_far.or(point.target_far), point));
    match aim {
        Some((Some(far), _)) => format!("aims at FAR <= {}; nothing is promised", percent(far)),
        Some((None, _)) => "decides by an estimate; nothing is promised".to_owned(),
        None => format!("{} decides; nothing is promised", info.operating_point_id),
    }
}

fn standing(one: &PromiseStanding, point: Option<&OperatingPoint>) -> String {
    let promise = promised(one);
    if !one.stands {
        return format!("promised {promise}, which has ended");
    }
    let items = point.map(|point| (covered_items(point), point.growth_target_far));
    let beside = match (one.rate.as_str(), items) {
        ("far", Some((items, Some(far)))) if !one.foreseen => {
            format!(", and FAR <= {} up to {items} items", percent(far))
        }
        ("far", Some((items, _))) => format!(", up to {items} items"),
        ("frr", _) => ", and nothing about FAR".to_owned(),
        _ => String::new(),
    };
    if one.foreseen {
        format!("foresees {promise}{beside}, by the growth that was allowed for; not certified")
    } else {
        format!("promises {promise}{beside}")
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
            "an item has changed on the disk while it was served, and the server's log names it; stop the server, remove items.graph and start it, which verifies every item; if it refuses one, serve the last snapshot; look after the disk"
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
    let urgent = |one: &&Finding| matches!(one.verdict(), Verdict::Broken | Verdict::Warning);
    let mut urgent_findings = status.findings.iter().filter(urgent);
    // Without a journal, or the scope for its report, nothing else would say so.
    if !urgent_findings.any(|one| one.subject == "gallery") {
        // What a changed folder ends is a matter of reloading it, which is said below.
        let gone = info.promises.iter();
        let gone = gone.filter(|one| !one.stands && !info.folder_changed);
        text.extend(gone.map(ended));
        let decides = !info.operating_point_id.is_empty();
        if decides && info.promises.is_empty() && !info.within_calibrated_size {
            let what = "the gallery has outgrown the calibration: calibrate again";
            text.push_str(&wrapped(what, "  WARNING  "));
        }
    }
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
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn a_promise_is_said_as_the_server_says_that_it_stands_whatever_the_key_may_see() {
        let far = PromiseStanding {
            rate: "far".to_owned(),
            target: 0.01,
            confidence: 0.95,
            bound: Some(0.009),
            stands: true,
            ..PromiseStanding::default()
        };
        let frr = PromiseStanding {
            rate: "frr".to_owned(),
            ended: "200 items are gone".to_owned(),
            stands: false,
            ..far.clone()
        };
        let review = PromiseStanding {
            rate: "review".to_owned(),
            ..frr.clone()
        };
        let point = OperatingPoint {
            growth_target_far: Some(0.02),
            valid_to_items: 500,
            ..OperatingPoint::default()
        };
        let today = |promises: &[&PromiseStanding]| DeploymentInfo {
            operating_point_id: "op-1".to_owned(),
            within_calibrated_size: true,
            promises: promises.iter().copied().cloned().collect(),
            ..DeploymentInfo::default()
        };
        let says = |point, promises: &[&PromiseStanding]| {
            let info = today(promises);
            (stands(&info), promise(point, &info))
        };
        let foreseen = PromiseStanding {
            foreseen: true,
            target: 0.02,
            ..far.clone()
        };
        for (point, promises, stood, said) in [
            (
                None,
                vec![&far],
                true,
                "promises FAR <= 1 % at 95 % confidence",
            ),
            (
                Some(&point),
                vec![&far],
                true,
                "promises FAR <= 1 % at 95 % confidence, and FAR <= 2 % up to 500 items",
            ),
            (
                Some(&point),
                vec![&foreseen],
                true,
                "foresees FAR <= 2 % at 95 % confidence, up to 500 items, by the growth that was allowed for; not certified",
            ),
            (
                None,
                vec![&frr],
                false,
                "promised FRR <= 1 % at 95 % confidence, which has ended",
            ),
            (
                None,
                vec![&far, &review],
                false,
                "promises FAR <= 1 % at 95 % confidence; promised FRR without a review <= 1 % at 95 % confidence, which has ended",
            ),
            (None, vec![], true, "op-1 decides; nothing is promised"),
        ] {
            assert_eq!(says(point, &promises), (stood, said.to_owned()));
        }
        let status = DeploymentStatus {
            promise: String::new(),
            promise_stands: false,
            findings: Vec::new(),
            scopes_missing: Vec::new(),
            info: today(&[&far, &review]),
        };
        let shown = deployment(&status);
        let ended = "  ENDED    FRR without a review <= 1 %: 200 items are gone; calibrate again\n";
        assert!(shown.contains(ended), "{shown}");
        let mut changed = status;
        changed.info.folder_changed = true;
        let shown = deployment(&changed);
        assert!(
            shown.contains("reload it") && !shown.contains("calibrate again"),
            "{shown}"
        );
        changed.info.promises.clear();
        changed.info.within_calibrated_size = false;
        let shown = deployment(&changed);
        assert!(shown.contains("outgrown the calibration"), "{shown}");
    }
}
