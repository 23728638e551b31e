//! The rows of plain vectors that take part in a calibration.

use std::collections::BTreeSet;

use matchpoint_calibration::analysis::EmbeddedSet;
use matchpoint_calibration::likeness::{Alike, alike as alike_labels};

/// The rows that take part.
pub(super) struct Parts {
    pub(super) names: Vec<String>,
    pub(super) gallery: EmbeddedSet,
    /// `None` where the gallery searches for itself.
    pub(super) queries: Option<EmbeddedSet>,
}

impl Parts {
    /// Labels of strangers that are suspiciously like enrolled ones, or like each other.
    pub(super) fn alike(&self) -> Vec<Alike> {
        let Some(queries) = &self.queries else {
            return Vec::new();
        };
        let of = |set: &EmbeddedSet| -> BTreeSet<&str> {
            let names = set.labels.iter();
            names
                .filter_map(|label| self.names.get(*label as usize))
                .map(String::as_str)
                .collect()
        };
        alike_labels(of(queries), of(&self.gallery))
    }
}
