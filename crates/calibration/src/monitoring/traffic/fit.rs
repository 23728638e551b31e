//! Chooses the features by which searches are compared, from a third of a calibration's labels, and counts
//! the other labels by them.
//!
//! The counted labels had no part in the choice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::calibrated::CountedLabels;
use super::reference::{CalibratedShare, SHARES_MAX};
use super::shares::{Beyond, FORMATS, PictureMeasure, SearchSigns, ShareRule};
use super::{PictureFacts, SearchFacts, TrafficReference};
use crate::seeded_hash::seeded_hash;
use crate::splitmix64;

/// One query of a calibration.
#[derive(Clone, Debug)]
pub struct TrafficQuery {
    /// Id of the query.
    pub id: String,
    /// The label that it shows.
    pub label: String,
    /// Whether its label is enrolled.
    pub mated: bool,
    /// Further facts by column, such as the camera.
    pub conditions: BTreeMap<String, String>,
    /// The embedding of the query.
    pub vector: Arc<[f32]>,
    /// Properties of its picture; `None` if the query came as a vector.
    pub picture: Option<PictureFacts>,
    /// The length of the feature vector before it was scaled to an embedding; `None` if the query came as a
    /// vector.
    pub feature_length: Option<f64>,
}

impl TrafficQuery {
    fn facts(&self) -> SearchFacts<'_> {
        SearchFacts {
            vector: &self.vector,
            picture: self.picture,
            feature_length: self.feature_length,
            conditions: &self.conditions,
        }
    }
}

/// One label in this many takes part in choosing the features; the others are counted.
const CHOOSING: u64 = 3;
/// At most this many queries of a label are counted; a hash decides which. More would say little more.
const COUNTED_MAX: usize = 8;
/// At most this many of the directions along which the choosing embeddings vary most.
const LEADING_MAX: usize = 6;
/// Number of random directions.
const DRAWN: usize = 2;
/// Steps of the power iteration.
const STEPS: usize = 12;
/// At most this many queries are used to find the directions.
const ROWS_MAX: usize = 600;
/// A measure of pictures gets edges beyond which these parts of the choosing queries lie; 0 means beyond all
/// of them.
const MEASURE_TAILS: [f64; 3] = [0.0, 0.1, 0.25];
/// The same for the position of embeddings along a direction.
const DIRECTION_TAILS: [f64; 2] = [0.1, 0.25];
/// At most this many columns of conditions are used, each with a number of values in `VALUES`.
const COLUMNS_MAX: usize = 4;
const VALUES: std::ops::RangeInclusive<usize> = 2..=8;
/// At most this many resemblances; each needs `ROWS_MIN` choosing queries with its condition and as many
/// without.
const RESEMBLANCES_MAX: usize = 12;
const ROWS_MIN: usize = 10;
/// The share of choosing queries that count as resembling a condition: the condition's own share, limited to
/// this range.
const RESEMBLING: [f64; 2] = [0.1, 0.5];

impl TrafficReference {
    /// Describes the queries of a calibration. Their order does not matter.
    #[must_use]
    pub fn of(queries: &[TrafficQuery], seed: u64) -> Self {
        let mut labels: BTreeMap<(bool, &str), Vec<&TrafficQuery>> = BTreeMap::new();
        for query in queries {
            let label = (query.mated, query.label.as_str());
            labels.entry(label).or_default().push(query);
        }
        let (mut choosing, mut counted) = (Vec::new(), Vec::new());
        for ((_, label), mut queries) in labels {
            if hash(seed, &[label]).is_multiple_of(CHOOSING) {
                queries.sort_by(|a, b| a.id.cmp(&b.id));
                choosing.extend(queries);
            } else {
                queries.sort_by_cached_key(|query| (hash(seed, &[label, &query.id]), &query.id));
                queries.truncate(COUNTED_MAX);
                counted.push(queries);
            }
        }
        let (axes, rules) = ShareChoice::of(&choosing, seed);
        let mut reference = Self {
            dimension: queries.first().map_or(0, |query| query.vector.len()),
            axes,
            mated_labels: 0,
            stranger_labels: 0,
            shares: rules
                .into_iter()
                .take(SHARES_MAX)
                .map(|rule| CalibratedShare {
                    rule,
                    mated: CountedLabels::ByQueries(Vec::new()),
                    strangers: CountedLabels::ByQueries(Vec::new()),
                })
                .collect(),
        };
        reference.count(&counted);
        reference
    }

