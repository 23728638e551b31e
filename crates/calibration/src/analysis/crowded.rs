//! Checks whether several labels of strangers may stand for one thing.
//!
//! Strangers and gallery items are known to be different things, so the distances between them show how close
//! different things come. Two labels of strangers that are closer than that may be one stranger under two
//! names, or two look-alikes. The pictures cannot show which, so a promise has to hold in both cases
//! ([`certify_either_way`](crate::certify::certify_either_way)).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::copies::{CopyGroups, linked};
use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::pairwise::PairProgress;
use super::strangers::StrangerRow;
use crate::binomial::{normal_quantile, real};
use crate::recording::{RecordedSearch, TrialKind};
use crate::strangers::{EITHER_WAY, is_unnamed};
use matchpoint_vector::Similarity;

/// One stranger in this many may be closer to the gallery than the distance that counts, because of a wrong
/// label or because it is enrolled under another one.
const ONE_OF: usize = 100;
/// By chance, one label in this many is linked to another. This is so rare that chance makes no chains.
const LINKED_ONE_OF: usize = 20;
/// If fewer labels than this would be lost, all count as different: a pair or two does not affect a
/// certificate, and may be chance.
const LOST_MIN: u64 = 3;
/// Number of pairs of strangers' pictures that are sampled to measure how similar strangers are.
const PAIRS_SAMPLED: usize = 20_000;

/// Labels of strangers that are closer to each other than different things usually are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrowdedStrangers {
    /// Number of labels that are linked to another one.
    pub labels: u64,
    /// Number of strangers that these labels count as if each group, linked directly or through a chain, is one
    /// thing.
    pub strangers: u64,
    /// The similarity from which two labels are linked. It is the score that one in a hundred strangers reaches
    /// in the gallery. It is higher if strangers resemble each other more, or are so many that chance would
    /// link them, but never higher than at half of that distance.
    pub level: f32,
    /// The labels of each group, in order; the largest groups first.
    pub groups: Vec<Vec<String>>,
}

impl CrowdedStrangers {
    /// Checks whether the named strangers in `searches`, made in a gallery of `items` items, may be fewer than
    /// their labels. `None` if at most two labels would be lost.
    ///
    /// # Errors
    /// Returns an error if a vector does not have unit length, and [`AnalysisError::Stopped`] if `watch`
    /// returned `false`.
    pub fn find<'a>(
        rows: &[StrangerRow<'a>],
        searches: impl IntoIterator<Item = &'a RecordedSearch>,
        items: usize,
        watch: PairProgress<'_>,
    ) -> Result<Option<Self>, AnalysisError> {
        let strangers = searches.into_iter().filter(|search| {
            search.truth == TrialKind::NeverEnrolled && !is_unnamed(&search.label)
        });
        let strangers: Vec<&RecordedSearch> = strangers.collect();
        let rows: Vec<StrangerRow<'_>> = rows
            .iter()
            .copied()
            .filter(|row| !is_unnamed(row.label))
            .collect();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.label).collect();
        let names: Vec<&str> = names.into_iter().collect();
        // Each picture of a label may be linked to each picture of the others.
        let pairs = LINKED_ONE_OF * rows.len() * rows.len() / names.len().max(1);
        let Some([nearest, rare]) = found_by_strangers(&strangers, pairs / items.max(1)) else {
            return Ok(None);
        };
        // If strangers are distributed like the gallery, hardly any two lie within half of that distance,
        // however many there are, because the number of neighbours falls with a power of the distance. A
        // similarity equals one minus half of the squared distance.
        let half = 1.0 - (1.0 - nearest) / 4.0;
        let alike = between_strangers(&rows, pairs);
        let level = if rare < alike { alike } else { rare };
        let level = if half < level { half } else { level };
        let number = |row: &StrangerRow<'_>| names.binary_search(&row.label).unwrap_or_default();
        let dimension = rows.first().map_or(1, |row| row.vector.len());
        let vectors = rows.iter().flat_map(|row| row.vector.iter().copied());
        let labels = rows
            .iter()
            .filter_map(|row| u32::try_from(number(row)).ok());
        let embeddings = Embeddings::from_unit(dimension, vectors.collect(), labels.collect())?;
        let mut groups = CopyGroups::new(names.len());
        for link in linked(&embeddings, level, watch)? {
            if let (Some(row), Some(first)) = (rows.get(link.row), rows.get(link.first)) {
                groups.join(number(row), number(first));
            }
        }
        Ok(Self::of(&names, &mut groups, level))
    }

    fn of(names: &[&str], found: &mut CopyGroups, level: f32) -> Option<Self> {
        let mut groups: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (number, name) in names.iter().enumerate() {
            let group = groups.entry(found.first(number)).or_default();
            group.push((*name).to_owned());
        }
        let mut groups: Vec<Vec<String>> = groups.into_values().collect();
        groups.retain(|group| 1 < group.len());
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let labels: u64 = groups.iter().map(|group| group.len() as u64).sum();
        let strangers = groups.len() as u64;
        (LOST_MIN <= labels - strangers).then_some(Self {
            labels,
            strangers,
            level,
            groups,
        })
    }

    /// Maps each label to the first label of its group, under which it counts if the group is one stranger.
    #[must_use]
    pub fn repeats(&self) -> BTreeMap<String, String> {
        let mut repeats = BTreeMap::new();
        for group in &self.groups {
            let Some((first, others)) = group.split_first() else {
                continue;
            };
            repeats.extend(others.iter().map(|label| (label.clone(), first.clone())));
        }
        repeats
    }

    /// Says how many strangers the labels may be, and what follows from it.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self {
            labels,
            strangers,
            level,
            ..
        } = self;
        format!(
            "{labels} labels of strangers may be {strangers}: they are nearer to each other (similarity from {level:.4}) than strangers come to the gallery, as the same under several names are, and look-alikes; {EITHER_WAY}, and intervals count them as {strangers}"
        )
    }
}

