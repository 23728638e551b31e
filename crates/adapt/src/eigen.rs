//! Computes the leading eigenvectors of a symmetric matrix: Householder's tridiagonal form, its eigenvalues by
//! the implicit QL iteration, and its leading eigenvectors by inverse iteration (Wilkinson). This is our own
//! code because the crates that have it (faer, nalgebra) bring 32 and 8 others for these pages.
#![expect(
    clippy::indexing_slicing,
    reason = "every index comes from a loop over the side that it indexes"
)]

use matchpoint_calibration::analysis::rng::SeededRng;
use rayon::prelude::*;

use super::dense::{Dense, add, dot, real};
use super::error::AdaptError;

/// The highest number of iterations for one eigenvalue; a handful is usual.
const QL_ROUNDS_MAX: usize = 60;
/// Number of iterations for one eigenvector. Two are usual, because each gains about ten digits.
const INVERSE_ROUNDS: usize = 3;
/// Number of rows that one task changes.
const ROWS_BY_TASK: usize = 32;

/// The eigenvectors of the `count` greatest eigenvalues, as rows of unit length, that of the greatest first.
pub(super) fn leading(matrix: Dense, count: usize) -> Result<Dense, AdaptError> {
    let side = matrix.columns;
    let count = count.min(side);
    let form = Tridiagonal::of(matrix);
    let mut values = form.eigenvalues()?;
    values.sort_by(|a, b| b.total_cmp(a));
    let mut vectors = Dense::zeros(count, side);
    let mut draws = SeededRng::new(0, 0);
    for (at, value) in values.into_iter().take(count).enumerate() {
        let (known, rest) = vectors.values.split_at_mut(at * side);
        let vector = &mut rest[..side];
        vector.fill_with(|| real(draws.below(1 << 20)) / real(1 << 19) - 1.0);
        for _ in 0..INVERSE_ROUNDS {
            form.solve(value, vector);
            // Done twice, because after one pass rounding errors remain.
            for _ in 0..2 {
                let parts: Vec<f64> = known
                    .par_chunks(side)
                    .map(|other| dot(other, vector))
                    .collect();
                for (other, part) in known.chunks(side).zip(parts) {
                    add(vector, other, -part);
                }
                scale_to_one(vector);
            }
        }
    }
    vectors
        .values
        .par_chunks_mut(side)
        .for_each(|vector| form.back(vector));
    Ok(vectors)
}

fn scale_to_one(vector: &mut [f64]) {
    // The solution is huge if the eigenvalue is met exactly.
    let largest = vector
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let by = if largest.is_normal() {
        1.0 / largest
    } else {
        1.0
    };
    vector.iter_mut().for_each(|value| *value *= by);
    let length = dot(vector, vector).sqrt();
    if length.is_normal() {
        vector.iter_mut().for_each(|value| *value /= length);
    }
}

/// A symmetric matrix in the form `Q T Q'`, with `T` tridiagonal.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// The elements beside the diagonal; element i is between i and i + 1.
    beside: Vec<f64>,
    /// Row k is the vector whose reflection cleared column k; its length is sqrt(2), or zero.
    reflections: Dense,
}

impl Tridiagonal {
    fn of(mut matrix: Dense) -> Self {
        let side = matrix.columns;
        let mut reflections = Dense::zeros(side, side);
        let mut beside = vec![0.0; side.saturating_sub(1)];
        for (step, beside) in beside.iter_mut().enumerate() {
            let below = step + 1;
            let reflection = reflections.row_mut(step);
            reflection[below..].copy_from_slice(&matrix.row(step)[below..]);
            *beside = reflect(&mut reflection[below..]);
            let vector = &reflections.row(step)[below..];
            let lower = &mut matrix.values[below * side..];
            let mut product: Vec<f64> = lower
                .par_chunks(side)
                .with_min_len(ROWS_BY_TASK)
                .map(|row| dot(&row[below..], vector))
                .collect();
            // H A H = A - v w' - w v' with w = A v - (v' A v / 2) v, for v of length sqrt(2).
            let half = dot(&product, vector) / 2.0;
            add(&mut product, vector, -half);
            let rows = lower.par_chunks_mut(side).with_min_len(ROWS_BY_TASK);
            rows.enumerate().for_each(|(at, row)| {
                let (a, b) = (vector[at], product[at]);
                let row = &mut row[below..];
                for ((into, w), v) in row.iter_mut().zip(&product).zip(vector) {
                    *into -= a * w + b * v;
                }
            });
        }
        let diagonal = (0..side).map(|at| matrix.row(at)[at]).collect();
        Self {
            diagonal,
            beside,
            reflections,
        }
    }

