//! Looks for a label or a condition that has more errors than chance explains.

use std::collections::BTreeMap;

use super::audit::SearchTruth;
use super::sequential::ErrorSide;
use crate::binomial::{hypergeometric_tail, real};
use crate::recording::CONDITION_VALUES_MAX;

/// A labelled decision, with facts that its audit row does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The index of its row among the sampled decisions.
    pub place: usize,
    /// Whether the decision was an ACCEPT.
    pub accepted: bool,
    /// The truth according to its annotation.
    pub truth: SearchTruth,
    /// The best match; `None` if the search found nothing.
    pub found: Option<BestMatch>,
    /// The label that the query showed, or the name of the stranger; `None` for an unnamed stranger.
    pub shown: Option<String>,
    /// Metadata of the best match, if that item is still enrolled.
    pub conditions: BTreeMap<String, String>,
}

/// The best match of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestMatch {
    /// Its label.
    pub label: String,
    /// Id of the item.
    pub item: String,
}

impl Case {
    /// Whether the decision is an error of this side; `None` if it could not have been one.
    fn error(&self, side: ErrorSide) -> Option<bool> {
        match (side, self.truth) {
            (ErrorSide::FalseAccept, SearchTruth::NonMated) => Some(self.accepted),
            (ErrorSide::FalseReject, SearchTruth::MatedRight) => Some(!self.accepted),
            (ErrorSide::FalseReject, SearchTruth::MatedWrong) => Some(true),
            (ErrorSide::FalseAccept, SearchTruth::MatedRight | SearchTruth::MatedWrong)
            | (ErrorSide::FalseReject, SearchTruth::NonMated) => None,
        }
    }

    fn keys(&self, side: ErrorSide) -> impl Iterator<Item = CauseKey<'_>> {
        let label = match side {
            ErrorSide::FalseAccept => self.found.as_ref().map(|found| found.label.as_str()),
            ErrorSide::FalseReject => self.shown.as_deref(),
        };
        let conditions = self.conditions.iter();
        let conditions = conditions.map(|(column, value)| CauseKey::Condition(column, value));
        label.map(CauseKey::Label).into_iter().chain(conditions)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CauseKey<'a> {
    Label(&'a str),
    Condition(&'a str, &'a str),
}

/// A label or a condition that has more errors than chance explains.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedCause {
    /// The kind of errors.
    pub side: ErrorSide,
    /// The metadata column of the best match; `None` for a label.
    pub column: Option<String>,
    /// The value in the column. For a label, it is the best match's label (false accepts) or the label that
    /// the queries showed (false rejects).
    pub value: String,
    /// The item of this label that was falsely accepted most often; `None` for conditions and for false
    /// rejects.
    pub item: Option<String>,
    /// Number of labelled errors in the group.
    pub errors: u64,
    /// Number of labelled decisions in the group that could have been such errors.
    pub trials: u64,
    /// Number of labelled errors over all groups.
    pub all_errors: u64,
    /// Number of labelled decisions over all groups that could have been such errors.
    pub all_trials: u64,
    /// The p-value, corrected for the number of groups as [`groups`] describes; in [0, 1].
    pub p_value: f64,
}

/// At most this many groups are named, those with the lowest p-values.
const GROUPS_MAX: usize = 5;
/// The significance level: if errors are unrelated to the groups, some group is named in at most this share
/// of evaluations.
const LEVEL: f64 = 0.01;
/// A group needs at least this many errors.
const ERRORS_MIN: u64 = 2;

/// Finds the groups of labelled decisions with more errors than chance explains: at most five, those with the
/// lowest p-value first.
///
/// False accepts are grouped by the label of the best match, false rejects by the label that the query
/// showed. Both are also grouped by the metadata of the best match, in columns with 2 to 20 values.
///
/// If errors were unrelated to a group, the errors in it would be a draw without replacement from all
/// decisions that could have been errors. The p-value is the upper tail of this hypergeometric distribution
/// (Fisher's exact test). No sampling weights are needed: decisions are sampled by score only, hence
/// independently of the group unless the score depends on the group, which is the effect that the test looks
/// for.
///
/// Each p-value is multiplied by the number of groups of its side that have at least two decisions
/// (Bonferroni), and the group is named if the result is at most 0.01. So for each side and each evaluation,
/// the probability of naming any group by chance is at most 0.01. A named group is a hint where to look, and
/// not proof: with an evaluation every day, chance will name one at some time.
///
/// Assumes that decisions are independent. Ten searches for the same person are not.
#[must_use]
pub fn groups(cases: &[Case]) -> Vec<SharedCause> {
    let sides = [ErrorSide::FalseAccept, ErrorSide::FalseReject];
    let mut found: Vec<SharedCause> = sides.into_iter().flat_map(|side| of(side, cases)).collect();
    found.sort_by(|a, b| a.p_value.total_cmp(&b.p_value));
    found.truncate(GROUPS_MAX);
    found
}

