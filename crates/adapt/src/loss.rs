//! The losses that training minimises, with their gradients: normalised softmax over the labels, and
//! threshold-consistent margins (TCM). The gradients are checked against finite differences and against another
//! program.

use rayon::prelude::*;

use super::dense::{Dense, add, dot, real};

/// The weights and parameters of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LossWeights {
    /// The temperature of the softmax over cosines to the proxies (Zhai and Wu 2019, `NormSoftmax`).
    pub(super) temperature: f64,
    /// The weight of TCM (Zhang and others, ICLR 2024); zero for none.
    pub(super) consistency: f64,
    /// The positive margin: pairs with equal labels below this similarity are pulled together.
    pub(super) margin_mated: f64,
    /// The negative margin: pairs with different labels above this similarity are pushed apart.
    pub(super) margin_non_mated: f64,
}

/// A batch: rows before the map, with the label of each.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) rows: &'a Dense,
    pub(super) labels: &'a [usize],
}

/// The value of a loss, with its gradients.
#[derive(Debug)]
pub(super) struct Slope {
    pub(super) loss: f64,
    pub(super) of_map: Dense,
    pub(super) of_proxies: Dense,
}

/// The loss of a batch with this map and these proxies.
pub(super) fn slope(batch: &Batch<'_>, map: &Dense, proxies: &Dense, by: LossWeights) -> Slope {
    let mapped = Dense::product(batch.rows.view(), map.view().transposed());
    let (units, lengths) = directions(&mapped);
    let (towards, proxy_lengths) = directions(proxies);
    let mut cosines = Dense::product(units.view(), towards.view().transposed());
    let mut loss = softmax(&mut cosines, batch.labels, by.temperature);
    let mut of_units = Dense::product(cosines.view(), towards.view());
    let of_towards = Dense::product(cosines.view().transposed(), units.view());
    if 0.0 < by.consistency {
        let mut pairs = Dense::product(units.view(), units.view().transposed());
        loss += margins(&mut pairs, batch.labels, by);
        // Each pair occurs twice, once for each of its rows.
        of_units.add_product(pairs.view(), units.view(), 1.0);
    }
    let of_mapped = through_length(of_units, &units, &lengths);
    Slope {
        loss,
        of_map: Dense::product(of_mapped.view().transposed(), batch.rows.view()),
        of_proxies: through_length(of_towards, &towards, &proxy_lengths),
    }
}

/// The rows scaled to unit length, and their lengths before.
pub(super) fn directions(rows: &Dense) -> (Dense, Vec<f64>) {
    let mut units = rows.clone();
    let mut lengths = Vec::with_capacity(rows.rows());
    for row in units.values.chunks_mut(rows.columns) {
        let length = dot(row, row).sqrt().max(f64::MIN_POSITIVE);
        row.iter_mut().for_each(|value| *value /= length);
        lengths.push(length);
    }
    (units, lengths)
}

/// Backpropagates the gradient through the scaling to unit length.
fn through_length(mut gradient: Dense, units: &Dense, lengths: &[f64]) -> Dense {
    let rows = gradient.values.chunks_mut(units.columns);
    let units = units.values.chunks(units.columns);
    for ((row, unit), length) in rows.zip(units).zip(lengths) {
        let along = dot(row, unit);
        add(row, unit, -along);
        row.iter_mut().for_each(|value| *value /= length);
    }
    gradient
}

/// The mean cross-entropy; `cosines` is replaced by its gradient.
fn softmax(cosines: &mut Dense, labels: &[usize], temperature: f64) -> f64 {
    let count = real(labels.len().max(1));
    let width = cosines.columns;
    let rows = cosines.values.par_chunks_mut(width).zip(labels);
    let losses: Vec<f64> = rows
        .map(|(row, label)| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let own = row.get(*label).copied().unwrap_or(largest);
            row.iter_mut()
                .for_each(|value| *value = ((*value - largest) / temperature).exp());
            let sum: f64 = row.iter().sum();
            let by = 1.0 / (sum * count * temperature);
            row.iter_mut().for_each(|value| *value *= by);
            if let Some(value) = row.get_mut(*label) {
                *value -= 1.0 / (count * temperature);
            }
            sum.ln() - (own - largest) / temperature
        })
        .collect();
    losses.iter().sum::<f64>() / count
}

