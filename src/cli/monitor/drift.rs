//! `matchpoint drift`: is the promise kept in service?

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::drift_fleet::FleetReport;
use super::served_deployment::ServedDeploymentFlags;
use crate::cli::exit::Exit;
use crate::cli::output::file::OutputFile;
use crate::cli::output::{Output, percent, wrapped};
use crate::clock::{now_rfc_3339, rfc_3339};
use crate::telemetry::escaped;
use matchpoint_client::proto::{
    AuditedRate, DriftReset, Evidence, Finding, GetDriftResponse, RateHistoryPoint, ReviewShare,
    TrafficShare, Verdict,
};
use matchpoint_report::RateInterval;
use matchpoint_report::drift::{DriftFinding, DriftReport, DriftStanding, RateCourse};

/// Say whether the operating point keeps its promise in service
///
/// Rests on the labels of sampled decisions (`matchpoint audit`). What no label bears on is not known,
/// and is not shown as zero.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint drift report
  matchpoint drift report --deployment shop --json
  matchpoint drift report --servers http://a:50051,http://b:50051,http://c:50051
  matchpoint drift report --html drift.html
  matchpoint drift history --deployment shop
  matchpoint drift reset --reason 'cleaned the camera at the gate' --requested-by anna

Ends with 0 whatever is found; a script looks at `findings[].verdict` of the JSON.")]
pub(crate) struct DriftArgs {
    #[command(subcommand)]
    command: DriftCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DriftCommand {
    /// What is known, what is not, and what to do next
    Report(DriftReportArgs),
    /// The operating points that decided so far, and how each did
    #[command(after_help = "Examples:
  matchpoint drift history --deployment shop")]
    History(ServedDeploymentFlags),
    /// Start rates, evidence and alarms over from now on, after the cause was removed
    ///
    /// For a cause that was none of the operating point's, such as a dirty camera. If traffic has
    /// changed for good, calibrate instead. What was recorded stays in the journal. Each reset is another
    /// chance of a false alarm, so each halves what is left of `alarm_delta` for the next.
    Reset(DriftResetArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint drift reset --reason 'cleaned the camera at the gate' --requested-by anna")]
struct DriftResetArgs {
    #[command(flatten)]
    at: ServedDeploymentFlags,
    /// What made the rate rise, and was removed
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who says so
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    requested_by: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint drift report
  matchpoint drift report --verbose --html drift.html
  matchpoint drift report --servers http://a:50051,http://b:50051")]
struct DriftReportArgs {
    #[command(flatten)]
    at: ServedDeploymentFlags,
    /// An earlier operating point, as far as the journal still holds its decisions
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    operating_point: String,
    /// Write it as a page too, to a file, or to - for standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show every finding and figure
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
    /// Several servers that decide by one operating point, with commas between them: their evidence is
    /// multiplied, so that an alarm of all is false with a probability of at most `alarm_delta` for all
    #[arg(long, value_name = "URLS", value_delimiter = ',', conflicts_with_all = ["html", "operating_point"])]
    servers: Vec<String>,
}

impl DriftArgs {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let DriftReportArgs {
            at,
            operating_point,
            html,
            verbose,
            servers,
        } = match self.command {
            DriftCommand::Report(report) => report,
            DriftCommand::History(at) => return history(&at),
            DriftCommand::Reset(reset) => return reset.run(),
        };
        if !servers.is_empty() {
            let asked = FleetReport::of(&servers, &at);
            let found = crate::cli::runtime::single_threaded()?.block_on(asked)?;
            Output::new(at.json).result(&found, FleetReport::text)?;
            return Ok(Exit::Done);
        }
        let file = OutputFile::at(html.as_deref())?;
        let found = crate::cli::runtime::single_threaded()?.block_on(async {
            let client = at.server.connect().await?;
            anyhow::Ok(client.drift(&at.deployment, &operating_point).await?)
        })?;
        if let Some(file) = &file {
            let page = matchpoint_report::drift::render(&page(&found, &at.deployment));
            file.write(|file| file.write_all(page.as_bytes()))?;
        }
        OutputFile::output(file.as_ref(), at.json)
            .result(&found, if verbose { text } else { summary })?;
        Ok(Exit::Done)
    }
}

impl DriftResetArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let Self {
            at,
            reason,
            requested_by,
        } = self;
        let found = crate::cli::runtime::single_threaded()?.block_on(async {
            let client = at.server.connect().await?;
            let reset = client.reset_drift(&at.deployment, &reason, &requested_by);
            anyhow::Ok(reset.await?)
        })?;
        Output::new(at.json).result(&found, |found| format!("reset {}", reset_text(found)))?;
        Ok(Exit::Done)
    }
}

fn reset_text(reset: &DriftReset) -> String {
    format!(
        "{} by {}: {}",
        shown_time(reset.unix_milliseconds),
        escaped(&reset.requested_by),
        escaped(&reset.reason)
    )
}

fn history(at: &ServedDeploymentFlags) -> anyhow::Result<Exit> {
    let found = crate::cli::runtime::single_threaded()?.block_on(async {
        let client = at.server.connect().await?;
        anyhow::Ok(client.drift_history(&at.deployment).await?)
    })?;
    Output::new(at.json).result(&found, |found| found.iter().map(lines).collect::<String>())?;
    Ok(Exit::Done)
}

/// One operating point of the history.
fn lines(found: &GetDriftResponse) -> String {
    let sampled = found
        .first_sampled_unix_milliseconds
        .zip(found.last_sampled_unix_milliseconds);
    let sampled = sampled.map_or_else(
        || "nothing yet".to_owned(),
        |(first, last)| format!("{} to {}", shown_time(first), shown_time(last)),
    );
    let verdicts = |subject: &str| {
        let of = found.findings.iter().find(|one| one.subject == subject);
        of.map_or(Verdict::Unknown, Finding::verdict).name()
    };
    let mut text = format!(
        "{}{}\n  {:<9} {sampled}\n  {:<9} {}\n",
        found.operating_point_id,
        if found.active { "  (decides)" } else { "" },
        "sampled",
        "labelled",
        labelled(found)
    );
    for (name, subject, rate, evidence) in [
        ("FAR", "far", found.far, found.far_evidence),
        ("FRR", "frr", found.frr, found.frr_evidence),
    ] {
        let alarm = evidence.and_then(|found| found.alarm_unix_milliseconds);
        let alarm = alarm.map(|time| format!(", alarm since {}", shown_time(time)));
        text.push_str(&format!(
            "  {name:<9} {:<8} {}{}\n",
            verdicts(subject),
            rate_text(rate),
            alarm.unwrap_or_default()
        ));
    }
    for reset in &found.resets {
        text.push_str(&format!("  {:<9} {}\n", "reset", reset_text(reset)));
    }
    text
}

/// How many sampled decisions have a label, and how many show what nobody can tell.
fn labelled(found: &GetDriftResponse) -> String {
    let nobody = match found.unusable {
        0 => String::new(),
        unusable => format!(", {unusable} show what nobody can tell"),
    };
    format!(
        "{} of {} sampled decisions{nobody}",
        found.annotated, found.sampled
    )
}

fn shown_time(unix_milliseconds: i64) -> String {
    rfc_3339(u64::try_from(unix_milliseconds).unwrap_or(0))
}

fn page(found: &GetDriftResponse, deployment: &str) -> DriftReport {
    let finding = |finding: &Finding| DriftFinding {
        standing: match finding.verdict() {
            Verdict::Kept => DriftStanding::Good,
            Verdict::Broken | Verdict::Warning => DriftStanding::Bad,
            Verdict::Note | Verdict::Unknown | Verdict::Unspecified => DriftStanding::Open,
        },
        verdict: finding.verdict().name().to_owned(),
        says: finding.summary.clone(),
        next: finding.recommendation.clone(),
    };
    let rate = |name: &str, rate| [name.to_owned(), rate_text(rate)];
    let since = since(found);
    let mut measured = vec![
        rate(&format!("FAR {since}"), found.far),
        rate("FAR lately", found.far_recent),
        rate(&format!("FRR {since}"), found.frr),
        rate("FRR lately", found.frr_recent),
        rate("Wrong accepts", found.fdr),
    ];
    let evidence = [
        ("Evidence, FAR", found.far_evidence),
        ("Evidence, FRR", found.frr_evidence),
    ];
    for (name, evidence) in evidence {
        measured.extend(evidence.map(|found| [name.to_owned(), evidence_text(&found)]));
    }
    measured.push(["Labelled".to_owned(), labelled(found)]);
    let reviews = found.reviews.as_ref();
    measured.extend(reviews.map(|share| ["To a person".to_owned(), review_text(share)]));
    measured.extend(gallery_rows(found));
    for reset in &found.resets {
        measured.push(["Reset".to_owned(), reset_text(reset)]);
    }
    DriftReport {
        title: if deployment.is_empty() {
            "The deployment".to_owned()
        } else {
            deployment.to_owned()
        },
        created: now_rfc_3339(),
        operating_point: found.operating_point_id.clone(),
        findings: found.findings.iter().map(finding).collect(),
        measured,
        courses: courses(found),
    }
}

/// How the gallery has changed.
fn gallery_rows(found: &GetDriftResponse) -> Vec<[String; 2]> {
    let covered = found.gallery_coverage.zip(found.items_added);
    let covered = covered.map(|(share, added)| {
        let text = format!("{}; {added} items added or changed since", percent(share));
        ["Gallery covered".to_owned(), text]
    });
    let left_out = found.left_out.as_ref().map(|round| {
        let text = format!(
            "{} [{} .. {}], {} of {} labels",
            percent(round.rate),
            percent(round.lower),
            percent(round.upper),
            round.accepted,
            round.searches
        );
        ["Accepted, label left out".to_owned(), text]
    });
    covered.into_iter().chain(left_out).collect()
}

fn courses(found: &GetDriftResponse) -> Vec<RateCourse> {
    type Take = fn(&RateHistoryPoint) -> Option<AuditedRate>;
    let far: Take = |at| at.far;
    let frr: Take = |at| at.frr;
    let rates = [
        ("FAR", far, found.far_evidence),
        ("FRR", frr, found.frr_evidence),
    ];
    let course = |(name, take, evidence): (&'static str, Take, Option<Evidence>)| {
        let known = found
            .history
            .iter()
            .filter_map(|at| Some((at.unix_milliseconds, take(at)?)));
        let known: Vec<(i64, AuditedRate)> = known.collect();
        let (first, last) = (known.first()?.0, known.last()?.0);
        let point = |(time, rate): &(i64, AuditedRate)| {
            let span = RateInterval {
                lower: rate.lower,
                upper: rate.upper,
                confidence: rate.confidence,
            };
            (days(*time - first), rate.rate, span)
        };
        Some(RateCourse {
            name,
            limit: evidence.map(|evidence| evidence.limit),
            ends: [shown_time(first), shown_time(last)],
            points: known.iter().map(point).collect(),
        })
    };
    rates.into_iter().filter_map(course).collect()
}

fn days(milliseconds: i64) -> f64 {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)).as_secs_f64() / 86_400.0
}

