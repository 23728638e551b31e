//! Decodes messages; what a request would take in memory is counted from its bytes, before it is built.
//!
//! A message of many small parts takes many times its bytes in memory: 16 MiB of empty items took 1.2 GB
//! before the server could report that a batch has 1,000 at most.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::OnceLock;

use prost::bytes::Buf;
use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto;

/// Parts of one list or map: the limit of most lists, and of those that may be longer.
const LIST_MAX: usize = 1000;
const LONGER_LISTS: &[(&str, &str, usize)] = &[(
    "matchpoint.v1.AnnotateDecisionsRequest",
    "annotations",
    10_000,
)];
/// Bytes of one text. Smaller limits of fields are checked later.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// What a built message may take: a fixed amount, and a multiple of its bytes.
const BUILT_BYTES: u64 = 256 << 10;
const BUILT_TIMES: u64 = 8;
/// What a part takes besides its content: a message, a map's entry, and a text.
const MESSAGE_BYTES: u64 = 192;
const ENTRY_BYTES: u64 = 64;
const TEXT_BYTES: u64 = 32;

/// Like [`ProstCodec`], but requests are counted.
#[derive(Clone, Copy, Debug)]
pub struct CountingCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for CountingCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for CountingCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = CountingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder(ProstDecoder::default())
    }
}

/// Decodes messages, and counts requests first.
#[derive(Debug)]
pub struct CountingDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for CountingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Answers come from the server that was chosen.
        if !U::NAME.ends_with("Request") {
            return self.0.decode(buffer);
        }
        // It is in one piece; otherwise the rest would be uncounted.
        if buffer.chunk().len() != buffer.remaining() {
            return Err(Status::internal("internal error"));
        }
        count(&U::full_name(), buffer.chunk()).map_err(|problem| refusal(&problem))?;
        self.0
            .decode(buffer)
            .map_err(|error| refusal(&format!("the message is malformed: {}", error.message())))
    }
}

fn refusal(problem: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("ARGUMENT_INVALID", "matchpoint.dev", HashMap::new());
    Status::with_error_details(Code::InvalidArgument, problem, details)
}

/// Messages of the contract, by their names.
struct Contract(HashMap<String, MessagePlan>);

/// The fields of a message that are length-delimited, by number.
type MessagePlan = HashMap<u32, FieldPlan>;

struct FieldPlan {
    name: String,
    /// How many there may be, in a list.
    list_max: Option<usize>,
    part: PartKind,
}

#[derive(Clone, PartialEq)]
enum PartKind {
    Text,
    Bytes,
    Message(String),
    /// An entry of a map.
    Entry(String),
    /// Packed numbers of a list.
    Numbers,
}

impl Contract {
    fn get() -> &'static Self {
        static CONTRACT: OnceLock<Contract> = OnceLock::new();
        CONTRACT.get_or_init(|| {
            // Compiled in; a test checks it.
            let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default();
            let mut plans = HashMap::new();
            for file in &files.file {
                for message in &file.message_type {
                    add(&mut plans, file.package(), message);
                }
            }
            Self(plans)
        })
    }
}

fn add(plans: &mut HashMap<String, MessagePlan>, within: &str, message: &DescriptorProto) {
    let name = format!("{within}.{}", message.name());
    for nested in &message.nested_type {
        add(plans, &name, nested);
    }
    let fields = message.field.iter();
    let fields = fields.map(|field| {
        let part = match field.r#type() {
            Type::String => PartKind::Text,
            Type::Bytes => PartKind::Bytes,
            Type::Message => part_of(&name, message, field.type_name()),
            Type::Double
            | Type::Float
            | Type::Int64
            | Type::Uint64
            | Type::Int32
            | Type::Fixed64
            | Type::Fixed32
            | Type::Bool
            | Type::Group
            | Type::Uint32
            | Type::Enum
            | Type::Sfixed32
            | Type::Sfixed64
            | Type::Sint32
            | Type::Sint64 => PartKind::Numbers,
        };
        let longer = LONGER_LISTS
            .iter()
            .find(|(longer, list, _)| *longer == name && *list == field.name());
        let most = longer.map_or(LIST_MAX, |(_, _, most)| *most);
        let is_list = field.label() == Label::Repeated && part != PartKind::Numbers;
        let plan = FieldPlan {
            name: field.name().to_owned(),
            list_max: is_list.then_some(most),
            part,
        };
        (field.number().unsigned_abs(), plan)
    });
    let fields = fields.collect();
    plans.insert(name, fields);
}

