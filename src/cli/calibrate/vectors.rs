//! `matchpoint calibrate --embeddings`: calibrates plain vectors, without a deployment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::analysis_text;
use super::fitted_labels::{FittedFlags, refuse_fitted};
use super::menu::{self, MenuReport};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::array_flags::ArrayFlags;
use crate::cli::input::head::StoredHead;
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::doubts::Doubts;
use crate::cli::output::file::OutputFile;
use crate::cli::output::progress::SharedProgress;
use crate::cli::output::{Shown, ShownFlags, table};
use crate::cli::points::summary::PointInWords;
use crate::cli::points::text::{describe, refusal_text};
use crate::clock::now_rfc_3339;
use matchpoint_arrays::{LabelTable, Role};
use matchpoint_calibration::analysis::AnalysisScope;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::likeness::Spellings;
use matchpoint_calibration::menu::{Menu, MenuRequest};
use matchpoint_calibration::operating_point::Content;
use matchpoint_calibration::procedure::{
    Assured, CalibratedSizes, LabelledVectors, ThresholdSettings, VectorFindings, VectorRequest,
    VectorRow, VectorSource, VectorStage, VectorTrials, calibrate_vectors, vectors_digest,
};
use matchpoint_report::calibrated::page_of_vectors;

/// Vectors and their labels.
#[derive(Debug, clap::Args)]
pub(crate) struct VectorFlags {
    /// Calibrate these vectors instead of a deployment: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    embeddings: Option<PathBuf>,
    /// A .csv file whose row i belongs to vector i: column `label` (or `class`), and if they are
    /// known `id`, `role` (gallery, query, unknown or unused) and `split`; all other columns are
    /// conditions, such as camera. For Parquet, columns of the same file without it
    #[arg(long, value_name = "FILE", requires = "embeddings")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    rows: ArrayFlags,
    /// Take the vectors behind this head, which `adapt --embeddings` wrote; rows that it was fitted to are refused
    #[arg(long, value_name = "DIR", requires = "embeddings")]
    head: Option<PathBuf>,
}

/// The result for plain vectors.
#[derive(Serialize)]
struct VectorsReport {
    #[serde(flatten)]
    findings: VectorFindings,
    /// Number of rows with the role unused.
    left_out: LeftOut,
}

/// The settings of a calibration.
pub(crate) struct VectorSettings {
    pub(crate) settings: ThresholdSettings,
    /// Which pairs are analysed.
    pub(crate) scope: AnalysisScope,
}

/// The settings of a menu.
pub(crate) struct MenuSettings {
    pub(crate) confidence: f64,
    pub(crate) seed: u64,
    pub(crate) assured: Assured,
}

/// The vectors that were read.
struct ReadVectors {
    source: VectorSource,
    rows: LabelTable,
    vectors: LabelledVectors,
}

impl VectorFlags {
    fn read(&self, fitted: &FittedFlags, assured: Assured) -> anyhow::Result<ReadVectors> {
        // clap requires a deployment if this flag is missing.
        let Some(path) = &self.embeddings else {
            return Err(fail(Exit::Usage, "name a deployment, or use --embeddings"));
        };
        let data = self.rows.read(path)?;
        let mut rows = match &self.labels {
            Some(labels) => LabelTable::read(labels, data.rows())?,
            None => data.labels(path)?,
        };
        let data = match &self.head {
            Some(head) => {
                StoredHead::read(head)?.behind(&data, &mut rows, fitted.without_fitted)?
            }
            None => data,
        };
        let source = VectorSource {
            name: path.file_name().map_or_else(
                || path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            digest: vectors_digest(&data.vectors),
            created: now_rfc_3339(),
        };
        let vectors = self.sorted(&rows, data.dimension, &data.vectors)?;
        drop(data);
        if let Some(fitted_on) = &fitted.fitted_on {
            let labels = vectors.names.iter().map(String::as_str).collect();
            let spellings = Spellings::said(assured.labels_as_they_are);
            refuse_fitted(fitted_on, &labels, spellings)?;
        }
        Ok(ReadVectors {
            source,
            rows,
            vectors,
        })
    }

    /// Shows the possible targets.
    pub(crate) fn menu(
        &self,
        wanted: &MenuSettings,
        fitted: &FittedFlags,
        page: Option<&OutputFile>,
        shown: ShownFlags,
    ) -> anyhow::Result<Exit> {
        let read = self.read(fitted, wanted.assured)?;
        let alike = read.vectors.alike();
        wanted.assured.spellings(&alike)?;
        let watched = SharedProgress::new("search");
        let trials = VectorTrials::search(&read.vectors, wanted.assured, &|_, done, total| {
            watched.at(done, total)
        })?;
        watched.finish();
        let named = trials.unnamed.is_none() || wanted.assured.strangers_are_distinct;
        let report = MenuReport {
            outcome: "menu",
            menu: Menu::of(
                trials.recording.trials(),
                MenuRequest {
                    confidence: wanted.confidence,
                    seed: wanted.seed,
                    named,
                    gallery_items: None,
                },
            )?,
            next: self.next(),
            failed: Vec::new(),
            doubts: Doubts {
                alike: &alike,
                copies: &trials.copies,
                repeated: &[],
                near_copies: &trials.near_copies,
                unnamed: trials.unnamed.as_ref(),
                crowded: trials.crowded.as_ref(),
                not_compared: trials.not_compared,
            },
        };
        menu::show(&read.source.name, &report, page, shown)
    }

    /// The next command, without its target.
    fn next(&self) -> String {
        let mut next = "matchpoint calibrate".to_owned();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("embeddings", path(&self.embeddings)),
            ("labels", path(&self.labels)),
            ("array", self.rows.array.clone()),
            ("split", self.rows.split.clone()),
            ("head", path(&self.head)),
        ];
        for (flag, value) in flags {
            if let Some(value) = value {
                next.push_str(&format!(" --{flag} {value}"));
            }
        }
        next
    }

