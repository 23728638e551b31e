//! Estimates how many strangers unnamed pictures show.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use serde::Serialize;

use super::copies::linked;
use super::embeddings::Embeddings;
use super::error::AnalysisError;
use crate::recording::{RecordedSearch, TrialKind};
use crate::strangers::is_unnamed;

/// At most one mated search in this many may fail to find its label; otherwise no level can separate strangers.
const ONE_OF: usize = 20;

/// A query for a stranger.
#[derive(Clone, Copy, Debug)]
pub struct StrangerRow<'a> {
    /// Its label: a name, or a mark for an unnamed stranger.
    pub label: &'a str,
    /// Its vector, of unit length.
    pub vector: &'a [f32],
}

/// The number of trials that pictures of unnamed strangers count as.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnnamedStrangers {
    /// Number of pictures of unnamed strangers.
    pub pictures: u64,
    /// Number of strangers that they count as: groups of pictures that may show the same stranger.
    pub strangers: u64,
    /// The similarity from which two pictures may show the same stranger. It lies below the fifth percentile of
    /// the scores of mated searches by as much as that lies below their median; two single pictures score lower
    /// than a search, which takes the best of several items. `None` if more than 5 in 100 mated searches do not
    /// find their label. Then nothing separates strangers, and all unnamed ones count as one.
    pub level: Option<f32>,
    /// The label under which each unnamed picture counts.
    #[serde(skip)]
    label_of: BTreeMap<String, String>,
}

