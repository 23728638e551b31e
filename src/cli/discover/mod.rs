//! `matchpoint discover`: rejected queries that belong together, proposed as new labels.

mod candidates;
mod list;
mod searching;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

use self::candidates::{Candidates, QueryCounts};
use self::list::ProposedList;
use self::searching::NearestEnrolled;
use super::exit::{Exit, fail};
use super::input::array_flags::ArrayFlags;
use super::monitor::audit::export::unix_ms;
use super::output::Output;
use super::output::progress::SharedProgress;
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::RefusedItem;
use crate::telemetry;
use matchpoint_calibration::analysis::discovery::{
    GroupingError, GroupingPlan, PairThreshold, ProposedGroup,
};
use matchpoint_calibration::analysis::linkage::LinkedPair;

/// Group rejected queries that belong together, as new labels to enrol
///
/// Of the searches that were rejected, those whose pictures are kept are searched for once more, and what is still rejected is
/// grouped: every two pictures of a group are as alike as one of a thousand pairs of different labels (--far). What such groups are
/// worth is measured on the gallery's own pictures. Nothing is enrolled: --csv writes a list to rename, to shorten and to
/// give to `build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint discover shop --since 2026-11-01 --csv new.csv   # of what a server rejected, with audit_images = true
  matchpoint discover shop --images inbox/ --csv new.csv      # of pictures: those that are rejected
  matchpoint build shop --images new.csv                      # once it is renamed and shortened, to enrol it
  matchpoint discover shop --embeddings queries.npy
  matchpoint discover --embeddings vectors.npy --labels rows.csv --far 0.0001

docs/discover.md says how groups are made, and what was measured.")]
pub(super) struct Discover {
    /// The deployment's folder, which may be served meanwhile
    #[arg(required_unless_present = "embeddings")]
    deployment: Option<PathBuf>,
    /// Pictures instead of recorded searches: images, and folders of images, whatever their names
    #[arg(long, value_name = "IMAGE", num_args = 1.., conflicts_with = "embeddings", requires = "deployment")]
    images: Vec<PathBuf>,
    /// Only searches made from this time on, such as 2026-11-01 or 2026-11-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = unix_ms, conflicts_with_all = ["images", "embeddings"])]
    since: Option<u64>,
    /// Only searches made before this time
    #[arg(long, value_name = "TIME", value_parser = unix_ms, conflicts_with_all = ["images", "embeddings"])]
    until: Option<u64>,
    /// The pairwise FAR: so many pairs of pictures of different labels are as alike as every two of a group
    #[arg(long, value_name = "RATE", default_value_t = 0.001, value_parser = far)]
    far: f64,
    /// Different pictures that a group has at the least
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=1000))]
    smallest: u16,
    /// Seed of the halves of the labels that the error is measured with
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Write the groups to this file, for `build` once you have renamed the labels and removed what does not belong; pictures of
    /// recorded searches go into a folder beside it
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The model's folder, if it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Vectors instead: .npy, .npz, Parquet or .fvecs; with a deployment its queries, else with --labels
    #[arg(long, value_name = "FILE", help_heading = "Vectors made elsewhere")]
    embeddings: Option<PathBuf>,
    /// A .csv file whose row i belongs to vector i, with a column role: rows of the role unknown are grouped, those of the
    /// roles gallery and query say how alike pictures of one label are. Of unknown rows the label is what they show, if somebody
    /// knows: it measures the groups; write ? if nobody does
    #[arg(
        long,
        value_name = "FILE",
        requires = "embeddings",
        conflicts_with = "deployment",
        help_heading = "Vectors made elsewhere"
    )]
    labels: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Vectors made elsewhere")]
    rows: ArrayFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What was found.
#[derive(Debug, Serialize)]
struct DiscoverReport {
    queries: QueryCounts,
    /// From where on two pictures count as one thing.
    alike: PairThreshold,
    /// Labels of the gallery that were left out, since the model's head was fitted to them: they are more alike than new ones.
    fitted_labels: usize,
    /// Known pictures that were left out, since there are enough without them.
    known_unused: usize,
    groups: Vec<DiscoveredGroup>,
    /// What such groups are worth, of labelled pictures; `None` if there are too few labels to measure it.
    measured: Option<GroupingError>,
    /// What these very groups are worth, of queries whose label is known; `None` without any.
    of_known_queries: Option<GroupingError>,
    /// The list that was written.
    csv: Option<PathBuf>,
    /// Pictures that are not in it, since they were removed after they had been searched for.
    pictures_removed: usize,
    failed: Vec<RefusedItem>,
    /// How to enrol what was written.
    #[serde(skip)]
    enrol: Option<String>,
}

/// A group that may be a new label.
#[derive(Debug, Serialize)]
struct DiscoveredGroup {
    /// What it is called until a person names it.
    label: String,
    /// Different pictures; queries that are nearly one picture count once.
    pictures: usize,
    /// Its queries: ids of decisions, paths, or numbers of rows.
    members: Vec<String>,
    /// The two that are most alike.
    tightest: AlikeMembers,
    /// The two that are least alike.
    loosest: AlikeMembers,
    /// The enrolled label that any of them came nearest to.
    nearest: Option<NearestEnrolled>,
}

