//! `matchpoint audit export`: the journal as a table, to be read by other programs.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::csv_file::CsvFile;
use crate::cli::output::image_ending::ending;
use crate::cli::output::{Output, line};
use crate::deployment::Folder;
use crate::journal::entry::{AnnotatedTruth, AnnotationKind, DecisionRow};
use crate::monitor::{
    LabelledDecision, MonitorError, QueryContent, labelled_sample, recorded_decisions,
};
use matchpoint_calibration::strangers::unnamed_label;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit export shop --csv decisions.csv --since 2026-11-01
  matchpoint audit export shop --csv - | gzip > decisions.csv.gz
  matchpoint audit export shop --for-calibration labelled/ --since 2026-11-01")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["csv", "for_calibration"])))]
pub(crate) struct Export {
    /// The deployment's folder, which may be served meanwhile
    deployment: PathBuf,
    /// The CSV file to write all recorded decisions to, or - for standard output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the pictures of labelled decisions into this folder, with a `labelled.csv` that
    /// `matchpoint calibrate --queries` takes: those that together are a plain sample of the searches
    #[arg(long, value_name = "DIR")]
    for_calibration: Option<PathBuf>,
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

const COLUMNS: [&str; 21] = [
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
    "sampled",
    "truth",
    "label",
    "annotator",
    "feedback",
    "stranger",
];

impl Export {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        match (&self.csv, &self.for_calibration) {
            (_, Some(folder)) => self.pictures(folder),
            (Some(file), None) => self.decisions(file),
            (None, None) => Err(fail(
                Exit::Usage,
                "give --csv FILE or --for-calibration DIR",
            )),
        }
    }

    fn times(&self) -> Range<u64> {
        self.since.unwrap_or(0)..self.until.unwrap_or(u64::MAX)
    }

    fn decisions(&self, file: &Path) -> anyhow::Result<Exit> {
        let cannot = || format!("cannot write {}", file.display());
        let mut csv = CsvFile::create(file, &COLUMNS).with_context(cannot)?;
        let (mut decisions, mut failed) = (0, None);
        recorded_decisions(&self.deployment, self.times(), |row| {
            match csv.row(&record(&row)) {
                Ok(()) => decisions += 1,
                Err(cause) => failed = Some(cause),
            }
            failed.is_none()
        })?;
        let written = failed.map_or_else(|| csv.finish(), Err);
        line(written).with_context(cannot)?;
        let exported = Exported {
            decisions,
            file: file.to_owned(),
        };
        Output::beside(self.json, Some(file)).result(&exported, text)?;
        Ok(Exit::Done)
    }

    fn pictures(&self, folder: &Path) -> anyhow::Result<Exit> {
        let cannot = || format!("cannot write to {}", folder.display());
        let mut sample = ExportedPictures {
            strangers: 0,
            enrolled: 0,
            labels: BTreeSet::new(),
            names: BTreeSet::new(),
            unnamed: 0,
            without_picture: 0,
            file: folder.join("labelled.csv"),
            rows: Vec::new(),
        };
        let mut failed = None;
        let opened = Folder::open(&self.deployment)?;
        let point = opened.record().active_operating_point.as_deref();
        let point = point.ok_or(MonitorError::NoActivePoint)?;
        let plain = labelled_sample(&self.deployment, point, self.times(), |decision| {
            failed = sample.add(folder, &decision).err();
            failed.is_none()
        })?;
        if let Some(cause) = failed {
            return Err(cause).with_context(cannot);
        }
        if !plain {
            let problem = "the labels make no plain sample: a stratum with sampled decisions has no label; label some of every stratum";
            return Err(fail(Exit::BadData, problem));
        }
        if sample.rows.is_empty() {
            let problem = "no labelled decision has a picture; `audit_images = true` keeps those of decisions to come";
            return Err(fail(Exit::NoInput, problem));
        }
        sample.write().with_context(cannot)?;
        Output::new(self.json).result(&sample, ExportedPictures::text)?;
        Ok(Exit::Done)
    }
}

/// Within the folder.
const PICTURES: &str = "pictures";

