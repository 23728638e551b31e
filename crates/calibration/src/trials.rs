//! Searches with known truth, on which every rate and every promise is measured.

use std::collections::{BTreeMap, BTreeSet};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::CalibrationError;
use super::seeded_hash::{seeded_hash, update_text};
use matchpoint_vector::Similarity;

/// The best candidate of a mated search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Top {
    /// Its similarity to the probe.
    pub score: Similarity,
    /// Whether it has the label of the probe.
    pub label_matches: bool,
}

/// A search by a probe whose label is enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatedSearch {
    /// The label of the probe.
    pub label: String,
    /// The id of the probe, which occurs once among the mated searches.
    pub probe: String,
    /// The best candidate; `None` if the search found nothing.
    pub top: Option<Top>,
}

impl MatedSearch {
    /// The best score if its label is right, because only then can a threshold change the outcome.
    #[must_use]
    pub fn right_score(&self) -> Option<Similarity> {
        self.top
            .filter(|top| top.label_matches)
            .map(|top| top.score)
    }
}

/// A search by a probe whose label is not in the searched gallery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonMatedSearch {
    /// The label of the probe.
    pub label: String,
    /// The id of the probe, which occurs once among the non-mated searches.
    pub probe: String,
    /// The best score; `None` if the search found nothing, which is a trial too.
    pub top_score: Option<Similarity>,
    /// The reason why the probe has no mate.
    pub origin: StrangerOrigin,
}

/// The reason why a probe has no mate in the searched gallery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrangerOrigin {
    /// Its label was never in the gallery.
    NeverEnrolled,
    /// Its label is enrolled, and its own items were left out of the search.
    LeftOut,
}

/// The searches of one calibration, checked for consistency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    mated: Vec<MatedSearch>,
    non_mated: Vec<NonMatedSearch>,
    repeats: BTreeMap<String, String>,
}

/// The number of searches and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchTally {
    /// Number of searches.
    pub searches: u64,
    /// Number of distinct labels among them.
    pub labels: u64,
}

impl Trials {
    /// Collects searches. A probe may occur both in a mated and in a left-out search.
    ///
    /// # Errors
    /// Returns an error if a probe id occurs twice among the mated or twice among the non-mated searches, and
    /// if a label that was never enrolled is also mated or left out.
    pub fn new(
        mated: Vec<MatedSearch>,
        non_mated: Vec<NonMatedSearch>,
    ) -> Result<Self, CalibrationError> {
        refuse_repeats(
            mated.iter().map(|search| search.probe.as_str()).collect(),
            "mated",
        )?;
        refuse_repeats(
            non_mated
                .iter()
                .map(|search| search.probe.as_str())
                .collect(),
            "non-mated",
        )?;
        let enrolled: BTreeSet<&str> = mated
            .iter()
            .map(|search| search.label.as_str())
            .chain(of_origin(&non_mated, StrangerOrigin::LeftOut).map(|s| s.label.as_str()))
            .collect();
        let contradiction = of_origin(&non_mated, StrangerOrigin::NeverEnrolled)
            .find(|search| enrolled.contains(search.label.as_str()));
        if let Some(search) = contradiction {
            return Err(CalibrationError::ContradictoryLabel {
                label: search.label.clone(),
            });
        }
        Ok(Self {
            mated,
            non_mated,
            repeats: BTreeMap::new(),
        })
    }

    /// Records labels of strangers that may be the same stranger as another label, each with the label that it
    /// then counts under. It is not known which is the case, so a promise has to hold in both cases.
    #[must_use]
    pub fn with_repeats(mut self, repeats: BTreeMap<String, String>) -> Self {
        self.repeats = repeats;
        self
    }

    /// The labels that [`Trials::with_repeats`] recorded; empty if there are none.
    #[must_use]
    pub fn repeats(&self) -> &BTreeMap<String, String> {
        &self.repeats
    }

    /// The label that `label` counts under if labels that may be one stranger count as one; otherwise `label`
    /// itself.
    #[must_use]
    pub fn stranger<'a>(&'a self, label: &'a str) -> &'a str {
        self.repeats.get(label).map_or(label, String::as_str)
    }

    /// The mated searches: those whose label is enrolled.
    #[must_use]
    pub fn mated(&self) -> &[MatedSearch] {
        &self.mated
    }

    /// The non-mated searches.
    #[must_use]
    pub fn non_mated(&self) -> &[NonMatedSearch] {
        &self.non_mated
    }

