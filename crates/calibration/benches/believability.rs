//! The table of docs/believability.md: what a promise is worth once something has changed, and who notices.
//!
//! `cargo bench -p matchpoint-calibration --bench believability -- VECTORS.npy LABELS.csv CONDITION [KIND=VALUE]`.
//! A row of the labels belongs to each vector; pictures of the roles `gallery` and `unused` are enrolled, those of the
//! others search. CONDITION is the column of capture conditions; KIND=VALUE names the labels that are tested, and all others
//! are of other kinds. Draws are seeded: the figures are the same on every machine.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a program that prints a table"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use matchpoint_arrays::{BYTES_MAX, LabelTable, ReadOptions, Role};
use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::strangers::StrangerRow;
use matchpoint_calibration::certify::{
    Certificate, TargetFar, certify, certify_either_way, certify_scores,
};
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::growth::{Growth, ahead_of_growth};
use matchpoint_calibration::monitoring::traffic::{
    SearchFacts, SearchSigns, TrafficQuery, TrafficReference, TrafficWatch,
};
use matchpoint_calibration::rates::{Confidence, Interval};
use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};
use matchpoint_calibration::review::ReviewBand;
use matchpoint_calibration::trials::{MatedSearch, Top, Trials};
use matchpoint_vector::{Embedding, Similarity};
use rayon::prelude::*;

const DRAWS: usize = 100;
/// Searches of traffic, half of them mated, after a change.
const SEARCHES: u64 = 1000;
const FAR: f64 = 0.05;
const CONFIDENCE: f64 = 0.9;
const DELTA: f64 = 0.05;
/// The shares of mated searches that a review band is asked to keep.
const UNSEEN: [f64; 2] = [0.35, 0.2];
const LARGER: &str = "the gallery larger, by all labels that are left";

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|one| one != "--bench")
        .collect();
    let [vectors, labels, condition, rest @ ..] = &arguments[..] else {
        println!("give VECTORS.npy LABELS.csv CONDITION [KIND=VALUE]; see the head of this file");
        return;
    };
    let kind = rest.first().and_then(|kind| kind.split_once('='));
    let set = LabelledSet::read(Path::new(vectors), Path::new(labels), condition, kind);
    let mut rows: BTreeMap<(usize, String), Vec<Outcome>> = BTreeMap::new();
    let first = Draw::of(&set, 0);
    let larger = [&first.enrolled[..], &first.pool].concat();
    let times = set.items_of(&larger) as f64 / set.items_of(&first.enrolled) as f64;
    let draws: Vec<Vec<(String, Outcome)>> = (0..DRAWS)
        .into_par_iter()
        .map(|draw| Draw::of(&set, draw as u64).outcomes())
        .collect();
    for (number, (name, outcome)) in draws
        .into_iter()
        .flat_map(|draw| draw.into_iter().enumerate())
    {
        rows.entry((number, name)).or_default().push(outcome);
    }
    println!(
        "{} labels, {} queries, {} of the tested kinds; target FAR {FAR} at {CONFIDENCE}; {DRAWS} draws; the larger gallery has {times:.1} times the items\n",
        set.names.len(),
        set.queries.len(),
        set.tested.iter().filter(|tested| **tested).count()
    );
    println!(
        "| what changed | exceeded in | realised FAR | certified today | alarm within {SEARCHES} searches | half of them by | named most often |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for ((_, name), outcomes) in rows {
        println!("| {name} {}", row(&outcomes));
    }
    reviews(&set);
    repeats(&set);
}

/// The table of review bands: what becomes of searches, and how often either promise was broken.
fn reviews(set: &LabelledSet) {
    println!(
        "\n| FRR without a review | certified in | FAR exceeded in | FRR without a review exceeded in | mated: accepted, reviewed, missed | strangers: accepted, reviewed, rejected |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for unseen in UNSEEN {
        let draws = (0..DRAWS).into_par_iter();
        let found: Vec<Reviewed> = draws
            .filter_map(|draw| Draw::of(set, draw as u64).reviewed(unseen))
            .collect();
        if found.is_empty() {
            println!("| {unseen} | 0 | - | - | - | - |");
            continue;
        }
        let mean = |shares: &dyn Fn(&Reviewed) -> [f64; 3]| {
            let sum = |part: usize| found.iter().map(|one| shares(one)[part]).sum::<f64>();
            let mean = [0, 1, 2].map(|part| format!("{:.2}", sum(part) / found.len() as f64));
            mean.join(", ")
        };
        println!(
            "| {unseen} | {} | {} | {} | {} | {} |",
            found.len(),
            share(&found, &|one| FAR < one.strangers[0]),
            share(&found, &|one| unseen < one.mated[2]),
            mean(&|one| one.mated),
            mean(&|one| one.strangers),
        );
    }
}

