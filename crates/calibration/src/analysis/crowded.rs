//! Are labels of strangers said to be several things that are one?
//!
//! What is known to differ tells how near different things come: strangers and items of the gallery. If
//! strangers were no nearer to each other than that, hardly any two of them were at half of the least of these
//! distances, since what lies that near falls with a power of it. One picture under many names, with noise
//! that makes it no copy, is far within.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::copies::{CopyGroups, linked};
use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::pairwise::PairProgress;
use super::strangers::StrangerRow;
use crate::recording::{RecordedSearch, TrialKind};
use crate::strangers::is_unnamed;

/// One of this many strangers may be nearer to the gallery than the distance that counts: a wrong label, or
/// a thing that is enrolled under another one.
const ONE_OF: usize = 100;
/// If no more than one of this many labels is lost, strangers are as they are: twins, or variants.
const LOST_ONE_OF: usize = 10;
/// Nor if no more than this many are.
const LOST_MIN: usize = 3;

/// Labels of strangers that stand nearer to each other than different things do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrowdedStrangers {
    /// Labels that are nearer to another one than different things are.
    pub labels: u64,
    /// Strangers that they count as: groups of them, linked directly or in a chain.
    pub strangers: u64,
    /// The similarity from which two are linked: at half of the distance within which one of a hundred
    /// strangers comes to any item.
    pub level: f32,
    /// The first of them and one that is linked with it.
    pub example: [String; 2],
    /// The label that each counts under, if that is another one.
    #[serde(skip)]
    label_of: BTreeMap<String, String>,
}

impl CrowdedStrangers {
    /// Finds out whether the named strangers among `searches` are fewer than their labels. `None` if
    /// no more than a tenth of the labels would be lost, or two.
    ///
    /// # Errors
    /// A vector that is not of unit length; [`AnalysisError::Stopped`] if `watch` said so.
    pub fn find(
        rows: &[StrangerRow<'_>],
        searches: &[RecordedSearch],
        watch: PairProgress<'_>,
    ) -> Result<Option<Self>, AnalysisError> {
        let Some(level) = level(searches) else {
            return Ok(None);
        };
        let rows: Vec<StrangerRow<'_>> = rows
            .iter()
            .copied()
            .filter(|row| !is_unnamed(row.label))
            .collect();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.label).collect();
        let names: Vec<&str> = names.into_iter().collect();
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

    fn of(names: &[&str], groups: &mut CopyGroups, level: f32) -> Option<Self> {
        let mut label_of = BTreeMap::new();
        let mut firsts = BTreeSet::new();
        let mut example = None;
        for (number, name) in names.iter().enumerate() {
            let first = groups.first(number);
            let Some(counts_as) = names.get(first).filter(|_| first != number) else {
                continue;
            };
            firsts.insert(first);
            label_of.insert((*name).to_owned(), (*counts_as).to_owned());
            example.get_or_insert_with(|| [(*counts_as).to_owned(), (*name).to_owned()]);
        }
        let lost = label_of.len();
        if lost < LOST_MIN || lost * LOST_ONE_OF <= names.len() {
            return None;
        }
        Some(Self {
            labels: (lost + firsts.len()) as u64,
            strangers: firsts.len() as u64,
            level,
            example: example?,
            label_of,
        })
    }

    /// Gives searches of strangers that may be the same one label.
    pub fn count_once(&self, searches: &mut [RecordedSearch]) {
        for search in searches {
            if let Some(label) = self.label_of.get(&search.label) {
                search.label.clone_from(label);
            }
        }
    }

    /// How many labels count as how many, and why.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self {
            labels,
            strangers,
            level,
            ..
        } = self;
        format!(
            "{labels} labels of strangers count as {strangers}: each is nearer to another one (similarity from {level:.4}) than half of the distance between strangers and the gallery, so that they may be the same"
        )
    }
}

/// See [`CrowdedStrangers::level`]. A similarity is one less half of the square of the distance.
fn level(searches: &[RecordedSearch]) -> Option<f32> {
    let strangers = searches
        .iter()
        .filter(|search| search.truth == TrialKind::NeverEnrolled && !is_unnamed(&search.label));
    let count = strangers.clone().count();
    let found = strangers.filter_map(|search| search.found.as_ref());
    let mut scores: Vec<f32> = found.map(|found| found.score.get()).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    let nearest = scores.get(count / ONE_OF)?;
    Some(1.0 - (1.0 - nearest) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchpoint_vector::{Embedding, Similarity};

    /// A stream of splitmix64.
    struct Random(u64);

    impl Random {
        /// Nearly normal, with a standard deviation of one.
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

        /// Around a vector, with that much noise in each component.
        fn near(&mut self, centre: &[f32], noise: f32) -> Vec<f32> {
            let raw = centre.iter().map(|value| value + noise * self.normal());
            let unit = Embedding::normalise(raw.collect()).unwrap();
            unit.as_slice().to_vec()
        }
    }

    fn found(strangers: &[Vec<f32>], gallery: &[Vec<f32>]) -> Option<CrowdedStrangers> {
        let search = |number: usize, vector: &Vec<f32>| {
            let scores = gallery
                .iter()
                .map(|item| Similarity::between(vector, item).unwrap());
            let names = (format!("stranger {number}"), format!("probe {number}"));
            RecordedSearch::of_stranger(names, scores.max())
        };
        let searches: Vec<RecordedSearch> = strangers
            .iter()
            .enumerate()
            .map(|(number, vector)| search(number, vector))
            .collect();
        let rows: Vec<StrangerRow<'_>> = searches
            .iter()
            .zip(strangers)
            .map(|(search, vector)| StrangerRow {
                label: &search.label,
                vector,
            })
            .collect();
        CrowdedStrangers::find(&rows, &searches, &|_, _| true).unwrap()
    }

    /// What strangers and items are drawn from.
    struct StrangerWorld {
        components: usize,
        /// Kinds of things, that have a centre each; none if all differ alike.
        kinds: usize,
        /// What all pictures of strangers have in common, and the gallery's have not.
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
    fn strangers_that_differ_count_as_many_as_they_are() {
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
            for run in 0..40 {
                let (strangers, items) = [(24, 36), (200, 36), (300, 20)][run % 3];
                let [strangers, gallery] = world.draw(&mut random, strangers, items);
                let found = found(&strangers, &gallery);
                assert_eq!(found, None, "{components} {kinds} {shift} {run}");
            }
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
            assert_eq!((found.labels, found.strangers), (301, 1), "{noise}");
            assert!(0.7 < found.level && found.level < 0.95, "{found:?}");
        }
    }

    #[test]
    fn a_few_twins_are_strangers_of_their_own() {
        let world = StrangerWorld {
            components: 128,
            kinds: 0,
            shift: 0.0,
        };
        let mut random = Random(3);
        let [mut strangers, gallery] = world.draw(&mut random, 100, 40);
        for twin in 0..10 {
            let other = random.near(&strangers[twin], 1e-2);
            strangers.push(other);
        }
        assert_eq!(found(&strangers, &gallery), None, "10 of 110");
        for twin in 10..15 {
            let other = random.near(&strangers[twin], 1e-2);
            strangers.push(other);
        }
        let crowded = found(&strangers, &gallery).unwrap();
        assert_eq!((crowded.labels, crowded.strangers), (30, 15));
        assert_eq!(found(&strangers[..0], &gallery), None);
        assert_eq!(
            found(&strangers, &[]),
            None,
            "nothing says how far things are apart"
        );
    }
}
