//! Examines the bytes of an ONNX file before ONNX Runtime reads them.
//!
//! The fingerprint covers the bytes of one file, so the network must not depend on any other file. But ONNX
//! Runtime silently reads weights that a model stores in another file; for a model from memory, it looks below
//! the working directory. So every message that can contain a tensor is visited here, and every reference to
//! another file is found.
//!
//! The visit allocates nothing, reads each byte a limited number of times, and has a limited depth. If it could
//! differ from the runtime, it refuses more: every occurrence of a repeated field counts, and a group, which no
//! ONNX file has, is refused.

use crate::pixels::{SNIFF_BYTES, sniff};

/// The highest depth of nested messages, as in protobuf's own readers.
const DEPTH_MAX: usize = 100;

/// The position and the identifier of ONNX Runtime's own format, which is not protobuf. It can also store
/// weights in other files, in places that are not checked here.
const ORT_FORMAT: (std::ops::Range<usize>, &[u8]) = (4..8, b"ORTM");

/// The reasons why a file is not accepted as a model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OnnxError {
    /// The bytes are not an ONNX file.
    #[error("it is not an ONNX file: {0}")]
    Malformed(&'static str),
    /// The bytes are another kind of file.
    #[error("it is not an ONNX file, but looks like {0}")]
    Foreign(&'static str),
    /// A tensor is stored in another file, which no hash covers.
    #[error(
        "the tensor {tensor:?} is kept in another file ({location:?}), which file.sha256 does not \
         cover; make one file of both: onnx.save_model(onnx.load(\"model.onnx\"), \"joined.onnx\", \
         save_as_external_data=False)"
    )]
    External {
        /// The tensor's name.
        tensor: String,
        /// The file, as the model names it.
        location: String,
    },
    /// A node refers to code that was compiled for a device.
    #[error(
        "the node {node:?} is an EPContext, which stands for code that was compiled for one device \
         and may be in another file; use the ONNX file that it was made from"
    )]
    Compiled {
        /// The node's name.
        node: String,
    },
}

/// The messages that can contain a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnnxMessage {
    Model,
    Training,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl OnnxMessage {
    /// The type of message in this field, by its number in `onnx.proto`; `None` if it cannot contain a tensor.
    fn within(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => {
                Some(Self::Graph)
            }
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::Sparse),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => {
                Some(Self::Tensor)
            }
            (
                Self::Model
                | Self::Training
                | Self::Graph
                | Self::Function
                | Self::Node
                | Self::Attribute
                | Self::Sparse
                | Self::Tensor,
                _,
            ) => None,
        }
    }
}

/// One field of a message.
struct ProtobufField<'a> {
    number: u64,
    value: ProtobufValue<'a>,
}

enum ProtobufValue<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A value of fixed width, which is of no interest here.
    Fixed,
}

/// The fields of a message, in the order of the file.
struct ProtobufFields<'a>(&'a [u8]);

impl<'a> ProtobufFields<'a> {
    /// The next field; `None` at the end.
    fn next(&mut self) -> Result<Option<ProtobufField<'a>>, OnnxError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || u64::from(u32::MAX) < key {
            return Err(OnnxError::Malformed("a field has an impossible number"));
        }
        let value = match key & 7 {
            0 => ProtobufValue::Number(self.varint()?),
            1 => {
                self.bytes(8)?;
                ProtobufValue::Fixed
            }
            2 => {
                let length = self.varint()?;
                ProtobufValue::Bytes(self.bytes(length)?)
            }
            5 => {
                self.bytes(4)?;
                ProtobufValue::Fixed
            }
            _ => return Err(OnnxError::Malformed("a field has a type that ONNX lacks")),
        };
        Ok(Some(ProtobufField { number, value }))
    }

    fn varint(&mut self) -> Result<u64, OnnxError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(CUT)?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(OnnxError::Malformed("a number is too long"))
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], OnnxError> {
        let length = usize::try_from(length).map_err(|_beyond| CUT)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(bytes)
    }
}

const CUT: OnnxError = OnnxError::Malformed("it is cut short");

/// Refuses a file that is not ONNX, and one whose network is not completely in these bytes.
pub(super) fn check(onnx: &[u8]) -> Result<(), OnnxError> {
    whole(onnx).map_err(|error| {
        let head = onnx.get(..SNIFF_BYTES).unwrap_or(onnx);
        match (&error, sniff(head)) {
            (OnnxError::Malformed(_), Ok(format)) => OnnxError::Foreign(format.as_str()),
            (OnnxError::Malformed(_), Err(words)) if words != "unknown data" => {
                OnnxError::Foreign(words)
            }
            _ => error,
        }
    })
}