fn share<T>(outcomes: &[T], is_it: &dyn Fn(&T) -> bool) -> String {
    let events = outcomes.iter().filter(|outcome| is_it(outcome)).count();
    let trials = outcomes.len() as f64;
    let found = Interval::wilson(events as f64 / trials, trials, Confidence::DISPLAY);
    format!(
        "{:.0} % [{:.0}, {:.0}]",
        100.0 * events as f64 / trials,
        100.0 * found.lower,
        100.0 * found.upper
    )
}

fn row(outcomes: &[Outcome]) -> String {
    let mut fars: Vec<f64> = outcomes.iter().map(|outcome| outcome.far).collect();
    fars.sort_by(f64::total_cmp);
    let at = |percent: usize| fars[(fars.len() - 1) * percent / 100];
    let mean = fars.iter().sum::<f64>() / fars.len() as f64;
    let mut alarms: Vec<u64> = outcomes
        .iter()
        .filter_map(|outcome| outcome.alarm)
        .collect();
    alarms.sort_unstable();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.alarm.is_some()) {
        *names.entry(&outcome.named).or_default() += 1;
    }
    let named = names.into_iter().max_by_key(|(_, count)| *count);
    format!(
        "| {} | {mean:.3} [{:.3}, {:.3}] | {} | {} | {} | {} |",
        share(outcomes, &|outcome| FAR < outcome.far),
        at(5),
        at(95),
        share(outcomes, &|outcome| outcome.certified),
        share(outcomes, &|outcome| outcome.alarm.is_some()),
        alarms
            .get(alarms.len() / 2)
            .map_or("-".to_owned(), u64::to_string),
        named.map_or("-", |(name, _)| name),
    )
}

/// Labels with their queries, and how near each query is to each label's enrolled pictures.
struct LabelledSet {
    names: Vec<String>,
    tested: Vec<bool>,
    items: Vec<u64>,
    of_label: Vec<Vec<usize>>,
    queries: Vec<SetQuery>,
    /// By query and label.
    nearest: Vec<Vec<f32>>,
    conditions: BTreeSet<String>,
}

struct SetQuery {
    vector: Arc<[f32]>,
    condition: String,
}

impl LabelledSet {
    fn read(vectors: &Path, labels: &Path, condition: &str, kind: Option<(&str, &str)>) -> Self {
        let options = ReadOptions {
            name: None,
            text: None,
            bytes_max: BYTES_MAX,
        };
        let table = matchpoint_arrays::read(vectors, &options).unwrap();
        let known = LabelTable::read(labels, table.rows()).unwrap();
        let roles = known.role.as_ref().unwrap();
        let names: BTreeSet<&String> = known.label.iter().collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let rows: Vec<Arc<[f32]>> = table
            .vectors
            .chunks_exact(table.dimension)
            .map(|row| Arc::from(Embedding::normalise(row.to_vec()).unwrap().as_slice()))
            .collect();
        let mut set = Self {
            tested: vec![true; names.len()],
            items: vec![0; names.len()],
            of_label: vec![Vec::new(); names.len()],
            queries: Vec::new(),
            nearest: Vec::new(),
            conditions: BTreeSet::new(),
            names,
        };
        let mut gallery: Vec<(usize, Arc<[f32]>)> = Vec::new();
        for (row, vector) in rows.into_iter().enumerate() {
            let label = set.names.binary_search(&known.label[row]).unwrap();
            if let Some((column, value)) = kind {
                set.tested[label] = known.metadata[column][row] == value;
            }
            match roles[row] {
                Role::Gallery | Role::Unused => {
                    set.items[label] += 1;
                    gallery.push((label, vector));
                }
                Role::Query | Role::Unknown => {
                    set.of_label[label].push(set.queries.len());
                    let condition = known.metadata[condition][row].clone();
                    set.conditions.insert(condition.clone());
                    set.queries.push(SetQuery { vector, condition });
                }
            }
        }
        let nearest = |query: &SetQuery| {
            let mut nearest = vec![-1.0_f32; set.names.len()];
            for (label, item) in &gallery {
                let score = Similarity::between(&query.vector, item).unwrap().get();
                if nearest[*label] < score {
                    nearest[*label] = score;
                }
            }
            nearest
        };
        set.nearest = set.queries.par_iter().map(nearest).collect();
        set
    }

