//! The pairs of a scan by label: how often each label is accepted at each of many thresholds, and
//! which labels are accepted as which others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::AnalysisError;
use super::pairwise::{PairProgress, Scan, Stretch, choose_two};
use crate::decision::Threshold;

/// Cells of the ladder for each threshold: most then hold none or one.
const CELLS_BY_THRESHOLD: usize = 16;

/// Pairs of each label, and how many of them are accepted at each threshold.
///
/// Among all pairs of one set, a non-mated pair counts for both of its labels and a mated pair
/// once. Of queries and a gallery, a pair counts for the label of the gallery row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCounts {
    /// The number of labels: one more than the greatest index, with or without pairs.
    pub labels: usize,
    /// The thresholds, ascending; K of them.
    pub thresholds: Vec<Threshold>,
    /// Mated pairs by label.
    pub mated_total: Vec<u64>,
    /// Mated pairs accepted: label l at threshold k is at `l * K + k`.
    pub mated_accepted: Vec<u64>,
    /// Non-mated pairs by label.
    pub non_mated_total: Vec<u64>,
    /// Non-mated pairs accepted: label l at threshold k is at `l * K + k`.
    pub non_mated_accepted: Vec<u64>,
}

/// Counts over all pairs and over the pairs within each of two halves of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitLabelCounts {
    /// All pairs, those between the halves included.
    pub whole: LabelCounts,
    /// Pairs of rows that are both marked `false`; or of queries marked so with the whole gallery.
    pub first: LabelCounts,
    /// Likewise `true`.
    pub second: LabelCounts,
}

/// Accepted pairs by pair of labels: what the variance of a pairwise rate is computed from.
///
/// A non-mated pair of rows has a pair of labels; two of these that share a label depend on each
/// other, which is why they are counted apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPairs {
    /// The pairs of labels with at least one accepted pair of rows, ascending.
    pub accepted: Vec<LabelPair>,
    /// Mated pairs rejected, by label.
    pub mated_rejected: Vec<u64>,
    /// Mated pairs, by label.
    pub mated_total: Vec<u64>,
    /// Rows of the set, or queries, by label.
    pub rows: Vec<u64>,
    /// Rows of the gallery by label; `None` among all pairs of one set.
    pub gallery_rows: Option<Vec<u64>>,
}

/// Two labels that were accepted as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelPair {
    /// The lower label index.
    pub label_a: u32,
    /// The higher label index.
    pub label_b: u32,
    /// Accepted pairs of rows, whichever side the labels are on; at least one.
    pub accepted: u64,
}

/// One half of the rows: those on a side.
#[derive(Clone, Copy)]
struct Half<'a> {
    /// The side of each row, 0 or 1.
    sides: &'a [usize],
    side: usize,
}

