//! `matchpoint audit`: annotate the decisions that were sampled for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::export::Export;
use super::replicas::{ReplicaFlags, Replicas};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::Output;
use crate::cli::output::csv_file::CsvFile;
use crate::cli::output::image_ending::ending;
use crate::cli::server_address::ServerAddress;
use crate::cli::standard_streams::create;
use crate::telemetry::escaped;
use matchpoint_arrays::{Columns, Delimited};
use matchpoint_client::proto::{
    Annotation, AnnotationKind, AnnotationOutcome, GetDecisionResponse, GroundTruth,
    RecordedDecision,
};

/// Characters of a decision's id that are its time, to the millisecond.
const TIME_LENGTH: usize = 13;

/// Label sampled decisions: what FAR and FRR in service are computed from
///
/// The server samples some decisions, more of them near the threshold, each with a known probability.
/// Say what their queries really showed; `matchpoint drift report` says what follows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit list --limit 100 --csv to-label.csv --images to-label/
  matchpoint audit import to-label.csv --annotator anna
  matchpoint audit list --servers http://a:50051,http://b:50051,http://c:50051
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --stranger 'red coat'
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --feedback
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --json
  matchpoint audit export shop --csv decisions.csv --since 2026-11-01
  matchpoint audit export shop --for-calibration labelled/ --since 2026-11-01")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    /// List sampled decisions that wait for an annotation, newest first
    List(List),
    /// Show one decision with all its annotations
    Show(AuditShowArgs),
    /// Say what the query of one decision showed
    Annotate(Annotate),
    /// Say what the queries of many decisions showed, from a CSV file
    Import(Import),
    /// Write all recorded decisions, with their annotations, to a CSV file, or labelled pictures for a
    /// calibration
    Export(Export),
}

