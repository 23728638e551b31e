//! Tables as text: cells between commas, semicolons or tabs, below a line that names the columns.
//!
//! One reader for every list that a person or a spreadsheet writes. It is strict: a looser reader would
//! continue with other cells than were meant. A quote that is not closed, a row that is longer or shorter
//! than the header, and two columns of one name refuse the whole file, and the error names the line.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use super::error::ArraysError;
use super::formulas::unguarded;
use super::text::{decode, lines, on_line, read_text};

/// More columns than this is no list of images or labels.
pub const COLUMNS_MAX: usize = 1_024;
/// The longest row, in bytes, quoted line ends included. It limits how far an open quote is followed.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// What may separate cells.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// Names of columns that mean something to a reader.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// All of them. They are found whatever their case; any other name is kept as it is.
    pub known: &'static [&'static str],
    /// Those that are necessary: one of each group.
    pub required: &'static [&'static [&'static str]],
    /// Whether row i belongs to row i of something else, so that no row in the middle may be empty.
    pub aligned: bool,
}

/// A table whose rows are read one by one.
#[derive(Clone, Debug)]
pub struct Delimited {
    place: String,
    text: String,
    /// Where the first row begins, and on which line.
    body: (usize, u64),
    delimiter: u8,
    aligned: bool,
    names: Vec<String>,
    /// Leading columns that are ignored: the index of a data frame.
    unnamed: usize,
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRow<'a> {
    /// The line of the file on which it begins, from 1.
    pub line: u64,
    /// As many as there are names, without blanks around them, nor the apostrophe that keeps a
    /// spreadsheet from running one.
    pub cells: Vec<Cow<'a, str>>,
}

impl Delimited {
    /// Reads a file; its header shows what separates its cells.
    ///
    /// Obeys a first line `sep=;`, as Excel writes it. A first column without a name, or called `Unnamed:
    /// 0`, is the index of a data frame and is left out.
    ///
    /// # Errors
    /// Refuses what [`read_text`] refuses, a header that lacks a required column, has two columns of one
    /// name or one without a name, and a header whose separator is not clear.
    pub fn read(path: &Path, columns: &Columns) -> Result<Self, ArraysError> {
        Self::parse(path.display().to_string(), read_text(path)?, columns)
    }

    /// The same for the bytes of a file, in UTF-8 or UTF-16; errors call it `place`.
    ///
    /// # Errors
    /// As [`Delimited::read`].
    pub fn from_bytes(place: &str, bytes: Vec<u8>, columns: &Columns) -> Result<Self, ArraysError> {
        Self::parse(place.to_owned(), decode(place, bytes)?, columns)
    }