fn whole(onnx: &[u8]) -> Result<(), OnnxError> {
    let (at, identifier) = ORT_FORMAT;
    if onnx.get(at) == Some(identifier) {
        return Err(OnnxError::Malformed(
            "it is in ONNX Runtime's own format; use the .onnx file that it was made from",
        ));
    }
    let mut fields = ProtobufFields(onnx);
    let mut graphs = 0;
    while let Some(field) = fields.next()? {
        graphs += usize::from(field.number == 7 && matches!(field.value, ProtobufValue::Bytes(_)));
    }
    if graphs == 0 {
        return Err(OnnxError::Malformed("it has no graph"));
    }
    walk(OnnxMessage::Model, onnx, DEPTH_MAX)
}

fn walk(message: OnnxMessage, bytes: &[u8], depth: usize) -> Result<(), OnnxError> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(OnnxError::Malformed("its messages are nested too deep"));
    };
    match message {
        OnnxMessage::Tensor => return check_tensor(bytes),
        OnnxMessage::Node => check_node(bytes)?,
        OnnxMessage::Model
        | OnnxMessage::Training
        | OnnxMessage::Graph
        | OnnxMessage::Function
        | OnnxMessage::Attribute
        | OnnxMessage::Sparse => {}
    }
    let mut fields = ProtobufFields(bytes);
    while let Some(ProtobufField { number, value }) = fields.next()? {
        if let (Some(inner), ProtobufValue::Bytes(bytes)) = (message.within(number), value) {
            walk(inner, bytes, deeper)?;
        }
    }
    Ok(())
}

/// Checks a `TensorProto`. Field 8 is its name, 13 says where its data are, and 14 says that they are
/// elsewhere. Either of the last two suffices for a refusal.
fn check_tensor(bytes: &[u8]) -> Result<(), OnnxError> {
    let (mut name, mut location, mut elsewhere) = (None, None, false);
    let mut fields = ProtobufFields(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (8, ProtobufValue::Bytes(bytes)) => name = Some(bytes),
            (13, ProtobufValue::Bytes(entry)) => {
                elsewhere = true;
                location = value_of(entry, b"location")?.or(location);
            }
            (14, ProtobufValue::Number(0)) => {}
            (14, _) => elsewhere = true,
            _ => {}
        }
    }
    if elsewhere {
        return Err(OnnxError::External {
            tensor: shown(name),
            location: shown(location),
        });
    }
    Ok(())
}

/// The value of a `StringStringEntryProto` if it has this key.
fn value_of<'a>(entry: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>, OnnxError> {
    let (mut key, mut value) = (None, None);
    let mut fields = ProtobufFields(entry);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, ProtobufValue::Bytes(bytes)) => key = Some(bytes),
            (2, ProtobufValue::Bytes(bytes)) => value = Some(bytes),
            _ => {}
        }
    }
    Ok(value.filter(|_| key == Some(wanted)))
}

/// Checks a `NodeProto`. Field 3 is its name, and 4 its operator.
fn check_node(bytes: &[u8]) -> Result<(), OnnxError> {
    let (mut name, mut compiled) = (None, false);
    let mut fields = ProtobufFields(bytes);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (3, ProtobufValue::Bytes(bytes)) => name = Some(bytes),
            (4, ProtobufValue::Bytes(operator)) => compiled |= operator == b"EPContext",
            _ => {}
        }
    }
    if compiled {
        let node = shown(name);
        return Err(OnnxError::Compiled { node });
    }
    Ok(())
}

/// A name for an error message, shortened if it is long.
fn shown(name: Option<&[u8]>) -> String {
    const CHARACTERS_MAX: usize = 120;
    let text = String::from_utf8_lossy(name.unwrap_or_default());
    text.chars().take(CHARACTERS_MAX).collect()
}

/// The file with additional outputs: tensors with these names, each of which one of its nodes has to compute.
///
/// Protobuf merges a message that occurs twice, so a second, short graph at the end of the file adds to the
/// first.
pub(super) fn with_outputs(onnx: &[u8], tensors: &[&str]) -> Vec<u8> {
    let value = |tensor: &&str| field(12, &field(1, tensor.as_bytes()));
    let graph: Vec<u8> = tensors.iter().flat_map(value).collect();
    [onnx, &field(7, &graph)].concat()
}

