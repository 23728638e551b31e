//! The pages of a Parquet column: where each lies, and its bytes unpacked.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::error::ArraysError;
use super::footer::{Chunk, ParquetColumn};
use super::input::ArrayInput;
use super::thrift::{Thrift, ThriftValue};
use super::values::{PLAIN, PLAIN_DICTIONARY, RLE, hybrid};

/// `DuckDB` stops at 100 MB, all others at about one.
const PAGE_BYTES_MAX: u64 = 256 << 20;

/// A page of floats of that size.
const PAGE_VALUES_MAX: u64 = 1 << 25;

/// Enough for any header without long statistics.
const HEADER_BYTES: u64 = 1 << 12;

/// Enough for any header at all.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Values, and how they are written.
pub(super) struct Page {
    pub(super) encoding: i64,
    /// For each value, the level at which it repeats; empty if none can.
    pub(super) repeated: Vec<u32>,
    /// For each value, the level up to which it is present; empty if all have to be.
    pub(super) defined: Vec<u32>,
    /// How many values there are, nulls included.
    pub(super) values: usize,
    bytes: Vec<u8>,
    /// Where in the bytes the values begin.
    start: usize,
}

impl Page {
    /// The values that are there, encoded.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// What comes next in a column.
pub(super) enum NextPage {
    /// The values that later pages refer to, always plain.
    Dictionary(Page),
    Data(Page),
}

/// The pages of one chunk, one after another.
pub(super) struct Pages<'a> {
    file: &'a File,
    input: ArrayInput<'a>,
    column: &'a ParquetColumn,
    codec: i64,
    /// Where the next page begins, and the last ends, in bytes.
    at: u64,
    end: u64,
    /// Values still to come.
    values: u64,
    /// What may still be unpacked, in bytes.
    budget: u64,
}

impl<'a> Pages<'a> {
    /// Begins at the first page. `budget` bounds the bytes that all pages have unpacked.
    pub(super) fn new(
        file: &'a File,
        input: ArrayInput<'a>,
        column: &'a ParquetColumn,
        chunk: &Chunk,
        budget: u64,
    ) -> Result<Self, ArraysError> {
        if chunk.elsewhere {
            return Err(ArraysError::Unsupported {
                place: input.place.to_owned(),
                what: "encryption, or a second file".to_owned(),
                fix: "write it as one plain file",
            });
        }
        let end = chunk.start.checked_add(chunk.bytes);
        let Some(end) = end.filter(|end| *end <= input.bytes) else {
            return Err(input.damaged("it ends before the pages that its footer states"));
        };
        Ok(Self {
            file,
            input,
            column,
            codec: chunk.codec,
            at: chunk.start,
            end,
            values: chunk.values,
            budget,
        })
    }

    /// What may still be unpacked, in bytes.
    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// The next page; `None` after the last, when all values have come.
    pub(super) fn next(&mut self) -> Result<Option<NextPage>, ArraysError> {
        while 0 < self.values {
            let header = self.header()?;
            self.check(&header)?;
            let start = self.at + header.length;
            self.at = start + header.packed;
            match header.kind {
                ParquetPageKind::Data | ParquetPageKind::DataV2 => {
                    self.values = self.values.checked_sub(header.values).ok_or_else(|| {
                        self.input
                            .damaged("its pages have more values than its footer states")
                    })?;
                }
                ParquetPageKind::Dictionary => {}
                ParquetPageKind::Other => continue,
            }
            let packed = self.read(start, header.packed)?;
            let bytes = self.unpack(&header, packed)?;
            let page = self.page(&header, bytes);
            let page = page.ok_or_else(|| self.input.damaged("a page of it cannot be decoded"))?;
            return Ok(Some(match header.kind {
                ParquetPageKind::Dictionary => NextPage::Dictionary(page),
                ParquetPageKind::Data | ParquetPageKind::DataV2 | ParquetPageKind::Other => {
                    NextPage::Data(page)
                }
            }));
        }
        Ok(None)
    }

