//! What is refused, and the figures that say why.

use super::percent::percent;
use super::target_rate::or_ask_for;

/// Too few independent trials: no threshold can be promised to keep the target.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "FAR {} at {} confidence needs {needed} labels of strangers, there are \
     {independent_trials}: add labels{or}",
    percent(*.far), percent(*.confidence), or = or_ask_for("FAR", *.best_supported_far)
)]
pub struct Underpowered {
    /// Labels of strangers that were tried.
    pub independent_trials: u64,
    /// Labels that the target needs at least.
    pub needed: u64,
    /// The FAR that was asked for.
    pub far: f64,
    /// The confidence that was asked for.
    pub confidence: f64,
    /// The lowest FAR that as many trials can certify at this confidence; 1 for none.
    pub best_supported_far: f64,
}

/// Groups of strangers with too few labels for a target that each is to keep.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "FAR {} at {} confidence for each {column} needs {needed} labels of strangers in each: \
     {}; add labels of these, ask for a higher FAR, or for all strangers together",
    percent(*.far), percent(*.confidence), short_groups(.short, *.needed)
)]
pub struct GroupsUnderpowered {
    /// The metadata column.
    pub column: String,
    /// The FAR that was asked for.
    pub far: f64,
    /// The confidence that was asked for.
    pub confidence: f64,
    /// Labels that each group needs at least.
    pub needed: u64,
    /// The groups that have fewer.
    pub short: Vec<GroupShortage>,
}

/// A group with too few labels.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupShortage {
    /// The value of the column.
    pub group: String,
    /// Its labels of strangers.
    pub labels: u64,
    /// The lowest FAR that these can certify; 1 for none.
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

/// Why no threshold can be promised to keep an FRR.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FrrRefused {
    /// Too few independent trials for the target: more labels may help.
    #[error(
        "FRR {} at {} confidence needs {} of mated searches, there are \
         {independent_trials}, of which {lost} do not find their label first: add labels{or}",
        percent(*.frr), percent(*.confidence), needed_in_words(.needed), or = or_ask_for("FRR", *.best_supported_frr)
    )]
    Underpowered {
        /// The FRR that was asked for.
        frr: f64,
        /// The confidence that was asked for.
        confidence: f64,
        /// Labels that were searched.
        independent_trials: u64,
        /// Those among them whose best candidate was wrong or missing.
        lost: u64,
        /// Labels that the target needs, if the lost share stays; `None` if that share is
        /// already the target, although too few labels were seen to be sure of it.
        needed: Option<u64>,
        /// The lowest FRR that these trials can certify at this confidence; 1 for none.
        best_supported_frr: f64,
    },
    /// Wrong and missing candidates alone exceed the target: more labels will not help.
    #[error(
        "no threshold keeps FRR {}: {lost} of {independent_trials} labels do not find their \
         label first, whatever the threshold, a share of {} or more at {} confidence: \
         improve the model or the enrolled items{or}",
        percent(*.frr), percent(*.share_at_least), percent(*.confidence), or = or_ask_for("FRR", *.best_supported_frr)
    )]
    Unattainable {
        /// The FRR that was asked for.
        frr: f64,
        /// The confidence that was asked for.
        confidence: f64,
        /// Labels that were searched.
        independent_trials: u64,
        /// Those among them whose best candidate was wrong or missing.
        lost: u64,
        /// The lower bound on the share that is lost, at the confidence of the target.
        share_at_least: f64,
        /// The lowest FRR that these trials can certify at this confidence.
        best_supported_frr: f64,
    },
}

fn needed_in_words(needed: &Option<u64>) -> String {
    match needed {
        Some(labels) => format!("{labels} labels"),
        None => "more labels, fewer of them lost,".to_owned(),
    }
}

/// Labels that were used twice, if the second use is to judge the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "labels among those that {first} and also among those that {second}: {shared}, such as {}; \
     use each label for one of the two",
    quoted(.examples)
)]
pub struct Overlap {
    /// What the labels were used for.
    pub first: String,
    /// What they were used for as well.
    pub second: String,
    /// How many there are; at least one.
    pub shared: u64,
    /// The first few, in the order of the labels.
    pub examples: Vec<String>,
}

fn quoted(labels: &[String]) -> String {
    let quoted: Vec<String> = labels.iter().map(|label| format!("'{label}'")).collect();
    quoted.join(", ")
}

/// The operating point was made for something else than what is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operating point {id} does not fit what is served: {}; calibrate again", listed(.differences))]
pub struct Mismatch {
    /// The id of the operating point.
    pub id: String,
    /// Every difference; at least one.
    pub differences: Vec<BindingDifference>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingDifference {
    /// What it is, in words.
    pub what: &'static str,
    /// What the operating point was calibrated with.
    pub calibrated: String,
    /// What is served.
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
