//! Why an index refuses, and what to do about it.

/// Every way in which an index can fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not a whole number of rows, or rows of no length.
    #[error(
        "{values} values are not whole rows of {dimension}, 1 to {max} values each; check the dimension"
    )]
    Shape {
        /// Values given.
        values: usize,
        /// Values in a row.
        dimension: usize,
        /// The most values that a row may have.
        max: usize,
    },
    /// More rows than there are row numbers.
    #[error("{found} rows are more than the {max} of one index; split them")]
    Rows {
        /// Rows given.
        found: usize,
        /// The most rows of an index.
        max: usize,
    },
    /// A parameter is out of its range.
    #[error("{name} is {found}, not in {min}..={max}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The value given.
        found: usize,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// The query is not a vector of this index.
    #[error("the query has {found} values, and the rows of this index have {expected}")]
    QueryDimension {
        /// Values of the query.
        found: usize,
        /// Values of a row.
        expected: usize,
    },
    /// The filter was made for another set of rows.
    #[error("the filter is about {found} rows, and this index has {expected}")]
    FilterLength {
        /// Rows that the filter is about.
        found: usize,
        /// Rows of the index.
        expected: usize,
    },
    /// The bytes are no index.
    #[error("this is not an index file: it does not begin with the bytes of one")]
    NotAnIndex,
    /// Written by another version of this program.
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
        /// Where the damaged part begins, in bytes from the start of the file.
        offset: usize,
        /// What does not agree.
        what: &'static str,
    },
}