/// Since when decisions count.
fn since(found: &GetDriftResponse) -> String {
    found.resets.last().map_or_else(
        || "since it became active".to_owned(),
        |reset| format!("since the reset of {}", shown_time(reset.unix_milliseconds)),
    )
}

/// The report as text: what is known of both rates, what needs attention, and what to do.
pub(crate) fn summary(found: &GetDriftResponse) -> String {
    /// Findings that are shown; --verbose has all.
    const URGENT: usize = 2;
    if found.operating_point_id.is_empty() {
        return NOTHING_VALID.to_owned();
    }
    let mut text = format!(
        "operating point {}: {} of {} sampled decisions are labelled, {}\n",
        found.operating_point_id,
        found.annotated,
        found.sampled,
        since(found)
    );
    for (name, subject, rate) in [("FAR", "far", found.far), ("FRR", "frr", found.frr)] {
        let of = found.findings.iter().find(|one| one.subject == subject);
        let verdict = of.map_or(Verdict::Unknown, Finding::verdict).name();
        text.push_str(&format!("  {name} {verdict:<8} {}\n", rate_text(rate)));
    }
    let urgent = |one: &&Finding| matches!(one.verdict(), Verdict::Broken | Verdict::Warning);
    for one in found.findings.iter().filter(urgent).take(URGENT) {
        let bullet = format!("  {:<8} ", one.verdict().name());
        text.push_str(&wrapped(&one.summary, &bullet));
    }
    let mut asked = found.findings.iter().map(|one| one.recommendation.as_str());
    if let Some(next) = asked.find(|one| !one.is_empty()) {
        text.push_str(&wrapped(next, "next: "));
    }
    text.push_str(&format!(
        "all {} findings, and every figure: --verbose\n",
        found.findings.len()
    ));
    text
}

