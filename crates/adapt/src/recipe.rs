//! The recipes for fitting a head, each with its source.

use std::borrow::Cow;

use super::dense::Dense;
use super::error::AdaptError;
use super::head::Head;
use super::labelled_rows::LabelledRows;
use super::loss::LossWeights;
use super::training::{Schedule, TrainingRows};
use super::whitening::{Shares, whiten};

/// How many components a head gives at most, unless it is asked for others. The leading components of the data contain
/// what separates labels, and half as many cost half as much in memory, in every search and after the network.
pub const COMPONENTS: usize = 512;

/// A way to fit a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// The name of the recipe.
    pub name: &'static str,
    /// What it does, in one line.
    pub what: &'static str,
    /// Its source in the literature.
    pub reference: &'static str,
    /// Whether it is compared by default: it was the best on held-out labels of some data set.
    pub by_default: bool,
    /// Whether the signed square roots of the components are mapped, instead of the components.
    roots: bool,
    shares: Shares,
    training: Option<Training>,
}

/// The training after the whitening.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Training {
    losses: LossWeights,
    schedule: Schedule,
}

/// The schedule of all trained recipes.
const SCHEDULE: Schedule = Schedule {
    steps: 150,
    rate: 5e-4,
    labels: 100,
    rows_each: 4,
};

/// The best shares for a whitening without training.
const MIXED: Shares = Shares {
    within: 0.5,
    total: 0.5,
    identity: 1.0,
};

/// The shares of the whitening where training starts.
const START: Shares = Shares {
    within: 0.75,
    total: 0.25,
    identity: 2.0,
};

/// Normalised softmax with threshold-consistent margins.
const SOFTMAX_TCM: Training = Training {
    losses: LossWeights {
        temperature: 0.15,
        consistency: 1.0,
        margin_mated: 0.9,
        margin_non_mated: 0.3,
    },
    schedule: SCHEDULE,
};

/// All recipes. docs/adapt.md has the measurements of each.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "whitening",
        what: "mixed whitening: the scatter within labels and of all pictures, half and half, shrunk",
        reference: "between total whitening and LDA; within-class covariance normalisation (Hatch and others 2006), shrunk (Ledoit and Wolf 2004)",
        by_default: true,
        roots: false,
        shares: MIXED,
        training: None,
    },
    Recipe {
        name: "root-whitening",
        what: "mixed whitening of the signed square roots of the components",
        reference: "the same; power normalisation (Perronnin and others 2010; Arandjelovic and Zisserman 2012, RootSIFT)",
        by_default: true,
        roots: true,
        shares: MIXED,
        training: None,
    },
    Recipe {
        name: "softmax-tcm",
        what: "mixed whitening, then trained by normalised softmax and threshold-consistent margins",
        reference: "Zhai and Wu 2019 (NormSoftmax); Zhang and others, ICLR 2024 (TCM)",
        by_default: true,
        roots: false,
        shares: START,
        training: Some(SOFTMAX_TCM),
    },
    Recipe {
        name: "root-softmax-tcm",
        what: "mixed whitening of the signed square roots, then trained by normalised softmax and threshold-consistent margins",
        reference: "the same; power normalisation (Perronnin and others 2010)",
        by_default: true,
        roots: true,
        shares: START,
        // The square roots are more evenly distributed, and allow a sharper softmax.
        training: Some(Training {
            losses: LossWeights {
                temperature: 0.1,
                ..SOFTMAX_TCM.losses
            },
            schedule: SCHEDULE,
        }),
    },
    Recipe {
        name: "softmax",
        what: "without roots and margins: ranks as well, and one threshold fits labels less",
        reference: "Zhai and Wu 2019 (NormSoftmax)",
        by_default: false,
        roots: false,
        shares: START,
        training: Some(Training {
            losses: LossWeights {
                consistency: 0.0,
                ..SOFTMAX_TCM.losses
            },
            schedule: SCHEDULE,
        }),
    },
    Recipe {
        name: "total-whitening",
        what: "whitening by the scatter of all pictures alone: uses no label",
        reference: "Jegou and Chum 2012, shrunk",
        by_default: false,
        roots: false,
        shares: Shares {
            within: 0.0,
            total: 1.0,
            identity: 1.0,
        },
        training: None,
    },
];

impl Recipe {
    /// The recipe with this name.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn named(name: &str) -> Result<&'static Self, AdaptError> {
        let found = RECIPES.iter().find(|recipe| recipe.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
            AdaptError::NoRecipe {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// Fits a head with at most `components` components, and fewer than there are rows. `watch` is called at each step of
    /// training; if it returns `false`, the work stops.
    ///
    /// # Errors
    /// Returns an error if the rows do not differ enough, if training diverges, and [`AdaptError::Stopped`] if
    /// `watch` returned `false`.
    pub fn fit(
        &self,
        rows: &LabelledRows,
        components: usize,
        seed: u64,
        watch: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Head, AdaptError> {
        let rows = if self.roots {
            Cow::Owned(rows.signed_roots())
        } else {
            Cow::Borrowed(rows)
        };
        let rows = rows.as_ref();
        let fewer = rows.len().saturating_sub(1).min(components).max(1);
        let mut map = whiten(rows, self.shares, rows.dimension().min(fewer))?;
        if let Some(training) = self.training {
            let mapped = map.apply(rows);
            let (labels, _) = rows.dense_labels();
            let training_rows = TrainingRows {
                rows: &mapped,
                labels: &labels,
                seed,
            };
            let stopped = std::cell::Cell::new(false);
            let step = |done, of| {
                stopped.set(!watch(done, of));
                !stopped.get()
            };
            let trained = training_rows.train(training.losses, training.schedule, &step);
            let trained = trained.ok_or(if stopped.get() {
                AdaptError::Stopped
            } else {
                AdaptError::Diverged { recipe: self.name }
            })?;
            map.matrix = Dense::product(trained.view(), map.matrix.view());
        }
        Head::of(&map.matrix, &map.centre, self.roots)
            .ok_or(AdaptError::Diverged { recipe: self.name })
    }
}
