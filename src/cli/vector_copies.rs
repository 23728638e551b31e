//! Plain vectors that are nearly other ones, or whose stranger nobody named.

use std::collections::BTreeSet;

use super::progress::Watched;
use super::vector_parts::Parts;
use crate::deployment::{Copied, NearCopied};
use matchpoint_calibration::analysis::EmbeddedSet;
use matchpoint_calibration::analysis::copies::{ROWS_MAX, near_copies, near_copy_from};
use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::nearest::{Nearest, NearestRow};
use matchpoint_calibration::analysis::strangers::{StrangerRow, UnnamedStrangers};
use matchpoint_calibration::recording::{RecordedSearch, TrialKind};

/// What vectors of strangers are worth whom nobody named.
pub(super) fn unnamed(
    queries: &EmbeddedSet,
    names: &[String],
    searches: &[RecordedSearch],
) -> anyhow::Result<Option<UnnamedStrangers>> {
    let strangers: BTreeSet<&str> = searches
        .iter()
        .filter(|search| search.truth == TrialKind::NeverEnrolled)
        .map(|search| search.label.as_str())
        .collect();
    let rows = (0..queries.ids.len()).filter_map(|row| {
        let label = queries.label(row, names);
        let vector = queries.embeddings.row(row)?;
        strangers
            .contains(label)
            .then_some(StrangerRow { label, vector })
    });
    let rows: Vec<StrangerRow<'_>> = rows.take(ROWS_MAX).collect();
    Ok(UnnamedStrangers::find(&rows, searches)?)
}

/// Rows whose searches are no trials.
#[derive(Default)]
pub(super) struct NoTrials {
    /// Of an enrolled label, and nearly an item of it.
    pub(super) mated: BTreeSet<usize>,
    /// Of a stranger, and nearly a query of another.
    pub(super) strangers: BTreeSet<usize>,
}

/// Queries that are nearly something else.
pub(super) struct Copies {
    pub(super) of_items: Vec<Copied>,
    pub(super) of_strangers: Vec<NearCopied>,
    pub(super) not_compared: u64,
    pub(super) no_trials: NoTrials,
}

impl Copies {
    pub(super) fn find(parts: &Parts, found: &[Nearest]) -> anyhow::Result<Self> {
        let mut copies = Self {
            of_items: Vec::new(),
            of_strangers: Vec::new(),
            not_compared: 0,
            no_trials: NoTrials::default(),
        };
        copies.among_items(parts, found);
        copies.among_strangers(parts)?;
        Ok(copies)
    }

    fn among_items(&mut self, parts: &Parts, found: &[Nearest]) {
        let (gallery, names) = (&parts.gallery, parts.names.as_slice());
        let queries = parts.queries.as_ref().unwrap_or(gallery);
        let near = near_copy_from(queries.embeddings.dimension());
        for (row, nearest) in found.iter().enumerate() {
            let is_near = |one: &NearestRow| near <= one.score.get();
            if nearest.same_label.is_some_and(|one| is_near(&one)) {
                self.no_trials.mated.insert(row);
            }
            let either = [nearest.same_label, nearest.other_label];
            for item in either.into_iter().flatten().filter(is_near) {
                self.of_items.push(Copied {
                    query: queries.ids.get(row).cloned().unwrap_or_default(),
                    label: queries.label(row, names).to_owned(),
                    item: gallery.ids.get(item.row).cloned().unwrap_or_default(),
                    item_label: gallery.label(item.row, names).to_owned(),
                    similarity: item.score.get(),
                });
            }
        }
    }

    fn among_strangers(&mut self, parts: &Parts) -> anyhow::Result<()> {
        let (Some(queries), names) = (&parts.queries, parts.names.as_slice()) else {
            return Ok(());
        };
        let enrolled: BTreeSet<u32> = parts.gallery.labels.iter().copied().collect();
        let labels = queries.labels.iter().enumerate();
        let strangers = labels.filter(|(_, label)| !enrolled.contains(label));
        let mut strangers: Vec<usize> = strangers.map(|(row, _)| row).collect();
        let all = strangers.len();
        strangers.truncate(ROWS_MAX);
        self.not_compared = (all - strangers.len()) as u64;
        let (mut vectors, mut labels) = (Vec::new(), Vec::new());
        for &row in &strangers {
            vectors.extend_from_slice(queries.embeddings.row(row).unwrap_or_default());
            labels.extend(queries.labels.get(row));
        }
        let dimension = queries.embeddings.dimension();
        let rows = Embeddings::from_unit(dimension, vectors, labels)?;
        let watched = Watched::new("near copies");
        let found = near_copies(&rows, &|done, total| watched.at(done, total))?;
        watched.finish();
        let id = |row: usize| queries.ids.get(row).cloned().unwrap_or_default();
        for copy in found {
            let (Some(&row), Some(&first)) = (strangers.get(copy.row), strangers.get(copy.first))
            else {
                continue;
            };
            self.no_trials.strangers.insert(row);
            self.of_strangers.push(NearCopied {
                query: id(row),
                label: queries.label(row, names).to_owned(),
                first: id(first),
                first_label: queries.label(first, names).to_owned(),
                similarity: copy.similarity.get(),
            });
        }
        Ok(())
    }
}
