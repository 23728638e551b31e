//! Judges whether a head is better than none, on labels that had no part in the fit, by intervals over labels.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use matchpoint_calibration::analysis::rng::SeededRng;

use super::error::AdaptError;
use super::figures::{HeadFigures, LabelEvidence};
use super::labelled_rows::LabelledRows;

/// Number of bootstrap samples of labels.
const REPLICATES: u64 = 600;
/// The share of samples on each side of an interval.
const TAIL: f64 = 0.025;
/// At most this many rows are compared with each other, which is 200 million pairs. If there are more, whole
/// labels are taken up to this number.
pub(super) const ROWS_MAX: usize = 20_000;

/// A figure without and with the head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedFigure {
    /// The name of the figure.
    pub figure: String,
    /// Its value without the head.
    pub without: f64,
    /// Its value with the head.
    pub with: f64,
    /// The lower end of the 95 % bootstrap interval of the difference (with minus without), over labels.
    pub lower: f64,
    /// The upper end of this interval.
    pub upper: f64,
    /// Whether the figure is significantly better: the whole interval is on the better side.
    pub better: bool,
    /// Whether the figure is significantly worse: the whole interval is on the worse side.
    pub worse: bool,
}

impl JudgedFigure {
    /// The verdict in a few words.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.better, self.worse) {
            (true, _) => "better",
            (_, true) => "worse",
            _ => "no difference beyond chance",
        }
    }
}

/// The comparison of a head with no head, on the judging labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Number of judging labels.
    pub labels: usize,
    /// Number of their rows.
    pub rows: usize,
    /// All figures.
    pub changes: Vec<JudgedFigure>,
    /// The reason why the head is refused; `None` if it is accepted.
    pub refused: Option<String>,
}

/// The figures that a head must make significantly better.
const HAVE_TO_BE_BETTER: [&str; 2] = ["EER", "FRR at FAR 1 %"];

impl Judgement {
    /// Compares rows without and with the head, which must have the same labels in the same order.
    ///
    /// # Errors
    /// Returns an error if rows cannot be compared with each other.
    pub fn of(before: &LabelledRows, behind: &LabelledRows, seed: u64) -> Result<Self, AdaptError> {
        let (without, with) = (LabelEvidence::of(before)?, LabelEvidence::of(behind)?);
        let labels = without.labels();
        let all = vec![1.0; labels];
        let (whole_without, whole_with) =
            (without.figures(&all).values(), with.figures(&all).values());
        let draws: Vec<[f64; 5]> = (1..=REPLICATES)
            .into_par_iter()
            .map(|stream| {
                let weights = drawn_again(labels, seed, stream);
                let (a, b) = (
                    without.figures(&weights).values(),
                    with.figures(&weights).values(),
                );
                difference(&a, &b)
            })
            .collect();
        let changes = HeadFigures::NAMES
            .iter()
            .enumerate()
            .map(|(at, (name, more_is_better))| {
                let mut of_figure: Vec<f64> = draws
                    .iter()
                    .filter_map(|draw| draw.get(at).copied())
                    .collect();
                of_figure.sort_by(f64::total_cmp);
                let (lower, upper) = (quantile(&of_figure, TAIL), quantile(&of_figure, 1.0 - TAIL));
                let (above, below) = (0.0 < lower, upper < 0.0);
                JudgedFigure {
                    figure: (*name).to_owned(),
                    without: whole_without.get(at).copied().unwrap_or(0.0),
                    with: whole_with.get(at).copied().unwrap_or(0.0),
                    lower,
                    upper,
                    better: if *more_is_better { above } else { below },
                    worse: if *more_is_better { below } else { above },
                }
            });
        let changes: Vec<JudgedFigure> = changes.collect();
        let refused = refusal(&changes, labels);
        Ok(Self {
            labels,
            rows: before.len(),
            changes,
            refused,
        })
    }
}

/// Draws labels with replacement; returns how often each was drawn.
pub(super) fn drawn_again(labels: usize, seed: u64, stream: u64) -> Vec<f64> {
    let mut draws = SeededRng::new(seed, stream);
    let mut weights = vec![0.0; labels];
    for _ in 0..labels {
        if let Some(weight) = weights.get_mut(draws.below(labels)) {
            *weight += 1.0;
        }
    }
    weights
}

fn difference(without: &[f64; 5], with: &[f64; 5]) -> [f64; 5] {
    let mut difference = *with;
    for (value, less) in difference.iter_mut().zip(without) {
        *value -= less;
    }
    difference
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list of some hundreds"
)]
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = super::dense::real(sorted.len().saturating_sub(1));
    let place = (share * last).round() as usize;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// The reason for a refusal in one sentence; `None` if the head is accepted.
fn refusal(changes: &[JudgedFigure], labels: usize) -> Option<String> {
    let not_better: Vec<&JudgedFigure> = changes
        .iter()
        .filter(|one| HAVE_TO_BE_BETTER.contains(&one.figure.as_str()) && !one.better)
        .collect();
    let worse: Vec<&JudgedFigure> = changes.iter().filter(|one| one.worse).collect();
    let told = |one: &&JudgedFigure| {
        format!(
            "{} from {:.4} to {:.4} (difference {:+.4} to {:+.4} at 95 %)",
            one.figure, one.without, one.with, one.lower, one.upper
        )
    };
    let list = |ones: &[&JudgedFigure]| ones.iter().map(told).collect::<Vec<String>>().join(", ");
    if !worse.is_empty() {
        return Some(format!(
            "on {labels} labels that it had not seen the head is worse in {}",
            list(&worse)
        ));
    }
    if !not_better.is_empty() {
        return Some(format!(
            "on {labels} labels that it had not seen the head is not better beyond chance in {}; more labels may show that it is",
            list(&not_better)
        ));
    }
    None
}