/// Number of decisions that could have been errors, and of those that were.
#[derive(Clone, Copy, Default)]
struct CauseTally {
    errors: u64,
    trials: u64,
}

impl CauseTally {
    fn add(&mut self, error: bool) {
        self.errors += u64::from(error);
        self.trials += 1;
    }
}

fn of(side: ErrorSide, cases: &[Case]) -> Vec<SharedCause> {
    let mut all = CauseTally::default();
    let mut tallies: BTreeMap<CauseKey<'_>, CauseTally> = BTreeMap::new();
    for case in cases {
        let Some(error) = case.error(side) else {
            continue;
        };
        all.add(error);
        for key in case.keys(side) {
            tallies.entry(key).or_default().add(error);
        }
    }
    let mut values: BTreeMap<&str, usize> = BTreeMap::new();
    for key in tallies.keys() {
        if let CauseKey::Condition(column, _) = key {
            *values.entry(column).or_default() += 1;
        }
    }
    tallies.retain(|key, tally| {
        let tells_apart = match key {
            CauseKey::Label(_) => true,
            CauseKey::Condition(column, _) => values
                .get(column)
                .is_some_and(|values| (2..=CONDITION_VALUES_MAX).contains(values)),
        };
        tells_apart && ERRORS_MIN <= tally.trials
    });
    let looked_at = real(tallies.len() as u64);
    let named = tallies.into_iter().filter_map(|(key, tally)| {
        let tail = hypergeometric_tail(tally.errors, tally.trials, all.errors, all.trials);
        let p_value = (tail * looked_at).min(1.0);
        (ERRORS_MIN <= tally.errors && p_value <= LEVEL).then(|| {
            group(
                side,
                &SharedError {
                    key,
                    tally,
                    p_value,
                },
                all,
                cases,
            )
        })
    });
    named.collect()
}

/// A candidate group with its errors.
struct SharedError<'a> {
    key: CauseKey<'a>,
    /// The counts in the group.
    tally: CauseTally,
    p_value: f64,
}

/// A group among decisions of which there are `all`.
fn group(
    side: ErrorSide,
    shared: &SharedError<'_>,
    all: CauseTally,
    cases: &[Case],
) -> SharedCause {
    let (column, value, item) = match (shared.key, side) {
        (CauseKey::Label(label), ErrorSide::FalseAccept) => {
            (None, label, accepted_most(label, cases))
        }
        (CauseKey::Label(label), ErrorSide::FalseReject) => (None, label, None),
        (CauseKey::Condition(column, value), _) => (Some(column.to_owned()), value, None),
    };
    SharedCause {
        side,
        column,
        value: value.to_owned(),
        item,
        errors: shared.tally.errors,
        trials: shared.tally.trials,
        all_errors: all.errors,
        all_trials: all.trials,
        p_value: shared.p_value,
    }
}

/// The item of this label that was falsely accepted most often.
fn accepted_most(label: &str, cases: &[Case]) -> Option<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let errors = cases
        .iter()
        .filter(|case| case.error(ErrorSide::FalseAccept) == Some(true));
    for found in errors.filter_map(|case| case.found.as_ref()) {
        if found.label == label {
            *counts.entry(&found.item).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(item, _)| item.to_owned())
}

impl SharedCause {
    /// The finding and the advice as text.
    #[must_use]
    pub fn says(&self) -> String {
        let value = &self.value;
        let (who, met, look) = match (&self.column, self.side) {
            (Some(column), _) => (
                format!("met items with {column} = `{value}`"),
                "were the best match of",
                "see what pictures under this condition have in common",
            ),
            (None, ErrorSide::FalseAccept) => (
                match &self.item {
                    Some(item) => format!("are of label `{value}` (item `{item}`)"),
                    None => format!("are of label `{value}`"),
                },
                "was the best match of",
                "look at its enrolled pictures",
            ),
            (None, ErrorSide::FalseReject) => (
                format!("are of label `{value}`"),
                "was shown by",
                "look at its enrolled pictures, or enrol newer ones",
            ),
        };
        let (errors, trials) = match self.side {
            ErrorSide::FalseAccept => ("accepts", "strangers"),
            ErrorSide::FalseReject => ("rejects", "searches of what is enrolled"),
        };
        format!(
            "{} of {} labelled false {errors} {who}, which {met} {} of {} labelled {trials} (by chance {}): {look}.",
            self.errors,
            self.all_errors,
            self.trials,
            self.all_trials,
            chance(self.p_value),
        )
    }
}

