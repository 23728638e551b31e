//! Estimates the FAR, the FRR and the share of wrong accepts in service, from labels of sampled decisions.
//!
//! Each label represents the decisions that it was sampled from: in a stratum of N decisions with n labels,
//! each label has the weight N / n. N is the counted number of decisions (post-stratification: Holt and Smith
//! 1979). If they were not counted, N is estimated as the sum of 1 / probability of the sampled decisions
//! (Horvitz and Thompson 1952; as a ratio, Hájek 1971).

use std::collections::BTreeMap;

use super::MonitoringError;
use super::strata::{Inclusion, Strata};
use crate::binomial::{normal_quantile, real};
use crate::rates::{Confidence, Interval, Proportion};

/// The truth about one search, as its annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchTruth {
    /// The search is mated (the probe's label is enrolled), and the best candidate has the probe's label.
    MatedRight,
    /// The search is mated, and the best candidate has another label or there is no candidate.
    MatedWrong,
    /// The search is non-mated: the probe's label is not enrolled.
    NonMated,
}

/// One decision that was sampled for the audit.
///
/// A decision without a known sampling probability cannot be used here. Complaints and confirmations, which
/// concern accepts only, are counted in [`AcceptFeedback`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditRow {
    /// The index of its stratum in the design.
    pub stratum: usize,
    /// Whether the decision was an ACCEPT.
    pub accepted: bool,
    /// The probability of being sampled that was in force when the decision was made.
    pub inclusion: Inclusion,
    /// Its label; `None` until it is labelled.
    pub truth: Option<SearchTruth>,
    /// Whether its answer promised the FAR of a larger gallery, because this one had grown
    /// ([`PromiseToday::grown`](crate::standing::PromiseToday::grown)).
    pub grown: bool,
}

/// Sampled decisions of one period, made at one threshold and under one design.
///
/// The estimates assume that, within a stratum, whether a sampled decision gets labelled does not depend on
/// its truth, and that decisions are independent. If one person or object is searched for many times in the
/// period, the intervals are too narrow.
#[derive(Clone, Copy, Debug)]
pub struct AuditSample<'a> {
    /// The design by which the rows were sampled.
    pub strata: &'a Strata,
    /// The sampled decisions, labelled or not, in the order in which they were made. Each represents 1 /
    /// probability decisions.
    pub rows: &'a [AuditRow],
    /// The number of all decisions made since one of the rows, sampled or not; `None` if it is not known.
    pub counted: Option<&'a CountedDecisions>,
}

/// Counts of all decisions, by stratum, from some moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedDecisions {
    /// The index, from 0, of the first row that was made after that moment. Rows are in the order in which
    /// decisions were made.
    pub from_row: usize,
    /// Number of decisions in each stratum since that moment.
    pub decisions: Vec<u64>,
}

/// The rates that a stricter threshold would have, estimated from the present annotations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tighter {
    /// How far this threshold is above the active one, as a difference of scores.
    pub by: f64,
    /// The FAR at this threshold.
    pub far: AuditedRate,
    /// The FRR at this threshold; `None` if no annotation bears on it.
    pub frr: Option<AuditedRate>,
}

/// An estimated rate in service, with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditedRate {
    /// The estimated rate: numerator / denominator, in [0, 1].
    pub estimate: f64,
    /// The low end of the interval, in [0, 1].
    pub lower: f64,
    /// The high end of the interval, in [0, 1].
    pub upper: f64,
    /// The nominal coverage of the interval, which is approximate.
    pub confidence: Confidence,
    /// Estimated number of decisions in error.
    pub numerator: f64,
    /// Estimated number of decisions that could have been in error (for the FAR, non-mated searches).
    pub denominator: f64,
    /// Number of labels of decisions that could have been in error.
    pub at_risk: u64,
    /// Number of labels of decisions in error.
    pub errors: u64,
    /// The linearised standard error of the ratio. A stratum whose labels all agree adds nothing to it, so it
    /// is too small if errors are rare. Use the interval for decisions.
    pub standard_error: f64,
    /// The effective sample size: how many labelled decisions, sampled without strata, would give a Wilson
    /// interval with the same upper end. `None` if the interval is all of [0, 1].
    pub effective: Option<f64>,
}

