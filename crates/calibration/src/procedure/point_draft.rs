//! Makes an operating point in two steps: first the target, then the trials.

use super::settings::{Assured, ThresholdSettings};
use crate::CalibrationError;
use crate::adjustment::Adjustment;
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::strangers::UnnamedStrangers;
use crate::certify::TargetFar;
use crate::growth::{FpirAt, ahead_of_turnover, predicted};
use crate::held_out::{Folds, HeldOut, cross_fit, cross_fit_by};
use crate::operating_point::{
    Binding, GrowthAllowed, HeldOutRates, IndexMisses, OperatingPoint, PointPlan, TurnoverAllowed,
};
use crate::policy::{CalibrationTarget, Choice, choose};
use crate::recording::Recording;
use crate::refusal::{GrowthAsked, Underpowered};
use crate::review::ReviewBand;
use crate::trials::Trials;
use crate::worst_group::{StrangerGroups, WorstGroup};

/// The name and version of the software, as recorded in each operating point.
const SOFTWARE: &str = concat!("matchpoint ", env!("CARGO_PKG_VERSION"));

/// A threshold, and the error rates of the method that chose it on labels that had no part in the
/// choice.
#[derive(Clone, Debug)]
pub struct ChosenThreshold {
    /// The threshold.
    pub choice: Choice,
    /// The error rates, measured by cross-fitting; `None` if no label is left that had no part in the choice.
    pub held_out: Option<HeldOut>,
    /// The groups of strangers in each of which the target FAR holds; `None` if this was not asked
    /// for.
    pub worst_group: Option<WorstGroup>,
    /// The range of scores below the threshold that a person decides; `None` if it was not asked
    /// for.
    pub review: Option<ReviewBand>,
}

impl ChosenThreshold {
    /// Chooses a threshold from these searches for `target`, which is the target of the settings or
    /// a tighter one.
    ///
    /// # Errors
    /// Returns the errors of [`choose`], [`StrangerGroups::choose`] and [`ReviewBand::certified`],
    /// and an error if a review band is asked for without a target FAR.
    pub fn on(
        recording: &Recording,
        target: CalibrationTarget,
        settings: &ThresholdSettings,
    ) -> Result<Self, CalibrationError> {
        let mut chosen = Self::without_review(recording, target, settings)?;
        if let Some(unseen) = settings.review {
            if target.far().is_none() {
                return Err(CalibrationError::ReviewWithoutTargetFar);
            }
            let (trials, accept) = (recording.trials(), chosen.choice.threshold);
            let band = ReviewBand::certified(trials, accept, unseen, settings.seed)?;
            chosen.review = Some(band);
        }
        Ok(chosen)
    }

    fn without_review(
        recording: &Recording,
        target: CalibrationTarget,
        settings: &ThresholdSettings,
    ) -> Result<Self, CalibrationError> {
        let (trials, seed) = (recording.trials(), settings.seed);
        let folds = Folds::new(Folds::COUNT_DEFAULT, seed)?;
        let Some(column) = &settings.worst_group_of else {
            return Ok(Self {
                choice: choose(target, trials, seed)?,
                held_out: Some(cross_fit(target, trials, folds)),
                worst_group: None,
                review: None,
            });
        };
        let CalibrationTarget::Far(target) = target else {
            return Err(CalibrationError::GroupsWithoutTargetFar);
        };
        let groups = StrangerGroups::of(recording.searches(), column)?;
        let (choice, worst_group) = groups.choose(target, trials, seed)?;
        Ok(Self {
            choice,
            held_out: Some(cross_fit_by(trials, folds, &|others| {
                Ok(groups.choose(target, others, seed)?.0.threshold)
            })),
            worst_group: Some(worst_group),
            review: None,
        })
    }
}

/// Everything that an operating point is based on.
#[derive(Debug)]
pub struct PointTrials<'a> {
    /// The threshold.
    pub chosen: &'a ChosenThreshold,
    /// All trials; the error rates at the threshold are measured on them.
    pub trials: &'a Trials,
    /// How a score is adjusted before it is compared with the threshold; `None` if the plain
    /// similarity is compared.
    pub adjustment: Option<Adjustment>,
    /// How often the index differed from an exact search; `None` if the search was exact.
    pub index_check: Option<IndexMisses>,
    /// How many independent strangers the pictures of unnamed strangers count as; `None` if all
    /// strangers have a name.
    pub unnamed: Option<&'a UnnamedStrangers>,
    /// Labels of strangers that may stand for fewer things than there are labels; `None` if there
    /// are none.
    pub crowded: Option<&'a CrowdedStrangers>,
    /// The assumptions of the certificate, as whole sentences.
    pub remarks: Vec<String>,
}

/// An operating point before its threshold is known: its target, and what it will be valid for.
#[derive(Clone, Debug)]
pub struct PointDraft {
    created: String,
    binding: Binding,
    target: CalibrationTarget,
    growth: Option<GrowthAllowed>,
    turnover: Option<TurnoverAllowed>,
    seed: u64,
    assured: Assured,
}

