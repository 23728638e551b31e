//! Parquet: one column with a list of floats in each row, and columns of text beside it.
//!
//! Read here rather than by the `parquet` crate, which believes the schema in a footer: as of version
//! 60.1, groups that claim 2^31 children abort the process for want of memory, groups nested
//! 200,000 deep for want of stack, and neither can be caught.
//! What is not supported is refused by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::error::ArraysError;
use super::footer::{Chunk, Footer, ParquetColumn, Physical, TextType};
use super::input::{ArrayInput, DIMENSION_MAX};
use super::pages::{NextPage, Page, Pages};
use super::table::VectorTable;
use super::values::{PLAIN_DICTIONARY, RLE_DICTIONARY, floats, hybrid, texts};

/// A footer this long describes tens of thousands of chunks.
const FOOTER_BYTES_MAX: u64 = 16 << 20;

/// What a text takes besides its bytes.
const STRING_BYTES: u64 = size_of::<String>() as u64;

/// The embeddings, and the text beside them.
pub(super) fn read(file: &File, input: &ArrayInput<'_>) -> Result<VectorTable, ArraysError> {
    let footer = footer(file, input)?;
    if footer.rows == 0 {
        return Err(ArraysError::Empty {
            place: input.place.to_owned(),
        });
    }
    let index = embeddings(&footer, input)?;
    let wanted = wanted(&footer, input, index)?;
    let (dimension, vectors) = Lists::read(file, input, &footer, index)?;
    let mut columns = BTreeMap::new();
    let mut left_out = Vec::new();
    let mut room = input.options.bytes_max;
    for (at, column) in footer.columns.iter().enumerate() {
        if at == index || left_out.contains(&column.name) {
            continue;
        }
        match wanted.get(&at) {
            None => left_out.push(column.name.clone()),
            Some(text) => {
                let column_of_text = TextColumn {
                    index: at,
                    text: *text,
                };
                let values = read_text(file, input, &footer, column_of_text, &mut room)?;
                if columns.insert(column.name.clone(), values).is_some() {
                    let name = &column.name;
                    return Err(input.damaged(format!("it has two columns `{name}`")));
                }
            }
        }
    }
    Ok(VectorTable {
        dimension,
        vectors,
        columns,
        left_out,
    })
}

/// The footer ends the file, before its length and four letters.
fn footer(mut file: &File, input: &ArrayInput<'_>) -> Result<Footer, ArraysError> {
    let mut tail = [0; 8];
    let before = input.bytes.saturating_sub(8);
    file.seek(SeekFrom::Start(before))
        .and_then(|_| file.read_exact(&mut tail))
        .map_err(|cause| input.unreadable(cause))?;
    let ([length, magic], _) = tail.as_chunks::<4>() else {
        return Err(input.damaged("it ends too early"));
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => {
            return Err(ArraysError::Unsupported {
                place: input.place.to_owned(),
                what: "an encrypted footer".to_owned(),
                fix: "write it without encryption",
            });
        }
        _ => return Err(input.damaged("it does not end as Parquet does")),
    }
    let length = u64::from(u32::from_le_bytes(*length));
    if FOOTER_BYTES_MAX < length || before.saturating_sub(4) < length {
        return Err(input.damaged(format!(
            "its footer states {length} bytes, over the file or the limit of {FOOTER_BYTES_MAX}"
        )));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(before - length))
        .and_then(|_| file.take(length).read_to_end(&mut bytes))
        .map_err(|cause| input.unreadable(cause))?;
    Footer::parse(&bytes).map_err(|what| input.damaged(what))
}