/// The rates that an audit estimates. A rate is `None`, which does not mean zero, if no label bears on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditedRates {
    /// Share of non-mated searches that were accepted (FPIR).
    pub far: Option<AuditedRate>,
    /// Share of mated searches that were rejected or accepted with a wrong label (FNIR).
    pub frr: Option<AuditedRate>,
    /// Share of accepts that were non-mated or had a wrong label (1 - precision). It depends on the share of
    /// non-mated searches, even if FAR and FRR do not change.
    pub false_discovery: Option<AuditedRate>,
    /// Number of sampled decisions.
    pub sampled: u64,
    /// Number of sampled decisions that are labelled.
    pub labelled: u64,
    /// Number of decisions that the rows represent.
    pub decisions: f64,
}

impl AuditSample<'_> {
    /// Estimates the rates, with intervals at `confidence`.
    ///
    /// The interval comes from the square-and-add method (Newcombe 1998; Zou and Donner 2008): each stratum's
    /// share in turn is set to the ends of its Wilson interval, and the resulting changes of the rate are
    /// added as squares. So even a stratum without observed errors widens the interval, and the more so the
    /// fewer labels it has. A stratum with decisions but no label takes its shares from the nearest labelled
    /// stratum on the same side of the threshold; for the interval, its share may be anything from 0 to 1.
    ///
    /// # Errors
    /// Returns an error if a row or a count belongs to another design.
    pub fn rates(&self, confidence: Confidence) -> Result<AuditedRates, MonitoringError> {
        let cells = self.cells()?;
        let rate = |kind: RateKind| {
            let parts: Option<Vec<StratumPart>> = cells
                .iter()
                .filter(|cell| cell.accepted || kind != RateKind::Discovery)
                .map(|cell| part(cell, &cells, kind))
                .collect();
            rated(&parts?, confidence)
        };
        Ok(AuditedRates {
            far: rate(RateKind::Far),
            frr: rate(RateKind::Frr),
            false_discovery: rate(RateKind::Discovery),
            sampled: cells.iter().map(|cell| cell.sampled).sum(),
            labelled: cells.iter().map(StratumRows::labelled).sum(),
            decisions: cells.iter().map(|cell| cell.weight).sum(),
        })
    }

    /// Finds the lowest stricter threshold at which the upper end of the FAR's interval is at most `limit`;
    /// `None` if there is none. Only the edges of the design are tried, because strata say nothing about
    /// thresholds between two edges.
    ///
    /// # Errors
    /// Returns an error if a row belongs to another design.
    pub fn tighter(
        &self,
        limit: f64,
        confidence: Confidence,
    ) -> Result<Option<Tighter>, MonitoringError> {
        for by in self
            .strata
            .edges()
            .iter()
            .copied()
            .filter(|edge| 0.0 < *edge)
        {
            let Some(strata) = self.strata.above(by) else {
                continue;
            };
            let decided = |row: &AuditRow| AuditRow {
                accepted: strata.accepts(row.stratum).unwrap_or(row.accepted),
                ..*row
            };
            let rows: Vec<AuditRow> = self.rows.iter().map(decided).collect();
            let audit = AuditSample {
                strata: &strata,
                rows: &rows,
                counted: self.counted,
            };
            let rates = audit.rates(confidence)?;
            if let Some(far) = rates.far.filter(|far| far.upper <= limit) {
                let frr = rates.frr;
                return Ok(Some(Tighter { by, far, frr }));
            }
        }
        Ok(None)
    }

    /// Collects the rows of each stratum.
    fn cells(&self) -> Result<Vec<StratumRows>, MonitoringError> {
        let mut cells: BTreeMap<usize, StratumRows> = BTreeMap::new();
        for (stratum, decisions) in self.counts() {
            let Some(accepted) = self.strata.accepts(stratum) else {
                return Err(MonitoringError::CountsOfAnother {
                    strata: self.strata.count(),
                    counts: stratum + 1,
                });
            };
            let mut cell = StratumRows::empty(stratum, accepted);
            cell.weight = real(decisions);
            cells.insert(stratum, cell);
        }
        let uncounted = self
            .counted
            .map_or(self.rows.len(), |counted| counted.from_row);
        for (number, row) in self.rows.iter().enumerate() {
            if self.strata.accepts(row.stratum) != Some(row.accepted) {
                return Err(MonitoringError::RowOfAnother {
                    stratum: row.stratum,
                    outcome: if row.accepted { "accepted" } else { "rejected" },
                });
            }
            cells
                .entry(row.stratum)
                .or_insert_with(|| StratumRows::empty(row.stratum, row.accepted))
                .add(row, number < uncounted);
        }
        Ok(cells.into_values().collect())
    }

    /// The strata in which decisions were counted, with the number of decisions.
    fn counts(&self) -> impl Iterator<Item = (usize, u64)> {
        let counted = self.counted.into_iter();
        let counts = counted.flat_map(|counted| counted.decisions.iter().copied().enumerate());
        counts.filter(|(_, decisions)| 0 < *decisions)
    }
}

