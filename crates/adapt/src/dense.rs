//! Dense matrices in `f64` for fitting. Products are blocked and run on all cores; no result depends on the
//! number of cores.
#![expect(
    clippy::indexing_slicing,
    reason = "every index comes from a loop over the side that it indexes"
)]

use matchpoint_vector::kernels::matrix::{MatrixView, multiply_matrices};
use rayon::prelude::*;

use super::error::AdaptError;

/// Number of rows that one task computes.
const ROWS_BY_TASK: usize = 64;
/// The side of the blocks of a factorisation.
const BLOCK: usize = 64;
/// Number of rows that are converted to `f64` at a time: 20 MB with 1,280 components.
const ROWS_WIDENED: usize = 2_048;
/// Number of rows that one task maps. It arranges the whole matrix for its product, so that few rows cost more.
pub(super) const ROWS_MAPPED: usize = 256;

/// A matrix, stored row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dense {
    pub(super) columns: usize,
    pub(super) values: Vec<f64>,
}

impl Dense {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let columns = columns.max(1);
        Self {
            columns,
            values: vec![0.0; rows * columns],
        }
    }

    pub(super) fn identity(side: usize) -> Self {
        let mut one = Self::zeros(side, side);
        for at in 0..side {
            one.values[at * side + at] = 1.0;
        }
        one
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub(super) fn view(&self) -> MatrixView<'_> {
        MatrixView::by_rows(&self.values, self.columns)
    }

    /// The product of two matrices.
    pub(super) fn product(a: MatrixView<'_>, b: MatrixView<'_>) -> Self {
        let mut product = Self::zeros(a.rows(), b.columns());
        product.add_product(a, b, 0.0);
        product
    }

    /// Replaces `self` by `a * b + keep * self`.
    pub(super) fn add_product(&mut self, a: MatrixView<'_>, b: MatrixView<'_>, keep: f64) {
        let each = ROWS_BY_TASK * self.columns;
        let chunks = self.values.par_chunks_mut(each).enumerate();
        chunks.for_each(|(task, into)| {
            let rows = into.len() / b.columns();
            multiply_matrices(a.some_rows(task * ROWS_BY_TASK, rows), b, keep, into);
        });
    }

    /// Adds `rows' * rows`, on and above the diagonal only; [`Self::mirror`] fills the rest.
    fn add_gram(&mut self, rows: MatrixView<'_>) {
        let side = self.columns;
        let each = ROWS_BY_TASK * side;
        let chunks = self.values.par_chunks_mut(each).enumerate();
        chunks.for_each(|(task, into)| {
            let (from, count) = (task * ROWS_BY_TASK, into.len() / side);
            let left = rows.transposed().some_rows(from, count);
            let right = rows.transposed().some_rows(from, side - from).transposed();
            let mut part = vec![0.0; count * (side - from)];
            multiply_matrices(left, right, 0.0, &mut part);
            for (row, part) in into.chunks_mut(side).zip(part.chunks(side - from)) {
                add(&mut row[from..], part, 1.0);
            }
        });
    }

    /// Copies the elements above the diagonal to below it.
    fn mirror(&mut self) {
        let side = self.columns;
        for row in 0..side {
            for column in 0..row {
                self.values[row * side + column] = self.values[column * side + row];
            }
        }
    }

    /// The product `rows' * rows`.
    pub(super) fn gram(rows: &Self) -> Self {
        let mut gram = Self::zeros(rows.columns, rows.columns);
        gram.add_gram(rows.view());
        gram.mirror();
        gram
    }

    /// The scatter matrix: the sum over all rows of the outer products of their differences from `centre`.
    pub(super) fn scatter(vectors: &[f32], centre: &[f64]) -> Self {
        let dimension = centre.len();
        let mut scatter = Self::zeros(dimension, dimension);
        for rows in vectors.chunks(ROWS_WIDENED * dimension) {
            let centred = Self {
                columns: dimension,
                values: widened(rows, centre),
            };
            scatter.add_gram(centred.view());
        }
        scatter.mirror();
        scatter
    }

    /// The product of each row minus `centre` with `matrix'`; the result has one row for each vector.
    pub(super) fn mapped(vectors: &[f32], centre: &[f64], matrix: &Self) -> Self {
        let dimension = centre.len();
        let mut mapped = Self::zeros(vectors.len() / dimension, matrix.rows());
        let into = mapped.values.par_chunks_mut(ROWS_MAPPED * matrix.rows());
        let rows = vectors.par_chunks(ROWS_MAPPED * dimension);
        rows.zip(into).for_each(|(rows, into)| {
            let centred = widened(rows, centre);
            let centred = MatrixView::by_rows(&centred, dimension);
            multiply_matrices(centred, matrix.view().transposed(), 0.0, into);
        });
        mapped
    }

    pub(super) fn trace(&self) -> f64 {
        (0..self.columns)
            .map(|at| self.values[at * self.columns + at])
            .sum()
    }

    /// The lower Cholesky factor of a symmetric, positive definite matrix.
    pub(super) fn cholesky(mut self) -> Result<Self, AdaptError> {
        let side = self.columns;
        for from in (0..side).step_by(BLOCK) {
            let to = (from + BLOCK).min(side);
            self.factor_block(from, to)?;
            self.solve_panel(from, to);
            self.take_panel_away(from, to);
        }
        for row in 0..side {
            self.values[row * side + row + 1..(row + 1) * side].fill(0.0);
        }
        Ok(self)
    }

    /// Factors the block on the diagonal by the definition.
    fn factor_block(&mut self, from: usize, to: usize) -> Result<(), AdaptError> {
        let side = self.columns;
        for row in from..to {
            for column in from..=row {
                let (a, b) = (&self.values[row * side..], &self.values[column * side..]);
                let left =
                    self.values[row * side + column] - dot(&a[from..column], &b[from..column]);
                self.values[row * side + column] = if row == column {
                    let positive = left.is_finite() && 0.0 < left;
                    if !positive {
                        return Err(AdaptError::NotPositive);
                    }
                    left.sqrt()
                } else {
                    left / self.values[column * side + column]
                };
            }
        }
        Ok(())
    }

    /// Solves for the rows below that block.
    fn solve_panel(&mut self, from: usize, to: usize) {
        let side = self.columns;
        let (above, below) = self.values.split_at_mut(to * side);
        below.par_chunks_mut(side).for_each(|row| {
            for column in from..to {
                let factor = &above[column * side..(column + 1) * side];
                let left = row[column] - dot(&row[from..column], &factor[from..column]);
                row[column] = left / factor[column];
            }
        });
    }

    /// Updates what is to the right of that block and below it, on and below the diagonal.
    fn take_panel_away(&mut self, from: usize, to: usize) {
        let (side, width) = (self.columns, to - from);
        let below = &mut self.values[to * side..];
        let panel: Vec<f64> = below
            .chunks(side)
            .flat_map(|row| row[from..to].iter().copied())
            .collect();
        if panel.is_empty() {
            return;
        }
        let panel = MatrixView::by_rows(&panel, width);
        let chunks = below.par_chunks_mut(ROWS_BY_TASK * side).enumerate();
        chunks.for_each(|(task, into)| {
            let (first, count) = (task * ROWS_BY_TASK, into.len() / side);
            let reach = first + count;
            let right = panel.some_rows(0, reach).transposed();
            let mut part = vec![0.0; count * reach];
            multiply_matrices(panel.some_rows(first, count), right, 0.0, &mut part);
            for (row, part) in into.chunks_mut(side).zip(part.chunks(reach)) {
                add(&mut row[to..to + reach], part, -1.0);
            }
        });
    }

    /// The solution of `self * x = right`, where `self` is a lower factor.
    pub(super) fn solve_lower(&self, mut right: Self) -> Self {
        let (side, width) = (self.columns, right.columns);
        for from in (0..side).step_by(BLOCK) {
            let to = (from + BLOCK).min(side);
            let (solved, rest) = right.values.split_at_mut(from * width);
            let block = &mut rest[..(to - from) * width];
            if 0 < from {
                let known: Vec<f64> = (from..to)
                    .flat_map(|row| self.row(row)[..from].iter().copied())
                    .collect();
                let known = MatrixView::by_rows(&known, from);
                let part = Self::product(known, MatrixView::by_rows(solved, width));
                add(block, &part.values, -1.0);
            }
            for row in from..to {
                let (above, below) = block.split_at_mut((row - from) * width);
                let this = &mut below[..width];
                for (column, above) in (from..row).zip(above.chunks(width)) {
                    add(this, above, -self.row(row)[column]);
                }
                let by = 1.0 / self.row(row)[row];
                this.iter_mut().for_each(|value| *value *= by);
            }
        }
        right
    }
}