    /// Counts labels, each with some of its queries.
    fn count(&mut self, labels: &[Vec<&TrafficQuery>]) {
        let signs_of = |queries: &Vec<&TrafficQuery>| -> Vec<SearchSigns> {
            let signs = queries.iter().map(|query| self.signs(&query.facts()));
            signs.collect()
        };
        let is_mated = |queries: &&Vec<&TrafficQuery>| queries.iter().any(|query| query.mated);
        let (mated, strangers): (Vec<_>, Vec<_>) = labels.iter().partition(is_mated);
        let [mated, strangers] = [mated, strangers]
            .map(|labels| -> Vec<Vec<SearchSigns>> { labels.into_iter().map(signs_of).collect() });
        for (number, share) in self.shares.iter_mut().enumerate() {
            share.mated = CountedLabels::of(&mated, number);
            share.strangers = CountedLabels::of(&strangers, number);
        }
        self.mated_labels = mated.len() as u64;
        self.stranger_labels = strangers.len() as u64;
    }
}

/// 64 bits, practically uniform, from a seed and texts.
fn hash(seed: u64, texts: &[&str]) -> u64 {
    let digest = seeded_hash(seed, texts);
    digest.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// The features that the choosing queries suggest.
struct ShareChoice<'a> {
    rows: &'a [&'a TrafficQuery],
    seed: u64,
    axes: Vec<Vec<f32>>,
    rules: Vec<ShareRule>,
}

impl<'a> ShareChoice<'a> {
    fn of(rows: &'a [&'a TrafficQuery], seed: u64) -> (Vec<Vec<f32>>, Vec<ShareRule>) {
        let formats = FORMATS.map(|name| ShareRule::Format {
            name: name.to_owned(),
        });
        let mut choice = Self {
            rows,
            seed,
            axes: Vec::new(),
            rules: formats.to_vec(),
        };
        for measure in PictureMeasure::ALL {
            let values = rows.iter().filter_map(|row| measure.of(&row.facts()));
            for side in tails(values.collect(), &MEASURE_TAILS) {
                choice.rules.push(ShareRule::Measure { measure, side });
            }
        }
        let columns = choice.columns();
        choice.resemblances(&columns);
        choice.conditions(&columns);
        choice.directions();
        (choice.axes, choice.rules)
    }

    /// The columns of conditions with few values, and these values.
    fn columns(&self) -> Vec<(&'a str, BTreeSet<&'a str>)> {
        let mut columns: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, value) in self.rows.iter().flat_map(|row| &row.conditions) {
            columns.entry(key).or_default().insert(value);
        }
        let few = columns
            .into_iter()
            .filter(|(_, values)| VALUES.contains(&values.len()));
        few.take(COLUMNS_MAX).collect()
    }

    fn conditions(&mut self, columns: &[(&str, BTreeSet<&str>)]) {
        for (key, values) in columns {
            for value in values {
                self.rules.push(ShareRule::Condition {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                });
            }
            self.rules.push(ShareRule::OtherCondition {
                key: (*key).to_owned(),
                known: values.iter().map(|value| (*value).to_owned()).collect(),
            });
        }
    }

    /// Adds directions from the mean of all other queries to that of the queries with some condition.
    fn resemblances(&mut self, columns: &[(&str, BTreeSet<&str>)]) {
        let without_label = WithoutLabel::of(self.rows);
        let half = |row: &TrafficQuery| hash(self.seed, &["half", &row.label]).is_multiple_of(2);
        let halves: Vec<bool> = self.rows.iter().map(|row| half(row)).collect();
        let mut found = Vec::new();
        for (key, value) in columns
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| (*key, *value)))
        {
            let is_it: Vec<bool> = self
                .rows
                .iter()
                .map(|row| row.conditions.get(key).map(String::as_str) == Some(value))
                .collect();
            let of_it = is_it.iter().filter(|is_it| **is_it).count();
            if of_it < ROWS_MIN || is_it.len() - of_it < ROWS_MIN {
                continue;
            }
            // The edge is computed from queries that had no part in finding the direction. With all queries
            // in both roles, the direction would seem to separate them better than it does.
            let of_half = |part: bool| {
                without_label.direction(&is_it, |number| halves.get(number) == Some(&part))
            };
            let (Some(axis), Some(first), Some(second)) = (
                without_label.direction(&is_it, |_| true),
                of_half(true),
                of_half(false),
            ) else {
                continue;
            };
            let along =
                self.rows.iter().zip(&halves).map(|(row, in_first)| {
                    dot(if *in_first { &second } else { &first }, &row.vector)
                });
            let [least, most] = RESEMBLING;
            let part = (size(of_it) / size(is_it.len())).clamp(least, most);
            if let Some(Beyond::Above(edge)) = upper_tail(along.collect(), part) {
                found.push((axis, edge, key.to_owned(), value.to_owned()));
            }
        }
        for (axis, edge, key, value) in found.into_iter().take(RESEMBLANCES_MAX) {
            self.rules.push(ShareRule::Resemblance {
                axis: self.axes.len(),
                edge,
                key,
                value,
            });
            self.axes.push(single(&axis));
        }
    }

    /// Adds the directions along which embeddings vary most, and some random ones.
    fn directions(&mut self) {
        let found = directions(self.rows, self.seed);
        for direction in found {
            let along = self.rows.iter().map(|row| dot(&direction, &row.vector));
            for side in tails(along.collect(), &DIRECTION_TAILS) {
                let axis = self.axes.len();
                self.rules.push(ShareRule::Direction { axis, side });
            }
            self.axes.push(single(&direction));
        }
    }
}