/// A message, or an entry of a map, which is declared within the message with the map.
fn part_of(name: &str, message: &DescriptorProto, part: &str) -> PartKind {
    let part = part.trim_start_matches('.').to_owned();
    let is_map = |nested: &&DescriptorProto| {
        let options = nested.options.as_ref();
        options.is_some_and(prost_types::MessageOptions::map_entry)
    };
    let mut entries = message.nested_type.iter().filter(is_map);
    if entries.any(|entry| part == format!("{name}.{}", entry.name())) {
        PartKind::Entry(part)
    } else {
        PartKind::Message(part)
    }
}

/// Refuses a message that would take far more memory than its bytes, or that has too long a list or text. A
/// malformed message is left to the decoder, which gets no further than this.
fn count(name: &str, bytes: &[u8]) -> Result<(), String> {
    let built_max = BUILT_BYTES + BUILT_TIMES * bytes.len() as u64;
    let mut counted = Counted {
        contract: Contract::get(),
        built: 0,
        built_max,
    };
    counted.message(name, "", bytes)
}

struct Counted {
    contract: &'static Contract,
    built: u64,
    built_max: u64,
}

impl Counted {
    fn message(&mut self, name: &str, path: &str, mut bytes: &[u8]) -> Result<(), String> {
        let Some(plan) = self.contract.0.get(name) else {
            return Ok(());
        };
        let mut lists: HashMap<u32, usize> = HashMap::new();
        while let Some((number, part)) = next_part(&mut bytes) {
            let Some(field) = plan.get(&number) else {
                continue;
            };
            if let Some(most) = field.list_max {
                let count = lists.entry(number).or_default();
                *count += 1;
                if most < *count {
                    return Err(format!(
                        "{path}{} has more than {most} entries, which is the limit; send them in several calls",
                        field.name
                    ));
                }
            }
            self.part(field, path, part)?;
        }
        Ok(())
    }

