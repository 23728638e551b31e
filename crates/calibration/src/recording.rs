//! The searches of a calibration with everything known about each. They show which searches two thresholds
//! decide differently, and for which labels and conditions a threshold works badly.

use std::collections::{BTreeMap, BTreeSet};

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CalibrationError;
use super::decision::{Decision, Threshold};
use super::evaluate::{Errors, evaluate};
use super::rates::Rate;
use super::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
use matchpoint_vector::Similarity;

/// The version of the JSON format that is written.
const FORMAT: u64 = 1;

/// A metadata column with more values than this is a name or a time, and not a condition.
pub const CONDITION_VALUES_MAX: usize = 20;

/// The kind of a search, by its known truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialKind {
    /// Its label is enrolled.
    Mated,
    /// Its label was never in the gallery.
    NeverEnrolled,
    /// Its label is enrolled, and its own items were left out of the search.
    LeftOut,
}

impl TrialKind {
    /// The name used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mated => "mated",
            Self::NeverEnrolled => "never-enrolled",
            Self::LeftOut => "left-out",
        }
    }
}

/// The facts about a labelled query that determine its trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryTrials {
    /// Whether its label is enrolled.
    pub enrolled: bool,
    /// Whether it is an item of the gallery, and the only one of its label.
    pub alone: bool,
    /// Whether a second search leaves out the items of its own label.
    pub masked_too: bool,
}

impl QueryTrials {
    /// The trials of the query. A query of an enrolled label gives a mated trial, and a non-mated one if its
    /// own label is left out as well. If it is the only item of its label, it can find no mate, so there is no
    /// mated trial.
    pub fn truths(self) -> impl Iterator<Item = TrialKind> {
        let unmasked = match (self.enrolled, self.alone) {
            (true, true) => None,
            (true, false) => Some(TrialKind::Mated),
            (false, _) => Some(TrialKind::NeverEnrolled),
        };
        let masked = (self.enrolled && self.masked_too).then_some(TrialKind::LeftOut);
        unmasked.into_iter().chain(masked)
    }
}

/// The best candidate of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedMatch {
    /// Id of the item.
    pub item: String,
    /// Its label.
    pub label: String,
    /// Its similarity to the probe.
    #[serde(with = "exact")]
    pub score: Similarity,
    /// The adjusted score that is compared with the threshold; `None` if the operating point does not adjust
    /// scores.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "exact_or_none"
    )]
    pub adjusted: Option<Similarity>,
    /// The best similarity to an item whose label is neither this one nor left out; `None` if there is none. It
    /// is not stored, because the adjusted score that is computed from it is.
    #[serde(skip)]
    pub other: Option<Similarity>,
}

#[cfg(test)]
impl RecordedSearch {
    /// A search for a stranger, from its label, the probe's id and the score of its best candidate.
    pub(crate) fn of_stranger((label, probe): (String, String), found: Option<Similarity>) -> Self {
        Self {
            probe,
            label,
            truth: TrialKind::NeverEnrolled,
            found: found.map(|score| RecordedMatch {
                item: "item".to_owned(),
                label: "item".to_owned(),
                score,
                adjusted: None,
                other: None,
            }),
            conditions: BTreeMap::new(),
        }
    }
}

impl RecordedMatch {
    /// The decision score: the adjusted score if there is one, otherwise the similarity.
    #[must_use]
    pub fn decision_score(&self) -> Similarity {
        self.adjusted.unwrap_or(self.score)
    }
}

/// Which score of a search is compared with a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The similarity.
    Similarity,
    /// The decision score of the recording's operating point.
    Held,
}

/// A threshold, and the kind of score that is compared with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaledThreshold {
    /// The threshold.
    pub threshold: Threshold,
    /// The kind of score.
    pub scale: Scale,
}

impl Scale {
    fn of(self, search: &RecordedSearch) -> Option<Similarity> {
        let found = search.found.as_ref();
        match self {
            Self::Similarity => found.map(|found| found.score),
            Self::Held => found.map(RecordedMatch::decision_score),
        }
    }
}

