//! Certifies several scores at once, and takes the one that errs least.

use super::point_draft::ChosenThreshold;
use super::settings::ThresholdSettings;
use crate::CalibrationError;
use crate::analysis::remedy::Remedy;
use crate::evaluate::evaluate;
use crate::percent::percent;
use crate::policy::CalibrationTarget;
use crate::rates::Rate;
use crate::recording::Recording;
use crate::refusal::Underpowered;
use crate::sweep::ErrorRates;

/// The same searches, scored in one way.
#[derive(Clone, Debug)]
pub struct ScoredSearches {
    /// How they are scored.
    pub remedy: Remedy,
    /// The searches with these scores.
    pub recording: Recording,
}

/// The score that errs least among several, with its threshold.
#[derive(Clone, Debug)]
pub struct BestScore {
    /// Its place among those that were compared, from 0.
    pub place: usize,
    /// Its threshold.
    pub chosen: ChosenThreshold,
    /// How it was chosen, as whole sentences.
    pub remark: String,
}

impl BestScore {
    /// Chooses a threshold for each of the scores, and takes the score with the lowest rate of the errors that
    /// the target leaves open; the first of equals.
    ///
    /// Each threshold is certified with a probability of error of delta / n for n scores. By the union bound all
    /// certificates hold together with the confidence of the target, so whichever is taken holds with it,
    /// whatever it was taken for. Only the rate that decided is measured a little too low.
    ///
    /// # Errors
    /// Returns the errors of [`ChosenThreshold::on`] for the first score that has no threshold.
    pub fn of(
        scored: &[ScoredSearches],
        target: CalibrationTarget,
        settings: &ThresholdSettings,
    ) -> Result<Self, CalibrationError> {
        let each = target.one_of(scored.len())?;
        let review = settings.review.map(|unseen| unseen.one_of(scored.len()));
        let settings_of_each = ThresholdSettings {
            review: review.transpose()?,
            ..settings.clone()
        };
        let mut best: Option<(f64, usize, ChosenThreshold)> = None;
        let mut errors = Vec::new();
        for (place, ScoredSearches { remedy, recording }) in scored.iter().enumerate() {
            let chosen = ChosenThreshold::on(recording, each, &settings_of_each)
                .map_err(|refused| for_each(refused, target, scored.len()))?;
            let found = error(target, recording, &chosen);
            errors.push(format!("{} {}", remedy.as_str(), percent(found)));
            if best.as_ref().is_none_or(|(least, ..)| found < *least) {
                best = Some((found, place, chosen));
            }
        }
        let (_, place, mut chosen) = best.ok_or(CalibrationError::EmptyGallery)?;
        if let (Some(band), Some(unseen)) = (&mut chosen.review, settings.review) {
            band.unseen.target = unseen;
        }
        // All labels chose the score.
        chosen.held_out = None;
        let remark = remark(&errors, place, target, each);
        Ok(Self {
            place,
            chosen,
            remark,
        })
    }
}

/// The rate of the errors that the target leaves open, at the threshold.
fn error(target: CalibrationTarget, recording: &Recording, chosen: &ChosenThreshold) -> f64 {
    let found = evaluate(recording.trials(), Some(chosen.choice.threshold));
    let errors = found.errors.unwrap_or_default();
    let rate = |rate: Option<Rate>| rate.map_or(1.0, |rate| rate.estimate);
    match target {
        CalibrationTarget::Far(_)
        | CalibrationTarget::FarEstimated(_)
        | CalibrationTarget::EqualError => rate(errors.frr),
        CalibrationTarget::Frr(_) => rate(errors.far),
        CalibrationTarget::Cost(model) => model.dcf(ErrorRates {
            far: rate(errors.far),
            frr: rate(errors.frr),
        }),
    }
}

/// A refusal in terms of the confidence that was asked for.
fn for_each(
    refused: CalibrationError,
    asked: CalibrationTarget,
    scores: usize,
) -> CalibrationError {
    match (refused, asked.far()) {
        (CalibrationError::Underpowered(few), Some(asked)) => {
            CalibrationError::Underpowered(Underpowered {
                confidence: asked.confidence().get(),
                scores: scores as u64,
                ..few
            })
        }
        (refused, _) => refused,
    }
}