    fn read(&self, start: u64, length: u64) -> Result<Vec<u8>, ArraysError> {
        let mut bytes = Vec::new();
        let mut file = self.file;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.take(length).read_to_end(&mut bytes))
            .map_err(|cause| self.input.unreadable(cause))?;
        if (bytes.len() as u64) < length {
            return Err(self.input.damaged("it ends within a page"));
        }
        Ok(bytes)
    }

    fn header(&self) -> Result<ParquetPageHeader, ArraysError> {
        let left = self.end.saturating_sub(self.at);
        for limit in [HEADER_BYTES, HEADER_BYTES_MAX] {
            if let Some(header) = ParquetPageHeader::parse(&self.read(self.at, left.min(limit))?) {
                return Ok(header);
            }
        }
        Err(self.input.damaged("the header of a page is malformed"))
    }

    fn check(&mut self, header: &ParquetPageHeader) -> Result<(), ArraysError> {
        let left = self.end.saturating_sub(self.at + header.length);
        let levels = header.repeated_bytes.saturating_add(header.defined_bytes);
        // Each value of a dictionary takes at least its length, or itself.
        let crowded =
            header.kind == ParquetPageKind::Dictionary && header.unpacked / 4 < header.values;
        let consistent = header.packed <= left
            && levels <= header.packed.min(header.unpacked)
            && (0 < header.values
                || header.kind != ParquetPageKind::Data && header.kind != ParquetPageKind::DataV2)
            && !crowded;
        if !consistent {
            return Err(self
                .input
                .damaged("the header of a page contradicts itself"));
        }
        if PAGE_BYTES_MAX < header.unpacked || PAGE_VALUES_MAX < header.values {
            return Err(ArraysError::Unsupported {
                place: self.input.place.to_owned(),
                what: format!(
                    "a page of {} bytes and {} values",
                    header.unpacked, header.values
                ),
                fix: "write it with pages of at most 256 MiB",
            });
        }
        let limit = self.budget;
        self.budget = limit
            .checked_sub(header.unpacked)
            .ok_or_else(|| ArraysError::TooLarge {
                place: self.input.place.to_owned(),
                bytes: header.unpacked,
                limit,
            })?;
        Ok(())
    }

    /// The bytes of a page as they were before compression.
    fn unpack(&self, header: &ParquetPageHeader, packed: Vec<u8>) -> Result<Vec<u8>, ArraysError> {
        let levels = header.repeated_bytes + header.defined_bytes;
        let (Ok(size), Ok(levels)) = (usize::try_from(header.unpacked), usize::try_from(levels))
        else {
            return Err(self.input.damaged("a page does not fit into memory"));
        };
        if self.codec == 0 || !header.compressed {
            return Ok(packed);
        }
        // Levels that a newer page states the length of are never compressed.
        let (plain, rest) = packed.split_at_checked(levels).unwrap_or_default();
        let wanted = size - levels;
        let unpacked = match self.codec {
            _ if wanted == 0 => Ok(Vec::new()),
            1 => snappy(rest, wanted),
            2 => limited(flate2::read::MultiGzDecoder::new(rest), wanted),
            6 => match zstd::stream::read::Decoder::new(rest) {
                Ok(decoder) => limited(decoder, wanted),
                Err(cause) => Err(cause.to_string()),
            },
            code => {
                return Err(ArraysError::Unsupported {
                    place: self.input.place.to_owned(),
                    what: format!("the compression {}", codec_name(code)),
                    fix: "write it with snappy, zstd or gzip",
                });
            }
        };
        let unpacked = unpacked.map_err(|cause| {
            self.input
                .damaged(format!("a page of it does not decompress: {cause}"))
        })?;
        if unpacked.len() != wanted {
            return Err(self
                .input
                .damaged("a page of it does not decompress to the length that it states"));
        }
        Ok(if levels == 0 {
            unpacked
        } else {
            [plain, &unpacked].concat()
        })
    }

    /// Takes the levels off the front.
    fn page(&self, header: &ParquetPageHeader, bytes: Vec<u8>) -> Option<Page> {
        let values = usize::try_from(header.values).ok()?;
        let mut page = Page {
            encoding: header.encoding,
            repeated: Vec::new(),
            defined: Vec::new(),
            values,
            bytes,
            start: 0,
        };
        if header.kind == ParquetPageKind::Dictionary {
            let plain = matches!(header.encoding, PLAIN | PLAIN_DICTIONARY);
            page.encoding = PLAIN;
            return plain.then_some(page);
        }
        let mut rest = page.bytes.as_slice();
        let mut levels = |highest: u32, stated: u64| -> Option<Vec<u32>> {
            let length = if header.kind == ParquetPageKind::DataV2 {
                usize::try_from(stated).ok()?
            } else if 0 < highest {
                let (length, after) = rest.split_first_chunk()?;
                rest = after;
                usize::try_from(u32::from_le_bytes(*length)).ok()?
            } else {
                0
            };
            let (encoded, after) = rest.split_at_checked(length)?;
            rest = after;
            match highest {
                0 => Some(Vec::new()),
                _ => hybrid(encoded, u32::BITS - highest.leading_zeros(), values),
            }
        };
        let repeated = levels(self.column.repeated, header.repeated_bytes)?;
        let defined = levels(self.column.defined, header.defined_bytes)?;
        page.start = page.bytes.len() - rest.len();
        (page.repeated, page.defined) = (repeated, defined);
        header.levels_are_runs.then_some(page)
    }
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParquetPageKind {
    Data,
    Dictionary,
    DataV2,
    /// An index, which is passed over.
    Other,
}