const NOTHING_VALID: &str =
    "No operating point is valid here, so nothing is accepted and nothing is promised.";

/// Every finding and figure as text.
pub(crate) fn text(found: &GetDriftResponse) -> String {
    if found.operating_point_id.is_empty() {
        return NOTHING_VALID.to_owned();
    }
    let mut text = format!("operating point {}\n", found.operating_point_id);
    if let Some(reset) = found.resets.last() {
        text.push_str(&format!("reset {}\n", reset_text(reset)));
    }
    text.push('\n');
    for finding in &found.findings {
        let sentence = format!("{} {}", finding.summary, finding.recommendation);
        let bullet = format!("  {:<8} ", finding.verdict().name());
        text.push_str(&wrapped(sentence.trim(), &bullet));
    }
    text.push_str(&format!(
        "\nfrom labels of sampled decisions, {}\n",
        since(found)
    ));
    let rows = [
        ("FAR", found.far, found.far_evidence),
        ("FRR", found.frr, found.frr_evidence),
        ("wrong accepts", found.fdr, None),
        ("FAR lately", found.far_recent, None),
        ("FRR lately", found.frr_recent, None),
    ];
    for (name, rate, evidence) in rows {
        text.push_str(&format!("  {name:<14} {}\n", rate_text(rate)));
        if let Some(evidence) = evidence.filter(|_| 0 < found.annotated) {
            text.push_str(&format!("  {:<14} {}\n", "", evidence_text(&evidence)));
        }
    }
    text.push_str(&format!("  {:<14} {}\n", "labelled", labelled(found)));
    if let Some(share) = &found.reviews {
        text.push_str(&format!("  {:<14} {}\n", "to a person", review_text(share)));
    }
    text.push_str(&conditions(found));
    text.push_str(&lookalikes_text(found));
    text
}