    pub(crate) fn run(
        &self,
        wanted: &VectorSettings,
        fitted: &FittedFlags,
        report: Option<&OutputFile>,
        shown: Shown,
    ) -> anyhow::Result<Exit> {
        let ReadVectors {
            source,
            rows,
            vectors,
        } = self.read(fitted, wanted.settings.assured)?;
        let request = VectorRequest {
            source,
            settings: wanted.settings.clone(),
            scope: wanted.scope,
        };
        let mut outcome = calibrate(&vectors, &request)?;
        let splits = rows.split.as_deref().unwrap_or_default();
        for (row, role) in rows.role.iter().flatten().enumerate() {
            let in_split = self.rows.split.is_none() || splits.get(row) == self.rows.split.as_ref();
            if in_split && *role == Role::Unused {
                outcome.0.left_out.pass(role.as_str());
            }
        }
        let output = OutputFile::output(report, shown.json);
        output.result(&outcome.0, |outcome| text(outcome, shown))?;
        if let Some(file) = report {
            file.write_page(output, &outcome.1)?;
        }
        Ok(if outcome.0.findings.refusal.is_some() {
            Exit::Underpowered
        } else {
            Exit::Done
        })
    }

    /// Sorts rows into a gallery and queries.
    fn sorted(
        &self,
        rows: &LabelTable,
        dimension: usize,
        vectors: &[f32],
    ) -> anyhow::Result<LabelledVectors> {
        let role_of = |row: usize| match &rows.role {
            None => Role::Gallery,
            Some(roles) => roles.get(row).copied().unwrap_or(Role::Unused),
        };
        let in_split = |row: usize| match (&self.rows.split, &rows.split) {
            (Some(wanted), Some(splits)) => splits.get(row) == Some(wanted),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if let (Some(_), None) = (&self.rows.split, &rows.split) {
            return Err(fail(
                Exit::BadData,
                "--split was given, and the labels have no column `split`",
            ));
        }
        let chosen: Vec<usize> = (0..rows.label.len()).filter(|&row| in_split(row)).collect();
        if let (true, Some(wanted), Some(splits)) =
            (chosen.is_empty(), &self.rows.split, &rows.split)
        {
            let there: BTreeSet<&str> = splits.iter().map(String::as_str).collect();
            let there: Vec<&str> = there.into_iter().take(10).collect();
            let there = there.join(", ");
            return Err(fail(
                Exit::BadData,
                format!("no row has the split `{wanted}`; there are: {there}"),
            ));
        }
        let of = |wanted: &[Role]| -> Vec<usize> {
            let matching = chosen.iter().copied();
            matching
                .filter(|&row| wanted.contains(&role_of(row)))
                .collect()
        };
        let (gallery, queries) = (of(&[Role::Gallery]), of(&[Role::Query, Role::Unknown]));
        if gallery.is_empty() {
            return Err(fail(
                Exit::BadData,
                "no row has the role gallery, so there is nothing to search in",
            ));
        }
        refuse_contradictions(rows, &gallery, &queries, role_of)?;
        let source = FileVectors {
            rows,
            dimension,
            vectors,
        };
        Ok(LabelledVectors::normalise(
            source.chosen(&gallery)?,
            source.chosen(&queries)?,
        )?)
    }
}

/// Refuses roles that contradict the labels, which would turn a mate into a stranger or the other way round.
fn refuse_contradictions(
    rows: &LabelTable,
    gallery: &[usize],
    queries: &[usize],
    role_of: impl Fn(usize) -> Role,
) -> anyhow::Result<()> {
    let label = |row: &usize| rows.label.get(*row).map_or("", String::as_str);
    let enrolled: BTreeSet<&str> = gallery.iter().map(label).collect();
    let wrong: Vec<&usize> = queries
        .iter()
        .filter(|row| role_of(**row).contradicts(enrolled.contains(label(row))))
        .collect();
    let Some(&&first) = wrong.first() else {
        return Ok(());
    };
    let what = if role_of(first) == Role::Query {
        "is a query, and its label is not in the gallery: make it unknown, or enrol the label"
    } else {
        "is unknown, and its label is in the gallery: make it a query"
    };
    Err(fail(
        Exit::BadData,
        format!(
            "row {first} (label `{}`) {what}; {} rows are like it",
            label(&first),
            wrong.len()
        ),
    ))
}

/// The vectors of a file, with what its list says about each.
struct FileVectors<'a> {
    rows: &'a LabelTable,
    dimension: usize,
    vectors: &'a [f32],
}