    /// The largest absolute value of its elements.
    fn size(&self) -> f64 {
        let elements = self.diagonal.iter().chain(&self.beside);
        elements.fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()))
    }

    /// All eigenvalues, in no particular order.
    fn eigenvalues(&self) -> Result<Vec<f64>, AdaptError> {
        let mut d = self.diagonal.clone();
        let mut e = self.beside.clone();
        e.push(0.0);
        let side = d.len();
        // Compared with the size of the whole matrix. If there are fewer rows than components, many eigenvalues
        // are zero, and between them rounding errors are small only compared with the whole.
        let tiny = f64::EPSILON * self.size();
        for low in 0..side {
            let mut rounds = 0;
            loop {
                let small = |at: &usize| e[*at].abs() <= tiny;
                let high = (low..side - 1).find(small).unwrap_or(side - 1);
                if high == low {
                    break;
                }
                rounds += 1;
                if QL_ROUNDS_MAX < rounds {
                    return Err(AdaptError::NoEigenvalues);
                }
                ql_step(&mut d, &mut e, low, high);
            }
        }
        Ok(d)
    }

    /// Replaces `vector` by the solution of `(T - value) x = vector`, by elimination with partial pivoting.
    fn solve(&self, value: f64, vector: &mut [f64]) {
        let side = vector.len();
        let tiny = f64::EPSILON * self.size();
        // The three upper diagonals of the factor.
        let (mut first, mut second, mut third) =
            (vec![0.0; side], vec![0.0; side], vec![0.0; side]);
        let (mut here, mut next) = (
            self.diagonal[0] - value,
            self.beside.first().copied().unwrap_or(0.0),
        );
        for at in 0..side {
            if at + 1 == side {
                first[at] = if here.abs() < tiny { tiny } else { here };
                break;
            }
            let below = self.beside[at];
            let (below_here, below_next) = (
                self.diagonal[at + 1] - value,
                self.beside.get(at + 1).copied().unwrap_or(0.0),
            );
            if here.abs() < below.abs() {
                (first[at], second[at], third[at]) = (below, below_here, below_next);
                let factor = here / below;
                vector.swap(at, at + 1);
                vector[at + 1] -= factor * vector[at];
                (here, next) = (next - factor * below_here, -factor * below_next);
            } else {
                let pivot = if here.abs() < tiny { tiny } else { here };
                (first[at], second[at]) = (pivot, next);
                let factor = below / pivot;
                vector[at + 1] -= factor * vector[at];
                (here, next) = (below_here - factor * next, below_next);
            }
        }
        for at in (0..side).rev() {
            let one = vector.get(at + 1).map_or(0.0, |x| second[at] * x);
            let two = vector.get(at + 2).map_or(0.0, |x| third[at] * x);
            vector[at] = (vector[at] - one - two) / first[at];
        }
    }

    /// Converts an eigenvector of `T` to one of the matrix.
    fn back(&self, vector: &mut [f64]) {
        for step in (0..self.beside.len()).rev() {
            let reflection = &self.reflections.row(step)[step + 1..];
            let part = dot(reflection, &vector[step + 1..]);
            add(&mut vector[step + 1..], reflection, -part);
        }
    }
}

