//! The score that is compared with the threshold, if it is not the plain similarity of the best match.
//!
//! The scores of labels differ in ways that one threshold on the similarity cannot follow. An adjustment
//! changes only the score that is compared: the best match and the reported similarity stay the same.
//! Calibration and serving call the same function, so a threshold is chosen on exactly the scores that it
//! will be compared with.

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
    /// Normalised against a cohort of strangers.
    Normalised {
        /// By whose statistics, and against how much of the cohort.
        how: Normalisation,
        /// SHA-256 of the cohort's file.
        cohort: String,
        /// Members of the cohort.
        members: u64,
        /// How much of the best of another label, normalised alike, is taken off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        margin: Option<MarginFactor>,
    },
    /// The similarity less a part of the best of another label.
    Margin {
        /// How much of it.
        factor: MarginFactor,
    },
}

impl Adjustment {
    /// The compared score, in words.
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

    /// How much of the best of another label is subtracted; `None` if it is not used.
    #[must_use]
    pub fn margin(&self) -> Option<MarginFactor> {
        match self {
            Self::Normalised { margin, .. } => *margin,
            Self::Margin { factor } => Some(*factor),
        }
    }

    /// SHA-256 of the file of its cohort, if it has one.
    #[must_use]
    pub fn cohort(&self) -> Option<&str> {
        match self {
            Self::Normalised { cohort, .. } => Some(cohort),
            Self::Margin { .. } => None,
        }
    }

    /// Whether the best among some of the items scores no higher than the best of all, so that a filter
    /// lets no stranger in: the margin over the best of another label among all items does, and a
    /// normalised score does not.
    #[must_use]
    pub fn falls_with_a_filter(&self) -> bool {
        matches!(self, Self::Margin { .. })
    }
}

/// A comparison of a probe with an item, with everything that an adjustment may use.
#[derive(Clone, Copy, Debug)]
pub struct ComparedPair<'a> {
    /// Their similarity.
    pub score: Similarity,
    /// The probe's vector, of unit length.
    pub probe: &'a [f32],
    /// The item's vector, of unit length.
    pub item: &'a [f32],
    /// The best similarity of the probe to an item of another label than the item's and the one that was
    /// left out; `None` if there is none, or it was not searched for.
    pub other: Option<Similarity>,
    /// The item's label; `None` for an image that is not enrolled.
    pub label: Option<&'a str>,
    /// The label that was left out of the search; its items are left out of the cohort too.
    pub left_out: Option<&'a str>,
}

/// An adjustment with what is needed to apply it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjuster {
    adjustment: Adjustment,
    cohort: Option<Cohort>,
}

impl Adjuster {
    /// Normalises by `how` against `cohort`.
    ///
    /// # Errors
    /// None in practice: a cohort has a digest.
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

    /// Subtracts a part of the best of another label from the similarity.
    #[must_use]
    pub fn margin(factor: MarginFactor) -> Self {
        Self {
            adjustment: Adjustment::Margin { factor },
            cohort: None,
        }
    }

    /// The same off what this makes of the similarity.
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

    /// The score to compare, in [-1, 1]; `None` if it needs the best of another label and there is none:
    /// then nothing may be accepted.
    ///
    /// # Errors
    /// Refuses vectors of another dimension than the cohort's, and if no member is left.
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
        // As similar to the probe as each other, and one is in the midst of the cohort.
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
        // A mate in the cohort takes no part.
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
        // As records had it before there were margins, so that their ids stay.
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
