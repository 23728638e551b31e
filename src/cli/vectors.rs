//! `matchpoint calibrate --embeddings`: anyone's vectors, without a deployment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::analysis;
use super::doubts::Doubts;
use super::exit::{Exit, fail};
use super::fitted_labels::refuse_fitted;
use super::left_out::LeftOut;
use super::operating_point_text::{Refusal, describe, refusal_text};
use super::output::{Output, table};
use super::page::{Findings, Outline};
use super::pictures::Pictures;
use super::progress::Watched;
use super::vector_copies::{Copies, NoTrials, unnamed};
use super::vector_parts::Parts;
use crate::clock::now_rfc_3339;
use crate::deployment::{CalibrationSettings, Copied, NearCopied};
use matchpoint_arrays::{LabelTable, Role};
use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::nearest::{Nearest, NearestRow, nearest};
use matchpoint_calibration::analysis::strangers::UnnamedStrangers;
use matchpoint_calibration::analysis::{
    Analysis, AnalysisInput, AnalysisScope, CandidateList, EmbeddedSet,
};
use matchpoint_calibration::held_out::{Folds, cross_fit};
use matchpoint_calibration::likeness::Alike;
use matchpoint_calibration::operating_point::{
    Binding, Content, HeldOutRates, Metric, OperatingPoint, PointPlan,
};
use matchpoint_calibration::policy::choose;
use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
use matchpoint_vector::Similarity;

/// Candidates of a stranger that are kept to tell what smaller galleries would find.
const DEPTH: usize = 64;
/// More scores than this are not computed for that.
const DEEP_SCORES_MAX: u64 = 50_000_000;

/// Pairs of plain vectors that are looked at unless told otherwise.
pub(super) const VECTORS_PAIRS_MAX: u64 = 20_000_000_000;

/// Vectors and their labels.
#[derive(Debug, clap::Args)]
pub(super) struct ArrayFlags {
    /// Calibrate these vectors instead of a deployment: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE")]
    embeddings: Option<PathBuf>,
    /// A .csv file whose row i belongs to vector i: column `label` (or `class`), and where they are
    /// known `id`, `role` (gallery, query, unknown or unused) and `split`; all other columns are
    /// conditions, such as camera. For Parquet, columns of the same file without it
    #[arg(long, value_name = "FILE", requires = "embeddings")]
    labels: Option<PathBuf>,
    /// The array of an .npz, or the column of a Parquet file, that holds the vectors
    #[arg(long, value_name = "NAME", requires = "embeddings")]
    array: Option<String>,
    /// Take only rows whose column `split` has this value
    #[arg(long, value_name = "VALUE", requires = "embeddings")]
    split: Option<String>,
}

/// What plain vectors came to.
#[derive(Serialize)]
struct ArraysReport {
    outcome: &'static str,
    gallery: usize,
    queries: usize,
    labels: usize,
    /// Labels of strangers that are suspiciously like another.
    alike: Vec<Alike>,
    /// Queries that are nearly vectors of the gallery: of their own label not counted.
    copies: Vec<Copied>,
    /// Strangers' queries that are nearly one vector with another stranger's: counted once.
    near_copies: Vec<NearCopied>,
    /// What vectors of strangers are worth whom nobody named; `None` where there are none.
    unnamed: Option<UnnamedStrangers>,
    /// Strangers' queries that were not held against the others for that: there are too many.
    not_compared: u64,
    content: Option<Content>,
    refusal: Option<Refusal>,
    /// Rows of the role unused.
    left_out: LeftOut,
    analysis: Option<Analysis>,
}

/// What a calibration is asked for.
pub(super) struct Wanted {
    pub(super) settings: CalibrationSettings,
    /// What else is analysed.
    pub(super) scope: AnalysisScope,
}

