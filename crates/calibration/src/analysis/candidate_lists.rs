//! Lists the candidates of non-mated searches beyond the best one, from which the FAR of smaller galleries is
//! computed.

use rayon::prelude::*;

use super::input::{CandidateList, EmbeddedSet};
use matchpoint_vector::Similarity;

/// The `depth` best candidates of each query in `rows`, best first, among gallery rows of other labels. Both
/// sets number their labels by the same list, `names`.
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