    /// The same for text that was already read; errors call it `place`.
    ///
    /// # Errors
    /// As [`Delimited::read`].
    pub fn parse(place: String, text: String, columns: &Columns) -> Result<Self, ArraysError> {
        let (stated, start) = stated_delimiter(&place, &text)?;
        let begin = |delimiter| Records {
            place: &place,
            text: &text,
            at: start.0,
            line: start.1,
            delimiter,
        };
        // With the wrong separator, a quote may be in an impossible place.
        let (mut headers, mut unreadable) = (Vec::new(), None);
        for delimiter in DELIMITERS {
            if stated.is_some_and(|stated| stated != delimiter) {
                continue;
            }
            let mut records = begin(delimiter);
            match records.next() {
                Ok(record) => headers.push(TableHeader {
                    delimiter,
                    names: record
                        .map(|record| record.names(columns))
                        .unwrap_or_default(),
                    body: (records.at, records.line),
                }),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        let chosen = chosen(&place, headers, columns)?;
        let Some(TableHeader {
            delimiter,
            names,
            body,
        }) = chosen
        else {
            return Err(unreadable.unwrap_or_else(|| ambiguous(&place)));
        };
        if let (Some(error), Some(_)) = (unreadable, missing(&names, columns)) {
            return Err(error);
        }
        let unnamed = check_names(&place, &names, columns)?;
        Ok(Self {
            names: names.into_iter().skip(unnamed).collect(),
            unnamed,
            delimiter,
            aligned: columns.aligned,
            body,
            place,
            text,
        })
    }

    /// The names of the columns, in their order; known ones as they are known.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Its rows. Blank lines and rows of only separators are skipped.
    ///
    /// An error refuses the whole file: a row with more or fewer cells than the header, a quote that
    /// is left open or stands where none may, a row longer than [`ROW_BYTES_MAX`].
    pub fn rows(&self) -> impl Iterator<Item = Result<TableRow<'_>, ArraysError>> {
        let mut records = Records {
            place: &self.place,
            text: &self.text,
            at: self.body.0,
            line: self.body.1,
            delimiter: self.delimiter,
        };
        let mut empty = None;
        std::iter::from_fn(move || {
            loop {
                let record = match records.next() {
                    Ok(record) => record?,
                    Err(error) => {
                        records.at = self.text.len();
                        return Some(Err(error));
                    }
                };
                if record.is_empty() {
                    empty = empty.or(Some(record.line));
                    continue;
                }
                return Some(self.row(record, empty));
            }
        })
    }

    fn row<'a>(
        &self,
        record: CellRecord<'a>,
        empty: Option<u64>,
    ) -> Result<TableRow<'a>, ArraysError> {
        if let (true, Some(line)) = (self.aligned, empty) {
            let what = "the row is empty, and others follow; remove it, or say what it is";
            return Err(on_line(&self.place, line, what));
        }
        let (has, wants) = (record.cells.len(), self.unnamed + self.names.len());
        if has != wants {
            let what = format!("the row has {has} cells, and the header names {wants}");
            return Err(on_line(&self.place, record.line, what));
        }
        Ok(TableRow {
            line: record.line,
            cells: record
                .cells
                .into_iter()
                .skip(self.unnamed)
                .map(unguarded)
                .collect(),
        })
    }
}

/// Excel's own first line `sep=;`, and where the header begins.
fn stated_delimiter(place: &str, text: &str) -> Result<(Option<u8>, (usize, u64)), ArraysError> {
    let first = lines(text).next().map_or("", |(_, line)| line);
    let Some(stated) = first.strip_prefix("sep=") else {
        return Ok((None, (0, 1)));
    };
    match DELIMITERS.iter().find(|one| stated.as_bytes() == [**one]) {
        Some(one) => {
            let end = text.get(first.len()..).unwrap_or_default();
            let skip = if end.starts_with("\r\n") {
                2
            } else {
                end.len().min(1)
            };
            Ok((Some(*one), (first.len() + skip, 2)))
        }
        None => {
            let what = format!(
                "`{}` separates the cells; write commas, semicolons or tabs",
                stated.escape_debug()
            );
            Err(on_line(place, 1, what))
        }
    }
}

/// A header, read with one of the separators.
struct TableHeader {
    delimiter: u8,
    names: Vec<String>,
    /// Where the first row begins, and on which line.
    body: (usize, u64),
}

/// The header with the expected columns; if none has them, the only one with more than one column.
fn chosen(
    place: &str,
    mut headers: Vec<TableHeader>,
    columns: &Columns,
) -> Result<Option<TableHeader>, ArraysError> {
    let fits = |header: &TableHeader| missing(&header.names, columns).is_none();
    let mut fitting = headers
        .iter()
        .enumerate()
        .filter(|(_, header)| fits(header));
    if let Some((at, first)) = fitting.next() {
        // A single column reads the same with each.
        if 1 < first.names.len() && fitting.next().is_some() {
            return Err(ambiguous(place));
        }
        return Ok(Some(headers.swap_remove(at)));
    }
    let mut separate = headers
        .iter()
        .enumerate()
        .filter(|(_, header)| 1 < header.names.len());
    match (separate.next(), separate.next()) {
        (Some(_), Some(_)) => Err(ambiguous(place)),
        (Some((at, _)), None) => Ok(Some(headers.swap_remove(at))),
        (None, _) => Ok(headers.into_iter().next()),
    }
}