/// A field of bytes.
pub(super) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(number) << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend_from_slice(content);
    bytes
}

/// A field of a number.
pub(super) fn number_field(number: u8, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

/// Encodes seven bits in each byte, the lowest bits first.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A node of the main graph.
pub(super) struct OnnxNode {
    pub(super) operator: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
}

/// The nodes of the main graph, in the order of the file.
pub(super) fn nodes(onnx: &[u8]) -> Result<Vec<OnnxNode>, OnnxError> {
    let mut nodes = Vec::new();
    for graph in fields_of(onnx, 7)? {
        for node in fields_of(graph, 1)? {
            nodes.push(OnnxNode {
                operator: texts_of(node, 4)?.concat(),
                inputs: texts_of(node, 1)?,
                outputs: texts_of(node, 2)?,
            });
        }
    }
    Ok(nodes)
}

/// The names of the tensors that the main graph's nodes compute, in the order of the file.
pub(super) fn computed(onnx: &[u8]) -> Result<Vec<String>, OnnxError> {
    let nodes = nodes(onnx)?.into_iter();
    Ok(nodes.flat_map(|node| node.outputs).collect())
}

/// The names of the outputs.
pub(super) fn outputs(onnx: &[u8]) -> Result<Vec<String>, OnnxError> {
    let mut names = Vec::new();
    for graph in fields_of(onnx, 7)? {
        for value in fields_of(graph, 12)? {
            names.extend(texts_of(value, 1)?);
        }
    }
    Ok(names)
}

fn texts_of(message: &[u8], number: u64) -> Result<Vec<String>, OnnxError> {
    let texts = fields_of(message, number)?.into_iter();
    let texts = texts.map(|text| String::from_utf8_lossy(text).into_owned());
    Ok(texts.collect())
}

/// The version of a domain's operators that the network uses; `None` if it uses none of them. The domain of the
/// standard operators is empty.
pub(super) fn operators_version(onnx: &[u8], domain: &[u8]) -> Result<Option<u64>, OnnxError> {
    let mut found = None;
    for set in fields_of(onnx, 8)? {
        let (mut name, mut version, mut fields) = (&b""[..], 0, ProtobufFields(set));
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, ProtobufValue::Bytes(given)) => name = given,
                (2, ProtobufValue::Number(given)) => version = given,
                _ => {}
            }
        }
        if name == domain || domain.is_empty() && name == b"ai.onnx" {
            found = Some(version);
        }
    }
    Ok(found)
}