/// Look-alikes that are shown; `--json` has all.
const LOOKALIKES_SHOWN: usize = 10;

/// Items that the gallery accepts as others.
fn lookalikes_text(found: &GetDriftResponse) -> String {
    let left_out = found.left_out.as_ref();
    let searched = left_out.map_or(&[][..], |round| &round.lookalikes);
    let mut text = String::new();
    for (what, list) in [
        (
            "accepted as others when they were enrolled",
            &found.enrolled_lookalikes[..],
        ),
        ("accepted as others with their label left out", searched),
    ] {
        if list.is_empty() {
            continue;
        }
        text.push_str(&format!("\nitems {what}\n"));
        for one in list.iter().take(LOOKALIKES_SHOWN) {
            let other = one.accepted_as.clone().unwrap_or_default();
            text.push_str(&format!(
                "  {} ({}) as {} ({}), score {:.4}\n",
                escaped(&one.id),
                escaped(&one.label),
                escaped(&other.id),
                escaped(&other.label),
                other.decision_score
            ));
        }
        let rest = list.len().saturating_sub(LOOKALIKES_SHOWN);
        if 0 < rest {
            text.push_str(&format!("  and {rest} more (--json)\n"));
        }
    }
    text
}

/// The callers' conditions; empty if there are none.
fn conditions(found: &GetDriftResponse) -> String {
    let shares = found.traffic.iter().flat_map(|traffic| &traffic.shares);
    let said = shares.filter(|share| share.feature == "condition");
    let known = |rate: Option<f64>| rate.map_or_else(|| "not known".to_owned(), percent);
    let row = |share: &TrafficShare| {
        let overall = share.overall.filter(|overall| 0.0 < *overall)?;
        Some(format!(
            "  {}: {} of the searches, {} at calibration; accepted {}, elsewhere {}\n",
            escaped(&share.name),
            percent(overall),
            percent(share.calibrated),
            known(share.accept_rate),
            known(share.accept_rate_elsewhere)
        ))
    };
    let rows: String = said.filter_map(row).collect();
    if rows.is_empty() {
        rows
    } else {
        format!("\nwhat callers say (accept rates are no error rates)\n{rows}")
    }
}

/// The share of searches that went to a person, beside what its calibration foresees.
fn review_text(found: &ReviewShare) -> String {
    let share = found.rate.zip(found.lower).zip(found.upper);
    let share = share.map_or_else(
        || "no search yet".to_owned(),
        |((rate, lower), upper)| {
            format!(
                "{} [{} .. {}] of {} searches",
                percent(rate),
                percent(lower),
                percent(upper),
                found.searches
            )
        },
    );
    format!(
        "{share}; predicted {} to {}",
        percent(found.predicted_lower),
        percent(found.predicted_upper)
    )
}

pub(crate) fn rate_text(rate: Option<AuditedRate>) -> String {
    rate.map_or_else(
        || "not known".to_owned(),
        |rate| {
            format!(
                "{} [{} .. {} at {}], {} labels, {} of them errors",
                percent(rate.rate),
                percent(rate.lower),
                percent(rate.upper),
                percent(rate.confidence),
                rate.annotated_trials,
                rate.annotated_errors
            )
        },
    )
}

fn evidence_text(evidence: &Evidence) -> String {
    format!(
        "evidence above {} ({}): ln E = {:.2}, an alarm at {:.2}{}",
        percent(evidence.limit),
        if evidence.limit_is_target {
            "the target"
        } else {
            "the upper end of calibration"
        },
        evidence.log_e_value,
        evidence.log_e_value_alarm,
        match evidence.alarm_unix_milliseconds {
            Some(time) if evidence.alarm => format!(": ALARM since {}", shown_time(time)),
            Some(_) | None => format!(
                "; CUSUM at {:.0} % of its limit",
                100.0 * evidence.cusum_ratio
            ),
        }
    )
}