/// Rows of `f32`, scaled to unit length in `f64`, minus a centre.
fn widened(rows: &[f32], centre: &[f64]) -> Vec<f64> {
    let mut wide = Vec::with_capacity(rows.len());
    for row in rows.chunks(centre.len()) {
        let by = 1.0 / length(row);
        wide.extend(row.iter().zip(centre).map(|(x, m)| f64::from(*x) * by - m));
    }
    wide
}

/// The length of a row; 1 for a zero row.
pub(super) fn length(row: &[f32]) -> f64 {
    let squares = row.iter().map(|x| f64::from(*x) * f64::from(*x));
    let length = squares.sum::<f64>().sqrt();
    if length.is_normal() { length } else { 1.0 }
}

/// Adds `by * values` to `into`.
pub(super) fn add(into: &mut [f64], values: &[f64], by: f64) {
    for (into, value) in into.iter_mut().zip(values) {
        *into += by * value;
    }
}

/// The inner product, in eight partial sums.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// Converts a count to `f64`.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Dense {
        let mut draws = matchpoint_calibration::analysis::rng::SeededRng::new(seed, 0);
        let mut dense = Dense::zeros(rows, columns);
        dense
            .values
            .fill_with(|| real(draws.below(2_001)) / 1_000.0 - 1.0);
        dense
    }

    #[test]
    fn a_factor_times_itself_is_the_matrix_and_solves_it() {
        for side in [1, 3, 64, 65, 150] {
            let rows = random(side + 20, side, 1);
            let gram = Dense::gram(&rows);
            let direct = Dense::product(rows.view().transposed(), rows.view());
            let factor = gram.clone().cholesky().unwrap();
            let again = Dense::product(factor.view(), factor.view().transposed());
            for (a, (b, c)) in gram
                .values
                .iter()
                .zip(again.values.iter().zip(&direct.values))
            {
                assert!((a - b).abs() < 1e-9 && (a - c).abs() < 1e-9);
            }
            let right = random(side, 7, 2);
            let solved = factor.solve_lower(right.clone());
            let back = Dense::product(factor.view(), solved.view());
            assert!(
                back.values
                    .iter()
                    .zip(&right.values)
                    .all(|(a, b)| (a - b).abs() < 1e-9)
            );
        }
        let flat = Dense::zeros(3, 3);
        assert!(matches!(flat.cholesky(), Err(AdaptError::NotPositive)));
    }
}
