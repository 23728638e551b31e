//! How often `--remedy measured` takes which remedy, and what that costs: a table of docs/remedies.md.
//!
//! `cargo bench -p matchpoint-calibration --bench remedies -- VECTORS.npy LABELS.csv FAR [KIND=VALUE]`. A row of the
//! labels belongs to each vector; pictures of the role `gallery` are enrolled, those of the roles `query` and `unknown`
//! search. In each of 60 splits 40 % of the labels are enrolled. One half of these and one half of the others, the
//! strangers, are the calibration's; on the other halves everything is judged. Splits are seeded.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a program that prints a table"
)]

mod labelled_table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use matchpoint_arrays::Role;
use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::certify::{TargetFar, certify};
use matchpoint_calibration::cohort::Cohort;
use matchpoint_calibration::decision::{Decision, Threshold};
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{Assured, BestScore, ScoredSearches, ThresholdSettings};
use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
use matchpoint_vector::Similarity;
use rayon::prelude::*;

const SPLITS: u64 = 60;
const CONFIDENCE: f64 = 0.9;

fn main() {
    let arguments = labelled_table::arguments();
    let [vectors, labels, far, rest @ ..] = &arguments[..] else {
        println!("give VECTORS.npy LABELS.csv FAR [KIND=VALUE]; see the head of this file");
        return;
    };
    let kind = rest.first().and_then(|kind| kind.split_once('='));
    let set = LabelledSet::read(Path::new(vectors), Path::new(labels), kind);
    let target = TargetFar::new(far.parse().unwrap(), CONFIDENCE).unwrap();
    let splits: Vec<SplitOutcome> = (0..SPLITS)
        .into_par_iter()
        .map(|seed| Split::of(&set, seed).outcome(target))
        .collect();
    println!(
        "{} labels, target FAR {far} at {CONFIDENCE}, {SPLITS} splits\n",
        set.labels.len()
    );
    println!("| threshold by | splits | refused | FRR | FAR |\n| --- | --- | --- | --- | --- |");
    for (place, remedy) in Remedy::MEASURED.into_iter().enumerate() {
        let all = splits.iter().map(|split| split.all_labels[place]);
        line(
            &format!("all labels, {}", remedy.as_str()),
            &all.collect::<Vec<_>>(),
        );
    }
    let measured = splits.iter().map(|split| split.measured);
    line(
        "`measured`: all labels, four scores",
        &measured.collect::<Vec<_>>(),
    );
    for (place, remedy) in Remedy::MEASURED.into_iter().enumerate() {
        let took = splits.iter().filter(|split| split.taken == Some(remedy));
        let took: Vec<&SplitOutcome> = took.collect();
        let measured: Vec<Judged> = took.iter().map(|split| split.measured).collect();
        line(&format!("of these took {}", remedy.as_str()), &measured);
        if remedy != Remedy::None {
            let plain: Vec<Judged> = took.iter().map(|split| split.all_labels[0]).collect();
            line("  and the similarity by all labels there", &plain);
            let named: Vec<Judged> = took.iter().map(|split| split.all_labels[place]).collect();
            line("  and the same remedy by all labels there", &named);
        }
    }
}

/// FRR and FAR of labels that had no part in the choice; `None` if no threshold was certified.
type Judged = Option<[f64; 2]>;

fn line(name: &str, found: &[Judged]) {
    let certified: Vec<[f64; 2]> = found.iter().copied().flatten().collect();
    let mean = |place: usize| {
        let sum: f64 = certified.iter().map(|rates| rates[place]).sum();
        sum / certified.len() as f64
    };
    let refused = found.len() - certified.len();
    if certified.is_empty() {
        println!("| {name} | {} | {refused} | - | - |", found.len());
        return;
    }
    println!(
        "| {name} | {} | {refused} | {:.3} | {:.3} |",
        found.len(),
        mean(0),
        mean(1)
    );
}

/// A label with the rows of its enrolled pictures and of its queries.
struct SetLabel {
    name: String,
    items: Vec<usize>,
    queries: Vec<usize>,
}

