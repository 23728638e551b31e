//! Mixed whitening: reduces the influence of directions in which pictures of one label, or all pictures, vary
//! much.
//!
//! Let W be the scatter within labels and T that of all rows, each divided by its trace, and d the number of
//! components. Then S = a W + b T + c I / d, and the head is `x -> L^-1 (x - mean)` with S = L L', so that a
//! distance along any direction is measured in units of the usual variation. With W alone, as in LDA, labels
//! are separated well, but one threshold no longer suits all of them; the share of T prevents this.

use super::dense::{Dense, add, dot, length, real};
use super::eigen::leading;
use super::error::AdaptError;
use super::labelled_rows::LabelledRows;

/// The weights of the parts of a mixed whitening.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shares {
    /// The weight of the scatter within labels.
    pub(super) within: f64,
    /// The weight of the scatter of all rows.
    pub(super) total: f64,
    /// The weight of the identity, which is the shrinkage.
    pub(super) identity: f64,
}

/// A linear map of the differences from a centre.
#[derive(Clone, Debug)]
pub(super) struct CentredMap {
    pub(super) centre: Vec<f64>,
    pub(super) matrix: Dense,
}

impl CentredMap {
    /// All rows mapped.
    pub(super) fn apply(&self, rows: &LabelledRows) -> Dense {
        Dense::mapped(rows.vectors(), &self.centre, &self.matrix)
    }
}

/// Fits a mixed whitening. If it has fewer output components, it uses the leading eigenvectors of T. The mapped
/// rows have a mean length of one.
pub(super) fn whiten(
    rows: &LabelledRows,
    shares: Shares,
    components: usize,
) -> Result<CentredMap, AdaptError> {
    let dimension = rows.dimension();
    let centre = mean(rows);
    let total = Dense::scatter(rows.vectors(), &centre);
    let mut within = total.clone();
    let between = Dense::gram(&label_means(rows, &centre));
    add(&mut within.values, &between.values, -1.0);
    let shared = mixed(&within, &total, shares);
    let matrix = if components < dimension {
        let axes = leading(total, components)?;
        let seen = Dense::product(axes.view(), shared.view());
        let seen = Dense::product(seen.view(), axes.view().transposed());
        symmetric(seen).cholesky()?.solve_lower(axes)
    } else {
        shared.cholesky()?.solve_lower(Dense::identity(dimension))
    };
    let mut map = CentredMap { centre, matrix };
    let by = 1.0 / mean_length(&map.apply(rows));
    map.matrix.values.iter_mut().for_each(|value| *value *= by);
    Ok(map)
}

/// The matrix S.
fn mixed(within: &Dense, total: &Dense, shares: Shares) -> Dense {
    let side = total.columns;
    let mut mixed = Dense::identity(side);
    let even = shares.identity / real(side);
    mixed.values.iter_mut().for_each(|value| *value *= even);
    for (scatter, share) in [(within, shares.within), (total, shares.total)] {
        let trace = scatter.trace();
        if trace.is_normal() && 0.0 < trace {
            add(&mut mixed.values, &scatter.values, share / trace);
        }
    }
    mixed
}

/// Makes a matrix exactly symmetric, because rounding leaves a product of symmetric matrices slightly
/// asymmetric.
fn symmetric(mut matrix: Dense) -> Dense {
    let turned: Vec<f64> = {
        let identity = Dense::identity(matrix.columns);
        Dense::product(matrix.view().transposed(), identity.view()).values
    };
    let pairs = matrix.values.iter_mut().zip(turned);
    pairs.for_each(|(value, other)| *value = f64::midpoint(*value, other));
    matrix
}

