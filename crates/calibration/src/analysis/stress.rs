//! Computes the FAR for harder conditions than the tested mixture: the worst kind of strangers, the nearest
//! ones, look-alikes among enrolled items, and twice the gallery.
//!
//! All figures are at the chosen threshold and on the data at hand. They promise nothing and have no influence
//! on the threshold. They show how much depends on each assumption.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::AnalysisError;
use super::clusters::{ClusterRow, clusters};
use super::input::AnalysisInput;
use super::nearest::nearest;
use super::pairwise::PairProgress;
use crate::binomial::real;
use crate::decision::{Decision, Threshold};
use crate::growth::{FpirAt, predicted};
use crate::rates::{Confidence, Rate};
use crate::recording::{CONDITION_VALUES_MAX, RecordedMatch, RecordedSearch, TrialKind};
use matchpoint_vector::Similarity;

/// Number of labels of a cluster that are named.
const NAMED: usize = 5;
/// The highest number of clusters. More would hardly differ from each other.
const CLUSTERS_MAX: usize = 8;

/// The condition that is made harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StressKind {
    /// Only the strangers with the worst value of a metadata column.
    WorstValue,
    /// Only the tenth of the strangers that comes nearest to the gallery.
    NearestDecile,
    /// Only the worst cluster of the strangers' vectors.
    WorstCluster,
    /// Enrolled items, searched for with their own label left out.
    Enrolled,
    /// A gallery of twice the size.
    TwiceTheGallery,
}

/// The FAR under one stress condition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stress {
    /// The condition.
    pub kind: StressKind,
    /// The strangers concerned, in words.
    pub who: String,
    /// Their FAR at the threshold. If it is the worst of several groups, the interval is widened for their
    /// number. For a larger gallery it is a prediction, whose interval is extrapolated from that of today's
    /// FAR.
    pub far: StressFar,
    /// Some of their labels, if nothing else names them.
    pub labels: Vec<String>,
}

/// A FAR with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StressFar {
    /// The estimated FAR.
    pub estimate: f64,
    /// The lower end of the interval.
    pub lower: f64,
    /// The upper end of the interval.
    pub upper: f64,
    /// The nominal coverage of the interval, which is higher for the worst of several groups.
    pub confidence: f64,
    /// Number of labels that the estimate is based on.
    pub labels: u64,
}

impl From<Rate> for StressFar {
    fn from(rate: Rate) -> Self {
        Self {
            estimate: rate.estimate,
            lower: rate.interval.lower,
            upper: rate.interval.upper,
            confidence: rate.interval.confidence.get(),
            labels: rate.labels,
        }
    }
}

/// A search for a stranger, and whether it is accepted.
struct JudgedStranger<'a> {
    search: &'a RecordedSearch,
    /// The label that it counts under: that of another one if both may be one stranger.
    label: &'a str,
    accepted: bool,
}