    /// The best score of a query in a gallery of these labels.
    fn best(&self, query: usize, gallery: &[usize]) -> Similarity {
        let scores = gallery.iter().map(|label| self.nearest[query][*label]);
        Similarity::new(scores.fold(-1.0, |best, score| if best < score { score } else { best }))
            .unwrap()
    }

    fn items_of(&self, labels: &[usize]) -> u64 {
        labels.iter().map(|label| self.items[*label]).sum()
    }

    fn of(&self, label: usize, condition: Option<&str>) -> Vec<usize> {
        let queries = self.of_label[label].iter().copied();
        let taken =
            |query: &usize| condition.is_none_or(|only| self.queries[*query].condition == only);
        queries.filter(taken).collect()
    }
}

/// A stream of splitmix64.
struct SeededDraws(u64);

impl SeededDraws {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((bits ^ (bits >> 31)) % count.max(1) as u64).unwrap()
    }

    fn shuffle(&mut self, labels: &mut [usize]) {
        for last in (1..labels.len()).rev() {
            labels.swap(last, self.below(last + 1));
        }
    }
}

/// What one change came to.
struct Outcome {
    far: f64,
    certified: bool,
    alarm: Option<u64>,
    named: String,
}

/// What became of searches with a review band, as shares of each label's queries, each label counting once.
struct Reviewed {
    /// Accepted with their label, seen by a person, rejected unseen or accepted with another label.
    mated: [f64; 3],
    /// Accepted, seen by a person, rejected unseen.
    strangers: [f64; 3],
}

/// One split of the labels: a calibration, and what is left to be traffic.
struct Draw<'a> {
    set: &'a LabelledSet,
    draws: SeededDraws,
    /// Enrolled: the first half is searched for at calibration, the second in traffic.
    enrolled: Vec<usize>,
    /// All strangers that there are, which those of the calibration are drawn from, and whose FAR is the true one.
    population: Vec<usize>,
    /// Those of the calibration; a label that was drawn twice is there twice.
    strangers: Vec<usize>,
    /// What can be enrolled later, of any kind.
    pool: Vec<usize>,
    /// Strangers of other kinds.
    others: Vec<usize>,
    reference: TrafficReference,
}

/// What traffic is after a change.
struct Changed<'a> {
    gallery: Vec<usize>,
    mated: Vec<usize>,
    strangers: Vec<usize>,
    condition: Option<&'a str>,
    /// Whether callers say it.
    said: bool,
}

impl<'a> Draw<'a> {
    fn of(set: &'a LabelledSet, seed: u64) -> Self {
        let mut draws = SeededDraws(seed);
        let all = 0..set.names.len();
        let searched =
            all.filter(|label| !set.of_label[*label].is_empty() && 0 < set.items[*label]);
        let (mut tested, mut others): (Vec<usize>, Vec<usize>) =
            searched.partition(|label| set.tested[*label]);
        draws.shuffle(&mut tested);
        draws.shuffle(&mut others);
        let part = |from: usize, to: usize| {
            tested[tested.len() * from / 100..tested.len() * to / 100].to_vec()
        };
        let half = others.len() / 2;
        let population = part(40, 85);
        let drawn = 200.min(2 * population.len() / 3);
        let strangers = (0..drawn).map(|_| population[draws.below(population.len())]);
        let strangers = strangers.collect();
        let mut draw = Self {
            set,
            draws,
            enrolled: part(0, 40),
            strangers,
            pool: [part(85, 100), others[..half].to_vec()].concat(),
            others: others[half..].to_vec(),
            population,
            reference: TrafficReference::of(&[], 0),
        };
        let searched = &draw.enrolled[..draw.enrolled.len() / 2];
        let mated = searched
            .iter()
            .flat_map(|label| draw.traffic_queries(*label, true));
        let strangers: BTreeSet<usize> = draw.strangers.iter().copied().collect();
        let strangers = strangers
            .iter()
            .flat_map(|label| draw.traffic_queries(*label, false));
        let queries: Vec<TrafficQuery> = mated.chain(strangers).collect();
        draw.reference = TrafficReference::of(&queries, seed);
        draw
    }

