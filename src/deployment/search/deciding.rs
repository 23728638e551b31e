//! Finds what a search decides on: the best match, and the best item of another label.

use super::request::{Hit, SearchOptions};
use crate::deployment::DeploymentError;
use crate::monitor::MatchRecord;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::{Embedding, Similarity};

/// The number of items that a labelled query asks for, as Recall@5 needs.
pub(in crate::deployment) const PROBE_HITS: usize = 5;

/// The query of a search, with the gallery and the options.
pub(in crate::deployment) struct Searched<'a> {
    pub(in crate::deployment) view: &'a GalleryView,
    pub(in crate::deployment) probe: &'a Embedding,
    pub(in crate::deployment) options: &'a SearchOptions,
}

/// What a search decides on.
pub(in crate::deployment) struct Deciding {
    /// The best match.
    pub(in crate::deployment) best: Hit,
    /// The best similarity to another label, if one of the [`PROBE_HITS`] nearest has another.
    pub(in crate::deployment) other: Option<Similarity>,
}

impl Deciding {
    /// The form in which it is recorded.
    pub(in crate::deployment) fn record(&self) -> MatchRecord<'_> {
        MatchRecord {
            found: &self.best,
            margin: self.margin(),
        }
    }

    /// The difference between the best similarity and that to the best other label; `None` if none of the
    /// [`PROBE_HITS`] nearest has another label.
    pub(in crate::deployment) fn margin(&self) -> Option<f32> {
        self.other.map(|other| self.best.score.get() - other.get())
    }
}

/// What a search decides on, from its nearest items; `None` if there are none.
pub(in crate::deployment) fn deciding(hits: &[Hit]) -> Option<Deciding> {
    let best = hits.first()?;
    let mut nearest = hits.iter().take(PROBE_HITS);
    let other = nearest.find(|hit| hit.item.label != best.item.label);
    Some(Deciding {
        best: best.clone(),
        other: other.map(|other| other.score),
    })
}

/// The best similarity to an item of another label than `label` among all items, whatever the caller's
/// filter, except those of a label that is left out; `None` if there is none.
///
/// It compares every item: an item that an index missed would raise a margin score above that of the calibration.
pub(in crate::deployment) fn best_of_another(
    view: &GalleryView,
    embedding: &Embedding,
    label: &str,
    without_label: Option<&str>,
) -> Result<Option<Similarity>, DeploymentError> {
    let nearest = Probe {
        exact: true,
        without_label,
        ..Probe::nearest(PROBE_HITS)
    };
    let by_label = Probe {
        k: 2,
        one_per_label: true,
        ..nearest
    };
    for probe in [nearest, by_label] {
        let hits = view.nearest(embedding, &probe)?;
        let other = hits.iter().find(|hit| hit.item.label != label);
        if let Some(other) = other {
            return Ok(Some(other.score));
        }
    }
    Ok(None)
}