/// The rows of one stratum together. If a labelling budget changed the sampling probabilities, the rows of a
/// stratum have unequal weights w = 1 / probability. Their annotations are then worth as many equally
/// weighted ones as Kish's effective sample size says (Survey Sampling, 1965): (sum w)^2 / sum w^2.
#[derive(Clone, Copy)]
struct StratumRows {
    stratum: usize,
    accepted: bool,
    /// Number of decisions that the rows represent.
    weight: f64,
    /// The variance of `weight`: that of a sum of 1 / probability over independent draws; 0 if the decisions
    /// were counted.
    weight_variance: f64,
    sampled: u64,
    right: u64,
    wrong: u64,
    non_mated: u64,
    /// The sums of the weights of `right`, `wrong` and `non_mated` rows; `squares` is the sum of all squared
    /// weights.
    weighed: [f64; 3],
    squares: f64,
}

impl StratumRows {
    fn empty(stratum: usize, accepted: bool) -> Self {
        Self {
            stratum,
            accepted,
            weight: 0.0,
            weight_variance: 0.0,
            sampled: 0,
            right: 0,
            wrong: 0,
            non_mated: 0,
            weighed: [0.0; 3],
            squares: 0.0,
        }
    }

    /// Adds a row, and its weight if the decisions that it represents were not counted.
    fn add(&mut self, row: &AuditRow, stands_for_others: bool) {
        let probability = row.inclusion.get();
        if stands_for_others {
            self.weight += 1.0 / probability;
            self.weight_variance += (1.0 - probability) / probability.powi(2);
        }
        self.sampled += 1;
        let [right, wrong, non_mated] = &mut self.weighed;
        let (count, weighed) = match row.truth {
            Some(SearchTruth::MatedRight) => (&mut self.right, right),
            Some(SearchTruth::MatedWrong) => (&mut self.wrong, wrong),
            Some(SearchTruth::NonMated) => (&mut self.non_mated, non_mated),
            None => return,
        };
        *count += 1;
        *weighed += 1.0 / probability;
        self.squares += probability.powi(-2);
    }

    /// The effective numbers of labels that are right, wrong and non-mated, as if all had equal weights.
    fn equal(&self) -> [f64; 3] {
        let all: f64 = self.weighed.iter().sum();
        if self.squares <= 0.0 {
            return [0.0; 3];
        }
        self.weighed.map(|weighed| weighed * all / self.squares)
    }

    fn labelled(&self) -> u64 {
        self.right + self.wrong + self.non_mated
    }
}

#[derive(Clone, Copy, PartialEq)]
enum RateKind {
    Far,
    Frr,
    Discovery,
}

/// A share within a stratum, and how it is known.
#[derive(Clone, Copy)]
enum Share {
    /// The share follows from the definition of the rate.
    Certain(f64),
    /// The share was observed in the stratum's annotations.
    Seen { events: f64, trials: f64 },
    /// The stratum has no annotation; the share of another one is used.
    Assumed(f64),
}

