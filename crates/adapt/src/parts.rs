//! Splits labels once into three parts: fitting labels, labels left for calibration, and judging labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::AdaptError;

/// The least number of fitting labels with at least two pictures. With fewer, heads are as often harmful as
/// useful.
const FIT_LABELS_MIN: usize = 30;
/// The least number of judging labels with at least two pictures. With fewer, intervals have little meaning.
const JUDGE_LABELS_MIN: usize = 15;
/// The least number of all such labels, if as many are left for calibration as judge.
const PAIRED_LABELS_MIN: usize = FIT_LABELS_MIN + 2 * JUDGE_LABELS_MIN;

/// The purpose of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The head is fitted to it.
    Fit,
    /// It is left for calibration: a threshold can be chosen on it.
    Calibrate,
    /// The head is judged on it.
    Judge,
}

impl Part {
    /// The word in lists and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Calibrate => "calibrate",
            Self::Judge => "judge",
        }
    }

    /// The part with this name, ignoring case.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Fit, Self::Calibrate, Self::Judge]
            .into_iter()
            .find(|part| part.as_str().eq_ignore_ascii_case(word))
    }
}

/// The part of each label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts(BTreeMap<String, Part>);

/// The order of assignment: two labels to fit, one to calibrate with and one to judge.
const TURNS: [Part; 4] = [Part::Fit, Part::Judge, Part::Fit, Part::Calibrate];

impl Parts {
    /// Assigns the label of each row to a part, in an order that depends only on the seed and the names. Labels
    /// with at least two pictures come first, so that each part has its share of them.
    ///
    /// # Errors
    /// Returns an error if there are too few labels with at least two pictures.
    pub fn deal(labels: &[&str], seed: u64) -> Result<Self, AdaptError> {
        let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
        for label in labels {
            *rows.entry(*label).or_default() += 1;
        }
        let paired = rows.values().filter(|rows| 2 <= **rows).count();
        if paired < PAIRED_LABELS_MIN {
            let labels = rows.len();
            let least = PAIRED_LABELS_MIN;
            return Err(AdaptError::TooFewLabels {
                labels,
                paired,
                least,
            });
        }
        let mut order: Vec<(bool, [u8; 32], &str)> = rows
            .iter()
            .map(|(label, rows)| (*rows < 2, hash(seed, label), *label))
            .collect();
        order.sort_unstable();
        let dealt = order.into_iter().zip(TURNS.iter().cycle());
        Ok(Self(
            dealt
                .map(|((_, _, label), part)| (label.to_owned(), *part))
                .collect(),
        ))
    }

    /// Takes parts that were given for each row.
    ///
    /// # Errors
    /// Returns an error if a label occurs in two parts, or if there are too few labels with at least two
    /// pictures to fit or to judge.
    pub fn given(labels: &[&str], parts: &[Part]) -> Result<Self, AdaptError> {
        let mut found: BTreeMap<&str, (Part, usize)> = BTreeMap::new();
        for (label, part) in labels.iter().zip(parts.iter().copied()) {
            let (known, count) = found.entry(*label).or_insert((part, 0));
            if *known != part {
                return Err(AdaptError::LabelInTwoParts {
                    label: (*label).to_owned(),
                    one: known.as_str(),
                    other: part.as_str(),
                });
            }
            *count += 1;
        }
        for (part, least) in [(Part::Fit, FIT_LABELS_MIN), (Part::Judge, JUDGE_LABELS_MIN)] {
            let paired = found
                .values()
                .filter(|(of, rows)| *of == part && 2 <= *rows);
            let paired = paired.count();
            if paired < least {
                return Err(AdaptError::TooFewInPart {
                    part: part.as_str(),
                    paired,
                    least,
                });
            }
        }
        let parts = found
            .into_iter()
            .map(|(label, (part, _))| (label.to_owned(), part));
        Ok(Self(parts.collect()))
    }

    /// The part of a label.
    #[must_use]
    pub fn of(&self, label: &str) -> Option<Part> {
        self.0.get(label).copied()
    }

    /// The labels of a part, in alphabetical order.
    pub fn labels(&self, part: Part) -> impl Iterator<Item = &str> {
        let labels = self.0.iter().filter(move |(_, of)| **of == part);
        labels.map(|(label, _)| label.as_str())
    }
}

/// Gives another order for each seed, whatever the names.
fn hash(seed: u64, label: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"part");
    hash.update(seed.to_le_bytes());
    hash.update(label);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("label {at}")).collect()
    }

    #[test]
    fn labels_are_dealt_two_to_fit_for_each_that_calibrates_and_that_judges() {
        let names = names(80);
        let rows: Vec<&str> = names
            .iter()
            .chain(&names[..60])
            .map(String::as_str)
            .collect();
        let parts = Parts::deal(&rows, 0).unwrap();
        let has_two = |name: &&str| names[..60].iter().any(|one| one == name);
        let counts = [Part::Fit, Part::Calibrate, Part::Judge].map(|part| {
            let paired = parts.labels(part).filter(has_two).count();
            (parts.labels(part).count(), paired)
        });
        assert_eq!(counts, [(40, 30), (20, 15), (20, 15)]);
        let reversed: Vec<&str> = rows.iter().rev().copied().collect();
        assert_eq!(parts, Parts::deal(&reversed, 0).unwrap());
        assert_ne!(parts, Parts::deal(&rows, 1).unwrap());
        let error = Parts::deal(&rows[1..], 0).unwrap_err().to_string();
        assert!(error.contains("59 have two: label 1 more"), "{error}");
    }

    #[test]
    fn parts_that_are_given_must_be_disjoint_and_large_enough() {
        let names = names(45);
        let labels: Vec<&str> = names.iter().flat_map(|name| [name.as_str(); 2]).collect();
        let part = |at: usize| if at < 60 { Part::Fit } else { Part::Judge };
        let parts: Vec<Part> = (0..90).map(part).collect();
        assert!(Parts::given(&labels, &parts).is_ok());
        let refused =
            |labels: &[&str], parts: &[Part]| Parts::given(labels, parts).unwrap_err().to_string();
        let mut twice = parts.clone();
        twice[7] = Part::Judge;
        let error = refused(&labels, &twice);
        assert!(
            error.contains("the label label 3 is in two parts, fit and judge"),
            "{error}"
        );
        let error = refused(&labels[2..], &parts[2..]);
        assert!(error.contains("`fit` has 29 labels"), "{error}");
        let error = refused(&labels[..88], &parts[..88]);
        assert!(error.contains("`judge` has 14 labels"), "{error}");
    }
}
