//! Labels of strangers that share a picture.
//!
//! They may be one stranger under several names, or strangers who send one picture, such as a placeholder. The
//! picture does not show which. If the searches were dropped because of it, the strangers left would no longer be
//! those of traffic, and their FAR would be too low. So a promise has to hold in both cases
//! ([`certify_either_way`](crate::certify::certify_either_way)).

use std::collections::{BTreeMap, BTreeSet};

use super::copies::CopyGroups;
use super::crowded::CrowdedStrangers;
use crate::strangers::{EITHER_WAY, is_unnamed};

/// Labels of strangers that share a picture, or nearly, with another label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedPictures {
    first: BTreeMap<String, String>,
}

impl SharedPictures {
    /// Groups labels by the pairs of them that share a picture, directly or in a chain. Marks of unnamed strangers
    /// are left out, because these count by their similarity.
    #[must_use]
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = pairs.into_iter();
        let named = pairs.filter(|(label, other)| !is_unnamed(label) && !is_unnamed(other));
        Self {
            first: grouped(named),
        }
    }

    /// Maps each label to the label that it counts under if labels that share a picture, or that are `crowded`, are
    /// one stranger.
    #[must_use]
    pub fn repeats(&self, crowded: Option<&CrowdedStrangers>) -> BTreeMap<String, String> {
        let crowded = crowded.map(CrowdedStrangers::repeats).unwrap_or_default();
        let pairs = self.first.iter().chain(&crowded);
        grouped(pairs.map(|(label, first)| (label.as_str(), first.as_str())))
    }

    /// Says how many strangers the labels may be, and what follows from it; `None` if there are none.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let [labels, strangers] = self.counted()?;
        Some(format!(
            "{labels} labels of strangers share pictures, or nearly, and may be {strangers}: the same under several names, or strangers who send one picture; {EITHER_WAY}, and intervals count them as {strangers}"
        ))
    }

    /// Number of labels, and of groups of them; `None` if there are none.
    #[must_use]
    pub fn counted(&self) -> Option<[usize; 2]> {
        let groups: BTreeSet<&String> = self.first.values().collect();
        (!groups.is_empty()).then(|| [self.first.len() + groups.len(), groups.len()])
    }
}

/// Each label of a group but the first, with the first.
fn grouped<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let pairs: Vec<(&str, &str)> = pairs.collect();
    let names: BTreeSet<&str> = pairs
        .iter()
        .flat_map(|(label, other)| [*label, *other])
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let number = |name: &str| names.binary_search(&name).unwrap_or_default();
    let mut groups = CopyGroups::new(names.len());
    for (label, other) in pairs {
        groups.join(number(label), number(other));
    }
    let firsts = names.iter().enumerate();
    let firsts = firsts.map(|(number, name)| (number, groups.first(number), name));
    let others = firsts.filter(|(number, first, _)| number != first);
    others
        .filter_map(|(_, first, name)| Some(((*name).to_owned(), (*names.get(first)?).to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strangers::unnamed_label;

    #[test]
    fn chains_of_labels_count_under_the_first_and_marks_link_nothing() {
        let mark = unnamed_label(&"0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f");
        let shared = SharedPictures::of([
            ("d", "c"),
            ("c", "b"),
            ("y", "x"),
            ("b", "d"),
            ("a", &mark),
            (&mark, "x"),
        ]);
        let told = Vec::from_iter(shared.repeats(None));
        let pairs: Vec<[&str; 2]> = told.iter().map(|(a, b)| [&a[..], &b[..]]).collect();
        assert_eq!(pairs, [["c", "b"], ["d", "b"], ["y", "x"]]);
        assert_eq!(shared.counted(), Some([5, 2]));
        assert_eq!(SharedPictures::default().describe(), None);
    }
}