/// The column that is named, or the only one that can be the embeddings.
fn embeddings(footer: &Footer, input: &ArrayInput<'_>) -> Result<usize, ArraysError> {
    let columns = footer.columns.iter().enumerate();
    let fitting: Vec<usize> = match &input.options.name {
        None => columns
            .filter(|(_, column)| column.is_embeddings())
            .map(|(index, _)| index)
            .collect(),
        Some(name) => {
            let named = columns.filter(|(_, column)| column.name == *name);
            let named: Vec<(usize, bool)> = named
                .map(|(index, column)| (index, column.is_embeddings()))
                .collect();
            if named.is_empty() {
                return Err(no_column(footer, input, name));
            }
            let fitting = named.iter().filter(|(_, fits)| *fits);
            fitting.map(|(index, _)| *index).collect()
        }
    };
    match fitting.as_slice() {
        [one] => Ok(*one),
        many => Err(ArraysError::Choose {
            place: input.place.to_owned(),
            count: many.len(),
            kind: "column",
            wanted: "a list of floats or doubles in each row",
            found: list(footer),
            fix: "name one of them, or write one",
        }),
    }
}

/// The columns to read as text, by their places.
fn wanted(
    footer: &Footer,
    input: &ArrayInput<'_>,
    embeddings: usize,
) -> Result<BTreeMap<usize, TextType>, ArraysError> {
    let columns = footer.columns.iter().enumerate();
    let mut text: BTreeMap<usize, TextType> = columns
        .filter(|(index, _)| *index != embeddings)
        .filter_map(|(index, column)| Some((index, column.text()?)))
        .collect();
    let Some(names) = &input.options.text else {
        return Ok(text);
    };
    let name_of = |index: &usize| footer.columns.get(*index).map(|column| &column.name);
    for name in names {
        if !text.keys().any(|index| name_of(index) == Some(name)) {
            return Err(no_column(footer, input, name));
        }
    }
    text.retain(|index, _| name_of(index).is_some_and(|name| names.contains(name)));
    Ok(text)
}

fn no_column(footer: &Footer, input: &ArrayInput<'_>, name: &str) -> ArraysError {
    ArraysError::NoSuch {
        place: input.place.to_owned(),
        kind: "column of the right type",
        name: name.to_owned(),
        found: list(footer),
    }
}

/// The first columns, for an error.
fn list(footer: &Footer) -> String {
    const SHOWN: usize = 8;
    let mut texts: Vec<String> = footer
        .columns
        .iter()
        .take(SHOWN)
        .map(ParquetColumn::describe)
        .collect();
    match footer.columns.len().saturating_sub(SHOWN) {
        0 if texts.is_empty() => return "none".to_owned(),
        0 => {}
        more => texts.push(format!("{more} more")),
    }
    texts.join(", ")
}

/// The chunks of one column, with the rows of each.
fn chunks(footer: &Footer, index: usize) -> impl Iterator<Item = (u64, &Chunk)> {
    let groups = footer.groups.iter();
    groups.filter_map(move |group| Some((group.rows, group.chunks.get(index)?)))
}

/// The embeddings as far as they have been read.
struct Lists<'a> {
    input: &'a ArrayInput<'a>,
    vectors: Vec<f32>,
    /// Known once the first row has ended.
    dimension: Option<usize>,
    /// Rows begun, and the values of the last.
    rows: u64,
    filled: usize,
}

impl<'a> Lists<'a> {
    fn read(
        file: &File,
        input: &'a ArrayInput<'a>,
        footer: &Footer,
        index: usize,
    ) -> Result<(usize, Vec<f32>), ArraysError> {
        let Some(column) = footer.columns.get(index) else {
            return Err(input.damaged("a column has gone"));
        };
        let double = column.physical == Physical::Double;
        let values = chunks(footer, index).fold(0, |sum: u64, (_, c)| sum.saturating_add(c.values));
        let mut lists = Lists {
            vectors: input.reserve(values)?,
            input,
            dimension: None,
            rows: 0,
            filled: 0,
        };
        // A double takes twice as much; dictionaries and levels take less than the values.
        let mut budget = input.options.bytes_max.saturating_mul(3);
        let mut due = 0;
        for (rows, chunk) in chunks(footer, index) {
            check_type(input, column, chunk)?;
            let mut dictionary = None;
            let mut pages = Pages::new(file, *input, column, chunk, budget)?;
            while let Some(next) = pages.next()? {
                match next {
                    NextPage::Dictionary(page) => {
                        let values = floats(page.encoding, page.bytes(), page.values, double);
                        dictionary = Some(values.ok_or_else(|| undecodable(input, &page))?);
                    }
                    NextPage::Data(page) => {
                        lists.place(&page, column.defined)?;
                        lists.append(&page, dictionary.as_deref(), double)?;
                    }
                }
            }
            budget = pages.budget();
            due += rows;
            lists.end_row()?;
            if lists.rows != due {
                return Err(input.damaged("a group has not the rows that its footer states"));
            }
        }
        let dimension = lists.dimension.unwrap_or(0);
        Ok((input.shape(lists.rows, dimension as u64)?, lists.vectors))
    }

