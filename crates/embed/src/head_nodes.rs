//! Adds a head to a network as nodes after the output with the embedding: signed square roots if the head uses
//! them, unit length, product, sum, and unit length again.

use matchpoint_vector::EightBits;

use super::onnx::{OnnxError, field, number_field, operators_version};
use super::output::EmbeddingPart;

/// The start of the names of a head's tensors and nodes. A network that already has such names cannot get
/// another head.
pub(super) const PREFIX: &str = "matchpoint.head/";
/// The output of a network with a head.
pub(super) const OUTPUT: &str = "matchpoint.head/embedding";

/// `TensorProto.DataType`
pub(super) const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const INT64: u64 = 7;
/// `AttributeProto.AttributeType`
const INT: u64 = 2;
const INTS: u64 = 7;

/// Multiplies by weights of a few bits.
const IN_BITS: &str = "MatMulNBits";
/// The operators beyond the standard, which ONNX Runtime has; that is one of them.
const MORE_OPERATORS: &[u8] = b"com.microsoft";
/// From this version of the standard operators on, a reduction takes its axes as an input.
const AXES_AS_INPUT: u64 = 18;

/// The numbers of a head: `to` rows of `from` weights, and a bias for each row.
#[derive(Clone, Copy, Debug)]
pub struct HeadWeights<'a> {
    /// Number of input components.
    pub from: usize,
    /// Whether the head uses the signed square roots of the components.
    pub roots: bool,
    /// Whether the network multiplies in 8 bits; the weights are rounded for it already.
    pub eight_bits: bool,
    /// The weights, row by row.
    pub weights: &'a [f32],
    /// The bias of each output component.
    pub bias: &'a [f32],
}

/// A chain of nodes, each of which takes the result of the previous one.
pub(super) struct Chain {
    /// The start of the names of its tensors and nodes.
    prefix: &'static str,
    graph: Vec<u8>,
    pub(super) tensor: String,
    axes_as_input: bool,
}

impl Chain {
    /// An empty chain after a tensor of the network.
    pub(super) fn after(
        onnx: &[u8],
        tensor: &str,
        prefix: &'static str,
    ) -> Result<Self, OnnxError> {
        let version = operators_version(onnx, b"")?;
        Ok(Self {
            prefix,
            graph: Vec::new(),
            tensor: tensor.to_owned(),
            axes_as_input: version.is_some_and(|version| AXES_AS_INPUT <= version),
        })
    }

    /// Makes the result, `width` floats for each picture, an output, and returns the graph.
    pub(super) fn output(mut self, width: usize) -> Vec<u8> {
        // [any, width] of floats.
        let sides = [field(1, &[]), field(1, &number_field(1, width as u64))].concat();
        let tensor = [number_field(1, FLOAT), field(2, &sides)].concat();
        let value = [
            field(1, self.tensor.as_bytes()),
            field(2, &field(1, &tensor)),
        ]
        .concat();
        self.graph.extend(field(12, &value));
        field(7, &self.graph)
    }

    /// Adds a node with additional inputs; its result is the input of the next node.
    pub(super) fn node(
        &mut self,
        operator: &str,
        result: &str,
        others: &[&str],
        attributes: &[Vec<u8>],
    ) {
        let mut node = field(1, self.tensor.as_bytes());
        for other in others {
            node.extend(field(1, other.as_bytes()));
        }
        let result = format!("{}{result}", self.prefix);
        node.extend(field(2, result.as_bytes()));
        node.extend(field(3, result.as_bytes()));
        node.extend(field(4, operator.as_bytes()));
        for attribute in attributes {
            node.extend(field(5, attribute));
        }
        if operator == IN_BITS {
            node.extend(field(7, MORE_OPERATORS));
        }
        self.graph.extend(field(1, &node));
        self.tensor = result;
    }

    /// Adds a tensor to the file; returns its name.
    fn tensor(&mut self, name: &str, shape: &[usize], kind: u64, bytes: &[u8]) -> String {
        let name = format!("{}{name}", self.prefix);
        let mut tensor = Vec::new();
        for side in shape {
            tensor.extend(number_field(1, *side as u64));
        }
        tensor.extend(number_field(2, kind));
        tensor.extend(field(8, name.as_bytes()));
        tensor.extend(field(9, bytes));
        self.graph.extend(field(5, &tensor));
        name
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: impl Iterator<Item = f32>) -> String {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.tensor(name, shape, FLOAT, &bytes)
    }

    fn whole(&mut self, name: &str, shape: &[usize], value: i64) -> String {
        self.tensor(name, shape, INT64, &value.to_le_bytes())
    }

