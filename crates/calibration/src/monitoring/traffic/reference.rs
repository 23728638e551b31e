//! The description of a calibration's searches that is stored with the operating point.

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SearchFacts;
use super::calibrated::CountedLabels;
use super::shares::{SearchSigns, ShareRule};
use matchpoint_vector::Similarity;

/// Version of the file format that this build writes.
const FORMAT: u32 = 3;
/// A version before, which is read too. It counted one query of each label.
const FORMAT_OF_ONE_QUERY: u32 = 2;
/// The version before that one, which is read too. It did not name the operating point either.
const FORMAT_BEFORE: u32 = 1;
/// The highest number of shares; [`SearchSigns`] has one bit for each.
pub(super) const SHARES_MAX: usize = 128;
/// The highest number of directions in embedding space.
const AXES_MAX: usize = 32;

/// A share, and the calibration's labels by how many of their queries are in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CalibratedShare {
    pub(super) rule: ShareRule,
    /// Enrolled labels.
    pub(super) mated: CountedLabels,
    /// Strangers.
    pub(super) strangers: CountedLabels,
}

/// The description of a calibration's searches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficReference {
    /// Number of components of an embedding.
    pub(super) dimension: usize,
    /// Directions in embedding space, as unit vectors.
    pub(super) axes: Vec<Vec<f32>>,
    /// Number of enrolled labels that were counted. They had no part in choosing the shares.
    pub(super) mated_labels: u64,
    /// Number of strangers that were counted. They had no part in choosing the shares.
    pub(super) stranger_labels: u64,
    pub(super) shares: Vec<CalibratedShare>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedReference {
    format: u32,
    /// The operating point whose queries it describes.
    #[serde(default)]
    operating_point: Option<String>,
    /// SHA-256 of the reference as compact JSON.
    sha256: String,
    reference: TrafficReference,
}

impl TrafficReference {
    /// The shares that a search belongs to; none if its embedding has another dimension.
    #[must_use]
    pub fn signs(&self, search: &SearchFacts<'_>) -> SearchSigns {
        let along = |axis: &Vec<f32>| {
            let found = Similarity::between(axis, search.vector);
            found.map_or(f64::NAN, |along| f64::from(along.get()))
        };
        let along: Vec<f64> = self.axes.iter().map(along).collect();
        let shares = self.shares.iter().enumerate();
        let signs = shares.filter(|(_, share)| share.rule.holds(search, &along));
        SearchSigns::of(signs.map(|(number, _)| number))
    }

    /// Number of counted labels: enrolled ones, and strangers.
    #[must_use]
    pub fn labels(&self) -> [u64; 2] {
        [self.mated_labels, self.stranger_labels]
    }

    /// The stored form, which names the operating point whose queries it describes.
    ///
    /// # Errors
    /// Never in practice, because every reference can be written as JSON.
    pub fn to_json(&self, operating_point: &str) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&SealedReference {
            format: FORMAT,
            operating_point: Some(operating_point.to_owned()),
            sha256: self.digest()?,
            reference: self.clone(),
        })
    }

    /// Reads what [`TrafficReference::to_json`] wrote for this operating point.
    ///
    /// # Errors
    /// Returns a message if the file is damaged, belongs to another operating point, or was written by a later
    /// version.
    pub fn from_json(bytes: &[u8], operating_point: &str) -> Result<Self, String> {
        let sealed: SealedReference =
            serde_json::from_slice(bytes).map_err(|cause| cause.to_string())?;
        match (sealed.format, sealed.operating_point) {
            (FORMAT_BEFORE, None) => {}
            (FORMAT | FORMAT_OF_ONE_QUERY, Some(named)) if named == operating_point => {}
            (FORMAT | FORMAT_OF_ONE_QUERY, Some(named)) => {
                return Err(format!(
                    "it describes the queries of {named}, not of {operating_point}"
                ));
            }
            (FORMAT_BEFORE, Some(_)) | (FORMAT | FORMAT_OF_ONE_QUERY, None) => {
                return Err("its format and its content contradict each other".to_owned());
            }
            (format, _) => {
                return Err(format!(
                    "it has format {format}, and this version reads {FORMAT_BEFORE} to {FORMAT}"
                ));
            }
        }
        let reference = sealed.reference;
        if reference.digest().map_err(|cause| cause.to_string())? != sealed.sha256 {
            return Err("its checksum does not match its content".to_owned());
        }
        if reference.is_sound() {
            Ok(reference)
        } else {
            Err("its counts or directions contradict each other".to_owned())
        }
    }

    /// SHA-256 of the reference, as hexadecimal digits.
    ///
    /// # Errors
    /// Never in practice, because every reference can be written as JSON.
    pub fn digest(&self) -> Result<String, serde_json::Error> {
        serde_json::to_vec(self).map(|json| encode_string(&Sha256::digest(json)))
    }

    fn is_sound(&self) -> bool {
        let axis = |axis: &Vec<f32>| axis.len() == self.dimension;
        let share = |share: &CalibratedShare| {
            share.mated.can_be(self.mated_labels)
                && share.strangers.can_be(self.stranger_labels)
                && share.rule.axis().is_none_or(|axis| axis < self.axes.len())
        };
        self.shares.len() <= SHARES_MAX
            && self.axes.len() <= AXES_MAX
            && self.axes.iter().all(axis)
            && self.shares.iter().all(share)
    }
}