    /// Appends the values of a page, which are `double`s or floats.
    fn append(
        &mut self,
        page: &Page,
        dictionary: Option<&[f32]>,
        double: bool,
    ) -> Result<(), ArraysError> {
        let coded = Coded {
            page,
            count: page.values,
            dictionary,
        };
        let plain = |page: &Page, count| floats(page.encoding, page.bytes(), count, double);
        visit(self.input, &coded, plain, |value| {
            self.vectors.push(*value);
            Ok(())
        })
    }

    /// Assigns the values of a page to their rows; each has to be present.
    fn place(&mut self, page: &Page, defined: u32) -> Result<(), ArraysError> {
        for (repeated, there) in page.repeated.iter().zip(&page.defined) {
            if *repeated == 0 {
                self.end_row()?;
                self.rows += 1;
            } else if self.rows == 0 {
                return Err(self.input.damaged("its first row begins in the middle"));
            }
            if *there != defined {
                return Err(self.wrong("it is null or empty, or has a null in it; leave it out"));
            }
            self.filled += 1;
            if self.dimension.unwrap_or(DIMENSION_MAX) < self.filled {
                let most = self.dimension.unwrap_or(DIMENSION_MAX);
                return Err(self.wrong(&format!(
                    "it has more than {most} values; write rows of one length"
                )));
            }
        }
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), ArraysError> {
        let filled = std::mem::take(&mut self.filled);
        match self.dimension {
            _ if filled == 0 => Ok(()),
            None => {
                self.dimension = Some(filled);
                Ok(())
            }
            Some(due) if due == filled => Ok(()),
            Some(due) => Err(self.wrong(&format!(
                "it has {filled} values where row 0 has {due}; write rows of one length"
            ))),
        }
    }

    /// The row that was begun last is wrong.
    fn wrong(&self, what: &str) -> ArraysError {
        ArraysError::Row {
            place: self.input.place.to_owned(),
            row: self.rows.saturating_sub(1),
            what: what.to_owned(),
        }
    }
}

/// A column that can be read as text.
#[derive(Clone, Copy)]
struct TextColumn {
    /// Its place in the footer.
    index: usize,
    /// How its values are written as text.
    text: TextType,
}

