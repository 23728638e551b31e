//! Whether Qdrant finds what the gallery finds, and scores it alike.

use std::sync::Arc;

use super::QdrantIndex;
use crate::deployment::DeploymentError;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::proposed::ProposedItem;
use matchpoint_vector::Similarity;

/// Number of items that are searched for, of which the nearest must be found.
pub(super) const SEARCHED: usize = 200;
/// Of these searches so many percent must find it.
const FOUND_PERCENT_MIN: usize = 99;
/// Number of searches whose scores are compared.
const SCORED: usize = 64;
/// Number of points that each asks for.
const WIDTH: usize = 16;
/// How far a score may be from that of our kernel. Sums in another order differ by some 1e-8.
const SCORE_OFF_MAX: f32 = 1e-6;

/// Searches for items by their own vectors; `Some` with what is wrong if Qdrant differs.
pub(super) fn differs(
    index: &QdrantIndex,
    sample: &[Arc<ItemHead>],
) -> Result<Option<String>, DeploymentError> {
    let (mut searched, mut found, mut off) = (0_usize, 0_usize, 0.0_f32);
    for head in sample {
        let Some((present, vector)) = index.gallery.item(&head.id) else {
            continue;
        };
        // One that was replaced meanwhile is not there yet.
        if !Arc::ptr_eq(&present, head) {
            continue;
        }
        let asked = index.collection.propose(&vector, WIDTH, None);
        let points = index.collection.wait(asked)?;
        let scored = points.into_iter().filter_map(|point| {
            let (id, checksum) = point.item?;
            let known = ProposedItem { id, checksum };
            let (_, other) = index.gallery.item(&known.id)?;
            let own = Similarity::between(&vector, &other)?;
            index.gallery.has(&known).then_some((point.score, own))
        });
        let scored: Vec<(f32, Similarity)> = scored.collect();
        let itself = Similarity::between(&vector, &vector);
        // Others may have the same vector, or one whose rounded score is even higher, and be named first.
        let as_near = |(_, own): &(f32, Similarity)| itself.is_some_and(|itself| itself <= *own);
        found += usize::from(scored.iter().any(as_near));
        if searched < SCORED {
            for (theirs, own) in scored {
                let here = (theirs - own.get()).abs();
                // Also if it is no number.
                if here.total_cmp(&off).is_gt() {
                    off = here;
                }
            }
        }
        searched += 1;
    }
    if off.total_cmp(&SCORE_OFF_MAX).is_gt() {
        return Ok(Some(format!(
            "its scores differ from ours by {off}, and {SCORE_OFF_MAX} is allowed: the collection has other vectors"
        )));
    }
    if found * 100 < searched * FOUND_PERCENT_MIN {
        return Ok(Some(format!(
            "it finds {found} of {searched} items by their own vectors, and {FOUND_PERCENT_MIN} % are needed: a copy may lack points"
        )));
    }
    Ok(None)
}