impl AnalysisInput<'_> {
    /// The FAR under every condition that these data can show, in the order of [`StressKind`].
    pub(super) fn stress(
        &self,
        notes: &mut Vec<String>,
        watch: PairProgress<'_>,
    ) -> Result<Vec<Stress>, AnalysisError> {
        let trials = self.recording.trials();
        let strangers = judged(self.recording.searches(), self.threshold, |label| {
            trials.stranger(label)
        });
        let mut stresses = of_judged(&strangers);
        stresses.extend(self.worst_cluster(&strangers));
        stresses.extend(self.enrolled(notes, watch)?);
        stresses.extend(self.twice(&strangers));
        Ok(stresses)
    }

    fn worst_cluster(&self, strangers: &[JudgedStranger<'_>]) -> Option<Stress> {
        let queries = self.queries?;
        let row_of: BTreeMap<&str, usize> =
            queries.ids.iter().map(String::as_str).zip(0..).collect();
        let vector_of = |probe: &str| queries.embeddings.row(*row_of.get(probe)?);
        worst_cluster_of(strangers, &vector_of, self.seed)
    }

    /// Searches for each item among the items of other labels.
    fn enrolled(
        &self,
        notes: &mut Vec<String>,
        watch: PairProgress<'_>,
    ) -> Result<Option<Stress>, AnalysisError> {
        let items = &self.gallery.embeddings;
        let pairs = items.len() as u64 * items.len() as u64;
        if self.scope.pairs_max < pairs {
            notes.push(
                "Enrolled items were not searched for with their own label left out: too many pairs."
                    .to_owned(),
            );
            return Ok(None);
        }
        let found = nearest(items, items, watch)?;
        let accepted = found.iter().enumerate().map(|(row, found)| {
            let score = found.other_label.map(|other| other.score);
            let accepted = self.on_similarity.decide(score) == Decision::Accept;
            (self.gallery.label(row, self.names), accepted)
        });
        let accepted: Vec<(&str, bool)> = accepted.collect();
        let rate = Rate::over_labels(&accepted, Confidence::DISPLAY);
        Ok(rate.map(|rate| Stress {
            kind: StressKind::Enrolled,
            who: "strangers as like the gallery as its own items are: each searched for with its own label left out".to_owned(),
            far: rate.into(),
            labels: Vec::new(),
        }))
    }

    fn twice(&self, strangers: &[JudgedStranger<'_>]) -> Option<Stress> {
        let all: Vec<&JudgedStranger<'_>> = strangers.iter().collect();
        let rate = rate(&all, Confidence::DISPLAY)?;
        let items = self.gallery.embeddings.len() as u64;
        let at = |fpir| {
            Some(
                predicted(FpirAt { items, fpir }, items.checked_mul(2)?)
                    .ok()?
                    .fpir,
            )
        };
        Some(Stress {
            kind: StressKind::TwiceTheGallery,
            who: "all strangers, in a gallery of twice the size (a prediction)".to_owned(),
            far: StressFar {
                estimate: at(rate.estimate)?,
                lower: at(rate.interval.lower)?,
                upper: at(rate.interval.upper)?,
                confidence: rate.interval.confidence.get(),
                labels: rate.labels,
            },
            labels: Vec::new(),
        })
    }
}

/// The FAR under the conditions that need no vectors: the worst value of each metadata column, and the nearest
/// tenth.
#[must_use]
pub fn of_searches(searches: &[RecordedSearch], threshold: Threshold) -> Vec<Stress> {
    of_judged(&judged(searches, threshold, |label| label))
}

/// The FAR of the worst cluster of the strangers' vectors, each of which `vector_of` gives for a search. Clusters are
/// formed without any score.
#[must_use]
pub fn of_vectors<'a>(
    searches: &[RecordedSearch],
    threshold: Threshold,
    vector_of: &dyn Fn(&str) -> Option<&'a [f32]>,
    seed: u64,
) -> Option<Stress> {
    worst_cluster_of(&judged(searches, threshold, |label| label), vector_of, seed)
}

fn worst_cluster_of<'a>(
    strangers: &[JudgedStranger<'_>],
    vector_of: &dyn Fn(&str) -> Option<&'a [f32]>,
    seed: u64,
) -> Option<Stress> {
    let mut of_label: BTreeMap<&str, &[f32]> = BTreeMap::new();
    for one in strangers {
        if let Some(vector) = vector_of(&one.search.probe) {
            of_label.entry(one.label).or_insert(vector);
        }
    }
    let rows: Vec<ClusterRow<'_>> = of_label
        .iter()
        .map(|(&label, &vector)| ClusterRow { label, vector })
        .collect();
    // A number of clusters that leaves enough labels in each: at least about four times as many labels as
    // there are clusters.
    let count = rows.len().isqrt().div_ceil(2).min(CLUSTERS_MAX);
    if count < 2 {
        return None;
    }
    let found = clusters(&rows, count, seed);
    let groups = found.iter().map(|cluster| {
        let labels: BTreeSet<&str> = cluster
            .iter()
            .map(|&row| rows.get(row).map_or("", |row| row.label))
            .collect();
        let searches = strangers
            .iter()
            .filter(move |one| labels.contains(one.label));
        searches.collect::<Vec<_>>()
    });
    let groups: Vec<Vec<&JudgedStranger<'_>>> = groups.collect();
    let (worst, rate) = worst_of(&groups)?;
    let named = found
        .get(worst)?
        .iter()
        .take(NAMED)
        .filter_map(|&row| rows.get(row));
    Some(Stress {
        kind: StressKind::WorstCluster,
        who: format!(
            "the worst of {} groups that strangers form by their own likeness",
            groups.len()
        ),
        far: rate.into(),
        labels: named.map(|row| row.label.to_owned()).collect(),
    })
}