    fn traffic_queries(&self, label: usize, mated: bool) -> Vec<TrafficQuery> {
        let query = |number: &usize| TrafficQuery {
            id: number.to_string(),
            label: self.set.names[label].clone(),
            mated,
            conditions: BTreeMap::from([(
                "condition".to_owned(),
                self.set.queries[*number].condition.clone(),
            )]),
            vector: Arc::clone(&self.set.queries[*number].vector),
            picture: None,
            feature_length: None,
        };
        self.set.of_label[label].iter().map(query).collect()
    }

    /// A certificate on one query of each of these labels.
    fn certificate(&mut self, labels: &[usize], target: TargetFar) -> Option<Certificate> {
        let set = self.set;
        let mut one = |label: &usize| {
            let of_it = &set.of_label[*label];
            set.best(of_it[self.draws.below(of_it.len())], &self.enrolled)
        };
        let scores = labels.iter().map(&mut one).collect();
        certify_scores(scores, labels.len() as u64, target).ok()
    }

    /// The share of strangers' searches that are accepted, each label counting once.
    fn far(&self, certificate: &Certificate, changed: &Changed<'_>) -> f64 {
        let of_label = |label: &usize| {
            let queries = self.set.of(*label, changed.condition);
            let best = |query: &usize| {
                certificate.threshold.get() <= self.set.best(*query, &changed.gallery).get()
            };
            let accepted = queries.iter().filter(|query| best(query)).count();
            (!queries.is_empty()).then(|| accepted as f64 / queries.len() as f64)
        };
        let shares: Vec<f64> = changed.strangers.iter().filter_map(of_label).collect();
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }

    /// When searches raise the alarm, and what it names. Labels of the calibration do not come again.
    fn alarm(&mut self, changed: &Changed<'_>) -> (Option<u64>, String) {
        let set = self.set;
        let known: BTreeSet<usize> = self.strangers.iter().copied().collect();
        let mut strangers = changed.strangers.clone();
        strangers.retain(|label| !known.contains(label));
        let mut signs: BTreeMap<usize, SearchSigns> = BTreeMap::new();
        let mut watch = TrafficWatch::new(&self.reference, DELTA, 0);
        while watch.state().compared < SEARCHES {
            let labels = if self.draws.below(2) == 0 {
                &changed.mated
            } else {
                &strangers
            };
            let queries = set.of(labels[self.draws.below(labels.len())], changed.condition);
            if queries.is_empty() {
                continue;
            }
            let query = queries[self.draws.below(queries.len())];
            let signs = *signs.entry(query).or_insert_with(|| {
                let said = ("condition".to_owned(), set.queries[query].condition.clone());
                let conditions: BTreeMap<String, String> =
                    changed.said.then_some(said).into_iter().collect();
                self.reference.signs(&SearchFacts {
                    vector: &set.queries[query].vector,
                    picture: None,
                    feature_length: None,
                    conditions: &conditions,
                })
            });
            watch.observe(signs, false);
        }
        let found = watch.assessment();
        let named = found.named().first().map(|share| share.name.clone());
        (found.alarm_at, named.unwrap_or_default())
    }

    fn outcome(&mut self, certificate: &Certificate, changed: &Changed<'_>) -> Outcome {
        let before: BTreeSet<usize> = self.enrolled.iter().copied().collect();
        let kept: Vec<usize> = changed
            .gallery
            .iter()
            .copied()
            .filter(|label| before.contains(label))
            .collect();
        let coverage = Coverage {
            calibrated: self.set.items_of(&self.enrolled),
            kept: self.set.items_of(&kept),
            items: self.set.items_of(&changed.gallery),
        };
        let (alarm, named) = self.alarm(changed);
        Outcome {
            far: self.far(certificate, changed),
            certified: coverage.far_bound(certificate.far_bound).unwrap() <= FAR,
            alarm,
            named,
        }
    }

