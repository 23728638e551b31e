//! CSV files that commands write: nothing in them runs in a spreadsheet.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::cli::standard_streams::create;
use matchpoint_arrays::guarded;

/// A CSV file that is written row by row.
pub(crate) struct CsvFile<W: Write>(csv::Writer<W>);

impl CsvFile<File> {
    /// Creates one, or writes to standard output; begins with the names of the columns.
    pub(crate) fn create(path: &Path, columns: &[&str]) -> anyhow::Result<Self> {
        Ok(Self::within(create(path)?, columns)?)
    }
}

impl<W: Write> CsvFile<W> {
    /// Writes one to any sink of bytes.
    pub(crate) fn within(file: W, columns: &[&str]) -> io::Result<Self> {
        let mut file = Self(csv::Writer::from_writer(file));
        file.row(columns)?;
        Ok(file)
    }

    pub(crate) fn row(&mut self, cells: &[impl AsRef<str>]) -> io::Result<()> {
        let guarded = cells.iter().map(|cell| guarded(cell.as_ref()));
        let guarded: Vec<_> = guarded.collect();
        Ok(self
            .0
            .write_record(guarded.iter().map(|cell| cell.as_bytes()))?)
    }

    /// Ends it; the system then has everything that was written.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
