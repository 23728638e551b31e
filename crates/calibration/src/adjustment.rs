//! The decision score, which is compared with the threshold, if it is not the plain similarity of the best
//! match.
//!
//! The scores of labels differ in ways that one threshold on similarity cannot follow. An adjustment changes
//! only the score that is compared; the best match and the reported similarity stay the same. Calibration and
//! serving call the same function, so a threshold is chosen from exactly the scores that it is compared with
//! later.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::cohort::Cohort;
use super::margin::MarginFactor;
use super::normalise::{Normalisation, PairStatistics};
use matchpoint_vector::Similarity;

/// How scores are adjusted, as an operating point records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjustment {
    /// The score is normalised against a cohort of strangers.
    Normalised {
        /// The method: whose statistics are used, and how much of the cohort.
        how: Normalisation,
        /// SHA-256 of the cohort's file.
        cohort: String,
        /// Number of members of the cohort.
        members: u64,
        /// The multiple of the best normalised score of another label that is subtracted; `None` if nothing is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        margin: Option<MarginFactor>,
    },
    /// A multiple of the best similarity to another label is subtracted from the similarity.
    Margin {
        /// The multiple that is subtracted.
        factor: MarginFactor,
    },
}

impl Adjustment {
    /// Describes the decision score in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Normalised {
                how,
                members,
                margin,
                ..
            } => {
                let less = margin.map_or_else(String::new, |factor| {
                    format!(
                        ", less {} of that of the best of another label",
                        factor.get()
                    )
                });
                format!("{} against a cohort of {members} items{less}", how.name())
            }
            Self::Margin { factor } => format!(
                "margin: the best similarity less {} of that of the best of another label",
                factor.get()
            ),
        }
    }

    /// The multiple of the best score of another label that is subtracted; `None` if nothing is.
    #[must_use]
    pub fn margin(&self) -> Option<MarginFactor> {
        match self {
            Self::Normalised { margin, .. } => *margin,
            Self::Margin { factor } => Some(*factor),
        }
    }

    /// SHA-256 of the file of its cohort; `None` without a cohort.
    #[must_use]
    pub fn cohort(&self) -> Option<&str> {
        match self {
            Self::Normalised { cohort, .. } => Some(cohort),
            Self::Margin { .. } => None,
        }
    }

    /// Whether the best match among some of the items never has a higher decision score than the best match
    /// among all items. If so, a filter cannot raise the FAR. It is true for a margin over the best of another
    /// label among all items, and false for normalised scores.
    #[must_use]
    pub fn falls_with_a_filter(&self) -> bool {
        matches!(self, Self::Margin { .. })
    }
}

/// A probe and an item to be compared, with everything that an adjustment may use.
#[derive(Clone, Copy, Debug)]
pub struct ComparedPair<'a> {
    /// The cosine similarity of probe and item.
    pub score: Similarity,
    /// The probe's vector, of unit length.
    pub probe: &'a [f32],
    /// The item's vector, of unit length.
    pub item: &'a [f32],
    /// The best similarity of the probe to an item whose label is neither the item's nor left out of the
    /// search; `None` if there is no such item or it was not searched for.
    pub other: Option<Similarity>,
    /// The item's label; `None` for an image that is not enrolled.
    pub label: Option<&'a str>,
    /// The label that was left out of the search, if any. Cohort members with this label are ignored too.
    pub left_out: Option<&'a str>,
}

/// An adjustment with the data that it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjuster {
    adjustment: Adjustment,
    cohort: Option<Cohort>,
}

impl Adjuster {
    /// Normalises scores by the method `how` against `cohort`.
    ///
    /// # Errors
    /// Never in practice, because every cohort has a digest.
    pub fn normalising(how: Normalisation, cohort: Cohort) -> Result<Self, CalibrationError> {
        Ok(Self {
            adjustment: Adjustment::Normalised {
                how,
                cohort: cohort.digest()?,
                members: cohort.members() as u64,
                margin: None,
            },
            cohort: Some(cohort),
        })
    }

    /// Subtracts a multiple of the best similarity to another label.
    #[must_use]
    pub fn margin(factor: MarginFactor) -> Self {
        Self {
            adjustment: Adjustment::Margin { factor },
            cohort: None,
        }
    }

    /// Adds a margin: a multiple of the best adjusted score of another label is subtracted from the adjusted
    /// score.
    #[must_use]
    pub fn with_margin(self, factor: MarginFactor) -> Self {
        let adjustment = match self.adjustment {
            Adjustment::Normalised {
                how,
                cohort,
                members,
                ..
            } => Adjustment::Normalised {
                how,
                cohort,
                members,
                margin: Some(factor),
            },
            Adjustment::Margin { .. } => Adjustment::Margin { factor },
        };
        Self { adjustment, ..self }
    }

    /// The adjustment that an operating point records.
    #[must_use]
    pub fn adjustment(&self) -> &Adjustment {
        &self.adjustment
    }

    /// The cohort, if there is one.
    #[must_use]
    pub fn cohort(&self) -> Option<&Cohort> {
        self.cohort.as_ref()
    }

