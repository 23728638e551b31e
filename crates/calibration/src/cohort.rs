//! A cohort: embeddings that scores are normalised against.

use std::collections::BTreeSet;

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CalibrationError;
use super::normalise::{CohortStatistics, Normalisation};
use matchpoint_vector::{Embedding, Similarity};

/// The version of the file format that is written.
const FORMAT: u64 = 1;

/// Items of a gallery that are sampled once and then stored, so that scores do not depend on later enrolments.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    labels: Vec<String>,
    members: Vec<Embedding>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CohortHead {
    format: u64,
    dimension: usize,
    labels: Vec<String>,
}

impl Cohort {
    /// The highest number of members. More would cost time in every search and add little.
    pub const MEMBERS_MAX: usize = 1_000;

    /// Samples from items, which are given as id, label and vector of unit length. The sample depends only on
    /// the seed and the ids, and not on the order of the items.
    ///
    /// # Errors
    /// Returns an error if the items have fewer than two labels, because an item is not compared with members
    /// of its own label.
    pub fn sampled<'a>(
        items: impl Iterator<Item = (&'a str, &'a str, &'a [f32])>,
        seed: u64,
    ) -> Result<Self, CalibrationError> {
        let mut hashed: Vec<_> = items
            .map(|(id, label, vector)| (sampling_hash(seed, id), label, vector))
            .collect();
        hashed.sort_unstable_by_key(|(hash, ..)| *hash);
        hashed.truncate(Self::MEMBERS_MAX);
        let (mut labels, mut members) = (Vec::new(), Vec::new());
        for (_, label, vector) in hashed {
            labels.push(label.to_owned());
            let member = Embedding::from_unit(vector.to_vec());
            members.push(member.map_err(CalibrationError::CohortMember)?);
        }
        Self { labels, members }.checked()
    }

    /// Reads what [`Cohort::to_bytes`] wrote.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a valid cohort.
    pub fn parse(bytes: &[u8]) -> Result<Self, CalibrationError> {
        let damaged = |problem: &str| CalibrationError::NotACohort(problem.to_owned());
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let (head, values) = end
            .and_then(|end| bytes.split_at_checked(end))
            .ok_or_else(|| damaged("it has no first line"))?;
        let head: CohortHead =
            serde_json::from_slice(head).map_err(|cause| damaged(&cause.to_string()))?;
        if head.format != FORMAT {
            return Err(CalibrationError::UnknownFormat {
                found: head.format,
                supported: FORMAT,
            });
        }
        let (values, rest) = values.get(1..).unwrap_or_default().as_chunks::<4>();
        let expected = head.labels.len().checked_mul(head.dimension);
        if expected != Some(values.len())
            || !rest.is_empty()
            || Self::MEMBERS_MAX < head.labels.len()
        {
            return Err(damaged("its length is not that of its members"));
        }
        let values: Vec<f32> = values.iter().copied().map(f32::from_le_bytes).collect();
        let members = values
            .chunks_exact(head.dimension.max(1))
            .map(|row| Embedding::from_unit(row.to_vec()).map_err(CalibrationError::CohortMember));
        Self {
            members: members.collect::<Result<_, _>>()?,
            labels: head.labels,
        }
        .checked()
    }

    /// Encodes the cohort: a line of JSON with the dimension and the labels, then the members as little-endian
    /// `f32`.
    ///
    /// # Errors
    /// Never in practice, because every field can be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CalibrationError> {
        let head = CohortHead {
            format: FORMAT,
            dimension: self.members.first().map_or(0, Embedding::dimension),
            labels: self.labels.clone(),
        };
        let mut bytes = serde_json::to_vec(&head).map_err(CalibrationError::NotARecord)?;
        bytes.push(b'\n');
        for member in &self.members {
            bytes.extend(
                member
                    .as_slice()
                    .iter()
                    .flat_map(|value| value.to_le_bytes()),
            );
        }
        Ok(bytes)
    }

    /// SHA-256 of the encoded bytes as 64 hexadecimal digits, by which an operating point identifies its
    /// cohort.
    ///
    /// # Errors
    /// Never in practice; see [`Cohort::to_bytes`].
    pub fn digest(&self) -> Result<String, CalibrationError> {
        Ok(encode_string(&Sha256::digest(self.to_bytes()?)))
    }

    /// The number of members, at least 2.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The statistics of an embedding's similarities to the cohort. Members with a label in `without` are
    /// ignored, because a mate in the cohort would lower the scores of mated comparisons only.
    ///
    /// # Errors
    /// Returns an error if the embedding has another dimension, or if all members are ignored.
    pub fn statistics(
        &self,
        how: Normalisation,
        embedding: &[f32],
        without: &[&str],
    ) -> Result<CohortStatistics, CalibrationError> {
        how.statistics(self.scores(embedding, without)?)
    }

    /// The similarities of an embedding to the members whose label is not in `without`.
    ///
    /// # Errors
    /// Returns an error if the embedding has another dimension.
    pub fn scores(
        &self,
        embedding: &[f32],
        without: &[&str],
    ) -> Result<Vec<Similarity>, CalibrationError> {
        let members = self.labels.iter().zip(&self.members);
        members
            .filter(|(label, _)| !without.contains(&label.as_str()))
            .map(|(_, member)| {
                let dimension = CalibrationError::CohortDimension {
                    cohort: member.dimension(),
                    embedding: embedding.len(),
                };
                Similarity::between(embedding, member.as_slice()).ok_or(dimension)
            })
            .collect()
    }

    fn checked(self) -> Result<Self, CalibrationError> {
        let distinct: BTreeSet<&str> = self.labels.iter().map(String::as_str).collect();
        if distinct.len() < 2 {
            return Err(CalibrationError::CohortLabels);
        }
        Ok(self)
    }
}