/// One search with known truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedSearch {
    /// Id of the probe.
    pub probe: String,
    /// Label of the probe.
    pub label: String,
    /// Whether its label was enrolled, and how the search was made.
    pub truth: TrialKind,
    /// The best candidate; `None` if the search found nothing.
    pub found: Option<RecordedMatch>,
    /// Further facts about the probe by column, such as the camera or the country.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, String>,
}

/// The searches of one calibration, each with its result. From this record another threshold can be judged
/// later, without the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    searches: Vec<RecordedSearch>,
    trials: Trials,
    score_labels: BTreeSet<String>,
    merged_labels: BTreeSet<String>,
}

#[derive(Serialize)]
struct RecordingFileRef<'a> {
    format: u64,
    digest: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    score_labels: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    merged_labels: &'a BTreeSet<String>,
    searches: &'a [RecordedSearch],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordingFile {
    format: u64,
    digest: String,
    /// Called `set_aside` while these labels had no part in the threshold.
    #[serde(default, alias = "set_aside")]
    score_labels: BTreeSet<String>,
    #[serde(default)]
    merged_labels: BTreeSet<String>,
    searches: Vec<RecordedSearch>,
}

/// A search that two thresholds decide differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// The search.
    #[serde(flatten)]
    pub search: RecordedSearch,
    /// The decision by the first threshold.
    pub before: &'static str,
    /// The decision by the second threshold.
    pub after: &'static str,
    /// Whether the second decision is right: it accepts the right label or rejects a wrong one.
    pub improves: bool,
}

/// The error rates of the searches that share one value of a metadata column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// The metadata column.
    pub column: String,
    /// The value in this column.
    pub value: String,
    /// The share of its non-mated searches that are accepted; `None` if there are none.
    pub far: Option<Rate>,
    /// The share of its mated searches that are rejected or accepted with a wrong label; `None` if there are
    /// none.
    pub frr: Option<Rate>,
}

/// The results of the searches for one label, and of strangers that are accepted as it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabelOutcome {
    /// The label.
    pub label: String,
    /// Number of mated searches by its probes.
    pub mated: u64,
    /// Number of mated searches that were rejected or accepted with a wrong label.
    pub missed: u64,
    /// Number of probes of other labels, mated or not, that were accepted as this one.
    pub impostors: u64,
    /// Items of this label that those probes were accepted as.
    pub items: BTreeSet<String>,
}

impl Recording {
    /// Collects searches, and checks that they are consistent as [`Trials::new`] does.
    ///
    /// # Errors
    /// Returns an error for repeated probes and contradictory labels.
    pub fn new(searches: Vec<RecordedSearch>) -> Result<Self, CalibrationError> {
        let (mut mated, mut non_mated) = (Vec::new(), Vec::new());
        for search in &searches {
            let (label, probe) = (search.label.clone(), search.probe.clone());
            let top_score = search.found.as_ref().map(RecordedMatch::decision_score);
            match search.truth {
                TrialKind::Mated => mated.push(MatedSearch {
                    top: search.found.as_ref().map(|found| Top {
                        score: found.decision_score(),
                        label_matches: found.label == label,
                    }),
                    label,
                    probe,
                }),
                TrialKind::NeverEnrolled | TrialKind::LeftOut => non_mated.push(NonMatedSearch {
                    label,
                    probe,
                    top_score,
                    origin: if search.truth == TrialKind::LeftOut {
                        StrangerOrigin::LeftOut
                    } else {
                        StrangerOrigin::NeverEnrolled
                    },
                }),
            }
        }
        let trials = Trials::new(mated, non_mated)?;
        Ok(Self {
            searches,
            trials,
            score_labels: BTreeSet::new(),
            merged_labels: BTreeSet::new(),
        })
    }

    /// Records the labels whose searches determined how scores are adjusted. They cannot judge the threshold.
    #[must_use]
    pub fn with_score_labels(mut self, labels: BTreeSet<String>) -> Self {
        self.score_labels = labels;
        self
    }

    /// Records the labels of pictures that count under the label of another one, since both may show the same stranger
    /// without a name. They chose the threshold as well, and cannot judge it.
    #[must_use]
    pub fn with_merged_labels(mut self, labels: BTreeSet<String>) -> Self {
        self.merged_labels = labels;
        self
    }

