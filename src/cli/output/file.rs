//! Files that a command writes; whether that is possible is checked before the work.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Output, line};
use crate::cli::exit::{Exit, fail};
use crate::cli::standard_streams::{create, is_standard};
use crate::deployment::TemporaryFolder;
use matchpoint_report::ReportContents;

/// A file that will be written, or standard output. What is there already is replaced.
pub(crate) struct OutputFile(PathBuf);

impl OutputFile {
    /// Checks a place, if there is one.
    pub(crate) fn at(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        path.map(Self::check).transpose()
    }

    /// Checks a place.
    pub(crate) fn check(path: &Path) -> anyhow::Result<Self> {
        let wrong = |what: &str| {
            let message = format!("cannot write {}: {what}", path.display());
            Err(fail(Exit::Usage, message))
        };
        if is_standard(path) {
            return Ok(Self(path.to_owned()));
        }
        let folder = path.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        if !folder.unwrap_or(Path::new(".")).is_dir() {
            return wrong("its folder does not exist");
        }
        // Opening a pipe could wait for ever.
        if path.exists() && !path.is_file() {
            return wrong("it is there, and is no regular file");
        }
        Ok(Self(path.to_owned()))
    }

    /// Where results are printed, with this file or without one.
    pub(crate) fn output(file: Option<&Self>, json: bool) -> Output {
        Output::beside(json, file.map(|file| file.0.as_path()))
    }

    /// Writes a temporary file first, so that an incomplete one never has the name.
    pub(crate) fn write(
        &self,
        content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        if is_standard(&self.0) {
            let written = create(&self.0).and_then(|file| {
                let mut file = BufWriter::new(file);
                content(&mut file)?;
                file.flush()
            });
            return line(written);
        }
        let mut beside = self.0.as_os_str().to_owned();
        beside.push(".tmp");
        let written = File::create(&beside).and_then(|file| {
            let mut file = BufWriter::new(file);
            content(&mut file)?;
            file.flush()
        });
        let renamed = written.and_then(|()| fs::rename(&beside, &self.0));
        renamed.map_err(|cause| {
            drop(fs::remove_file(&beside));
            let what = self.0.display();
            fail(Exit::Io, format!("cannot write {what}: {cause}"))
        })
    }

    /// Writes a report, and says where it is.
    pub(crate) fn write_page(&self, output: Output, page: &ReportContents) -> anyhow::Result<()> {
        self.write(|file| file.write_all(matchpoint_report::render(page).as_bytes()))?;
        if !is_standard(&self.0) {
            output.note(&format!("report: {}", self.0.display()));
        }
        Ok(())
    }
}

/// Writes a file in a folder: complete, or not at all.
pub(crate) fn write_within(
    folder: &TemporaryFolder,
    path: &Path,
    bytes: &[u8],
) -> anyhow::Result<()> {
    folder.write(path, bytes).map_err(|cause| {
        let message = format!("cannot write {cause}; nothing of it is kept");
        fail(Exit::Io, message)
    })
}
