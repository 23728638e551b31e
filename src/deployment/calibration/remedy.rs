//! The remedy of a calibration: the adjustment of scores before the decision, and how it was chosen.

use std::collections::BTreeMap;

use crate::deployment::{DeploymentError, Gathered};
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::cohort::Cohort;
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{
    BestScore, ChosenThreshold, ScoredSearches, ThresholdSettings,
};
use matchpoint_calibration::recording::{RecordedSearch, Recording, TrialKind};
use matchpoint_gallery::item::ItemHead;

/// The remedy for labels that one threshold treats unequally.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RemedyChoice {
    /// No remedy: the similarity is compared with one threshold.
    #[default]
    None,
    /// This remedy.
    Named(Remedy),
    /// The similarity, a margin, AS-norm, or both together: the one that errs least, of thresholds that are
    /// certified together.
    Measured,
}

/// Searches with their decision scores, and the threshold that was chosen from them.
pub(in crate::deployment) struct Remedied {
    /// The searches that chose the threshold.
    pub(in crate::deployment) recording: Recording,
    /// The threshold.
    pub(in crate::deployment) chosen: ChosenThreshold,
    /// The adjustment of scores; `None` if the similarity is compared.
    pub(in crate::deployment) adjuster: Option<Adjuster>,
    /// How the remedy was chosen, as whole sentences.
    pub(in crate::deployment) remarks: Vec<String>,
}

/// Adjusts the scores of the searches by a remedy, and chooses a threshold from them.
pub(in crate::deployment) fn remedied(
    gathered: &Gathered,
    remedy: &RemedyChoice,
    margin_factor: MarginFactor,
    threshold: &ThresholdSettings,
    target: CalibrationTarget,
) -> Result<Remedied, DeploymentError> {
    let bench = || RemedyBench {
        vectors: Vectors::of(gathered),
        searches: &gathered.searches,
        repeats: &gathered.repeats,
        target,
        threshold,
        margin_factor,
    };
    match remedy {
        RemedyChoice::None | RemedyChoice::Named(Remedy::None) => {
            let recording = Recording::new(gathered.searches.clone())?;
            let recording = recording.with_repeats(gathered.repeats.clone());
            Ok(Remedied {
                chosen: ChosenThreshold::on(&recording, target, threshold)?,
                recording,
                adjuster: None,
                remarks: Vec::new(),
            })
        }
        RemedyChoice::Named(remedy) => {
            let mut done = bench().by(*remedy)?;
            done.remarks.push(format!(
                "The remedy ({}) was chosen without a look at these searches, or for reasons other \
                 than how they score.",
                remedy.as_str()
            ));
            Ok(done)
        }
        RemedyChoice::Measured => bench().measured(),
    }
}

/// Adjusts the scores of searches exactly as the operating point will.
pub(in crate::deployment) fn adjusted(
    gathered: &Gathered,
    adjuster: &Adjuster,
) -> Result<Vec<RecordedSearch>, DeploymentError> {
    Vectors::of(gathered).adjust(gathered.searches.clone(), adjuster)
}

/// Finds the vectors of the searches.
struct Vectors<'a> {
    items: BTreeMap<&'a str, (&'a ItemHead, &'a [f32])>,
    queries: BTreeMap<&'a str, &'a [f32]>,
    /// Whether the gallery's own items were the queries.
    of_own_items: bool,
}

impl<'a> Vectors<'a> {
    fn of(gathered: &'a Gathered) -> Self {
        let items = gathered.items();
        let queries = gathered.queries.iter();
        Self {
            items: items
                .map(|(head, vector)| (head.id.as_str(), (head, vector)))
                .collect(),
            queries: queries
                .map(|(query, vector)| (query.id.as_str(), &**vector))
                .collect(),
            of_own_items: gathered.of_own_items,
        }
    }