impl UnnamedStrangers {
    /// Computes how many strangers the unnamed ones in `searches` count as. Two pictures are linked if their
    /// similarity is at least the level, directly or through a chain. A picture that is linked to a named
    /// stranger counts as that stranger. All pictures without a vector in `rows` together count as one
    /// stranger. `None` if all strangers have a name.
    ///
    /// # Errors
    /// Returns an error if a vector does not have unit length.
    pub fn find(
        rows: &[StrangerRow<'_>],
        searches: &[RecordedSearch],
    ) -> Result<Option<Self>, AnalysisError> {
        let strangers = searches
            .iter()
            .filter(|s| s.truth == TrialKind::NeverEnrolled);
        let labels: BTreeSet<&str> = strangers
            .map(|search| search.label.as_str())
            .filter(|label| is_unnamed(label))
            .collect();
        let Some(one) = labels.first() else {
            return Ok(None);
        };
        let level = level(searches);
        // All count as one, unless the vectors show a difference.
        let mut label_of: BTreeMap<String, String> = BTreeMap::new();
        for label in &labels {
            label_of.insert((*label).to_owned(), (*one).to_owned());
        }
        if let Some(level) = level {
            for (label, counts_as) in groups(rows, level)? {
                label_of.insert(label, counts_as);
            }
        }
        let counted: BTreeSet<&str> = label_of
            .values()
            .map(String::as_str)
            .filter(|label| is_unnamed(label))
            .collect();
        Ok(Some(Self {
            pictures: labels.len() as u64,
            strangers: counted.len() as u64,
            level,
            label_of,
        }))
    }

    /// Gives the same label to all searches for strangers that may be the same one, and returns the labels that it
    /// replaced.
    pub fn count_once(&self, searches: &mut [RecordedSearch]) -> BTreeSet<String> {
        let mut replaced = BTreeSet::new();
        for search in searches {
            let counts_as = self.label_of.get(&search.label);
            if let Some(label) = counts_as.filter(|label| **label != search.label) {
                replaced.insert(mem::replace(&mut search.label, label.clone()));
            }
        }
        replaced
    }
}

/// The lowest similarity that two pictures of one thing may have; see [`UnnamedStrangers::level`].
fn level(searches: &[RecordedSearch]) -> Option<f32> {
    let mated = searches
        .iter()
        .filter(|search| search.truth == TrialKind::Mated);
    let mut scores: Vec<f32> = mated
        .map(|search| {
            let found = search.found.as_ref();
            let found = found.filter(|found| found.label == search.label);
            found.map_or(f32::NEG_INFINITY, |found| found.score.get())
        })
        .collect();
    scores.sort_unstable_by(f32::total_cmp);
    let low = scores.get(scores.len() / ONE_OF).copied()?;
    let median = scores.get(scores.len() / 2).copied()?;
    low.is_finite().then_some(low - (median - low))
}

fn groups(rows: &[StrangerRow<'_>], level: f32) -> Result<BTreeMap<String, String>, AnalysisError> {
    // Named strangers come first, because a group is named by its first row. They all get label 0, because rows
    // with equal labels are not linked. Each unnamed picture gets its own label.
    let (unnamed, named): (Vec<StrangerRow<'_>>, Vec<_>) =
        rows.iter().copied().partition(|row| is_unnamed(row.label));
    let labels = vec![0_u32; named.len()];
    let own = (1_u32..).take(unnamed.len());
    let labels = labels.into_iter().chain(own).collect();
    let (names, count): (BTreeSet<&str>, usize) =
        (named.iter().map(|row| row.label).collect(), named.len());
    let rows: Vec<StrangerRow<'_>> = named.into_iter().chain(unnamed).collect();
    let dimension = rows.first().map_or(1, |row| row.vector.len());
    let vectors = rows.iter().flat_map(|row| row.vector.iter().copied());
    let embeddings = Embeddings::from_unit(dimension, vectors.collect(), labels)?;
    let mut label_of: BTreeMap<String, String> = rows
        .iter()
        .skip(count)
        .map(|row| (row.label.to_owned(), row.label.to_owned()))
        .collect();
    for link in linked(&embeddings, level, &|_, _| true)? {
        let (Some(row), Some(first)) = (rows.get(link.row), rows.get(link.first)) else {
            continue;
        };
        if !names.contains(row.label) {
            label_of.insert(row.label.to_owned(), first.label.to_owned());
        }
    }
    Ok(label_of)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use super::*;
    use crate::recording::RecordedMatch;
    use crate::strangers::unnamed_label;
    use matchpoint_vector::{Embedding, Similarity};

    const DIMENSION: usize = 64;

    /// A stream of splitmix64.
    struct Random(u64);

    impl Random {
        fn bits(&mut self) -> u64 {
            crate::splitmix64::next(&mut self.0)
        }

        /// An approximately normal number with a standard deviation of one.
        fn normal(&mut self) -> f32 {
            let uniform = |bits: u64| f32::from(u16::try_from(bits >> 48).unwrap()) / 65_536.0;
            (0..12).map(|_| uniform(self.bits()) - 0.5).sum()
        }

        fn identity(&mut self) -> Vec<f32> {
            (0..DIMENSION).map(|_| self.normal()).collect()
        }

        /// A picture of an identity. Two pictures of one identity have a mean similarity of .67.
        fn picture(&mut self, identity: &[f32]) -> Vec<f32> {
            let raw = identity.iter().map(|value| value + 0.7 * self.normal());
            let unit = Embedding::normalise(raw.collect()).unwrap();
            unit.as_slice().to_vec()
        }
    }

    fn id(number: usize) -> String {
        unnamed_label(&format!("0199f0aa-7c1b-7e0e-8d63-{number:012x}"))
    }

    fn search(label: &str, truth: TrialKind, score: Option<f32>) -> RecordedSearch {
        RecordedSearch {
            probe: format!("{label} {score:?}"),
            label: label.to_owned(),
            truth,
            found: score.map(|score| RecordedMatch {
                item: "item".to_owned(),
                label: label.to_owned(),
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            }),
            conditions: Map::new(),
        }
    }

    /// Mated searches for sixty labels with two items each.
    fn mated(random: &mut Random) -> Vec<RecordedSearch> {
        let one = |label: usize, random: &mut Random| {
            let identity = random.identity();
            let probe = random.picture(&identity);
            let items = [random.picture(&identity), random.picture(&identity)];
            let scores = items
                .iter()
                .map(|item| Similarity::between(&probe, item).unwrap());
            let best = scores.max().unwrap();
            search(
                &format!("label {label}"),
                TrialKind::Mated,
                Some(best.get()),
            )
        };
        (0..60).map(|label| one(label, random)).collect()
    }

    fn found(
        rows: &[(String, Vec<f32>)],
        mated: &[RecordedSearch],
    ) -> (UnnamedStrangers, Vec<RecordedSearch>) {
        let strangers = rows
            .iter()
            .map(|(label, _)| search(label, TrialKind::NeverEnrolled, None));
        let mut searches: Vec<RecordedSearch> = mated.iter().cloned().chain(strangers).collect();
        let rows: Vec<StrangerRow<'_>> = rows
            .iter()
            .map(|(label, vector)| StrangerRow { label, vector })
            .collect();
        let unnamed = UnnamedStrangers::find(&rows, &searches).unwrap().unwrap();
        unnamed.count_once(&mut searches);
        (unnamed, searches)
    }

    #[test]
    fn pictures_of_39_strangers_count_as_39_or_fewer_and_not_as_129() {
        let mut counted = Vec::new();
        for seed in 0..20 {
            let mut random = Random(seed);
            let mated = mated(&mut random);
            let identities: Vec<Vec<f32>> = (0..39).map(|_| random.identity()).collect();
            let rows: Vec<(String, Vec<f32>)> = (0..129)
                .map(|n| (id(n), random.picture(&identities[n % 39])))
                .collect();
            let (unnamed, searches) = found(&rows, &mated);
            assert_eq!(unnamed.pictures, 129);
            let labels: BTreeSet<&str> = searches
                .iter()
                .filter(|search| search.truth == TrialKind::NeverEnrolled)
                .map(|search| search.label.as_str())
                .collect();
            assert_eq!(labels.len() as u64, unnamed.strangers);
            counted.push(unnamed.strangers);
        }
        // With pictures that tell identities apart as well as these, the number is hardly ever wrong by one.
        assert!(
            counted.iter().all(|count| (36..=42).contains(count)),
            "{counted:?}"
        );
        let within = counted.iter().filter(|count| **count <= 39).count();
        assert!(14 <= within, "{counted:?}");
    }

    #[test]
    fn a_picture_that_may_be_of_a_named_stranger_counts_as_that_one_and_names_stay_apart() {
        let mut random = Random(1);
        let mated = mated(&mut random);
        let (anna, bert) = (random.identity(), random.identity());
        let rows = vec![
            (id(0), random.picture(&anna)),
            ("anna".to_owned(), random.picture(&anna)),
            // The same pictures under another name, which the names say is another person.
            ("twin".to_owned(), random.picture(&anna)),
            (id(1), random.picture(&bert)),
            (id(2), random.picture(&bert)),
        ];
        let (unnamed, searches) = found(&rows, &mated);
        assert_eq!((unnamed.pictures, unnamed.strangers), (3, 1));
        let labels: Vec<&str> = searches[60..].iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["anna", "anna", "twin", &id(1), &id(1)]);
    }

    #[test]
    fn where_nothing_tells_strangers_apart_all_of_them_are_one() {
        let mut random = Random(1);
        let identity = random.identity();
        let rows: Vec<(String, Vec<f32>)> = (0..9)
            .map(|n| {
                let other = random.identity();
                (id(n), random.picture(&other))
            })
            .collect();
        let (unnamed, _) = found(&rows, &[]);
        assert_eq!((unnamed.strangers, unnamed.level), (1, None));
        // More than one mated search in twenty fails.
        let mut failing = mated(&mut random);
        failing
            .iter_mut()
            .take(4)
            .for_each(|search| search.found = None);
        assert_eq!(found(&rows, &failing).0.level, None);
        // A picture without a vector, as beyond the first 20,000. It may show any of them.
        let searches = [
            search(&id(1), TrialKind::NeverEnrolled, None),
            search(&id(2), TrialKind::NeverEnrolled, None),
        ];
        let vector = random.picture(&identity);
        let one = StrangerRow {
            label: &id(2),
            vector: &vector,
        };
        let unnamed =
            UnnamedStrangers::find(&[one], &[&searches[..], &mated(&mut random)[..]].concat());
        assert_eq!(unnamed.unwrap().unwrap().strangers, 2);
        assert_eq!(
            UnnamedStrangers::find(&[], &[search("anna", TrialKind::NeverEnrolled, None)]).unwrap(),
            None
        );
    }
}
