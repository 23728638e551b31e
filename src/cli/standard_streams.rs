//! `-` in the place of a file: standard input where one is read, standard output where one is written.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use super::exit::{Exit, fail};
use crate::files::read_file;
use matchpoint_arrays::STANDARD_INPUT;

/// The most that is read of an image from standard input, in bytes: more than any server takes.
const IMAGE_BYTES_MAX: u64 = 1 << 28;

/// Whether a name stands for standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD_INPUT
}

/// Reads an image from a file, or from standard input.
pub(super) fn read_image_at(path: &Path) -> io::Result<Vec<u8>> {
    if !is_standard(path) {
        return read_file(path);
    }
    let mut bytes = Vec::new();
    let from = io::stdin().lock();
    from.take(IMAGE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let problem = match bytes.len() as u64 {
        0 => "it is empty, or was read already: give `-` once, and pipe an image into it",
        len if IMAGE_BYTES_MAX < len => "it is longer than any image that is taken",
        _ => return Ok(bytes),
    };
    Err(io::Error::other(format!("standard input: {problem}")))
}

/// Begins a file, or takes standard output for one.
pub(super) fn create(path: &Path) -> io::Result<File> {
    if is_standard(path) {
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    File::create(path)
}

/// Refuses `-` for what is read or written at several places, or verified before it has its name.
pub(super) fn refuse_standard(path: &Path, what: &str) -> anyhow::Result<()> {
    if !is_standard(path) {
        return Ok(());
    }
    let message = format!("{what} takes a file of its own, and - is none; name one");
    Err(fail(Exit::Usage, message))
}
