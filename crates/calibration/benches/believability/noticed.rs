//! Which parts of the product, next to the comparison of traffic, notice that a target is exceeded.

use std::collections::BTreeMap;

use matchpoint_calibration::analysis::stress::{StressKind, of_searches, of_vectors};
use matchpoint_calibration::certify::Certificate;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::audit::{AuditRow, SearchTruth};
use matchpoint_calibration::monitoring::left_out::{LeftOutRate, LeftOutSearch, LeftOutStanding};
use matchpoint_calibration::monitoring::sequential::{Bet, ErrorSide, Null};
use matchpoint_calibration::monitoring::strata::Strata;
use matchpoint_calibration::recording::{RecordedMatch, RecordedSearch, TrialKind};

use crate::draw::{Changed, Draw, NamedBy};
use crate::{DELTA, FAR, LABELS};

/// What was noticed.
pub(crate) struct Noticed {
    /// The stress report of the calibration has the FAR of just these strangers, and it is above the target.
    pub(crate) stress: bool,
    /// It is, and was made of the strangers of the certificate alone, and not of those who are then judged.
    pub(crate) stress_beforehand: bool,
    /// The left-out searches of the changed gallery come to more than those of the calibration's, and than the
    /// target.
    pub(crate) left_out: bool,
    /// The label with which the audit raises the alarm of the FAR.
    pub(crate) audit: Option<u64>,
    /// What groups that strangers form by themselves say of the other kinds, if these are among them without a column.
    pub(crate) cluster: Option<ClusterMark>,
}

/// The worst group of strangers of two kinds.
#[derive(Clone, Copy)]
pub(crate) struct ClusterMark {
    /// Whether its FAR is above the target.
    pub(crate) marked: bool,
    /// Whether all labels that are named of it are of the other kinds.
    pub(crate) telling: bool,
}

impl Noticed {
    pub(crate) fn of(
        draw: &mut Draw<'_>,
        certificate: &Certificate,
        changed: &Changed<'_>,
    ) -> Self {
        let stress = is_named(draw, certificate, changed.named_by);
        Self {
            stress,
            stress_beforehand: stress && changed.named_by != NamedBy::OtherKinds,
            left_out: left_out_warns(draw, certificate, changed),
            audit: audit(draw, certificate, changed),
            cluster: (changed.named_by == NamedBy::OtherKinds)
                .then(|| cluster_mark(draw, certificate))
                .flatten(),
        }
    }
}

/// The strangers of the calibration, and as many of other kinds if `others` is set, each with all its queries.
fn strangers(draw: &Draw<'_>, others: bool) -> Vec<RecordedSearch> {
    let set = draw.set;
    let mut labels = draw.distinct();
    if others {
        labels.extend(draw.others.iter().copied().take(draw.distinct().len()));
    }
    let search = |label: usize, query: usize| RecordedSearch {
        probe: query.to_string(),
        label: set.names[label].clone(),
        truth: TrialKind::NeverEnrolled,
        found: Some(RecordedMatch {
            item: "item".to_owned(),
            label: "enrolled".to_owned(),
            score: set.best(query, &draw.enrolled),
            adjusted: None,
            other: None,
        }),
        conditions: BTreeMap::from([
            ("condition".to_owned(), set.queries[query].condition.clone()),
            ("tested".to_owned(), set.tested[label].to_string()),
        ]),
    };
    let searches = labels.into_iter().flat_map(|label| {
        let queries = set.of(label, None).into_iter();
        queries.map(move |query| search(label, query))
    });
    searches.collect()
}

fn cluster_mark(draw: &Draw<'_>, certificate: &Certificate) -> Option<ClusterMark> {
    let set = draw.set;
    let searches = strangers(draw, true);
    let vector_of = |probe: &str| {
        let query = &set.queries[probe.parse::<usize>().ok()?];
        Some(&*query.vector)
    };
    let worst = of_vectors(&searches, certificate.threshold, &vector_of, 0)?;
    let tested = |label: &String| set.tested[set.names.binary_search(label).unwrap()];
    Some(ClusterMark {
        marked: FAR < worst.far.estimate,
        telling: !worst.labels.iter().any(tested),
    })
}