    /// Records labels that may be the same stranger: see [`Trials::with_repeats`]. This becomes one of the
    /// assumptions, and is not stored with the recording.
    #[must_use]
    pub fn with_repeats(mut self, repeats: BTreeMap<String, String>) -> Self {
        self.trials = self.trials.with_repeats(repeats);
        self
    }

    /// The labels that determined how scores are adjusted.
    #[must_use]
    pub fn score_labels(&self) -> &BTreeSet<String> {
        &self.score_labels
    }

    /// The labels that count as others, and are those of no search here.
    #[must_use]
    pub fn merged_labels(&self) -> &BTreeSet<String> {
        &self.merged_labels
    }

    /// The digest of the trials and of everything that is stored with them.
    fn digest(&self) -> Result<String, CalibrationError> {
        let held = self.trials.digest();
        let adjusted =
            |search: &RecordedSearch| search.found.as_ref().is_some_and(|f| f.adjusted.is_some());
        let (chose, merged) = (&self.score_labels, &self.merged_labels);
        let rest = if !merged.is_empty() {
            serde_json::to_vec(&(chose, merged, &self.searches))
        } else if !chose.is_empty() || self.searches.iter().any(adjusted) {
            serde_json::to_vec(&(chose, &self.searches))
        } else {
            return Ok(held);
        };
        let rest = rest.map_err(CalibrationError::NotARecording)?;
        Ok(encode_string(&Sha256::digest(
            [held.as_bytes(), &rest].concat(),
        )))
    }

    /// Reads what [`Recording::to_json`] wrote.
    ///
    /// # Errors
    /// Returns an error if the input is not a recording, has another format, or has another digest.
    pub fn parse(json: &[u8]) -> Result<Self, CalibrationError> {
        let file: RecordingFile =
            serde_json::from_slice(json).map_err(CalibrationError::NotARecording)?;
        if file.format != FORMAT {
            return Err(CalibrationError::UnknownFormat {
                found: file.format,
                supported: FORMAT,
            });
        }
        let recording = Self::new(file.searches)?;
        let recording = recording.with_score_labels(file.score_labels);
        let recording = recording.with_merged_labels(file.merged_labels);
        let computed = recording.digest()?;
        if computed != file.digest {
            return Err(CalibrationError::RecordingAltered {
                stated: file.digest,
                computed,
            });
        }
        Ok(recording)
    }

