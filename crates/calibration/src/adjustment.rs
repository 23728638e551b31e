//! What is held against the threshold, if that is not the plain similarity of the best match.
//!
//! Labels differ in how their scores lie, which one threshold on the similarity cannot follow. An
//! adjustment changes the score that decides, and nothing else: which item is the best match,
//! and the similarity that is reported, stay what they are. Calibration and serving call the same
//! function, so that a threshold is chosen on exactly the scores that it will decide.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::cohort::Cohort;
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
    },
}

impl Adjustment {
    /// What is held against the threshold, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Normalised { how, members, .. } => {
                format!("{} against a cohort of {members} items", how.name())
            }
        }
    }
}

/// A comparison of a probe with an item, with all that an adjustment may look at.
#[derive(Clone, Copy, Debug)]
pub struct ComparedPair<'a> {
    /// Their similarity.
    pub score: Similarity,
    /// The probe's vector, of unit length.
    pub probe: &'a [f32],
    /// The item's vector, of unit length.
    pub item: &'a [f32],
    /// The item's label; `None` for an image that is not enrolled.
    pub label: Option<&'a str>,
    /// The label that was left out of the search; its items are left out of the cohort too.
    pub left_out: Option<&'a str>,
}

/// An adjustment with what it takes to carry it out.
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
            },
            cohort: Some(cohort),
        })
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

    /// What is held against the threshold, in [-1, 1].
    ///
    /// # Errors
    /// Refuses vectors of another dimension than the cohort's, and if no member is left.
    pub fn decision_score(
        &self,
        compared: &ComparedPair<'_>,
    ) -> Result<Similarity, CalibrationError> {
        match (&self.adjustment, &self.cohort) {
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
                Ok(how.normalise(compared.score, pair))
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
            .unwrap();
        let far = adjuster
            .decision_score(&compared(&probe, &[0.0, 1.0]))
            .unwrap();
        assert!((score(0.8).get() - compared(&probe, &[0.96, 0.28]).score.get()).abs() < 1e-6);
        assert!(near < far);
        // A mate in the cohort takes no part.
        let mate = ComparedPair {
            label: Some("ash"),
            ..compared(&probe, &[0.96, 0.28])
        };
        assert_ne!(adjuster.decision_score(&mate).unwrap(), near);
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
        };
        let text = serde_json::to_string(&adjustment).unwrap();
        assert_eq!(
            serde_json::from_str::<Adjustment>(&text).unwrap(),
            adjustment
        );
    }
}