impl Share {
    fn value(self) -> f64 {
        match self {
            Self::Certain(value) | Self::Assumed(value) => value,
            Self::Seen { events, trials } => (events / trials).min(1.0),
        }
    }

    fn ends(self, confidence: Confidence) -> (f64, f64) {
        match self {
            Self::Certain(value) => (value, value),
            Self::Assumed(_) => (0.0, 1.0),
            Self::Seen { trials, .. } => {
                let interval = Interval::wilson(self.value(), trials, confidence);
                (interval.lower, interval.upper)
            }
        }
    }
}

/// The contribution of one stratum to a rate, which is the sum of weight x at risk x in error over the sum of
/// weight x at risk.
#[derive(Clone, Copy)]
struct StratumPart {
    weight: f64,
    weight_variance: f64,
    at_risk: Share,
    in_error: Share,
    labels: LabelSums<u64>,
    equal: LabelSums<f64>,
}

/// Numbers of labels, either as counted or as effective numbers.
#[derive(Clone, Copy)]
struct LabelSums<T> {
    all: T,
    at_risk: T,
    errors: T,
}

impl<T: Copy + std::ops::Add<Output = T> + Default> LabelSums<T> {
    fn of(kind: RateKind, accepted: bool, [right, wrong, non_mated]: [T; 3]) -> Self {
        let (mated, all) = (right + wrong, right + wrong + non_mated);
        let (at_risk, errors) = match (kind, accepted) {
            (RateKind::Far, true) => (non_mated, non_mated),
            (RateKind::Far, false) => (non_mated, T::default()),
            (RateKind::Frr, true) => (mated, wrong),
            (RateKind::Frr, false) => (mated, mated),
            (RateKind::Discovery, _) => (all, wrong + non_mated),
        };
        Self {
            all,
            at_risk,
            errors,
        }
    }
}

/// `None` if neither this stratum nor any other on its side of the threshold has a label.
fn part(cell: &StratumRows, cells: &[StratumRows], kind: RateKind) -> Option<StratumPart> {
    let seen = labels(cell, kind);
    let donor = equal(nearest_labelled(cell, cells)?, kind);
    let share = |events: f64, trials: f64| {
        if 0 < cell.labelled() {
            Share::Seen { events, trials }
        } else {
            Share::Assumed((events / trials).min(1.0))
        }
    };
    let at_risk = match kind {
        RateKind::Far | RateKind::Frr => share(donor.at_risk, donor.all),
        RateKind::Discovery => Share::Certain(1.0),
    };
    let in_error = match (kind, cell.accepted) {
        (RateKind::Far, true) | (RateKind::Frr, false) => Share::Certain(1.0),
        (RateKind::Far, false) => Share::Certain(0.0),
        (RateKind::Frr, true) if donor.at_risk <= 0.0 => Share::Assumed(pooled(cells, kind)),
        (RateKind::Frr | RateKind::Discovery, _) => share(donor.errors, donor.at_risk),
    };
    Some(StratumPart {
        weight: cell.weight,
        weight_variance: cell.weight_variance,
        at_risk,
        in_error,
        labels: seen,
        equal: equal(cell, kind),
    })
}

fn labels(cell: &StratumRows, kind: RateKind) -> LabelSums<u64> {
    LabelSums::of(
        kind,
        cell.accepted,
        [cell.right, cell.wrong, cell.non_mated],
    )
}

fn equal(cell: &StratumRows, kind: RateKind) -> LabelSums<f64> {
    LabelSums::of(kind, cell.accepted, cell.equal())
}

/// This stratum if it has labels, or else the nearest labelled one on the same side of the threshold.
fn nearest_labelled<'a>(
    cell: &'a StratumRows,
    cells: &'a [StratumRows],
) -> Option<&'a StratumRows> {
    if 0 < cell.labelled() {
        return Some(cell);
    }
    cells
        .iter()
        .filter(|other| other.accepted == cell.accepted && 0 < other.labelled())
        .min_by_key(|other| other.stratum.abs_diff(cell.stratum))
}

