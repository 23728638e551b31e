//! What non-mated searches find besides their best candidate: it shows what would be found in smaller
//! galleries.

use rayon::prelude::*;

use super::input::{CandidateList, EmbeddedSet};
use matchpoint_vector::Similarity;

/// The `depth` best candidates of some of the queries, best first, among the rows of other labels.
/// The two sets share the indices of labels; `names` are these labels.
#[must_use]
pub fn candidate_lists(
    rows: &[usize],
    queries: &EmbeddedSet,
    gallery: &EmbeddedSet,
    names: &[String],
    depth: usize,
) -> Vec<CandidateList> {
    let of = |&row: &usize| {
        let label = queries.label(row, names).to_owned();
        let probe = queries.embeddings.row(row).unwrap_or_default();
        let mut candidates: Vec<(Similarity, &str)> = (0..gallery.ids.len())
            .filter_map(|item| {
                if gallery.labels.get(item) == queries.labels.get(row) {
                    return None;
                }
                let vector = gallery.embeddings.row(item)?;
                Some((
                    Similarity::between(probe, vector)?,
                    gallery.label(item, names),
                ))
            })
            .collect();
        let best_first =
            |a: &(Similarity, &str), b: &(Similarity, &str)| b.0.cmp(&a.0).then(a.1.cmp(b.1));
        if depth < candidates.len() {
            candidates.select_nth_unstable_by(depth, best_first);
            candidates.truncate(depth);
        }
        candidates.sort_unstable_by(best_first);
        let owned = candidates
            .into_iter()
            .map(|(score, label)| (score, label.to_owned()));
        (label, owned.collect())
    };
    rows.par_iter().map(of).collect()
}