    /// Divides each row by its length. A row of zeros becomes NaN, and is refused: it has no direction.
    pub(super) fn unit_length(&mut self, name: &str, result: &str) {
        let rows = self.tensor.clone();
        let lengths = format!("{name}_lengths");
        if self.axes_as_input {
            let axes = self.whole(&format!("{name}_axes"), &[1], 1);
            self.node("ReduceL2", &lengths, &[&axes], &[]);
        } else {
            self.node("ReduceL2", &lengths, &[], &[integers("axes", &[1])]);
        }
        let lengths = std::mem::replace(&mut self.tensor, rows);
        self.node("Div", result, &[&lengths], &[]);
    }

    /// The signed square root of each component, `x / sqrt(|x| + tiny)`. NaN stays NaN, and zero stays zero.
    fn signed_roots(&mut self) {
        let values = self.tensor.clone();
        self.node("Abs", "sizes", &[], &[]);
        let tiny = self.floats("tiny", &[1], std::iter::once(1e-30));
        self.node("Add", "sizes_not_zero", &[&tiny], &[]);
        self.node("Sqrt", "roots_of_sizes", &[], &[]);
        let roots = std::mem::replace(&mut self.tensor, values);
        self.node("Div", "signed_roots", &[&roots], &[]);
    }

    /// The product with the weights, row by row.
    fn product(&mut self, head: &HeadWeights<'_>) {
        let (from, to) = (head.from, head.bias.len());
        if !head.eight_bits {
            let column = |at: usize| head.weights.iter().skip(at).step_by(from.max(1)).copied();
            let weights = self.floats("weights", &[from, to], (0..from).flat_map(column));
            return self.node("MatMul", "product", &[&weights], &[]);
        }
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for row in head.weights.chunks(from.max(1)) {
            let row = EightBits::of(row);
            scales.extend(row.scales);
            for block in row.multiples.chunks(EightBits::BLOCK) {
                // Zero is 128, and the last block of a row is filled up with it.
                bytes.extend(block.iter().map(|one| one.cast_unsigned() ^ 128));
                bytes.extend(std::iter::repeat_n(128, EightBits::BLOCK - block.len()));
            }
        }
        let blocks = from.div_ceil(EightBits::BLOCK);
        let weights = self.tensor("weights", &[to, blocks, EightBits::BLOCK], UINT8, &bytes);
        let scales = self.floats("scales", &[to * blocks], scales.into_iter());
        let attributes = [
            integer("K", from as u64),
            integer("N", to as u64),
            integer("bits", 8),
            integer("block_size", EightBits::BLOCK as u64),
            // What is multiplied may be rounded to 8 bits too. Without that, a processor multiplies in 32 bits,
            // and unpacks the weights each time.
            integer("accuracy_level", 4),
        ];
        self.node(IN_BITS, "product", &[&weights, &scales], &attributes);
    }

