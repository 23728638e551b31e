//! Text files as spreadsheets, scripts and editors write them, to characters.
//!
//! UTF-8 with or without a byte order mark and UTF-16 of either order are read. Everything else is refused
//! with its name and the line: a label that was guessed would be another label, and the search for an
//! enrolled label would count as a stranger's.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::error::ArraysError;

/// The longest file of text that is read, in bytes: 2 GiB, some 20 million rows.
pub const TEXT_BYTES_MAX: u64 = 2 << 30;

/// The character that shows the byte order if it comes first.
const MARK: char = '\u{feff}';

/// First bytes of files that are not text, but are sometimes passed as such.
const OTHERS: [(&[u8], &str); 6] = [
    (
        b"PK\x03\x04",
        "it is an Excel workbook or another ZIP archive",
    ),
    (b"\xd0\xcf\x11\xe0", "it is a workbook of an old Excel"),
    (b"PAR1", "it is Parquet"),
    (b"\x1f\x8b", "it is packed with gzip"),
    (b"\xff\xfe\0\0", "it is UTF-32"),
    (b"\0\0\xfe\xff", "it is UTF-32"),
];

/// The order of the bytes of UTF-16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Utf16Order {
    Little,
    Big,
}

/// The name that stands for standard input, where text is read.
pub const STANDARD_INPUT: &str = "-";

/// Reads a file of text, or standard input if its name is [`STANDARD_INPUT`], in UTF-8 or UTF-16.
///
/// # Errors
/// Refuses a file that cannot be read, is longer than [`TEXT_BYTES_MAX`], or is no text in these encodings,
/// and names the line; also an empty standard input.
pub fn read_text(path: &Path) -> Result<String, ArraysError> {
    let is_input = path.as_os_str() == STANDARD_INPUT;
    let place = if is_input {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let failed = |source| ArraysError::Io {
        place: place.clone(),
        doing: "read",
        source,
    };
    // One byte more than the limit shows that the file is too long.
    let mut bytes = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes);
    let read = if is_input {
        read(&mut io::stdin().lock())
    } else {
        open_file(path).and_then(|mut file| read(&mut file))
    };
    if read.map_err(failed)? == 0 && is_input {
        let what = "it is empty, or was read already: give `-` once, and pipe a list into it";
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, what)));
    }
    if TEXT_BYTES_MAX < bytes.len() as u64 {
        return Err(ArraysError::TooLarge {
            place,
            bytes: bytes.len() as u64,
            limit: TEXT_BYTES_MAX,
        });
    }
    decode(&place, bytes)
}

/// Opens a regular file. Opening a pipe could wait for ever.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Reads a list with one entry on each line; blank lines and blanks around an entry do not count.
///
/// # Errors
/// Refuses what [`read_text`] refuses.
pub fn read_list(path: &Path) -> Result<Vec<String>, ArraysError> {
    let text = read_text(path)?;
    let lines = lines(&text).map(|(_, line)| line.trim());
    let full = lines.filter(|line| !line.is_empty());
    Ok(full.map(str::to_owned).collect())
}

/// The lines of a text and their numbers from 1; they end with LF, CR LF or a lone CR.
pub fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut rest = Some(text);
    let split = std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at_checked(end)?;
        let after_one = after.strip_prefix("\r\n");
        rest = after_one.or_else(|| after.get(1..));
        Some(line)
    });
    (1..).zip(split)
}

/// The number, from 1, of the line on which what follows `before` stands.
pub(super) fn line_after(before: &str) -> u64 {
    lines(before).count() as u64
}

/// Bytes to text, without the byte order mark.
pub(super) fn decode(place: &str, bytes: Vec<u8>) -> Result<String, ArraysError> {
    let other = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic));
    if let Some((_, what)) = other {
        return Err(ArraysError::Labels {
            place: place.to_owned(),
            what: format!("{what}, and no text; save it as CSV in UTF-8"),
        });
    }
    let mut text = match order(&bytes) {
        Some(order) => from_utf16(place, &bytes, order)?,
        None => from_utf8(place, bytes)?,
    };
    if text.starts_with(MARK) {
        text.drain(..MARK.len_utf8());
    }
    for (character, what) in [
        (
            '\0',
            "there is a NUL byte, which no text holds; write the file again",
        ),
        (
            MARK,
            "there is a byte order mark in the middle, as if two files were joined; remove it",
        ),
    ] {
        if let Some(at) = text.find(character) {
            let before = text.get(..at).unwrap_or_default();
            return Err(on_line(place, line_after(before), what));
        }
    }
    Ok(text)
}

/// An error on a line.
pub(super) fn on_line(place: &str, line: u64, what: impl Into<String>) -> ArraysError {
    ArraysError::Line {
        place: place.to_owned(),
        line,
        what: what.into(),
    }
}