/// Embeddings minus the mean of their label. What remains is how pictures of the same thing differ.
struct WithoutLabel(Vec<Vec<f64>>);

impl WithoutLabel {
    fn of(rows: &[&TrafficQuery]) -> Self {
        let mut labels: BTreeMap<&str, Vec<&TrafficQuery>> = BTreeMap::new();
        for row in rows {
            labels.entry(&row.label).or_default().push(row);
        }
        let overall = mean(rows);
        let means: BTreeMap<&str, Vec<f64>> = labels
            .into_iter()
            .filter(|(_, rows)| 1 < rows.len())
            .map(|(label, rows)| (label, mean(&rows)))
            .collect();
        let less = |row: &&TrafficQuery| {
            let centre = means.get(row.label.as_str()).unwrap_or(&overall);
            let pairs = row.vector.iter().zip(centre);
            pairs
                .map(|(value, centre)| f64::from(*value) - centre)
                .collect()
        };
        Self(rows.iter().map(less).collect())
    }

    /// The unit vector from the mean of the rows without the condition to that of the rows with it; `None` if
    /// there are no rows of one kind.
    fn direction(&self, is_it: &[bool], taken: impl Fn(usize) -> bool) -> Option<Vec<f64>> {
        let part = |wanted: bool| {
            let rows = self.0.iter().zip(is_it).enumerate();
            let rows = rows.filter(|(number, (_, is_it))| **is_it == wanted && taken(*number));
            let rows: Vec<&Vec<f64>> = rows.map(|(_, (row, _))| row).collect();
            let mut sum = vec![0.0; rows.first()?.len()];
            for row in &rows {
                add(&mut sum, row, 1.0 / size(rows.len()));
            }
            Some(sum)
        };
        let (mut to, from) = (part(true)?, part(false)?);
        add(&mut to, &from, -1.0);
        unit(to)
    }
}

