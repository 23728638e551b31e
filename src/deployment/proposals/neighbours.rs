//! The nearest items, through whichever index the gallery has.

use std::sync::Arc;

use super::QdrantIndex;
use crate::deployment::DeploymentError;
use crate::deployment::search::request::Hit;
use matchpoint_gallery::proposed::ProposedItems;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::Embedding;

/// What the searches of one request see.
pub(in crate::deployment) enum Neighbours {
    /// The gallery with its own index.
    Here(Arc<GalleryView>),
    /// The gallery, and what Qdrant was asked before.
    Asked(Arc<GalleryView>, AskedItems),
}

/// What Qdrant proposed for the searches of one request.
pub(in crate::deployment) struct AskedItems {
    index: Arc<QdrantIndex>,
    /// By number of neighbours and of candidates.
    proposed: Vec<(usize, Option<usize>, ProposedItems)>,
}

/// Whether a search goes through the index: what is left out or filtered, and the best of each label, is found by
/// comparing every item.
pub(super) fn asks_index(view: &GalleryView, probe: &Probe<'_>) -> bool {
    let some_only = probe.without_label.is_some() || probe.filter.is_some();
    !probe.exact && !some_only && !probe.one_per_label && probe.k < view.len()
}

impl AskedItems {
    /// Asks Qdrant for each of these searches that goes through the index.
    pub(in crate::deployment) async fn ask(
        index: &Arc<QdrantIndex>,
        view: &GalleryView,
        query: &Embedding,
        probes: impl IntoIterator<Item = Probe<'_>>,
    ) -> Result<Self, DeploymentError> {
        let mut proposed = Vec::new();
        for probe in probes {
            if asks_index(view, &probe) {
                let items = index.propose(query, probe).await?;
                proposed.push((probe.k, probe.ef, items));
            }
        }
        Ok(Self {
            index: Arc::clone(index),
            proposed,
        })
    }
}

impl Neighbours {
    pub(in crate::deployment) fn view(&self) -> &Arc<GalleryView> {
        match self {
            Self::Here(view) | Self::Asked(view, _) => view,
        }
    }

    /// Finds the nearest items, as [`GalleryView::nearest`] does.
    pub(in crate::deployment) fn nearest(
        &self,
        query: &Embedding,
        probe: &Probe<'_>,
    ) -> Result<Vec<Hit>, DeploymentError> {
        let (view, asked) = match self {
            Self::Here(view) => return Ok(view.nearest(query, probe)?),
            Self::Asked(view, asked) => (view, asked),
        };
        if asks_index(view, probe) {
            let same = |(k, ef, _): &&(usize, Option<usize>, _)| (*k, *ef) == (probe.k, probe.ef);
            if let Some((_, _, proposed)) = asked.proposed.iter().find(same) {
                return asked.index.nearest_of(view, query, probe, proposed);
            }
        }
        Ok(view.nearest(query, probe)?)
    }
}
