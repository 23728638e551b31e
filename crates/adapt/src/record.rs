//! The record of a fit: enough to repeat it, and to refuse the data that it was fitted to.

use std::collections::{BTreeMap, BTreeSet};

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::AdaptError;
use super::fitting::{AdaptRequest, AdaptedHead, Candidate};
use super::head::{Head, vector_sha256};
use super::judgement::Judgement;
use super::parts::Part;
use matchpoint_calibration::likeness::without_spelling;

/// The versions of the format: version 2 added square roots, 3 products in 8 bits, and 4 a second layer. A head is
/// written in the first version that has what it needs, so that older programs can read it.
const FORMATS: std::ops::RangeInclusive<u32> = 1..=4;

/// The model whose embeddings a head takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadBase {
    /// Its name.
    pub name: String,
    /// Its precision.
    pub precision: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// A tensor of its network whose mean the head reads beside the embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_layer: Option<String>,
}

/// The origin of a head, which is stored together with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRecord {
    format: u32,
    /// The recipe's name.
    pub recipe: String,
    /// The seed of all random choices.
    pub seed: u64,
    /// Number of input components of the head.
    pub from: usize,
    /// Number of output components of the head.
    pub to: usize,
    /// Whether the signed square roots of the components are mapped.
    #[serde(default)]
    pub roots: bool,
    /// Whether the weights, and what is multiplied by them, are rounded to 8 bits.
    #[serde(default)]
    pub eight_bits: bool,
    /// SHA-256 of the head's bytes.
    pub weights_sha256: String,
    /// The model whose embeddings it takes; `None` for vectors without a known model.
    pub base: Option<HeadBase>,
    /// SHA-256 over the labels and vectors of all rows, in order.
    pub data_sha256: String,
    /// The labels of each part, in alphabetical order.
    pub labels: BTreeMap<Part, BTreeSet<String>>,
    /// SHA-256 of every picture and of every vector that the head was fitted to.
    pub fitted_on: BTreeSet<String>,
    /// The recipes that were compared.
    pub candidates: Vec<Candidate>,
    /// The judgement on labels that had no part in the fit.
    pub judgement: Judgement,
    /// The labels that the head was fitted to, without what counts as spelling.
    #[serde(skip)]
    fitted_labels: BTreeSet<String>,
}

impl HeadRecord {
    /// Makes the record of a fit; `pictures` has the SHA-256 of the picture of each row, if it is known.
    #[must_use]
    pub fn of(
        request: &AdaptRequest<'_>,
        adapted: &AdaptedHead,
        base: Option<HeadBase>,
        pictures: &[Option<String>],
    ) -> Self {
        let fit = request.rows_of(Part::Fit);
        let vectors = fit.iter().filter_map(|row| request.rows.row(*row));
        let pictures = fit.iter().filter_map(|row| pictures.get(*row)?.clone());
        let labels = [Part::Fit, Part::Calibrate, Part::Judge].map(|part| {
            let labels = request.parts.labels(part).map(ToOwned::to_owned);
            (part, labels.collect::<BTreeSet<String>>())
        });
        let labels = BTreeMap::from(labels);
        Self {
            format: match (adapted.head.eight_bits(), adapted.head.roots()) {
                _ if base
                    .as_ref()
                    .is_some_and(|base| base.second_layer.is_some()) =>
                {
                    4
                }
                (true, _) => 3,
                (false, true) => 2,
                (false, false) => 1,
            },
            recipe: adapted.recipe.name.to_owned(),
            seed: request.seed,
            from: adapted.head.from(),
            to: adapted.head.to(),
            roots: adapted.head.roots(),
            eight_bits: adapted.head.eight_bits(),
            weights_sha256: encode_string(&Sha256::digest(adapted.head.to_bytes())),
            base,
            data_sha256: data_sha256(request),
            fitted_labels: without_spellings(labels.get(&Part::Fit)),
            labels,
            fitted_on: vectors.map(vector_sha256).chain(pictures).collect(),
            candidates: adapted.candidates.clone(),
            judgement: adapted.judgement.clone(),
        }
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Returns an error for any other bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, AdaptError> {
        let mut record: Self =
            serde_json::from_slice(bytes).map_err(|cause| AdaptError::Stored {
                problem: format!("its record cannot be read: {cause}"),
            })?;
        if !FORMATS.contains(&record.format) {
            let problem = format!(
                "its record has the format {}, and {} to {} are read; take a newer Matchpoint",
                record.format,
                FORMATS.start(),
                FORMATS.end()
            );
            return Err(AdaptError::Stored { problem });
        }
        record.fitted_labels = without_spellings(record.labels.get(&Part::Fit));
        Ok(record)
    }

    /// The record as JSON; the same record gives the same bytes.
    ///
    /// # Errors
    /// Returns an error if a figure is not finite.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AdaptError> {
        // JSON has no such numbers. They would be written as null, and the folder could not be opened.
        if let Some(figure) = self.not_a_number() {
            return Err(AdaptError::Stored {
                problem: format!("{figure} is not a number, and could not be read again"),
            });
        }
        let bytes = serde_json::to_vec_pretty(self);
        bytes.map_err(|cause| AdaptError::Stored {
            problem: cause.to_string(),
        })
    }

    /// The name of a figure that is not finite.
    fn not_a_number(&self) -> Option<String> {
        let of_candidates = self.candidates.iter().flat_map(|one| {
            let values = one.figures.values().into_iter().chain([one.score]);
            values.map(|value| (one.recipe.as_str(), value))
        });
        let of_changes = self.judgement.changes.iter().flat_map(|one| {
            let values = [one.without, one.with, one.lower, one.upper];
            values.map(|value| (one.figure.as_str(), value))
        });
        let mut figures = of_candidates.chain(of_changes);
        let found = figures.find(|(_, value)| !value.is_finite());
        found.map(|(name, _)| format!("a figure of {name}"))
    }

    /// Decodes the head from its bytes.
    ///
    /// # Errors
    /// Returns an error if the bytes do not belong to this record.
    pub fn head(&self, bytes: &[u8]) -> Result<Head, AdaptError> {
        let found = encode_string(&Sha256::digest(bytes));
        if found != self.weights_sha256 {
            let expected = &self.weights_sha256;
            return Err(AdaptError::Stored {
                problem: format!(
                    "its weights have SHA-256 {found}, and its record says {expected}"
                ),
            });
        }
        Head::from_bytes(bytes, self.from, self.to, self.roots, self.eight_bits)
    }

    /// Whether the head was fitted to pictures of a label, in this or in another spelling of it.
    #[must_use]
    pub fn fitted_label(&self, label: &str) -> bool {
        self.fitted_labels.contains(&without_spelling(label))
    }
}

fn without_spellings(labels: Option<&BTreeSet<String>>) -> BTreeSet<String> {
    let labels = labels.into_iter().flatten();
    labels.map(|label| without_spelling(label)).collect()
}

fn data_sha256(request: &AdaptRequest<'_>) -> String {
    let mut hash = Sha256::new();
    for (row, name) in request.names.iter().enumerate() {
        hash.update(name);
        hash.update([0]);
        for value in request.rows.row(row).unwrap_or_default() {
            hash.update(value.to_le_bytes());
        }
    }
    encode_string(&hash.finalize())
}