/// Replaces a column by the vector v, of length sqrt(2), with which `I - v v'` maps the column to its first
/// axis; returns the resulting first element.
fn reflect(column: &mut [f64]) -> f64 {
    let length = dot(column, column).sqrt();
    let Some(first) = column.first_mut() else {
        return 0.0;
    };
    if !length.is_normal() {
        let value = *first;
        column.fill(0.0);
        return value;
    }
    let target = if 0.0 < *first { -length } else { length };
    *first -= target;
    let by = (2.0 / dot(column, column)).sqrt();
    column.iter_mut().for_each(|value| *value *= by);
    target
}

/// One implicit QL step with Wilkinson's shift, on rows `low` to `high`.
fn ql_step(d: &mut [f64], e: &mut [f64], low: usize, high: usize) {
    let half = (d[low + 1] - d[low]) / (2.0 * e[low]);
    let root = half.hypot(1.0);
    let mut g = d[high] - d[low] + e[low] / (half + root.copysign(half));
    let (mut sine, mut cosine, mut taken) = (1.0, 1.0, 0.0);
    for at in (low..high).rev() {
        let (f, b) = (sine * e[at], cosine * e[at]);
        let length = f.hypot(g);
        e[at + 1] = length;
        if length == 0.0 {
            d[at + 1] -= taken;
            e[high] = 0.0;
            return;
        }
        (sine, cosine) = (f / length, g / length);
        g = d[at + 1] - taken;
        let turned = (d[at] - g) * sine + 2.0 * cosine * b;
        taken = sine * turned;
        d[at + 1] = g + taken;
        g = cosine * turned - b;
    }
    d[low] -= taken;
    e[low] = g;
    e[high] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with these eigenvalues.
    fn with(values: &[f64], seed: u64) -> Dense {
        let side = values.len();
        let mut draws = SeededRng::new(seed, 1);
        let mut rows = Dense::zeros(side, side);
        for at in 0..side {
            let (known, rest) = rows.values.split_at_mut(at * side);
            let row = &mut rest[..side];
            row.fill_with(|| real(draws.below(2_001)) / 1_000.0 - 1.0);
            for _ in 0..2 {
                for other in known.chunks(side) {
                    let part = dot(other, row);
                    add(row, other, -part);
                }
                scale_to_one(row);
            }
        }
        let mut scaled = rows.clone();
        for (at, value) in values.iter().enumerate() {
            scaled.row_mut(at).iter_mut().for_each(|x| *x *= value);
        }
        Dense::product(rows.view().transposed(), scaled.view())
    }

    #[test]
    fn leading_vectors_are_orthogonal_and_each_is_mapped_to_its_multiple() {
        let falling: Vec<f64> = (0..120).map(|at| 0.9_f64.powi(at)).collect();
        // Each eigenvalue occurs twice, and many are zero, as in a covariance of fewer rows than components.
        let twice: Vec<f64> = (0..90)
            .map(|at| if at < 40 { real(50 - at / 2) } else { 0.0 })
            .collect();
        let flat: Vec<f64> = (0..150)
            .map(|at| if at < 20 { 1.0 } else { 1e-19 })
            .collect();
        for (values, count) in [
            (flat, 20),
            (falling, 60),
            (twice, 40),
            (vec![3.0], 1),
            (vec![2.0, 2.0], 2),
        ] {
            let matrix = with(&values, 3);
            let vectors = leading(matrix.clone(), count).unwrap();
            let mapped = Dense::product(vectors.view(), matrix.view());
            for at in 0..count {
                for (x, y) in vectors.row(at).iter().zip(mapped.row(at)) {
                    assert!(
                        (values[at] * x - y).abs() < 1e-9,
                        "{} of {}",
                        at,
                        values.len()
                    );
                }
            }
            let products = Dense::product(vectors.view(), vectors.view().transposed());
            for (a, b) in products.values.iter().zip(&Dense::identity(count).values) {
                assert!((a - b).abs() < 1e-10);
            }
        }
    }
}
