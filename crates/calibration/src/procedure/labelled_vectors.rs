//! Vectors with their labels, sorted into a gallery and queries.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::embeddings::Embeddings;
use crate::analysis::{AnalysisError, EmbeddedSet};
use crate::likeness::{Alike, alike};

/// One vector with its id, label and conditions.
#[derive(Clone, Debug)]
pub struct VectorRow<'a> {
    /// Its id, which must be unique within the gallery or within the queries.
    pub id: String,
    /// Its label: the identity or class that it shows.
    pub label: &'a str,
    /// Further facts by column, such as the camera or the country.
    pub conditions: BTreeMap<String, String>,
    /// The components of the vector.
    pub vector: &'a [f32],
}

/// A gallery and queries, whose labels are numbered by the same list of names.
#[derive(Debug)]
pub struct LabelledVectors {
    /// The names of the labels, by the index that both sets use.
    pub names: Vec<String>,
    /// The vectors that are searched in.
    pub gallery: EmbeddedSet,
    /// The vectors that are searched for; `None` if each gallery vector is searched for among the
    /// others.
    pub queries: Option<EmbeddedSet>,
}

type ToEmbeddings = fn(usize, Vec<f32>, Vec<u32>) -> Result<Embeddings, AnalysisError>;

impl LabelledVectors {
    /// Copies the vectors and scales them to unit length. Without queries, each gallery vector is
    /// searched for among the others.
    ///
    /// # Errors
    /// Returns an error if the vectors have different dimensions, if one is zero, or if a component
    /// is not finite.
    pub fn normalise(
        gallery: Vec<VectorRow<'_>>,
        queries: Vec<VectorRow<'_>>,
    ) -> Result<Self, AnalysisError> {
        Self::sorted(gallery, queries, Embeddings::normalise)
    }

    /// Copies vectors that already have unit length, without changing a bit of them.
    ///
    /// # Errors
    /// Returns an error if the vectors have different dimensions or one does not have unit length.
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

    /// The vectors that are searched for: the queries, or the gallery if there are none.
    #[must_use]
    pub fn searching(&self) -> &EmbeddedSet {
        self.queries.as_ref().unwrap_or(&self.gallery)
    }

    /// Labels of strangers that are spelled suspiciously like enrolled labels, or like each other.
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