    /// Selects the embedding within the output, as `[batch, components]` of floats.
    pub(super) fn take(&mut self, part: EmbeddingPart) {
        // This does nothing if they already have that type.
        self.node("Cast", "floats", &[], &[integer("to", FLOAT)]);
        let token = |chain: &mut Self, number: i64| {
            let number = chain.whole("token_number", &[], number);
            chain.node("Gather", "token", &[&number], &[integer("axis", 1)]);
        };
        match part {
            EmbeddingPart::Vector => {}
            EmbeddingPart::FirstToken => token(self, 0),
            EmbeddingPart::LastToken => token(self, -1),
            EmbeddingPart::Token(number) => token(self, signed(number)),
            EmbeddingPart::MeanOfTokens { skip } => {
                if 0 < skip {
                    let from = self.whole("skipped", &[1], signed(skip));
                    let to = self.whole("all", &[1], i64::MAX);
                    let axis = self.whole("tokens_axis", &[1], 1);
                    self.node("Slice", "tokens", &[&from, &to, &axis], &[]);
                }
                self.node(
                    "Transpose",
                    "by_component",
                    &[],
                    &[integers("perm", &[0, 2, 1])],
                );
                self.node("GlobalAveragePool", "mean", &[], &[]);
            }
        }
        self.node("Flatten", "raw", &[], &[integer("axis", 1)]);
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn integer(name: &str, value: u64) -> Vec<u8> {
    [
        field(1, name.as_bytes()),
        number_field(3, value),
        number_field(20, INT),
    ]
    .concat()
}

fn integers(name: &str, values: &[u64]) -> Vec<u8> {
    let mut attribute = field(1, name.as_bytes());
    for value in values {
        attribute.extend(number_field(8, *value));
    }
    attribute.extend(number_field(20, INTS));
    attribute
}

/// The file with a head behind one of its outputs, and one output more: [`OUTPUT`].
///
/// Protobuf merges a message that occurs twice, so appended bytes add to the existing graph. The file is
/// neither parsed nor rewritten, and nothing in it is lost.
pub(super) fn with_head(
    onnx: &[u8],
    output: &str,
    part: EmbeddingPart,
    head: &HeadWeights<'_>,
) -> Result<Vec<u8>, OnnxError> {
    let to = head.bias.len();
    let mut chain = Chain::after(onnx, output, PREFIX)?;
    chain.take(part);
    if head.roots {
        // The directions then do not depend on the length of the component vector.
        chain.signed_roots();
    }
    chain.unit_length("before", "unit");
    chain.product(head);
    let bias = chain.floats("bias", &[to], head.bias.iter().copied());
    chain.node("Add", "sum", &[&bias], &[]);
    chain.unit_length("behind", "embedding");
    let operators = if head.eight_bits && operators_version(onnx, MORE_OPERATORS)?.is_none() {
        let set = [field(1, MORE_OPERATORS), number_field(2, 1)].concat();
        field(8, &set)
    } else {
        Vec::new()
    };
    Ok([onnx, &chain.output(to), &operators].concat())
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{check, computed, fields_of};
    use super::*;

    #[test]
    fn a_head_is_one_more_graph_behind_the_file_whatever_part_it_takes() {
        let head = |roots| HeadWeights {
            from: 2,
            roots,
            eight_bits: false,
            weights: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            bias: &[0.0, 1.0, 2.0],
        };
        let file = field(7, &field(2, b"net"));
        let parts = [
            EmbeddingPart::Vector,
            EmbeddingPart::FirstToken,
            EmbeddingPart::Token(3),
            EmbeddingPart::LastToken,
            EmbeddingPart::MeanOfTokens { skip: 1 },
        ];
        for (part, roots) in parts
            .into_iter()
            .flat_map(|part| [(part, true), (part, false)])
        {
            let with = with_head(&file, "features", part, &head(roots)).unwrap();
            assert!(with.starts_with(&file));
            assert_eq!(check(&with), Ok(()));
            let names = computed(&with).unwrap();
            assert_eq!(names.last().map(String::as_str), Some(OUTPUT));
            assert!(names.iter().all(|name| name.starts_with(PREFIX)));
            let root = format!("{PREFIX}signed_roots");
            assert_eq!(names.contains(&root), roots);
            // Stored by columns, because the network multiplies from the left.
            let turned: Vec<u8> = [1.0_f32, 3.0, 5.0, 2.0, 4.0, 6.0]
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect();
            assert!(with.windows(turned.len()).any(|part| part == turned));
        }
    }

    #[test]
    fn a_length_takes_its_axes_as_that_version_of_the_operators_does() {
        let head = HeadWeights {
            from: 1,
            roots: false,
            eight_bits: false,
            weights: &[1.0],
            bias: &[0.0],
        };
        let sets: [(&[u8], u64, bool); 4] = [
            (b"", 17, false),
            (b"", 18, true),
            (b"ai.onnx", 22, true),
            (b"ai.onnx.ml", 22, false),
        ];
        let axes = [PREFIX.as_bytes(), b"before_axes"].concat();
        for (domain, version, as_input) in sets {
            let set = [field(1, domain), number_field(2, version)].concat();
            let file = [field(7, &field(2, b"net")), field(8, &set)].concat();
            let with = with_head(&file, "features", EmbeddingPart::Vector, &head).unwrap();
            assert_eq!(with.windows(axes.len()).any(|part| part == axes), as_input);
        }
    }

    #[test]
    fn weights_in_eight_bits_are_blocks_of_rows_and_the_operators_are_named_once() {
        let head = HeadWeights {
            from: 2,
            roots: false,
            eight_bits: true,
            weights: &[1.0, -2.0, 0.0, 0.0],
            bias: &[0.0, 1.0],
        };
        let more = field(8, &field(1, MORE_OPERATORS));
        for before in [field(7, &field(2, b"net")), [field(7, &[]), more].concat()] {
            let with = with_head(&before, "features", EmbeddingPart::Vector, &head).unwrap();
            assert_eq!(check(&with), Ok(()));
            let sets = fields_of(&with, 8).unwrap();
            assert_eq!(sets.len(), 1);
            assert_eq!(fields_of(sets[0], 1).unwrap(), [MORE_OPERATORS]);
            // Each row is one block, with zeros behind; all of the second are zeros.
            let blocks = [&[192, 1][..], &[128; 62]].concat();
            assert!(with.windows(64).any(|part| part == blocks));
            let scales = [2.0_f32 / 127.0, 0.0].map(f32::to_le_bytes).concat();
            assert!(with.windows(8).any(|part| part == scales));
        }
    }
}
