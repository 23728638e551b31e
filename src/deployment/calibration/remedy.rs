//! The remedy of a calibration: the adjustment of scores before the decision, and how it was chosen.

use std::collections::{BTreeMap, BTreeSet};

use crate::deployment::{DeploymentError, Gathered};
use matchpoint_calibration::CalibrationError;
use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::analysis::remedies::{plan, remedy_trial, stranger_labels};
use matchpoint_calibration::analysis::remedy::{Remedy, RemedyPlan, RemedyTrial};
use matchpoint_calibration::analysis::remedy_comparison::{self, compare};
use matchpoint_calibration::cohort::Cohort;
use matchpoint_calibration::held_out::Folds;
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{ChosenThreshold, ThresholdSettings};
use matchpoint_calibration::recording::{RecordedSearch, Recording, TrialKind};
use matchpoint_calibration::refusal::Underpowered;
use matchpoint_gallery::item::ItemHead;

/// The remedy for labels that one threshold treats unequally.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RemedyChoice {
    /// No remedy: the similarity is compared with one threshold.
    #[default]
    None,
    /// This remedy.
    Named(Remedy),
    /// The remedy that half of the labels prefers, or none. The other half chooses the threshold.
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
    let seed = threshold.seed;
    let searches = gathered.searches.clone();
    if matches!(
        remedy,
        RemedyChoice::None | RemedyChoice::Named(Remedy::None)
    ) {
        let recording = Recording::new(searches)?.with_repeats(gathered.repeats.clone());
        return chosen(recording, None, target, threshold);
    }
    let bench = RemedyBench {
        vectors: Vectors::of(gathered),
        searches: &gathered.searches,
        repeats: &gathered.repeats,
        target,
        seed,
        threshold,
        margin_factor,
    };
    match remedy {
        RemedyChoice::None | RemedyChoice::Named(Remedy::None) => bench.chosen(searches, None),
        RemedyChoice::Named(remedy) => {
            let mut done = bench.by(*remedy, searches)?;
            done.remarks.push(format!(
                "The remedy ({}) was chosen without a look at these searches, or for reasons other \
                 than how they score.",
                remedy.as_str()
            ));
            Ok(done)
        }
        RemedyChoice::Measured => bench.measured(),
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
    seed: u64,
    threshold: &'a ThresholdSettings,
    margin_factor: MarginFactor,
}

impl RemedyBench<'_> {
    fn chosen(
        &self,
        searches: Vec<RecordedSearch>,
        adjuster: Option<Adjuster>,
    ) -> Result<Remedied, DeploymentError> {
        let recording = Recording::new(searches)?.with_repeats(self.repeats.clone());
        chosen(recording, adjuster, self.target, self.threshold)
    }

    fn by(
        &self,
        remedy: Remedy,
        searches: Vec<RecordedSearch>,
    ) -> Result<Remedied, DeploymentError> {
        let margin = remedy.takes_margin().then_some(self.margin_factor);
        let cohort = || self.vectors.cohort(self.seed);
        let adjuster = match (remedy, margin) {
            (Remedy::None, _) => return self.chosen(searches, None),
            (Remedy::Margin, Some(factor)) => Adjuster::margin(factor),
            (_, margin) => {
                let cohort = cohort()?;
                let Some(how) = remedy.normalisation(cohort.members()) else {
                    return self.chosen(searches, None);
                };
                let normalising = Adjuster::normalising(how, cohort)?;
                match margin {
                    Some(factor) => normalising.with_margin(factor),
                    None => normalising,
                }
            }
        };
        let searches = self.vectors.adjust(searches, &adjuster)?;
        self.chosen(searches, Some(adjuster))
    }

    /// One half of the labels chooses the remedy, the other the threshold.
    fn measured(&self) -> Result<Remedied, DeploymentError> {
        let all = Recording::new(self.searches.to_vec())?.with_repeats(self.repeats.clone());
        let halves = Folds::new(2, self.seed)?;
        let half_of = halves.of_labels(all.trials());
        let (choosing, setting): (Vec<&RecordedSearch>, Vec<&RecordedSearch>) = self
            .searches
            .iter()
            .partition(|search| half_of.get(search.label.as_str()) == Some(&0));
        let cohort = self.vectors.cohort(self.seed)?;
        let trials = choosing.iter().map(|search| {
            let compared = self.vectors.compared(search)?;
            Ok(remedy_trial(search, compared.as_ref(), &cohort)?)
        });
        let trials: Vec<RemedyTrial> = trials.collect::<Result<_, DeploymentError>>()?;
        let setting: Vec<RecordedSearch> = setting.into_iter().cloned().collect();
        let plan = RemedyPlan {
            margin_factor: self.margin_factor,
            ..plan(self.target, stranger_labels(&setting), self.seed)?
        };
        let compared = compare(&trials, &plan).map_err(|cause| DeploymentError::Argument {
            argument: "remedy",
            problem: format!("cannot be measured: {cause}; or name one, or none"),
        })?;
        let set_aside: BTreeSet<String> = choosing.iter().map(|s| s.label.clone()).collect();
        let labels = set_aside.len();
        let strangers = stranger_labels(&choosing);
        let said = |refused| beside_set_aside(refused, strangers);
        let (mut done, remark) = match compared.preferred() {
            Some(best) => (
                self.by(best.measured.fitted.remedy, setting)
                    .map_err(said)?,
                format!(
                    "The remedy was chosen on {labels} labels that had no part in setting the \
                     threshold: {}.",
                    best.sentence
                ),
            ),
            None => (
                self.chosen(setting, None).map_err(said)?,
                format!(
                    "On {labels} labels kept apart for that choice, no remedy had a lower FRR by more \
                     than chance without a higher rate elsewhere: the similarity decides. {}",
                    outcomes_text(&compared.remedies)
                ),
            ),
        };
        done.remarks.push(remark);
        done.recording = done.recording.with_set_aside(set_aside);
        Ok(done)
    }
}

/// Adds the labels that chose the remedy to a refusal for too few labels.
fn beside_set_aside(refused: DeploymentError, set_aside: u64) -> DeploymentError {
    if let DeploymentError::Calibration(CalibrationError::Underpowered(few)) = refused {
        return CalibrationError::Underpowered(Underpowered { set_aside, ..few }).into();
    }
    refused
}

/// Chooses the threshold for searches with final scores.
fn chosen(
    recording: Recording,
    adjuster: Option<Adjuster>,
    target: CalibrationTarget,
    threshold: &ThresholdSettings,
) -> Result<Remedied, DeploymentError> {
    Ok(Remedied {
        chosen: ChosenThreshold::on(&recording, target, threshold)?,
        recording,
        adjuster,
        remarks: Vec::new(),
    })
}

/// Describes the measurements of the remedies.
fn outcomes_text(remedies: &[remedy_comparison::RemedyOutcome]) -> String {
    let sentences = remedies.iter().map(|one| format!("{}.", one.sentence));
    sentences.collect::<Vec<String>>().join(" ")
}
