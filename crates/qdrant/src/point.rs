//! A point: the item's place in the index, and what an answer says of it.

use std::collections::HashMap;

use base16ct::lower::{decode_vec, encode_string};
use sha2::{Digest, Sha256};

use crate::wire::{
    DenseVector, PayloadValue, PointId, PointIdOptions, PointStruct, PointVector, PointVectors,
    ScoredPoint, ValueKind,
};

/// The keys of a payload: the item's id, its checksum, and the generation in which the point was written.
const ID: &str = "id";
const CHECKSUM: &str = "checksum";
pub(crate) const GENERATION: &str = "generation";

/// The id of a point: the first half of the SHA-256 of its item's id. Qdrant lists points in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointKey(PointNumber);

/// Numbers of the first kind are never given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PointNumber {
    Plain(u64),
    Uuid(u128),
}

impl PointKey {
    /// The first key of all.
    pub const FIRST: Self = Self(PointNumber::Plain(0));

    /// The key of an item.
    #[must_use]
    pub fn of(item: &str) -> Self {
        let hash = Sha256::digest(item.as_bytes());
        let (half, _) = hash.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        Self(PointNumber::Uuid(u128::from_be_bytes(*half)))
    }

    pub(crate) fn wire(self) -> PointId {
        let number = match self.0 {
            PointNumber::Plain(number) => {
                return PointId {
                    point_id_options: Some(PointIdOptions::Num(number)),
                };
            }
            PointNumber::Uuid(number) => number,
        };
        let text = encode_string(&number.to_be_bytes());
        let (first, rest) = text.split_at(8);
        let (second, rest) = rest.split_at(4);
        let (third, rest) = rest.split_at(4);
        let (fourth, fifth) = rest.split_at(4);
        let uuid = format!("{first}-{second}-{third}-{fourth}-{fifth}");
        PointId {
            point_id_options: Some(PointIdOptions::Uuid(uuid)),
        }
    }

    /// `None` for what is no id.
    pub(crate) fn read(id: Option<&PointId>) -> Option<Self> {
        match id?.point_id_options.as_ref()? {
            PointIdOptions::Uuid(uuid) => {
                let bytes = decode_vec(uuid.replace('-', "")).ok()?;
                let number = u128::from_be_bytes(bytes.try_into().ok()?);
                Some(Self(PointNumber::Uuid(number)))
            }
            PointIdOptions::Num(number) => Some(Self(PointNumber::Plain(*number))),
        }
    }
}

/// An item to be written.
#[derive(Clone, Debug)]
pub struct NewPoint<'a> {
    /// The item's id.
    pub item: &'a str,
    /// Its checksum.
    pub checksum: [u8; 32],
    /// Its vector, of unit length.
    pub vector: &'a [f32],
}

impl NewPoint<'_> {
    pub(crate) fn wire(&self, generation: u64) -> PointStruct {
        let text = |text: &str| PayloadValue {
            kind: Some(ValueKind::StringValue(text.to_owned())),
        };
        let number = i64::try_from(generation).unwrap_or(i64::MAX);
        let payload = HashMap::from([
            (ID.to_owned(), text(self.item)),
            (CHECKSUM.to_owned(), text(&encode_string(&self.checksum))),
            (
                GENERATION.to_owned(),
                PayloadValue {
                    kind: Some(ValueKind::IntegerValue(number)),
                },
            ),
        ]);
        let dense = DenseVector {
            data: self.vector.to_vec(),
        };
        PointStruct {
            id: Some(PointKey::of(self.item).wire()),
            payload,
            vectors: Some(PointVectors {
                vector: Some(PointVector { dense: Some(dense) }),
            }),
        }
    }
}

/// A point that Qdrant proposes.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposedPoint {
    /// Its key; `None` if it says none.
    pub key: Option<PointKey>,
    /// Id and checksum of its item; `None` if it does not say them, or those of another one.
    pub item: Option<(String, [u8; 32])>,
    /// What Qdrant says of its similarity.
    pub score: f32,
}

impl ProposedPoint {
    pub(crate) fn read(mut point: ScoredPoint) -> Self {
        let key = PointKey::read(point.id.as_ref());
        let checksum = checksum_in(&point.payload);
        let id = text_in(&mut point.payload, ID);
        let item = id.zip(checksum);
        Self {
            key,
            item: item.filter(|(id, _)| key == Some(PointKey::of(id))),
            score: point.score,
        }
    }
}

/// A point as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPoint {
    /// Its key.
    pub key: PointKey,
    /// The checksum of its item; `None` if it does not say it.
    pub checksum: Option<[u8; 32]>,
    /// The generation in which it was written, or 0.
    pub generation: u64,
}

/// Some points in order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointPage {
    /// The points.
    pub points: Vec<KeptPoint>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<PointKey>,
}

pub(crate) fn checksum_in(payload: &HashMap<String, PayloadValue>) -> Option<[u8; 32]> {
    match payload.get(CHECKSUM)?.kind.as_ref()? {
        ValueKind::StringValue(text) => decode_vec(text).ok()?.try_into().ok(),
        ValueKind::IntegerValue(_) => None,
    }
}

pub(crate) fn generation_in(payload: &HashMap<String, PayloadValue>) -> u64 {
    let kind = payload
        .get(GENERATION)
        .and_then(|value| value.kind.as_ref());
    match kind {
        Some(ValueKind::IntegerValue(number)) => u64::try_from(*number).unwrap_or(0),
        Some(ValueKind::StringValue(_)) | None => 0,
    }
}

fn text_in(payload: &mut HashMap<String, PayloadValue>, key: &str) -> Option<String> {
    match payload.remove(key)?.kind? {
        ValueKind::StringValue(text) => Some(text),
        ValueKind::IntegerValue(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_in_the_order_of_qdrant() {
        let key = PointKey::of("mug-1");
        assert_eq!(PointKey::read(Some(&key.wire())), Some(key));
        let Some(PointIdOptions::Uuid(uuid)) = key.wire().point_id_options else {
            unreachable!();
        };
        assert_eq!(
            uuid.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        let foreign = PointId {
            point_id_options: Some(PointIdOptions::Num(u64::MAX)),
        };
        let foreign = PointKey::read(Some(&foreign)).unwrap();
        assert!(PointKey::FIRST < foreign && foreign < key);
    }

    #[test]
    fn a_proposal_says_its_item_only_if_id_and_checksum_are_there_and_its_own() {
        let new = NewPoint {
            item: "mug-1",
            checksum: [7; 32],
            vector: &[1.0],
        };
        let PointStruct { id, payload, .. } = new.wire(3);
        let whole = ScoredPoint {
            id,
            payload,
            score: 0.5,
        };
        let read = |point: &ScoredPoint| ProposedPoint::read(point.clone()).item;
        assert_eq!(read(&whole), Some(("mug-1".to_owned(), [7; 32])));
        assert_eq!(generation_in(&whole.payload), 3);
        let mut other = whole.clone();
        other.id = Some(PointKey::of("mug-2").wire());
        assert_eq!(read(&other), None);
        let mut empty = whole;
        empty.payload.clear();
        assert_eq!(read(&empty), None);
    }
}