fn of_judged(strangers: &[JudgedStranger<'_>]) -> Vec<Stress> {
    let mut stresses = worst_values(strangers);
    stresses.extend(nearest_decile(strangers));
    stresses
}

/// The searches for strangers, decided at the threshold.
fn judged<'a>(
    searches: &'a [RecordedSearch],
    threshold: Threshold,
    counts_under: impl Fn(&'a str) -> &'a str,
) -> Vec<JudgedStranger<'a>> {
    let strangers = searches
        .iter()
        .filter(|search| search.truth != TrialKind::Mated);
    let judged = strangers.map(|search| JudgedStranger {
        search,
        label: counts_under(&search.label),
        accepted: accepts(threshold, search),
    });
    judged.collect()
}

fn accepts(threshold: Threshold, search: &RecordedSearch) -> bool {
    let score = search.found.as_ref().map(RecordedMatch::decision_score);
    threshold.decide(score) == Decision::Accept
}

fn rate(searches: &[&JudgedStranger<'_>], confidence: Confidence) -> Option<Rate> {
    let outcomes = searches.iter().map(|one| (one.label, one.accepted));
    Rate::over_labels(&outcomes.collect::<Vec<_>>(), confidence)
}

/// The group with the highest FAR, and that FAR. Its interval is widened because it is the worst of several
/// (Bonferroni).
fn worst_of(groups: &[Vec<&JudgedStranger<'_>>]) -> Option<(usize, Rate)> {
    let delta = Confidence::DISPLAY.delta() / real((groups.len() as u64).max(1));
    let confidence = Confidence::new(1.0 - delta).ok()?;
    let rates = groups.iter().enumerate();
    let rates = rates.filter_map(|(group, searches)| Some((group, rate(searches, confidence)?)));
    rates.max_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate).then(b.0.cmp(&a.0)))
}

fn worst_values(strangers: &[JudgedStranger<'_>]) -> Vec<Stress> {
    let mut columns: BTreeMap<&str, BTreeMap<&str, Vec<&JudgedStranger<'_>>>> = BTreeMap::new();
    for one in strangers {
        for (column, value) in &one.search.conditions {
            let values = columns.entry(column).or_default();
            values.entry(value).or_default().push(one);
        }
    }
    let telling = |values: &BTreeMap<&str, Vec<&JudgedStranger<'_>>>| {
        (2..=CONDITION_VALUES_MAX).contains(&values.len())
    };
    let worst = columns.into_iter().filter(|(_, values)| telling(values));
    worst
        .filter_map(|(column, values)| {
            let (names, groups): (Vec<&str>, Vec<_>) = values.into_iter().unzip();
            let (worst, rate) = worst_of(&groups)?;
            Some(Stress {
                kind: StressKind::WorstValue,
                who: format!(
                    "strangers whose {column} is {}, the worst of {}",
                    names.get(worst)?,
                    names.len()
                ),
                far: rate.into(),
                labels: Vec::new(),
            })
        })
        .collect()
}

