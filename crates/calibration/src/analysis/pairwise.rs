//! Scores and counts every pair of two sets of embeddings: pairwise FAR and FRR, counts for each label and each
//! pair of labels, and the pairs that look mislabelled.
//!
//! The matrix of scores is divided into square tiles that are computed on all cores. Each question needs one
//! pass over the tiles. They are kept between passes if they fit in the allowed memory, and otherwise computed
//! again with the same result to the last bit.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::score_curve::ScoreCurve;
use super::score_histogram::ScoreCounters;
use crate::decision::Threshold;
use matchpoint_vector::kernels::multiply;

/// Number of rows and columns of a tile. Its scores fit in the second-level cache, and few are wasted on the
/// wrong side of the diagonal.
const TILE: usize = 256;

/// The default memory for scores that are kept between passes, in bytes.
const KEPT_BYTES: usize = 128 << 20;

/// Called with the number of pairs done and the total; returns whether to continue.
///
/// It is called from several threads after each tile, and a call may arrive after one with a higher number.
pub type PairProgress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// Which pairs are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanDesign {
    /// Every unordered pair of one set. A pair counts for the labels of both rows.
    AllPairs,
    /// Every query with every gallery row. A pair counts for the label of the gallery row.
    Cross,
}

/// The pairs of one or two sets. Pairs with equal labels are mated, the others non-mated.
#[derive(Debug)]
pub struct Scan<'a> {
    design: ScanDesign,
    rows: &'a Embeddings,
    columns: &'a Embeddings,
    /// The scores of the tiles computed so far; empty if they would not fit in memory.
    kept: Vec<OnceLock<Box<[f32]>>>,
}

impl<'a> Scan<'a> {
    /// All unordered pairs of one set.
    #[must_use]
    pub fn all_pairs(set: &'a Embeddings) -> Self {
        let scan = Self {
            design: ScanDesign::AllPairs,
            rows: set,
            columns: set,
            kept: Vec::new(),
        };
        scan.keeping(KEPT_BYTES)
    }

    /// Every query with every row of a gallery. Both sets number their labels alike.
    ///
    /// # Errors
    /// Returns an error if the dimensions differ.
    pub fn cross(queries: &'a Embeddings, gallery: &'a Embeddings) -> Result<Self, AnalysisError> {
        if queries.dimension() != gallery.dimension() {
            return Err(AnalysisError::EmbeddingDimensions {
                queries: queries.dimension(),
                gallery: gallery.dimension(),
            });
        }
        let scan = Self {
            design: ScanDesign::Cross,
            rows: queries,
            columns: gallery,
            kept: Vec::new(),
        };
        Ok(scan.keeping(KEPT_BYTES))
    }

    /// Allows `bytes` of memory for scores that are kept between passes, instead of 128 MiB. Either all scores
    /// are kept or none, because keeping a few would hardly speed up the next pass.
    #[must_use]
    pub fn keeping(mut self, bytes: usize) -> Self {
        let tiles = self.tile_count();
        let needed = tiles.saturating_mul(TILE * TILE * size_of::<f32>());
        let kept = if needed <= bytes { tiles } else { 0 };
        self.kept = std::iter::repeat_with(OnceLock::new).take(kept).collect();
        self
    }

