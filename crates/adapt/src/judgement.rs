//! Whether a head is better than none, on labels that had no part in it: with intervals over labels, and not by points.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use matchpoint_calibration::analysis::rng::SeededRng;

use super::error::AdaptError;
use super::figures::{HeadFigures, LabelEvidence};
use super::labelled_rows::LabelledRows;

/// Times that the labels are drawn again.
const REPLICATES: u64 = 600;
/// The share of draws on each side of an interval.
const TAIL: f64 = 0.025;
/// Rows that are compared with each other, at most: 200 million pairs. Of more, labels are taken until there are so many.
pub(super) const ROWS_MAX: usize = 20_000;

/// What one figure is without the head and with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgedFigure {
    /// The figure's name.
    pub figure: String,
    /// Without a head.
    pub without: f64,
    /// With the head.
    pub with: f64,
    /// The low end of the 95 % interval of the difference, with less without, over labels drawn again.
    pub lower: f64,
    /// The high end.
    pub upper: f64,
    /// Better beyond its interval.
    pub better: bool,
    /// Worse beyond its interval.
    pub worse: bool,
}

impl JudgedFigure {
    /// In a word or some.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.better, self.worse) {
            (true, _) => "better",
            (_, true) => "worse",
            _ => "no difference beyond chance",
        }
    }
}

/// A head against none, on the labels that judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Labels that judged.
    pub labels: usize,
    /// Their rows.
    pub rows: usize,
    /// Every figure.
    pub changes: Vec<JudgedFigure>,
    /// Why the head is refused; `None` if it is taken.
    pub refused: Option<String>,
}

/// Figures that a head has to make better, beyond their intervals.
const HAVE_TO_BE_BETTER: [&str; 2] = ["EER", "FRR at FAR 1e-2"];

impl Judgement {
    /// Compares rows before a head and behind it, which have the same labels in the same order.
    ///
    /// # Errors
    /// Rows that cannot be compared with each other.
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

/// How often each label is drawn.
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

/// In one sentence.
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
