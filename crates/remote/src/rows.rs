//! Items as rows of the store, and back.

use std::str::from_utf8;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::Generation;
use matchpoint_gallery::item::{Item, embedding_bytes};
use matchpoint_vector::Embedding;

/// A value of a row.
pub(super) fn column<'a, T: FromSql<'a>>(
    row: &'a Row,
    number: usize,
) -> Result<T, tokio_postgres::Error> {
    row.try_get(number)
}

/// Text that the store kept as bytes.
pub(super) fn text_of(bytes: &[u8]) -> Result<String, String> {
    let text = from_utf8(bytes);
    text.map(ToOwned::to_owned)
        .map_err(|error| format!("a name is no text: {error}"))
}

/// A row that begins with the number of a generation and its digest.
pub(super) fn generation_of(row: &Row) -> Result<Generation, tokio_postgres::Error> {
    Ok(Generation {
        number: unsigned(column(row, 0)?),
        digest: digest_of(row, 1)?,
    })
}

/// A digest. One of another length equals none, and is so found to be wrong.
pub(super) fn digest_of(row: &Row, number: usize) -> Result<[u8; 32], tokio_postgres::Error> {
    let bytes: &[u8] = column(row, number)?;
    Ok(bytes.try_into().unwrap_or([0xff; 32]))
}

/// A number as the store keeps it; it never reaches the sign.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// A number that the store kept.
pub(super) fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

/// The columns of several items: one array for each, in the order of `ADD_ITEMS`.
#[derive(Default)]
pub(super) struct ItemColumns {
    pub(super) ids: Vec<Vec<u8>>,
    pub(super) labels: Vec<Vec<u8>>,
    pub(super) metadata: Vec<Vec<u8>>,
    pub(super) sources: Vec<Option<Vec<u8>>>,
    pub(super) embeddings: Vec<Vec<u8>>,
    pub(super) checksums: Vec<[u8; 32]>,
    pub(super) images: Vec<Option<Vec<u8>>>,
}

impl ItemColumns {
    pub(super) fn of(items: &[Item]) -> Self {
        let mut columns = Self::default();
        for item in items {
            columns.ids.push(item.id.clone().into_bytes());
            columns.labels.push(item.label.clone().into_bytes());
            columns.metadata.push(metadata_bytes(item));
            let source = item.source_sha256.as_ref();
            columns.sources.push(source.map(|hash| hash.to_vec()));
            let embedding = embedding_bytes(item.embedding.as_slice());
            columns.embeddings.push(embedding);
            columns.checksums.push(item.checksum());
            columns.images.push(item.image.clone());
        }
        columns
    }

    /// Only their ids.
    pub(super) fn of_ids(ids: &[String]) -> Self {
        Self {
            ids: ids.iter().map(|id| id.clone().into_bytes()).collect(),
            ..Self::default()
        }
    }
}

/// A list of strings in turn: key, value, key, value, each with its length before it, so that any text is kept.
fn metadata_bytes(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in item.metadata.iter().flat_map(|(key, value)| [key, value]) {
        // An item's metadata has at most 16 KiB.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn metadata_of(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(from_utf8(text).ok()?.to_owned());
        bytes = rest;
    }
    Some(texts)
}

/// Reads an item, and compares it with its checksum. The first column is the generation.
pub(super) fn item_of(row: &Row) -> Result<Item, String> {
    let bytes = |column: usize| {
        row.try_get::<_, &[u8]>(column)
            .map_err(|error| error.to_string())
    };
    let text = |column: usize| text_of(bytes(column)?);
    let id = text(1)?;
    let damaged = |what: &str| format!("item `{id}` has {what}");
    let texts = metadata_of(bytes(3)?).ok_or_else(|| damaged("metadata that cannot be read"))?;
    let (pairs, []) = texts.as_chunks::<2>() else {
        return Err(damaged("metadata without a last value"));
    };
    let pairs = pairs.iter().cloned();
    let source: Option<&[u8]> = row.try_get(4).map_err(|error| error.to_string())?;
    let source_sha256 = source
        .map(<[u8; 32]>::try_from)
        .transpose()
        .map_err(|_other_length| damaged("a hash of another length"))?;
    let values = bytes(5)?.as_chunks().0.iter();
    let values = values.map(|value| f32::from_le_bytes(*value)).collect();
    let embedding = Embedding::from_unit(values).map_err(|error| damaged(&error.to_string()))?;
    let item = Item {
        label: text(2)?,
        metadata: pairs.map(|[key, value]| (key, value)).collect(),
        embedding,
        source_sha256,
        image: row.try_get(7).map_err(|error| error.to_string())?,
        id: id.clone(),
    };
    if bytes(6)? != item.checksum() {
        return Err(damaged("not the content that its checksum says"));
    }
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_any_text_are_read_as_they_were_written() {
        let metadata = [("a", "\0"), ("b.c[0]\"", ""), ("\u{e4}", "\u{1f980}\n")];
        let item = Item {
            id: "id".to_owned(),
            label: "label".to_owned(),
            metadata: metadata
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            embedding: Embedding::normalise(vec![1.0]).unwrap(),
            source_sha256: None,
            image: None,
        };
        let bytes = metadata_bytes(&item);
        let texts = metadata_of(&bytes).unwrap();
        assert_eq!(
            texts,
            metadata.map(|(key, value)| [key, value]).as_flattened()
        );
        for cut in 1..bytes.len() {
            let shorter = metadata_of(bytes.get(..cut).unwrap());
            assert!(shorter.is_none_or(|read| read.len() < texts.len()));
        }
    }
}
