//! The possible targets before one is chosen. For each FAR: the threshold on these trials, its FRR, the number
//! of labels that certify it, and what the certificate costs.

use serde::Serialize;

use super::CalibrationError;
use super::binomial::real;
use super::certify::TargetFar;
use super::decision::Threshold;
use super::evaluate::evaluate;
use super::growth::ahead_of_turnover;
use super::policy::{CalibrationTarget, Choice, Strength, choose};
use super::rates::{Confidence, Rate, recorded};
use super::sweep::ThresholdSweep;
use super::trials::Trials;

/// The FARs of the menu.
pub const MENU_FARS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3];

/// The search for the number of labels that halves the price of the proof ends here.
const LABELS_MAX: u64 = 10_000_000;

/// How reliable a line of the menu is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MenuStanding {
    /// The FAR is certified.
    Certified,
    /// The rule is that of a certificate, but some strangers are enrolled labels that were left out, so nothing
    /// is certified.
    AimedAt,
    /// There are too few labels for a certificate; the threshold is that of the estimated bound.
    Estimated,
    /// There are too few labels for either.
    Unsupported,
}

/// One FAR to choose, with its consequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MenuLine {
    /// The FAR per search.
    pub far: f64,
    /// How reliable the threshold is.
    pub standing: MenuStanding,
    /// The threshold; `None` if these labels support none.
    pub threshold: Option<Threshold>,
    /// The upper bound on the FAR, at the confidence of the menu.
    pub far_bound: Option<f64>,
    /// The FRR at the threshold on these searches; `None` without mated searches.
    pub frr: Option<Rate>,
    /// Number of labels of strangers that certify this FAR if none of them is accepted.
    pub labels_needed: u64,
    /// The cost of the certificate, if the FAR is certified or aimed at.
    pub price: Option<PriceOfProof>,
}

/// The price of a proof. A certified threshold accepts a lower share of the strangers than the target, so that
/// its true FAR seldom exceeds it. This makes the FRR higher.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PriceOfProof {
    /// The FRR at the certified threshold.
    pub frr: f64,
    /// The FRR at the threshold where the share of these strangers that is accepted equals the target: an
    /// estimate of the FRR where the true FAR equals the target.
    pub frr_at_target: f64,
    /// Number of labels of strangers that the proof is based on.
    pub labels: u64,
    /// How many more labels would halve the difference, by the rates of these searches; `None` if there is no
    /// difference, or if no number would.
    pub labels_to_halve: Option<u64>,
}

/// What the lines of a menu depend on, besides the trials.
#[derive(Clone, Copy, Debug)]
pub struct MenuRequest {
    /// The confidence of all lines.
    pub confidence: f64,
    /// Decides which search of each stranger counts.
    pub seed: u64,
    /// Every stranger has a name; otherwise nothing is certified.
    pub named: bool,
    /// Number of items of the deployment's gallery: a calibration of it makes room for ordinary changes, if there
    /// are enough labels. `None` for vectors without a deployment, where there is no such room.
    pub gallery_items: Option<u64>,
}

/// All possible targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Menu {
    /// The confidence of all lines.
    pub confidence: f64,
    /// Number of labels of strangers, with one search each.
    pub stranger_labels: u64,
    /// The lines, in ascending order of FAR.
    pub lines: Vec<MenuLine>,
}

impl Menu {
    /// Lists what these trials support. The menu chooses nothing. If a person then chooses a FAR because of its
    /// FRR, that choice depends on the trials, which the certificate of a single line does not account for.
    ///
    /// # Errors
    /// Returns an error for a confidence outside [0.5, 1 - 1e-9].
    pub fn of(trials: &Trials, request: MenuRequest) -> Result<Self, CalibrationError> {
        let sweep = ThresholdSweep::of(trials);
        let stranger_labels = trials.one_probe_per_stranger(request.seed).searches().len() as u64;
        let lines = MENU_FARS.into_iter().map(|far| {
            let target = TargetFar::new(far, request.confidence)?;
            Ok(MenuLine::of(trials, &sweep, target, request))
        });
        Ok(Self {
            confidence: Confidence::new(request.confidence)?.get(),
            stranger_labels,
            lines: lines.collect::<Result<_, CalibrationError>>()?,
        })
    }

    /// The line with the lowest certified FAR.
    #[must_use]
    pub fn lowest_certified(&self) -> Option<&MenuLine> {
        let certified = |line: &&MenuLine| line.standing == MenuStanding::Certified;
        self.lines.iter().find(certified)
    }
}