/// The mean distance from the margins, over the pairs that have not reached them; `pairs` is replaced by its
/// gradient.
fn margins(pairs: &mut Dense, labels: &[usize], by: LossWeights) -> f64 {
    let width = pairs.columns;
    let side = |row: usize, column: usize, cosine: f64| {
        let (one, other) = (labels.get(row), labels.get(column));
        if row == column {
            None
        } else if one == other {
            (cosine <= by.margin_mated).then_some(Side::Mated)
        } else {
            (by.margin_non_mated <= cosine).then_some(Side::NonMated)
        }
    };
    let (mut pulled, mut pushed) = (Distances::default(), Distances::default());
    for (row, cosines) in pairs.values.chunks(width).enumerate() {
        for (column, cosine) in cosines.iter().enumerate() {
            match side(row, column, *cosine) {
                Some(Side::Mated) => pulled.take(by.margin_mated - cosine),
                Some(Side::NonMated) => pushed.take(cosine - by.margin_non_mated),
                None => {}
            }
        }
    }
    let (pull, push) = (
        by.consistency * pulled.weight(),
        by.consistency * pushed.weight(),
    );
    for (row, cosines) in pairs.values.chunks_mut(width).enumerate() {
        for (column, cosine) in cosines.iter_mut().enumerate() {
            *cosine = match side(row, column, *cosine) {
                Some(Side::Mated) => -2.0 * pull,
                Some(Side::NonMated) => 2.0 * push,
                None => 0.0,
            };
        }
    }
    by.consistency * (pulled.mean() + pushed.mean())
}

/// The side of its margin on which a pair is wrong.
enum Side {
    Mated,
    NonMated,
}

#[derive(Default)]
struct Distances {
    sum: f64,
    count: usize,
}

impl Distances {
    fn take(&mut self, distance: f64) {
        self.sum += distance;
        self.count += 1;
    }

    fn weight(&self) -> f64 {
        1.0 / real(self.count.max(1))
    }

    fn mean(&self) -> f64 {
        self.sum * self.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: LossWeights = LossWeights {
        temperature: 0.1,
        consistency: 1.0,
        margin_mated: 0.9,
        margin_non_mated: 0.5,
    };

    fn fixture(bytes: &[u8]) -> Dense {
        let values = bytes.as_chunks::<8>().0.iter();
        Dense {
            columns: 32,
            values: values.map(|value| f64::from_le_bytes(*value)).collect(),
        }
    }

    fn rows() -> (Dense, Vec<usize>) {
        let rows = fixture(include_bytes!("../tests/fixtures/z_0.5_0.5_1.f64"));
        (rows, (0..96).map(|row| row / 4).collect())
    }

    #[test]
    fn loss_and_gradients_are_those_of_another_program() {
        let (rows, labels) = rows();
        let batch = Batch {
            rows: &rows,
            labels: &labels,
        };
        let proxies = fixture(include_bytes!("../tests/fixtures/proxies.f64"));
        let found = slope(&batch, &Dense::identity(32), &proxies, PUBLISHED);
        assert!((found.loss - 0.790_108_766_834_840_5).abs() < 1e-12);
        let of_map = fixture(include_bytes!("../tests/fixtures/grad_B.f64"));
        let of_proxies = fixture(include_bytes!("../tests/fixtures/grad_proxies.f64"));
        for (found, expected) in [(found.of_map, of_map), (found.of_proxies, of_proxies)] {
            let differences = found.values.iter().zip(&expected.values);
            assert!(differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) < 1e-10);
        }
    }

    #[test]
    fn gradients_are_what_small_steps_say() {
        let (rows, labels) = rows();
        let batch = Batch {
            rows: &rows,
            labels: &labels,
        };
        let proxies = fixture(include_bytes!("../tests/fixtures/proxies.f64"));
        let mut map = Dense::identity(32);
        map.row_mut(3)[5] = 0.2;
        let losses = [
            PUBLISHED,
            LossWeights {
                consistency: 0.0,
                temperature: 0.2,
                ..PUBLISHED
            },
        ];
        for by in losses {
            let found = slope(&batch, &map, &proxies, by);
            let step = 1e-6;
            for at in [0, 37, 5 + 3 * 32, 1_023] {
                let at_map = |by_step: f64| {
                    let mut moved = map.clone();
                    moved.values[at] += by_step;
                    slope(&batch, &moved, &proxies, by).loss
                };
                let measured = (at_map(step) - at_map(-step)) / (2.0 * step);
                assert!((measured - found.of_map.values[at]).abs() < 1e-7);
            }
            let at_proxy = |by_step: f64| {
                let mut moved = proxies.clone();
                moved.values[70] += by_step;
                slope(&batch, &map, &moved, by).loss
            };
            let measured = (at_proxy(step) - at_proxy(-step)) / (2.0 * step);
            assert!((measured - found.of_proxies.values[70]).abs() < 1e-7);
        }
    }
}