/// The contents of every field of this number.
pub(super) fn fields_of(message: &[u8], number: u64) -> Result<Vec<&[u8]>, OnnxError> {
    let (mut found, mut fields) = (Vec::new(), ProtobufFields(message));
    while let Some(field) = fields.next()? {
        if let (true, ProtobufValue::Bytes(bytes)) = (field.number == number, field.value) {
            found.push(bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(path: &[u8], innermost: Vec<u8>) -> Vec<u8> {
        let wrap = |inner: Vec<u8>, number: &u8| field(*number, &inner);
        path.iter().rev().fold(innermost, wrap)
    }

    fn external() -> Vec<u8> {
        let location = [field(1, b"location"), field(2, b"weights.bin")].concat();
        let tensor = [field(8, b"kernel"), field(13, &location), vec![14 << 3, 1]];
        tensor.concat()
    }

    /// Every place where `onnx.proto` allows a tensor, each with its path from the start of the file.
    const PLACES: &[(&str, &[u8])] = &[
        ("initializer", &[7, 5]),
        ("values of a sparse initializer", &[7, 15, 1]),
        ("indices of a sparse initializer", &[7, 15, 2]),
        ("value of a Constant node", &[7, 1, 5, 5]),
        ("tensors of a node", &[7, 1, 5, 10]),
        ("sparse value of a Constant node", &[7, 1, 5, 22, 1]),
        ("sparse values of a node", &[7, 1, 5, 23, 2]),
        ("initializer of a branch", &[7, 1, 5, 6, 5]),
        ("initializer of one of several branches", &[7, 1, 5, 11, 5]),
        (
            "constant in a loop in a branch",
            &[7, 1, 5, 6, 1, 5, 6, 1, 5, 5],
        ),
        ("constant in a function", &[25, 7, 5, 5]),
        ("default of a function", &[25, 11, 5]),
        ("initializer of the training's first graph", &[20, 1, 5]),
        ("initializer of the training's algorithm", &[20, 2, 5]),
    ];

    #[test]
    fn a_tensor_in_another_file_is_refused_by_name_wherever_it_stands() {
        for (place, path) in PLACES {
            let file = [field(7, b""), nested(path, external())].concat();
            let expected = OnnxError::External {
                tensor: "kernel".to_owned(),
                location: "weights.bin".to_owned(),
            };
            assert_eq!(check(&file), Err(expected), "{place}");
            let inside = [field(7, b""), nested(path, field(8, b"kernel"))].concat();
            assert_eq!(check(&inside), Ok(()), "{place}");
        }
    }

    #[test]
    fn one_word_of_another_file_is_enough() {
        let only_location = field(13, &[field(1, b"location"), field(2, b"x")].concat());
        let only_mark = vec![14 << 3, 1];
        // As an enum of 32 bits its value is 1.
        let long_mark = vec![14 << 3, 0x81, 0x80, 0x80, 0x80, 0x10];
        // The runtime uses the last value, but which one is last depends on how the message was built.
        let taken_back = vec![14 << 3, 1, 14 << 3, 0];
        for tensor in [only_location, only_mark, long_mark, taken_back] {
            let found = check(&nested(&[7, 5], tensor.clone()));
            assert!(
                matches!(found, Err(OnnxError::External { .. })),
                "{tensor:?}: {found:?}"
            );
        }
        assert_eq!(check(&nested(&[7, 5], vec![14 << 3, 0])), Ok(()));
    }

    #[test]
    fn a_second_graph_is_looked_at_as_the_first() {
        let file = [field(7, b""), nested(&[7, 5], external())].concat();
        assert!(matches!(check(&file), Err(OnnxError::External { .. })));
    }

    #[test]
    fn code_that_was_compiled_for_a_device_is_refused() {
        let node = [field(3, b"engine"), field(4, b"EPContext")].concat();
        let expected = OnnxError::Compiled {
            node: "engine".to_owned(),
        };
        assert_eq!(check(&nested(&[7, 1], node)), Err(expected));
    }

    #[test]
    fn bytes_that_are_no_onnx_are_refused_without_a_panic() {
        let endless = [0xff; 11];
        let beyond = [
            7 << 3 | 2,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0x7f,
        ];
        let group = [7 << 3 | 3, 7 << 3 | 4, 1];
        let ort = b"\x1a\x06\0\0ORTM";
        let bytes: [&[u8]; 7] = [b"", b"\x01version", &endless, &beyond, &group, ort, &[0, 0]];
        for bytes in bytes {
            let found = check(bytes);
            assert!(
                matches!(found, Err(OnnxError::Malformed(_))),
                "{bytes:?}: {found:?}"
            );
        }
        for (bytes, words) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:0"[..],
                "a Git LFS pointer and not the file",
            ),
            (b"<!DOCTYPE html><html>", "HTML or XML"),
            (b"\xff\xd8\xff\xe0", "JPEG"),
        ] {
            assert_eq!(check(bytes), Err(OnnxError::Foreign(words)));
        }
        let mut state = 7_u32;
        for length in 0..2000 {
            let noise: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect();
            drop(check(&[field(7, &noise), noise].concat()));
        }
    }

    #[test]
    fn messages_that_are_nested_without_end_are_refused_and_not_followed() {
        let path: Vec<u8> = std::iter::once(7)
            .chain([1, 5, 6].into_iter().cycle().take(3000))
            .collect();
        let expected = OnnxError::Malformed("its messages are nested too deep");
        assert_eq!(check(&nested(&path, Vec::new())), Err(expected));
    }

    #[test]
    fn an_output_more_is_a_second_graph_behind_the_file() {
        let file = with_outputs(&field(7, &field(2, b"net")), &["features"]);
        assert_eq!(check(&file), Ok(()));
        assert!(file.ends_with(&field(7, &field(12, &field(1, b"features")))));
    }

    #[test]
    fn the_tensors_that_nodes_compute_are_listed_in_order() {
        let node = |name: &[u8]| field(1, &[field(1, b"x"), field(2, name)].concat());
        let file = field(7, &[node(b"features"), node(b"logits")].concat());
        assert_eq!(computed(&file).unwrap(), ["features", "logits"]);
    }
}