fn mean(rows: &LabelledRows) -> Vec<f64> {
    let mut sums = vec![0.0; rows.dimension()];
    for row in rows.vectors().chunks(rows.dimension()) {
        let by = 1.0 / length(row);
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value) * by;
        }
    }
    let count = real(rows.len().max(1));
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// For each label, the difference of its mean from the centre, times the square root of its number of rows.
fn label_means(rows: &LabelledRows, centre: &[f64]) -> Dense {
    let (labels, count) = rows.dense_labels();
    let mut sums = Dense::zeros(count, rows.dimension());
    let mut of_label = vec![0_usize; count];
    for (label, row) in labels.iter().zip(rows.vectors().chunks(rows.dimension())) {
        let by = 1.0 / length(row);
        for ((sum, value), m) in sums.row_mut(*label).iter_mut().zip(row).zip(centre) {
            *sum += f64::from(*value) * by - m;
        }
        if let Some(of_label) = of_label.get_mut(*label) {
            *of_label += 1;
        }
    }
    for (label, rows) in of_label.iter().enumerate() {
        let by = 1.0 / real(*rows).sqrt();
        sums.row_mut(label).iter_mut().for_each(|sum| *sum *= by);
    }
    sums
}

pub(super) fn mean_length(rows: &Dense) -> f64 {
    let lengths = rows
        .values
        .chunks(rows.columns)
        .map(|row| dot(row, row).sqrt());
    let mean = lengths.sum::<f64>() / real(rows.rows().max(1));
    if mean.is_normal() { mean } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubles(bytes: &[u8]) -> Vec<f64> {
        let (values, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty());
        values
            .iter()
            .map(|value| f64::from_le_bytes(*value))
            .collect()
    }

    fn rows() -> LabelledRows {
        let x = include_bytes!("../tests/fixtures/x.f32").as_chunks::<4>().0;
        let x = x.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let labels = (0..96_u32).map(|row| row / 4).collect();
        LabelledRows::as_they_are(32, x, labels)
    }

    #[test]
    fn mixed_whitening_is_that_of_numpy_to_nine_digits() {
        let cases: [(Shares, &[u8]); 4] = [
            (
                Shares {
                    within: 0.5,
                    total: 0.5,
                    identity: 1.0,
                },
                include_bytes!("../tests/fixtures/z_0.5_0.5_1.f64"),
            ),
            (
                Shares {
                    within: 0.0,
                    total: 1.0,
                    identity: 1.0,
                },
                include_bytes!("../tests/fixtures/z_0_1_1.f64"),
            ),
            (
                Shares {
                    within: 1.0,
                    total: 0.0,
                    identity: 0.3,
                },
                include_bytes!("../tests/fixtures/z_1_0_0.3.f64"),
            ),
            (
                Shares {
                    within: 0.75,
                    total: 0.25,
                    identity: 2.0,
                },
                include_bytes!("../tests/fixtures/z_0.75_0.25_2.f64"),
            ),
        ];
        for (shares, expected) in cases {
            let expected = Dense {
                columns: 32,
                values: doubles(expected),
            };
            let mapped = whiten(&rows(), shares, 32).unwrap().apply(&rows());
            let by = 1.0 / mean_length(&expected);
            let differences = mapped
                .values
                .iter()
                .zip(&expected.values)
                .map(|(a, b)| (a - b * by).abs());
            let largest = differences.fold(0.0_f64, f64::max);
            assert!(largest < 1e-9, "{shares:?}: {largest:e}");
        }
    }

    #[test]
    fn fewer_components_keep_the_distances_that_the_axes_see() {
        // With all axes in any order, S is complete, so the products are the same as without a reduction.
        let shares = Shares {
            within: 0.5,
            total: 0.5,
            identity: 1.0,
        };
        let whole = whiten(&rows(), shares, 32).unwrap().apply(&rows());
        let axes = leading(Dense::scatter(rows().vectors(), &mean(&rows())), 32).unwrap();
        let products = Dense::product(whole.view(), whole.view().transposed());
        let most = whiten(&rows(), shares, 31).unwrap().apply(&rows());
        assert_eq!((most.columns, axes.rows()), (31, 32));
        let fewer = Dense::product(most.view(), most.view().transposed());
        let scale = mean_length(&whole) / mean_length(&most);
        let difference = products
            .values
            .iter()
            .zip(&fewer.values)
            .map(|(a, b)| (a - b * scale).abs());
        assert!(difference.sum::<f64>() / 9_216.0 < 0.02);
    }
}