    /// Computes the decision score, in [-1, 1]. `None` if it needs the best similarity to another label and
    /// there is none; the search must then be rejected.
    ///
    /// # Errors
    /// Returns an error if a vector has another dimension than the cohort, or if all cohort members are left
    /// out.
    pub fn decision_score(
        &self,
        compared: &ComparedPair<'_>,
    ) -> Result<Option<Similarity>, CalibrationError> {
        let margin = self.adjustment.margin();
        if margin.is_some() && compared.other.is_none() {
            return Ok(None);
        }
        match (&self.adjustment, &self.cohort) {
            (Adjustment::Margin { factor }, _) => {
                let other = compared.other;
                Ok(other.map(|other| factor.score(compared.score, other)))
            }
            (Adjustment::Normalised { how, .. }, Some(cohort)) => {
                let without: Vec<&str> = compared
                    .label
                    .into_iter()
                    .chain(compared.left_out)
                    .collect();
                let pair = PairStatistics {
                    probe: cohort.statistics(*how, compared.probe, &without)?,
                    item: cohort.statistics(*how, compared.item, &without)?,
                };
                Ok(Some(match margin.zip(compared.other) {
                    Some((factor, other)) => {
                        let side = how.side();
                        side.normalise_margin(compared.score, other, factor, pair)
                    }
                    None => how.normalise(compared.score, pair),
                }))
            }
            (Adjustment::Normalised { .. }, None) => Err(CalibrationError::EmptyCohort),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::normalise::StatisticsSide;
    use super::*;

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    fn compared<'a>(probe: &'a [f32], item: &'a [f32]) -> ComparedPair<'a> {
        ComparedPair {
            score: Similarity::between(probe, item).unwrap(),
            probe,
            item,
            other: None,
            label: None,
            left_out: None,
        }
    }

    #[test]
    fn an_item_that_is_close_to_all_is_held_further_off() {
        let rows = [("1", "ash", [1.0, 0.0]), ("2", "beech", [0.8, 0.6])];
        let items = rows.iter().map(|(id, label, row)| (*id, *label, &row[..]));
        let cohort = Cohort::sampled(items, 0).unwrap();
        let how = Normalisation::new(StatisticsSide::Item, None, 0.1).unwrap();
        let adjuster = Adjuster::normalising(how, cohort).unwrap();
        let probe = [0.6, 0.8];
        // Both have the same similarity to the probe, but one lies in the middle of the cohort.
        let near = adjuster
            .decision_score(&compared(&probe, &[0.96, 0.28]))
            .unwrap()
            .unwrap();
        let far = adjuster
            .decision_score(&compared(&probe, &[0.0, 1.0]))
            .unwrap()
            .unwrap();
        assert!((score(0.8).get() - compared(&probe, &[0.96, 0.28]).score.get()).abs() < 1e-6);
        assert!(near < far);
        // A cohort member with the probe's label is ignored.
        let mate = ComparedPair {
            label: Some("ash"),
            ..compared(&probe, &[0.96, 0.28])
        };
        assert_ne!(adjuster.decision_score(&mate).unwrap(), Some(near));
        let without = ComparedPair {
            left_out: Some("beech"),
            ..mate
        };
        assert!(adjuster.decision_score(&without).is_err(), "nobody is left");
    }

    #[test]
    fn a_record_is_read_back() {
        let how = Normalisation::new(StatisticsSide::Both, None, 0.001).unwrap();
        let adjustment = Adjustment::Normalised {
            how,
            cohort: "00".into(),
            members: 3,
            margin: None,
        };
        let text = serde_json::to_string(&adjustment).unwrap();
        // The same form as in records from before margins existed, so that their ids do not change.
        assert!(text.ends_with(r#""cohort":"00","members":3}}"#), "{text}");
        let margin = Adjustment::Margin {
            factor: MarginFactor::DEFAULT,
        };
        for adjustment in [adjustment, margin] {
            let text = serde_json::to_string(&adjustment).unwrap();
            let read = serde_json::from_str::<Adjustment>(&text).unwrap();
            assert_eq!(read, adjustment);
        }
    }

    #[test]
    fn a_margin_needs_another_label_and_scores_lower_the_nearer_it_is() {
        let (probe, item) = ([1.0, 0.0], [0.8, 0.6]);
        let rows = [("1", "ash", [1.0, 0.0]), ("2", "beech", [0.0, 1.0])];
        let items = rows.iter().map(|(id, label, row)| (*id, *label, &row[..]));
        let cohort = Cohort::sampled(items, 0).unwrap();
        let how = Normalisation::new(StatisticsSide::Both, None, 0.1).unwrap();
        let factor = MarginFactor::DEFAULT;
        let pair = Adjuster::normalising(how, cohort)
            .unwrap()
            .with_margin(factor);
        for adjuster in [Adjuster::margin(factor), pair] {
            let by = |other: Option<f32>| {
                let other = other.map(score);
                let compared = compared(&probe, &item);
                adjuster
                    .decision_score(&ComparedPair { other, ..compared })
                    .unwrap()
            };
            assert_eq!(by(None), None);
            assert!(by(Some(0.7)) < by(Some(0.1)) && by(Some(0.7)).is_some());
            assert!(adjuster.adjustment().describe().contains("another label"));
        }
    }
}