impl<'a> FileVectors<'a> {
    fn chosen(&self, chosen: &[usize]) -> anyhow::Result<Vec<VectorRow<'a>>> {
        chosen.iter().map(|&row| self.row(row)).collect()
    }

    fn row(&self, row: usize) -> anyhow::Result<VectorRow<'a>> {
        let start = row * self.dimension;
        let vector = self.vectors.get(start..start + self.dimension);
        let vector = vector.unwrap_or_default();
        if !vector.iter().all(|value| value.is_finite()) || vector.iter().all(|v| *v == 0.0) {
            return Err(fail(
                Exit::BadData,
                format!("vector {row} is zero, or holds what is not a number; remove its row"),
            ));
        }
        let id = self.rows.id.as_ref().and_then(|ids| ids.get(row)).cloned();
        let metadata = self.rows.metadata.iter();
        Ok(VectorRow {
            id: id.unwrap_or_else(|| format!("row {row}")),
            label: self.rows.label.get(row).map_or("", String::as_str),
            conditions: metadata
                .filter_map(|(column, values)| Some((column.clone(), values.get(row)?.clone())))
                // As in a list of pictures, an empty cell says nothing.
                .filter(|(_, value)| !value.is_empty())
                .collect::<BTreeMap<String, String>>(),
            vector,
        })
    }
}

fn calibrate(
    vectors: &LabelledVectors,
    request: &VectorRequest,
) -> anyhow::Result<(VectorsReport, matchpoint_report::ReportContents)> {
    let watched = SharedProgress::new("search");
    let found = calibrate_vectors(vectors, request, &|stage, done, total| {
        let stage = match stage {
            VectorStage::Search => "search",
            VectorStage::NearCopies => "near copies",
            VectorStage::Pairs => "pairs",
        };
        watched.at_stage(stage, done, total)
    })?;
    watched.finish();
    let page = page_of_vectors(&request.source, &request.settings, &found);
    let report = VectorsReport {
        findings: VectorFindings::of(CalibratedSizes::of(vectors), found),
        left_out: LeftOut::default(),
    };
    Ok((report, page))
}

fn text(report: &VectorsReport, shown: Shown) -> String {
    let (report, left_out) = (&report.findings, &report.left_out);
    let mut text = String::new();
    if let Some(refusal) = &report.refusal {
        text.push_str(&refusal_text(refusal));
    }
    if let Some(content) = &report.content {
        let heading = "operating point of plain vectors".to_owned();
        text.push_str(&PointInWords::of(heading, content).text());
    }
    let doubts = Doubts {
        alike: &report.alike,
        copies: &report.copies,
        repeated: &[],
        near_copies: &report.near_copies,
        unnamed: report.unnamed.as_ref(),
        crowded: report.crowded.as_ref(),
        not_compared: report.not_compared,
    };
    text.push_str(&doubts.text());
    if shown.verbose {
        text.push_str(&details(report, left_out));
    }
    if report.refusal.is_none() {
        let hint = shown.hint();
        text.push_str(&hint.map_or_else(String::new, |hint| format!("{hint}\n")));
    }
    text
}

/// Every figure.
fn details(report: &VectorFindings, left_out: &LeftOut) -> String {
    let mut text = String::new();
    text.push_str(&table(&[(
        "vectors",
        format!(
            "{} in the gallery, {} queries, {} labels{}",
            report.gallery,
            report.queries,
            report.labels,
            if report.queries == 0 {
                "; each searches among the others"
            } else {
                ""
            }
        ),
    )]));
    text.push_str(&table(&left_out.rows()));
    if let Some(content) = &report.content {
        text.push_str("search level (FPIR and FNIR)\n");
        text.push_str(&describe(content));
    }
    if let Some(analysis) = &report.analysis {
        let target = report.content.as_ref().and_then(Content::target_far);
        text.push_str(&analysis_text::text(analysis, target.map(TargetFar::far)));
    }
    text
}