    /// The number of mated searches and labels.
    #[must_use]
    pub fn mated_tally(&self) -> SearchTally {
        tally(
            self.mated
                .iter()
                .map(|search| search.label.as_str())
                .collect(),
        )
    }

    /// The number of non-mated searches and labels of one origin.
    #[must_use]
    pub fn non_mated_tally(&self, origin: StrangerOrigin) -> SearchTally {
        tally(
            of_origin(&self.non_mated, origin)
                .map(|search| search.label.as_str())
                .collect(),
        )
    }

    /// Draws one non-mated search for each label by a hash of seed, label and probe.
    ///
    /// The score has no influence on the draw, because that would bias every rate. The order of the trials has
    /// none either.
    #[must_use]
    pub fn one_probe_per_label(&self, seed: u64) -> OnePerLabel<'_> {
        self.one_probe_of_each(seed, |label| label)
    }

    /// The same, with one search for each [`Trials::stranger`].
    #[must_use]
    pub fn one_probe_per_stranger(&self, seed: u64) -> OnePerLabel<'_> {
        self.one_probe_of_each(seed, |label| self.stranger(label))
    }

    fn one_probe_of_each<'a>(
        &'a self,
        seed: u64,
        who: impl Fn(&'a str) -> &'a str,
    ) -> OnePerLabel<'a> {
        let mut drawn: BTreeMap<&str, ([u8; 32], &NonMatedSearch)> = BTreeMap::new();
        for search in &self.non_mated {
            let stranger = who(&search.label);
            let hashed = seeded_hash(seed, &[stranger, &search.probe]);
            let slot = drawn.entry(stranger).or_insert((hashed, search));
            if hashed < slot.0 {
                *slot = (hashed, search);
            }
        }
        OnePerLabel(drawn.into_values().map(|(_, search)| search).collect())
    }

    /// SHA-256 over every search in the order of the probe ids, as hexadecimal digits. It is equal if and only
    /// if the trials are equal, whatever their order.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut mated: Vec<&MatedSearch> = self.mated.iter().collect();
        mated.sort_by(|a, b| a.probe.cmp(&b.probe));
        let mut non_mated: Vec<&NonMatedSearch> = self.non_mated.iter().collect();
        non_mated.sort_by(|a, b| a.probe.cmp(&b.probe));
        let mut hash = Sha256::new();
        for search in mated {
            update_search(
                &mut hash,
                [&search.probe, &search.label],
                search.top.map(|t| t.score),
            );
            hash.update([match search.top {
                None => 0,
                Some(Top {
                    label_matches: false,
                    ..
                }) => 1,
                Some(Top {
                    label_matches: true,
                    ..
                }) => 2,
            }]);
        }
        for search in non_mated {
            update_search(&mut hash, [&search.probe, &search.label], search.top_score);
            hash.update([match search.origin {
                StrangerOrigin::NeverEnrolled => 3,
                StrangerOrigin::LeftOut => 4,
            }]);
        }
        encode_string(&hash.finalize())
    }
}

/// Non-mated searches of distinct labels, sampled without regard to score, in the order of the labels. These
/// are the only trials that count as independent. Only [`Trials`] can make this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnePerLabel<'a>(Vec<&'a NonMatedSearch>);

impl<'a> OnePerLabel<'a> {
    /// The searches, one for each label.
    #[must_use]
    pub fn searches(&self) -> &[&'a NonMatedSearch] {
        &self.0
    }
}

fn of_origin(
    searches: &[NonMatedSearch],
    origin: StrangerOrigin,
) -> impl Iterator<Item = &NonMatedSearch> {
    searches
        .iter()
        .filter(move |search| search.origin == origin)
}

fn refuse_repeats(probes: Vec<&str>, kind: &'static str) -> Result<(), CalibrationError> {
    let mut seen = BTreeSet::new();
    for probe in probes {
        if !seen.insert(probe) {
            return Err(CalibrationError::RepeatedProbe {
                probe: probe.to_owned(),
                kind,
            });
        }
    }
    Ok(())
}

fn tally(mut labels: Vec<&str>) -> SearchTally {
    let searches = labels.len() as u64;
    labels.sort_unstable();
    labels.dedup();
    SearchTally {
        searches,
        labels: labels.len() as u64,
    }
}

