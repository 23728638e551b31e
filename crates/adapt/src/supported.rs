//! What labels that are left to calibrate with can promise, before a head and behind it.

use std::collections::{BTreeMap, BTreeSet};

use matchpoint_calibration::analysis::rng::SeededRng;
use matchpoint_calibration::menu::Menu;
use matchpoint_calibration::procedure::{Assured, LabelledVectors, VectorRow, VectorTrials};
use serde::Serialize;

use super::error::AdaptError;
use super::labelled_rows::LabelledRows;

/// The confidence of each promise.
const CONFIDENCE: f64 = 0.95;

/// For each FAR the threshold that is certified, and what it costs in false rejects, on the same pictures before a head and
/// behind it, by the trials that `calibrate` makes of such vectors. Of the labels that are left to calibrate with, half are enrolled by
/// half of their pictures, and asked for by the others; the other half are strangers.
///
/// Each line holds by itself, for who asks for its FAR beforehand: not all at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SupportedTargets {
    /// Labels that are enrolled.
    pub enrolled_labels: usize,
    /// Without a head.
    pub without: Menu,
    /// With it.
    pub with: Menu,
}

impl SupportedTargets {
    /// Of the same rows before a head and behind it; `names` has the label of each. `None` if they give no search of a kind.
    pub(super) fn of(
        before: &LabelledRows,
        behind: &LabelledRows,
        names: &[&str],
        seed: u64,
    ) -> Result<Option<Self>, AdaptError> {
        let roles = Roles::deal(names, seed);
        if roles.asked.is_empty() || roles.strangers.is_empty() {
            return Ok(None);
        }
        let menu = |rows: &LabelledRows| -> Result<Menu, AdaptError> {
            let trials = roles.search(rows, names)?;
            let named = trials.unnamed.is_none();
            let menu = Menu::of(trials.recording.trials(), CONFIDENCE, seed, named);
            menu.map_err(|error| wrong(&error))
        };
        let enrolled = roles.enrolled.iter().filter_map(|row| names.get(*row));
        Ok(Some(Self {
            enrolled_labels: enrolled.collect::<BTreeSet<_>>().len(),
            without: menu(before)?,
            with: menu(behind)?,
        }))
    }
}

/// Rows that are enrolled, that ask for an enrolled label, and that are strangers.
#[derive(Default)]
struct Roles {
    enrolled: Vec<usize>,
    asked: Vec<usize>,
    strangers: Vec<usize>,
}

impl Roles {
    /// Labels in an order that follows from the seed and the names alone.
    fn deal(names: &[&str], seed: u64) -> Self {
        let mut of_label: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (row, name) in names.iter().enumerate() {
            of_label.entry(name).or_default().push(row);
        }
        let mut labels: Vec<Vec<usize>> = of_label.into_values().collect();
        SeededRng::new(seed, 2).shuffle(&mut labels);
        let mut roles = Self::default();
        let mut enrolled = 0;
        for (dealt, rows) in labels.into_iter().enumerate() {
            // Of one picture there is none left to ask with.
            if rows.len() < 2 || dealt < 2 * enrolled {
                roles.strangers.extend(rows);
                continue;
            }
            enrolled += 1;
            let (gallery, asked) = rows.split_at(rows.len() / 2);
            roles.enrolled.extend(gallery);
            roles.asked.extend(asked);
        }
        roles
    }

    /// The trials that `calibrate` makes of these vectors: near copies are none, and strangers who may be one count either way.
    fn search(&self, rows: &LabelledRows, names: &[&str]) -> Result<VectorTrials, AdaptError> {
        let vector = |row: &usize| {
            Some(VectorRow {
                id: row.to_string(),
                label: names.get(*row)?,
                conditions: BTreeMap::new(),
                vector: rows.row(*row)?,
            })
        };
        let gallery = self.enrolled.iter().filter_map(vector);
        let queries = self.asked.iter().chain(&self.strangers);
        let queries = queries.filter_map(vector).collect();
        let vectors = LabelledVectors::from_unit(gallery.collect(), queries);
        let vectors = vectors.map_err(|error| wrong(&error))?;
        VectorTrials::search(&vectors, Assured::default(), &|_, _, _| true)
            .map_err(|error| wrong(&error))
    }
}

fn wrong(problem: &dyn std::fmt::Display) -> AdaptError {
    AdaptError::Analysis {
        problem: problem.to_string(),
    }
}