impl PointDraft {
    /// Starts a draft for the gallery, model and index in `binding`; `created` is an RFC 3339 time.
    ///
    /// # Errors
    /// Returns an error if growth is asked for and the policy has no target FAR.
    pub fn new(
        settings: &ThresholdSettings,
        binding: Binding,
        created: String,
    ) -> Result<Self, CalibrationError> {
        let (target, growth) = settings.tightened(binding.gallery_items)?;
        Ok(Self {
            created,
            binding,
            target,
            growth,
            turnover: None,
            seed: settings.seed,
            assured: settings.assured,
        })
    }

    /// The same draft with room for ordinary changes of a gallery in service: a tenth of its items,
    /// and at least one, can be added or exchanged before the bound on the FAR exceeds the target.
    ///
    /// Returns `None` if no FAR is asked for, if growth is already allowed for, or if the target is
    /// too low to be tightened.
    ///
    /// The minimum number of labels of strangers rises by a tenth. If there are more labels than
    /// the minimum, the threshold rises a little instead.
    #[must_use]
    pub fn with_room(&self) -> Option<Self> {
        if self.growth.is_some() {
            return None;
        }
        let (growth, today) = ahead_of_turnover(self.target.far()?, self.binding.gallery_items)?;
        Some(Self {
            turnover: Some(TurnoverAllowed {
                items: growth.items_later,
                far_today: today.far(),
            }),
            ..self.clone()
        })
    }

    /// The target that the threshold is chosen for: the one asked for, or a tighter one, so that
    /// the target still holds after the gallery has grown or changed.
    #[must_use]
    pub fn target(&self) -> CalibrationTarget {
        let tightened = self
            .turnover
            .zip(self.target.far())
            .and_then(|(room, far)| {
                // This cannot fail: `room` was computed from this target.
                TargetFar::new(room.far_today, far.confidence().get()).ok()
            });
        tightened.map_or(self.target, |far| self.target.for_far(far))
    }

    /// A refusal of [`PointDraft::target`] in terms of the target that was asked for, if growth made that tighter.
    #[must_use]
    pub fn refusal_as_asked(&self, refused: CalibrationError) -> CalibrationError {
        let Some((allowed, today)) = self.growth.zip(self.target.far()) else {
            return refused;
        };
        let growth = GrowthAsked {
            items_now: self.binding.gallery_items,
            items_later: allowed.items,
            far_today: today.far(),
        };
        // What so many labels support today, at the size that was asked for.
        let at_that_size = |fpir| {
            let items = growth.items_now;
            predicted(FpirAt { items, fpir }, growth.items_later).map_or(1.0, |at| at.fpir)
        };
        if let CalibrationError::Underpowered(few) = refused {
            return CalibrationError::Underpowered(Underpowered {
                far: allowed.target_far,
                growth: Some(growth),
                best_supported_far: at_that_size(few.best_supported_far),
                ..few
            });
        }
        if let CalibrationError::Groups(mut few) = refused {
            few.far = allowed.target_far;
            few.growth = Some(growth);
            for group in &mut few.short {
                group.best_supported_far = at_that_size(group.best_supported_far);
            }
            return CalibrationError::Groups(few);
        }
        refused
    }