/// Adds each text with its length first, so that different lists of texts never give the same bytes.
fn update_search(hash: &mut Sha256, texts: [&String; 2], score: Option<Similarity>) {
    for text in texts {
        update_text(hash, text);
    }
    match score {
        None => hash.update([0]),
        Some(score) => {
            hash.update([1]);
            hash.update(score.get().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stranger(label: &str, probe: &str, score: f32, origin: StrangerOrigin) -> NonMatedSearch {
        NonMatedSearch {
            label: label.into(),
            probe: probe.into(),
            top_score: Similarity::new(score),
            origin,
        }
    }

    fn mated(label: &str, probe: &str) -> MatedSearch {
        MatedSearch {
            label: label.into(),
            probe: probe.into(),
            top: None,
        }
    }

    #[test]
    fn a_label_may_be_mated_and_left_out_but_not_never_enrolled() {
        let left_out = stranger("a", "p", 0.1, StrangerOrigin::LeftOut);
        let never = stranger("a", "q", 0.1, StrangerOrigin::NeverEnrolled);
        assert!(Trials::new(vec![mated("a", "p")], vec![left_out.clone()]).is_ok());
        let refused = Trials::new(vec![mated("a", "p")], vec![never.clone()]);
        assert!(refused.unwrap_err().to_string().contains("label 'a'"));
        assert!(Trials::new(vec![], vec![left_out, never]).is_err());
    }

    #[test]
    fn a_repeated_probe_is_refused_by_name() {
        let twice = vec![mated("a", "p"), mated("b", "p")];
        let message = Trials::new(twice, vec![]).unwrap_err().to_string();
        assert!(
            message.contains("probe 'p'") && message.contains("mated"),
            "{message}"
        );
        let twice = vec![
            stranger("a", "p", 0.1, StrangerOrigin::LeftOut),
            stranger("b", "p", 0.1, StrangerOrigin::NeverEnrolled),
        ];
        assert!(Trials::new(vec![], twice).is_err());
    }

    #[test]
    fn the_digest_sees_every_field() {
        let base = stranger("a", "p", 0.1, StrangerOrigin::LeftOut);
        let mut changed = vec![base.clone(); 5];
        changed[1].label = "b".into();
        changed[2].probe = "q".into();
        changed[3].top_score = None;
        changed[4].origin = StrangerOrigin::NeverEnrolled;
        let digests: BTreeSet<String> = changed
            .into_iter()
            .map(|s| Trials::new(vec![], vec![s]).unwrap().digest())
            .collect();
        assert_eq!(digests.len(), 5);
    }

    proptest! {
        #[test]
        fn the_draw_and_the_digest_ignore_order_and_the_draw_ignores_scores(
            labels in prop::collection::vec(0..6_u8, 1..30), seed in any::<u64>()
        ) {
            let make = |scale: f32| -> Vec<NonMatedSearch> {
                labels.iter().zip(0_u8..).map(|(label, index)| {
                    let score = scale * f32::from(index) / 40.0;
                    let (label, probe) = (format!("l{label}"), format!("p{index}"));
                    stranger(&label, &probe, score, StrangerOrigin::NeverEnrolled)
                }).collect()
            };
            let forward = Trials::new(vec![], make(1.0)).unwrap();
            let backward = Trials::new(vec![], make(1.0).into_iter().rev().collect()).unwrap();
            let rescored = Trials::new(vec![], make(-1.0)).unwrap();
            prop_assert_eq!(forward.digest(), backward.digest());
            let drawn = forward.one_probe_per_label(seed);
            prop_assert_eq!(&drawn, &backward.one_probe_per_label(seed));
            let tally = forward.non_mated_tally(StrangerOrigin::NeverEnrolled);
            prop_assert_eq!(drawn.searches().len() as u64, tally.labels);
            let rescored = rescored.one_probe_per_label(seed);
            for (a, b) in drawn.searches().iter().zip(rescored.searches()) {
                prop_assert_eq!(&a.probe, &b.probe);
            }
        }
    }

    #[test]
    fn another_seed_draws_other_probes() {
        let searches = (0..40)
            .map(|i| {
                stranger(
                    &format!("l{}", i / 4),
                    &format!("p{i}"),
                    0.0,
                    StrangerOrigin::LeftOut,
                )
            })
            .collect();
        let trials = Trials::new(vec![], searches).unwrap();
        assert_ne!(trials.one_probe_per_label(1), trials.one_probe_per_label(2));
    }
}
