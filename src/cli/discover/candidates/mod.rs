//! What is grouped: rejected queries, and the labelled pictures that say how alike one thing is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::searching::{Found, NearestEnrolled, searched};
use super::{Discover, numbered};
use crate::cli::calibrate::labelled_search::{self, window};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::images::listed;
use crate::cli::output::{self, wrapped};
use crate::config::EngineConfig;
use crate::deployment::{ActivePoint, Deployment, Query, RefusedItem, read_image};
use crate::journal::entry::DecisionId;
use crate::monitor::{kept_picture, rejected_searches};
use matchpoint_adapt::HeadRecord;
use matchpoint_arrays::{LabelTable, Role, VectorTable};
use matchpoint_calibration::analysis::discovery::{KnownRows, QUERIES_MAX};
use matchpoint_calibration::strangers::is_unnamed;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_gallery::Access;
use matchpoint_vector::Embedding;

/// Where a query comes from.
#[derive(Clone, Debug)]
pub(super) enum QueryAt {
    /// A recorded search.
    Decision(DecisionId),
    /// A file.
    File(PathBuf),
    /// A row of vectors.
    Row(usize),
}

/// A rejected query.
#[derive(Clone, Debug)]
pub(super) struct RejectedQuery {
    pub(super) name: String,
    pub(super) at: QueryAt,
    unit: Vec<f32>,
    pub(super) nearest: Option<NearestEnrolled>,
    /// What it shows, if somebody said so.
    truth: Option<String>,
}

/// What became of the queries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct QueryCounts {
    /// Rejected searches in the journal; `None` of other queries.
    pub(super) recorded: Option<u64>,
    /// Those of them whose annotation says what they show, if that is enrolled or cannot be used.
    pub(super) known: u64,
    /// Sampled ones whose picture is not kept.
    pub(super) without_picture: u64,
    /// Older ones that were not looked at, since there are too many.
    pub(super) older: usize,
    /// Queries that were searched for.
    pub(super) searched: usize,
    /// Those that are accepted.
    pub(super) accepted: usize,
    /// Those that are UNDECIDED.
    pub(super) undecided: usize,
    /// Those that were grouped.
    pub(super) grouped: usize,
}

impl QueryCounts {
    /// Why there is nothing to group; `failed` are queries that could not be read.
    pub(super) fn too_few(&self, rows: usize, needed: usize, failed: &[RefusedItem]) -> String {
        let why = if let Some(recorded) = self.recorded {
            format!(
                "{recorded} rejected searches are recorded, and {rows} of them have a picture and are still rejected"
            )
        } else {
            format!("{rows} of the queries are rejected")
        };
        let others = [(self.accepted, "accepted"), (self.undecided, "undecided")];
        let others = others.into_iter().filter(|(count, _)| 0 < *count);
        let others: String = others
            .map(|(count, what)| format!(", {count} are {what} today"))
            .collect();
        let unread = failed.first().map_or_else(String::new, |first| {
            format!(
                ", {} cannot be used (the first, {}: {})",
                failed.len(),
                first.item,
                first.reason
            )
        });
        format!("{why}{others}{unread}; a group takes {needed} (--smallest)")
    }
}

/// The label of a row of queries of which nobody knows what it shows.
const NOT_KNOWN: &str = "?";

/// What is grouped, and by what.
pub(super) struct Candidates {
    pub(super) rows: Vec<RejectedQuery>,
    pub(super) counts: QueryCounts,
    pub(super) failed: Vec<RefusedItem>,
    /// Labelled pictures.
    pub(super) known: KnownRows,
    /// Labels that are enrolled.
    pub(super) enrolled: Vec<String>,
    /// Enrolled labels that are not among the labelled pictures, since the model's head was fitted to them.
    pub(super) fitted_labels: usize,
    /// Known pictures that are not used, since there are enough without them.
    pub(super) known_unused: usize,
    /// The journal's folder, for the pictures of decisions.
    folder: PathBuf,
    /// Rows of the file of vectors.
    pub(super) rows_of_file: usize,
}

impl Candidates {
    /// All vectors, one after the other.
    pub(super) fn vectors(&self) -> Vec<f32> {
        self.rows
            .iter()
            .flat_map(|one| &one.unit)
            .copied()
            .collect()
    }

    /// What each shows, as a number, if it is known.
    pub(super) fn truth(&self) -> Vec<Option<u32>> {
        let names = self.rows.iter().filter_map(|one| one.truth.as_deref());
        let numbers = numbered(names);
        let truth = |one: &RejectedQuery| numbers.get(one.truth.as_deref()?).copied();
        self.rows.iter().map(truth).collect()
    }

    /// The picture of a decision; `None` if the journal has removed it meanwhile.
    pub(super) fn picture(&self, id: DecisionId) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(kept_picture(&self.folder, id)?)
    }
}

/// A query before it is searched for.
struct Waiting {
    at: QueryAt,
    name: String,
    truth: Option<String>,
}