    /// The recording as JSON.
    ///
    /// # Errors
    /// Never in practice, because every field can be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, CalibrationError> {
        let file = RecordingFileRef {
            format: FORMAT,
            digest: self.digest()?,
            score_labels: &self.score_labels,
            merged_labels: &self.merged_labels,
            searches: &self.searches,
        };
        serde_json::to_vec(&file).map_err(CalibrationError::NotARecording)
    }

    /// The searches, in the order given.
    #[must_use]
    pub fn searches(&self) -> &[RecordedSearch] {
        &self.searches
    }

    /// The searches as trials, on which rates are measured.
    #[must_use]
    pub fn trials(&self) -> &Trials {
        &self.trials
    }

    /// Every distinct label that was searched for.
    #[must_use]
    pub fn labels(&self) -> BTreeSet<&str> {
        self.searches
            .iter()
            .map(|search| search.label.as_str())
            .collect()
    }

    /// The searches that `after` decides differently from `before`, in descending order of similarity.
    #[must_use]
    pub fn flips(&self, before: ScaledThreshold, after: ScaledThreshold) -> Vec<Flip> {
        let mut flips: Vec<Flip> = self
            .searches
            .iter()
            .filter_map(|search| {
                let by = |on: ScaledThreshold| on.threshold.decide(on.scale.of(search));
                let (was, is) = (by(before), by(after));
                (was != is).then(|| Flip {
                    search: search.clone(),
                    before: was.as_str(),
                    after: is.as_str(),
                    improves: (is == Decision::Accept) == right(search),
                })
            })
            .collect();
        flips.sort_by(|a, b| {
            let score = |flip: &Flip| flip.search.found.as_ref().map(|found| found.score);
            score(b)
                .cmp(&score(a))
                .then_with(|| a.search.probe.cmp(&b.search.probe))
        });
        flips
    }

    /// FAR and FRR at a threshold for each value of each metadata column, in alphabetical order.
    ///
    /// Columns with one value or more than twenty are left out, because they do not form groups.
    #[must_use]
    pub fn by_condition(&self, threshold: Threshold) -> Vec<Condition> {
        let mut columns: BTreeMap<&str, BTreeMap<&str, Vec<&RecordedSearch>>> = BTreeMap::new();
        for search in &self.searches {
            for (column, value) in &search.conditions {
                let values = columns.entry(column).or_default();
                values.entry(value).or_default().push(search);
            }
        }
        let mut conditions = Vec::new();
        for (column, values) in columns {
            if !(2..=CONDITION_VALUES_MAX).contains(&values.len()) {
                continue;
            }
            for (value, searches) in values {
                let Errors { far, frr, .. } = self.errors_of(&searches, threshold);
                let (column, value) = (column.to_owned(), value.to_owned());
                conditions.push(Condition {
                    column,
                    value,
                    far,
                    frr,
                });
            }
        }
        conditions
    }

    fn errors_of(&self, searches: &[&RecordedSearch], threshold: Threshold) -> Errors {
        let subset: Vec<RecordedSearch> = searches.iter().copied().cloned().collect();
        // A subset of consistent searches is consistent.
        Recording::new(subset)
            .ok()
            .map(|part| part.with_repeats(self.trials.repeats().clone()))
            .and_then(|part| evaluate(part.trials(), Some(threshold)).errors)
            .unwrap_or_default()
    }

    /// The results for each enrolled label at a threshold, the worst first: by share of misses, then by number
    /// of impostors.
    #[must_use]
    pub fn by_label(&self, threshold: Threshold) -> Vec<LabelOutcome> {
        let mut outcomes: BTreeMap<&str, LabelOutcome> = BTreeMap::new();
        // A probe may be searched for twice, once with its own label left out.
        let mut impostors: BTreeSet<(&str, &str)> = BTreeSet::new();
        for search in &self.searches {
            let score = search.found.as_ref().map(RecordedMatch::decision_score);
            let accepted = threshold.decide(score) == Decision::Accept;
            if search.truth == TrialKind::Mated {
                let own = outcome(&mut outcomes, &search.label);
                own.mated += 1;
                own.missed += u64::from(!(accepted && right(search)));
            }
            if let Some(found) = search.found.as_ref().filter(|_| accepted && !right(search)) {
                let other = outcome(&mut outcomes, &found.label);
                if impostors.insert((search.probe.as_str(), found.label.as_str())) {
                    other.impostors += 1;
                }
                other.items.insert(found.item.clone());
            }
        }
        let mut outcomes: Vec<LabelOutcome> = outcomes.into_values().collect();
        // Compares a/b > c/d as a*d > c*b, so that equal shares compare as equal.
        outcomes.sort_by(|a, b| {
            (b.missed * a.mated.max(1))
                .cmp(&(a.missed * b.mated.max(1)))
                .then(b.impostors.cmp(&a.impostors))
                .then_with(|| a.label.cmp(&b.label))
        });
        outcomes
    }
}

fn right(search: &RecordedSearch) -> bool {
    search.truth == TrialKind::Mated
        && search
            .found
            .as_ref()
            .is_some_and(|found| found.label == search.label)
}

fn outcome<'a, 'b>(
    outcomes: &'b mut BTreeMap<&'a str, LabelOutcome>,
    label: &'a str,
) -> &'b mut LabelOutcome {
    outcomes.entry(label).or_insert_with(|| LabelOutcome {
        label: label.to_owned(),
        mated: 0,
        missed: 0,
        impostors: 0,
        items: BTreeSet::new(),
    })
}

/// The same as `exact`, for an optional score.
mod exact_or_none {
    use serde::{Deserializer, Serializer};

