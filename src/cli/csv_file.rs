//! CSV files that commands write: nothing in them runs in a spreadsheet.

use std::fs::File;
use std::path::Path;

use matchpoint_arrays::guarded;

/// A CSV file that is written row by row.
pub(super) struct CsvFile(csv::Writer<File>);

impl CsvFile {
    /// Begins one, with the names of its columns.
    pub(super) fn create(path: &Path, columns: &[&str]) -> anyhow::Result<Self> {
        let mut file = Self(csv::Writer::from_path(path)?);
        file.row(columns)?;
        Ok(file)
    }

    pub(super) fn row(&mut self, cells: &[impl AsRef<str>]) -> anyhow::Result<()> {
        let guarded = cells.iter().map(|cell| guarded(cell.as_ref()));
        let guarded: Vec<_> = guarded.collect();
        Ok(self
            .0
            .write_record(guarded.iter().map(|cell| cell.as_bytes()))?)
    }

    /// Ends it; what was written is with the system then.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}
