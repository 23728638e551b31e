//! The table of docs/believability.md: what a promise is worth once something has changed, and who notices.
//!
//! `cargo bench -p matchpoint-calibration --bench believability -- VECTORS.npy LABELS.csv CONDITION [KIND=VALUE]`.
//! A row of the labels belongs to each vector; pictures of the roles `gallery` and `unused` are enrolled, those of the
//! others search. What `matchpoint embed` measured of the pictures is read from VECTORS.csv, if that exists: alarms are
//! counted by vectors alone, and with it. CONDITION is the column of capture conditions; KIND=VALUE names the labels that are tested, and all others
//! are of other kinds. Draws are seeded: the figures are the same on every machine.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a program that prints a table"
)]

mod draw;
mod labelled_set;
#[path = "../labelled_table/mod.rs"]
mod labelled_table;
mod noticed;

use std::collections::BTreeMap;
use std::path::Path;

use matchpoint_calibration::rates::{Confidence, Interval};
use rayon::prelude::*;

use draw::{CountedOnce, Draw, Outcome, Reviewed};
use labelled_set::LabelledSet;

const DRAWS: usize = 100;
/// Searches of traffic, half of them mated, after a change.
const SEARCHES: u64 = 1000;
const FAR: f64 = 0.05;
const CONFIDENCE: f64 = 0.9;
const DELTA: f64 = 0.05;
/// The shares of mated searches that a review band is asked to keep.
const UNSEEN: [f64; 2] = [0.35, 0.2];
/// Labels of sampled decisions after a change.
const LABELS: u64 = 400;
const LARGER: &str = "the gallery larger, by all labels that are left";

fn main() {
    let arguments = labelled_table::arguments();
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
        "| what changed | exceeded in | realised FAR | certified today | alarm within {SEARCHES} searches: vectors alone, with pictures | half of the latter by | named most often |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for ((_, name), outcomes) in &rows {
        println!("| {name} {}", row(outcomes));
    }
    notices(&rows);
    kinds(&rows);
    reviews(&set);
    repeats(&set);
}

/// The table of who notices: false alarms in splits that keep the target, and who notices in those that exceed it.
fn notices(rows: &BTreeMap<(usize, String), Vec<Outcome>>) {
    println!(
        "\n| what changed | target kept: left-out searches warn, the audit alarms | exceeded | of these: no longer certified | named by the stress report | left-out searches warn | traffic alarms within {SEARCHES} searches: vectors alone, with pictures | the audit alarms within {LABELS} labels, half of them by | none of these | exceeded by half or more, none of these |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((_, name), outcomes) in rows {
        let (broken, kept): (Vec<&Outcome>, Vec<&Outcome>) =
            outcomes.iter().partition(|outcome| FAR < outcome.far);
        let of = |is_it: &dyn Fn(&Outcome) -> bool| {
            if broken.is_empty() {
                return "-".to_owned();
            }
            broken.iter().filter(|one| is_it(one)).count().to_string()
        };
        let unnoticed = |one: &Outcome| {
            one.certified
                && !one.noticed.stress_beforehand
                && !one.noticed.left_out
                && one.alarms[1].at.is_none()
                && one.noticed.audit.is_none()
        };
        let far_above = |one: &Outcome| 1.5 * FAR < one.far;
        let mut labels: Vec<u64> = broken.iter().filter_map(|one| one.noticed.audit).collect();
        labels.sort_unstable();
        println!(
            "| {name} | {}, {} of {} | {} | {} | {} | {} | {}, {} | {}, {} | {} | {}, {} |",
            kept.iter().filter(|one| one.noticed.left_out).count(),
            kept.iter()
                .filter(|one| one.noticed.audit.is_some())
                .count(),
            kept.len(),
            broken.len(),
            of(&|one| !one.certified),
            of(&|one| one.noticed.stress),
            of(&|one| one.noticed.left_out),
            of(&|one| one.alarms[0].at.is_some()),
            of(&|one| one.alarms[1].at.is_some()),
            of(&|one| one.noticed.audit.is_some()),
            labels
                .get(labels.len() / 2)
                .map_or("-".to_owned(), u64::to_string),
            of(&unnoticed),
            of(&far_above),
            of(&|one| far_above(one) && unnoticed(one)),
        );
    }
}

/// How often the stress report would mark the other kinds if they were among the strangers of the calibration: by a column, and
/// without one by the groups that strangers form. And how often it does so where the target is kept.
fn kinds(rows: &BTreeMap<(usize, String), Vec<Outcome>>) {
    let found = |outcomes: &&Vec<Outcome>| outcomes.iter().any(|one| one.noticed.cluster.is_some());
    let Some(outcomes) = rows.values().find(found) else {
        return;
    };
    println!(
        "\n| other kinds | splits | marked by their column | the worst group is marked | and all it names are of these kinds |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let (broken, kept): (Vec<&Outcome>, Vec<&Outcome>) =
        outcomes.iter().partition(|outcome| FAR < outcome.far);
    for (name, splits) in [("target exceeded", broken), ("target kept", kept)] {
        let of = |is_it: &dyn Fn(&Outcome) -> bool| splits.iter().filter(|one| is_it(one)).count();
        let marked = |one: &Outcome| one.noticed.cluster.is_some_and(|mark| mark.marked);
        let telling = |one: &Outcome| {
            one.noticed
                .cluster
                .is_some_and(|mark| mark.marked && mark.telling)
        };
        println!(
            "| {name} | {} | {} | {} | {} |",
            splits.len(),
            of(&|one| one.noticed.stress),
            of(&marked),
            of(&telling)
        );
    }
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
    let raised = outcomes.iter().map(|outcome| &outcome.alarms[1]);
    let raised: Vec<(u64, &str)> = raised
        .filter_map(|alarm| Some((alarm.at?, alarm.named.as_str())))
        .collect();
    let mut alarms: Vec<u64> = raised.iter().map(|(at, _)| *at).collect();
    alarms.sort_unstable();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, named) in raised {
        *names.entry(named).or_default() += 1;
    }
    let named = names.into_iter().max_by_key(|(_, count)| *count);
    format!(
        "| {} | {mean:.3} [{:.3}, {:.3}] | {} | {}, {} | {} | {} |",
        share(outcomes, &|outcome| FAR < outcome.far),
        at(5),
        at(95),
        share(outcomes, &|outcome| outcome.certified),
        share(outcomes, &|outcome| outcome.alarms[0].at.is_some()),
        share(outcomes, &|outcome| outcome.alarms[1].at.is_some()),
        alarms
            .get(alarms.len() / 2)
            .map_or("-".to_owned(), u64::to_string),
        named.map_or("-", |(name, _)| name),
    )
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
