//! Finds what a search decides on: the best match, and the best item of another label.

use super::request::{Hit, SearchOptions};
use crate::deployment::DeploymentError;
use crate::monitor::MatchRecord;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::{Embedding, Similarity};

/// The number of items that a labelled query asks for, as Recall@5 needs.
pub(in crate::deployment) const PROBE_HITS: usize = 5;

/// The number of items that a search which decides looks for, in calibrations and in service. A search of the index for
/// more of them is a wider one, and one for the default number of matches is not.
pub(in crate::deployment) const DECIDING_WIDTH: usize = 16;

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
    let Some(left_out) = without_label.filter(|left_out| *left_out != label) else {
        let others = Probe {
            without_label: Some(label),
            ..Probe::nearest(1)
        };
        let hits = view.nearest(embedding, &others)?;
        return Ok(hits.first().map(|hit| hit.score));
    };
    // Of two labels that are left out, the search leaves out one, and the better of two other labels is not the other.
    let by_label = Probe {
        without_label: Some(left_out),
        one_per_label: true,
        ..Probe::nearest(2)
    };
    let hits = view.nearest(embedding, &by_label)?;
    let other = hits.iter().find(|hit| hit.item.label != label);
    Ok(other.map(|hit| hit.score))
}
