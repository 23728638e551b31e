//! Operating points of a running server, from its messages.

use serde::Serialize;

use super::promises::today;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{self, measured, percent, table};
use crate::clock::rfc_3339;
use matchpoint_calibration::growth::items_within;
use matchpoint_client::proto::{MeasuredRate, OperatingPoint, PromiseStanding, ReviewBand};

/// Ids that are named if several match.
const IDS_NAMED_MAX: usize = 10;

/// An operating point, and whether it is active.
#[derive(Serialize)]
pub(crate) struct ServedPoint {
    pub(crate) active: bool,
    /// What is left of what it promised; empty if it does not decide.
    pub(crate) promises: Vec<PromiseStanding>,
    #[serde(flatten)]
    pub(crate) point: OperatingPoint,
}

/// The most items, those of the calibration and those added since, with which its target is met.
pub(crate) fn covered_items(point: &OperatingPoint) -> u64 {
    match (
        point.growth_target_far,
        point.target_far,
        point.far_upper_bound,
    ) {
        (None, Some(target), Some(bound)) => items_within(point.valid_to_items, bound, target),
        _ => point.valid_to_items,
    }
}

impl ServedPoint {
    /// As a line of a list.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} {}  {}  accept from {:.4}  {}\n{}",
            if self.active { "*" } else { " " },
            self.point.id,
            created(&self.point),
            self.point.threshold,
            goal(&self.point),
            today(&self.promises),
        )
    }
}

/// When it was made.
pub(crate) fn created(point: &OperatingPoint) -> String {
    rfc_3339(u64::try_from(point.created_unix_seconds.saturating_mul(1000)).unwrap_or(0))
}

/// The goal of its threshold, in words.
pub(crate) fn goal(point: &OperatingPoint) -> String {
    let target = match (
        point.growth_target_far.or(point.target_far),
        point.target_frr,
    ) {
        (Some(far), _) => format!("FAR <= {} per search", percent(far)),
        (None, Some(frr)) => format!("FRR <= {} per search", percent(frr)),
        (None, None) => return format!("{}, and promises nothing", point.policy),
    };
    let verb = if point.certified {
        "promised"
    } else {
        "aims at, and does not promise,"
    };
    let confidence = point.confidence.map_or_else(String::new, |confidence| {
        format!(", at {} confidence", percent(confidence))
    });
    let no_far = if point.target_far.is_none() {
        "; nothing about FAR"
    } else {
        ""
    };
    format!("{verb} {target}{confidence}{no_far}")
}

/// What a person reviews, and what is promised for the rest.
pub(crate) fn review(band: &ReviewBand, accept: f32) -> String {
    let promised = format!(
        "at most {} of mated searches are rejected unseen or accepted with a wrong label, at {} confidence",
        percent(band.unseen_frr),
        percent(band.confidence)
    );
    // Both ends are equal if no band is necessary.
    if accept <= band.threshold {
        return format!("not needed: without one, {promised}");
    }
    let accept = if 1.0 < accept {
        "none (accepts nothing)".to_owned()
    } else {
        format!("{accept:.4}")
    };
    let share = |rate: Option<&MeasuredRate>| {
        rate.map_or_else(|| "unknown".to_owned(), |rate| percent(rate.rate))
    };
    format!(
        "scores from {:.4} to below {accept} go to a person: {} of mated searches, {} of strangers; {promised}",
        band.threshold,
        share(band.mated_reviewed.as_ref()),
        share(band.strangers_reviewed.as_ref())
    )
}

/// An operating point, for a person to read.
pub(crate) fn describe(point: &OperatingPoint) -> String {
    // No score is above 1.
    let threshold = if 1.0 < point.threshold {
        "none: nothing is accepted, since a stranger scores as high as a score can".to_owned()
    } else {
        format!("accept from {:.4}", point.threshold)
    };
    let score = match point.adjustment.as_str() {
        "" => "cosine similarity of the best match",
        adjustment => adjustment,
    };
    let mut rows = vec![
        ("goal", goal(point)),
        ("threshold", threshold),
        ("score", score.to_owned()),
    ];
    if 0 < point.independent_trials {
        let labels = format!("{} labels, one query each", point.independent_trials);
        rows.push(("tested on", labels));
    }
    let bounds = [
        ("FAR", point.far_upper_bound),
        ("FRR", point.frr_upper_bound),
    ];
    for (name, bound) in bounds {
        rows.extend(bound.map(|bound| {
            let bound = format!("{name} <= {} on these data", percent(bound));
            ("upper bound", bound)
        }));
    }
    rows.extend(
        point
            .review
            .as_ref()
            .map(|band| ("review", review(band, point.threshold))),
    );
    rows.extend([
        ("FAR measured", measured(point.far.as_ref())),
        ("FRR measured", measured(point.frr.as_ref())),
    ]);
    let held_out = [
        ("FAR held out", &point.held_out_far),
        ("FRR held out", &point.held_out_frr),
    ];
    for (name, rate) in held_out {
        rows.extend(rate.as_ref().map(|rate| (name, measured(Some(rate)))));
    }
    let valid_for = format!(
        "model {}, up to {} items, index: {}",
        output::short(&point.model_fingerprint),
        covered_items(point),
        point.index
    );
    rows.push(("valid for", valid_for));
    let mut text = table(&rows);
    text.push_str("  assumptions\n");
    for assumption in &point.assumptions {
        text.push_str(&output::wrapped(assumption, "    - "));
    }
    text
}

/// The whole id for the beginning of one, with or without `op-`. An unknown one is returned unchanged, for
/// an error when it is looked up.
pub(crate) fn whole_id<'a>(
    begins: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<String> {
    let bare = |id: &'a str| id.strip_prefix("op-").unwrap_or(id);
    let known: Vec<&str> = known.into_iter().collect();
    let matching = || {
        let of = known.iter().copied();
        of.filter(|id| id.starts_with(begins) || bare(id).starts_with(begins))
    };
    // A whole id also matches.
    if known.contains(&begins) || begins.is_empty() {
        return Ok(begins.to_owned());
    }
    let mut found = matching();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.to_owned()),
        (Some(_), Some(_)) => {
            let some: Vec<&str> = matching().take(IDS_NAMED_MAX).collect();
            let more = match matching().count() - some.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!("several ids begin with {begins}: {}{more}", some.join(", "));
            Err(fail(Exit::Usage, message))
        }
        (None, _) => Ok(begins.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_means_the_only_one_that_has_it() {
        let known = ["op-5f2c", "op-5f77", "op-aa01"];
        let whole = |begins| whole_id(begins, known).map_err(|error| error.to_string());
        assert_eq!(whole("op-a"), Ok("op-aa01".to_owned()));
        assert_eq!(whole("aa"), Ok("op-aa01".to_owned()));
        assert_eq!(whole("op-5f2c"), Ok("op-5f2c".to_owned()));
        assert_eq!(whole("op-b"), Ok("op-b".to_owned()));
        assert_eq!(whole(""), Ok(String::new()));
        let several = "several ids begin with 5f: op-5f2c, op-5f77".to_owned();
        assert_eq!(whole("5f"), Err(several));
        let many: Vec<String> = (0..1000).map(|number| format!("{number:04}")).collect();
        let said = whole_id("0", many.iter().map(String::as_str)).unwrap_err();
        assert!(said.to_string().ends_with("0009 and 990 more"), "{said}");
        // One that another goes on from is still itself.
        assert_eq!(whole_id("op-5", ["op-5", "op-55"]).unwrap(), "op-5");
    }
}
