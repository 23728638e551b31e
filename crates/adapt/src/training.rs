//! Training after a whitening: finds the map that minimises the losses, by Adam starting from the identity.

use matchpoint_calibration::analysis::rng::SeededRng;

use super::dense::{Dense, real};
use super::loss::{Batch, LossWeights, slope};

/// The number of steps, the learning rate and the size of batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    /// Number of steps of Adam.
    pub(super) steps: usize,
    /// The highest learning rate; that of the proxies is four times as high.
    pub(super) rate: f64,
    /// The highest number of labels in a batch.
    pub(super) labels: usize,
    /// The highest number of rows of each label in a batch.
    pub(super) rows_each: usize,
}

/// Number of steps until the learning rate is highest; after that it falls to zero by a cosine schedule.
const WARM_UP_STEPS: usize = 10;
const PROXIES_FASTER: f64 = 4.0;
/// The decay rates of Adam's two moments, and the constant that keeps its division finite (Kingma and Ba 2015).
const FIRST_DECAY: f64 = 0.9;
const SECOND_DECAY: f64 = 0.999;
const ADAM_EPSILON: f64 = 1e-8;

/// Rows with labels numbered from 0 without gaps, and the seed of the batches.
pub(super) struct TrainingRows<'a> {
    pub(super) rows: &'a Dense,
    pub(super) labels: &'a [usize],
    pub(super) seed: u64,
}

/// Adam's moments of a gradient.
struct AdamMeans {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl AdamMeans {
    fn of(parameters: &Dense) -> Self {
        let zeros = vec![0.0; parameters.values.len()];
        Self {
            first: zeros.clone(),
            second: zeros,
        }
    }

    fn step(&mut self, parameters: &mut Dense, gradient: &Dense, rate: f64, number: i32) {
        let (one, two) = (
            1.0 - FIRST_DECAY.powi(number),
            1.0 - SECOND_DECAY.powi(number),
        );
        let means = self.first.iter_mut().zip(&mut self.second);
        let values = parameters.values.iter_mut().zip(&gradient.values);
        for ((value, slope), (first, second)) in values.zip(means) {
            *first = FIRST_DECAY * *first + (1.0 - FIRST_DECAY) * slope;
            *second = SECOND_DECAY * *second + (1.0 - SECOND_DECAY) * slope * slope;
            *value -= rate * (*first / one) / ((*second / two).sqrt() + ADAM_EPSILON);
        }
    }
}

impl TrainingRows<'_> {
    /// Trains the map. `watch` is called at each step; if it returns `false`, the work stops without a map.
    pub(super) fn train(
        &self,
        by: LossWeights,
        schedule: Schedule,
        watch: &dyn Fn(usize, usize) -> bool,
    ) -> Option<Dense> {
        let of_label = self.rows_of_labels();
        let mut map = Dense::identity(self.rows.columns);
        let mut proxies = self.means(&of_label);
        let (mut map_means, mut proxy_means) = (AdamMeans::of(&map), AdamMeans::of(&proxies));
        let mut draws = SeededRng::new(self.seed, 0);
        for (step, number) in (0..schedule.steps).zip(1..) {
            let chosen = draw(&of_label, schedule, &mut draws);
            let mut rows = Dense::zeros(chosen.len(), self.rows.columns);
            let mut labels = Vec::with_capacity(chosen.len());
            for (at, &row) in chosen.iter().enumerate() {
                rows.row_mut(at).copy_from_slice(self.rows.row(row));
                labels.extend(self.labels.get(row));
            }
            let batch = Batch {
                rows: &rows,
                labels: &labels,
            };
            let found = slope(&batch, &map, &proxies, by);
            if !found.loss.is_finite() || !watch(step + 1, schedule.steps) {
                return None;
            }
            let rate = schedule.rate * share_of_rate(step, schedule.steps);
            map_means.step(&mut map, &found.of_map, rate, number);
            let faster = PROXIES_FASTER * rate;
            proxy_means.step(&mut proxies, &found.of_proxies, faster, number);
        }
        Some(map)
    }

    fn rows_of_labels(&self) -> Vec<Vec<usize>> {
        let count = self.labels.iter().max().map_or(0, |most| most + 1);
        let mut rows = vec![Vec::new(); count];
        for (row, label) in self.labels.iter().enumerate() {
            if let Some(of_label) = rows.get_mut(*label) {
                of_label.push(row);
            }
        }
        rows
    }

    /// The start of the proxies: the mean of each label.
    fn means(&self, of_label: &[Vec<usize>]) -> Dense {
        let mut means = Dense::zeros(of_label.len(), self.rows.columns);
        for (label, rows) in of_label.iter().enumerate() {
            let mean = means.row_mut(label);
            for &row in rows {
                super::dense::add(mean, self.rows.row(row), 1.0 / real(rows.len()));
            }
        }
        means
    }
}

/// The rows of a batch: some rows of some labels, without repetition.
fn draw(of_label: &[Vec<usize>], schedule: Schedule, draws: &mut SeededRng) -> Vec<usize> {
    let mut labels: Vec<usize> = (0..of_label.len()).collect();
    draws.shuffle(&mut labels);
    let mut chosen = Vec::new();
    for label in labels.into_iter().take(schedule.labels) {
        let mut rows = of_label.get(label).cloned().unwrap_or_default();
        draws.shuffle(&mut rows);
        chosen.extend(rows.into_iter().take(schedule.rows_each));
    }
    chosen
}

fn share_of_rate(step: usize, steps: usize) -> f64 {
    let warm = (real(step + 1) / real(WARM_UP_STEPS)).min(1.0);
    let fallen = std::f64::consts::PI * real(step) / real(steps.max(1));
    warm * f64::midpoint(1.0, fallen.cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::ThreadPoolBuilder;

    #[test]
    fn training_lowers_the_loss_and_follows_from_the_seed_whatever_the_threads() {
        let values = include_bytes!("../tests/fixtures/z_0.5_0.5_1.f64")
            .as_chunks::<8>()
            .0;
        let rows = Dense {
            columns: 32,
            values: values
                .iter()
                .map(|value| f64::from_le_bytes(*value))
                .collect(),
        };
        let labels: Vec<usize> = (0..96).map(|row| row / 4).collect();
        let by = LossWeights {
            temperature: 0.1,
            consistency: 1.0,
            margin_mated: 0.9,
            margin_non_mated: 0.5,
        };
        let schedule = Schedule {
            steps: 40,
            rate: 5e-3,
            labels: 12,
            rows_each: 4,
        };
        let train = |seed, threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let rows = TrainingRows {
                rows: &rows,
                labels: &labels,
                seed,
            };
            pool.install(|| rows.train(by, schedule, &|_, _| true))
                .unwrap()
        };
        let map = train(1, 1);
        assert_eq!(map, train(1, 3));
        assert_ne!(map, train(2, 1));
        let batch = Batch {
            rows: &rows,
            labels: &labels,
        };
        let without = LossWeights {
            temperature: 1e9,
            ..by
        };
        let proxies = Dense::zeros(24, 32);
        // With zero proxies, the softmax loss is the logarithm of the number of labels, whatever the map.
        let margins = |map: &Dense| slope(&batch, map, &proxies, without).loss - 24.0_f64.ln();
        let (before, after) = (margins(&Dense::identity(32)), margins(&map));
        assert!(after < 0.8 * before, "{before} became {after}");
        let rows = TrainingRows {
            rows: &rows,
            labels: &labels,
            seed: 0,
        };
        assert_eq!(rows.train(by, schedule, &|step, _| step < 3), None);
    }
}
