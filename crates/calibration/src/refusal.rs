//! The refusals of a target, with the figures that explain them.

use super::percent::percent;
use super::target_rate::or_ask_for;

/// There are too few independent trials, so no threshold can be certified to keep the target.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "FAR {} at {} confidence{} needs {needed} labels of strangers, there are \
     {independent_trials}{}: add labels{or}",
    percent(*.far), percent(*.confidence), for_growth(.growth), for_each(*.scores),
    or = or_ask_for("FAR", *.best_supported_far)
)]
pub struct Underpowered {
    /// Number of labels of strangers that were searched for.
    pub independent_trials: u64,
    /// Number of scores that are certified together, so that one of them can be taken.
    pub scores: u64,
    /// The least number of labels that the target needs.
    pub needed: u64,
    /// The target FAR that was asked for.
    pub far: f64,
    /// The growth that was asked for, because of which a tighter FAR is needed today; `None` if there is none.
    pub growth: Option<GrowthAsked>,
    /// The confidence of the target.
    pub confidence: f64,
    /// The lowest FAR to ask for that this number of trials can certify at this confidence; 1 if none.
    pub best_supported_far: f64,
}

/// A growth of the gallery that a refused target was asked for with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrowthAsked {
    /// Number of items today.
    pub items_now: u64,
    /// Number of items at which the target was asked for.
    pub items_later: u64,
    /// The FAR that today's gallery needs for it.
    pub far_today: f64,
}

fn for_growth(growth: &Option<GrowthAsked>) -> String {
    let Some(growth) = growth else {
        return String::new();
    };
    format!(
        ", in a gallery that grows from {} items to {} and so at FAR {} today,",
        growth.items_now,
        growth.items_later,
        percent(growth.far_today)
    )
}

fn for_each(scores: u64) -> String {
    match scores {
        1 => String::new(),
        scores => {
            format!(" ({scores} scores are certified together; one that is named needs fewer)")
        }
    }
}

/// Groups of strangers with too few labels for a target that holds in each group.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "FAR {} at {} confidence for each {column}{} needs {needed} labels of strangers in each: \
     {}; add labels of these, ask for a higher FAR, or for all strangers together",
    percent(*.far), percent(*.confidence), for_growth(.growth), short_groups(.short, *.needed)
)]
pub struct GroupsUnderpowered {
    /// The metadata column.
    pub column: String,
    /// The target FAR that was asked for.
    pub far: f64,
    /// The growth that was asked for, because of which a tighter FAR is needed today; `None` if there is none.
    pub growth: Option<GrowthAsked>,
    /// The confidence of the target.
    pub confidence: f64,
    /// The least number of labels that each group needs.
    pub needed: u64,
    /// The groups that have fewer labels.
    pub short: Vec<GroupShortage>,
}

/// A group with too few labels.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupShortage {
    /// The value of the column.
    pub group: String,
    /// Number of its labels of strangers.
    pub labels: u64,
    /// The lowest FAR to ask for that these labels can certify; 1 if none.
    pub best_supported_far: f64,
}

fn short_groups(short: &[GroupShortage], needed: u64) -> String {
    if short.is_empty() {
        return "there are none".to_owned();
    }
    let groups = short.iter().map(|one| {
        let more = needed.saturating_sub(one.labels);
        format!("'{}' has {} ({more} more)", one.group, one.labels)
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// The reasons why no threshold can be certified to keep a target FRR.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FrrRefused {
    /// There are too few independent trials for the target; another calibration on more labels may help.
    #[error(
        "FRR {} at {} confidence needs {} of mated searches, there are \
         {independent_trials}, of which {lost} do not find their label first: calibrate on so many new labels \
         (to add labels to these, or to ask for another FRR of these, is a choice by what they showed, and voids the promise)",
        percent(*.frr), percent(*.confidence), needed_in_words(.needed)
    )]
    Underpowered {
        /// The target FRR.
        frr: f64,
        /// The confidence of the target.
        confidence: f64,
        /// Number of labels that were searched for.
        independent_trials: u64,
        /// Number of these whose best candidate was wrong or missing.
        lost: u64,
        /// Number of labels that the target needs if the share of lost ones stays the same. `None` if that
        /// share already reaches the target, although too few labels were searched for to be sure of it.
        needed: Option<u64>,
        /// The lowest FRR that so many trials with so many lost certify at this confidence; 1 if none. To ask for it
        /// takes new labels, because it depends on what these showed.
        best_supported_frr: f64,
    },
    /// Wrong and missing candidates alone exceed the target, so more labels will not help.
    #[error(
        "no threshold keeps FRR {}: {lost} of {independent_trials} labels do not find their \
         label first, whatever the threshold, a share of {} or more at {} confidence: \
         improve the model or the enrolled items, or ask for a higher FRR, and calibrate on new labels",
        percent(*.frr), percent(*.share_at_least), percent(*.confidence)
    )]
    Unattainable {
        /// The target FRR.
        frr: f64,
        /// The confidence of the target.
        confidence: f64,
        /// Number of labels that were searched for.
        independent_trials: u64,
        /// Number of these whose best candidate was wrong or missing.
        lost: u64,
        /// The lower bound on the share that is lost at every threshold, at the confidence of the target.
        share_at_least: f64,
        /// The lowest FRR that so many trials with so many lost certify at this confidence.
        best_supported_frr: f64,
    },
}

fn needed_in_words(needed: &Option<u64>) -> String {
    match needed {
        Some(labels) => format!("{labels} labels"),
        None => "more labels, fewer of them lost,".to_owned(),
    }
}

/// Labels that were used for two purposes, although the second is to judge the result of the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "labels among those that {first} and also among those that {second}: {shared}, such as {}; \
     use each label for one of the two{}",
    .examples.join(", "), where_respelled(*.respelled)
)]
pub struct Overlap {
    /// The first purpose.
    pub first: String,
    /// The second purpose.
    pub second: String,
    /// Number of such labels; at least one.
    pub shared: u64,
    /// Whether some of them are spelled in two ways.
    pub respelled: bool,
    /// The first few as text, in the order of the labels.
    pub examples: Vec<String>,
}

fn where_respelled(respelled: bool) -> &'static str {
    if respelled {
        ", or say that spellings are different things: --labels-as-they-are"
    } else {
        ""
    }
}

/// The operating point was made for another deployment than the one that is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operating point {id} does not fit what is served: {}; calibrate again", listed(.differences))]
pub struct Mismatch {
    /// The id of the operating point.
    pub id: String,
    /// Every difference; at least one.
    pub differences: Vec<BindingDifference>,
}

/// One difference between an operating point and what is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingDifference {
    /// What differs, in words.
    pub what: &'static str,
    /// The value at calibration.
    pub calibrated: String,
    /// The value that is served.
    pub served: String,
}

fn listed(differences: &[BindingDifference]) -> String {
    let texts: Vec<String> = differences
        .iter()
        .map(|d| {
            format!(
                "{} is '{}', calibrated with '{}'",
                d.what, d.served, d.calibrated
            )
        })
        .collect();
    texts.join(", ")
}
