//! The footer of a Parquet file: its columns, and where their pages are
//! (<https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>).

use super::thrift::{Thrift, ThriftValue};

/// Groups within groups of a schema.
const DEPTH_MAX: usize = 16;

/// The footer, checked against itself but not against the file.
#[derive(Debug, Default)]
pub(super) struct Footer {
    /// Rows in all groups.
    pub(super) rows: u64,
    /// Every column that has values, in the order of the chunks of each group.
    pub(super) columns: Vec<ParquetColumn>,
    pub(super) groups: Vec<RowGroup>,
}

/// A leaf of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParquetColumn {
    /// The name of the top-level field that it belongs to.
    pub(super) name: String,
    /// Whether that field has further leaves.
    pub(super) shared: bool,
    /// Whether it is that field itself.
    pub(super) flat: bool,
    pub(super) physical: Physical,
    /// How the values are to be understood: the old code, and the number of the new one.
    converted: Option<i64>,
    logical: Option<i64>,
    /// The levels at which a value is repeated, and is there.
    pub(super) repeated: u32,
    pub(super) defined: u32,
}

/// Rows whose columns are written one after another.
#[derive(Debug, Default)]
pub(super) struct RowGroup {
    pub(super) rows: u64,
    pub(super) chunks: Vec<Chunk>,
}

/// The pages of one column in one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub(super) physical: i64,
    pub(super) codec: i64,
    /// Values, nulls included.
    pub(super) values: u64,
    /// Where its first page begins, in bytes from the start of the file.
    pub(super) start: u64,
    /// How long its pages are together, in bytes.
    pub(super) bytes: u64,
    /// In another file, or encrypted.
    pub(super) elsewhere: bool,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Boolean,
    Int32,
    Int64,
    Float,
    Double,
    Bytes,
    /// Written in a way that is not read here.
    Other,
}

/// What a column of text is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextType {
    Boolean,
    Int32 { signed: bool },
    Int64 { signed: bool },
    Utf8,
}

impl Footer {
    /// Reads the footer, or says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut footer = Self::default();
        let mut schema = Vec::new();
        let whole = Thrift::new(bytes).fields(&mut |field, value| match field {
            2 => value.structs(&mut |one| push(&mut schema, SchemaElement::parse(one))),
            3 => set(&mut footer.rows, value.count()),
            4 => value.structs(&mut |one| push(&mut footer.groups, RowGroup::parse(one))),
            _ => value.skip(),
        });
        whole.ok_or("its footer is malformed")?;
        footer.columns = columns(&schema).ok_or("the schema in its footer is malformed")?;
        let total = footer
            .groups
            .iter()
            .try_fold(0_u64, |sum, group| sum.checked_add(group.rows));
        if total != Some(footer.rows) {
            return Err("the rows of its groups do not add up to the rows of the file");
        }
        let columns = footer.columns.len();
        if footer
            .groups
            .iter()
            .any(|group| group.chunks.len() != columns)
        {
            return Err("a group of rows does not have every column");
        }
        Ok(footer)
    }
}

impl ParquetColumn {
    /// Whether each row has a list of floats, and nothing else, in this column.
    pub(super) fn is_embeddings(&self) -> bool {
        let floats = matches!(self.physical, Physical::Float | Physical::Double);
        floats && self.repeated == 1 && !self.shared
    }

    /// How it is text, if it is.
    pub(super) fn text(&self) -> Option<TextType> {
        const LOGICAL_INTEGER: i64 = 10;
        if !self.flat || self.repeated != 0 {
            return None;
        }
        let signed = !matches!(self.converted, Some(11..=14));
        let integer = match (self.converted, self.logical) {
            (None, None | Some(LOGICAL_INTEGER)) => true,
            (Some(code), _) => matches!(code, 11..=18),
            (None, Some(_)) => false,
        };
        // UTF8, ENUM and JSON; a string, an enum and JSON.
        let words =
            matches!(self.converted, Some(0 | 4 | 19)) || matches!(self.logical, Some(1 | 4 | 12));
        match self.physical {
            Physical::Boolean => Some(TextType::Boolean),
            Physical::Int32 if integer => Some(TextType::Int32 { signed }),
            Physical::Int64 if integer => Some(TextType::Int64 { signed }),
            Physical::Bytes if words => Some(TextType::Utf8),
            Physical::Int32
            | Physical::Int64
            | Physical::Bytes
            | Physical::Float
            | Physical::Double
            | Physical::Other => None,
        }
    }

    /// Its name and type, for a list of what there is.
    pub(super) fn describe(&self) -> String {
        let what = match (self.physical, self.repeated, self.text()) {
            (Physical::Float | Physical::Double, 1, _) if !self.shared => "a list of floats",
            (_, 0, Some(_)) => "text",
            (Physical::Float | Physical::Double, 0, _) => "one float",
            (_, 1.., _) => "a list",
            _ => "of another type",
        };
        format!("`{}` {what}", self.name)
    }
}

