//! An operating point, or a refusal, for a person to read.

use super::served_point::review;
use crate::cli::output::{self, percent, rate, table};
use crate::server::review_band;
use matchpoint_calibration::adjustment::Adjustment;
use matchpoint_calibration::menu::PriceOfProof;
use matchpoint_calibration::operating_point::{Content, IndexMisses, ThresholdEvidence};
use matchpoint_calibration::procedure::Refusal;
use matchpoint_calibration::worst_group::WorstGroup;

/// A refusal, for a person to read.
pub(crate) fn refusal_text(refusal: &Refusal) -> String {
    let mut text = format!("refused: {}\n", refusal.reason);
    text.push_str(&output::wrapped(&refusal.message, "  "));
    text.push_str("  Nothing was changed.\n");
    text
}

/// An operating point, for a person to read.
pub(crate) fn describe(content: &Content) -> String {
    let threshold = if content.threshold.accepts_nothing() {
        "none: nothing is accepted, since a stranger scores as high as a score can".to_owned()
    } else {
        format!("accept from {}", content.threshold)
    };
    let mut rows = vec![
        ("goal", content.goal()),
        ("threshold", threshold),
        ("score", compared_score(content)),
    ];
    rows.extend(grounds(content));
    let band = content.review.as_ref();
    rows.extend(band.map(|band| {
        let band = review_band(band);
        ("review", review(&band, content.threshold.get()))
    }));
    rows.extend([
        ("FAR measured", rate(content.measured.far.as_ref())),
        ("FRR measured", rate(content.measured.frr.as_ref())),
        ("recall at 1", rate(content.measured.recall_at_1.as_ref())),
    ]);
    rows.extend(held_out(content));
    if let Some(check) = content.index_check {
        let IndexMisses {
            sampled,
            missed,
            outside,
            ..
        } = check;
        let outside = match outside {
            0 => String::new(),
            items => format!("; {items} items were not in its graph yet"),
        };
        rows.push((
            "index misses",
            format!(
                "{missed} of {sampled} searches, against exact search; counted in the FRR{outside}"
            ),
        ));
    }
    rows.push((
        "valid for",
        format!(
            "model {} ({}), up to {} items, index: {}",
            content.binding.model_name,
            output::short(&content.binding.model_fingerprint),
            content.covered_items(),
            content.binding.index,
        ),
    ));
    let mut text = table(&rows);
    text.push_str("  assumptions\n");
    for assumption in &content.assumptions {
        text.push_str(&output::wrapped(assumption, "    - "));
    }
    text
}

/// What each group of strangers certifies by itself, and what it costs that all of them have to.
fn groups(worst: &WorstGroup) -> Vec<(&'static str, String)> {
    let each = worst.groups.iter().map(|group| {
        let what = format!(
            "{} {}: {} labels, from {}",
            worst.column, group.value, group.labels, group.threshold
        );
        ("certified for", what)
    });
    let price = worst.frr.zip(worst.frr_of_all).map(|(frr, of_all)| {
        let what = format!(
            "FRR {} instead of {}, which all strangers together would have",
            percent(frr),
            percent(of_all)
        );
        ("price of that", what)
    });
    each.chain(price).collect()
}

/// The score that is compared with the threshold.
fn compared_score(content: &Content) -> String {
    let adjustment = content.adjustment.as_ref();
    adjustment.map_or_else(
        || "cosine similarity of the best match".to_owned(),
        Adjustment::describe,
    )
}

/// What the threshold rests on.
fn grounds(content: &Content) -> Vec<(&'static str, String)> {
    let counts = &content.trials;
    if let Some(promise) = &content.promise {
        return vec![
            (
                "tested on",
                format!(
                    "{} stranger labels ({} never enrolled, {} left out), one query each: {} accepted, {} allowed",
                    promise.independent_trials,
                    counts.never_enrolled.labels,
                    counts.left_out.labels,
                    promise.observed,
                    promise.allowed,
                ),
            ),
            (
                "upper bound",
                format!("FAR <= {} on these data", percent(promise.far_bound)),
            ),
        ]
        .into_iter()
        .chain(content.worst_group.iter().flat_map(groups))
        .collect();
    }
    match &content.evidence {
        Some(ThresholdEvidence::FarEstimated(estimate)) => vec![(
            "upper bound",
            format!(
                "FAR <= {}, estimated over labels, not certified",
                percent(estimate.far_upper)
            ),
        )],
        Some(ThresholdEvidence::Frr(found)) => vec![
            (
                "tested on",
                format!(
                    "{} enrolled labels, one query each: {} missed, {} allowed, {} of them beyond any threshold",
                    found.independent_trials, found.observed, found.allowed, found.lost,
                ),
            ),
            (
                "upper bound",
                format!("FRR <= {} on these data", percent(found.frr_bound)),
            ),
        ],
        Some(ThresholdEvidence::EqualError(found)) => {
            vec![("equal error", format!("rate {}", percent(found.rate)))]
        }
        Some(ThresholdEvidence::Cost { outcome, .. }) => vec![
            (
                "cost",
                format!(
                    "{:.4} of the cost of deciding blindly; {:.4} with the threshold that calibrated scores imply",
                    outcome.dcf_min, outcome.dcf_actual
                ),
            ),
            (
                "score quality",
                format!(
                    "Cllr {:.4} bits, at best {:.4}",
                    outcome.cllr, outcome.cllr_min
                ),
            ),
        ],
        None => Vec::new(),
    }
}

/// What was measured on labels that had no part in choosing.
fn held_out(content: &Content) -> Vec<(&'static str, String)> {
    let Some(held_out) = &content.held_out else {
        return Vec::new();
    };
    if held_out.folds == held_out.abstained {
        let why = "unknown: too few labels to hold any out; use `evaluate` with other labels";
        return vec![("held out", why.to_owned())];
    }
    let judged = held_out.folds - held_out.abstained;
    vec![
        (
            "FAR held out",
            format!(
                "{} ({judged} of {} folds by label)",
                rate(held_out.far.as_ref()),
                held_out.folds
            ),
        ),
        ("FRR held out", rate(held_out.frr.as_ref())),
    ]
}

/// What the proof costs, in words.
pub(crate) fn price_text(price: &PriceOfProof) -> String {
    let at_target = percent(price.frr_at_target);
    let halves = match price.labels_to_halve {
        Some(more) => format!(
            "{more} more labels of strangers halve the difference, in a calibration on new labels"
        ),
        None if price.frr <= price.frr_at_target => "the proof costs nothing here".to_owned(),
        None => "more labels do not narrow that".to_owned(),
    };
    format!("FRR about {at_target} if the true FAR is the target; {halves}")
}