/// What stands before a page.
#[derive(Clone, Debug)]
struct ParquetPageHeader {
    /// Its own length, in bytes.
    length: u64,
    kind: ParquetPageKind,
    /// The page's length as it is, and once unpacked, in bytes.
    packed: u64,
    unpacked: u64,
    values: u64,
    encoding: i64,
    levels_are_runs: bool,
    compressed: bool,
    repeated_bytes: u64,
    defined_bytes: u64,
}

impl ParquetPageHeader {
    /// Reads a header by the numbers that `parquet.thrift` gives its fields; `None` if it is malformed or
    /// cut off.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut header = Self {
            length: 0,
            kind: ParquetPageKind::Other,
            packed: 0,
            unpacked: 0,
            values: 0,
            encoding: -1,
            levels_are_runs: true,
            compressed: true,
            repeated_bytes: 0,
            defined_bytes: 0,
        };
        let mut thrift = Thrift::new(bytes);
        thrift.fields(&mut |field, value| {
            match field {
                1 => {
                    header.kind = match value.integer()? {
                        0 => ParquetPageKind::Data,
                        2 => ParquetPageKind::Dictionary,
                        3 => ParquetPageKind::DataV2,
                        _ => ParquetPageKind::Other,
                    };
                }
                2 => header.unpacked = value.count()?,
                3 => header.packed = value.count()?,
                5 => header.read_data(value)?,
                7 => header.read_dictionary(value)?,
                8 => header.read_data_v2(value)?,
                _ => value.skip()?,
            }
            Some(())
        })?;
        header.length = (bytes.len() - thrift.left()) as u64;
        Some(header)
    }

    /// Field 5: a data page of the first version.
    fn read_data(&mut self, value: ThriftValue<'_, '_>) -> Option<()> {
        value.fields(&mut |field, value| {
            match field {
                1 => self.values = value.count()?,
                2 => self.encoding = value.integer()?,
                3 | 4 => self.levels_are_runs &= value.integer()? == RLE,
                _ => value.skip()?,
            }
            Some(())
        })
    }

    /// Field 7: a dictionary.
    fn read_dictionary(&mut self, value: ThriftValue<'_, '_>) -> Option<()> {
        value.fields(&mut |field, value| {
            match field {
                1 => self.values = value.count()?,
                2 => self.encoding = value.integer()?,
                _ => value.skip()?,
            }
            Some(())
        })
    }

    /// Field 8: a data page of the second version, which states how long its levels are.
    fn read_data_v2(&mut self, value: ThriftValue<'_, '_>) -> Option<()> {
        value.fields(&mut |field, value| {
            match field {
                1 => self.values = value.count()?,
                4 => self.encoding = value.integer()?,
                5 => self.defined_bytes = value.count()?,
                6 => self.repeated_bytes = value.count()?,
                7 => self.compressed = value.boolean()?,
                _ => value.skip()?,
            }
            Some(())
        })
    }
}

fn snappy(bytes: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    // Asked first: the decoder believes the length that the bytes state.
    match snap::raw::decompress_len(bytes) {
        Ok(length) if length == wanted => snap::raw::Decoder::new()
            .decompress_vec(bytes)
            .map_err(|cause| cause.to_string()),
        Ok(_) => Ok(Vec::new()),
        Err(cause) => Err(cause.to_string()),
    }
}

/// Reads one byte more than is wanted at the most.
fn limited(reader: impl Read, wanted: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader.take(wanted as u64 + 1).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|cause| cause.to_string())
}

fn codec_name(code: i64) -> String {
    let name = match code {
        3 => "LZO",
        4 => "Brotli",
        5 | 7 => "LZ4",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}