impl MenuLine {
    fn of(
        trials: &Trials,
        sweep: &ThresholdSweep,
        target: TargetFar,
        request: MenuRequest,
    ) -> Self {
        // As a calibration does: with room for ordinary changes, or else without.
        let roomy = request
            .gallery_items
            .and_then(|items| ahead_of_turnover(target, items))
            .map(|(_, today)| today);
        let by = |asked: fn(TargetFar) -> CalibrationTarget| {
            let choose = |far| choose(asked(far), trials, request.seed).ok();
            roomy.and_then(choose).or_else(|| choose(target))
        };
        let proven = request.named.then(|| by(CalibrationTarget::Far)).flatten();
        let standing = |choice: &Choice| match choice.standing {
            Strength::Certified => MenuStanding::Certified,
            Strength::Estimated => MenuStanding::AimedAt,
        };
        let line = |choice: &Choice, standing| Self {
            far: target.far(),
            standing,
            threshold: Some(choice.threshold),
            far_bound: choice.far_bound(),
            frr: evaluate(trials, Some(choice.threshold))
                .errors
                .and_then(|errors| errors.frr),
            labels_needed: target.trials_needed(),
            price: None,
        };
        if let Some(choice) = proven {
            return Self {
                price: choice
                    .independent_trials()
                    .and_then(|labels| PriceOfProof::of(sweep, choice.threshold, labels, target)),
                ..line(&choice, standing(&choice))
            };
        }
        let estimated = by(CalibrationTarget::FarEstimated);
        if let Some(choice) = estimated {
            return line(&choice, MenuStanding::Estimated);
        }
        Self {
            far: target.far(),
            standing: MenuStanding::Unsupported,
            threshold: None,
            far_bound: None,
            frr: None,
            labels_needed: target.trials_needed(),
            price: None,
        }
    }
}

impl PriceOfProof {
    /// Compares a threshold certified by this many labels with one that just meets the target on the trials.
    /// `None` if one kind of search is missing.
    #[must_use]
    pub fn of(
        sweep: &ThresholdSweep,
        threshold: Threshold,
        labels: u64,
        target: TargetFar,
    ) -> Option<Self> {
        let frr = sweep.rates(threshold)?.frr;
        let at_target = frr_where_far_is(sweep, target.far())?;
        let gap = frr - at_target;
        let halves = |labels: u64| {
            let allowed = target.accepts_allowed(labels)?;
            let expected = (real(allowed) + 1.0) / (real(labels) + 1.0);
            let frr = frr_where_far_is(sweep, expected.min(target.far()))?;
            Some(frr - at_target <= gap / 2.0)
        };
        let needed = (0.0 < gap).then(|| least(labels + 1, halves)).flatten();
        Some(Self {
            frr: recorded(frr),
            frr_at_target: recorded(at_target),
            labels,
            labels_to_halve: needed.map(|needed| needed - labels),
        })
    }
}