impl ArrayFlags {
    pub(super) fn run(
        &self,
        wanted: &Wanted,
        fitted_on: Option<&Path>,
        report: Option<&Path>,
        json: bool,
    ) -> anyhow::Result<Exit> {
        // clap asks for a deployment where there is no such flag.
        let Some(path) = &self.embeddings else {
            return Err(fail(Exit::Usage, "name a deployment, or use --embeddings"));
        };
        let options = matchpoint_arrays::ReadOptions {
            name: self.array.clone(),
            text: None,
            bytes_max: matchpoint_arrays::BYTES_MAX,
        };
        let data = matchpoint_arrays::read(path, &options)?;
        let rows = match &self.labels {
            Some(labels) => LabelTable::read(labels, data.rows())?,
            None => data.labels(path)?,
        };
        let digest = digest(&data.vectors);
        let parts = self.parts(&rows, data.dimension, &data.vectors)?;
        drop(data);
        if let Some(fitted_on) = fitted_on {
            let labels = parts.names.iter().map(String::as_str).collect();
            refuse_fitted(fitted_on, &labels)?;
        }

        let mut outcome = calibrate(path, &parts, wanted, digest)?;
        let splits = rows.split.as_deref().unwrap_or_default();
        for (row, role) in rows.role.iter().flatten().enumerate() {
            let in_split = self.split.is_none() || splits.get(row) == self.split.as_ref();
            if in_split && *role == Role::Unused {
                outcome.0.left_out.pass(role.as_str());
            }
        }
        let output = Output::new(json);
        output.result(&outcome.0, text)?;
        if let Some(file) = report {
            analysis::write_report(file, &outcome.1)?;
            output.note(&format!("report: {}", file.display()));
        }
        Ok(if outcome.0.refusal.is_some() {
            Exit::Underpowered
        } else {
            Exit::Done
        })
    }

