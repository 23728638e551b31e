//! `matchpoint audit import`: what the queries of many decisions showed, from a CSV file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::sent::{kind, report_all};
use crate::cli::exit::{Exit, fail};
use crate::cli::monitor::replicas::ReplicaFlags;
use crate::cli::monitor::served_deployment::ServedDeploymentFlags;
use matchpoint_arrays::{Columns, Delimited};
use matchpoint_client::proto::{Annotation, GroundTruth};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit import to-label.csv --annotator anna
  matchpoint audit import complaints.csv --feedback")]
pub(super) struct Import {
    #[command(flatten)]
    at: ServedDeploymentFlags,
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

impl Import {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
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