fn sampling_hash(seed: u64, id: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"cohort");
    hash.update(seed.to_le_bytes());
    hash.update(id);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::normalise::StatisticsSide;
    use super::*;

    fn by(nearest: Option<u32>) -> Normalisation {
        let nearest = nearest.and_then(NonZeroU32::new);
        Normalisation::new(
            StatisticsSide::Both,
            nearest,
            Normalisation::DEVIATION_FLOOR,
        )
        .unwrap()
    }

    fn of(rows: &[(&str, &str, [f32; 2])]) -> Result<Cohort, CalibrationError> {
        let items = rows.iter().map(|(id, label, row)| (*id, *label, &row[..]));
        Cohort::sampled(items, 7)
    }

    const ROWS: [(&str, &str, [f32; 2]); 3] = [
        ("1", "ash", [1.0, 0.0]),
        ("2", "beech", [0.0, 1.0]),
        ("3", "cedar", [-1.0, 0.0]),
    ];

    #[test]
    fn embeddings_are_scored_exactly_and_must_have_the_dimension_of_the_cohort() {
        let cohort = of(&ROWS).unwrap();
        let found = cohort.statistics(by(None), &[1.0, 0.0], &[]).unwrap();
        assert!(found.mean().abs() < 1e-12);
        assert!((found.deviation() - (2.0_f64 / 3.0).sqrt()).abs() < 1e-11);
        let nearest = cohort.statistics(by(Some(2)), &[1.0, 0.0], &[]).unwrap();
        assert!((nearest.mean() - 0.5).abs() < 1e-12);
        let refused = cohort.statistics(by(None), &[1.0, 0.0, 0.0], &[]);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("dimension 2"), "{refused}");
    }

    #[test]
    fn mates_take_no_part() {
        let cohort = of(&ROWS).unwrap();
        let scores = cohort.scores(&[1.0, 0.0], &["ash"]).unwrap();
        assert!(scores.iter().all(|score| score.get() <= 0.0));
        let all = ["ash", "beech", "cedar"];
        assert!(cohort.statistics(by(None), &[1.0, 0.0], &all).is_err());
    }

    #[test]
    fn the_draw_knows_the_seed_and_the_ids_alone() {
        let ids: Vec<String> = (0..2_000).map(|number| format!("item {number}")).collect();
        let items = |reversed: bool| {
            let mut items: Vec<(&str, &str, &[f32])> = ids
                .iter()
                .map(|id| (id.as_str(), id.as_str(), &[1.0_f32, 0.0][..]))
                .collect();
            if reversed {
                items.reverse();
            }
            items
        };
        let drawn = |reversed, seed| Cohort::sampled(items(reversed).into_iter(), seed).unwrap();
        assert_eq!(drawn(false, 1), drawn(true, 1));
        assert_ne!(drawn(false, 1), drawn(false, 2));
        assert_eq!(drawn(false, 1).members(), Cohort::MEMBERS_MAX);
    }

    #[test]
    fn bytes_are_read_back_and_damage_is_refused() {
        let cohort = of(&ROWS).unwrap();
        let bytes = cohort.to_bytes().unwrap();
        assert_eq!(Cohort::parse(&bytes).unwrap(), cohort);
        for length in 0..bytes.len() {
            assert!(Cohort::parse(&bytes[..length]).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Cohort::parse(&longer).is_err());
        assert!(Cohort::parse(b"{\"format\":1,\"dimension\":0,\"labels\":[]}\n").is_err());
    }

    #[test]
    fn one_label_is_no_cohort() {
        let refused = of(&[ROWS[0], ("4", "ash", [0.0, 1.0])]).unwrap_err();
        assert!(refused.to_string().contains("two labels"));
    }
}
