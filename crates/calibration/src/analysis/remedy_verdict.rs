//! What a measurement says of a remedy, as an outcome and in words.

use std::cmp::Ordering;

use serde::Serialize;

use super::comparison_set::{FigureChange, FigureChanges};
use super::remedy_measured::MeasuredRemedy;

/// What the measurement says of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemedyVerdict {
    /// Better by more than chance, and in no rate worse by more than chance.
    Prefer,
    /// Better by more than chance in what it is for, and worse in another rate.
    Trade,
    /// No difference beyond chance.
    NoGround,
    /// Worse by more than chance.
    Worse,
}

impl RemedyVerdict {
    /// Whether there is ground to use the remedy.
    #[must_use]
    pub fn prefers(self) -> bool {
        self == Self::Prefer
    }
}

/// Below as many ranked labels the worst tenth is one or two of them, and the percentiles of a
/// bootstrap are too narrow to conclude from.
pub const RANKED_LABELS_MIN: u64 = 20;

/// A remedy is judged by what it is for, the FRR of the worst tenth of labels, and must make no
/// overall rate worse.
pub(super) fn verdict(measured: &MeasuredRemedy, changes: &FigureChanges) -> RemedyVerdict {
    let rates = [changes.worst_tenth_frr, changes.far, changes.frr];
    let gain = changes.worst_tenth_frr.is_some_and(FigureChange::is_fall);
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
    let ranked = measured.worst_labels.as_ref().map_or(0, |w| w.ranked);
    ranked < RANKED_LABELS_MIN
}

pub(super) fn conclusion(verdict: RemedyVerdict, measured: &MeasuredRemedy) -> String {
    match verdict {
        RemedyVerdict::Prefer => "better by more than chance, and worse in no rate".to_owned(),
        RemedyVerdict::Trade => "better in one rate, and worse in another, by more than chance: \
                           a trade to be weighed"
            .to_owned(),
        RemedyVerdict::NoGround if too_few(measured) => {
            format!("fewer than {RANKED_LABELS_MIN} labels can be ranked: no ground to prefer it")
        }
        RemedyVerdict::NoGround => "within chance: no ground to prefer it".to_owned(),
        RemedyVerdict::Worse => "worse by more than chance".to_owned(),
    }
}

pub(super) fn sentence(
    measured: &MeasuredRemedy,
    one_threshold: &MeasuredRemedy,
    changes: &FigureChanges,
) -> String {
    let name = measured.fitted.remedy.as_str();
    let what = "the FRR of the worst tenth of labels";
    let tenth = |of: &MeasuredRemedy| of.worst_labels.as_ref().map(|w| w.mean_of_worst_tenth);
    let figures = tenth(one_threshold).zip(tenth(measured));
    let change = match figures.zip(changes.worst_tenth_frr) {
        Some(((from, to), change)) => {
            let verb = match to.total_cmp(&from) {
                Ordering::Less => "lowers",
                Ordering::Equal => "leaves",
                Ordering::Greater => "raises",
            };
            format!(
                "{verb} {what} from {} to {} (change {} to {} at {} confidence)",
                percent(from),
                percent(to),
                percent(change.lower),
                percent(change.upper),
                percent(change.confidence.get()),
            )
        }
        None => format!("has no measured effect on {what}"),
    };
    let frr_change = changes.frr.map_or_else(String::new, |frr| {
        let (lower, upper) = (percent(frr.lower), percent(frr.upper));
        format!(" (change {lower} to {upper})")
    });
    format!(
        "{name} {change} on {} mated labels not used to fit it; FAR {} against {}, FRR {} \
         against {}{frr_change}",
        measured.frr.labels,
        percent(measured.far.estimate),
        percent(one_threshold.far.estimate),
        percent(measured.frr.estimate),
        percent(one_threshold.frr.estimate),
    )
}

fn percent(share: f64) -> String {
    // Adding zero turns -0 into +0.
    format!("{:.2} %", 100.0 * share + 0.0)
}