/// One column as text, a null as an empty one. Takes what it uses from `room`, in bytes.
fn read_text(
    file: &File,
    input: &ArrayInput<'_>,
    footer: &Footer,
    wanted: TextColumn,
    room: &mut u64,
) -> Result<Vec<String>, ArraysError> {
    let TextColumn { index, text } = wanted;
    let Some(column) = footer.columns.get(index) else {
        return Err(input.damaged("a column has gone"));
    };
    let plain = |page: &Page, count| texts(page.encoding, page.bytes(), count, text);
    let mut values = Vec::new();
    let mut budget = input.options.bytes_max;
    for (rows, chunk) in chunks(footer, index) {
        check_type(input, column, chunk)?;
        if chunk.values != rows {
            return Err(input.damaged("a group has not the rows that its footer states"));
        }
        let mut dictionary = None;
        let mut pages = Pages::new(file, *input, column, chunk, budget)?;
        while let Some(next) = pages.next()? {
            match next {
                NextPage::Dictionary(page) => {
                    let values = plain(&page, page.values);
                    dictionary = Some(values.ok_or_else(|| undecodable(input, &page))?);
                }
                NextPage::Data(page) => {
                    let is_there = |level: &u32| *level == column.defined;
                    let coded = Coded {
                        count: match column.defined {
                            0 => page.values,
                            _ => page.defined.iter().filter(|level| is_there(level)).count(),
                        },
                        page: &page,
                        dictionary: dictionary.as_deref(),
                    };
                    let mut present = Vec::new();
                    visit(input, &coded, plain, |value| {
                        *room = spend(input, *room, value.len() as u64)?;
                        present.push(value.clone());
                        Ok(())
                    })?;
                    let strings = STRING_BYTES.saturating_mul(page.values as u64);
                    *room = spend(input, *room, strings)?;
                    if coded.count == page.values {
                        values.append(&mut present);
                    } else {
                        let rows = page.defined.iter().map(is_there);
                        values.extend(with_nulls(present, rows));
                    }
                }
            }
        }
        budget = pages.budget();
    }
    Ok(values)
}

/// A text for each row: the next of `present` if the row has one, else an empty one.
fn with_nulls(
    present: Vec<String>,
    rows: impl Iterator<Item = bool>,
) -> impl Iterator<Item = String> {
    let mut present = present.into_iter();
    rows.map(move |is_there| {
        let value = if is_there { present.next() } else { None };
        value.unwrap_or_default()
    })
}

/// The values of a page as they are stored.
struct Coded<'a, T> {
    page: &'a Page,
    /// How many there are.
    count: usize,
    /// What the page may refer to; `None` if the column has none.
    dictionary: Option<&'a [T]>,
}

/// Passes on the values of a page, looked up in the dictionary if it has one.
fn visit<T>(
    input: &ArrayInput<'_>,
    coded: &Coded<'_, T>,
    plain: impl Fn(&Page, usize) -> Option<Vec<T>>,
    mut take: impl FnMut(&T) -> Result<(), ArraysError>,
) -> Result<(), ArraysError> {
    let Coded {
        page,
        count,
        dictionary,
    } = *coded;
    if !matches!(page.encoding, PLAIN_DICTIONARY | RLE_DICTIONARY) {
        let values = plain(page, count).ok_or_else(|| undecodable(input, page))?;
        return values.iter().try_for_each(take);
    }
    let indexes = match page.bytes().split_first() {
        // A page of nulls may have no bytes at all.
        _ if count == 0 => Some(Vec::new()),
        Some((width, rest)) => hybrid(rest, u32::from(*width), count),
        None => None,
    };
    let indexes = indexes.ok_or_else(|| undecodable(input, page))?;
    let dictionary = dictionary.unwrap_or_default();
    for index in indexes {
        let value = dictionary.get(index as usize);
        take(value.ok_or_else(|| input.damaged("a page refers to what its dictionary has not"))?)?;
    }
    Ok(())
}

fn undecodable(input: &ArrayInput<'_>, page: &Page) -> ArraysError {
    match page.encoding {
        0 | 2 | 3 | 8 | 9 => input.damaged("a page of it cannot be decoded"),
        code => ArraysError::Unsupported {
            place: input.place.to_owned(),
            what: format!("encoding {code} of Parquet"),
            fix: "write it with pandas or Polars, with their default encodings",
        },
    }
}

fn check_type(
    input: &ArrayInput<'_>,
    column: &ParquetColumn,
    chunk: &Chunk,
) -> Result<(), ArraysError> {
    if chunk.elsewhere || Physical::parse(chunk.physical) == column.physical {
        Ok(())
    } else {
        Err(input.damaged("a column is not of the type that its schema states"))
    }
}

fn spend(input: &ArrayInput<'_>, room: u64, bytes: u64) -> Result<u64, ArraysError> {
    room.checked_sub(bytes)
        .ok_or_else(|| ArraysError::TooLarge {
            place: format!("the text of {}", input.place),
            bytes,
            limit: room,
        })
}