struct LabelledSet {
    labels: Vec<SetLabel>,
    vectors: Vec<Arc<[f32]>>,
}

impl LabelledSet {
    fn read(vectors: &Path, labels: &Path, kind: Option<(&str, &str)>) -> Self {
        let (vectors, known) = labelled_table::read(vectors, labels);
        let roles = known.role.as_ref().unwrap();
        let mut of_label: BTreeMap<&str, SetLabel> = BTreeMap::new();
        for (row, name) in known.label.iter().enumerate() {
            if kind.is_some_and(|(column, value)| known.metadata[column][row] != value) {
                continue;
            }
            let label = of_label.entry(name).or_insert_with(|| SetLabel {
                name: name.clone(),
                items: Vec::new(),
                queries: Vec::new(),
            });
            match roles[row] {
                Role::Gallery => label.items.push(row),
                Role::Query | Role::Unknown => label.queries.push(row),
                Role::Unused => {}
            }
        }
        let labels = of_label.into_values();
        Self {
            labels: labels.filter(|label| !label.queries.is_empty()).collect(),
            vectors,
        }
    }
}

/// A gallery, the searches of a calibration, and those that judge it.
struct Split<'a> {
    set: &'a LabelledSet,
    seed: u64,
    /// Rows of the enrolled pictures with their labels.
    items: Vec<(usize, &'a str)>,
    calibrating: Vec<RecordedSearch>,
    judging: Vec<RecordedSearch>,
}

/// What came of one split.
struct SplitOutcome {
    /// By each of the scores, certified alone.
    all_labels: [Judged; 4],
    measured: Judged,
    /// What `measured` took; `None` if there are too few labels for four scores.
    taken: Option<Remedy>,
}

impl<'a> Split<'a> {
    fn of(set: &'a LabelledSet, seed: u64) -> Self {
        let mut order: Vec<&SetLabel> = set.labels.iter().collect();
        let mut state = seed;
        let mut below = |count: usize| {
            // A stream of splitmix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((bits ^ (bits >> 31)) % count as u64).unwrap()
        };
        for last in (1..order.len()).rev() {
            order.swap(last, below(last + 1));
        }
        // Strangers that have nothing to enrol are strangers.
        order.sort_by_key(|label| label.items.is_empty());
        let enrolled = 2 * order.len() / 5;
        let items: Vec<(usize, &str)> = order[..enrolled]
            .iter()
            .flat_map(|label| label.items.iter().map(|row| (*row, label.name.as_str())))
            .collect();
        let mut split = Self {
            set,
            seed,
            items,
            calibrating: Vec::new(),
            judging: Vec::new(),
        };
        for (place, label) in order.iter().enumerate() {
            let truth = if place < enrolled {
                TrialKind::Mated
            } else {
                TrialKind::NeverEnrolled
            };
            let searches: Vec<RecordedSearch> = label
                .queries
                .iter()
                .map(|row| split.search(*row, &label.name, truth))
                .collect();
            if place % 2 == 0 {
                split.calibrating.extend(searches);
            } else {
                split.judging.extend(searches);
            }
        }
        split
    }

    fn search(&self, row: usize, label: &str, truth: TrialKind) -> RecordedSearch {
        let vector = &self.set.vectors[row];
        let near = |item: &(usize, &'a str)| {
            let score = Similarity::between(vector, &self.set.vectors[item.0]).unwrap();
            (score, item.0, item.1)
        };
        let mut found: Vec<(Similarity, usize, &str)> = self.items.iter().map(near).collect();
        found.sort_by(|a, b| b.0.get().total_cmp(&a.0.get()));
        let (score, item, best) = found[0];
        let other = found.iter().find(|(_, _, other)| *other != best);
        RecordedSearch {
            probe: row.to_string(),
            label: label.to_owned(),
            truth,
            found: Some(RecordedMatch {
                item: item.to_string(),
                label: best.to_owned(),
                score,
                adjusted: None,
                other: other.map(|(score, ..)| *score),
            }),
            conditions: BTreeMap::new(),
        }
    }