/// Two members of a group.
#[derive(Debug, Serialize)]
struct AlikeMembers {
    one: String,
    other: String,
    similarity: f32,
}

/// A rate between none and all.
fn far(text: &str) -> Result<f64, String> {
    let far: Option<f64> = text.parse().ok();
    far.filter(|far| 0.0 < *far && *far < 1.0)
        .ok_or_else(|| "write a rate above 0 and below 1, such as 0.001".to_owned())
}

impl Discover {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let list = self.csv.as_deref().map(ProposedList::at).transpose()?;
        let candidates = match &self.deployment {
            Some(deployment) => self.of_deployment(deployment, &engine)?,
            None => self.of_vectors()?,
        };
        let plan = GroupingPlan {
            far: self.far,
            smallest: usize::from(self.smallest),
            seed: self.seed,
        };
        let (rows, needed) = (candidates.rows.len(), plan.smallest);
        if rows < needed {
            return Err(fail(
                Exit::Underpowered,
                candidates.counts.too_few(rows, needed, &candidates.failed),
            ));
        }
        let progress = SharedProgress::new("compare");
        let watch = |done, total| progress.at(done, total);
        let known = &candidates.known;
        let alike = plan.threshold(known, &watch)?;
        let vectors = candidates.vectors();
        let groups = plan.groups(known.dimension, &vectors, alike.threshold, &watch)?;
        let measured = plan.measure(known, rows, &watch)?;
        progress.finish();
        let of_known_queries = GroupingError::of(&groups, &candidates.truth());
        let named = named(&groups, &candidates);
        let mut report = DiscoverReport {
            queries: candidates.counts.clone(),
            alike,
            fitted_labels: candidates.fitted_labels,
            known_unused: candidates.known_unused,
            groups: named,
            measured,
            of_known_queries,
            csv: None,
            pictures_removed: 0,
            failed: candidates.failed.clone(),
            enrol: None,
        };
        if let Some(list) = list {
            let labels: Vec<&str> = report.groups.iter().map(|one| one.label.as_str()).collect();
            let labelled = labels.into_iter().zip(&groups);
            report.pictures_removed = list.write(&labelled.collect::<Vec<_>>(), &candidates)?;
            report.csv.clone_from(&self.csv);
            report.enrol = Some(self.how_to_enrol());
        }
        Output::beside(self.json, self.csv.as_deref()).result(&report, text::text)?;
        Ok(if report.failed.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        })
    }

    fn times(&self) -> Range<u64> {
        self.since.unwrap_or(0)..self.until.unwrap_or(u64::MAX)
    }

    /// The command that enrols what is left of the list.
    fn how_to_enrol(&self) -> String {
        let shown = |path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| path.display().to_string());
            path.unwrap_or_else(|| "DIR".to_owned())
        };
        let (deployment, csv) = (shown(&self.deployment), shown(&self.csv));
        match &self.embeddings {
            Some(vectors) => format!(
                "matchpoint build {deployment} --embeddings {} --labels {csv}",
                vectors.display()
            ),
            None => format!("matchpoint build {deployment} --images {csv}"),
        }
    }
}

/// The groups with what is known of their members; a name is free among the enrolled labels.
fn named(groups: &[ProposedGroup], candidates: &Candidates) -> Vec<DiscoveredGroup> {
    let taken: BTreeSet<&str> = candidates.enrolled.iter().map(String::as_str).collect();
    let names = (1_u64..).map(|number| format!("new-{number}"));
    let free = names.filter(|name| !taken.contains(name.as_str()));
    let name = |row: usize| {
        let one = candidates.rows.get(row);
        one.map_or_else(String::new, |one| one.name.clone())
    };
    let pair = |pair: LinkedPair| AlikeMembers {
        one: name(pair.row),
        other: name(pair.other),
        similarity: pair.similarity,
    };
    let groups = free.zip(groups).map(|(label, group)| {
        let rows = &group.linked.rows;
        let nearest = rows.iter().filter_map(|row| candidates.rows.get(*row));
        let nearest = nearest.filter_map(|one| one.nearest.clone());
        DiscoveredGroup {
            label,
            pictures: group.pictures,
            members: rows.iter().map(|row| name(*row)).collect(),
            tightest: pair(group.linked.tightest),
            loosest: pair(group.linked.loosest),
            nearest: nearest.max_by(|a, b| a.similarity.total_cmp(&b.similarity)),
        }
    });
    groups.collect()
}

/// Labels as numbers, in the order of their names.
fn numbered<'a>(names: impl Iterator<Item = &'a str> + Clone) -> BTreeMap<&'a str, u32> {
    let names: BTreeSet<&str> = names.collect();
    names.into_iter().zip(0..).collect()
}