/// Each label is ranked by its first search and judged by its others, because the search that ranks a label
/// would bias its FAR.
fn nearest_decile(strangers: &[JudgedStranger<'_>]) -> Option<Stress> {
    let mut of_label: BTreeMap<&str, Vec<&JudgedStranger<'_>>> = BTreeMap::new();
    for one in strangers {
        of_label.entry(one.label).or_default().push(one);
    }
    let mut ranked: Vec<(f32, Vec<&JudgedStranger<'_>>)> = of_label
        .into_values()
        .filter_map(|mut own| {
            own.sort_by(|a, b| a.search.probe.cmp(&b.search.probe));
            let (first, rest) = own.split_first()?;
            let score = first
                .search
                .found
                .as_ref()
                .map(RecordedMatch::decision_score);
            (!rest.is_empty()).then(|| (score.map_or(-1.0, Similarity::get), rest.to_vec()))
        })
        .collect();
    let (all, decile) = (ranked.len(), ranked.len().div_ceil(10));
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(decile);
    let nearest: Vec<&JudgedStranger<'_>> = ranked.into_iter().flat_map(|(_, rest)| rest).collect();
    let rate = rate(&nearest, Confidence::DISPLAY)?;
    Some(Stress {
        kind: StressKind::NearestDecile,
        who: format!(
            "the {decile} of {all} strangers that come nearest, by another of their pictures"
        ),
        far: rate.into(),
        labels: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(label: usize, picture: usize, score: f32, camera: &str) -> RecordedSearch {
        let names = (format!("s{label:03}"), format!("{label:03}-{picture}"));
        RecordedSearch {
            conditions: BTreeMap::from([("camera".to_owned(), camera.to_owned())]),
            ..RecordedSearch::of_stranger(names, Similarity::new(score))
        }
    }

    fn accepted(searches: &[RecordedSearch]) -> Vec<JudgedStranger<'_>> {
        judged(searches, Threshold::new(0.5).unwrap(), |label| label)
    }

    #[test]
    fn labels_that_may_be_one_stranger_count_as_one() {
        let searches: Vec<RecordedSearch> = (0..40)
            .map(|n| stranger(n, 0, 0.9, ["phone", "studio"][n % 2]))
            .collect();
        // All of the phone's strangers may be one.
        let is_phone = |label: &str| label[1..].parse::<usize>().unwrap() % 2 == 0;
        let one = |label| if is_phone(label) { "s000" } else { label };
        let strangers = judged(&searches, Threshold::new(0.5).unwrap(), one);
        assert_eq!(worst_values(&strangers)[0].far.labels, 1);
        // A second picture of the same stranger, under another label.
        let nearest = nearest_decile(&strangers).unwrap();
        assert!(nearest.who.starts_with("the 1 of 1 "), "{}", nearest.who);
    }

    #[test]
    fn the_worst_value_is_named_with_an_interval_for_the_worst_of_several() {
        // One in four of the phone's strangers is accepted, and none of the others.
        let searches: Vec<RecordedSearch> = (0..120)
            .map(|n| {
                let camera = ["phone", "studio", "web"][n % 3];
                let score = if n % 12 == 0 { 0.9 } else { 0.1 };
                stranger(n, 0, score, camera)
            })
            .collect();
        let strangers = accepted(&searches);
        let found = worst_values(&strangers);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].who.contains("camera is phone, the worst of 3"),
            "{}",
            found[0].who
        );
        assert_eq!(
            (found[0].far.labels, (found[0].far.estimate * 1e6).round()),
            (40, 250_000.0)
        );
        let all: Vec<&JudgedStranger<'_>> = strangers
            .iter()
            .filter(|one| one.search.conditions["camera"] == "phone")
            .collect();
        let alone = rate(&all, Confidence::DISPLAY).unwrap().interval;
        assert!(found[0].far.lower < alone.lower && alone.upper < found[0].far.upper);
    }

    #[test]
    fn the_nearest_are_judged_by_other_pictures_than_those_that_rank_them() {
        // The first picture of each label ranks it. Whether the second is accepted is independent of that.
        let searches: Vec<RecordedSearch> = (0..50)
            .flat_map(|n| {
                let near = if n < 5 { 0.9 } else { 0.2 };
                let then = if n == 0 { 0.9 } else { 0.1 };
                [stranger(n, 0, near, "x"), stranger(n, 1, then, "x")]
            })
            .collect();
        let found = nearest_decile(&accepted(&searches)).unwrap();
        assert_eq!(
            (found.far.labels, (found.far.estimate * 1e6).round()),
            (5, 200_000.0)
        );
        assert!(found.who.starts_with("the 5 of 50"));
        // With one picture for each label, it can be ranked but not judged.
        let single: Vec<RecordedSearch> = (0..50).map(|n| stranger(n, 0, 0.9, "x")).collect();
        assert_eq!(nearest_decile(&accepted(&single)), None);
    }
}