/// Pictures for a calibration.
#[derive(Debug, Serialize)]
struct ExportedPictures {
    strangers: u64,
    /// Pictures of enrolled labels, and these.
    enrolled: u64,
    labels: BTreeSet<String>,
    /// Strangers by name among them.
    names: BTreeSet<String>,
    /// Pictures of strangers whom nobody named: no calibration certifies anything by them.
    unnamed: u64,
    without_picture: u64,
    file: PathBuf,
    /// Those of the file: path, label, id of the decision.
    #[serde(skip)]
    rows: Vec<[String; 3]>,
}

impl ExportedPictures {
    fn add(&mut self, folder: &Path, decision: &LabelledDecision) -> std::io::Result<()> {
        let Some(image) = &decision.image else {
            self.without_picture += 1;
            return Ok(());
        };
        let id = decision.id.to_string();
        let path = format!("{PICTURES}/{id}.{}", ending(image));
        fs::create_dir_all(folder.join(PICTURES))?;
        fs::write(folder.join(&path), image)?;
        let label = match &decision.shown {
            QueryContent::Label(label) => {
                self.enrolled += 1;
                self.labels.insert(label.clone());
                label.clone()
            }
            QueryContent::Named(name) => {
                self.strangers += 1;
                self.names.insert(name.clone());
                name.clone()
            }
            QueryContent::Unnamed => {
                self.strangers += 1;
                self.unnamed += 1;
                unnamed_label(&id)
            }
        };
        self.rows.push([path, label, id]);
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        let mut csv = CsvFile::create(&self.file, &["path", "label", "id"])?;
        for row in &self.rows {
            csv.row(row)?;
        }
        Ok(csv.finish()?)
    }

    fn text(&self) -> String {
        let Self {
            strangers,
            enrolled,
            without_picture,
            ..
        } = self;
        let file = self.file.display();
        let labels = self.labels.len();
        let lost = if 0 < *without_picture {
            format!(
                "{without_picture} more have no picture (`audit_images` keeps them), and are left out: the rest stands for searches like those with one.\n"
            )
        } else {
            String::new()
        };
        let nameless = if 0 < self.unnamed {
            format!(
                "{} of the strangers have no name, and a label such as stranger-ID: a calibration certifies nothing by them. Put names into the column label, the same for the same one, or say them when labelling (audit annotate --not-enrolled --stranger NAME).\n",
                self.unnamed
            )
        } else {
            String::new()
        };
        let names = self.names.len();
        format!(
            "{strangers} pictures of strangers ({names} by name) and {enrolled} of {labels} enrolled labels: {file}\n{lost}{nameless}"
        )
    }
}

fn text(exported: &Exported) -> String {
    let (decisions, file) = (exported.decisions, exported.file.display());
    format!("{decisions} decisions written to {file}")
}

/// Times in RFC 3339; a date means its beginning in UTC.
pub(in crate::cli) fn unix_ms(text: &str) -> Result<u64, String> {
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

fn record(row: &DecisionRow) -> [String; 21] {
    let (entry, best, label) = (&row.entry, row.entry.best.as_ref(), row.annotation.as_ref());
    let (mut truth, mut shown, mut stranger) = (String::new(), String::new(), String::new());
    match label.map(|label| &label.truth) {
        None => {}
        Some(AnnotatedTruth::Mated { label }) => {
            "label".clone_into(&mut truth);
            shown.clone_from(label);
        }
        Some(AnnotatedTruth::NonMated) => "not-enrolled".clone_into(&mut truth),
        Some(AnnotatedTruth::Stranger { name }) => {
            "not-enrolled".clone_into(&mut truth);
            stranger.clone_from(name);
        }
        Some(AnnotatedTruth::Unusable) => "unusable".clone_into(&mut truth),
    }
    let number = |value: Option<f32>| value.map(|value| value.to_string()).unwrap_or_default();
    let sampling = entry.sampling;
    let unasked = label.map(|label| (label.kind == AnnotationKind::Feedback).to_string());
    [
        entry.id.to_string(),
        time(entry.id.unix_ms()),
        entry.operating_point.clone().unwrap_or_default(),
        entry.source.kind().as_str().to_owned(),
        entry.decision.as_str().to_owned(),
        best.map(|best| best.label.clone()).unwrap_or_default(),
        best.map(|best| best.item.clone()).unwrap_or_default(),
        number(best.map(|best| best.similarity)),
        number(best.and_then(|best| best.decision_score)),
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
        label
            .map(|label| label.annotator.clone())
            .unwrap_or_default(),
        unasked.unwrap_or_default(),
        stranger,
    ]
}