fn ambiguous(place: &str) -> ArraysError {
    let what = "the header has more than one of comma, semicolon and tab, and it is not clear which of them separates the cells; write commas, and put names with others into quotes";
    on_line(place, 1, what)
}

/// The first group of required names of which none is there.
fn missing(names: &[String], columns: &Columns) -> Option<&'static [&'static str]> {
    let there = |group: &[&str]| group.iter().any(|name| names.iter().any(|n| n == name));
    columns.required.iter().copied().find(|group| !there(group))
}

/// Checks the names of a header; how many leading columns are the index of a data frame.
fn check_names(place: &str, names: &[String], columns: &Columns) -> Result<usize, ArraysError> {
    let wrong = |what| {
        Err(ArraysError::Labels {
            place: place.to_owned(),
            what,
        })
    };
    if COLUMNS_MAX < names.len() {
        let count = names.len();
        return wrong(format!(
            "it has {count} columns, over the limit of {COLUMNS_MAX}"
        ));
    }
    if let Some(group) = missing(names, columns) {
        return wrong(not_there(group, names));
    }
    let index = |(at, name): &(usize, &String)| {
        (*at == 0 && name.is_empty()) || name.starts_with("Unnamed: 0")
    };
    let unnamed = names.iter().enumerate().take_while(index).count();
    let mut seen = BTreeSet::new();
    for (at, name) in names.iter().enumerate().skip(unnamed) {
        if name.is_empty() {
            let number = at + 1;
            return wrong(format!(
                "column {number} has no name; name it, or remove it"
            ));
        }
        if !seen.insert(name) {
            let name = name.escape_debug();
            return wrong(format!("two columns are named `{name}`; rename one"));
        }
    }
    Ok(unnamed)
}

fn not_there(group: &[&str], names: &[String]) -> String {
    /// Only this much is shown of a line that is not a header.
    const SHOWN: usize = 20;
    let wanted: Vec<String> = group.iter().map(|name| format!("`{name}`")).collect();
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| name.chars().take(64).collect::<String>())
        .map(|name| name.escape_debug().to_string())
        .collect();
    let more = if SHOWN < names.len() { ", …" } else { "" };
    let hint = match names {
        [] => "none, since the file is empty",
        [only] if only.contains(['|', ':', ' ']) => {
            "; no comma, semicolon or tab separates them: write commas"
        }
        _ => "",
    };
    format!(
        "there is no column {}; the columns are: {}{more}{hint}",
        wanted.join(" or "),
        shown.join(", ")
    )
}

/// Cells as they are found, and whether any was in quotes.
struct CellRecord<'a> {
    line: u64,
    cells: Vec<Cow<'a, str>>,
    quoted: bool,
}

impl CellRecord<'_> {
    /// Nothing but separators, as spreadsheets write below their last row.
    fn is_empty(&self) -> bool {
        !self.quoted && self.cells.iter().all(|cell| cell.is_empty())
    }

    fn names(&self, columns: &Columns) -> Vec<String> {
        let name = |cell: &Cow<'_, str>| {
            let known = columns.known.iter();
            let mut known = known.filter(|known| known.eq_ignore_ascii_case(cell));
            known
                .next()
                .map_or_else(|| cell.to_string(), |known| (*known).to_owned())
        };
        self.cells.iter().map(name).collect()
    }
}

/// Cuts a text into records.
struct Records<'a> {
    place: &'a str,
    text: &'a str,
    /// Where the next record begins.
    at: usize,
    /// Its line.
    line: u64,
    delimiter: u8,
}