    /// The number of pairs, both mated and non-mated.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        match self.design {
            ScanDesign::AllPairs => choose_two(self.rows.len() as u64),
            ScanDesign::Cross => self.rows.len() as u64 * self.columns.len() as u64,
        }
    }

    /// One more than the highest label index on either side.
    #[must_use]
    pub fn labels_end(&self) -> usize {
        self.rows.labels_end().max(self.columns.labels_end())
    }

    /// Counts all pairs by score. Uses up to 384 MiB of memory while it runs, whatever the number of pairs.
    ///
    /// # Errors
    /// Returns [`AnalysisError::Stopped`] if `watch` returned `false`.
    pub fn curve(&self, watch: PairProgress<'_>) -> Result<ScoreCurve, AnalysisError> {
        let counting = ScoreCounters::new();
        self.each_tile(watch, |tile| {
            counting.with(|kinds| {
                for stretch in tile.stretches() {
                    kinds.add(stretch.mated, stretch.scores);
                }
            });
        })?;
        Ok(ScoreCurve::new(counting))
    }

    /// The non-mated pairs at or above `threshold`, at most `limit` of them, sorted by descending score and
    /// then by row. In such pairs a label may be wrong, or one thing may be enrolled twice.
    ///
    /// # Errors
    /// Returns [`AnalysisError::Stopped`] if `watch` returned `false`.
    pub fn accepted_non_mated(
        &self,
        threshold: Threshold,
        limit: usize,
        watch: PairProgress<'_>,
    ) -> Result<Vec<NonMatedPair>, AnalysisError> {
        let found = Mutex::new(Vec::new());
        self.each_tile(watch, |tile| {
            let (mut here, mut accepted) = (Vec::new(), Vec::new());
            for stretch in tile.stretches().filter(|stretch| !stretch.mated) {
                stretch.accepted_into(threshold, &mut accepted);
                here.extend(accepted.iter().filter_map(|&(column, score)| {
                    self.non_mated_pair(stretch.row, column, score)
                }));
            }
            if !here.is_empty() {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.append(&mut here);
                // The list grows to twice the limit before it is cut, so that sorting is rare.
                if limit.saturating_mul(2) <= found.len() {
                    keep_highest(&mut found, limit);
                }
            }
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        keep_highest(&mut found, limit);
        found.sort_unstable_by(NonMatedPair::by_score);
        Ok(found)
    }

    fn non_mated_pair(&self, row: usize, column: usize, score: f32) -> Option<NonMatedPair> {
        let a = *self.rows.given_rows().get(row)? as usize;
        let b = *self.columns.given_rows().get(column)? as usize;
        let (row_a, row_b) = match self.design {
            ScanDesign::AllPairs => (a.min(b), a.max(b)),
            ScanDesign::Cross => (a, b),
        };
        Some(NonMatedPair {
            row_a,
            row_b,
            score,
        })
    }

    pub(super) fn rows(&self) -> &Embeddings {
        self.rows
    }

    pub(super) fn columns(&self) -> &Embeddings {
        self.columns
    }

    pub(super) fn is_cross(&self) -> bool {
        self.design == ScanDesign::Cross
    }

    /// Computes every tile, or reads its kept scores, and passes it to `visit`; on all cores, in any order.
    pub(super) fn each_tile(
        &self,
        watch: PairProgress<'_>,
        visit: impl Fn(&ScoreTile<'_>) + Sync,
    ) -> Result<(), AnalysisError> {
        let (done, total) = (AtomicU64::new(0), self.pairs());
        (0..self.tile_count())
            .into_par_iter()
            .try_for_each_init(Vec::new, |buffer, index| {
                let (rows, columns) = self.place(index);
                let scores = if let Some(slot) = self.kept.get(index) {
                    slot.get_or_init(|| {
                        let mut scores = Vec::new();
                        self.score(&rows, &columns, &mut scores);
                        scores.into()
                    })
                } else {
                    self.score(&rows, &columns, buffer);
                    buffer.as_slice()
                };
                let tile = ScoreTile {
                    scan: self,
                    rows,
                    columns,
                    scores,
                };
                visit(&tile);
                let done = done.fetch_add(tile.pairs(), Ordering::Relaxed) + tile.pairs();
                if watch(done, total) {
                    Ok(())
                } else {
                    Err(AnalysisError::Stopped)
                }
            })
    }

    fn score(&self, rows: &Range<usize>, columns: &Range<usize>, scores: &mut Vec<f32>) {
        scores.resize(rows.len() * columns.len(), 0.0);
        let (a, b) = (self.rows.block(rows), self.columns.block(columns));
        multiply(a, b, self.rows.dimension(), scores);
        for score in scores {
            *score = score.clamp(-1.0, 1.0);
        }
    }

    fn tile_count(&self) -> usize {
        let (down, across) = self.tiles_by_side();
        match self.design {
            ScanDesign::AllPairs => down * (down + 1) / 2,
            ScanDesign::Cross => down * across,
        }
    }

    fn tiles_by_side(&self) -> (usize, usize) {
        (
            self.rows.len().div_ceil(TILE),
            self.columns.len().div_ceil(TILE),
        )
    }

    /// The rows and columns of the tile with this index.
    fn place(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let (down, across) = self.tiles_by_side();
        let (row, column) = match self.design {
            ScanDesign::Cross => (index / across, index % across),
            // Row r of the triangle has `down` - r tiles. Together with row `down` - 1 - r it fills one line of
            // a rectangle.
            ScanDesign::AllPairs => {
                let (line, place) = (index / (down + 1), index % (down + 1));
                if place < down - line {
                    (line, line + place)
                } else {
                    (down - 1 - line, place - 1)
                }
            }
        };
        let span = |tile: usize, len: usize| tile * TILE..((tile + 1) * TILE).min(len);
        (span(row, self.rows.len()), span(column, self.columns.len()))
    }
}

/// A square part of the matrix of scores.
pub(super) struct ScoreTile<'a> {
    scan: &'a Scan<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    scores: &'a [f32],
}

impl<'a> ScoreTile<'a> {
    /// The number of pairs in the tile, each counted once: in a diagonal tile of `AllPairs`, only those above
    /// the diagonal.
    fn pairs(&self) -> u64 {
        if self.on_diagonal() {
            choose_two(self.rows.len() as u64)
        } else {
            self.rows.len() as u64 * self.columns.len() as u64
        }
    }

    fn on_diagonal(&self) -> bool {
        self.scan.design == ScanDesign::AllPairs && self.rows == self.columns
    }

    /// The pairs row by row, in stretches that are either all mated or all non-mated.
    pub(super) fn stretches(&self) -> impl Iterator<Item = Stretch<'a>> {
        let (scores, columns) = (self.scores, self.columns.clone());
        let diagonal = self.on_diagonal();
        let sets = (self.scan.rows, self.scan.columns);
        self.rows
            .clone()
            .zip(scores.chunks_exact(columns.len()))
            .flat_map(move |(row, scores)| {
                let label = sets.0.labels().get(row).copied().unwrap_or_default();
                let mates = sets.1.run_of(label);
                let start = if diagonal { row + 1 } else { columns.start };
                let from = mates.start.clamp(start, columns.end);
                let to = mates.end.clamp(from, columns.end);
                let cut = move |span: Range<usize>, mated| Stretch {
                    row,
                    label,
                    column: span.start,
                    mated,
                    scores: scores
                        .get(span.start - columns.start..span.end - columns.start)
                        .unwrap_or_default(),
                };
                [
                    cut(start..from, false),
                    cut(from..to, true),
                    cut(to..columns.end, false),
                ]
            })
    }
}