impl Scan<'_> {
    /// Counts the pairs of each label that are accepted at each of `thresholds`, which ascend.
    /// Takes 32 bytes for each label and threshold.
    ///
    /// # Errors
    /// Refuses thresholds out of order; [`AnalysisError::Stopped`] if `watch` said so.
    pub fn label_counts(
        &self,
        thresholds: &[Threshold],
        watch: PairProgress<'_>,
    ) -> Result<LabelCounts, AnalysisError> {
        let counting = AcceptedPairs::new(self.labels_end(), thresholds, 1)?;
        self.each_tile(watch, |tile| {
            let mut accepted = Vec::new();
            for stretch in tile.stretches() {
                counting.add(self, &stretch, &mut accepted, |_| 0);
            }
        })?;
        Ok(self.counted(&counting, &[0], None))
    }

    /// As [`Scan::label_counts`], and the same within two halves of the rows, in the same pass.
    /// `half` names the half of each row of the set; or of each query, the gallery being shared.
    /// Takes 96 bytes for each label and threshold.
    ///
    /// # Errors
    /// As [`Scan::label_counts`], and refuses a `half` that is not one for each row.
    pub fn split_label_counts(
        &self,
        thresholds: &[Threshold],
        half: &[bool],
        watch: PairProgress<'_>,
    ) -> Result<SplitLabelCounts, AnalysisError> {
        let given = self.rows().given_rows();
        if half.len() != given.len() {
            return Err(AnalysisError::HalfLength {
                given: half.len(),
                rows: given.len(),
            });
        }
        let side = |position: usize| {
            let row = given.get(position).copied().unwrap_or_default();
            usize::from(half.get(row as usize).copied().unwrap_or_default())
        };
        let sides: Vec<usize> = (0..given.len()).map(side).collect();
        let counting = AcceptedPairs::new(self.labels_end(), thresholds, 3)?;
        self.each_tile(watch, |tile| {
            let mut accepted = Vec::new();
            for stretch in tile.stretches() {
                let own = sides.get(stretch.row).copied().unwrap_or_default();
                // A pair between the halves is of neither, and counts for the whole only.
                counting.add(self, &stretch, &mut accepted, |column| {
                    if self.is_cross() || sides.get(column) == Some(&own) {
                        own
                    } else {
                        2
                    }
                });
            }
        })?;
        let half = |side| {
            let sides = &sides;
            Some(Half { sides, side })
        };
        Ok(SplitLabelCounts {
            whole: self.counted(&counting, &[0, 1, 2], None),
            first: self.counted(&counting, &[0], half(0)),
            second: self.counted(&counting, &[1], half(1)),
        })
    }

    /// Sums the parts named; `only` restricts the totals to the positions of one half.
    fn counted(
        &self,
        counting: &AcceptedPairs<'_>,
        parts: &[usize],
        only: Option<Half<'_>>,
    ) -> LabelCounts {
        let labels = counting.labels;
        let mut rows = vec![0; labels];
        for (position, &label) in self.rows().labels().iter().enumerate() {
            let taken = only.is_none_or(|half| half.sides.get(position) == Some(&half.side));
            if let (true, Some(count)) = (taken, rows.get_mut(label as usize)) {
                *count += 1;
            }
        }
        let all: u64 = rows.iter().sum();
        let (mated_total, non_mated_total) = if self.is_cross() {
            let gallery = rows_by_label(self.columns().labels(), labels);
            rows.iter()
                .zip(&gallery)
                .map(|(&own, &in_gallery)| (own * in_gallery, (all - own) * in_gallery))
                .unzip()
        } else {
            rows.iter()
                .map(|&own| (choose_two(own), own * (all - own)))
                .unzip()
        };
        LabelCounts {
            labels,
            thresholds: counting.ladder.thresholds.to_vec(),
            mated_total,
            mated_accepted: counting.accepted(parts, 0),
            non_mated_total,
            non_mated_accepted: counting.accepted(parts, 1),
        }
    }

    /// Counts the accepted pairs of rows for each pair of labels, at one threshold. Takes 16 bytes
    /// for each pair of labels that is accepted in a tile of 256 rows and columns.
    ///
    /// # Errors
    /// [`AnalysisError::Stopped`] if `watch` said so.
    pub fn dyads(
        &self,
        threshold: Threshold,
        watch: PairProgress<'_>,
    ) -> Result<LabelPairs, AnalysisError> {
        let labels = self.labels_end();
        let mated: Vec<AtomicU64> = zeros(labels);
        let found = Mutex::new(Vec::new());
        let columns = self.columns().labels();
        self.each_tile(watch, |tile| {
            let mut here = Vec::new();
            let mut accepted = Vec::new();
            for stretch in tile.stretches() {
                if stretch.mated {
                    let count = stretch
                        .scores
                        .iter()
                        .filter(|&&s| threshold.get() <= s)
                        .count();
                    if let Some(total) = mated.get(stretch.label as usize) {
                        total.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    continue;
                }
                stretch.accepted_into(threshold, &mut accepted);
                here.extend(accepted.iter().filter_map(|&(column, _)| {
                    let other = *columns.get(column)?;
                    Some(LabelPair {
                        label_a: stretch.label.min(other),
                        label_b: stretch.label.max(other),
                        accepted: 1,
                    })
                }));
            }
            merge(&mut here);
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .append(&mut here);
        })?;
        let mut accepted = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        merge(&mut accepted);
        let whole = self.counted(&AcceptedPairs::new(labels, &[], 1)?, &[], None);
        Ok(LabelPairs {
            accepted,
            mated_rejected: whole
                .mated_total
                .iter()
                .zip(mated)
                .map(|(total, accepted)| total - accepted.into_inner())
                .collect(),
            mated_total: whole.mated_total,
            rows: rows_by_label(self.rows().labels(), labels),
            gallery_rows: self.is_cross().then(|| rows_by_label(columns, labels)),
        })
    }
}

fn rows_by_label(by_position: &[u32], labels: usize) -> Vec<u64> {
    let mut rows = vec![0; labels];
    for &label in by_position {
        if let Some(count) = rows.get_mut(label as usize) {
            *count += 1;
        }
    }
    rows
}

/// Sorts the pairs of labels and adds up those that are equal.
fn merge(pairs: &mut Vec<LabelPair>) {
    pairs.sort_unstable();
    pairs.dedup_by(|later, earlier| {
        let same = (later.label_a, later.label_b) == (earlier.label_a, earlier.label_b);
        if same {
            earlier.accepted += later.accepted;
        }
        same
    });
}

fn zeros(count: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default)
        .take(count)
        .collect()
}