/// The order of the bytes, if they are UTF-16.
///
/// Without a mark, UTF-16 is recognised by an ASCII character at the beginning or a line end at the end,
/// and all line feeds must end lines, or all characters be Latin: a stray NUL in UTF-8 does not make it
/// UTF-16.
fn order(bytes: &[u8]) -> Option<Utf16Order> {
    match bytes {
        [0xff, 0xfe, ..] => return Some(Utf16Order::Little),
        [0xfe, 0xff, ..] => return Some(Utf16Order::Big),
        _ => {}
    }
    let (units, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let ends = |first: u8, second: u8| {
        let begins = matches!(units.first(), Some([a, b]) if (*a == 0) != (*b == 0) && (*a == 0) == (first == 0));
        // Valid UTF-8 that ends like that has a stray NUL.
        let closes = units.last() == Some(&[first, second]) && std::str::from_utf8(bytes).is_err();
        begins || closes
    };
    let order = if ends(b'\n', 0) {
        Utf16Order::Little
    } else if ends(0, b'\n') {
        Utf16Order::Big
    } else {
        return None;
    };
    let ordered = |unit: &[u8; 2]| match order {
        Utf16Order::Little => *unit,
        Utf16Order::Big => [unit[1], unit[0]],
    };
    let ends_line = |unit: [u8; 2]| matches!(unit, [b'\n' | b'\r', 0]);
    let regular = if bytes.contains(&b'\n') || bytes.contains(&b'\r') {
        units.iter().map(ordered).any(ends_line)
    } else {
        units.iter().map(ordered).all(|[_, high]| high == 0)
    };
    regular.then_some(order)
}

fn from_utf16(place: &str, bytes: &[u8], order: Utf16Order) -> Result<String, ArraysError> {
    let (units, rest) = bytes.as_chunks::<2>();
    let unit = |pair: &[u8; 2]| match order {
        Utf16Order::Little => u16::from_le_bytes(*pair),
        Utf16Order::Big => u16::from_be_bytes(*pair),
    };
    let mut text = String::with_capacity(units.len());
    for decoded in char::decode_utf16(units.iter().map(unit)) {
        let Ok(character) = decoded else {
            let what = "there is half a character of UTF-16; save the file as UTF-8";
            return Err(on_line(place, line_after(&text), what));
        };
        text.push(character);
    }
    if !rest.is_empty() {
        let what = "UTF-16 ends within a character; copy the file again, or save it as UTF-8";
        return Err(on_line(place, line_after(&text), what));
    }
    Ok(text)
}

fn from_utf8(place: &str, bytes: Vec<u8>) -> Result<String, ArraysError> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let before = bytes.get(..at).unwrap_or_default();
        let line = line_after(std::str::from_utf8(before).unwrap_or_default());
        let byte = bytes.get(at).copied().unwrap_or_default();
        // The two encodings agree on these.
        let shown = if 0xa0 <= byte {
            format!(" (`{}` there)", char::from(byte))
        } else {
            String::new()
        };
        let what = format!(
            "the byte 0x{byte:02x} is not UTF-8, but perhaps Latin-1 or Windows-1252{shown}; save the file as UTF-8 (in Excel: CSV UTF-8)"
        );
        on_line(place, line, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text in UTF-16, with or without a mark.
    pub(crate) fn utf16(text: &str, big: bool) -> Vec<u8> {
        let bytes = |unit: u16| {
            if big {
                unit.to_be_bytes()
            } else {
                unit.to_le_bytes()
            }
        };
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn refused(bytes: &[u8]) -> String {
        decode("list.csv", bytes.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn one_text_is_read_from_every_encoding() {
        for text in ["path,label\r\ncafé.jpg,日本\r\n", "日本語\n東京\n", "a"] {
            let marked = format!("{MARK}{text}");
            let files = [
                text.as_bytes().to_vec(),
                marked.as_bytes().to_vec(),
                utf16(&marked, false),
                utf16(&marked, true),
                utf16(text, false),
                utf16(text, true),
            ];
            for bytes in files {
                assert_eq!(
                    decode("list.csv", bytes.clone()).unwrap(),
                    text,
                    "{bytes:?}"
                );
            }
        }
        assert_eq!(decode("list.csv", Vec::new()).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_name_and_line() {
        for (bytes, wants) in [
            (
                &b"path,label\r\na.jpg,x\xe9\r\n"[..],
                ["line 2", "Latin-1", "`é`"],
            ),
            (b"a\rb\r\x93c\x94", ["line 3", "0x93", "Windows-1252"]),
            (b"path,label\na.jpg,c\0t\n", ["line 2", "NUL", "write"]),
            (b"a\0bcd\n", ["line 1", "NUL", "write"]),
            (b"path,label\na.jpg,x\0\n", ["line 2", "NUL", "write"]),
            (b"\xff\xfea\0\n\0\0\xd8b\0", ["line 2", "half", "UTF-16"]),
            (b"\xff\xfea\0\n\0b", ["line 2", "UTF-16", "ends"]),
            (b"\xff\xfe\0\0a\0\0\0", ["UTF-32", "CSV", "UTF-8"]),
            (b"PK\x03\x04", ["Excel workbook", "CSV", "UTF-8"]),
            (
                "a\n\u{feff}b".as_bytes(),
                ["line 2", "order mark", "joined"],
            ),
        ] {
            let error = refused(bytes);
            assert!(wants.iter().all(|want| error.contains(want)), "{error}");
        }
    }

    #[test]
    fn lines_end_in_three_ways() {
        let numbered: Vec<(u64, &str)> = lines("a\r\nb\rc\n\nd").collect();
        assert_eq!(numbered, [(1, "a"), (2, "b"), (3, "c"), (4, ""), (5, "d")]);
    }

    #[test]
    fn a_list_is_the_same_whatever_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        for bytes in [
            b"ann\nbob\n".to_vec(),
            "\u{feff}ann\r\n\r\n bob ".as_bytes().to_vec(),
            utf16("\u{feff}ann\r\nbob\r\n", false),
            b"ann\rbob\r".to_vec(),
        ] {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read_list(&path).unwrap(), ["ann", "bob"], "{bytes:?}");
        }
    }
}