/// The lowest number from `from` on for which `holds` is true, if it stays true from some number on.
fn least(from: u64, holds: impl Fn(u64) -> Option<bool>) -> Option<u64> {
    let mut step = 1;
    while !holds(from + step - 1)? {
        step *= 2;
        if LABELS_MAX < step {
            return None;
        }
    }
    let (mut low, mut high) = (from + step / 2, from + step - 1);
    while low < high {
        let middle = u64::midpoint(low, high);
        if holds(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(high)
}

/// The FRR at the lowest threshold that accepts at most this share of the searches for strangers.
fn frr_where_far_is(sweep: &ThresholdSweep, far: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count"
    )]
    let allowed = (far * real(sweep.non_mated()) * (1.0 + 1e-12)) as usize;
    let above = sweep.strangers().iter().rev().nth(allowed);
    let threshold = above.map_or(Threshold::ACCEPT_ANYTHING_FOUND, |&score| {
        Threshold::just_above(score)
    });
    Some(sweep.rates(threshold)?.frr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix64::SimulatedDraws;
    use crate::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top};
    use matchpoint_vector::Similarity;

    /// Strangers score uniformly up to 0.8 and mates from 0.4 to 1, so FAR and FRR are known everywhere.
    fn drawn(seed: u64, strangers: u32, mates: u32) -> Trials {
        let mut draws = SimulatedDraws(seed);
        let non_mated = (0..strangers).map(|n| NonMatedSearch {
            label: format!("s{n}"),
            probe: format!("s{n}"),
            top_score: Similarity::new(0.8 * draws.uniform_f32()),
            origin: StrangerOrigin::NeverEnrolled,
        });
        let non_mated = non_mated.collect();
        let mated = (0..mates).map(|n| MatedSearch {
            label: format!("m{n}"),
            probe: format!("m{n}"),
            top: Similarity::new(0.4 + 0.6 * draws.uniform_f32()).map(|score| Top {
                score,
                label_matches: true,
            }),
        });
        Trials::new(mated.collect(), non_mated).unwrap()
    }

    fn request(confidence: f64, seed: u64) -> MenuRequest {
        MenuRequest {
            confidence,
            seed,
            named: true,
            gallery_items: None,
        }
    }

    /// A calibration of a deployment chooses a higher threshold, with room for ordinary changes, if the labels
    /// support it.
    #[test]
    fn a_deployment_gets_the_threshold_with_room_that_a_calibration_chooses() {
        let trials = drawn(1, 300, 200);
        let wanted = MenuRequest {
            gallery_items: Some(10),
            ..request(0.95, 7)
        };
        let menu = Menu::of(&trials, wanted).unwrap();
        let line = |far: f64| {
            let at = MENU_FARS
                .iter()
                .position(|listed| listed.total_cmp(&far).is_eq());
            menu.lines[at.unwrap()]
        };
        let choice = |far: f64| {
            let target = CalibrationTarget::Far(TargetFar::new(far, 0.95).unwrap());
            choose(target, &trials, 7).unwrap().threshold
        };
        // 1 - 0.8^(10 / 11)
        assert_eq!(line(0.2).threshold, Some(choice(0.183_564_3)));
        assert_ne!(line(0.2).threshold, Some(choice(0.2)));
        // 300 labels certify 1 %, but not with room.
        assert_eq!(line(0.01).standing, MenuStanding::Certified);
        assert_eq!(line(0.01).threshold, Some(choice(0.01)));
    }

    #[test]
    fn each_line_is_what_asking_for_it_gives() {
        let trials = drawn(1, 280, 200);
        let menu = Menu::of(&trials, request(0.95, 7)).unwrap();
        assert_eq!(menu.stranger_labels, 280);
        let standings: Vec<MenuStanding> = menu.lines.iter().map(|line| line.standing).collect();
        assert_eq!(standings[0], MenuStanding::Unsupported);
        assert_eq!(
            standings[2..],
            [
                MenuStanding::Estimated,
                MenuStanding::Certified,
                MenuStanding::Certified,
                MenuStanding::Certified,
                MenuStanding::Certified,
                MenuStanding::Certified
            ]
        );
        for line in &menu.lines {
            let target = TargetFar::new(line.far, 0.95).unwrap();
            assert_eq!(line.labels_needed, target.trials_needed());
            let asked = match line.standing {
                MenuStanding::Certified | MenuStanding::AimedAt => CalibrationTarget::Far(target),
                MenuStanding::Estimated => CalibrationTarget::FarEstimated(target),
                MenuStanding::Unsupported => continue,
            };
            let chosen = choose(asked, &trials, 7).unwrap();
            assert_eq!(line.threshold, Some(chosen.threshold));
            assert!(line.far_bound.unwrap() <= line.far);
            assert_eq!(
                line.price.is_some(),
                line.standing == MenuStanding::Certified
            );
        }
        assert!((menu.lowest_certified().unwrap().far - 0.03).abs() < 1e-12);
        let unnamed = Menu::of(
            &trials,
            MenuRequest {
                named: false,
                ..request(0.95, 7)
            },
        )
        .unwrap();
        assert_eq!(unnamed.lowest_certified(), None);
        assert!(Menu::of(&trials, request(0.2, 7)).is_err());
    }

    #[test]
    fn without_searches_of_a_kind_nothing_is_made_up() {
        let nothing = Trials::new(Vec::new(), Vec::new()).unwrap();
        let menu = Menu::of(&nothing, request(0.95, 0)).unwrap();
        assert!(
            menu.lines
                .iter()
                .all(|line| line.threshold.is_none() && line.frr.is_none())
        );
        let strangers = Menu::of(&drawn(3, 400, 0), request(0.95, 0)).unwrap();
        assert!(
            strangers
                .lines
                .iter()
                .all(|line| line.frr.is_none() && line.price.is_none())
        );
        assert!(strangers.lowest_certified().is_some());
    }

    /// With the stated number of labels, the difference is half of what it was.
    #[test]
    fn so_many_more_labels_halve_the_price() {
        let target = TargetFar::new(0.05, 0.9).unwrap();
        let gap = |seed: u64, strangers: u32| {
            let trials = drawn(seed, strangers, 1_000);
            let choice = choose(CalibrationTarget::Far(target), &trials, 0).unwrap();
            // The true FRR at the threshold, minus that at the threshold where the true FAR is 5 %.
            let true_frr = f64::from((choice.threshold.get() - 0.4) / 0.6).clamp(0.0, 1.0);
            let price = PriceOfProof::of(
                &ThresholdSweep::of(&trials),
                choice.threshold,
                u64::from(strangers),
                target,
            )
            .unwrap();
            (true_frr - 0.6, price)
        };
        let (mut before, mut after, mut runs) = (0.0, 0.0, 0.0);
        for seed in 0..60 {
            let (now, price) = gap(seed, 90);
            let Some(more) = price.labels_to_halve else {
                continue;
            };
            let (then, _) = gap(1_000 + seed, 90 + u32::try_from(more).unwrap());
            before += now;
            after += then;
            runs += 1.0;
        }
        assert!(40.0 <= runs);
        assert!(
            (0.3..=0.7).contains(&(after / before)),
            "{after} of {before}"
        );
    }
}
