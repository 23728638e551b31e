//! Lists the strangers with the highest scores. Looking at them reveals wrong labels, duplicates and real
//! look-alikes.

use std::collections::HashMap;

use serde::Serialize;

use crate::decision::{Decision, Threshold};
use crate::likeness::{Likeness, likeness};
use crate::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};

/// The highest number of labels, items or pairs in a list; the worst ones are listed.
pub(super) const LISTED_MAX: usize = 20;

/// A search for a stranger that has a high score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearestStranger {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Whether its label is enrolled and was left out of the search.
    pub left_out: bool,
    /// Id of the item that it found.
    pub item: String,
    /// The label of this item.
    pub item_label: String,
    /// The score that is compared with the threshold.
    pub score: f32,
    /// Whether it is accepted.
    pub accepted: bool,
    /// In which way the two labels resemble each other as text; `None` if they do not.
    pub labels_alike: Option<Likeness>,
    /// The number of searches for this label, if there are at least two and all find the same label, because
    /// then both labels may be one thing. Otherwise 0.
    pub searches_agreeing: u64,
}

impl NearestStranger {
    /// A remark on the score.
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
        let agreeing = match self.searches_agreeing {
            0 => String::new(),
            all => format!("; all {all} searches of its label find that one"),
        };
        format!("{decision}{alike}{agreeing}")
    }
}

/// The non-mated searches with the highest scores, at most twenty, the highest first.
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
    let agreeing = agreeing(recording);
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
        searches_agreeing: agreeing
            .get(search.label.as_str())
            .map_or(0, |found| found.count),
    });
    listed.collect()
}

/// The label that all searches for a stranger's label find, and the number of these searches.
struct AgreedLabel<'a> {
    label: &'a str,
    count: u64,
}

/// Finds each label of strangers that has at least two searches which all find the same label.
fn agreeing(recording: &Recording) -> HashMap<&str, AgreedLabel<'_>> {
    let mut found: HashMap<&str, Option<AgreedLabel<'_>>> = HashMap::new();
    for search in recording.searches() {
        if search.truth == TrialKind::Mated {
            continue;
        }
        let label = search.found.as_ref().map(|found| found.label.as_str());
        found
            .entry(&search.label)
            .and_modify(|agreed| {
                let same = |agreed: &mut AgreedLabel<'_>| Some(agreed.label) == label;
                *agreed = agreed.take_if(same).map(|AgreedLabel { label, count }| {
                    let count = count + 1;
                    AgreedLabel { label, count }
                });
            })
            .or_insert_with(|| label.map(|label| AgreedLabel { label, count: 1 }));
    }
    let several = found.into_iter();
    let several = several.filter_map(|(label, agreed)| Some((label, agreed?)));
    several.filter(|(_, agreed)| 1 < agreed.count).collect()
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
        // Two searches for one thing under another name, and two that disagree.
        searches.push(search(30, TrialKind::NeverEnrolled, "bess", 0.7));
        searches.push(search(31, TrialKind::NeverEnrolled, "bess", 0.1));
        let mut other = search(32, TrialKind::NeverEnrolled, "other 29", 0.01);
        other.found.as_mut().unwrap().label = "anna".to_owned();
        searches.push(other);
        searches.extend((3..30).map(|n| {
            let score = f32::from(u8::try_from(n).unwrap()) / 100.0;
            search(n, TrialKind::NeverEnrolled, &format!("other {n}"), score)
        }));
        let recording = Recording::new(searches).unwrap();
        let threshold = Threshold::at(Similarity::new(0.85).unwrap());
        let listed = nearest_strangers(&recording, threshold);
        assert_eq!(listed.len(), 20);
        let queries: Vec<&str> = listed.iter().map(|one| one.query.as_str()).collect();
        assert_eq!(queries[..4], ["probe 1", "probe 2", "probe 30", "probe 29"]);
        let said: Vec<String> = listed.iter().map(NearestStranger::remark).collect();
        assert_eq!(
            said[..4],
            [
                "accepted, labels nearly the same",
                "rejected, one label but for spelling",
                "rejected; all 2 searches of its label find that one",
                "rejected"
            ]
        );
    }
}