/// Which server, and which of its deployments.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    #[command(flatten)]
    pub(crate) server: ServerAddress,
    /// The deployment; may be left out if the server has one
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) deployment: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Where {
    async fn replicas(&self, flags: &ReplicaFlags) -> anyhow::Result<Replicas> {
        Replicas::connect(flags, &self.server, &self.deployment).await
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit list --csv to-label.csv --images to-label/
  matchpoint audit list --limit 100 --stratum 3
  matchpoint audit list --servers http://a:50051,http://b:50051")]
struct List {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// How many, at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Only of this stratum, from the lowest scores up
    #[arg(long)]
    stratum: Option<u32>,
    /// Write them to a CSV file, or to - for standard output, to be filled in: columns `truth` (label, not-enrolled or unusable),
    /// `label`, and `stranger` (a name for what is not enrolled, if it is known)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the images that are kept into a folder (`audit_images` keeps them)
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --image query.jpg")]
struct AuditShowArgs {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// Id of the decision; of one that waits for an annotation its beginning does, if no other begins so
    decision_id: String,
    /// Write the image, if it is kept, to a file, or to - for standard output
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --label mug
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --stranger 'red coat'
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --feedback")]
#[command(group(clap::ArgGroup::new("truth").required(true).args(["label", "not_enrolled", "unusable"])))]
struct Annotate {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// Id of the decision; of one that waits for an annotation its first 13 characters or more do, if no other begins so
    decision_id: String,
    /// The enrolled label that the query showed
    #[arg(long)]
    label: Option<String>,
    /// The query showed something that is not enrolled
    #[arg(long)]
    not_enrolled: bool,
    /// Who that was: the same name for the same one, so that a calibration counts it once
    #[arg(long, value_name = "NAME", requires = "not_enrolled")]
    stranger: Option<String>,
    /// Nobody can tell what the query showed
    #[arg(long)]
    unusable: bool,
    /// Who says so
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    annotator: String,
    /// Nobody was asked: a complaint or a confirmation. It is shown as precision, enters no rate, and
    /// leaves the decision in the queue
    #[arg(long)]
    feedback: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit import to-label.csv --annotator anna
  matchpoint audit import complaints.csv --feedback")]
struct Import {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// CSV file, or - for standard input, with columns `decision_id`, `truth` (label, not-enrolled or unusable; empty rows are
    /// skipped), `label`, for what is not enrolled perhaps `stranger` (a name, the same for the same
    /// one), and `annotator` if it differs
    file: PathBuf,
    /// Who says so
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    annotator: String,
    /// Nobody was asked: complaints and confirmations, as with `audit annotate --feedback`
    #[arg(long)]
    feedback: bool,
}

/// The columns that are read; others describe the decision itself.
const COLUMNS: Columns = Columns {
    known: &["decision_id", "truth", "label", "stranger", "annotator"],
    required: &[&["decision_id"]],
    aligned: false,
};

/// A row of the file.
#[derive(Debug, Default)]
struct AnnotationLine {
    decision_id: String,
    truth: String,
    label: String,
    stranger: String,
    annotator: String,
}

impl AnnotationLine {
    fn of(names: &[String], cells: &[Cow<'_, str>]) -> Self {
        let mut line = Self::default();
        for (name, cell) in names.iter().zip(cells) {
            let field = match name.as_str() {
                "decision_id" => &mut line.decision_id,
                "truth" => &mut line.truth,
                "label" => &mut line.label,
                "stranger" => &mut line.stranger,
                "annotator" => &mut line.annotator,
                _ => continue,
            };
            cell.as_ref().clone_into(field);
        }
        line
    }
}

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
struct Imported {
    added: usize,
    confirmed: usize,
    corrected: usize,
    repeated: usize,
    /// Rows without a truth.
    skipped: usize,
    refused: Vec<RefusedAnnotation>,
}

#[derive(Debug, Serialize)]
struct RefusedAnnotation {
    decision_id: String,
    reason: String,
}

impl AuditArgs {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        match self.command {
            AuditCommand::List(list) => runtime.block_on(list.run()),
            AuditCommand::Show(show) => runtime.block_on(show.run()),
            AuditCommand::Annotate(annotate) => runtime.block_on(annotate.run()),
            AuditCommand::Import(import) => runtime.block_on(import.run()),
            AuditCommand::Export(export) => export.run(),
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Exit> {
        let replicas = self.at.replicas(&self.replicas).await?;
        let decisions = replicas.audit_queue(self.stratum, self.limit).await?;
        if let Some(folder) = &self.images {
            save_images(&replicas, folder, &decisions).await?;
        }
        if let Some(file) = &self.csv {
            write_csv(file, &decisions)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let output = Output::beside(self.at.json, self.csv.as_deref());
        output.result(&decisions, |decisions| queue_text(decisions))?;
        Ok(Exit::Done)
    }
}

async fn save_images(
    replicas: &Replicas,
    folder: &Path,
    decisions: &[RecordedDecision],
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for decided in decisions {
        let id = &decided.decision_id;
        let found = replicas.decision(id, true).await?;
        if !found.image.is_empty() {
            let file = folder.join(format!("{id}.{}", ending(&found.image)));
            std::fs::write(&file, &found.image)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

fn write_csv(file: &Path, decisions: &[RecordedDecision]) -> anyhow::Result<()> {
    let columns = [
        "decision_id",
        "truth",
        "label",
        "decision",
        "matched_label",
        "matched_item",
        "score",
        "stranger",
    ];
    let mut csv = CsvFile::create(file, &columns)?;
    for decided in decisions {
        csv.row(&[
            decided.decision_id.as_str(),
            "",
            "",
            decided.decision().name(),
            &decided.matched_label,
            &decided.matched_item_id,
            &decided.score.unwrap_or(0.0).to_string(),
            "",
        ])?;
    }
    Ok(csv.finish()?)
}

fn queue_text(decisions: &[RecordedDecision]) -> String {
    if decisions.is_empty() {
        return "no sampled decision waits for an annotation".to_owned();
    }
    let line = |decided: &RecordedDecision| {
        let (decision, score) = (decided.decision().name(), decided.score.unwrap_or(0.0));
        let id = &decided.decision_id;
        format!(
            "{id}  {decision:<6}  {score:.3}  stratum {}  {} ({})\n",
            decided.stratum.map_or("-".to_owned(), |s| s.to_string()),
            decided.matched_label,
            decided.matched_item_id
        )
    };
    let lines: String = decisions.iter().map(line).collect();
    format!(
        "{lines}\n{} decisions wait. Say what their queries showed:\n  matchpoint audit annotate ID --label LABEL | --not-enrolled | --unusable\n  or fill in the columns truth and label of --csv FILE, and matchpoint audit import FILE",
        decisions.len()
    )
}

impl AuditShowArgs {
    async fn run(self) -> anyhow::Result<Exit> {
        let replicas = self.at.replicas(&self.replicas).await?;
        let wanted = self.image.is_some();
        let id = replicas.whole_id(&self.decision_id).await?;
        let found = replicas.decision(&id, wanted).await?;
        if let Some(file) = &self.image {
            if found.image.is_empty() {
                let problem = "the image of this decision is not kept; `audit_images` keeps those of sampled decisions";
                return Err(fail(Exit::NoInput, problem));
            }
            create(file)
                .and_then(|mut to| to.write_all(&found.image))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Output::beside(self.at.json, self.image.as_deref()).result(&found, decision_text)?;
        Ok(Exit::Done)
    }
}

fn decision_text(found: &GetDecisionResponse) -> String {
    let Some(decided) = &found.decision else {
        return String::new();
    };
    let or = |text: &str, none: &str| {
        if text.is_empty() {
            none.to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("decision", decided.decision().name().to_owned()),
        ("operating point", or(&decided.operating_point_id, "none")),
        ("best match", or(&decided.matched_label, "nothing found")),
        ("item", or(&decided.matched_item_id, "-")),
        ("score", format!("{:.4}", decided.score.unwrap_or(0.0))),
    ];
    if let Some(stratum) = decided.stratum {
        let drawn = if decided.sampled {
            "sampled"
        } else {
            "not sampled"
        };
        let probability = decided.inclusion_probability.unwrap_or(0.0);
        rows.push((
            "audit",
            format!("stratum {stratum}, {drawn}, with probability {probability}"),
        ));
    }
    rows.push((
        "truth",
        decided
            .ground_truth
            .as_ref()
            .map_or_else(|| "not known".to_owned(), ToString::to_string),
    ));
    let said = found.annotations.iter().map(|said| {
        let truth = said.ground_truth.as_ref();
        let truth = truth.map(ToString::to_string).unwrap_or_default();
        let unasked = if said.kind() == AnnotationKind::Feedback {
            ", unasked"
        } else {
            ""
        };
        format!(
            "  {} said {}{unasked}\n",
            escaped(&said.annotator),
            escaped(&truth)
        )
    });
    let history: String = said.collect();
    format!(
        "{}\n{}{history}",
        decided.decision_id,
        crate::cli::output::table(&rows)
    )
}

impl Annotate {
    async fn run(self) -> anyhow::Result<Exit> {
        if self.decision_id.len() < TIME_LENGTH {
            // Decisions outside the queue are not searched, and one of them may be meant.
            let message = format!(
                "`{}` may begin the ids of many decisions; write the whole id, or its first {TIME_LENGTH} characters at least",
                self.decision_id
            );
            return Err(fail(Exit::Usage, message));
        }
        let truth = match (self.label, self.not_enrolled) {
            (Some(label), _) => GroundTruth::label(label),
            (None, true) => GroundTruth::stranger(self.stranger.unwrap_or_default()),
            (None, false) => GroundTruth::unusable(),
        };
        let replicas = self.at.replicas(&self.replicas).await?;
        let report = Annotation {
            decision_id: replicas.whole_id(&self.decision_id).await?,
            ground_truth: Some(truth),
            annotator: self.annotator,
            kind: kind(self.feedback).into(),
            unix_milliseconds: 0,
        };
        report_all(&self.at, &replicas, &[report], 0).await
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<Exit> {
        let table = Delimited::read(&self.file, &COLUMNS)?;
        let (mut reports, mut skipped) = (Vec::new(), 0);
        let mut said: BTreeMap<String, (u64, GroundTruth)> = BTreeMap::new();
        for row in table.rows() {
            let row = row?;
            let line = AnnotationLine::of(table.names(), &row.cells);
            let refused = |problem: String| {
                let (shown, id) = (self.file.display(), &line.decision_id);
                let at = format!("{shown}, line {}: decision {id}", row.line);
                fail(Exit::BadData, format!("{at}: {problem}; nothing was sent"))
            };
            let Some(truth) = truth_of(&line).map_err(refused)? else {
                skipped += 1;
                continue;
            };
            // The later one would count, and nobody would notice.
            let before = said.insert(line.decision_id.clone(), (row.line, truth.clone()));
            if let Some((earlier, _)) = before.filter(|(_, before)| *before != truth) {
                let problem = format!("line {earlier} says otherwise of it; leave one of them");
                return Err(refused(problem));
            }
            reports.push(Annotation {
                decision_id: line.decision_id,
                ground_truth: Some(truth),
                kind: kind(self.feedback).into(),
                unix_milliseconds: 0,
                annotator: if line.annotator.is_empty() {
                    self.annotator.clone()
                } else {
                    line.annotator
                },
            });
        }
        let replicas = self.at.replicas(&self.replicas).await?;
        report_all(&self.at, &replicas, &reports, skipped).await
    }
}

fn kind(feedback: bool) -> AnnotationKind {
    if feedback {
        AnnotationKind::Feedback
    } else {
        AnnotationKind::Audit
    }
}

fn truth_of(line: &AnnotationLine) -> Result<Option<GroundTruth>, String> {
    if !line.stranger.is_empty() {
        return match (line.truth.as_str(), line.label.as_str()) {
            ("" | "not-enrolled", "") => Ok(Some(GroundTruth::stranger(line.stranger.clone()))),
            _ => Err(format!(
                "the stranger `{}` is named, and the truth is not `not-enrolled`",
                line.stranger
            )),
        };
    }
    match (line.truth.as_str(), line.label.as_str()) {
        ("", "") => Ok(None),
        ("label", "") => Err("truth is `label`, and the column label is empty".to_owned()),
        ("" | "label", label) => Ok(Some(GroundTruth::label(label.to_owned()))),
        ("not-enrolled", "") => Ok(Some(GroundTruth::stranger(String::new()))),
        ("unusable", "") => Ok(Some(GroundTruth::unusable())),
        ("not-enrolled" | "unusable", label) => Err(format!(
            "truth is `{}`, and there is a label `{label}`",
            line.truth
        )),
        (other, _) => Err(format!(
            "truth is `{other}`; write label, not-enrolled or unusable"
        )),
    }
}

async fn report_all(
    at: &Where,
    replicas: &Replicas,
    reports: &[Annotation],
    skipped: usize,
) -> anyhow::Result<Exit> {
    let mut imported = Imported {
        skipped,
        ..Imported::default()
    };
    let results = replicas.annotate(reports).await?;
    for (report, result) in reports.iter().zip(results) {
        match result {
            Ok(AnnotationOutcome::Added) => imported.added += 1,
            Ok(AnnotationOutcome::Confirmed) => imported.confirmed += 1,
            Ok(AnnotationOutcome::Corrected) => imported.corrected += 1,
            Ok(AnnotationOutcome::Repeated | AnnotationOutcome::Unspecified) => {
                imported.repeated += 1;
            }
            Err(reason) => imported.refused.push(RefusedAnnotation {
                decision_id: report.decision_id.clone(),
                reason,
            }),
        }
    }
    Output::new(at.json).result(&imported, imported_text)?;
    Ok(if imported.refused.is_empty() {
        Exit::Done
    } else {
        Exit::SomeFailed
    })
}

fn imported_text(imported: &Imported) -> String {
    let counts = [
        (imported.added, "added"),
        (imported.confirmed, "confirmed"),
        (imported.corrected, "corrected"),
        (imported.repeated, "said before"),
        (imported.skipped, "without a truth, skipped"),
        (imported.refused.len(), "refused"),
    ];
    let said: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| 0 < *count)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let refused = imported
        .refused
        .iter()
        .map(|refused| format!("  {}: {}\n", refused.decision_id, refused.reason));
    let summary = if said.is_empty() {
        "nothing to report".to_owned()
    } else {
        said.join(", ")
    };
    format!("{summary}\n{}", refused.collect::<String>())
}