/// The scores that one search in a hundred, and one in `one_of`, reaches among those for strangers.
fn found_by_strangers(strangers: &[&RecordedSearch], one_of: usize) -> Option<[f32; 2]> {
    let count = strangers.len();
    let found = strangers.iter().filter_map(|search| search.found.as_ref());
    let mut scores: Vec<f32> = found.map(|found| found.score.get()).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    let reached = |one_of: usize| scores.get(count / one_of).copied();
    Some([reached(ONE_OF)?, reached(one_of.max(ONE_OF))?])
}

/// The similarity that one in `pairs` pairs of strangers' pictures would exceed, for normal similarities with
/// the observed median and upper spread. Strangers may have something in common that the gallery lacks, such as
/// a camera. -1 if there are too few pairs.
fn between_strangers(rows: &[StrangerRow<'_>], pairs: usize) -> f32 {
    let apart = (1..rows.len()).flat_map(|step| rows.iter().zip(rows.iter().skip(step)));
    let apart = apart.filter(|(one, other)| one.label != other.label);
    let alike = apart.filter_map(|(one, other)| Similarity::between(one.vector, other.vector));
    let mut alike: Vec<f32> = alike.take(PAIRS_SAMPLED).map(Similarity::get).collect();
    alike.sort_unstable_by(f32::total_cmp);
    let at = |percent: usize| alike.get(alike.len() * percent / 100).copied();
    let (Some(median), Some(upper)) = (at(50), at(84)) else {
        return -1.0;
    };
    #[expect(clippy::cast_possible_truncation, reason = "a few standard deviations")]
    let deviations = normal_quantile(1.0 / real(pairs.max(4) as u64)) as f32;
    median + deviations * (upper - median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify::{Certificate, TargetFar, certify, certify_either_way};
    use crate::decision::{Decision, Threshold};
    use crate::recording::Recording;
    use matchpoint_vector::Embedding;

    /// A stream of splitmix64.
    struct Random(u64);

    impl Random {
        /// An approximately normal number with a standard deviation of one.
        fn normal(&mut self) -> f32 {
            let mut sum = 0.0;
            for _ in 0..12 {
                sum +=
                    f32::from(u16::try_from(crate::splitmix64::next(&mut self.0) >> 48).unwrap())
                        / 65_536.0
                        - 0.5;
            }
            sum
        }

        /// A vector near `centre`, with this much noise in each component.
        fn near(&mut self, centre: &[f32], noise: f32) -> Vec<f32> {
            let raw = centre.iter().map(|value| value + noise * self.normal());
            let unit = Embedding::normalise(raw.collect()).unwrap();
            unit.as_slice().to_vec()
        }
    }

    /// The results of searches for strangers, each with its own label.
    fn recording(strangers: &[Vec<f32>], gallery: &[Vec<f32>]) -> Recording {
        let search = |number: usize, vector: &Vec<f32>| {
            let scores = gallery
                .iter()
                .map(|item| Similarity::between(vector, item).unwrap());
            let names = (format!("stranger {number}"), format!("probe {number}"));
            RecordedSearch::of_stranger(names, scores.max())
        };
        let searches = strangers.iter().enumerate();
        let searches = searches.map(|(number, vector)| search(number, vector));
        Recording::new(searches.collect()).unwrap()
    }

    fn found(strangers: &[Vec<f32>], gallery: &[Vec<f32>]) -> Option<CrowdedStrangers> {
        let recording = recording(strangers, gallery);
        let searches = recording.searches();
        let rows: Vec<StrangerRow<'_>> = searches
            .iter()
            .zip(strangers)
            .map(|(search, vector)| StrangerRow {
                label: &search.label,
                vector,
            })
            .collect();
        CrowdedStrangers::find(&rows, searches, gallery.len(), &|_, _| true).unwrap()
    }

    /// The distribution of strangers and items.
    struct StrangerWorld {
        components: usize,
        /// Number of kinds of things, each with its own centre; 0 if all things differ alike.
        kinds: usize,
        /// A component that all pictures of strangers share and the gallery lacks.
        shift: f32,
    }

    impl StrangerWorld {
        fn draw(&self, random: &mut Random, strangers: usize, items: usize) -> [Vec<Vec<f32>>; 2] {
            let zero = vec![0.0; self.components];
            let kinds: Vec<Vec<f32>> = (0..self.kinds).map(|_| random.near(&zero, 1.0)).collect();
            let common = random.near(&zero, 1.0);
            let noise = 0.6 / f32::from(u16::try_from(self.components).unwrap()).sqrt();
            let mut one = |number: usize| match kinds.get(number % kinds.len().max(1)) {
                Some(kind) => random.near(kind, noise),
                None => random.near(&zero, 1.0),
            };
            let gallery = (0..items).map(&mut one).collect();
            let strangers = (0..strangers).map(&mut one);
            let shifted = strangers.map(|vector| {
                let both = vector.iter().zip(&common);
                let raw = both.map(|(own, common)| own + self.shift * common);
                let unit = Embedding::normalise(raw.collect()).unwrap();
                unit.as_slice().to_vec()
            });
            [shifted.collect(), gallery]
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "the figures of docs/labels.md")]
    fn strangers_that_differ_lose_few_labels() {
        let mut random = Random(7);
        for (components, kinds, shift) in [
            (128, 0, 0.0),
            (8, 0, 0.0),
            (64, 20, 0.0),
            (64, 0, 0.7),
            (64, 0, 1.5),
        ] {
            let world = StrangerWorld {
                components,
                kinds,
                shift,
            };
            let [mut lost_all, mut of, mut lost_most] = [0; 3];
            for run in 0..40 {
                let (strangers, items) = [(24, 36), (200, 36), (300, 20)][run % 3];
                let [strangers, gallery] = world.draw(&mut random, strangers, items);
                let lost = found(&strangers, &gallery).map_or(0, |found| found.repeats().len());
                lost_most = lost_most.max(lost * 1_000 / strangers.len());
                lost_all += lost;
                of += strangers.len();
            }
            eprintln!(
                "{components} components, {kinds} kinds, shift {shift}: {lost_all} of {of} labels lost, at most {lost_most} of 1,000 in a run"
            );
            assert!(
                lost_all * 20 <= of,
                "{components} {kinds} {shift}: {lost_all} of {of}"
            );
        }
    }

    #[test]
    fn one_vector_under_400_labels_is_one_stranger_whatever_the_noise() {
        let world = StrangerWorld {
            components: 128,
            kinds: 0,
            shift: 0.0,
        };
        for (run, noise) in [1e-3, 5e-3, 2e-2, 4e-2]
            .into_iter()
            .cycle()
            .take(20)
            .enumerate()
        {
            let mut random = Random(run as u64);
            let [mut strangers, gallery] = world.draw(&mut random, 100, 40);
            let one = strangers[0].clone();
            strangers.extend((0..300).map(|_| random.near(&one, noise)));
            let found = found(&strangers, &gallery).unwrap();
            // Chance may link a few of the others.
            assert_eq!(found.groups[0].len(), 301, "{noise}");
            assert!(found.labels <= 311, "{noise}: {}", found.labels);
        }
    }

    #[test]
    fn twins_are_listed_with_the_first_that_each_may_be() {
        let world = StrangerWorld {
            components: 128,
            kinds: 0,
            shift: 0.0,
        };
        let mut random = Random(3);
        let [mut strangers, gallery] = world.draw(&mut random, 100, 40);
        for twin in [4, 4, 7] {
            let other = random.near(&strangers[twin], 1e-2);
            strangers.push(other);
        }
        let crowded = found(&strangers, &gallery).unwrap();
        assert_eq!(crowded.groups[0].len(), 3);
        let repeats = crowded.repeats();
        assert_eq!(repeats.len() as u64, crowded.labels - crowded.strangers);
        let counts_as = |label: &str| repeats.get(label).map(String::as_str);
        assert_eq!(counts_as("stranger 4"), Some("stranger 100"));
        assert_eq!(counts_as("stranger 7"), Some("stranger 102"));
        assert_eq!(found(&strangers[..0], &gallery), None);
        assert_eq!(
            found(&strangers, &[]),
            None,
            "nothing says how far things are apart"
        );
    }

    /// The share of strangers that are accepted.
    fn far(threshold: Threshold, strangers: &[Vec<f32>], gallery: &[Vec<f32>]) -> f64 {
        let best = |one: &Vec<f32>| {
            let scores = gallery.iter().map(|item| Similarity::between(one, item));
            scores.map(Option::unwrap).max()
        };
        let accepted = strangers
            .iter()
            .filter(|one| threshold.decide(best(one)) == Decision::Accept);
        real(accepted.count() as u64) / real(strangers.len() as u64)
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "the figures of docs/labels.md")]
    fn a_certificate_holds_where_15_strangers_have_20_names_each() {
        let world = StrangerWorld {
            components: 32,
            kinds: 0,
            shift: 0.0,
        };
        let target = TargetFar::new(0.05, 0.9).unwrap();
        let (mut random, runs) = (Random(11), 100);
        let [mut apart, mut either_way, mut refused] = [0; 3];
        for _ in 0..runs {
            let [mut strangers, gallery] = world.draw(&mut random, 60, 40);
            for one in 0..15 {
                let one = strangers[one].clone();
                strangers.extend((0..19).map(|_| random.near(&one, 4e-2)));
            }
            let [to_come, _] = world.draw(&mut random, 600, 1);
            let repeats = found(&strangers, &gallery).unwrap().repeats();
            let recording = recording(&strangers, &gallery).with_repeats(repeats);
            let trials = recording.trials();
            let exceeded = |found: Certificate| 0.05 < far(found.threshold, &to_come, &gallery);
            let by_itself = certify(&trials.one_probe_per_label(0), target).unwrap();
            apart += u32::from(exceeded(by_itself));
            match certify_either_way(trials, 0, target) {
                Ok(found) => either_way += u32::from(exceeded(found)),
                Err(_) => refused += 1,
            }
        }
        eprintln!(
            "of {runs}: exceeded {apart} with each name a stranger, {either_way} if it holds either way, {refused} refused"
        );
        assert!(20 <= apart, "{apart}");
        assert!(either_way <= 12, "{either_way}");
    }
}