    fn part(&mut self, field: &FieldPlan, path: &str, part: &[u8]) -> Result<(), String> {
        let name = &field.name;
        match &field.part {
            PartKind::Numbers => {}
            PartKind::Bytes => self.take(TEXT_BYTES)?,
            PartKind::Text => {
                if TEXT_BYTES_MAX < part.len() {
                    let length = part.len();
                    return Err(format!(
                        "{path}{name} has {length} bytes, and no text may have more than {TEXT_BYTES_MAX}"
                    ));
                }
                self.take(TEXT_BYTES + part.len() as u64)?;
            }
            PartKind::Message(message) | PartKind::Entry(message) => {
                let is_entry = matches!(field.part, PartKind::Entry(_));
                self.take(if is_entry { ENTRY_BYTES } else { MESSAGE_BYTES })?;
                self.message(message, &format!("{path}{name}."), part)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<(), String> {
        self.built += bytes;
        if self.built_max < self.built {
            return Err(format!(
                "the message has too many small parts: built, it would take more than {BUILT_TIMES} times its bytes; send it in several calls"
            ));
        }
        Ok(())
    }
}

/// The next length-delimited part with its field's number; skips all others, and groups. `None` at the end,
/// and for malformed bytes.
fn next_part<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let mut groups = 0_u32;
    loop {
        let tag = varint(bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        match tag & 7 {
            0 => drop(varint(bytes)?),
            1 => drop(split(bytes, 8)?),
            2 => {
                let length = usize::try_from(varint(bytes)?).ok()?;
                let part = split(bytes, length)?;
                if groups == 0 {
                    return Some((number, part));
                }
            }
            3 => groups = groups.checked_add(1)?,
            4 => groups = groups.checked_sub(1)?,
            5 => drop(split(bytes, 4)?),
            _ => return None,
        }
    }
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        BatchDeleteItemsRequest, BatchUpsertItemsRequest, UpsertItemRequest, Vector,
    };

    fn counted<T: Message + Name>(message: &T) -> Result<(), String> {
        count(&T::full_name(), &message.encode_to_vec())
    }

    fn item(entries: usize) -> UpsertItemRequest {
        use crate::proto::upsert_item_request::Source;
        UpsertItemRequest {
            id: "folder/item".to_owned(),
            label: "label".to_owned(),
            metadata: (0..entries)
                .map(|n| (format!("key {n}"), n.to_string()))
                .collect(),
            source: Some(Source::Embedding(Vector {
                values: vec![0.5; 128],
            })),
            ..UpsertItemRequest::default()
        }
    }

    #[test]
    fn what_calls_take_is_let_through() {
        counted(&item(64)).unwrap();
        let items = vec![item(64); 300];
        counted(&BatchUpsertItemsRequest {
            items,
            ..BatchUpsertItemsRequest::default()
        })
        .unwrap();
        counted(&BatchUpsertItemsRequest {
            items: vec![UpsertItemRequest::default(); 1000],
            ..BatchUpsertItemsRequest::default()
        })
        .unwrap();
        counted(&BatchDeleteItemsRequest {
            ids: (0..1000).map(|n| n.to_string()).collect(),
            ..BatchDeleteItemsRequest::default()
        })
        .unwrap();
    }

    #[test]
    fn lists_maps_texts_and_small_parts_beyond_a_limit_are_refused_by_name() {
        let empty = [0x12_u8, 0].repeat(1001);
        let refused = count("matchpoint.v1.BatchUpsertItemsRequest", &empty).unwrap_err();
        assert!(refused.starts_with("items has more than 1000"), "{refused}");

        let refused = counted(&item(1001)).unwrap_err();
        assert!(
            refused.starts_with("metadata has more than 1000"),
            "{refused}"
        );

        let long = UpsertItemRequest {
            id: "x".repeat(TEXT_BYTES_MAX + 1),
            ..UpsertItemRequest::default()
        };
        let refused = counted(&long).unwrap_err();
        assert!(refused.starts_with("id has 65537 bytes"), "{refused}");

        let mut bare = item(1000);
        bare.source = None;
        let many = BatchUpsertItemsRequest {
            items: vec![bare; 100],
            ..BatchUpsertItemsRequest::default()
        };
        let refused = counted(&many).unwrap_err();
        assert!(refused.contains("too many small parts"), "{refused}");
    }

    #[test]
    fn nothing_hides_behind_unknown_fields_and_groups() {
        let empty = [0x12_u8, 0].repeat(1001);
        // A number, 4 and 8 bytes, and a group within a group, of fields that nobody knows.
        let before: [&[u8]; 5] = [
            b"\xf8\x01\x05",
            b"\xfd\x01abcd",
            b"\xf9\x01abcdefgh",
            b"\xfb\x01\xfb\x01\xfa\x01\x02hi\xfc\x01\xfc\x01",
            b"\xfa\x01\x03abc",
        ];
        for hidden in before {
            let bytes = [hidden, &empty].concat();
            assert!(count("matchpoint.v1.BatchUpsertItemsRequest", &bytes).is_err());
        }
    }

    #[test]
    fn what_is_cut_anywhere_is_counted_without_harm() {
        let whole = item(5).encode_to_vec();
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap();
            drop(count("matchpoint.v1.UpsertItemRequest", cut));
        }
    }
}