/// The share of errors among all accepts at risk. Half an error and one accept are added, so that the share
/// is defined and above 0 without any label.
fn pooled(cells: &[StratumRows], kind: RateKind) -> f64 {
    let accepts = || cells.iter().filter(|cell| cell.accepted);
    let errors: u64 = accepts().map(|cell| labels(cell, kind).errors).sum();
    let at_risk: u64 = accepts().map(|cell| labels(cell, kind).at_risk).sum();
    (real(errors) + 0.5) / (real(at_risk) + 1.0)
}

/// The numerator and denominator of a rate, or of one stratum's contribution to it.
#[derive(Clone, Copy)]
struct Ratio {
    errors: f64,
    at_risk: f64,
}

impl Ratio {
    fn of(weight: f64, at_risk: f64, in_error: f64) -> Self {
        Self {
            errors: weight * at_risk * in_error,
            at_risk: weight * at_risk,
        }
    }

    fn with(self, old: Self, new: Self) -> Self {
        Self {
            errors: self.errors - old.errors + new.errors,
            at_risk: self.at_risk - old.at_risk + new.at_risk,
        }
    }

    fn rate(self) -> Option<f64> {
        (0.0 < self.at_risk).then(|| (self.errors / self.at_risk).clamp(0.0, 1.0))
    }
}

fn rated(parts: &[StratumPart], confidence: Confidence) -> Option<AuditedRate> {
    let own =
        |part: &StratumPart| Ratio::of(part.weight, part.at_risk.value(), part.in_error.value());
    let nothing = Ratio {
        errors: 0.0,
        at_risk: 0.0,
    };
    let total = parts
        .iter()
        .map(own)
        .fold(nothing, |sum, part| sum.with(nothing, part));
    let estimate = total.rate()?;
    let (mut below, mut above) = (0.0, 0.0);
    for part in parts {
        for ends in moved(part, confidence) {
            let rates = ends
                .iter()
                .filter_map(|&end| total.with(own(part), end).rate());
            let changes = rates.map(|rate| rate - estimate);
            let (fall, rise) = changes.fold((0.0_f64, 0.0_f64), |(fall, rise), change| {
                (fall.min(change), rise.max(change))
            });
            below += fall.powi(2);
            above += rise.powi(2);
        }
    }
    let lower = (estimate - below.sqrt()).max(0.0);
    let upper = (estimate + above.sqrt()).min(1.0);
    Some(AuditedRate {
        estimate,
        lower,
        upper,
        confidence,
        numerator: total.errors,
        denominator: total.at_risk,
        at_risk: parts.iter().map(|part| part.labels.at_risk).sum(),
        errors: parts.iter().map(|part| part.labels.errors).sum(),
        standard_error: linearised(parts, estimate) / total.at_risk,
        effective: effective(estimate, (lower, upper), confidence),
    })
}

/// The contribution of a stratum with each of its three uncertain numbers set to the two ends of its
/// interval.
fn moved(part: &StratumPart, confidence: Confidence) -> [[Ratio; 2]; 3] {
    let (at_risk, in_error) = (part.at_risk.value(), part.in_error.value());
    let risk_ends = part.at_risk.ends(confidence);
    let error_ends = part.in_error.ends(confidence);
    let spread = normal_quantile(confidence.delta() / 2.0) * part.weight_variance.sqrt();
    let least = part.weight.min(real(part.labels.all));
    let ends = ((part.weight - spread).max(least), part.weight + spread);
    [
        [risk_ends.0, risk_ends.1].map(|share| Ratio::of(part.weight, share, in_error)),
        [error_ends.0, error_ends.1].map(|share| Ratio::of(part.weight, at_risk, share)),
        [ends.0, ends.1].map(|weight| Ratio::of(weight, at_risk, in_error)),
    ]
}

