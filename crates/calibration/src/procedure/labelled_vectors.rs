//! Vectors with their labels, sorted into a gallery and queries.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::embeddings::Embeddings;
use crate::analysis::{AnalysisError, EmbeddedSet};
use crate::likeness::{Alike, alike};

/// One vector, and what is known of it.
#[derive(Clone, Debug)]
pub struct VectorRow<'a> {
    /// Its id, once among the gallery or the queries.
    pub id: String,
    /// What it shows.
    pub label: &'a str,
    /// What else is known, such as camera or country.
    pub conditions: BTreeMap<String, String>,
    /// Its components.
    pub vector: &'a [f32],
}

/// A gallery and queries whose labels share their indices.
#[derive(Debug)]
pub struct LabelledVectors {
    /// The names of the labels, by index.
    pub names: Vec<String>,
    /// What is searched.
    pub gallery: EmbeddedSet,
    /// What is searched for; `None` where the gallery searches for itself.
    pub queries: Option<EmbeddedSet>,
}

type ToEmbeddings = fn(usize, Vec<f32>, Vec<u32>) -> Result<Embeddings, AnalysisError>;

impl LabelledVectors {
    /// Copies vectors and brings them to unit length. Without queries, the gallery searches for itself.
    ///
    /// # Errors
    /// Vectors of several dimensions, a zero vector, or one with a component that is not finite.
    pub fn normalise(
        gallery: Vec<VectorRow<'_>>,
        queries: Vec<VectorRow<'_>>,
    ) -> Result<Self, AnalysisError> {
        Self::sorted(gallery, queries, Embeddings::normalise)
    }

    /// The same for vectors of unit length, which stay what they are, bit for bit.
    ///
    /// # Errors
    /// Vectors of several dimensions, or one that is not of unit length.
    pub fn from_unit(
        gallery: Vec<VectorRow<'_>>,
        queries: Vec<VectorRow<'_>>,
    ) -> Result<Self, AnalysisError> {
        Self::sorted(gallery, queries, Embeddings::from_unit)
    }

    fn sorted(
        gallery: Vec<VectorRow<'_>>,
        queries: Vec<VectorRow<'_>>,
        embeddings: ToEmbeddings,
    ) -> Result<Self, AnalysisError> {
        let labels = gallery.iter().chain(&queries).map(|row| row.label);
        let labels: BTreeSet<&str> = labels.collect();
        let names = labels.into_iter().map(str::to_owned).collect::<Vec<_>>();
        Ok(Self {
            gallery: set(gallery, &names, embeddings)?,
            queries: if queries.is_empty() {
                None
            } else {
                Some(set(queries, &names, embeddings)?)
            },
            names,
        })
    }

    /// What is searched for: the queries, or the gallery itself.
    #[must_use]
    pub fn searching(&self) -> &EmbeddedSet {
        self.queries.as_ref().unwrap_or(&self.gallery)
    }

    /// Labels of strangers that are suspiciously like enrolled ones, or like each other.
    #[must_use]
    pub fn alike(&self) -> Vec<Alike> {
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
        alike(of(queries), of(&self.gallery))
    }

    /// The indices of the labels that are enrolled.
    pub(super) fn enrolled(&self) -> BTreeSet<u32> {
        self.gallery.labels.iter().copied().collect()
    }
}

fn set(
    rows: Vec<VectorRow<'_>>,
    names: &[String],
    embeddings: ToEmbeddings,
) -> Result<EmbeddedSet, AnalysisError> {
    let dimension = rows.first().map_or(1, |row| row.vector.len());
    let mut vectors = Vec::with_capacity(rows.len() * dimension);
    let (mut ids, mut labels, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        vectors.extend_from_slice(row.vector);
        let index = names.binary_search_by(|name| name.as_str().cmp(row.label));
        labels.push(u32::try_from(index.unwrap_or_default()).unwrap_or(u32::MAX));
        ids.push(row.id);
        conditions.push(row.conditions);
    }
    Ok(EmbeddedSet {
        ids,
        conditions,
        embeddings: embeddings(dimension, vectors, labels.clone())?,
        labels,
    })
}
