//! Why no head can be fitted.

/// The reasons why no head can be fitted or used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdaptError {
    /// The numbers of values, labels and components do not match.
    #[error("{values} values are not {rows} rows of {dimension} components")]
    Shape {
        /// Number of values found.
        values: usize,
        /// Number of labels found.
        rows: usize,
        /// Number of components of a row.
        dimension: usize,
    },
    /// A row that cannot be an embedding.
    #[error("row {row} counted from 0: {problem}; remove it")]
    Row {
        /// The row.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There are too few labels with at least two pictures.
    #[error(
        "a head takes {least} labels with two pictures or more, half of them to fit and the others to calibrate and to judge; of \
         the {labels} labels here {paired} have two: label {} more",
        least.saturating_sub(*paired)
    )]
    TooFewLabels {
        /// Number of all labels.
        labels: usize,
        /// Number of labels with at least two pictures.
        paired: usize,
        /// The least number of such labels.
        least: usize,
    },
    /// A given part has too few labels with at least two pictures.
    #[error(
        "the part `{part}` has {paired} labels with two pictures or more, and it takes {least}: label {} more",
        least.saturating_sub(*paired)
    )]
    TooFewInPart {
        /// The name of the part.
        part: &'static str,
        /// The number of such labels in the part.
        paired: usize,
        /// The least number of such labels.
        least: usize,
    },
    /// A label occurs in two parts.
    #[error(
        "the label {label} is in two parts, {one} and {other}: what was fitted on can judge nothing; give all its pictures one part"
    )]
    LabelInTwoParts {
        /// The label.
        label: String,
        /// The first part.
        one: &'static str,
        /// The second part.
        other: &'static str,
    },
    /// All vectors are equal, or nearly equal.
    #[error("the vectors do not differ enough for a head: their covariance is not positive")]
    NotPositive,
    /// The eigenvalue iteration did not converge.
    #[error("the eigenvalues of the covariance were not found; report this with the embeddings")]
    NoEigenvalues,
    /// Training diverged, so that the numbers are not finite.
    #[error(
        "training by the recipe `{recipe}` came to no finite head; choose another with --recipe"
    )]
    Diverged {
        /// The name of the recipe.
        recipe: &'static str,
    },
    /// A head was applied to vectors of another dimension.
    #[error("the head takes vectors of {expected} components, and these have {found}")]
    Dimension {
        /// The dimension that it takes.
        expected: usize,
        /// The dimension of the vectors.
        found: usize,
    },
    /// The stored bytes are not a head.
    #[error("it is no head: {problem}")]
    Stored {
        /// What is wrong.
        problem: String,
    },
    /// There is no recipe with this name.
    #[error("there is no recipe `{name}`; there are {known}")]
    NoRecipe {
        /// The name that was given.
        name: String,
        /// The existing names.
        known: String,
    },
    /// The caller stopped the work.
    #[error("stopped")]
    Stopped,
    /// The pairs could not be analysed.
    #[error("the judged vectors cannot be compared: {problem}")]
    Analysis {
        /// What happened.
        problem: String,
    },
}