impl Physical {
    pub(super) fn parse(code: i64) -> Self {
        match code {
            0 => Self::Boolean,
            1 => Self::Int32,
            2 => Self::Int64,
            4 => Self::Float,
            5 => Self::Double,
            6 => Self::Bytes,
            _ => Self::Other,
        }
    }
}

impl RowGroup {
    fn parse(value: ThriftValue<'_, '_>) -> Option<Self> {
        let mut group = Self::default();
        value.fields(&mut |field, value| match field {
            1 => value.structs(&mut |one| push(&mut group.chunks, Chunk::parse(one))),
            3 => set(&mut group.rows, value.count()),
            _ => value.skip(),
        })?;
        Some(group)
    }
}

impl Chunk {
    fn parse(value: ThriftValue<'_, '_>) -> Option<Self> {
        let mut chunk = Self::default();
        let (mut data, mut dictionary, mut described) = (None, None, false);
        value.fields(&mut |field, value| match field {
            // The name of another file; and the keys of an encrypted column.
            1 | 8 => {
                chunk.elsewhere = true;
                value.skip()
            }
            3 => {
                described = true;
                value.fields(&mut |field, value| match field {
                    1 => set(&mut chunk.physical, value.integer()),
                    4 => set(&mut chunk.codec, value.integer()),
                    5 => set(&mut chunk.values, value.count()),
                    7 => set(&mut chunk.bytes, value.count()),
                    9 => set(&mut data, value.count().map(Some)),
                    11 => set(&mut dictionary, value.count().map(Some)),
                    _ => value.skip(),
                })
            }
            _ => value.skip(),
        })?;
        chunk.elsewhere |= !described;
        // Some writers state a dictionary at 0 if there is none.
        let data = data.unwrap_or(0);
        chunk.start = match dictionary {
            Some(at @ 1..) if at < data => at,
            _ => data,
        };
        Some(chunk)
    }
}

/// A node of the schema, in the order in which the tree is written: each before its children.
struct SchemaElement<'a> {
    name: &'a str,
    physical: Option<i64>,
    repetition: i64,
    children: u64,
    converted: Option<i64>,
    logical: Option<i64>,
}

impl<'a> SchemaElement<'a> {
    fn parse(value: ThriftValue<'_, 'a>) -> Option<Self> {
        let mut element = Self {
            name: "",
            physical: None,
            repetition: 0,
            children: 0,
            converted: None,
            logical: None,
        };
        value.fields(&mut |field, value| match field {
            1 => set(&mut element.physical, value.integer().map(Some)),
            3 => set(&mut element.repetition, value.integer()),
            4 => set(&mut element.name, value.text()),
            5 => set(&mut element.children, value.count()),
            6 => set(&mut element.converted, value.integer().map(Some)),
            10 => value.fields(&mut |kind, value| {
                element.logical = Some(kind);
                value.skip()
            }),
            _ => value.skip(),
        })?;
        Some(element)
    }
}

/// A group of the schema whose children are still to come.
struct OpenSchemaGroup {
    left: u64,
    repeated: u32,
    defined: u32,
}

/// The leaves of the schema.
fn columns(schema: &[SchemaElement<'_>]) -> Option<Vec<ParquetColumn>> {
    let (root, nodes) = schema.split_first()?;
    let mut columns: Vec<ParquetColumn> = Vec::new();
    let mut open = vec![OpenSchemaGroup {
        left: root.children,
        repeated: 0,
        defined: 0,
    }];
    // The field at the top that the nodes belong to, and how many leaves came before it.
    let (mut field, mut before) = ("", 0);
    for node in nodes {
        while open.last()?.left == 0 {
            open.pop();
        }
        let top = open.len() == 1;
        if top {
            mark_shared(&mut columns, before);
            (field, before) = (node.name, columns.len());
        }
        let parent = open.last_mut()?;
        parent.left -= 1;
        let (repeated, defined) = match node.repetition {
            0 => (parent.repeated, parent.defined),
            1 => (parent.repeated, parent.defined + 1),
            2 => (parent.repeated + 1, parent.defined + 1),
            _ => return None,
        };
        if 0 < node.children {
            open.push(OpenSchemaGroup {
                left: node.children,
                repeated,
                defined,
            });
            if DEPTH_MAX < open.len() {
                return None;
            }
        } else {
            columns.push(ParquetColumn {
                name: field.to_owned(),
                shared: false,
                flat: top,
                physical: node.physical.map_or(Physical::Other, Physical::parse),
                converted: node.converted,
                logical: node.logical,
                repeated,
                defined,
            });
        }
    }
    mark_shared(&mut columns, before);
    open.iter().all(|group| group.left == 0).then_some(columns)
}

fn mark_shared(columns: &mut [ParquetColumn], before: usize) {
    if let Some(leaves @ [_, _, ..]) = columns.get_mut(before..) {
        leaves.iter_mut().for_each(|column| column.shared = true);
    }
}

fn push<T>(list: &mut Vec<T>, value: Option<T>) -> Option<()> {
    list.push(value?);
    Some(())
}

fn set<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}
