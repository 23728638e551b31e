//! The targets that the labels left for calibration can certify, without and with a head.

use std::collections::{BTreeMap, BTreeSet};

use matchpoint_calibration::analysis::rng::SeededRng;
use matchpoint_calibration::menu::{Menu, MenuRequest};
use matchpoint_calibration::procedure::{Assured, LabelledVectors, VectorRow, VectorTrials};
use serde::Serialize;

use super::error::AdaptError;
use super::labelled_rows::LabelledRows;

/// The confidence of each target.
const CONFIDENCE: f64 = 0.95;

/// For each FAR, the certified threshold and its FRR, on the same pictures without and with the head, with the
/// trials that `calibrate` makes of such vectors. Of the labels left for calibration, half are enrolled with
/// half of their pictures, and the other pictures are mated queries. The other half of the labels are
/// strangers.
///
/// Each line is valid separately, for a FAR that was chosen beforehand. The lines are not valid all together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SupportedTargets {
    /// Number of enrolled labels.
    pub enrolled_labels: usize,
    /// The targets without the head.
    pub without: Menu,
    /// The targets with the head.
    pub with: Menu,
}

impl SupportedTargets {
    /// Compares the same rows without and with the head; `names` has the label of each row. `None` if one kind
    /// of searches is missing.
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
            let request = MenuRequest {
                confidence: CONFIDENCE,
                seed,
                named: trials.unnamed.is_none(),
                gallery_items: None,
            };
            let menu = Menu::of(trials.recording.trials(), request);
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

/// The rows that are enrolled, that are mated queries, and that are queries of strangers.
#[derive(Default)]
struct Roles {
    enrolled: Vec<usize>,
    asked: Vec<usize>,
    strangers: Vec<usize>,
}

impl Roles {
    /// Assigns the roles, in an order that depends only on the seed and the names.
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
            // A label with one picture has none left as a query.
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

    /// Makes the trials as `calibrate` does: strangers who may be the same are certified in both cases.
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