/// Where the queries of a deployment are read from.
struct QueryReader<'a> {
    /// The deployment's folder, which has the journal.
    folder: &'a Path,
    limits: ImageLimits,
    vectors: Option<VectorTable>,
}

impl QueryReader<'_> {
    /// What to search for; `None` if the picture of a decision is not kept.
    fn read(&self, at: &QueryAt) -> Result<Option<Query>, String> {
        let image = match at {
            QueryAt::Decision(id) => {
                let picture = kept_picture(self.folder, *id).map_err(|error| error.to_string())?;
                let Some(picture) = picture else {
                    return Ok(None);
                };
                picture
            }
            QueryAt::File(path) => {
                read_image(path, &self.limits).map_err(|error| error.to_string())?
            }
            QueryAt::Row(row) => {
                let table = self.vectors.as_ref();
                let row = table.and_then(|table| table.vectors.chunks(table.dimension).nth(*row));
                return Ok(row.map(|row| Query::Embedding(row.to_vec())));
            }
        };
        Ok(Some(Query::Image(image.into())))
    }
}

impl Discover {
    /// The queries of a deployment, the oldest first, before any is searched for.
    fn waiting(
        &self,
        reader: &QueryReader<'_>,
        counts: &mut QueryCounts,
    ) -> anyhow::Result<Vec<Waiting>> {
        let mut waiting: Vec<Waiting> = if let Some(table) = &reader.vectors {
            let rows = (0..table.rows()).map(|row| Waiting {
                at: QueryAt::Row(row),
                name: format!("row {row}"),
                truth: None,
            });
            rows.collect()
        } else if self.images.is_empty() {
            let found = rejected_searches(reader.folder, self.times())?;
            counts.recorded = Some(found.rejects);
            counts.known = found.known;
            let searches = found.sampled.into_iter().map(|search| Waiting {
                at: QueryAt::Decision(search.id),
                name: search.id.to_string(),
                truth: search.stranger,
            });
            searches.collect()
        } else {
            let files = listed(&self.images)?.into_iter().map(|path| Waiting {
                name: path.display().to_string(),
                at: QueryAt::File(path),
                truth: None,
            });
            files.collect()
        };
        counts.older = waiting.len().saturating_sub(QUERIES_MAX);
        waiting.drain(..counts.older);
        Ok(waiting)
    }

    pub(super) fn of_deployment(
        &self,
        folder: &Path,
        engine: &EngineConfig,
    ) -> anyhow::Result<Candidates> {
        let vectors = self.embeddings.as_deref();
        let reader = QueryReader {
            folder,
            limits: ImageLimits {
                bytes_max: engine.image_bytes_max,
                decode_bytes_max: engine.image_decode_bytes_max,
            },
            vectors: vectors.map(|path| self.rows.read(path)).transpose()?,
        };
        let mut counts = QueryCounts::default();
        let waiting = self.waiting(&reader, &mut counts)?;
        if 0 < counts.older {
            // Before the work, since it may not be what was meant.
            let choose = counts
                .recorded
                .map_or("", |_| "; --since and --until choose others");
            let message = format!(
                "of {} queries the last {QUERIES_MAX} are looked at{choose}",
                waiting.len() + counts.older
            );
            output::error(&wrapped(&message, "note: "));
        }
        let deployment =
            labelled_search::open(folder, self.model.clone(), Access::ReadOnly, engine)?;
        refuse_undecided(&deployment)?;
        let read = |number: usize| {
            let query = waiting.get(number);
            query.map_or(Ok(None), |query| reader.read(&query.at))
        };
        let found = searched(&deployment, waiting.len(), window(engine), &read)?;
        let mut candidates = Candidates {
            rows: Vec::new(),
            counts,
            failed: Vec::new(),
            known: KnownRows::default(),
            enrolled: deployment.view().labels().into_iter().collect(),
            fitted_labels: 0,
            known_unused: 0,
            folder: folder.to_owned(),
            rows_of_file: reader.vectors.as_ref().map_or(0, VectorTable::rows),
        };
        candidates.take_found(waiting, found)?;
        candidates.take_gallery(&deployment, self.seed)?;
        Ok(candidates)
    }

