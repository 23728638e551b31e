//! The errors of an index, with advice.

/// The reasons why an operation on an index failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The values are not a whole number of rows, or the length of a row is out of range.
    #[error(
        "{values} values are not whole rows of {dimension}, 1 to {max} values each; check the dimension"
    )]
    Shape {
        /// Number of values given.
        values: usize,
        /// Number of values in a row.
        dimension: usize,
        /// The highest number of values in a row.
        max: usize,
    },
    /// There are more rows than row numbers.
    #[error("{found} rows are more than the {max} of one index; split them")]
    Rows {
        /// Number of rows given.
        found: usize,
        /// The highest number of rows.
        max: usize,
    },
    /// A parameter is out of its range.
    #[error("{name} is {found}, not in {min}..={max}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The value given.
        found: usize,
        /// The lowest allowed value.
        min: usize,
        /// The highest allowed value.
        max: usize,
    },
    /// The query has another dimension than the index.
    #[error("the query has {found} values, and the rows of this index have {expected}")]
    QueryDimension {
        /// Number of values in the query.
        found: usize,
        /// Number of values in a row.
        expected: usize,
    },
    /// The filter was made for another number of rows.
    #[error("the filter is about {found} rows, and this index has {expected}")]
    FilterLength {
        /// Number of rows of the filter.
        found: usize,
        /// Number of rows of the index.
        expected: usize,
    },
    /// The bytes are not an index.
    #[error("this is not an index file: it does not begin with the bytes of one")]
    NotAnIndex,
    /// The index was written by another version of this program.
    #[error(
        "the index has format {found}, and this version reads format {readable}; build it again"
    )]
    Format {
        /// The format of the file.
        found: u32,
        /// The only format that is read.
        readable: u32,
    },
    /// The bytes differ from what was written.
    #[error("the index is damaged at byte {offset}: {what}; build it again")]
    Damaged {
        /// The position where the damaged part starts, in bytes from the start of the file.
        offset: usize,
        /// What does not match.
        what: &'static str,
    },
}
