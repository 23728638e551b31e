//! The verdict on a remedy, as a value and in words.

use serde::Serialize;

use super::comparison_set::{FigureChange, FigureChanges};
use super::remedy_measured::MeasuredRemedy;
use crate::rates::percent;

/// The verdict on a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemedyVerdict {
    /// Use it: the FRR is significantly lower, and no rate is significantly higher.
    Prefer,
    /// A trade-off: the FRR is significantly lower, but another rate is significantly higher.
    Trade,
    /// No reason to use it: the FRR is not significantly lower, and no rate is significantly higher.
    NoGround,
    /// Do not use it: a rate is significantly higher, and the FRR is not lower.
    Worse,
}

impl RemedyVerdict {
    /// Whether there is reason to use the remedy.
    #[must_use]
    pub fn prefers(self) -> bool {
        self == Self::Prefer
    }
}

/// With fewer enrolled labels, bootstrap percentile intervals are too narrow for a conclusion.
pub const MATED_LABELS_MIN: u64 = 20;

/// Judges a remedy by its FRR at the FAR of the threshold, provided that no other rate gets worse.
pub(super) fn verdict(measured: &MeasuredRemedy, changes: &FigureChanges) -> RemedyVerdict {
    let rates = [changes.frr, changes.far, changes.worst_tenth_frr];
    let gain = changes.frr.is_some_and(FigureChange::is_fall);
    let cost = rates.into_iter().flatten().any(FigureChange::is_rise);
    match (gain, cost) {
        _ if too_few(measured) => RemedyVerdict::NoGround,
        (true, false) => RemedyVerdict::Prefer,
        (true, true) => RemedyVerdict::Trade,
        (false, false) => RemedyVerdict::NoGround,
        (false, true) => RemedyVerdict::Worse,
    }
}

fn too_few(measured: &MeasuredRemedy) -> bool {
    measured.frr.labels < MATED_LABELS_MIN
}

/// The verdict in words, as far as the intervals support it.
pub(super) fn conclusion(
    verdict: RemedyVerdict,
    measured: &MeasuredRemedy,
    changes: &FigureChanges,
) -> String {
    if too_few(measured) {
        return format!("fewer than {MATED_LABELS_MIN} enrolled labels: no ground to prefer it");
    }
    let higher = listed(changes, FigureChange::is_rise);
    match (verdict, higher) {
        (RemedyVerdict::Prefer, _) => {
            "the FRR is lower by more than chance, and no rate is higher by more than that"
                .to_owned()
        }
        (RemedyVerdict::Trade, Some(higher)) => format!(
            "the FRR is lower by more than chance, and {higher} higher: a trade to be weighed"
        ),
        (RemedyVerdict::Worse, Some(higher)) => {
            format!("{higher} higher by more than chance: no ground to prefer it")
        }
        (RemedyVerdict::Trade | RemedyVerdict::Worse | RemedyVerdict::NoGround, _) => {
            let lower = listed(changes, FigureChange::is_fall).map_or_else(String::new, |lower| {
                format!(" ({lower} lower by more than chance)")
            });
            format!("the FRR is within chance{lower}: no ground to prefer it")
        }
    }
}

/// Names the figures that changed in this direction, with a verb.
fn listed(changes: &FigureChanges, so: fn(FigureChange) -> bool) -> Option<String> {
    let figures = [
        ("the FRR", changes.frr),
        ("the FAR", changes.far),
        ("the FRR of the worst tenth", changes.worst_tenth_frr),
    ];
    let names: Vec<&str> = figures
        .into_iter()
        .filter(|(_, change)| change.is_some_and(so))
        .map(|(name, _)| name)
        .collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| format!("{} {verb}", names.join(" and ")))
}

pub(super) fn sentence(
    measured: &MeasuredRemedy,
    one_threshold: &MeasuredRemedy,
    changes: &FigureChanges,
) -> String {
    let tenth = |of: &MeasuredRemedy| of.worst_labels.as_ref().map(|w| w.mean_of_worst_tenth);
    let worst = match (tenth(one_threshold), tenth(measured)) {
        (Some(from), Some(to)) => format!(
            ", FRR of the worst tenth of labels {}",
            moved(from, to, changes.worst_tenth_frr)
        ),
        _ => String::new(),
    };
    let opis = match (one_threshold.band_variance, measured.band_variance) {
        (Some(from), Some(to)) => format!(", OPIS of searches {from:.5} to {to:.5}"),
        _ => String::new(),
    };
    format!(
        "{}: FRR {}, FAR {}{worst}{opis}, on {} enrolled labels not used to fit it",
        measured.fitted.remedy.as_str(),
        moved(
            one_threshold.frr.estimate,
            measured.frr.estimate,
            changes.frr
        ),
        moved(
            one_threshold.far.estimate,
            measured.far.estimate,
            changes.far
        ),
        measured.frr.labels,
    )
}

fn moved(from: f64, to: f64, change: Option<FigureChange>) -> String {
    let change = change.map_or_else(String::new, |change| {
        format!(
            " (change {} to {} at {} confidence)",
            percent(change.lower),
            percent(change.upper),
            percent(change.confidence.get())
        )
    });
    format!("{} to {}{change}", percent(from), percent(to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::remedy::{Fitted, Remedy};
    use crate::decision::Threshold;
    use crate::margin::MarginFactor;
    use crate::rates::{Confidence, Rate};

    fn measured() -> MeasuredRemedy {
        let searches: Vec<(String, bool)> =
            (0..60).map(|n| (format!("l{n}"), n % 3 == 0)).collect();
        let searches: Vec<(&str, bool)> = searches.iter().map(|(l, e)| (l.as_str(), *e)).collect();
        let rate = Rate::over_labels(&searches, Confidence::DISPLAY).unwrap();
        MeasuredRemedy {
            fitted: Fitted {
                remedy: Remedy::Margin,
                margin_factor: MarginFactor::DEFAULT,
                threshold: Threshold::ACCEPT_NOTHING,
            },
            far: rate,
            frr: rate,
            worst_labels: None,
            utility_variance: None,
            band_variance: None,
        }
    }

    fn change((estimate, half): (f64, f64)) -> FigureChange {
        FigureChange {
            estimate,
            lower: estimate - half,
            upper: estimate + half,
            confidence: Confidence::DISPLAY,
        }
    }

    proptest! {
        #[test]
        fn the_words_are_those_that_the_intervals_bear_out(
            frr in (-0.3_f64..0.3, 0.0_f64..0.2), far in (-0.3_f64..0.3, 0.0_f64..0.2),
            tenth in (-0.3_f64..0.3, 0.0_f64..0.2)
        ) {
            let changes = FigureChanges {
                frr: Some(change(frr)), far: Some(change(far)), worst_tenth_frr: Some(change(tenth)), utility_variance: None,
            };
            let measured = measured();
            let verdict = verdict(&measured, &changes);
            let words = conclusion(verdict, &measured, &changes);
            let beyond = |(estimate, half): (f64, f64)| half < estimate.abs();
            prop_assert!(!words.contains("the FRR is within chance") || !beyond(frr), "{words}");
            prop_assert!(!words.contains("worse in no rate"));
            let rises = |one: (f64, f64)| beyond(one) && 0.0 < one.0;
            let any = [frr, far, tenth].into_iter().any(rises);
            prop_assert!(!words.contains("no rate is higher") || !any, "{words}");
            prop_assert_eq!(verdict.prefers(), beyond(frr) && frr.0 < 0.0 && !any);
        }
    }
}