    /// Sorts rows into a gallery and queries.
    fn parts(&self, rows: &LabelTable, dimension: usize, vectors: &[f32]) -> anyhow::Result<Parts> {
        let role_of = |row: usize| match &rows.role {
            None => Role::Gallery,
            Some(roles) => roles.get(row).copied().unwrap_or(Role::Unused),
        };
        let in_split = |row: usize| match (&self.split, &rows.split) {
            (Some(wanted), Some(splits)) => splits.get(row) == Some(wanted),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if let (Some(_), None) = (&self.split, &rows.split) {
            return Err(fail(
                Exit::BadData,
                "--split was given, and the labels have no column `split`",
            ));
        }
        let chosen: Vec<usize> = (0..rows.label.len()).filter(|&row| in_split(row)).collect();
        if let (true, Some(wanted), Some(splits)) = (chosen.is_empty(), &self.split, &rows.split) {
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
        let mut names: Vec<String> = gallery
            .iter()
            .chain(&queries)
            .filter_map(|&row| rows.label.get(row).cloned())
            .collect();
        names.sort_unstable();
        names.dedup();
        let source = Source {
            rows,
            dimension,
            vectors,
            names: &names,
        };
        let gallery = source.set(&gallery)?;
        let queries = if rows.role.is_some() && !queries.is_empty() {
            Some(source.set(&queries)?)
        } else {
            None
        };
        Ok(Parts {
            gallery,
            queries,
            names,
        })
    }
}

/// A role that the labels deny would turn a mate into a stranger, or the other way round.
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
        .filter(|row| (role_of(**row) == Role::Query) != enrolled.contains(label(row)))
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

struct Source<'a> {
    rows: &'a LabelTable,
    dimension: usize,
    vectors: &'a [f32],
    names: &'a [String],
}

impl Source<'_> {
    fn set(&self, chosen: &[usize]) -> anyhow::Result<EmbeddedSet> {
        let mut vectors = Vec::with_capacity(chosen.len() * self.dimension);
        let (mut ids, mut labels, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
        for &row in chosen {
            let start = row * self.dimension;
            let vector = self.vectors.get(start..start + self.dimension);
            let vector = vector.unwrap_or_default();
            if !vector.iter().all(|value| value.is_finite()) || vector.iter().all(|v| *v == 0.0) {
                return Err(fail(
                    Exit::BadData,
                    format!("vector {row} is zero, or holds what is not a number; remove its row"),
                ));
            }
            vectors.extend_from_slice(vector);
            let name = self.rows.label.get(row);
            let index = name.and_then(|name| self.names.binary_search(name).ok());
            labels.push(u32::try_from(index.unwrap_or_default())?);
            let id = self.rows.id.as_ref().and_then(|ids| ids.get(row)).cloned();
            ids.push(id.unwrap_or_else(|| format!("row {row}")));
            let metadata = self.rows.metadata.iter();
            conditions.push(
                metadata
                    .filter_map(|(column, values)| Some((column.clone(), values.get(row)?.clone())))
                    .collect::<BTreeMap<String, String>>(),
            );
        }
        Ok(EmbeddedSet {
            ids,
            conditions,
            embeddings: Embeddings::normalise(self.dimension, vectors, labels.clone())?,
            labels,
        })
    }
}

fn digest(vectors: &[f32]) -> String {
    let mut hash = Sha256::new();
    for value in vectors {
        hash.update(value.to_le_bytes());
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What the vectors were searched for, and what there is to say against it.
struct Tried {
    recording: Recording,
    copies: Copies,
    alike: Vec<Alike>,
    unnamed: Option<UnnamedStrangers>,
    /// What has to be assumed.
    remarks: Vec<String>,
}

impl Tried {
    fn search(parts: &Parts, settings: &CalibrationSettings) -> anyhow::Result<Self> {
        let queries = parts.queries.as_ref().unwrap_or(&parts.gallery);
        let alike = parts.alike();
        let remarks = Vec::from_iter(settings.assured.spellings(&alike)?);
        let watched = Watched::new("search");
        let found = nearest(
            &queries.embeddings,
            &parts.gallery.embeddings,
            &|done, total| watched.at(done, total),
        )?;
        watched.finish();
        let copies = Copies::find(parts, &found)?;
        let mut searches = searches(parts, &found, &copies.no_trials);
        let unnamed = unnamed(queries, &parts.names, &searches)?;
        if let (true, Some(unnamed)) = (settings.assured.counts_once(unnamed.as_ref()), &unnamed) {
            unnamed.count_once(&mut searches);
        }
        Ok(Self {
            recording: Recording::new(searches)?,
            copies,
            alike,
            unnamed,
            remarks,
        })
    }
}

fn calibrate(
    path: &Path,
    parts: &Parts,
    wanted: &Wanted,
    digest: String,
) -> anyhow::Result<(ArraysReport, matchpoint_report::ReportContents)> {
    let settings = &wanted.settings;
    let Tried {
        recording,
        copies,
        alike,
        unnamed,
        remarks,
    } = Tried::search(parts, settings)?;
    let mut report = ArraysReport {
        outcome: "refused",
        gallery: parts.gallery.ids.len(),
        queries: parts.queries.as_ref().map_or(0, |set| set.ids.len()),
        labels: parts.names.len(),
        alike,
        copies: copies.of_items,
        near_copies: copies.of_strangers,
        unnamed,
        not_compared: copies.not_compared,
        content: None,
        refusal: None,
        left_out: LeftOut::default(),
        analysis: None,
    };
    let name = path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let outline = Outline {
        title: format!("{name}: calibration"),
        created: now_rfc_3339(),
        settings,
    };
    let made_from = MadeFrom {
        name: name.clone(),
        digest,
        remarks,
        unnamed: report.unnamed.as_ref(),
    };
    match point(made_from, parts, &recording, settings) {
        Ok(point) => {
            let content = point.content();
            report.outcome = if content.policy.certifies() {
                "certified"
            } else {
                "aimed at, not certified"
            };
            let analysis = analyse(parts, &recording, &point, &copies.no_trials, wanted)?;
            let page = outline.page(&Findings {
                id: None,
                content,
                recording: &recording,
                analysis: &analysis,
                gallery: &parts.gallery,
                names: &parts.names,
                pictures: &Pictures::default(),
                query_pictures: &Pictures::default(),
            });
            report.content = Some(content.clone());
            report.analysis = Some(analysis);
            Ok((report, page))
        }
        Err(error) => {
            let Some(refusal) = Refusal::of(&error) else {
                return Err(error.into());
            };
            let page = outline.refused(&refusal);
            report.refusal = Some(refusal);
            Ok((report, page))
        }
    }
}

fn analyse(
    parts: &Parts,
    recording: &Recording,
    point: &OperatingPoint,
    no_trials: &NoTrials,
    wanted: &Wanted,
) -> anyhow::Result<Analysis> {
    let threshold = point.threshold();
    let material = AnalysisInput {
        names: &parts.names,
        gallery: &parts.gallery,
        queries: parts.queries.as_ref(),
        recording,
        deep: &deep(parts, no_trials),
        depth: DEPTH,
        target: wanted.settings.target,
        threshold,
        on_similarity: threshold,
        seed: wanted.settings.seed,
        scope: wanted.scope,
    };
    let watched = Watched::new("pairs");
    let analysis = material.analyse(&|done, total| watched.at(done, total))?;
    watched.finish();
    Ok(analysis)
}

/// Each row that searches: mated where its label has another row to find, and a stranger where it
/// is none, or with its own label left out where the gallery searches for itself.
fn searches(parts: &Parts, found: &[Nearest], no_trials: &NoTrials) -> Vec<RecordedSearch> {
    let (gallery, names) = (&parts.gallery, parts.names.as_slice());
    let queries = parts.queries.as_ref().unwrap_or(gallery);
    let enrolled: BTreeSet<u32> = gallery.labels.iter().copied().collect();
    let mut searches = Vec::new();
    for (row, nearest) in found.iter().enumerate() {
        let label = queries.label(row, names).to_owned();
        let known = queries
            .labels
            .get(row)
            .is_some_and(|l| enrolled.contains(l));
        let search = |truth, neighbour: Option<NearestRow>| RecordedSearch {
            probe: queries.ids.get(row).cloned().unwrap_or_default(),
            label: label.clone(),
            truth,
            found: neighbour.map(|neighbour| RecordedMatch {
                item: gallery.ids.get(neighbour.row).cloned().unwrap_or_default(),
                label: gallery.label(neighbour.row, names).to_owned(),
                score: neighbour.score,
                adjusted: None,
            }),
            conditions: queries.conditions.get(row).cloned().unwrap_or_default(),
        };
        let top = nearest.top().map(|(neighbour, _)| neighbour);
        let alone = parts.queries.is_none() && nearest.same_label.is_none();
        if known && !alone && !no_trials.mated.contains(&row) {
            searches.push(search(TrialKind::Mated, top));
        }
        if parts.queries.is_none() {
            searches.push(search(TrialKind::LeftOut, nearest.other_label));
        } else if !known && !no_trials.strangers.contains(&row) {
            searches.push(search(TrialKind::NeverEnrolled, top));
        }
    }
    searches
}

/// What an operating point says of the vectors that it was made from.
struct MadeFrom<'a> {
    name: String,
    digest: String,
    remarks: Vec<String>,
    unnamed: Option<&'a UnnamedStrangers>,
}

fn point(
    made_from: MadeFrom<'_>,
    parts: &Parts,
    recording: &Recording,
    settings: &CalibrationSettings,
) -> Result<OperatingPoint, matchpoint_calibration::CalibrationError> {
    let MadeFrom {
        name,
        digest,
        mut remarks,
        unnamed,
    } = made_from;
    let labels: BTreeSet<u32> = parts.gallery.labels.iter().copied().collect();
    let items = parts.gallery.ids.len() as u64;
    let (target, growth) = settings.tightened(items)?;
    let folds = Folds::new(Folds::COUNT_DEFAULT, settings.seed)?;
    let choice = choose(target, recording.trials(), settings.seed)?;
    remarks.extend(settings.assured.strangers(unnamed, target)?);
    let held_out = cross_fit(target, recording.trials(), folds);
    let plan = PointPlan {
        created: now_rfc_3339(),
        target,
        seed: settings.seed,
        binding: Binding {
            model_fingerprint: digest.clone(),
            model_name: name,
            gallery_id: format!("embeddings {}", digest.get(..16).unwrap_or_default()),
            gallery_digest: digest,
            gallery_items: items,
            gallery_labels: labels.len() as u64,
            index: "exact".to_owned(),
            metric: Metric::Cosine,
        },
        software: format!("matchpoint {}", env!("CARGO_PKG_VERSION")),
        held_out: Some(HeldOutRates::of(&held_out, recording.trials())),
        growth,
        index_check: None,
        adjustment: None,
        remarks,
    };
    OperatingPoint::chosen(&choice, recording.trials(), plan)
}

/// What each stranger finds beyond its best candidate, where that is not too much work.
fn deep(parts: &Parts, no_trials: &NoTrials) -> Vec<CandidateList> {
    let (gallery, names) = (&parts.gallery, parts.names.as_slice());
    let queries = parts.queries.as_ref().unwrap_or(gallery);
    let enrolled: BTreeSet<u32> = gallery.labels.iter().copied().collect();
    let is_stranger = |row: usize| {
        let label = queries.labels.get(row);
        parts.queries.is_none() || label.is_some_and(|label| !enrolled.contains(label))
    };
    let strangers: Vec<usize> = (0..queries.ids.len())
        .filter(|&row| is_stranger(row) && !no_trials.strangers.contains(&row))
        .collect();
    if DEEP_SCORES_MAX < strangers.len() as u64 * gallery.ids.len() as u64 {
        return Vec::new();
    }
    let of = |&row: &usize| {
        let label = queries.label(row, names).to_owned();
        let probe = queries.embeddings.row(row).unwrap_or_default();
        let mut candidates: Vec<(Similarity, &str)> = (0..gallery.ids.len())
            .filter_map(|item| {
                if gallery.labels.get(item) == queries.labels.get(row) {
                    return None;
                }
                let vector = gallery.embeddings.row(item)?;
                Some((
                    Similarity::between(probe, vector)?,
                    gallery.label(item, names),
                ))
            })
            .collect();
        let best_first =
            |a: &(Similarity, &str), b: &(Similarity, &str)| b.0.cmp(&a.0).then(a.1.cmp(b.1));
        if DEPTH < candidates.len() {
            candidates.select_nth_unstable_by(DEPTH, best_first);
            candidates.truncate(DEPTH);
        }
        candidates.sort_unstable_by(best_first);
        let owned = candidates
            .into_iter()
            .map(|(score, label)| (score, label.to_owned()));
        (label, owned.collect())
    };
    strangers.iter().map(of).collect()
}

fn text(report: &ArraysReport) -> String {
    let doubts = Doubts {
        alike: &report.alike,
        copies: &report.copies,
        repeated: &[],
        near_copies: &report.near_copies,
        unnamed: report.unnamed.as_ref(),
        not_compared: report.not_compared,
    };
    let mut text = doubts.text();
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
    text.push_str(&table(&report.left_out.rows()));
    if let Some(refusal) = &report.refusal {
        text.push_str(&refusal_text(refusal));
    }
    if let Some(content) = &report.content {
        text.push_str("search level (FPIR and FNIR)\n");
        text.push_str(&describe(content));
    }
    if let Some(analysis) = &report.analysis {
        text.push_str(&analysis::text(analysis));
    }
    text
}