/// Consecutive scores of one row that are either all mated or all non-mated.
pub(super) struct Stretch<'a> {
    /// The position of the row.
    pub(super) row: usize,
    /// Its label.
    pub(super) label: u32,
    /// The position of the first column.
    pub(super) column: usize,
    /// Whether the columns have the label of the row.
    pub(super) mated: bool,
    /// One score for each column.
    pub(super) scores: &'a [f32],
}

impl Stretch<'_> {
    /// Replaces the content of `found` by the columns, as positions, whose scores are at least `threshold`.
    pub(super) fn accepted_into(&self, threshold: Threshold, found: &mut Vec<(usize, f32)>) {
        let at = threshold.get();
        found.clear();
        found.extend(
            (self.column..)
                .zip(self.scores.iter().copied())
                .filter(|&(_, score)| at <= score),
        );
    }
}

/// Two rows with different labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonMatedPair {
    /// The lower of two rows of one set; or a query.
    pub row_a: usize,
    /// The other row of the set; or a row of the gallery.
    pub row_b: usize,
    /// Their cosine similarity, in [-1, 1].
    pub score: f32,
}

impl NonMatedPair {
    /// Orders by descending score, then by row.
    fn by_score(&self, other: &Self) -> std::cmp::Ordering {
        // Adding zero makes -0 and +0 compare as equal.
        (other.score + 0.0)
            .total_cmp(&(self.score + 0.0))
            .then((self.row_a, self.row_b).cmp(&(other.row_a, other.row_b)))
    }
}