    use matchpoint_vector::Similarity;

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        score: &Option<Similarity>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match score {
            Some(score) => super::exact::serialize(score, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Similarity>, D::Error> {
        super::exact::deserialize(deserializer).map(Some)
    }
}

/// Written as `f64`, so that a JSON reader that is off by one `f64` step still finds the same `f32`.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use matchpoint_vector::Similarity;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde asks for"
    )]
    pub(super) fn serialize<S: Serializer>(
        score: &Similarity,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(score.get()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Similarity, D::Error> {
        let value = f64::deserialize(deserializer)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the nearest f32, as meant"
        )]
        let narrow = value as f32;
        if !(-1.0..=1.0).contains(&narrow) {
            return Err(de::Error::custom("a similarity is outside [-1, 1]"));
        }
        Similarity::new(narrow).ok_or_else(|| de::Error::custom("a similarity is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_alone_under_its_label_is_no_mated_trial() {
        let truths = |enrolled, alone, masked_too| {
            let query = QueryTrials {
                enrolled,
                alone,
                masked_too,
            };
            query.truths().collect::<Vec<_>>()
        };
        assert_eq!(truths(true, false, false), [TrialKind::Mated]);
        assert_eq!(
            truths(true, false, true),
            [TrialKind::Mated, TrialKind::LeftOut]
        );
        assert_eq!(truths(true, true, true), [TrialKind::LeftOut]);
        assert_eq!(truths(false, false, true), [TrialKind::NeverEnrolled]);
    }

    fn search(truth: TrialKind, number: usize, found: Option<(&str, f32)>) -> RecordedSearch {
        RecordedSearch {
            probe: format!("p{number}"),
            label: match truth {
                TrialKind::Mated | TrialKind::LeftOut => format!("m{}", number % 3),
                TrialKind::NeverEnrolled => format!("s{number}"),
            },
            truth,
            found: found.map(|(label, score)| RecordedMatch {
                item: format!("{label}-item"),
                label: label.to_owned(),
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            }),
            conditions: BTreeMap::from([(
                "camera".to_owned(),
                if number.is_multiple_of(2) {
                    "left"
                } else {
                    "right"
                }
                .to_owned(),
            )]),
        }
    }

    fn recording() -> Recording {
        Recording::new(vec![
            search(TrialKind::Mated, 0, Some(("m0", 0.9))),
            search(TrialKind::Mated, 1, Some(("m1", 0.4))),
            search(TrialKind::Mated, 2, Some(("m0", 0.8))),
            search(TrialKind::NeverEnrolled, 3, Some(("m0", 0.6))),
            search(TrialKind::NeverEnrolled, 4, None),
            search(TrialKind::LeftOut, 5, Some(("m1", 0.3))),
        ])
        .unwrap()
    }

    fn at(score: f32) -> Threshold {
        Threshold::new(score).unwrap()
    }

    fn plain(score: f32) -> ScaledThreshold {
        ScaledThreshold {
            threshold: at(score),
            scale: Scale::Similarity,
        }
    }

    #[test]
    fn an_adjusted_score_decides_and_the_similarity_is_kept_beside_it() {
        let mut searches = recording().searches().to_vec();
        for search in &mut searches {
            if let Some(found) = &mut search.found {
                found.adjusted = Similarity::new(found.score.get() - 0.25);
            }
        }
        let adjusted = Recording::new(searches).unwrap();
        let adjusted = adjusted.with_score_labels(BTreeSet::from(["m9".to_owned()]));
        let adjusted = adjusted.with_merged_labels(BTreeSet::from(["s9".to_owned()]));
        let back = Recording::parse(&adjusted.to_json().unwrap()).unwrap();
        assert_eq!(back, adjusted);
        assert_ne!(adjusted.trials().digest(), recording().trials().digest());
        let json = String::from_utf8(adjusted.to_json().unwrap()).unwrap();
        for altered in [
            json.replace("m9", "m8"),
            json.replace("s9", "s8"),
            json.replacen("0.8999999761581421", "0.75", 1),
        ] {
            assert_ne!(altered, json);
            assert!(Recording::parse(altered.as_bytes()).is_err());
        }
        // As similarities, 0.9, 0.8 and 0.6 reach 0.6. Among the adjusted scores, only 0.65 does.
        let held = ScaledThreshold {
            scale: Scale::Held,
            ..plain(0.6)
        };
        let flips = adjusted.flips(plain(0.6), held);
        let told: Vec<&str> = flips.iter().map(|f| f.search.probe.as_str()).collect();
        assert_eq!(told, ["p2", "p3"]);
        assert!(
            flips
                .iter()
                .all(|flip| flip.after == "reject" && flip.improves)
        );
    }

    #[test]
    fn a_flip_says_which_decision_changes_and_whether_for_the_better() {
        let flips = recording().flips(plain(0.7), plain(0.35));
        let told: Vec<(&str, &str, bool)> = flips
            .iter()
            .map(|flip| (flip.search.probe.as_str(), flip.after, flip.improves))
            .collect();
        assert_eq!(told, [("p3", "accept", false), ("p1", "accept", true)]);
        let back = recording().flips(plain(0.35), plain(0.7));
        assert_eq!(back.len(), 2);
        assert!(back[0].improves && !back[1].improves);
        assert!(recording().flips(plain(0.7), plain(0.7)).is_empty());
    }

    #[test]
    fn labels_that_lose_their_own_and_attract_others_come_first() {
        let outcomes = recording().by_label(at(0.5));
        let told: Vec<(&str, u64, u64, u64)> = outcomes
            .iter()
            .map(|one| (one.label.as_str(), one.mated, one.missed, one.impostors))
            .collect();
        assert_eq!(told, [("m1", 1, 1, 0), ("m2", 1, 1, 0), ("m0", 1, 0, 2)]);
        assert_eq!(outcomes[2].items, BTreeSet::from(["m0-item".to_owned()]));
    }

    #[test]
    fn every_condition_has_its_own_rates() {
        let conditions = recording().by_condition(at(0.5));
        let told: Vec<(&str, u64, u64)> = conditions
            .iter()
            .map(|one| {
                let trials = |rate: Option<Rate>| rate.map_or(0, |rate| rate.count.trials());
                (one.value.as_str(), trials(one.far), trials(one.frr))
            })
            .collect();
        assert_eq!(told, [("left", 1, 2), ("right", 2, 1)]);
    }

    #[test]
    fn labels_that_may_be_one_stranger_count_as_one_in_each_condition() {
        let searches = (0..8).map(|number| RecordedSearch {
            conditions: BTreeMap::from([("camera".to_owned(), format!("c{}", number % 2))]),
            ..RecordedSearch::of_stranger(
                (format!("s{number}"), format!("p{number}")),
                Similarity::new(0.1),
            )
        });
        let repeats = [("s2", "s0"), ("s4", "s0")];
        let repeats = repeats.map(|(label, first)| (label.to_owned(), first.to_owned()));
        let recording = Recording::new(searches.collect()).unwrap();
        let recording = recording.with_repeats(repeats.into());
        let labels = recording.by_condition(at(0.5));
        let labels = labels.iter().map(|one| one.far.map(|far| far.labels));
        assert_eq!(Vec::from_iter(labels), [Some(2), Some(4)]);
    }

    #[test]
    fn a_changed_recording_is_refused() {
        let json = String::from_utf8(recording().to_json().unwrap()).unwrap();
        assert_eq!(Recording::parse(json.as_bytes()).unwrap(), recording());
        for (from, to) in [
            (
                "\"m0-item\",\"label\":\"m0\"",
                "\"m0-item\",\"label\":\"m9\"",
            ),
            ("\"p3\"", "\"p9\""),
            ("\"format\":1", "\"format\":2"),
            ("\"never-enrolled\"", "\"left-out\""),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(changed, json, "{from}");
            assert!(Recording::parse(changed.as_bytes()).is_err(), "{from}");
        }
        let beyond = json.replacen("0.8999999761581421", "1.5", 1);
        assert_ne!(beyond, json);
        assert!(Recording::parse(beyond.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn scores_survive_the_record_to_the_last_bit(score in -1.0_f32..=1.0) {
            let one = vec![search(TrialKind::NeverEnrolled, 0, Some(("m0", score)))];
            let recording = Recording::new(one).unwrap();
            let read = Recording::parse(&recording.to_json().unwrap()).unwrap();
            prop_assert_eq!(&read, &recording);
        }
    }
}