/// Unit vectors: the leading principal directions, orthogonal to each other and found by power iteration, and
/// then some random ones.
fn directions(rows: &[&TrafficQuery], seed: u64) -> Vec<Vec<f64>> {
    let Some(first) = rows.first() else {
        return Vec::new();
    };
    let step = rows.len().div_ceil(ROWS_MAX);
    let rows: Vec<&TrafficQuery> = rows.iter().step_by(step).copied().collect();
    let centre = mean(&rows);
    let centred = |row: &&TrafficQuery| {
        let pairs = row.vector.iter().zip(&centre);
        pairs
            .map(|(value, centre)| f64::from(*value) - centre)
            .collect()
    };
    let rows: Vec<Vec<f64>> = rows.iter().map(centred).collect();
    let mut draws = seed;
    let mut drawn = || {
        let mut next = || splitmix64::next(&mut draws).count_ones();
        // About half of the 64 bits are ones, and their number is nearly normally distributed.
        let values = (0..first.vector.len()).map(|_| f64::from(next()) - 32.0);
        unit(values.collect())
    };
    let mut found: Vec<Vec<f64>> = Vec::new();
    for _ in 0..LEADING_MAX.min(rows.len() / 4) {
        let mut direction = drawn();
        for _ in 0..STEPS {
            direction = direction.and_then(|direction| improved(&rows, &direction, &found));
        }
        found.extend(direction);
    }
    found.extend((0..DRAWN).filter_map(|_| drawn()));
    found
}

/// One step of the power iteration, orthogonal to the directions already found.
fn improved(rows: &[Vec<f64>], direction: &[f64], found: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut next = vec![0.0; direction.len()];
    for row in rows {
        add(&mut next, row, product(row, direction));
    }
    for known in found {
        let along = product(&next, known);
        add(&mut next, known, -along);
    }
    unit(next)
}

fn mean(rows: &[&TrafficQuery]) -> Vec<f64> {
    let mut sum = vec![0.0; rows.first().map_or(0, |row| row.vector.len())];
    for row in rows {
        for (sum, value) in sum.iter_mut().zip(&*row.vector) {
            *sum += f64::from(*value) / size(rows.len());
        }
    }
    sum
}

fn add(to: &mut [f64], what: &[f64], times: f64) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += times * what;
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn dot(direction: &[f64], vector: &[f32]) -> f64 {
    let pairs = direction.iter().zip(vector);
    pairs.map(|(a, b)| a * f64::from(*b)).sum()
}

/// Scales a vector to length 1; `None` if its length is 0.
fn unit(mut vector: Vec<f64>) -> Option<Vec<f64>> {
    let length = product(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|value| *value /= length);
    vector
        .iter()
        .all(|value| value.is_finite())
        .then_some(vector)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "components of a direction, to the precision of embeddings"
)]
fn single(direction: &[f64]) -> Vec<f32> {
    direction.iter().map(|value| *value as f32).collect()
}

fn size(count: usize) -> f64 {
    crate::binomial::real(count as u64)
}

/// Edges below and above which these parts of the values lie. Equal edges are kept once.
fn tails(values: Vec<f64>, parts: &[f64]) -> Vec<Beyond> {
    let values = sorted(values);
    let mut found: Vec<Beyond> = Vec::new();
    for part in parts {
        let sides = [
            lower(&values, *part).map(Beyond::Below),
            upper(&values, *part).map(Beyond::Above),
        ];
        for side in sides.into_iter().flatten() {
            if !found.contains(&side) {
                found.push(side);
            }
        }
    }
    found
}

fn upper_tail(values: Vec<f64>, part: f64) -> Option<Beyond> {
    upper(&sorted(values), part).map(Beyond::Above)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this part of the values lies.
fn lower(values: &[f64], part: f64) -> Option<f64> {
    values.get(place(values.len(), part)).copied()
}

/// The value above which this part of the values lies.
fn upper(values: &[f64], part: f64) -> Option<f64> {
    let from_the_top = place(values.len(), part);
    values
        .get(values.len().checked_sub(1 + from_the_top)?)
        .copied()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a length, not negative"
)]
fn place(length: usize, part: f64) -> usize {
    (part * size(length)).floor() as usize
}