    pub(super) fn of_vectors(&self) -> anyhow::Result<Candidates> {
        let Some(path) = &self.embeddings else {
            let message = "name a deployment, or give --embeddings and --labels";
            return Err(fail(Exit::Usage, message));
        };
        let data = self.rows.read(path)?;
        let table = match &self.labels {
            Some(labels) => LabelTable::read(labels, data.rows())?,
            None => data.labels(path)?,
        };
        let Some(roles) = &table.role else {
            let message = format!(
                "the labels of {} have no column role: write unknown for the rows to group, and gallery for those whose label is known",
                path.display()
            );
            return Err(fail(Exit::BadData, message));
        };
        let mut candidates = Candidates {
            rows: Vec::new(),
            counts: QueryCounts::default(),
            failed: Vec::new(),
            known: KnownRows {
                dimension: data.dimension,
                ..KnownRows::default()
            },
            enrolled: Vec::new(),
            fitted_labels: 0,
            known_unused: 0,
            folder: PathBuf::new(),
            rows_of_file: data.rows(),
        };
        let numbers = numbered(table.label.iter().map(String::as_str));
        let vectors = data.vectors.chunks(data.dimension).zip(&table.label);
        for ((row, (vector, label)), role) in vectors.enumerate().zip(roles) {
            let split = table.split.as_ref().and_then(|split| split.get(row));
            let other_split = self.rows.split.is_some() && split != self.rows.split.as_ref();
            if other_split || *role == Role::Unused {
                continue;
            }
            let unit = Embedding::normalise(vector.to_vec()).map_err(|cause| {
                let place = path.display();
                let message = format!("{place}, row {row} counted from 0: {cause}; remove its row");
                fail(Exit::BadData, message)
            })?;
            if *role == Role::Unknown {
                candidates.rows.push(RejectedQuery {
                    name: format!("row {row}"),
                    at: QueryAt::Row(row),
                    unit: unit.as_slice().to_vec(),
                    nearest: None,
                    truth: (!is_unnamed(label) && label != NOT_KNOWN).then(|| label.clone()),
                });
            } else {
                candidates.known.vectors.extend(unit.as_slice());
                candidates.known.labels.extend(numbers.get(label.as_str()));
                candidates.enrolled.push(label.clone());
            }
        }
        let known = &candidates.known.labels;
        let used = KnownRows::used(known, self.seed).len();
        candidates.known_unused = known.len().saturating_sub(used);
        candidates.counts.older = candidates.rows.len().saturating_sub(QUERIES_MAX);
        candidates.rows.drain(..candidates.counts.older);
        candidates.counts.searched = candidates.rows.len();
        candidates.counts.grouped = candidates.rows.len();
        Ok(candidates)
    }
}

impl Candidates {
    /// Those that are rejected, and how many the others are.
    fn take_found(&mut self, waiting: Vec<Waiting>, found: Vec<Found>) -> anyhow::Result<()> {
        for (Waiting { at, name, truth }, found) in waiting.into_iter().zip(found) {
            self.counts.searched += 1;
            match found {
                Found::Rejected(unit, nearest) => self.rows.push(RejectedQuery {
                    name,
                    at,
                    unit,
                    nearest,
                    truth,
                }),
                Found::Accepted => self.counts.accepted += 1,
                Found::Undecided => self.counts.undecided += 1,
                Found::NoPicture => {
                    self.counts.without_picture += 1;
                    self.counts.searched -= 1;
                }
                Found::Failed(reason) => self.failed.push(RefusedItem { item: name, reason }),
            }
        }
        self.counts.grouped = self.rows.len();
        match self.counts.recorded {
            Some(recorded) if self.counts.searched == 0 => {
                let message = format!(
                    "none of {recorded} rejected searches has a picture; `audit_images = true` keeps those that are sampled for audit from \
                     now on; pictures of your own are taken by --images"
                );
                Err(fail(Exit::NoInput, message))
            }
            _ => Ok(()),
        }
    }

    /// Items of labels that the model's head was not fitted to, as many as are used. The others are not copied.
    fn take_gallery(&mut self, deployment: &Deployment, seed: u64) -> anyhow::Result<()> {
        let model = &deployment.loaded().model;
        let head = model.head_record().map(HeadRecord::parse).transpose()?;
        let fitted = |label: &str| head.as_ref().is_some_and(|head| head.fitted_label(label));
        let view = deployment.view();
        let mut items: Vec<_> = view.items().collect();
        items.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
        self.known.dimension = model.dimension();
        self.fitted_labels = self.enrolled.iter().filter(|label| fitted(label)).count();
        items.retain(|(head, _)| !fitted(&head.label));
        let numbers = numbered(items.iter().map(|(head, _)| head.label.as_str()));
        let labels = items.iter();
        let labels = labels.filter_map(|(head, _)| numbers.get(head.label.as_str()).copied());
        let labels: Vec<u32> = labels.collect();
        let used = KnownRows::used(&labels, seed);
        self.known_unused = items.len().saturating_sub(used.len());
        for row in used {
            let item = items.get(row).zip(labels.get(row));
            let Some(((_, vector), label)) = item else {
                continue;
            };
            self.known.vectors.extend_from_slice(vector);
            self.known.labels.push(*label);
        }
        Ok(())
    }
}

/// Without an operating point nothing is rejected.
fn refuse_undecided(deployment: &Deployment) -> anyhow::Result<()> {
    let active = deployment.active_point();
    if active.valid().is_some() {
        return Ok(());
    }
    let exit = if matches!(*active, ActivePoint::Mismatch(_)) {
        Exit::Mismatch
    } else {
        Exit::NoInput
    };
    let message = format!(
        "no operating point decides here, so that nothing is rejected: {}; `matchpoint calibrate` makes one",
        active.problem()
    );
    Err(fail(exit, message))
}

#[cfg(test)]
mod tests;