fn keep_highest(pairs: &mut Vec<NonMatedPair>, limit: usize) {
    if limit < pairs.len() {
        pairs.select_nth_unstable_by(limit, NonMatedPair::by_score);
        pairs.truncate(limit);
    }
}

/// The number of unordered pairs of `n` things.
pub(super) fn choose_two(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::label_counts::{LabelCounts, LabelPair};
    use crate::rates::Proportion;

    const GO: PairProgress<'_> = &|_, _| true;

    /// Rows with four components of +-0.5. Their scores are multiples of 1/2, so many are equal and all are
    /// exact in `f32`.
    fn tied(seeds: &[(u8, u8)]) -> Embeddings {
        let vectors = seeds.iter().flat_map(|&(bits, _)| {
            (0..4).map(move |bit| if bits >> bit & 1 == 0 { 0.5 } else { -0.5 })
        });
        let labels = seeds.iter().map(|&(_, label)| u32::from(label));
        Embeddings::from_unit(4, vectors.collect(), labels.collect()).unwrap()
    }

    /// Computes every pair in `f64`, in the order of the caller's rows: (row, row, label, label, score).
    fn naive(scan: &Scan<'_>) -> Vec<(usize, usize, u32, u32, f64)> {
        let ordered = |set: &Embeddings| {
            let mut rows: Vec<(usize, u32, Vec<f32>)> = (0..set.len())
                .map(|p| {
                    let vector = set.block(&(p..p + 1)).to_vec();
                    (set.given_rows()[p] as usize, set.labels()[p], vector)
                })
                .collect();
            rows.sort_by_key(|row| row.0);
            rows
        };
        let (rows, columns) = (ordered(scan.rows), ordered(scan.columns));
        let mut pairs = Vec::new();
        for (a, label_a, x) in &rows {
            for (b, label_b, y) in &columns {
                if scan.is_cross() || a < b {
                    let score = x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
                    pairs.push((*a, *b, *label_a, *label_b, score.sum::<f64>()));
                }
            }
        }
        pairs
    }

    fn thresholds() -> Vec<Threshold> {
        [-1.0, -0.5, -0.3, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0]
            .map(|value| Threshold::new(value).unwrap())
            .to_vec()
    }

    fn check_label_counts(
        found: &LabelCounts,
        pairs: &[(usize, usize, u32, u32, f64)],
        cross: bool,
        within: impl Fn(usize, usize) -> bool,
    ) {
        let by_label = found.thresholds.len();
        for label in 0..u32::try_from(found.labels).unwrap() {
            let of: Vec<_> = pairs
                .iter()
                .filter(|p| within(p.0, p.1) && (p.3 == label || !cross && p.2 == label))
                .collect();
            let at = label as usize;
            let count = |mated, threshold: f64| {
                let counted =
                    |p: &&&(usize, usize, u32, u32, f64)| (p.2 == p.3) == mated && threshold <= p.4;
                of.iter().filter(counted).count() as u64
            };
            assert_eq!(found.mated_total[at], count(true, -2.0));
            assert_eq!(found.non_mated_total[at], count(false, -2.0));
            for (k, &threshold) in found.thresholds.iter().enumerate() {
                let threshold = f64::from(threshold);
                assert_eq!(
                    found.mated_accepted[at * by_label + k],
                    count(true, threshold)
                );
                assert_eq!(
                    found.non_mated_accepted[at * by_label + k],
                    count(false, threshold)
                );
            }
        }
    }

    fn check(scan: &Scan<'_>, half: &[bool]) {
        let pairs = naive(scan);
        let cross = scan.is_cross();
        let count = |mated: bool, at: f64| {
            pairs
                .iter()
                .filter(|p| (p.2 == p.3) == mated && at <= p.4)
                .count() as u64
        };
        let curve = scan.curve(GO).unwrap();
        assert_eq!(scan.pairs(), pairs.len() as u64);
        assert_eq!(curve.mated_pairs(), count(true, -2.0));
        assert_eq!(curve.non_mated_pairs(), count(false, -2.0));
        for threshold in thresholds() {
            let at = f64::from(threshold);
            let accepted = curve.far_at(threshold).map_or(0, Proportion::events);
            assert_eq!(accepted, count(false, at));
            let rejected = curve.frr_at(threshold).map_or(0, Proportion::events);
            assert_eq!(rejected, curve.mated_pairs() - count(true, at));

            let dyads = scan.dyads(threshold, GO).unwrap();
            let accepted: Vec<_> = pairs.iter().filter(|p| at <= p.4 && p.2 != p.3).collect();
            let mut by_pair = std::collections::BTreeMap::new();
            for p in &accepted {
                *by_pair.entry((p.2.min(p.3), p.2.max(p.3))).or_insert(0) += 1;
            }
            let expected = by_pair
                .iter()
                .map(|(&(label_a, label_b), &accepted)| LabelPair {
                    label_a,
                    label_b,
                    accepted,
                });
            assert_eq!(dyads.accepted, expected.collect::<Vec<_>>());
            let rejected: u64 = dyads.mated_rejected.iter().sum();
            assert_eq!(rejected, count(true, -2.0) - count(true, at));

            let mut expected: Vec<_> = accepted.iter().map(|p| (-p.4, p.0, p.1)).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            for limit in [0, 3, usize::MAX] {
                let worst = scan.accepted_non_mated(threshold, limit, GO).unwrap();
                let found = worst
                    .iter()
                    .map(|p| (-f64::from(p.score), p.row_a, p.row_b));
                let expected = expected.iter().copied().take(limit);
                // Adding zero makes -0 and +0 compare as equal.
                assert!(found.map(|p| (p.0 + 0.0, p.1, p.2)).eq(expected.map(|p| (
                    p.0 + 0.0,
                    p.1,
                    p.2
                ))));
            }
        }
        let thresholds = thresholds();
        let split = scan.split_label_counts(&thresholds, half, GO).unwrap();
        assert_eq!(split.whole, scan.label_counts(&thresholds, GO).unwrap());
        check_label_counts(&split.whole, &pairs, cross, |_, _| true);
        for (counts, side) in [(&split.first, false), (&split.second, true)] {
            check_label_counts(counts, &pairs, cross, |a, b| {
                half[a] == side && (cross || half[b] == side)
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_count_agrees_with_counting_pairs_one_by_one(
            set in prop::collection::vec((0_u8..16, 0_u8..6), 0..24),
            gallery in prop::collection::vec((0_u8..16, 0_u8..6), 0..24),
            halves in prop::collection::vec(any::<bool>(), 24),
        ) {
            let (set, gallery) = (tied(&set), tied(&gallery));
            check(&Scan::all_pairs(&set), &halves[..set.len()]);
            check(&Scan::cross(&set, &gallery).unwrap(), &halves[..set.len()]);
        }
    }

    /// Enough rows for several tiles, of which the last is partial.
    fn many(rows: u32, seed: u32) -> Embeddings {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            #[expect(clippy::cast_precision_loss, reason = "24 bits")]
            let value = (state >> 8) as f32 / 16_777_216.0 - 0.4;
            value
        };
        let labels = (0..rows).map(|row| row * 7 % 61).collect();
        let vectors = (0..rows * 5).map(|_| next()).collect();
        Embeddings::normalise(5, vectors, labels).unwrap()
    }

    #[test]
    fn tiles_cover_each_pair_once_and_counts_agree_with_f64() {
        for rows in [255, 256, 257, 513, 700] {
            let (set, gallery) = (many(rows, 1), many(300, 2));
            let cross = Scan::cross(&set, &gallery).unwrap();
            for scan in [Scan::all_pairs(&set), cross] {
                let (done, curve) = {
                    let done = AtomicU64::new(0);
                    let watch = |pairs: u64, _: u64| {
                        done.fetch_max(pairs, Ordering::Relaxed);
                        true
                    };
                    let curve = scan.curve(&watch).unwrap();
                    (done.into_inner(), curve)
                };
                assert_eq!(done, scan.pairs());
                let pairs = naive(&scan);
                assert_eq!(curve.mated_pairs() + curve.non_mated_pairs(), scan.pairs());
                let non_mated: Vec<f64> =
                    pairs.iter().filter(|p| p.2 != p.3).map(|p| p.4).collect();
                assert_eq!(curve.non_mated_pairs(), non_mated.len() as u64);
                for at in [-0.9, -0.123, 0.4, 0.77, 0.95] {
                    let found = curve.far_at(Threshold::new(at).unwrap()).unwrap().events();
                    let at_least = |at: f64| non_mated.iter().filter(|&&s| at <= s).count() as u64;
                    let at = f64::from(at);
                    assert!(at_least(at + 1e-6) <= found && found <= at_least(at - 1e-6));
                }
            }
        }
    }

    #[test]
    fn scores_kept_and_scores_computed_again_give_the_same() {
        let set = many(700, 3);
        let (kept, again) = (
            Scan::all_pairs(&set),
            Scan::all_pairs(&set).keeping(1 << 20),
        );
        assert!(!kept.kept.is_empty() && again.kept.is_empty());
        let ladder: Vec<_> = (0..50_u8)
            .map(|i| Threshold::new(f32::from(i) / 50.0).unwrap())
            .collect();
        for _ in 0..2 {
            assert_eq!(
                kept.label_counts(&ladder, GO).unwrap(),
                again.label_counts(&ladder, GO).unwrap()
            );
            let worst = |scan: &Scan<'_>| scan.accepted_non_mated(ladder[25], 40, GO).unwrap();
            assert_eq!(worst(&kept), worst(&again));
            assert_eq!(
                kept.curve(GO).unwrap().equal_error(),
                again.curve(GO).unwrap().equal_error()
            );
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let set = many(600, 4);
        let answer = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                let scan = Scan::all_pairs(&set);
                let curve = scan.curve(GO).unwrap();
                let at = curve.threshold_at_far(0.01).unwrap();
                (
                    curve.histogram(1_000),
                    scan.dyads(at, GO).unwrap(),
                    scan.accepted_non_mated(at, 17, GO).unwrap(),
                )
            })
        };
        let alone = answer(1);
        assert!([2, 5].into_iter().all(|threads| answer(threads) == alone));
    }

    #[test]
    fn a_scan_stops_where_it_is_told_to_and_refuses_what_does_not_fit() {
        let (set, other) = (many(600, 5), tied(&[(0, 0)]));
        let scan = Scan::all_pairs(&set);
        let stop = scan.curve(&|_, _| false).unwrap_err();
        assert!(matches!(stop, AnalysisError::Stopped));
        assert!(scan.curve(GO).is_ok());
        assert!(Scan::cross(&set, &other).is_err());
        let descending = [0.5, 0.4].map(|value| Threshold::new(value).unwrap());
        let error = scan.label_counts(&descending, GO).unwrap_err();
        assert!(error.to_string().contains("threshold 1"), "{error}");
        assert!(scan.split_label_counts(&[], &[true], GO).is_err());
    }
}
