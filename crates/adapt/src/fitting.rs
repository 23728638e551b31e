//! Runs a whole fit: parts, the choice of a recipe by cross-validation on the fitting labels, the head, and the
//! judgement on labels that had no part in it.

use serde::{Deserialize, Serialize};

use super::curves::JudgedCurves;
use super::dense::real;
use super::error::AdaptError;
use super::figures::{HeadFigures, LabelEvidence};
use super::head::Head;
use super::judgement::{Judgement, ROWS_MAX};
use super::labelled_rows::LabelledRows;
use super::parts::{Part, Parts};
use super::recipe::{RECIPES, Recipe};
use super::supported::SupportedTargets;

/// Number of folds for comparing recipes.
const FOLDS: usize = 3;

/// The input of a fit.
#[derive(Clone, Debug)]
pub struct AdaptRequest<'a> {
    /// All rows, of all parts.
    pub rows: &'a LabelledRows,
    /// The label of each row.
    pub names: &'a [String],
    /// The part of each label.
    pub parts: &'a Parts,
    /// The only recipe to use; `None` compares the recipes of the default search.
    pub recipe: Option<&'static Recipe>,
    /// The most components that the head may give; [`COMPONENTS`](super::COMPONENTS) is usual.
    pub components: usize,
    /// Whether the head multiplies in 8 bits; it is judged as such.
    pub eight_bits: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

/// The stage of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptStage {
    /// Recipes are compared on the fitting labels.
    Compare,
    /// The chosen recipe is fitted.
    Fit,
    /// The head is compared with no head.
    Judge,
}

/// Called with the stage, the number of steps done and the total; the work stops if it returns `false`.
pub type AdaptProgress<'a> = &'a dyn Fn(AdaptStage, usize, usize) -> bool;

/// A recipe in the cross-validation on the fitting labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The name of the recipe; `none` for the embeddings without a head.
    pub recipe: String,
    /// The means of the figures over the folds.
    pub figures: HeadFigures,
    /// The mean of EER, FRR at FAR 1 % and OPIS, each divided by its value without a head. The recipe with the
    /// lowest score is chosen.
    pub score: f64,
}

/// A head with its judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedHead {
    /// The head, even if it is refused.
    pub head: Head,
    /// The recipe that it was fitted by.
    pub recipe: &'static Recipe,
    /// The recipes that were compared; empty if a recipe was named.
    pub candidates: Vec<Candidate>,
    /// The judgement on labels that had no part in the fit.
    pub judgement: Judgement,
}

impl AdaptRequest<'_> {
    /// Runs the whole fit.
    ///
    /// # Errors
    /// Returns an error if no head can be fitted to the rows, and [`AdaptError::Stopped`] if `watch` returned
    /// `false`.
    pub fn run(&self, watch: AdaptProgress<'_>) -> Result<AdaptedHead, AdaptError> {
        let fit = self.rows.chosen(&self.rows_of(Part::Fit));
        let (recipe, candidates) = match self.recipe {
            Some(named) => (named, Vec::new()),
            None => self.choose(&fit, watch)?,
        };
        let head = recipe.fit(&fit, self.components, self.seed, &|done, of| {
            watch(AdaptStage::Fit, done, of)
        })?;
        let head = if self.eight_bits {
            head.in_eight_bits()
        } else {
            head
        };
        if !watch(AdaptStage::Judge, 0, 1) {
            return Err(AdaptError::Stopped);
        }
        let before = self.rows.chosen(&self.compared(Part::Judge));
        let behind = head.apply_to(&before)?;
        let mut judgement = Judgement::of(before.without_head()?.as_ref(), &behind, self.seed)?;
        judgement.refused = none_is_better(recipe, &candidates).or(judgement.refused);
        if !watch(AdaptStage::Judge, 1, 1) {
            return Err(AdaptError::Stopped);
        }
        Ok(AdaptedHead {
            head,
            recipe,
            candidates,
            judgement,
        })
    }

    /// The curves of a judgement, for a page.
    ///
    /// # Errors
    /// Returns an error if rows cannot be compared with each other.
    pub fn curves(&self, adapted: &AdaptedHead) -> Result<JudgedCurves, AdaptError> {
        let judging = self.compared(Part::Judge);
        let before = self.rows.chosen(&judging);
        let behind = adapted.head.apply_to(&before)?;
        let before = before.without_head()?;
        JudgedCurves::of(&before, &behind, &self.names_of(&judging), self.seed)
    }

    /// The targets that the labels left for calibration can certify without and with the head; `None` if there
    /// are too few.
    ///
    /// # Errors
    /// Returns an error if rows cannot be compared with each other.
    pub fn supported(&self, adapted: &AdaptedHead) -> Result<Option<SupportedTargets>, AdaptError> {
        let rows = self.compared(Part::Calibrate);
        let before = self.rows.chosen(&rows);
        if before.is_empty() {
            return Ok(None);
        }
        let behind = adapted.head.apply_to(&before)?;
        let before = before.without_head()?;
        SupportedTargets::of(&before, &behind, &self.names_of(&rows), self.seed)
    }

    fn names_of(&self, rows: &[usize]) -> Vec<&str> {
        let names = rows.iter().filter_map(|row| self.names.get(*row));
        names.map(String::as_str).collect()
    }

    /// The rows of a part.
    #[must_use]
    pub fn rows_of(&self, part: Part) -> Vec<usize> {
        let rows = self.names.iter().enumerate();
        rows.filter(|(_, name)| self.parts.of(name) == Some(part))
            .map(|(row, _)| row)
            .collect()
    }

    /// The rows of a part that are compared with each other: whole labels, up to the limit of rows.
    fn compared(&self, part: Part) -> Vec<usize> {
        let rows = self.rows_of(part);
        if rows.len() <= ROWS_MAX {
            return rows;
        }
        let mut names: Vec<&str> = self.parts.labels(part).collect();
        let mut draws = matchpoint_calibration::analysis::rng::SeededRng::new(self.seed, u64::MAX);
        draws.shuffle(&mut names);
        let mut of_label: std::collections::BTreeMap<&str, Vec<usize>> =
            std::collections::BTreeMap::new();
        for row in rows {
            if let Some(name) = self.names.get(row) {
                of_label.entry(name).or_default().push(row);
            }
        }
        let mut taken = Vec::new();
        for rows in names.iter().filter_map(|name| of_label.get(name)) {
            if ROWS_MAX < taken.len() + rows.len() {
                break;
            }
            taken.extend(rows);
        }
        taken.sort_unstable();
        taken
    }

    /// The recipe with the lowest score on labels left out in turn.
    fn choose(
        &self,
        fit: &LabelledRows,
        watch: AdaptProgress<'_>,
    ) -> Result<(&'static Recipe, Vec<Candidate>), AdaptError> {
        let recipes: Vec<&'static Recipe> =
            RECIPES.iter().filter(|recipe| recipe.by_default).collect();
        let mut sums = vec![(Vec::new(), 0.0); recipes.len() + 1];
        let rounds = FOLDS * recipes.len();
        for fold in 0..FOLDS {
            let (within, without) = folds(fit, fold, self.seed);
            let held_out = fit.chosen(&within);
            let others = fit.chosen(&without);
            let plain = figures_of(held_out.without_head()?.as_ref())?;
            take(&mut sums, 0, &plain, &plain);
            for (number, recipe) in recipes.iter().enumerate() {
                let done = fold * recipes.len() + number;
                let step = |_, _| watch(AdaptStage::Compare, done, rounds);
                if !step(0, 1) {
                    return Err(AdaptError::Stopped);
                }
                let head = recipe.fit(&others, self.components, self.seed, &step)?;
                let found = figures_of(&head.apply_to(&held_out)?)?;
                take(&mut sums, number + 1, &found, &plain);
            }
        }
        let names = std::iter::once("none").chain(recipes.iter().map(|recipe| recipe.name));
        let candidates: Vec<Candidate> = names
            .zip(sums)
            .map(|(name, (figures, score))| Candidate {
                recipe: name.to_owned(),
                figures: mean(&figures),
                score: score / real(FOLDS),
            })
            .collect();
        // The first of those that are equal: the simplest comes first.
        let scores = candidates.iter().skip(1).map(|one| one.score);
        let best = recipes
            .into_iter()
            .zip(scores)
            .reduce(|best, next| if next.1 < best.1 { next } else { best });
        let best = best.ok_or_else(|| AdaptError::NoRecipe {
            name: "default".to_owned(),
            known: "none".to_owned(),
        })?;
        Ok((best.0, candidates))
    }
}

