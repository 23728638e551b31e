//! Counts the pairs of a scan by label: how often each label is accepted at each of many thresholds, and which
//! labels are accepted as each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::AnalysisError;
use super::pairwise::{PairProgress, Scan, Stretch, choose_two};
use crate::decision::Threshold;

/// Number of cells of the ladder for each threshold, so that most cells contain one threshold or none.
const CELLS_BY_THRESHOLD: usize = 16;

/// The number of pairs of each label, and how many of them are accepted at each threshold.
///
/// For all pairs of one set, a non-mated pair counts for both of its labels, and a mated pair counts once. For
/// queries against a gallery, a pair counts for the label of the gallery row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCounts {
    /// The number of labels: one more than the highest index, whether or not they have pairs.
    pub labels: usize,
    /// The K thresholds, in ascending order.
    pub thresholds: Vec<Threshold>,
    /// Number of mated pairs by label.
    pub mated_total: Vec<u64>,
    /// Number of accepted mated pairs: label l at threshold k is at index `l * K + k`.
    pub mated_accepted: Vec<u64>,
    /// Number of non-mated pairs by label.
    pub non_mated_total: Vec<u64>,
    /// Number of accepted non-mated pairs: label l at threshold k is at index `l * K + k`.
    pub non_mated_accepted: Vec<u64>,
}

/// Counts over all pairs, and over the pairs within each of two halves of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitLabelCounts {
    /// All pairs, including those between the halves.
    pub whole: LabelCounts,
    /// Pairs of rows that are both marked `false`. For queries: pairs of a query marked `false` with any
    /// gallery row.
    pub first: LabelCounts,
    /// The same for rows marked `true`.
    pub second: LabelCounts,
}

/// The number of accepted pairs of rows for each two labels, from which the variance of a pairwise rate is
/// computed.
///
/// Pairs of rows whose labels overlap depend on each other, so they are counted by their two labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPairs {
    /// The pairs of labels with at least one accepted pair of rows, in ascending order.
    pub accepted: Vec<LabelPair>,
    /// Number of rejected mated pairs, by label.
    pub mated_rejected: Vec<u64>,
    /// Number of mated pairs, by label.
    pub mated_total: Vec<u64>,
    /// Number of rows of the set, or of queries, by label.
    pub rows: Vec<u64>,
    /// Number of gallery rows by label; `None` for all pairs of one set.
    pub gallery_rows: Option<Vec<u64>>,
}

/// Two labels that were accepted as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelPair {
    /// The lower label index.
    pub label_a: u32,
    /// The higher label index.
    pub label_b: u32,
    /// Number of accepted pairs of rows, whichever side the labels are on; at least one.
    pub accepted: u64,
}

/// The rows that belong to one of the two halves.
#[derive(Clone, Copy)]
struct Half<'a> {
    /// The side of each row, 0 or 1.
    sides: &'a [usize],
    side: usize,
}

impl Scan<'_> {
    /// Counts the pairs of each label that are accepted at each of `thresholds`, which must be in ascending
    /// order. Uses 32 bytes of memory for each label and threshold.
    ///
    /// # Errors
    /// Returns an error if the thresholds are out of order, and [`AnalysisError::Stopped`] if `watch` returned
    /// `false`.
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

    /// Like [`Scan::label_counts`], and in the same pass also counts within two halves of the rows. `half`
    /// gives the half of each row of the set. For queries against a gallery, it gives the half of each query,
    /// and both halves use the whole gallery. Uses 96 bytes of memory for each label and threshold.
    ///
    /// # Errors
    /// Returns the errors of [`Scan::label_counts`], and an error if `half` does not have one entry for each
    /// row.
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
                // A pair between the halves belongs to neither, and counts for the whole only.
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

    /// Adds up the named parts; `only` restricts the totals to the positions of one half.
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

    /// Counts the accepted pairs of rows for each pair of labels, at one threshold. Uses 16 bytes of memory for
    /// each pair of labels that is accepted in a tile of 256 rows and columns.
    ///
    /// # Errors
    /// Returns [`AnalysisError::Stopped`] if `watch` returned `false`.
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

/// Counters of accepted pairs that many threads use at once.
struct AcceptedPairs<'a> {
    labels: usize,
    ladder: Ladder<'a>,
    /// The number of pairs whose highest reached threshold is k, at index ((part * 2 + kind) * labels + label)
    /// * K + k; kind is 0 for mated pairs.
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

    /// Counts the accepted pairs of one stretch, each in the part that belongs to its column.
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

    /// The number of accepted pairs of one kind, by label and threshold, added up over the parts.
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
        // A score that reaches a threshold reaches every lower one.
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

/// Finds the highest threshold that a score reaches, mostly with one look-up in a table.
struct Ladder<'a> {
    thresholds: &'a [Threshold],
    lowest: f32,
    cells_by_score: f32,
    /// For each cell, the number of thresholds in the cells before it; the last entry is the number of all.
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

    /// The cell never decreases as the score rises, even after rounding. This alone makes the table exact.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, as meant"
    )]
    fn cell(&self, score: f32) -> usize {
        let cell = ((score - self.lowest) * self.cells_by_score) as usize;
        cell.min(self.before.len().saturating_sub(2))
    }

    /// The index of the highest threshold that is at most `score`.
    fn reached(&self, score: f32) -> Option<usize> {
        let cell = self.cell(score);
        let from = *self.before.get(cell)?;
        let to = *self.before.get(cell + 1)?;
        let within = self.thresholds.get(from..to)?;
        (from + within.partition_point(|threshold| threshold.get() <= score)).checked_sub(1)
    }
}