/// What ended a cell.
enum End {
    Cell,
    Record,
}

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Option<CellRecord<'a>>, ArraysError> {
        while self.end_of_line() {}
        if self.text.len() <= self.at {
            return Ok(None);
        }
        let (begin, line) = (self.at, self.line);
        let mut record = CellRecord {
            line,
            cells: Vec::new(),
            quoted: false,
        };
        loop {
            let cell = if self.peek() == Some(b'"') {
                record.quoted = true;
                self.quoted(begin)?
            } else {
                self.plain()?
            };
            if cell.starts_with("=\"") && cell.ends_with('"') {
                let what = "a cell is a formula of Excel, as in =\"007\"; write its value";
                return Err(on_line(self.place, line, what));
            }
            record.cells.push(cell);
            if begin + ROW_BYTES_MAX < self.at {
                let what = format!("the row is longer than {ROW_BYTES_MAX} bytes");
                return Err(on_line(self.place, line, what));
            }
            match self.end_of_cell()? {
                End::Cell => {}
                End::Record => return Ok(Some(record)),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Steps over the end of a line, if one is here.
    fn end_of_line(&mut self) -> bool {
        let step = match self.rest().as_bytes() {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => return false,
        };
        self.at += step;
        self.line += 1;
        true
    }

    fn end_of_cell(&mut self) -> Result<End, ArraysError> {
        if self.peek() == Some(self.delimiter) {
            self.at += 1;
            return Ok(End::Cell);
        }
        if self.end_of_line() || self.text.len() <= self.at {
            return Ok(End::Record);
        }
        let what = "text follows a closing quote; write a quote within a cell as two";
        Err(on_line(self.place, self.line, what))
    }

    /// A cell without quotes around it: to the next separator or the end of the line.
    fn plain(&mut self) -> Result<Cow<'a, str>, ArraysError> {
        let rest = self.rest();
        let ends = |byte: u8| byte == self.delimiter || byte == b'\n' || byte == b'\r';
        let length = rest.bytes().position(ends).unwrap_or(rest.len());
        self.at += length;
        let cell = rest.get(..length).unwrap_or_default().trim();
        if cell.starts_with('"') {
            let what = "a blank stands before a quote; remove it, or the quotes belong to the cell";
            return Err(on_line(self.place, self.line, what));
        }
        Ok(Cow::Borrowed(cell))
    }

    /// A cell in quotes, of the record that begins at `begin`: a doubled quote within is one.
    fn quoted(&mut self, begin: usize) -> Result<Cow<'a, str>, ArraysError> {
        let opened = self.line;
        self.at += 1;
        let mut whole = String::new();
        loop {
            let left = (begin + ROW_BYTES_MAX).saturating_sub(self.at);
            let rest = self.rest();
            let close = rest.bytes().take(left).position(|byte| byte == b'"');
            let Some(close) = close else {
                let what = format!(
                    "a quote opens and is not closed (a row has at most {ROW_BYTES_MAX} bytes); close it, or write a quote within a cell as two, in quotes"
                );
                return Err(on_line(self.place, opened, what));
            };
            let part = rest.get(..close).unwrap_or_default();
            self.line += super::text::line_after(part) - 1;
            self.at += close + 1;
            if self.peek() == Some(b'"') {
                self.at += 1;
                whole.push_str(part);
                whole.push('"');
                continue;
            }
            // Blanks after it are no text.
            let blanks = self.rest().bytes().take_while(|byte| *byte == b' ');
            self.at += blanks.count();
            return Ok(if whole.is_empty() {
                Cow::Borrowed(part.trim())
            } else {
                whole.push_str(part);
                Cow::Owned(whole.trim().to_owned())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const IMAGES: Columns = Columns {
        known: &["path", "label", "id"],
        required: &[&["path"], &["label"]],
        aligned: false,
    };

    const LABELS: Columns = Columns {
        known: &["label", "class"],
        required: &[&["label", "class"]],
        aligned: true,
    };

    fn parse(text: &str) -> Result<Delimited, ArraysError> {
        Delimited::parse("list.csv".to_owned(), text.to_owned(), &IMAGES)
    }

    /// Names, and line and cells of each row.
    type Read = (Vec<String>, Vec<(u64, Vec<String>)>);

    fn read(text: &str) -> Result<Read, ArraysError> {
        let table = parse(text)?;
        let row = |row: Result<TableRow<'_>, ArraysError>| {
            let TableRow { line, cells } = row?;
            Ok((line, cells.into_iter().map(Cow::into_owned).collect()))
        };
        let rows = table.rows().map(row).collect::<Result<_, ArraysError>>()?;
        Ok((table.names().to_vec(), rows))
    }

    fn refused(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn what_separates_the_cells_is_told_from_the_header() {
        let want = (
            vec!["path".to_owned(), "label".to_owned()],
            vec![(2, vec!["a, b;c.jpg".to_owned(), "ann".to_owned()])],
        );
        for text in [
            "path,label\n\"a, b;c.jpg\",ann\n",
            "Path;LABEL\r\n\"a, b;c.jpg\";ann\r\n",
            " path \tlabel\ra, b;c.jpg\tann",
            "path;label\n\"a, b;c.jpg\" ; ann ",
        ] {
            assert_eq!(read(text).unwrap(), want, "{text:?}");
        }
        let (names, rows) = read("sep=;\r\npath;label\r\n1.jpg;ann\r\n").unwrap();
        assert_eq!((names.len(), rows[0].0), (2, 3));
        // Only one of the two gives the columns that are looked for.
        let (names, _) = read("path,label,note;more\n").unwrap();
        assert_eq!(names, ["path", "label", "note;more"]);
        assert!(refused("path,x;label\n").contains("more than one of comma"));
        let both = "label,x;class\n".to_owned();
        let error = Delimited::parse("list.csv".to_owned(), both, &LABELS).unwrap_err();
        assert!(
            error.to_string().contains("more than one of comma"),
            "{error}"
        );
        assert!(refused("sep=|\npath|label\n").contains("`|` separates"));
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let (_, rows) = read("path,label\r\n\r\n\"a\r\nb\",x\r\nc,y\r\n").unwrap();
        assert_eq!(rows[0], (3, vec!["a\r\nb".to_owned(), "x".to_owned()]));
        assert_eq!(rows[1].0, 5);
        let (_, rows) = read("path,label\ra,x\r\rb,y\r").unwrap();
        assert_eq!((rows[0].0, rows[1].0), (2, 4));
    }

    #[test]
    fn rows_of_nothing_but_separators_are_passed_over() {
        let (_, rows) = read("path,label\na,x\n,\n , \n\n\"\",\n,\n").unwrap();
        let lines: Vec<u64> = rows.iter().map(|(line, _)| *line).collect();
        // Quotes say that an empty cell is meant.
        assert_eq!(lines, [2, 6]);
    }

    #[test]
    fn a_table_that_could_mean_something_else_is_refused_with_its_line() {
        for (text, want) in [
            ("path,label,label\na,x,y\n", "two columns are named `label`"),
            ("path,label,Label\na,x,y\n", "two columns are named `label`"),
            ("path,,label\na,x,y\n", "column 2 has no name"),
            ("path,label,\na,x,\n", "column 3 has no name"),
            ("path,label\na,x\nb\n", "line 3: the row has 1 cells"),
            ("path,label\na,x,y\n", "line 2: the row has 3 cells"),
            ("path,label\na,x\n\"b,y\nc,z\n", "line 3: a quote opens"),
            (
                "path,label\n\"b\"c,y\n",
                "line 2: text follows a closing quote",
            ),
            (
                "path,label\na,\"b\nc\"d\n",
                "line 3: text follows a closing quote",
            ),
            ("path,label\na, \"b\"\n", "line 2: a blank stands before"),
            ("path,label\na,=\"007\"\n", "line 2: a cell is a formula"),
            (
                "path,label\na,\"=\"\"007\"\"\"\n",
                "line 2: a cell is a formula",
            ),
            (
                "path,class\n",
                "no column `label`; the columns are: path, class",
            ),
            (
                "path|label\n",
                "no column `path`; the columns are: path|label; no comma",
            ),
            (
                "",
                "no column `path`; the columns are: none, since the file is empty",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(want), "{text:?}: {error}");
        }
        let many = format!("path,label{}\n", ",x".repeat(COLUMNS_MAX));
        assert!(refused(&many).contains("over the limit of 1024"));
        let long = format!("path,label\na,{}\n", "x".repeat(ROW_BYTES_MAX));
        assert!(refused(&long).contains("line 2: the row is longer"));
    }

    /// As spreadsheets and scripts save it.
    fn encoded(text: &str, encoding: u8) -> Vec<u8> {
        let marked = if encoding.is_multiple_of(2) {
            text.to_owned()
        } else {
            format!("\u{feff}{text}")
        };
        let units = marked.encode_utf16();
        match encoding / 2 {
            0 => marked.into_bytes(),
            1 => units.flat_map(u16::to_le_bytes).collect(),
            _ => units.flat_map(u16::to_be_bytes).collect(),
        }
    }

    fn read_bytes(bytes: &[u8]) -> Result<Read, ArraysError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.csv");
        fs::write(&path, bytes).unwrap();
        let table = Delimited::read(&path, &IMAGES)?;
        read(&table.text)
    }

    proptest! {
        #[test]
        fn what_another_program_wrote_is_read_back_cell_by_cell(
            rows in prop::collection::vec(prop::collection::vec("[a-z一é\",;\t\r\n \u{10348}]{0,6}", 3), 0..6),
            delimiter in prop::sample::select(vec![b',', b';', b'\t']),
            encoding in 0_u8..6,
            quoted in prop::bool::ANY,
        ) {
            let style = if quoted { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
            let mut writer = csv::WriterBuilder::new()
                .delimiter(delimiter)
                .quote_style(style)
                .from_writer(Vec::new());
            writer.write_record(["path", "label", "camera"]).unwrap();
            let trimmed = |cell: &String| unguarded(cell.trim().to_owned().into()).into_owned();
            let mut want: Vec<Vec<String>> = Vec::new();
            for row in &rows {
                writer.write_record(row).unwrap();
                want.push(row.iter().map(trimmed).collect());
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let (names, found) = read_bytes(&encoded(&text, encoding)).unwrap();
            prop_assert_eq!(names, ["path", "label", "camera"]);
            let found: Vec<Vec<String>> = found.into_iter().map(|(_, cells)| cells).collect();
            let filled = |row: &Vec<String>| row.iter().any(|cell| !cell.is_empty());
            let full = |rows: Vec<Vec<String>>| rows.into_iter().filter(filled).collect::<Vec<_>>();
            prop_assert_eq!(full(found), full(want));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in prop::collection::vec(
                prop::sample::select(b"path,label\n\r;\t\"a\0\xff\xfe\xef\xbb\xbf\xe9 |".to_vec()), 0..200,
            ),
            begins in prop::bool::ANY,
        ) {
            let bytes = if begins { [&b"path,label\n"[..], &bytes].concat() } else { bytes };
            if let Ok((names, rows)) = read_bytes(&bytes) {
                let count: usize = rows.iter().map(|(_, cells)| cells.len()).sum();
                prop_assert_eq!(count, rows.len() * names.len());
                // What is kept is never more than what was given, but for the text's own encoding.
                let cells = rows.iter().flat_map(|(_, cells)| cells);
                prop_assert!(cells.map(String::len).sum::<usize>() <= 3 * bytes.len());
            }
        }
    }
}