/// The square root of the sum of N^2 s^2 / n over strata, where s^2 is the variance of the residuals (error -
/// rate) of labels at risk. For the FAR this is sum (a - FAR)^2 N^2 p (1 - p) / (n - 1).
fn linearised(parts: &[StratumPart], rate: f64) -> f64 {
    let squares = parts.iter().map(|part| {
        let labels = part.equal;
        if part.labels.all < 2 || labels.all <= 1.0 {
            return 0.0;
        }
        let (errors, others) = (labels.errors, labels.at_risk - labels.errors);
        let mean = (errors * (1.0 - rate) - others * rate) / labels.all;
        let square = (errors * (1.0 - rate).powi(2) + others * rate.powi(2)) / labels.all;
        part.weight.powi(2) * (square - mean.powi(2)).max(0.0) / (labels.all - 1.0)
    });
    squares.sum::<f64>().sqrt()
}

/// The number of trials n at which the Wilson bound u has its present value; it solves n (u - p)^2 = z^2 u (1
/// - u).
fn effective(estimate: f64, (lower, upper): (f64, f64), confidence: Confidence) -> Option<f64> {
    let end = if upper < 1.0 { upper } else { lower };
    let z_squared = normal_quantile(confidence.delta() / 2.0).powi(2);
    let trials = z_squared * end * (1.0 - end) / (end - estimate).powi(2);
    (trials.is_finite() && 0.0 < trials).then_some(trials)
}

/// Feedback of users on accepted searches: complaints and confirmations that nobody sampled.
///
/// Since such feedback has no sampling probability, no rate of all searches can be estimated from it; wrong
/// rejects in particular are not reported (verification bias: Begg and Greenes 1983). So it gives a precision
/// and no FAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptFeedback {
    /// Number of accepts that were reported as right.
    pub right: u64,
    /// Number of accepts that were reported as wrong.
    pub wrong: u64,
}

