//! The groups as a list that `build` takes, once a person has renamed and shortened it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::candidates::{Candidates, QueryAt};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::csv_file::CsvFile;
use crate::cli::output::file::OutputFile;
use crate::cli::output::image_ending::ending;
use crate::cli::standard_streams::is_standard;
use matchpoint_arrays::Role;
use matchpoint_calibration::analysis::discovery::ProposedGroup;

/// A place for the list.
pub(super) struct ProposedList {
    path: PathBuf,
    file: OutputFile,
}

impl ProposedList {
    /// Checks the place before the work.
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: OutputFile::check(path)?,
        })
    }

    /// Writes each group under its label, and returns how many pictures have gone since they were searched for. These
    /// are left out: the work of hours does not end with the first of them.
    pub(super) fn write(
        &self,
        groups: &[(&str, &ProposedGroup)],
        candidates: &Candidates,
    ) -> anyhow::Result<usize> {
        if 0 < candidates.rows_of_file {
            return self.write_rows(groups, candidates).map(|()| 0);
        }
        let (mut rows, mut gone) = (Vec::new(), 0);
        for (label, group) in groups {
            let members = group.linked.rows.iter();
            for one in members.filter_map(|row| candidates.rows.get(*row)) {
                let path = match &one.at {
                    QueryAt::Decision(id) => {
                        let picture = candidates.picture(*id)?;
                        let named = picture.map(|bytes| self.picture(&id.to_string(), &bytes));
                        named.transpose()?
                    }
                    QueryAt::File(path) => match fs::canonicalize(path) {
                        Ok(path) => Some(path.display().to_string()),
                        Err(cause) if cause.kind() == ErrorKind::NotFound => None,
                        Err(cause) => {
                            let what = format!("cannot find {}", path.display());
                            return Err(anyhow::Error::new(cause).context(what));
                        }
                    },
                    QueryAt::Row(_) => continue,
                };
                let Some(path) = path else {
                    gone += 1;
                    continue;
                };
                rows.push([path, (*label).to_owned(), one.name.clone()]);
            }
        }
        self.file.write(|file| {
            let mut csv = CsvFile::within(file, &["path", "label", "id"])?;
            rows.iter().try_for_each(|row| csv.row(row))?;
            csv.finish()
        })?;
        Ok(gone)
    }

    /// Writes a decision's picture into the folder beside the list, and returns its path as the list names it.
    fn picture(&self, id: &str, picture: &[u8]) -> anyhow::Result<String> {
        if is_standard(&self.path) {
            let message = "pictures of recorded searches go into a folder beside the list, so --csv has to name a file";
            return Err(fail(Exit::Usage, message));
        }
        let folder = self.path.with_extension("pictures");
        let name = format!("{id}.{}", ending(picture));
        let write = || {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(&name), picture)
        };
        write().with_context(|| format!("cannot write to {}", folder.display()))?;
        let folder = folder.file_name().map(|name| name.to_string_lossy());
        Ok(format!("{}/{name}", folder.unwrap_or_default()))
    }

    /// Of vectors the list has a line for every row of their file; those outside all groups have the role unused.
    fn write_rows(
        &self,
        groups: &[(&str, &ProposedGroup)],
        candidates: &Candidates,
    ) -> anyhow::Result<()> {
        let mut label_of = vec![None; candidates.rows_of_file];
        for (label, group) in groups {
            let members = group.linked.rows.iter();
            for one in members.filter_map(|row| candidates.rows.get(*row)) {
                if let QueryAt::Row(row) = one.at
                    && let Some(slot) = label_of.get_mut(row)
                {
                    *slot = Some(*label);
                }
            }
        }
        self.file.write(|file| {
            let mut csv = CsvFile::within(file, &["label", "id", "role"])?;
            for (row, label) in label_of.iter().enumerate() {
                let role = label.map_or(Role::Unused, |_| Role::Gallery).as_str();
                let label = label.unwrap_or("none");
                csv.row(&[label, &format!("{label}/{row:08}"), role])?;
            }
            csv.finish()
        })
    }
}
