//! Why no head can be fitted.

/// Why no head can be fitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdaptError {
    /// Vectors, labels and components do not go together.
    #[error("{values} values are not {rows} rows of {dimension} components")]
    Shape {
        /// Values found.
        values: usize,
        /// Labels found.
        rows: usize,
        /// Components of each row.
        dimension: usize,
    },
    /// A row is no embedding.
    #[error("row {row} counted from 0: {problem}; remove it")]
    Row {
        /// The row.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Too few labels with two pictures or more.
    #[error(
        "a head takes {least} labels with two pictures or more, half of them to fit and the others to calibrate and to judge; of \
         the {labels} labels here {paired} have two: label {} more",
        least.saturating_sub(*paired)
    )]
    TooFewLabels {
        /// All labels.
        labels: usize,
        /// Those with two pictures or more.
        paired: usize,
        /// What it takes.
        least: usize,
    },
    /// The same for parts that were given.
    #[error(
        "the part `{part}` has {paired} labels with two pictures or more, and it takes {least}: label {} more",
        least.saturating_sub(*paired)
    )]
    TooFewInPart {
        /// The part.
        part: &'static str,
        /// What it has.
        paired: usize,
        /// What it takes.
        least: usize,
    },
    /// A label is in two parts.
    #[error(
        "the label {label} is in two parts, {one} and {other}: what was fitted on can judge nothing; give all its pictures one part"
    )]
    LabelInTwoParts {
        /// The label.
        label: String,
        /// A part.
        one: &'static str,
        /// Another one.
        other: &'static str,
    },
    /// All vectors are one, or nearly.
    #[error("the vectors do not differ enough for a head: their covariance is not positive")]
    NotPositive,
    /// The iteration did not end.
    #[error("the eigenvalues of the covariance were not found; report this with the embeddings")]
    NoEigenvalues,
    /// Training left the numbers.
    #[error(
        "training by the recipe `{recipe}` came to no finite head; choose another with --recipe"
    )]
    Diverged {
        /// The recipe.
        recipe: &'static str,
    },
    /// A head was applied to vectors of another length.
    #[error("the head takes vectors of {expected} components, and these have {found}")]
    Dimension {
        /// What it takes.
        expected: usize,
        /// What it was given.
        found: usize,
    },
    /// What was stored is no head.
    #[error("it is no head: {problem}")]
    Stored {
        /// What is wrong.
        problem: String,
    },
    /// A recipe of that name is not there.
    #[error("there is no recipe `{name}`; there are {known}")]
    NoRecipe {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The caller ended it.
    #[error("stopped")]
    Stopped,
    /// Pairs could not be analysed.
    #[error("the judged vectors cannot be compared: {problem}")]
    Analysis {
        /// What happened.
        problem: String,
    },
}
