//! Why a file of embeddings or labels was refused, and what to do about it.

use std::io;

/// Every way in which the reading of a file can fail.
///
/// `place` is the file, and within it the array or the column.
#[derive(Debug, thiserror::Error)]
pub enum ArraysError {
    /// The file system failed.
    #[error("could not {doing} {place}: {source}")]
    Io {
        /// The file.
        place: String,
        /// What was attempted.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The first bytes are those of no supported format.
    #[error(
        "{place} is none of .npy, .npz, Parquet and .fvecs; save the embeddings with numpy.save"
    )]
    Unknown {
        /// The file.
        place: String,
    },
    /// The content contradicts what the file states.
    #[error("{place} is damaged: {what}; copy it or write it again")]
    Damaged {
        /// Where.
        place: String,
        /// What does not agree.
        what: String,
    },
    /// Well formed, but not supported.
    #[error("{place} uses {what}, which is not read; {fix}")]
    Unsupported {
        /// Where.
        place: String,
        /// What is used.
        what: String,
        /// What to do instead.
        fix: &'static str,
    },
    /// Not one vector for each row.
    #[error("{place} has the shape {shape}; reshape it to (rows, dimension)")]
    Shape {
        /// Where.
        place: String,
        /// The shape, as Python writes it.
        shape: String,
    },
    /// Not floats.
    #[error("{place} holds values of type {dtype}; convert them with .astype('float32')")]
    Dtype {
        /// Where.
        place: String,
        /// The type, as numpy writes it.
        dtype: String,
    },
    /// Reading a pickle runs whatever its writer put into it.
    #[error("{place} holds pickled Python objects, which are never read; save it as float32")]
    Pickled {
        /// Where.
        place: String,
    },
    /// No row at all.
    #[error("{place} has no rows; write at least one embedding to it")]
    Empty {
        /// Where.
        place: String,
    },
    /// No value in a row, or too many.
    #[error("{place} has rows of {dimension} values, outside 1 to {limit}; check its shape")]
    Dimension {
        /// Where.
        place: String,
        /// Values in a row.
        dimension: u64,
        /// The most values in a row.
        limit: usize,
    },
    /// More than is allowed, or than there is memory for.
    #[error(
        "{place} takes {bytes} bytes in memory, and {limit} are allowed; split it or allow more"
    )]
    TooLarge {
        /// Where.
        place: String,
        /// What it would take.
        bytes: u64,
        /// What it may take.
        limit: u64,
    },
    /// The machine does not have that much memory.
    #[error("{place} takes {bytes} bytes, more than this machine can give; split it")]
    Memory {
        /// Where.
        place: String,
        /// What it would take.
        bytes: u64,
    },
    /// Nothing has that name.
    #[error("{place} has no {kind} `{name}`; it has {found}")]
    NoSuch {
        /// The file.
        place: String,
        /// `array` or `column`.
        kind: &'static str,
        /// The name that was requested.
        name: String,
        /// What there is.
        found: String,
    },
    /// Not exactly one array or column that can be the embeddings.
    #[error(
        "{place} has {count} {kind}s that can be embeddings ({wanted}), and has {found}; {fix}"
    )]
    Choose {
        /// The file.
        place: String,
        /// How many can be.
        count: usize,
        /// `array` or `column`.
        kind: &'static str,
        /// What can be.
        wanted: &'static str,
        /// What there is.
        found: String,
        /// What to do.
        fix: &'static str,
    },
    /// One row is wrong.
    #[error("{place}, row {row} counted from 0: {what}")]
    Row {
        /// Where.
        place: String,
        /// The row.
        row: u64,
        /// What is wrong, and what to do.
        what: String,
    },
    /// One line of a text is wrong, and with it the whole file.
    #[error("{place}, line {line}: {what}")]
    Line {
        /// The file.
        place: String,
        /// The line of the file, from 1.
        line: u64,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A table of labels lacks something as a whole.
    #[error("{place}: {what}")]
    Labels {
        /// The file.
        place: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Row i of the labels belongs to row i of the embeddings.
    #[error(
        "{place} labels {labels} rows, and there are {rows} embeddings; write one line for each, in the same order"
    )]
    Count {
        /// The table of labels.
        place: String,
        /// Rows of the labels.
        labels: u64,
        /// Rows of the embeddings.
        rows: u64,
    },
}