/// The p-value in words.
fn chance(p_value: f64) -> String {
    if p_value < 0.001 {
        "less than once in 1,000 looks".to_owned()
    } else {
        format!("once in {:.0} looks", 1.0 / p_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(
        place: usize,
        label: &str,
        (accepted, truth): (bool, SearchTruth),
        camera: &str,
    ) -> Case {
        Case {
            place,
            accepted,
            truth,
            found: Some(BestMatch {
                label: label.to_owned(),
                item: format!("{label}/1"),
            }),
            shown: (truth != SearchTruth::NonMated).then(|| label.to_owned()),
            conditions: BTreeMap::from([
                ("camera".to_owned(), camera.to_owned()),
                // A column with as many values as decisions is a name, and no condition.
                ("file".to_owned(), place.to_string()),
            ]),
        }
    }

    const ACCEPTED: (bool, SearchTruth) = (true, SearchTruth::NonMated);
    const REJECTED: (bool, SearchTruth) = (false, SearchTruth::NonMated);

    /// 201 rejected and 9 accepted strangers, with 30 labels and three cameras.
    fn strangers(accepted: impl Fn(usize) -> (String, String)) -> Vec<Case> {
        let rejected = (0..201).map(|place| {
            let (label, camera) = (format!("label-{}", place % 30), (place % 3).to_string());
            case(place, &label, REJECTED, &camera)
        });
        let accepted = (201..210).map(|place| {
            let (label, camera) = accepted(place);
            case(place, &label, ACCEPTED, &camera)
        });
        rejected.chain(accepted).collect()
    }

    #[test]
    fn a_label_with_most_of_the_false_accepts_is_named_with_its_item() {
        let cases = strangers(|place| match place {
            0..208 => ("alike".to_owned(), (place % 3).to_string()),
            _ => (format!("label-{place}"), (place % 3).to_string()),
        });
        let found = groups(&cases);
        assert_eq!(found.len(), 1, "{found:?}");
        let alike = &found[0];
        assert_eq!((alike.errors, alike.trials), (7, 7));
        assert_eq!((alike.all_errors, alike.all_trials), (9, 210));
        assert_eq!(alike.item.as_deref(), Some("alike/1"));
        let says = alike.says();
        assert!(
            says.starts_with("7 of 9 labelled false accepts are of label `alike` (item `alike/1`)"),
            "{says}"
        );
    }

    #[test]
    fn a_condition_is_named_and_a_column_of_many_values_is_none() {
        let cases = strangers(|place| (format!("label-{}", place % 30), "2".to_owned()));
        let found = groups(&cases);
        let named: Vec<_> = found
            .iter()
            .map(|g| (g.column.as_deref(), &*g.value))
            .collect();
        assert_eq!(named, [(Some("camera"), "2")]);
        assert!(
            found[0].says().contains("camera = `2`"),
            "{}",
            found[0].says()
        );
    }

    #[test]
    fn a_label_that_every_stranger_comes_upon_has_no_more_than_its_part() {
        let hub = |place: usize, outcome| case(place, "hub", outcome, "1");
        let rejected = (0..200).map(|place| hub(place, REJECTED));
        let cases: Vec<Case> = rejected
            .chain((200..209).map(|place| hub(place, ACCEPTED)))
            .collect();
        assert_eq!(groups(&cases), []);
    }

    #[test]
    fn false_rejects_are_grouped_by_the_label_that_was_shown() {
        let right = (0..200).map(|place| {
            let label = format!("label-{}", place % 40);
            case(place, &label, (true, SearchTruth::MatedRight), "1")
        });
        let missed = (200..205).map(|place| Case {
            shown: Some("label-3".to_owned()),
            ..case(place, "another", (true, SearchTruth::MatedWrong), "1")
        });
        let found = groups(&right.chain(missed).collect::<Vec<_>>());
        let named: Vec<_> = found
            .iter()
            .map(|g| (g.side, &*g.value, g.errors, g.trials))
            .collect();
        assert_eq!(named, [(ErrorSide::FalseReject, "label-3", 5, 10)]);
        assert!(
            found[0].says().contains("enrol newer ones"),
            "{}",
            found[0].says()
        );
    }

    #[test]
    fn where_errors_have_nothing_in_common_a_group_is_named_in_one_look_of_a_hundred_at_most() {
        let mut state = 11_u64;
        let mut below = |end: u64| crate::splitmix64::next(&mut state) % end;
        let named = (0..2_000).filter(|_| {
            let cases: Vec<Case> = (0..150)
                .map(|place| {
                    // Some labels occur more often than others, but none has a higher error rate.
                    let label = below(20).min(below(20)).to_string();
                    let outcome = if below(10) == 0 { ACCEPTED } else { REJECTED };
                    case(place, &label, outcome, &below(4).to_string())
                })
                .collect();
            !groups(&cases).is_empty()
        });
        let named = named.count();
        assert!(named <= 20, "{named} of 2,000 looks");
    }
}
