//! Which strangers press on the threshold? A wrong label, a duplicate or a real look-alike is found by
//! looking at these.

use serde::Serialize;

use crate::decision::{Decision, Threshold};
use crate::likeness::{Likeness, likeness};
use crate::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};

/// Labels, items and pairs that are listed, the worst of each.
pub(super) const LISTED_MAX: usize = 20;

/// A stranger's search with a high score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearestStranger {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Whether its label is enrolled, and was left out of the search.
    pub left_out: bool,
    /// Id of the item that it found.
    pub item: String,
    /// The label of that.
    pub item_label: String,
    /// The score that is held against the threshold.
    pub score: f32,
    /// Whether it is accepted.
    pub accepted: bool,
    /// How the two labels are alike; `None` if they are not.
    pub labels_alike: Option<Likeness>,
}

impl NearestStranger {
    /// What there is to say beside the score.
    #[must_use]
    pub fn remark(&self) -> String {
        let decision = if self.accepted {
            "accepted"
        } else {
            "rejected"
        };
        let alike = match self.labels_alike {
            Some(Likeness::Spelling) => ", one label but for spelling",
            Some(Likeness::NearMiss) => ", labels nearly the same",
            None => "",
        };
        format!("{decision}{alike}")
    }
}

/// The non-mated searches with the highest scores, twenty at most, highest first.
pub(super) fn nearest_strangers(
    recording: &Recording,
    threshold: Threshold,
) -> Vec<NearestStranger> {
    let strangers = recording.searches().iter();
    let strangers = strangers.filter(|search| search.truth != TrialKind::Mated);
    let mut found: Vec<(&RecordedSearch, &RecordedMatch)> = strangers
        .filter_map(|search| Some((search, search.found.as_ref()?)))
        .collect();
    found.sort_by(|(a, x), (b, y)| {
        (y.decision_score(), &a.probe).cmp(&(x.decision_score(), &b.probe))
    });
    let listed = found.into_iter().take(LISTED_MAX);
    let listed = listed.map(|(search, found)| NearestStranger {
        query: search.probe.clone(),
        label: search.label.clone(),
        left_out: search.truth == TrialKind::LeftOut,
        item: found.item.clone(),
        item_label: found.label.clone(),
        score: found.decision_score().get(),
        accepted: threshold.decide(Some(found.decision_score())) == Decision::Accept,
        labels_alike: likeness(&search.label, &found.label),
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use matchpoint_vector::Similarity;

    #[test]
    fn the_strangers_with_the_highest_scores_are_listed_with_how_their_labels_are_alike() {
        let search = |n: usize, truth, label: &str, score: f32| RecordedSearch {
            probe: format!("probe {n}"),
            label: label.to_owned(),
            truth,
            found: Some(RecordedMatch {
                item: format!("item {n}"),
                label: "elizabeth".to_owned(),
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            }),
            conditions: BTreeMap::new(),
        };
        let mut searches = vec![
            search(0, TrialKind::Mated, "elizabeth", 0.99),
            search(1, TrialKind::NeverEnrolled, "elisabeth", 0.9),
            search(2, TrialKind::NeverEnrolled, "Elizabeth", 0.8),
        ];
        searches.extend((3..30).map(|n| {
            let score = f32::from(u8::try_from(n).unwrap()) / 100.0;
            search(n, TrialKind::NeverEnrolled, &format!("other {n}"), score)
        }));
        let recording = Recording::new(searches).unwrap();
        let threshold = Threshold::at(Similarity::new(0.85).unwrap());
        let listed = nearest_strangers(&recording, threshold);
        assert_eq!(listed.len(), 20);
        let queries: Vec<&str> = listed.iter().map(|one| one.query.as_str()).collect();
        assert_eq!(queries[..4], ["probe 1", "probe 2", "probe 29", "probe 28"]);
        let said: Vec<String> = listed.iter().map(NearestStranger::remark).collect();
        assert_eq!(
            said[..3],
            [
                "accepted, labels nearly the same",
                "rejected, one label but for spelling",
                "rejected"
            ]
        );
    }
}
