//! `matchpoint audit export`: the journal as a table, to be read by other programs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use super::exit::Exit;
use super::output::Output;
use crate::deployment::{LabelKind, Row, Truth, recorded_decisions};

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// The deployment's folder, which may be served meanwhile
    deployment: PathBuf,
    /// The CSV file to write
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
    /// Only decisions made from this time on, such as 2026-11-01 or 2026-11-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    since: Option<u64>,
    /// Only decisions made before this time
    #[arg(long, value_name = "TIME", value_parser = unix_ms)]
    until: Option<u64>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Exported {
    decisions: u64,
    file: PathBuf,
}

const COLUMNS: [&str; 20] = [
    "decision_id",
    "time",
    "operating_point",
    "source",
    "decision",
    "matched_label",
    "matched_item",
    "score",
    "decision_score",
    "margin",
    "generation",
    "gallery_items",
    "filtered",
    "stratum",
    "inclusion_probability",
    "drawn",
    "truth",
    "label",
    "said_by",
    "unasked",
];

impl Export {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let cannot = || format!("cannot write {}", self.csv.display());
        let mut writer = csv::Writer::from_path(&self.csv).with_context(cannot)?;
        writer.write_record(COLUMNS).with_context(cannot)?;
        let (mut decisions, mut failed) = (0, None);
        let times = self.since.unwrap_or(0)..self.until.unwrap_or(u64::MAX);
        recorded_decisions(&self.deployment, times, |row| {
            match writer.write_record(record(&row)) {
                Ok(()) => decisions += 1,
                Err(cause) => failed = Some(cause),
            }
            failed.is_none()
        })?;
        if let Some(cause) = failed {
            return Err(cause).with_context(cannot);
        }
        writer.flush().with_context(cannot)?;
        let exported = Exported {
            decisions,
            file: self.csv.clone(),
        };
        Output::new(self.json).result(&exported, text)?;
        Ok(Exit::Done)
    }
}

fn text(exported: &Exported) -> String {
    let (decisions, file) = (exported.decisions, exported.file.display());
    format!("{decisions} decisions written to {file}")
}

/// Times as RFC 3339 has them; a date is its beginning in UTC.
fn unix_ms(text: &str) -> Result<u64, String> {
    let whole = format!("{text} 00:00:00");
    let parsed =
        humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&whole));
    let since = parsed
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .ok_or_else(|| "write a time such as 2026-11-01 or 2026-11-01T12:00:00Z".to_owned())?;
    u64::try_from(since.as_millis()).map_err(|error| error.to_string())
}

fn time(unix_ms: u64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

fn record(row: &Row) -> [String; 20] {
    let (entry, best, label) = (&row.entry, row.entry.best.as_ref(), row.label.as_ref());
    let (mut truth, mut shown) = (String::new(), String::new());
    match label.map(|label| &label.truth) {
        None => {}
        Some(Truth::Mated { label }) => {
            "label".clone_into(&mut truth);
            shown.clone_from(label);
        }
        Some(Truth::NonMated) => "not-enrolled".clone_into(&mut truth),
        Some(Truth::Unusable) => "unusable".clone_into(&mut truth),
    }
    let number = |value: Option<f32>| value.map(|value| value.to_string()).unwrap_or_default();
    let sampling = entry.sampling;
    let unasked = label.map(|label| (label.kind == LabelKind::Feedback).to_string());
    [
        entry.id.to_string(),
        time(entry.id.unix_ms()),
        entry.operating_point.clone().unwrap_or_default(),
        entry.source.kind().as_str().to_owned(),
        entry.decision.as_str().to_owned(),
        best.map(|best| best.label.clone()).unwrap_or_default(),
        best.map(|best| best.item.clone()).unwrap_or_default(),
        number(best.map(|best| best.similarity)),
        number(best.and_then(|best| best.held)),
        number(best.and_then(|best| best.margin)),
        entry.generation.to_string(),
        entry.gallery_items.to_string(),
        entry.filtered.to_string(),
        sampling
            .map(|s| s.stratum().to_string())
            .unwrap_or_default(),
        sampling
            .map(|s| s.probability().to_string())
            .unwrap_or_default(),
        sampling.is_some_and(|s| s.sampled()).to_string(),
        truth,
        shown,
        label.map(|label| label.said_by.clone()).unwrap_or_default(),
        unasked.unwrap_or_default(),
    ]
}
