//! Compares the decisions of two models: which differ, and how often.
//!
//! A difference does not show which model is right. That needs annotations.

use crate::decision::Decision;
use crate::rates::{Confidence, Interval, Proportion};
use crate::splitmix64::{STEP, mixed};

/// The label that the candidate model found, compared with that of the live model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowMatch {
    /// Both found the same label.
    Same,
    /// They found different labels.
    Other,
    /// They found different labels, and the candidate could not find the same one because it is not enrolled
    /// there.
    Missing,
    /// At least one of them found nothing.
    Nothing,
}

impl ShadowMatch {
    /// All variants, in the order in which reports show them.
    pub const ALL: [Self; 4] = [Self::Same, Self::Other, Self::Missing, Self::Nothing];

    /// The name used in metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other => "other",
            Self::Missing => "missing",
            Self::Nothing => "nothing",
        }
    }
}

/// The outcome of one query with both models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The decision that was answered.
    pub live: Decision,
    /// The decision that the candidate would have made.
    pub shadow: Decision,
    /// How the labels compare that the two models found.
    pub best: ShadowMatch,
}

impl Pair {
    /// All possible outcomes.
    pub fn all() -> impl Iterator<Item = Self> {
        const DECISIONS: [Decision; 3] = [Decision::Accept, Decision::Reject, Decision::Undecided];
        DECISIONS.into_iter().flat_map(|live| {
            let shadows = DECISIONS.into_iter();
            shadows.flat_map(move |shadow| {
                let all = ShadowMatch::ALL.into_iter();
                all.map(move |best| Self { live, shadow, best })
            })
        })
    }

    /// Whether the candidate would have answered the caller differently, by another decision or by accepting
    /// another label.
    #[must_use]
    pub fn disagrees(self) -> bool {
        self.live != self.shadow
            || (self.live == Decision::Accept && self.best != ShadowMatch::Same)
    }
}

/// The number of queries with each outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowCounts(Vec<(Pair, u64)>);

impl Default for ShadowCounts {
    fn default() -> Self {
        Self(Pair::all().map(|pair| (pair, 0)).collect())
    }
}

impl ShadowCounts {
    /// Counts one query.
    pub fn take(&mut self, pair: Pair) {
        for (_, count) in self.0.iter_mut().filter(|(known, _)| *known == pair) {
            *count += 1;
        }
    }

    /// The outcomes that occurred, with their numbers.
    pub fn seen(&self) -> impl Iterator<Item = (Pair, u64)> {
        self.0.iter().copied().filter(|(_, count)| 0 < *count)
    }

    /// Number of queries that both models answered.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.seen().map(|(_, count)| count).sum()
    }

    /// Number of queries that the two models answer differently.
    #[must_use]
    pub fn disagreements(&self) -> u64 {
        let differ = self.seen().filter(|(pair, _)| pair.disagrees());
        differ.map(|(_, count)| count).sum()
    }

    /// The 95 % Wilson interval of the share of disagreements, which treats queries as independent; `None`
    /// before the first query.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let share = Proportion::new(self.disagreements(), self.compared()).ok()?;
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let trials = share.trials() as f64;
        Some(Interval::wilson(
            share.estimate(),
            trials,
            Confidence::DISPLAY,
        ))
    }
}

/// Whether the query with this number belongs to the `share` that is compared. Only the number decides, so
/// that the choice does not depend on score or truth.
#[must_use]
pub fn is_sampled(number: u64, share: f64) -> bool {
    let bits = mixed(number.wrapping_add(1).wrapping_mul(STEP));
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits, which a double holds exactly"
    )]
    let unit = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    unit < share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(live: Decision, shadow: Decision, best: ShadowMatch) -> Pair {
        Pair { live, shadow, best }
    }

    #[test]
    fn the_two_disagree_where_a_caller_would_be_answered_otherwise() {
        use Decision::{Accept, Reject, Undecided};
        let disagree = |live, shadow, best| pair(live, shadow, best).disagrees();
        assert!(!disagree(Accept, Accept, ShadowMatch::Same));
        assert!(disagree(Accept, Accept, ShadowMatch::Other));
        assert!(disagree(Accept, Accept, ShadowMatch::Missing));
        assert!(disagree(Accept, Reject, ShadowMatch::Same));
        assert!(disagree(Reject, Accept, ShadowMatch::Same));
        // A reject names no label, so different labels are no disagreement.
        assert!(!disagree(Reject, Reject, ShadowMatch::Other));
        assert!(disagree(Accept, Undecided, ShadowMatch::Same));
        assert!(!disagree(Undecided, Undecided, ShadowMatch::Other));
    }

    #[test]
    fn counts_add_up_and_nothing_compared_has_no_interval() {
        let mut counts = ShadowCounts::default();
        assert_eq!((counts.compared(), counts.interval()), (0, None));
        for _ in 0..95 {
            counts.take(pair(Decision::Accept, Decision::Accept, ShadowMatch::Same));
        }
        for best in [
            ShadowMatch::Same,
            ShadowMatch::Other,
            ShadowMatch::Missing,
            ShadowMatch::Other,
            ShadowMatch::Same,
        ] {
            counts.take(pair(Decision::Accept, Decision::Reject, best));
        }
        assert_eq!((counts.compared(), counts.disagreements()), (100, 5));
        assert_eq!(counts.seen().count(), 4);
        let interval = counts.interval().unwrap();
        // The Wilson interval of 5 in 100.
        assert!((interval.lower - 0.0215).abs() < 1e-4, "{interval:?}");
        assert!((interval.upper - 0.1118).abs() < 1e-4, "{interval:?}");
        assert_eq!(Pair::all().count(), 36);
    }

    #[test]
    fn a_share_of_the_queries_is_drawn_none_at_zero_and_all_at_one() {
        let sampled = |share: f64| (0..100_000).filter(|n| is_sampled(*n, share)).count();
        let count = sampled(0.05);
        assert!((4_700..=5_300).contains(&count), "{count}");
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 100_000));
    }
}