    fn compared<'b>(&'b self, search: &'b RecordedSearch) -> ComparedPair<'b> {
        let found = search.found.as_ref().unwrap();
        let row = |id: &str| &self.set.vectors[id.parse::<usize>().unwrap()][..];
        ComparedPair {
            score: found.score,
            probe: row(&search.probe),
            item: row(&found.item),
            other: found.other,
            label: Some(&found.label),
            left_out: None,
        }
    }

    fn cohort(&self) -> Cohort {
        let ids: Vec<String> = self.items.iter().map(|(row, _)| row.to_string()).collect();
        let items = ids.iter().zip(&self.items);
        let items =
            items.map(|(id, (row, label))| (id.as_str(), *label, &self.set.vectors[*row][..]));
        Cohort::sampled(items, self.seed).unwrap()
    }

    fn adjuster(&self, remedy: Remedy) -> Option<Adjuster> {
        if remedy == Remedy::Margin {
            return Some(Adjuster::margin(MarginFactor::DEFAULT));
        }
        let cohort = self.cohort();
        let how = remedy.normalisation(cohort.members())?;
        let adjuster = Adjuster::normalising(how, cohort).unwrap();
        Some(if remedy.takes_margin() {
            adjuster.with_margin(MarginFactor::DEFAULT)
        } else {
            adjuster
        })
    }

    fn adjusted(&self, remedy: Remedy, searches: &[RecordedSearch]) -> Vec<RecordedSearch> {
        let adjuster = self.adjuster(remedy);
        let mut searches = searches.to_vec();
        for search in &mut searches {
            let held = adjuster
                .as_ref()
                .and_then(|by| by.decision_score(&self.compared(search)).unwrap());
            search.found.as_mut().unwrap().adjusted = held;
        }
        searches
    }

    /// The threshold that the searches of the calibration certify, and what it does to those that judge.
    fn judged(&self, scored: &ScoredSearches, target: TargetFar) -> Judged {
        let probes = scored.recording.trials().one_probe_per_label(self.seed);
        let threshold = certify(&probes, target).ok()?.threshold;
        Some(rates(
            &self.adjusted(scored.remedy, &self.judging),
            threshold,
        ))
    }

    fn outcome(&self, target: TargetFar) -> SplitOutcome {
        let scored = Remedy::MEASURED.map(|remedy| ScoredSearches {
            remedy,
            recording: Recording::new(self.adjusted(remedy, &self.calibrating)).unwrap(),
        });
        // As a deployment does it.
        let settings = ThresholdSettings {
            target: CalibrationTarget::Far(target),
            seed: self.seed,
            grow_to_items: None,
            assured: Assured::default(),
            worst_group_of: None,
            review: None,
        };
        let best = BestScore::of(&scored, settings.target, &settings).ok();
        let taken = best.as_ref().map(|best| scored[best.place].remedy);
        let measured = best.zip(taken).map(|(best, remedy)| {
            let threshold = best.chosen.choice.threshold;
            rates(&self.adjusted(remedy, &self.judging), threshold)
        });
        SplitOutcome {
            all_labels: scored.each_ref().map(|scored| self.judged(scored, target)),
            measured,
            taken,
        }
    }
}

/// FRR and FAR, each label counting once.
fn rates(searches: &[RecordedSearch], threshold: Threshold) -> [f64; 2] {
    let share = |mated: bool| {
        let mut of_label: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for search in searches {
            let found = search.found.as_ref().unwrap();
            let accepted = threshold.decide(Some(found.decision_score())) == Decision::Accept;
            let error = if mated {
                !accepted || found.label != search.label
            } else {
                accepted
            };
            if mated == (search.truth == TrialKind::Mated) {
                of_label.entry(&search.label).or_default().push(error);
            }
        }
        let of = |errors: &Vec<bool>| {
            errors.iter().filter(|error| **error).count() as f64 / errors.len() as f64
        };
        of_label.values().map(of).sum::<f64>() / of_label.len() as f64
    };
    [share(true), share(false)]
}