/// Where the labels that fit say already that the embeddings are best as they are, a few labels that judge otherwise are luck.
fn none_is_better(recipe: &Recipe, candidates: &[Candidate]) -> Option<String> {
    let chosen = candidates.iter().find(|one| one.recipe == recipe.name)?;
    (1.0 <= chosen.score).then(|| {
        format!(
            "in cross-validation over the labels that fit no recipe is better than none (the best, {}, leaves {:.0} % of EER, FRR at \
             FAR 1 % and OPIS, on average); more labels may show that one is",
            recipe.name,
            chosen.score * 100.0
        )
    })
}

fn take(sums: &mut [(Vec<HeadFigures>, f64)], at: usize, found: &HeadFigures, plain: &HeadFigures) {
    if let Some((figures, score)) = sums.get_mut(at) {
        figures.push(*found);
        *score += share_of(found, plain);
    }
}

fn figures_of(rows: &LabelledRows) -> Result<HeadFigures, AdaptError> {
    let evidence = LabelEvidence::of(rows)?;
    Ok(evidence.figures(&vec![1.0; evidence.labels()]))
}

/// The rows of one fold of labels, and all others.
fn folds(rows: &LabelledRows, fold: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (labels, count) = rows.dense_labels();
    let mut order: Vec<usize> = (0..count).collect();
    matchpoint_calibration::analysis::rng::SeededRng::new(seed, 1).shuffle(&mut order);
    let mut of_label = vec![0; count];
    for (place, label) in order.into_iter().enumerate() {
        if let Some(of_label) = of_label.get_mut(label) {
            *of_label = place % FOLDS;
        }
    }
    (0..rows.len()).partition(|row| {
        let label = labels.get(*row).copied().unwrap_or(0);
        of_label.get(label) == Some(&fold)
    })
}

/// What is left of three figures, on average.
fn share_of(found: &HeadFigures, plain: &HeadFigures) -> f64 {
    let share = |of: fn(&HeadFigures) -> f64| {
        let (found, plain) = (of(found), of(plain));
        if 0.0 < plain {
            found / plain
        } else if 0.0 < found {
            2.0
        } else {
            1.0
        }
    };
    (share(|one| one.equal_error) + share(|one| one.frr_at_far_1e2) + share(|one| one.opis)) / 3.0
}

fn mean(figures: &[HeadFigures]) -> HeadFigures {
    let of = |value: fn(&HeadFigures) -> f64| {
        figures.iter().map(value).sum::<f64>() / real(figures.len().max(1))
    };
    HeadFigures {
        recall_at_1: of(|one| one.recall_at_1),
        equal_error: of(|one| one.equal_error),
        frr_at_far_1e2: of(|one| one.frr_at_far_1e2),
        frr_at_far_1e3: of(|one| one.frr_at_far_1e3),
        opis: of(|one| one.opis),
    }
}