impl AcceptFeedback {
    /// The share of right accepts among those with feedback, with the exact interval of Clopper and Pearson.
    /// It equals the share among all accepts only if giving feedback does not depend on the truth. `None`
    /// without feedback.
    #[must_use]
    pub fn precision(self, confidence: Confidence) -> Option<(Proportion, Interval)> {
        let share = Proportion::new(self.right, self.right.checked_add(self.wrong)?).ok()?;
        Some((share, Interval::clopper_pearson(share, confidence)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, within: f64) {
        assert!(
            (found - expected).abs() <= within,
            "{found} is not {expected}"
        );
    }

    /// For each stratum: the number of decisions, then the labels mated right, mated wrong and non-mated. A
    /// stratum without labels gets one sampled, unlabelled decision.
    type Counts = (u64, [u64; 3]);

    fn audited(counts: &[Counts], accepting: usize) -> (Strata, Vec<AuditRow>) {
        let edges = (1..counts.len()).map(|i| (real(i as u64) - real(accepting as u64)) / 10.0);
        let inclusion: Vec<Inclusion> = counts
            .iter()
            .map(|(decisions, labels)| real(labels.iter().sum::<u64>().max(1)) / real(*decisions))
            .map(|share| Inclusion::new(share).unwrap())
            .collect();
        let strata = Strata::new(edges.collect(), inclusion).unwrap();
        let mut rows = Vec::new();
        for (stratum, (_, labels)) in counts.iter().enumerate() {
            let row = |truth| AuditRow {
                grown: false,
                stratum,
                accepted: strata.accepts(stratum).unwrap(),
                inclusion: strata.inclusion(stratum).unwrap(),
                truth,
            };
            let truths = [
                SearchTruth::MatedRight,
                SearchTruth::MatedWrong,
                SearchTruth::NonMated,
            ];
            for (truth, &count) in truths.into_iter().zip(labels) {
                rows.extend((0..count).map(|_| row(Some(truth))));
            }
            if labels.iter().all(|count| *count == 0) {
                rows.push(row(None));
            }
        }
        (strata, rows)
    }

    fn rates(counts: &[Counts], accepting: usize) -> AuditedRates {
        let (strata, rows) = audited(counts, accepting);
        let audit = AuditSample {
            strata: &strata,
            rows: &rows,
            counted: None,
        };
        audit.rates(Confidence::DISPLAY).unwrap()
    }

    const GOLDEN: [Counts; 4] = [
        (5_000, [2, 0, 48]),
        (300, [20, 0, 40]),
        (100, [40, 0, 10]),
        (600, [40, 0, 0]),
    ];

    /// 10 x 2 of 4,800 + 200 + 20 non-mated; 200 + 100 of 300 + 80 + 600 mated.
    #[test]
    fn weighted_rates_and_their_standard_error_are_those_of_the_reference() {
        let found = rates(&GOLDEN, 2);
        let far = found.far.unwrap();
        close(far.estimate, 0.003_984_063_745, 1e-12);
        close(far.standard_error, 0.001_139_29, 5e-9);
        close(far.numerator, 20.0, 1e-9);
        close(far.denominator, 5_020.0, 1e-9);
        assert_eq!((far.at_risk, far.errors), (98, 10));
        close(found.frr.unwrap().estimate, 0.306_122_449, 5e-10);
        close(found.false_discovery.unwrap().estimate, 20.0 / 700.0, 1e-12);
        assert_eq!((found.sampled, found.labelled), (200, 200));
        close(found.decisions, 6_000.0, 1e-9);
        // An unweighted FAR would be 25 times as high.
        close(real(far.errors) / real(far.at_risk), 0.102, 1e-3);
    }

    #[test]
    fn a_stratum_whose_labels_all_agree_still_leaves_doubt() {
        let few = rates(&[(10_000, [0, 0, 50]), (1_000, [10, 0, 0])], 1)
            .far
            .unwrap();
        let many = rates(&[(10_000, [0, 0, 50]), (1_000, [200, 0, 0])], 1)
            .far
            .unwrap();
        close(few.estimate, 0.0, 0.0);
        close(few.standard_error, 0.0, 0.0);
        // Wilson's bound for 0 of 10 is 0.2775: 277 accepts of 10,277 strangers.
        close(few.upper, 0.027, 0.001);
        close(few.lower, 0.0, 0.0);
        assert!(many.upper < few.upper / 10.0);
        assert!(few.effective.unwrap() < many.effective.unwrap());
    }

    #[test]
    fn a_match_with_a_wrong_label_is_a_false_reject_and_a_false_discovery_but_no_false_accept() {
        let found = rates(&[(100, [0, 0, 100]), (100, [90, 10, 0])], 1);
        close(found.far.unwrap().estimate, 0.0, 0.0);
        close(found.frr.unwrap().estimate, 0.1, 1e-12);
        close(found.false_discovery.unwrap().estimate, 0.1, 1e-12);
    }

    #[test]
    fn what_no_label_bears_on_is_unknown() {
        let nothing = rates(&[(100, [0; 3]), (100, [0; 3])], 1);
        assert_eq!((nothing.far, nothing.frr), (None, None));
        let accepts_only = rates(&[(100, [0; 3]), (100, [90, 0, 10])], 1);
        assert_eq!((accepts_only.far, accepts_only.frr), (None, None));
        close(accepts_only.false_discovery.unwrap().estimate, 0.1, 1e-12);
        let no_strangers = rates(&[(100, [10, 0, 0]), (100, [90, 0, 0])], 1);
        assert_eq!(no_strangers.far, None);
    }

    #[test]
    fn a_stratum_without_labels_borrows_its_neighbours_share_and_widens_the_interval() {
        let known = [(900, [0, 0, 90]), (100, [0, 0, 10]), (100, [45, 0, 5])];
        let gap = [(900, [0, 0, 90]), (100, [0; 3]), (100, [45, 0, 5])];
        let (known, gap) = (rates(&known, 2).far.unwrap(), rates(&gap, 2).far.unwrap());
        close(gap.estimate, known.estimate, 1e-12);
        assert!(known.upper < gap.upper);
    }

    #[test]
    fn decisions_still_without_a_label_count_as_decisions_and_not_as_truth() {
        let (strata, mut rows) = audited(&GOLDEN, 2);
        let complete = rows.len() as u64;
        let waiting = |row: &AuditRow| AuditRow {
            truth: None,
            ..*row
        };
        // Every second row of a second, identical sample has no label yet.
        let more: Vec<AuditRow> = rows.iter().map(waiting).collect();
        rows.extend(more);
        let audit = AuditSample {
            strata: &strata,
            rows: &rows,
            counted: None,
        };
        let found = audit.rates(Confidence::DISPLAY).unwrap();
        assert_eq!((found.sampled, found.labelled), (2 * complete, complete));
        close(found.decisions, 12_000.0, 1e-9);
        let estimate = |rates: &AuditedRates| rates.far.unwrap().estimate;
        close(estimate(&found), estimate(&rates(&GOLDEN, 2)), 1e-12);
    }

    #[test]
    fn labels_that_were_drawn_with_two_probabilities_weigh_what_they_stand_for() {
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let row = |probability, truth| AuditRow {
            grown: false,
            stratum: 1,
            accepted: true,
            inclusion: Inclusion::new(probability).unwrap(),
            truth: Some(truth),
        };
        let mut rows = vec![row(1.0, SearchTruth::NonMated); 10];
        rows.extend(vec![row(0.1, SearchTruth::MatedRight); 10]);
        let audit = AuditSample {
            strata: &strata,
            rows: &rows,
            counted: None,
        };
        let found = audit.rates(Confidence::DISPLAY).unwrap();
        let rate = found.false_discovery.unwrap();
        close(rate.estimate, 10.0 / 110.0, 1e-12);
        assert_eq!((rate.at_risk, rate.errors), (20, 10));
        // The labels are worth 110^2 / 1010 = 12 of equal weight, and not 20.
        assert!(0.15 < rate.upper - rate.estimate, "{rate:?}");
    }

    #[test]
    fn counted_decisions_are_no_estimate_and_those_of_before_stay_one() {
        let strata = Strata::new(vec![0.0], vec![Inclusion::new(0.5).unwrap(); 2]).unwrap();
        let row = |accepted| AuditRow {
            grown: false,
            stratum: usize::from(accepted),
            accepted,
            inclusion: Inclusion::new(0.5).unwrap(),
            truth: Some(SearchTruth::NonMated),
        };
        let rows = [vec![row(false); 10], vec![row(true); 10]].concat();
        let far = |counted: Option<&CountedDecisions>| {
            let audit = AuditSample {
                strata: &strata,
                rows: &rows,
                counted,
            };
            audit.rates(Confidence::DISPLAY).unwrap().far.unwrap()
        };
        let estimated = far(None);
        close(estimated.estimate, 0.5, 1e-12);
        // By chance, more than half of the 30 accepts were not sampled.
        let counted = CountedDecisions {
            from_row: 0,
            decisions: vec![20, 30],
        };
        let known = far(Some(&counted));
        close(known.estimate, 0.6, 1e-12);
        assert!(known.upper - known.lower < estimated.upper - estimated.lower);
        // The first ten rows were made before counting began; they represent twenty decisions.
        let lately = CountedDecisions {
            from_row: 10,
            decisions: vec![0, 30],
        };
        close(far(Some(&lately)).estimate, 0.6, 1e-12);
        let other = CountedDecisions {
            from_row: 0,
            decisions: vec![1, 1, 1],
        };
        let audit = AuditSample {
            strata: &strata,
            rows: &rows,
            counted: Some(&other),
        };
        assert!(audit.rates(Confidence::DISPLAY).is_err());
    }

    #[test]
    fn rows_of_another_design_are_refused() {
        let (strata, mut rows) = audited(&GOLDEN, 2);
        rows[0].accepted = true;
        let audit = AuditSample {
            strata: &strata,
            rows: &rows,
            counted: None,
        };
        let refused = audit.rates(Confidence::DISPLAY).unwrap_err().to_string();
        assert!(refused.contains("accepted in stratum 0"), "{refused}");
    }

    #[test]
    fn feedback_on_accepts_gives_precision() {
        let (share, interval) = AcceptFeedback {
            right: 45,
            wrong: 5,
        }
        .precision(Confidence::DISPLAY)
        .unwrap();
        close(share.estimate(), 0.9, 1e-12);
        close(interval.lower, 1.0 - 0.218_135_366_4, 1e-9);
        assert_eq!(
            AcceptFeedback { right: 0, wrong: 0 }.precision(Confidence::DISPLAY),
            None
        );
    }
}