/// Whether the stress report marks what it would have to.
fn is_named(draw: &Draw<'_>, certificate: &Certificate, named_by: NamedBy<'_>) -> bool {
    let searches = strangers(draw, named_by == NamedBy::OtherKinds);
    let stresses = of_searches(&searches, certificate.threshold);
    stresses.iter().any(|stress| {
        let is_value =
            |value: String| stress.kind == StressKind::WorstValue && stress.who.contains(&value);
        let is_it = match named_by {
            NamedBy::Nothing => false,
            NamedBy::WorstValue(value) => is_value(format!("condition is {value},")),
            NamedBy::OtherKinds => is_value("tested is false,".to_owned()),
            NamedBy::NearestTenth => stress.kind == StressKind::NearestDecile,
        };
        is_it && FAR < stress.far.estimate
    })
}

fn left_out_warns(draw: &Draw<'_>, certificate: &Certificate, changed: &Changed<'_>) -> bool {
    let set = draw.set;
    let round = |gallery: &[usize]| {
        let searches = gallery
            .iter()
            .filter(|label| !set.between[**label].is_empty());
        let searches = searches.map(|&label| {
            let others = gallery.iter().copied().filter(|other| *other != label);
            let near = |other: &usize| set.between[label][*other];
            let best = others.max_by(|a, b| near(a).total_cmp(&near(b)));
            let accepted = best.filter(|best| certificate.threshold.get() <= near(best));
            LeftOutSearch {
                label: set.names[label].clone(),
                accepted_as: accepted.map(|other| set.names[other].clone()),
            }
        });
        LeftOutRate::of(&searches.collect::<Vec<_>>())
    };
    let (now, first) = (round(&changed.gallery), round(&draw.enrolled));
    now.is_some_and(|now| {
        let standing = LeftOutStanding {
            now,
            first,
            target_far: Some(FAR),
        };
        standing.exceeds()
    })
}

/// Searches, half of them mated, until so many of them are sampled by the usual design, all labelled.
fn audit(draw: &mut Draw<'_>, certificate: &Certificate, changed: &Changed<'_>) -> Option<u64> {
    let (set, strata) = (draw.set, Strata::usual());
    let mut known: BTreeMap<(usize, usize), (AuditRow, SearchTruth)> = BTreeMap::new();
    let mut rows: Vec<AuditRow> = Vec::new();
    while (rows.len() as u64) < LABELS {
        let mated = draw.audited.below(2) == 0;
        let labels = if mated {
            &changed.mated
        } else {
            &changed.strangers
        };
        let label = labels[draw.audited.below(labels.len())];
        let queries = set.of(label, changed.condition);
        if queries.is_empty() {
            continue;
        }
        let query = queries[draw.audited.below(queries.len())];
        let (row, truth) = *known.entry((label, query)).or_insert_with(|| {
            let best = set.best(query, &changed.gallery);
            let place = strata.place(Some(best), certificate.threshold);
            let row = AuditRow {
                grown: false,
                stratum: place.stratum,
                accepted: certificate.threshold.decide(Some(best)) == Decision::Accept,
                inclusion: place.inclusion,
                truth: None,
            };
            let truth = match mated {
                true if set.nearest[query][label] < best.get() => SearchTruth::MatedWrong,
                true => SearchTruth::MatedRight,
                false => SearchTruth::NonMated,
            };
            (row, truth)
        });
        let bits = (0..2).fold(0_u64, |bits, _| {
            (bits << 32) | draw.audited.below(1 << 32) as u64
        });
        if row.inclusion.samples(bits) {
            rows.push(AuditRow {
                truth: Some(truth),
                ..row
            });
        }
    }
    let null = Null::new(FAR, DELTA).unwrap();
    let bet = Bet::new(null, ErrorSide::FalseAccept, &strata);
    bet.settle(rows).unwrap().alarm_at
}