    /// The probe and the item that it found; `None` if it found nothing.
    fn compared<'b>(
        &'b self,
        search: &'b RecordedSearch,
    ) -> Result<Option<ComparedPair<'b>>, DeploymentError> {
        let Some(found) = &search.found else {
            return Ok(None);
        };
        let item = self.items.get(found.item.as_str());
        let probe = if self.of_own_items {
            let own = self.items.get(search.probe.as_str());
            own.map(|(_, vector)| *vector)
        } else {
            self.queries.get(search.probe.as_str()).copied()
        };
        let (Some((head, item)), Some(probe)) = (item, probe) else {
            return Err(DeploymentError::Argument {
                argument: "queries",
                problem: format!(
                    "are too many for a remedy, which takes the vectors of all; at most {} are kept",
                    Gathered::VECTORS_MAX
                ),
            });
        };
        Ok(Some(ComparedPair {
            score: found.score,
            probe,
            item,
            other: found.other,
            label: Some(&head.label),
            left_out: (search.truth == TrialKind::LeftOut).then_some(search.label.as_str()),
        }))
    }

    fn adjust(
        &self,
        mut searches: Vec<RecordedSearch>,
        adjuster: &Adjuster,
    ) -> Result<Vec<RecordedSearch>, DeploymentError> {
        for search in &mut searches {
            let score = match self.compared(search)? {
                // A search without a score must not be ignored: with a score, it could later be accepted by the
                // threshold.
                Some(compared) => Some(adjuster.decision_score(&compared)?.ok_or_else(|| {
                    CalibrationError::NoOtherLabel {
                        probe: search.probe.clone(),
                    }
                })?),
                None => None,
            };
            if let Some(found) = &mut search.found {
                found.adjusted = score;
            }
        }
        Ok(searches)
    }

    fn cohort(&self, seed: u64) -> Result<Cohort, CalibrationError> {
        let items = self.items.values();
        let items = items.map(|(head, vector)| (head.id.as_str(), head.label.as_str(), *vector));
        Cohort::sampled(items, seed)
    }
}

/// Everything that is needed to fit a remedy.
struct RemedyBench<'a> {
    vectors: Vectors<'a>,
    searches: &'a [RecordedSearch],
    repeats: &'a BTreeMap<String, String>,
    target: CalibrationTarget,
    threshold: &'a ThresholdSettings,
    margin_factor: MarginFactor,
}

impl RemedyBench<'_> {
    fn by(&self, remedy: Remedy) -> Result<Remedied, DeploymentError> {
        let (recording, adjuster) = self.scored(remedy)?;
        Ok(Remedied {
            chosen: ChosenThreshold::on(&recording, self.target, self.threshold)?,
            recording,
            adjuster,
            remarks: Vec::new(),
        })
    }

    /// The searches as the remedy scores them.
    fn scored(&self, remedy: Remedy) -> Result<(Recording, Option<Adjuster>), DeploymentError> {
        let adjuster = self.adjuster(remedy)?;
        let mut searches = self.searches.to_vec();
        if let Some(adjuster) = &adjuster {
            searches = self.vectors.adjust(searches, adjuster)?;
        }
        let recording = Recording::new(searches)?.with_repeats(self.repeats.clone());
        Ok((recording, adjuster))
    }

    fn adjuster(&self, remedy: Remedy) -> Result<Option<Adjuster>, DeploymentError> {
        let margin = remedy.takes_margin().then_some(self.margin_factor);
        Ok(match (remedy, margin) {
            (Remedy::None, _) => None,
            (Remedy::Margin, Some(factor)) => Some(Adjuster::margin(factor)),
            (_, margin) => {
                let cohort = self.vectors.cohort(self.threshold.seed)?;
                let Some(how) = remedy.normalisation(cohort.members()) else {
                    return Ok(None);
                };
                let normalising = Adjuster::normalising(how, cohort)?;
                Some(match margin {
                    Some(factor) => normalising.with_margin(factor),
                    None => normalising,
                })
            }
        })
    }

    /// All labels certify each of the scores, and the one that errs least is taken.
    fn measured(&self) -> Result<Remedied, DeploymentError> {
        let (mut scored, mut adjusters) = (Vec::new(), Vec::new());
        for remedy in Remedy::MEASURED {
            let (recording, adjuster) = self.scored(remedy)?;
            scored.push(ScoredSearches { remedy, recording });
            adjusters.push(adjuster);
        }
        let best = BestScore::of(&scored, self.target, self.threshold)?;
        let labels = self.searches.iter().map(|search| search.label.clone());
        let recording = scored.swap_remove(best.place).recording;
        Ok(Remedied {
            recording: recording.with_score_labels(labels.collect()),
            chosen: best.chosen,
            adjuster: adjusters.swap_remove(best.place),
            remarks: vec![best.remark],
        })
    }
}