    /// Makes the operating point.
    ///
    /// # Errors
    /// Returns [`CalibrationError::EmptyGallery`] if nothing is enrolled, and a refusal if a certificate
    /// would depend on unnamed strangers that nobody vouches for.
    pub fn point(self, from: PointTrials<'_>) -> Result<OperatingPoint, CalibrationError> {
        let ChosenThreshold {
            choice,
            held_out,
            worst_group,
            review,
        } = from.chosen;
        let mut remarks = from.remarks;
        remarks.extend(self.assured.strangers(from.unnamed, self.target)?);
        remarks.extend(self.assured.crowded(from.crowded));
        let plan = PointPlan {
            created: self.created,
            target: self.target,
            seed: self.seed,
            binding: self.binding,
            software: SOFTWARE.to_owned(),
            held_out: held_out
                .as_ref()
                .map(|rates| HeldOutRates::of(rates, from.trials)),
            growth: self.growth,
            turnover: self.turnover,
            index_check: from.index_check,
            adjustment: from.adjustment,
            worst_group: worst_group.clone(),
            review: *review,
            remarks,
        };
        OperatingPoint::chosen(choice, from.trials, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operating_point::Metric;
    use crate::recording::RecordedSearch;
    use crate::refusal::{GroupShortage, GroupsUnderpowered};
    use matchpoint_vector::Similarity;

    fn settings(far: f64, grow_to_items: Option<u64>) -> ThresholdSettings {
        ThresholdSettings {
            target: CalibrationTarget::Far(TargetFar::new(far, 0.95).unwrap()),
            seed: 1,
            grow_to_items,
            assured: Assured::default(),
            worst_group_of: None,
            review: None,
        }
    }

    fn draft(far: f64, items: u64, grow_to_items: Option<u64>) -> PointDraft {
        let settings = settings(far, grow_to_items);
        let binding = Binding {
            model_fingerprint: "mf-1".to_owned(),
            model_name: "toy".to_owned(),
            gallery_id: "g-1".to_owned(),
            gallery_digest: "00ff".to_owned(),
            gallery_items: items,
            gallery_labels: items,
            index: "exact".to_owned(),
            metric: Metric::Cosine,
        };
        PointDraft::new(&settings, binding, "2026-01-02T03:04:05Z".to_owned()).unwrap()
    }

    fn recording(strangers: u16) -> Recording {
        let searches = (0..strangers).map(|number| {
            let names = (format!("stranger {number}"), format!("picture {number}"));
            RecordedSearch::of_stranger(names, Similarity::new(f32::from(number) / 4_000.0))
        });
        Recording::new(searches.collect()).unwrap()
    }

    /// The number of items that can be added before the bound on the FAR exceeds the target.
    fn room(draft: PointDraft, strangers: u16) -> u64 {
        let recording = recording(strangers);
        let chosen =
            ChosenThreshold::on(&recording, draft.target(), &settings(0.01, None)).unwrap();
        let from = PointTrials {
            chosen: &chosen,
            trials: recording.trials(),
            adjustment: None,
            index_check: None,
            unnamed: None,
            crowded: None,
            remarks: Vec::new(),
        };
        let point = draft.point(from).unwrap();
        let content = point.content();
        content.covered_items() - content.binding.gallery_items
    }

    #[test]
    fn a_tenth_of_the_items_and_at_least_one_can_be_added_whatever_the_labels_allow() {
        for strangers in [340, 400, 999, 1_500, 3_000] {
            // With three items, one more is growth by a third, which needs 398 labels.
            let few = (398 < strangers).then_some(3);
            for items in [36, 1_000, 100_000].into_iter().chain(few) {
                let found = room(draft(0.01, items, None).with_room().unwrap(), strangers);
                assert!(
                    (items / 10).max(1) <= found,
                    "{strangers}, {items}: {found}"
                );
            }
        }
        // Without that room, the minimum number of labels allows hardly any growth.
        let least = room(draft(0.01, 1_000, None), 299);
        assert!(least <= 3, "{least}");
    }

    #[test]
    fn a_refusal_names_the_target_asked_for_and_the_one_of_today() {
        let grown = |far| draft(far, 1_000, Some(10_000));
        let on =
            |far| ChosenThreshold::on(&recording(300), grown(far).target(), &settings(far, None));
        let refused = grown(0.01).refusal_as_asked(on(0.01).unwrap_err());
        assert!(
            refused.to_string().starts_with(
                "FAR 1 % at 95 % confidence, in a gallery that grows from 1000 items to 10000 and so at FAR 0.1"
            ),
            "{refused}"
        );
        assert_eq!(refused.refusal(), Some("CALIBRATION_UNDERPOWERED"));
        // 300 labels support about 1 % today, and so about 9.5 % in a gallery of ten times the size: what is
        // proposed can be asked for.
        let best = refused.best_supported().unwrap();
        assert!((0.09..0.1).contains(&best), "{best}");
        assert!(on(best * 1.001).is_ok() && on(best * 0.999).is_err());
        // The same for each group.
        let today = grown(0.01).target().far().unwrap();
        let groups = GroupsUnderpowered {
            column: "kind".to_owned(),
            far: today.far(),
            growth: None,
            confidence: 0.95,
            needed: today.trials_needed(),
            short: vec![GroupShortage {
                group: "fog".to_owned(),
                labels: 300,
                best_supported_far: 0.01,
            }],
        };
        let refused = grown(0.01).refusal_as_asked(CalibrationError::Groups(groups));
        assert!(
            refused.to_string().starts_with(
                "FAR 1 % at 95 % confidence for each kind, in a gallery that grows from 1000 items to 10000"
            ),
            "{refused}"
        );
        let CalibrationError::Groups(few) = refused else {
            panic!("{refused}");
        };
        let later = few.short[0].best_supported_far;
        assert!((later - (1.0 - 0.99_f64.powi(10))).abs() < 1e-12, "{later}");
    }

    #[test]
    fn growth_to_no_more_items_than_there_are_is_refused_and_not_ignored() {
        for later in [0, 999, 1_000] {
            let refused = settings(0.01, Some(later)).tightened(1_000).unwrap_err();
            assert!(
                refused.to_string().contains("does not grow to"),
                "{refused}"
            );
        }
        assert!(settings(0.01, Some(1_001)).tightened(1_000).is_ok());
    }

    #[test]
    fn room_takes_a_tenth_more_labels_at_the_least_and_is_not_for_growth_or_other_policies() {
        let roomy = draft(0.01, 1_000, None).with_room().unwrap();
        let settings = settings(0.01, None);
        let by = |labels| ChosenThreshold::on(&recording(labels), roomy.target(), &settings);
        assert!(by(327).is_err() && by(328).is_ok());
        assert!(draft(0.01, 1_000, Some(5_000)).with_room().is_none());
        let equal = PointDraft {
            target: CalibrationTarget::EqualError,
            ..draft(0.01, 1_000, None)
        };
        assert!(equal.with_room().is_none());
    }
}