    /// Labels of the pool, those nearest to the strangers of traffic first.
    fn look_alikes(&self) -> Vec<usize> {
        let queries: Vec<usize> = self
            .population
            .iter()
            .flat_map(|label| self.set.of(*label, None))
            .collect();
        let near = |label: usize| {
            let scores = queries
                .iter()
                .map(|query| f64::from(self.set.nearest[*query][label]));
            scores.fold(-1.0, f64::max)
        };
        let mut labels: Vec<(f64, usize)> = self
            .pool
            .iter()
            .map(|label| (near(*label), *label))
            .collect();
        labels.sort_by(|a, b| b.0.total_cmp(&a.0));
        labels.into_iter().map(|(_, label)| label).collect()
    }

    fn outcomes(&mut self) -> Vec<(String, Outcome)> {
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let strangers = self.strangers.clone();
        let Some(certificate) = self.certificate(&strangers, target) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, changed) in self.cases() {
            let outcome = self.outcome(&certificate, &changed);
            found.push((name, outcome));
        }
        if let Some(outcome) = self.grown(target) {
            let name = "growth by look-alikes, as much as was allowed for";
            found.push((name.to_owned(), outcome));
        }
        if let Some(outcome) = self.repeated(target) {
            let name = "20 strangers, each picture a label of its own";
            found.push((name.to_owned(), outcome));
        }
        found
    }

    /// A review band from as many mated labels as half of those enrolled, drawn from all of them, whose rate is the
    /// true one.
    fn reviewed(&mut self, unseen: f64) -> Option<Reviewed> {
        let (set, strangers) = (self.set, self.strangers.clone());
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let accept = self.certificate(&strangers, target)?.threshold;
        let mut search = |number: usize| {
            let label = self.enrolled[self.draws.below(self.enrolled.len())];
            let queries = &set.of_label[label];
            let query = queries[self.draws.below(queries.len())];
            let name = format!("label {number}");
            MatedSearch {
                label: name.clone(),
                probe: name,
                top: Some(Top {
                    score: set.best(query, &self.enrolled),
                    label_matches: set.best(query, &self.enrolled).get()
                        <= set.nearest[query][label],
                }),
            }
        };
        let mated = (0..self.enrolled.len() / 2).map(&mut search).collect();
        let trials = Trials::new(mated, Vec::new()).unwrap();
        let unseen = TargetFrr::new(unseen, CONFIDENCE).unwrap();
        let band = ReviewBand::certified(&trials, accept, unseen, 0).ok()?;
        let shares = |labels: &[usize], mated: bool| {
            let mut sums = [0.0; 3];
            for label in labels {
                for query in &set.of_label[*label] {
                    let best = set.best(*query, &self.enrolled);
                    let wrong = mated && set.nearest[*query][*label] < best.get();
                    let decision = accept.decide(Some(best));
                    let outcome = match decision {
                        Decision::Accept if wrong => 2,
                        Decision::Accept => 0,
                        _ if band.holds(decision, Some(best)) => 1,
                        Decision::Reject | Decision::Undecided => 2,
                    };
                    sums[outcome] += 1.0 / set.of_label[*label].len() as f64;
                }
            }
            sums.map(|sum| sum / labels.len() as f64)
        };
        Some(Reviewed {
            mated: shares(&self.enrolled, true),
            strangers: shares(&self.population, false),
        })
    }

    fn unchanged(&self) -> Changed<'a> {
        Changed {
            gallery: self.enrolled.clone(),
            mated: self.enrolled[self.enrolled.len() / 2..].to_vec(),
            strangers: self.population.clone(),
            condition: None,
            said: false,
        }
    }

    fn cases(&self) -> Vec<(String, Changed<'a>)> {
        let (set, enrolled) = (self.set, &self.enrolled);
        let as_many = enrolled.len().min(self.pool.len());
        let of = |gallery: &[usize]| Changed {
            gallery: gallery.to_vec(),
            mated: gallery.to_vec(),
            ..self.unchanged()
        };
        let larger = [&enrolled[..], &self.pool].concat();
        let mut hardest = self.population.clone();
        hardest.sort_by_key(|label| {
            let queries = set.of(*label, None);
            let best = queries.iter().map(|query| set.best(*query, enrolled));
            std::cmp::Reverse(best.max())
        });
        hardest.truncate(self.population.len().div_ceil(10));
        let strangers = |strangers: Vec<usize>| Changed {
            strangers,
            ..self.unchanged()
        };
        let mut cases = vec![
            ("nothing".to_owned(), self.unchanged()),
            (
                "the gallery's items exchanged for others".to_owned(),
                of(&self.pool[..as_many]),
            ),
            (
                "the gallery's items exchanged for look-alikes of strangers".to_owned(),
                of(&self.look_alikes()[..as_many]),
            ),
            (LARGER.to_owned(), of(&larger)),
            (
                "strangers: the tenth that is nearest to the gallery".to_owned(),
                strangers(hardest),
            ),
        ];
        if !self.others.is_empty() {
            let name = "strangers of other kinds".to_owned();
            cases.push((name, strangers(self.others.clone())));
        }
        for condition in &set.conditions {
            for said in [false, true] {
                let changed = Changed {
                    condition: Some(condition),
                    said,
                    ..self.unchanged()
                };
                let by_callers = if said { ", and callers say so" } else { "" };
                cases.push((
                    format!("only the condition {condition}{by_callers}"),
                    changed,
                ));
            }
        }
        cases
    }

    /// Twice the items were allowed for, and those that came are nearest to the strangers of traffic.
    fn grown(&mut self, target: TargetFar) -> Option<Outcome> {
        let (set, strangers) = (self.set, self.strangers.clone());
        let now = set.items_of(&self.enrolled);
        let growth = Growth {
            items_now: now,
            items_later: 2 * now,
        };
        let ahead = ahead_of_growth(target, growth).unwrap();
        let certificate = self.certificate(&strangers, ahead)?;
        let mut changed = self.unchanged();
        for label in self.look_alikes() {
            if set.items_of(&changed.gallery) + set.items[label] <= 2 * now {
                changed.gallery.push(label);
            }
        }
        Some(self.outcome(&certificate, &changed))
    }

    /// As if each picture of 20 strangers was one more.
    fn repeated(&mut self, target: TargetFar) -> Option<Outcome> {
        let labels = self.labels_of_pictures(20);
        let certificate = self.taken(&labels, target).1[1]?;
        let changed = self.unchanged();
        let (alarm, named) = self.alarm(&changed);
        Some(Outcome {
            far: self.far(&certificate, &changed),
            certified: true,
            alarm,
            named,
        })
    }

    /// A label for each picture of so many strangers.
    fn labels_of_pictures(&self, strangers: usize) -> Vec<Vec<usize>> {
        let strangers = self.distinct().into_iter().take(strangers);
        let pictures = strangers.flat_map(|label| self.set.of(label, None));
        pictures.map(|picture| vec![picture]).collect()
    }

    /// The strangers of the calibration, none twice.
    fn distinct(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let strangers = self.strangers.iter().copied();
        strangers.filter(|label| seen.insert(*label)).collect()
    }

    /// How many of these labels, each with its pictures, may be others; what is certified if each is a stranger of
    /// its own, and what the product certifies.
    fn taken(&self, labels: &[Vec<usize>], target: TargetFar) -> (usize, [Option<Certificate>; 2]) {
        let set = self.set;
        let (mut searches, mut vectors) = (Vec::new(), Vec::new());
        for (number, pictures) in labels.iter().enumerate() {
            for picture in pictures {
                vectors.push(&set.queries[*picture].vector);
                searches.push(RecordedSearch {
                    probe: format!("{number} {picture}"),
                    label: format!("label {number}"),
                    truth: TrialKind::NeverEnrolled,
                    found: Some(RecordedMatch {
                        item: "item".to_owned(),
                        label: "enrolled".to_owned(),
                        score: set.best(*picture, &self.enrolled),
                        adjusted: None,
                        other: None,
                    }),
                    conditions: BTreeMap::new(),
                });
            }
        }
        let rows: Vec<StrangerRow<'_>> = searches
            .iter()
            .zip(vectors)
            .map(|(search, vector)| StrangerRow {
                label: &search.label,
                vector,
            })
            .collect();
        let items = usize::try_from(set.items_of(&self.enrolled)).unwrap();
        let found = CrowdedStrangers::find(&rows, &searches, items, &|_, _| true).unwrap();
        let repeats = found.map_or_else(BTreeMap::new, |found| found.repeats());
        let lost = repeats.len();
        let recording = Recording::new(searches).unwrap().with_repeats(repeats);
        let trials = recording.trials();
        let apart = certify(&trials.one_probe_per_label(0), target).ok();
        (lost, [apart, certify_either_way(trials, 0, target).ok()])
    }

    /// The share of mated searches that are rejected, or accepted with another label; each label counts once.
    fn frr(&self, certificate: &Certificate) -> f64 {
        let set = self.set;
        let missed = |label: &usize| {
            let missed = set.of_label[*label].iter().filter(|query| {
                let best = set.best(**query, &self.enrolled).get();
                best < certificate.threshold.get() || set.nearest[**query][*label] < best
            });
            missed.count() as f64 / set.of_label[*label].len() as f64
        };
        self.enrolled.iter().map(missed).sum::<f64>() / self.enrolled.len() as f64
    }

    /// What labels that may be one stranger come to, as they are taken and each by itself.
    fn counted(&self, labels: &[Vec<usize>]) -> CountedOnce {
        let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
        let (lost, [apart, either_way]) = self.taken(labels, target);
        let rates = |certificate: Certificate| {
            let far = self.far(&certificate, &self.unchanged());
            [far, self.frr(&certificate)]
        };
        CountedOnce {
            labels: labels.len(),
            lost,
            either_way: either_way.map(rates),
            apart: apart.map(rates),
        }
    }
}

