//! Warnings about trials that count for less than they seem.

use super::alike;
use crate::cli::output;
use crate::deployment::Repeated;
use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::strangers::UnnamedStrangers;
use matchpoint_calibration::likeness::Alike;
use matchpoint_calibration::procedure::{Copied, NearCopied};
use matchpoint_calibration::strangers::EITHER_WAY;

/// Groups of labels that are named in text, and labels of each.
const GROUPS_LISTED: usize = 3;
const LABELS_LISTED: usize = 4;

/// What was found about queries, whatever their source.
#[derive(serde::Serialize)]
pub(crate) struct Doubts<'a> {
    pub(crate) alike: &'a [Alike],
    pub(crate) copies: &'a [Copied],
    pub(crate) repeated: &'a [Repeated],
    pub(crate) near_copies: &'a [NearCopied],
    pub(crate) unnamed: Option<&'a UnnamedStrangers>,
    pub(crate) crowded: Option<&'a CrowdedStrangers>,
    pub(crate) not_compared: u64,
}

impl Doubts<'_> {
    pub(crate) fn text(&self) -> String {
        let found = [
            self.copied(),
            self.mislabelled(),
            self.repeated(),
            self.nearly(),
            self.unnamed(),
            self.crowded(),
            self.not_compared(),
        ];
        let found = found.into_iter().flatten();
        let warnings: String = found
            .map(|what| output::wrapped(&what, "warning: "))
            .collect();
        alike::warning(self.alike) + &warnings
    }

    fn copied(&self) -> Option<String> {
        let own = || self.copies.iter().filter(|one| one.label == one.item_label);
        let first = own().next()?;
        Some(format!(
            "{} of the queries are pictures in the gallery themselves, or nearly (the first: {} is item {}, similarity {:.5}); finding them again is no trial and is not counted: take other pictures",
            own().count(),
            first.query,
            first.item,
            first.similarity,
        ))
    }

    fn mislabelled(&self) -> Option<String> {
        let other = || self.copies.iter().filter(|one| one.label != one.item_label);
        let one = other().next()?;
        Some(format!(
            "{} of the queries are pictures in the gallery under another label, or nearly (the first: query {} says {}, item {} says {}, similarity {:.5}); one of the two is wrong",
            other().count(),
            one.query,
            one.label,
            one.item,
            one.item_label,
            one.similarity,
        ))
    }

    fn repeated(&self) -> Option<String> {
        let first = self.repeated.first()?;
        Some(repeated(self.repeated.len(), &first.first, &first.query))
    }

    fn nearly(&self) -> Option<String> {
        let one = self.near_copies.first()?;
        Some(format!(
            "{} queries of strangers are nearly those of strangers of other labels (the first: {} of {} and {} of {}, similarity {:.5}); the labels may be wrong, or one stranger: a certified FAR holds with each as a stranger and with those that share a picture as one; --strangers-are-distinct says that all are different things",
            self.near_copies.len(),
            one.first,
            one.first_label,
            one.query,
            one.label,
            one.similarity,
        ))
    }

    fn unnamed(&self) -> Option<String> {
        let UnnamedStrangers {
            pictures,
            strangers,
            level,
            ..
        } = self.unnamed?;
        let why = level.map_or_else(
            || "too few mated searches find their label to tell strangers apart".to_owned(),
            |level| {
                format!("two from similarity {level:.4} on may show the same one, going by the scores of mated searches")
            },
        );
        Some(format!(
            "{pictures} pictures show strangers whom nobody named, and count as {strangers}: {why}; --strangers-are-distinct says that each shows another one"
        ))
    }

    fn crowded(&self) -> Option<String> {
        let crowded = self.crowded?;
        let groups = crowded.groups.iter();
        let groups: Vec<(&[String], u64)> = groups
            .map(|group| (&group[..], group.len() as u64))
            .collect();
        Some(format!(
            "{}; {}",
            crowded.describe(),
            what_to_do_about(&groups)
        ))
    }

    fn not_compared(&self) -> Option<String> {
        (0 < self.not_compared).then(|| not_compared(self.not_compared))
    }
}

/// The first of the groups of labels that may each be one stranger, given with their numbers of labels, and what
/// to do.
pub(crate) fn what_to_do_about(groups: &[(&[String], u64)]) -> String {
    let others = groups.len().saturating_sub(GROUPS_LISTED);
    let listed = groups.iter().take(GROUPS_LISTED).map(|(labels, total)| {
        let named: Vec<&str> = labels
            .iter()
            .take(LABELS_LISTED)
            .map(String::as_str)
            .collect();
        let more = match total.saturating_sub(named.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", named.join(", "))
    });
    let mut listed = listed.collect::<Vec<String>>().join("; ");
    if 0 < others {
        listed.push_str(&format!("; and {others} more groups (--json)"));
    }
    format!(
        "look at them, and give one label to what is one: {listed}; --strangers-are-distinct says that all are different things"
    )
}

/// How many queries have the same image as another one, and the first two of them.
pub(crate) fn repeated(count: impl std::fmt::Display, first: &str, second: &str) -> String {
    format!(
        "{count} of the queries have the very image of another one (the first: {first} and {second}); under one label they are counted once; strangers of several labels count as different ones and as one, and {EITHER_WAY}"
    )
}

/// How many queries of strangers were not checked for near copies.
pub(crate) fn not_compared(count: u64) -> String {
    format!(
        "{count} queries of strangers are too many to be compared with the others: near copies among them are not found"
    )
}
