//! Lists why trials of a calibration may count for less than they seem, and what may be a mistake in a gallery.

use crate::deployment::{Gathered, Repeated};
use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::strangers::UnnamedStrangers;
use matchpoint_calibration::likeness::{Alike, Likeness};
use matchpoint_calibration::procedure::{Copied, NearCopied};
use matchpoint_client::proto::{
    AlikeEnrolledLabels, AlikeLabels, CalibrateMetadata, CheckItemsResponse, CrowdedGroup,
    CrowdedStrangers as CrowdedMessage, GalleryDuplicate, LabelLikeness, QueryDuplicate,
    RepeatedItem as RepeatedItemMessage, StrangerNearDuplicate, UnnamedStrangers as UnnamedMessage,
};
use matchpoint_gallery::repeated::RepeatedItem;

/// The highest number of entries in each list. With ids and labels of 512 bytes, a message has at most 0.6 MB.
const LISTED_MAX: usize = 100;

/// Lists what was found about the queries after all of them were searched for.
pub(in crate::server) fn list(
    metadata: &mut CalibrateMetadata,
    gathered: &Gathered,
    alike: &[Alike],
) {
    let Gathered {
        copies,
        repeated,
        near_copies,
        unnamed,
        crowded,
        not_compared,
        ..
    } = gathered;
    metadata.alike_labels_total = alike.len() as u64;
    metadata.alike_labels = listed(alike, alike_labels);
    metadata.gallery_duplicates_total = copies.len() as u64;
    metadata.gallery_duplicates = listed(copies, gallery_duplicate);
    metadata.query_duplicates_total = repeated.len() as u64;
    metadata.query_duplicates = listed(repeated, query_duplicate);
    metadata.stranger_near_duplicates_total = near_copies.len() as u64;
    metadata.stranger_near_duplicates = listed(near_copies, stranger_near_duplicate);
    metadata.strangers_not_compared_total = *not_compared;
    metadata.unnamed_strangers = unnamed.as_ref().map(unnamed_strangers);
    metadata.crowded_strangers = crowded.as_ref().map(crowded_strangers);
}

/// Lists what may be a mistake among enrolled items.
pub(in crate::server) fn of_items(
    alike: &[Alike],
    repeated: &[RepeatedItem],
) -> CheckItemsResponse {
    CheckItemsResponse {
        alike_labels: listed(alike, alike_enrolled),
        alike_labels_total: alike.len() as u64,
        repeated_items: listed(repeated, repeated_item),
        repeated_items_total: repeated.len() as u64,
    }
}

fn alike_enrolled(pair: &Alike) -> AlikeEnrolledLabels {
    AlikeEnrolledLabels {
        likeness: likeness(pair.likeness).into(),
        label: pair.label.clone(),
        other_label: pair.other.clone(),
        differ_by: pair.differ_by.join(", "),
    }
}

fn repeated_item(found: &RepeatedItem) -> RepeatedItemMessage {
    let RepeatedItem { item, first } = found;
    RepeatedItemMessage {
        id: item.id.clone(),
        label: item.label.clone(),
        first_id: first.id.clone(),
        first_label: first.label.clone(),
    }
}

fn listed<T, U>(all: &[T], message: impl Fn(&T) -> U) -> Vec<U> {
    all.iter().take(LISTED_MAX).map(message).collect()
}

fn likeness(likeness: Likeness) -> LabelLikeness {
    match likeness {
        Likeness::Spelling => LabelLikeness::Spelling,
        Likeness::NearMiss => LabelLikeness::NearMiss,
    }
}

fn alike_labels(pair: &Alike) -> AlikeLabels {
    AlikeLabels {
        likeness: likeness(pair.likeness).into(),
        label: pair.label.clone(),
        other_label: pair.other.clone(),
        other_enrolled: pair.enrolled,
        differ_by: pair.differ_by.join(", "),
    }
}

fn gallery_duplicate(copy: &Copied) -> GalleryDuplicate {
    GalleryDuplicate {
        id: copy.query.clone(),
        label: copy.label.clone(),
        item_id: copy.item.clone(),
        item_label: copy.item_label.clone(),
        similarity: copy.similarity,
    }
}

fn query_duplicate(repeated: &Repeated) -> QueryDuplicate {
    QueryDuplicate {
        id: repeated.query.clone(),
        first_id: repeated.first.clone(),
    }
}

fn stranger_near_duplicate(copy: &NearCopied) -> StrangerNearDuplicate {
    StrangerNearDuplicate {
        id: copy.query.clone(),
        label: copy.label.clone(),
        first_id: copy.first.clone(),
        first_label: copy.first_label.clone(),
        similarity: copy.similarity,
    }
}

fn unnamed_strangers(unnamed: &UnnamedStrangers) -> UnnamedMessage {
    UnnamedMessage {
        pictures: unnamed.pictures,
        strangers: unnamed.strangers,
        level: unnamed.level,
    }
}

fn crowded_strangers(crowded: &CrowdedStrangers) -> CrowdedMessage {
    CrowdedMessage {
        labels: crowded.labels,
        strangers: crowded.strangers,
        level: crowded.level,
        example_labels: crowded.groups.iter().flatten().take(2).cloned().collect(),
        groups: crowded_groups(&crowded.groups),
    }
}

/// At most as many groups as a list has entries, with at most that many labels in total in addition to the
/// first two of each group: at most 200 more labels of 512 bytes.
fn crowded_groups(groups: &[Vec<String>]) -> Vec<CrowdedGroup> {
    let mut left = LISTED_MAX;
    let message = |group: &Vec<String>| {
        let labels: Vec<String> = group.iter().take(left.max(2)).cloned().collect();
        left = left.saturating_sub(labels.len());
        CrowdedGroup {
            labels_total: group.len() as u64,
            labels,
        }
    };
    groups.iter().take(LISTED_MAX).map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_a_hundred() {
        let pair = |number: usize| Alike {
            likeness: Likeness::NearMiss,
            label: format!("label {number}"),
            other: "other".to_owned(),
            enrolled: false,
            differ_by: vec!["a letter or two"],
        };
        let pairs: Vec<Alike> = (0..101).map(pair).collect();
        let messages = listed(&pairs, alike_labels);
        assert_eq!(messages.len(), 100);
        assert_eq!(messages[99].label, "label 99");
    }

    #[test]
    fn all_groups_of_labels_are_listed_as_far_as_a_message_has_room() {
        let group = |first: usize, count: usize| -> Vec<String> {
            (first..first + count)
                .map(|number| format!("label {number}"))
                .collect()
        };
        let listed = crowded_groups(&[group(0, 3), group(3, 2)]);
        let labels: Vec<&[String]> = listed.iter().map(|one| &one.labels[..]).collect();
        assert_eq!(labels, [&group(0, 3)[..], &group(3, 2)[..]]);
        // Labels that do not fit are only counted, and each group keeps at least two labels.
        let mut many = vec![group(0, 150)];
        many.extend((0..120).map(|number| group(1_000 + 3 * number, 3)));
        let listed = crowded_groups(&many);
        let sizes = |one: &CrowdedGroup| (one.labels_total, one.labels.len());
        assert_eq!(listed.len(), 100);
        assert_eq!(sizes(&listed[0]), (150, 100));
        assert!(listed.iter().skip(1).all(|one| sizes(one) == (3, 2)));
    }
}