/// What came of labels some of which may be one stranger.
struct CountedOnce {
    labels: usize,
    lost: usize,
    /// FAR and FRR; `None` if refused.
    either_way: Option<[f64; 2]>,
    /// The same with each label a stranger of its own.
    apart: Option<[f64; 2]>,
}

/// The table of labels that may be one stranger: what it costs to count with that, and what it is worth.
fn repeats(set: &LabelledSet) {
    type Labels<'a> = &'a (dyn Fn(&Draw<'_>) -> Vec<Vec<usize>> + Sync);
    println!(
        "\n| labels of the calibration | labels, linked | refused: each a stranger, either way | FAR exceeded: each a stranger, either way | FRR: each a stranger, either way |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let named = |draw: &Draw<'_>, strangers: &[usize]| -> Vec<Vec<usize>> {
        let pictures = |label: &usize| draw.set.of(*label, None);
        strangers.iter().map(pictures).collect()
    };
    let cases: [(&str, Labels<'_>); 3] = [
        ("different strangers, 200 at the most", &|draw| {
            named(draw, &draw.population[..draw.population.len().min(200)])
        }),
        ("20 strangers, each picture a label of its own", &|draw| {
            draw.labels_of_pictures(20)
        }),
        ("10 such strangers, and 40 as they are", &|draw| {
            let others = draw.distinct();
            let others = named(draw, &others[10..others.len().min(50)]);
            [draw.labels_of_pictures(10), others].concat()
        }),
    ];
    for (name, labels) in cases {
        let draws = (0..DRAWS).into_par_iter().map(|number| {
            let draw = Draw::of(set, number as u64);
            draw.counted(&labels(&draw))
        });
        let found: Vec<CountedOnce> = draws.collect();
        let mean = |of: &dyn Fn(&CountedOnce) -> usize| {
            let sum: usize = found.iter().map(of).sum();
            format!("{:.1}", sum as f64 / found.len() as f64)
        };
        // Of draws that either way certifies: the others have no FRR to compare.
        let both: Vec<[f64; 2]> = found
            .iter()
            .filter_map(|one| Some([one.apart?[1], one.either_way?[1]]))
            .collect();
        let frr = |place: usize| {
            both.iter().map(|one| one[place]).sum::<f64>() / both.len().max(1) as f64
        };
        println!(
            "| {name} | {}, {} | {}, {} | {}, {} | {:.3}, {:.3} |",
            mean(&|one| one.labels),
            mean(&|one| one.lost),
            share(&found, &|one| one.apart.is_none()),
            share(&found, &|one| one.either_way.is_none()),
            share(&found, &|one| one.apart.is_some_and(|rates| FAR < rates[0])),
            share(&found, &|one| one
                .either_way
                .is_some_and(|rates| FAR < rates[0])),
            frr(0),
            frr(1),
        );
    }
}
