//! How an index stands to its gallery: one here, and one in Qdrant.

use metrics::counter;

use super::metric::{
    INDEX_BESIDE, INDEX_CHECKED, INDEX_GENERATION, INDEX_MISSED, INDEX_READY, INDEX_REFUSED,
    INDEX_REPAIRED,
};
use super::series;

/// Counts neighbours of a search that was repeated by comparing with every item, and those of them that the
/// index had missed.
pub fn index_checked(deployment: &str, neighbours: usize, missed: usize) {
    for (name, count) in [(INDEX_CHECKED, neighbours), (INDEX_MISSED, missed)] {
        counter!(name, "deployment" => deployment.to_owned()).increment(count as u64);
    }
}

/// Counts a proposal of Qdrant that does not count.
pub fn proposal_refused(deployment: &str, reason: &'static str) {
    counter!(INDEX_REFUSED, "deployment" => deployment.to_owned(), "reason" => reason).increment(1);
}

/// Counts a search that compared every item because the proposals did not suffice.
pub fn searched_beside_index(deployment: &str) {
    counter!(INDEX_BESIDE, "deployment" => deployment.to_owned()).increment(1);
}

/// Counts points that were written anew because they differed.
pub fn points_repaired(deployment: &str, points: usize) {
    counter!(INDEX_REPAIRED, "deployment" => deployment.to_owned()).increment(points as u64);
}

/// Announces the index of a deployment that has it in Qdrant, with every series at zero.
pub fn index_started(deployment: &str) {
    for reason in ["stale", "damaged"] {
        counter!(INDEX_REFUSED, "deployment" => deployment.to_owned(), "reason" => reason)
            .absolute(0);
    }
    for counted in [INDEX_BESIDE, INDEX_REPAIRED] {
        counter!(counted, "deployment" => deployment.to_owned()).absolute(0);
    }
}

/// Shows how a deployment stands to its index in Qdrant.
pub fn index_followed(deployment: &str, ready: bool, generation: u64) {
    let labels = [("deployment", deployment.to_owned())];
    series::set(INDEX_READY, &labels, Some(f64::from(u8::from(ready))));
    #[expect(
        clippy::cast_precision_loss,
        reason = "a number of writes is far below 2^53"
    )]
    series::set(INDEX_GENERATION, &labels, Some(generation as f64));
}