fn remark(
    errors: &[String],
    place: usize,
    asked: CalibrationTarget,
    each: CalibrationTarget,
) -> String {
    let open = match asked {
        CalibrationTarget::Frr(_) => "FAR",
        CalibrationTarget::Cost(_) => "cost",
        CalibrationTarget::Far(_)
        | CalibrationTarget::FarEstimated(_)
        | CalibrationTarget::EqualError => "FRR",
    };
    let taken = errors.get(place).map_or("", String::as_str);
    let certified = asked
        .confidence()
        .zip(each.confidence())
        .map_or_else(String::new, |(asked, each)| {
            format!(
                " Each threshold was set with a confidence of {}, so that all of them hold together with {}.",
                percent(each.get()),
                percent(asked.get())
            )
        });
    format!(
        "Of {} scores the one with the lowest {open} on these searches was taken: {taken} ({}).{certified} That {open} may be \
         a little too low, since it decided.",
        errors.len(),
        errors.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::certify::TargetFar;
    use crate::certify_frr::TargetFrr;
    use crate::procedure::Assured;
    use crate::recording::{RecordedMatch, RecordedSearch, TrialKind};
    use crate::splitmix64::next;
    use matchpoint_vector::Similarity;

    const REMEDIES: [Remedy; 4] = Remedy::MEASURED;
    const STRANGERS: usize = 120;

    fn settings(target: CalibrationTarget) -> ThresholdSettings {
        ThresholdSettings {
            target,
            seed: 1,
            grow_to_items: None,
            assured: Assured::default(),
            worst_group_of: None,
            review: None,
        }
    }

    fn search(truth: TrialKind, number: usize, score: f32) -> RecordedSearch {
        let label = format!("{truth:?} {number}");
        RecordedSearch {
            probe: label.clone(),
            truth,
            found: Some(RecordedMatch {
                item: "item".to_owned(),
                label: if truth == TrialKind::Mated {
                    label.clone()
                } else {
                    "another".to_owned()
                },
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            }),
            label,
            conditions: BTreeMap::new(),
        }
    }

    /// Strangers whose scores are uniform in [0, 1], so that the FAR of a threshold is what lies above it, and mates
    /// near the thresholds.
    fn scored(remedy: Remedy, state: &mut u64) -> ScoredSearches {
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let mut uniform = || (next(state) >> 40) as f32 / (1_u64 << 24) as f32;
        let strangers = (0..STRANGERS).map(|number| (TrialKind::NeverEnrolled, number, uniform()));
        let mut searches: Vec<RecordedSearch> = strangers
            .map(|(truth, number, score)| search(truth, number, score))
            .collect();
        let mates = (0..100_u8).map(|number| {
            search(
                TrialKind::Mated,
                number.into(),
                0.8 + f32::from(number) / 500.0,
            )
        });
        searches.extend(mates);
        let recording = Recording::new(searches).unwrap();
        ScoredSearches { remedy, recording }
    }

    /// Whoever takes the lowest FRR takes the lowest threshold of four, the one that most likely accepts too much.
    #[test]
    fn a_far_that_was_certified_for_each_score_holds_for_the_one_that_is_taken() {
        let far = TargetFar::new(0.1, 0.9).unwrap();
        let target = CalibrationTarget::Far(far);
        let (mut state, mut above, mut above_alone) = (11, 0, 0);
        for _ in 0..200 {
            let scored = REMEDIES.map(|remedy| scored(remedy, &mut state));
            let best = BestScore::of(&scored, target, &settings(target)).unwrap();
            let true_far = |threshold: f32| 1.0 - f64::from(threshold);
            above += u32::from(0.1 < true_far(best.chosen.choice.threshold.get()));
            let alone = scored.iter().map(|scored| {
                let chosen = ChosenThreshold::on(&scored.recording, target, &settings(target));
                chosen.unwrap().choice.threshold.get()
            });
            above_alone += u32::from(0.1 < true_far(alone.fold(1.0, f32::min)));
        }
        // 20 are allowed; each certified for itself, it is up to 69.
        assert!(above <= 20, "{above}");
        assert!(40 < above_alone, "{above_alone}");
    }

    #[test]
    fn the_target_is_as_it_was_asked_for_and_the_refusal_says_what_four_take() {
        let far = TargetFar::new(0.02, 0.9).unwrap();
        let target = CalibrationTarget::Far(far);
        let mut state = 5;
        let four = REMEDIES.map(|remedy| scored(remedy, &mut state));
        let refused = BestScore::of(&four, target, &settings(target)).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.starts_with(
                "FAR 2 % at 90 % confidence needs 183 labels of strangers, there are 120 (4 scores"
            ),
            "{said}"
        );
        // For itself each of them has enough.
        ChosenThreshold::on(&four[0].recording, target, &settings(target)).unwrap();

        let far = TargetFar::new(0.1, 0.9).unwrap();
        let unseen = TargetFrr::new(0.2, 0.9).unwrap();
        let with_review = ThresholdSettings {
            review: Some(unseen),
            ..settings(CalibrationTarget::Far(far))
        };
        let best = BestScore::of(&four, with_review.target, &with_review).unwrap();
        assert_eq!(best.chosen.review.unwrap().unseen.target, unseen);
        let words = "Each threshold was set with a confidence of 97.5 %";
        assert!(best.remark.contains(words), "{}", best.remark);
    }
}