/// Accepted pairs being counted, by many threads at once.
struct AcceptedPairs<'a> {
    labels: usize,
    ladder: Ladder<'a>,
    /// Pairs whose highest threshold reached is k, at ((part * 2 + kind) * labels + label) * K + k,
    /// where kind is 0 for mated.
    slots: Vec<AtomicU64>,
}

impl<'a> AcceptedPairs<'a> {
    fn new(
        labels: usize,
        thresholds: &'a [Threshold],
        parts: usize,
    ) -> Result<Self, AnalysisError> {
        Ok(Self {
            labels,
            ladder: Ladder::new(thresholds)?,
            slots: zeros(parts * 2 * labels * thresholds.len()),
        })
    }

    /// Counts the accepted pairs of one stretch, each in the part that its column gives.
    fn add(
        &self,
        scan: &Scan<'_>,
        stretch: &Stretch<'_>,
        accepted: &mut Vec<(usize, f32)>,
        part: impl Fn(usize) -> usize,
    ) {
        let Some(&lowest) = self.ladder.thresholds.first() else {
            return;
        };
        stretch.accepted_into(lowest, accepted);
        let kind = usize::from(!stretch.mated);
        let labels = scan.columns().labels();
        for &(column, score) in accepted.iter() {
            let Some(rung) = self.ladder.reached(score) else {
                continue;
            };
            let group = part(column) * 2 + kind;
            let label = labels.get(column).copied().unwrap_or_default();
            self.count(group, label, rung);
            if !stretch.mated && !scan.is_cross() {
                self.count(group, stretch.label, rung);
            }
        }
    }

    fn count(&self, group: usize, label: u32, rung: usize) {
        let slot = (group * self.labels + label as usize) * self.ladder.thresholds.len() + rung;
        if let Some(count) = self.slots.get(slot) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pairs accepted by label and threshold, of one kind, over some parts.
    fn accepted(&self, parts: &[usize], kind: usize) -> Vec<u64> {
        let by_label = self.ladder.thresholds.len();
        let size = self.labels * by_label;
        let mut sums = vec![0; size];
        for part in parts {
            let start = (part * 2 + kind) * size;
            let slots = self.slots.get(start..start + size).unwrap_or_default();
            for (sum, slot) in sums.iter_mut().zip(slots) {
                *sum += slot.load(Ordering::Relaxed);
            }
        }
        // What reaches a threshold reaches every lower one.
        for label in sums.chunks_mut(by_label.max(1)) {
            let mut running = 0;
            for count in label.iter_mut().rev() {
                running += *count;
                *count = running;
            }
        }
        sums
    }
}

/// Finds the highest threshold that a score reaches, mostly with one look at a table.
struct Ladder<'a> {
    thresholds: &'a [Threshold],
    lowest: f32,
    cells_by_score: f32,
    /// For each cell, how many thresholds lie in the cells before it; and, last, how many in all.
    before: Vec<usize>,
}

impl<'a> Ladder<'a> {
    fn new(thresholds: &'a [Threshold]) -> Result<Self, AnalysisError> {
        if let Some(position) = thresholds.windows(2).position(|pair| !pair.is_sorted()) {
            return Err(AnalysisError::ThresholdOrder {
                position: position + 1,
            });
        }
        let cells = thresholds.len().saturating_mul(CELLS_BY_THRESHOLD).max(1);
        let lowest = thresholds.first().map_or(0.0, |first| first.get());
        let width = thresholds.last().map_or(0.0, |last| last.get()) - lowest;
        #[expect(
            clippy::cast_precision_loss,
            reason = "any number of about that size does"
        )]
        let cells_by_score = if 0.0 < width {
            cells as f32 / width
        } else {
            0.0
        };
        let mut ladder = Self {
            thresholds,
            lowest,
            cells_by_score,
            before: vec![0; cells + 1],
        };
        for threshold in thresholds {
            let cell = ladder.cell(threshold.get());
            if let Some(count) = ladder.before.get_mut(cell + 1) {
                *count += 1;
            }
        }
        let mut running = 0;
        for count in &mut ladder.before {
            running += *count;
            *count = running;
        }
        Ok(ladder)
    }

    /// Never falls as the score rises, in floating point too; that alone makes the table exact.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, as meant"
    )]
    fn cell(&self, score: f32) -> usize {
        let cell = ((score - self.lowest) * self.cells_by_score) as usize;
        cell.min(self.before.len().saturating_sub(2))
    }

    /// The index of the highest threshold at or below `score`.
    fn reached(&self, score: f32) -> Option<usize> {
        let cell = self.cell(score);
        let from = *self.before.get(cell)?;
        let to = *self.before.get(cell + 1)?;
        let within = self.thresholds.get(from..to)?;
        (from + within.partition_point(|threshold| threshold.get() <= score)).checked_sub(1)
    }
}
