//! Judges whether the labels at hand suffice to calibrate the deployment again.
//!
//! The audit samples decisions with unequal probabilities, but a certificate needs a simple random sample of
//! the searches. Thinning makes one: the more likely a decision was to be sampled, the more likely it is
//! dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::audit::{AuditRow, SearchTruth};
use super::observed::AuditWindow;
use super::sequential::ErrorSide;
use super::strata::uniform;
use crate::binomial::real;
use crate::operating_point::OperatingPoint;

/// A row of the audit with the sampling hash of its decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledRow {
    /// The row.
    pub row: AuditRow,
    /// 64 uniformly distributed bits (see [`super::strata::Inclusion::samples`]).
    pub sampling_hash: u64,
}

/// Selects labelled rows that form a simple random sample: each decision of the period is selected with the
/// same probability, whatever its score. Returns indices into `sampled`.
///
/// A labelled row represents w decisions: 1 / probability, and more if only part of its stratum is labelled.
/// It is selected with probability w / (the highest w). If all rows are labelled, this is (the lowest
/// probability) / (its own probability). Its sampling hash decides; given that the decision was sampled, the
/// hash is uniform below the sampling probability. So no new randomness is needed, and the same rows are
/// selected each time.
///
/// Makes the same assumptions as [`super::audit::AuditSample`]. `None` if there is no label, or if a stratum
/// has sampled decisions but no labelled one, because then no row represents its decisions.
#[must_use]
pub fn plain_sample(sampled: &[SampledRow]) -> Option<Vec<usize>> {
    let shares = labelled_shares(sampled)?;
    let labelled = || {
        let rows = sampled.iter().enumerate();
        rows.filter(|(_, sampled)| sampled.row.truth.is_some())
            .filter_map(|(place, sampled)| {
                Some((place, sampled, *shares.get(&sampled.row.stratum)?))
            })
    };
    let least = labelled()
        .map(|(_, sampled, share)| sampled.row.inclusion.get() * share)
        .reduce(f64::min)?;
    let kept =
        labelled().filter(|(_, sampled, share)| uniform(sampled.sampling_hash) < least / share);
    Some(kept.map(|(place, _, _)| place).collect())
}

/// For each stratum, the labelled share of the decisions that its rows represent.
fn labelled_shares(sampled: &[SampledRow]) -> Option<BTreeMap<usize, f64>> {
    let mut sums: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
    for SampledRow { row, .. } in sampled {
        let stands_for = 1.0 / row.inclusion.get();
        let [labelled, all] = sums.entry(row.stratum).or_default();
        *all += stands_for;
        if row.truth.is_some() {
            *labelled += stands_for;
        }
    }
    let shares = sums.into_iter();
    shares
        .map(|(stratum, [labelled, all])| (0.0 < labelled).then(|| (stratum, labelled / all)))
        .collect()
}

/// What a certificate for the target of an operating point needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certifying {
    /// False accepts if strangers are needed, for a target FAR; false rejects if mated searches are needed,
    /// for a target FRR.
    pub side: ErrorSide,
    /// The least number of independent searches of that kind, if none of them is in error.
    pub searches: u64,
}

impl Certifying {
    /// The requirement for the operating point's target FAR or FRR; `None` if it has neither.
    #[must_use]
    pub fn of(point: &OperatingPoint) -> Option<Self> {
        let content = point.content();
        let far = || {
            Some(Self {
                side: ErrorSide::FalseAccept,
                searches: content.target_far()?.trials_needed(),
            })
        };
        let frr = || {
            Some(Self {
                side: ErrorSide::FalseReject,
                searches: content.frr_certificate()?.target.trials_needed(0, 0)?,
            })
        };
        far().or_else(frr)
    }
}

/// Whether the labels at hand suffice to certify the operating point's target again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recalibration {
    /// False accepts if strangers are needed, for a target FAR; false rejects if mated searches are needed,
    /// for a target FRR.
    pub side: ErrorSide,
    /// The least number of independent searches needed, if none of them is in error.
    pub needed: u64,
    /// The number of independent searches in the simple random sample of the labels. Each named stranger and
    /// each enrolled label counts once; each decision on an unnamed stranger counts as another stranger.
    /// `None` if the labels give no such sample.
    pub present: Option<u64>,
    /// How many of them are unnamed strangers. They certify nothing unless each is known to be a different
    /// one.
    pub unnamed: u64,
    /// Approximate number of labels that are missing, if sampling goes on as before; 0 if none is. `None` if
    /// it cannot be estimated.
    pub labels_missing: Option<u64>,
    /// Only decisions made from this time on are counted, in milliseconds since 1970-01-01 UTC: from the
    /// start of a rise, because earlier traffic differs from today's. `None` if all decisions are counted.
    pub since_unix_ms: Option<u64>,
}

impl Recalibration {
    /// Counts the independent searches among the sampled decisions from number `from` on; numbers start at 1.
    #[must_use]
    pub fn of(certifying: Certifying, seen: &AuditWindow<'_>, from: Option<u64>) -> Self {
        let Certifying { side, searches } = certifying;
        let before = from.and_then(|from| usize::try_from(from.checked_sub(1)?).ok());
        let rows = seen.rows.iter().zip(seen.sampling_hashes);
        let sampled: Vec<SampledRow> = rows
            .skip(before.unwrap_or(0))
            .map(|(row, sampling_hash)| SampledRow {
                row: *row,
                sampling_hash: *sampling_hash,
            })
            .collect();
        let labelled = sampled.iter().filter(|sampled| sampled.row.truth.is_some());
        let labelled = labelled.count() as u64;
        let kept = plain_sample(&sampled).map(|kept| {
            let kept = kept.into_iter().map(|place| place + before.unwrap_or(0));
            independent(side, seen, &kept.collect())
        });
        let present = kept.map(|kept| kept.named + kept.unnamed);
        Self {
            side,
            needed: searches,
            present,
            unnamed: kept.map_or(0, |kept| kept.unnamed),
            labels_missing: present.and_then(|present| missing(searches, present, labelled)),
            since_unix_ms: before.and_then(|before| seen.unix_ms.get(before).copied()),
        }
    }

    /// The result and the advice as text.
    #[must_use]
    pub fn says(&self) -> String {
        let (strangers, targets) = match self.side {
            ErrorSide::FalseAccept => ("strangers", "FAR"),
            ErrorSide::FalseReject => ("enrolled labels", "FRR"),
        };
        let Self { needed, .. } = self;
        let takes = format!(
            "To certify the target {targets} again takes {needed} {strangers} at the least, each once and none chosen by its score"
        );
        let since = self.since_unix_ms.map(rfc_3339);
        let when = since
            .as_ref()
            .map_or_else(String::new, |since| format!(" made since {since}"));
        let Some(present) = self.present else {
            return format!(
                "{takes}; the labels{when} make no plain sample yet: label some of every stratum, or collect {needed} pictures of {strangers} as they come."
            );
        };
        let unnamed = if 0 < self.unnamed {
            format!(
                " ({} of them pictures of strangers without a name, by whom nothing is certified unless each is known to be another one)",
                self.unnamed
            )
        } else {
            String::new()
        };
        let have = format!("{takes}; the labels{when} hold {present} as a plain sample{unnamed}");
        if *needed <= present {
            let from = since.map_or_else(String::new, |since| format!(" --since {since}"));
            return format!(
                "{have}. That is enough: `matchpoint audit export DEPLOYMENT --for-calibration DIR{from}` writes their pictures, where they are kept, for `matchpoint calibrate DEPLOYMENT --queries DIR/labelled.csv`."
            );
        }
        let labels = self.labels_missing.map_or_else(String::new, |missing| {
            format!("about {missing} more labels, sampled as up to now, or ")
        });
        let pictures = needed - present;
        format!(
            "{have}. Still missing: {labels}{pictures} pictures of other {strangers} as they come."
        )
    }
}

fn rfc_3339(unix_ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The number of independent searches of one side.
#[derive(Clone, Copy, Debug)]
struct Independent {
    /// Number of different labels, or of different strangers with a name.
    named: u64,
    /// Number of decisions on unnamed strangers.
    unnamed: u64,
}

/// Counts the independent searches among the rows in `kept`.
fn independent(side: ErrorSide, seen: &AuditWindow<'_>, kept: &BTreeSet<usize>) -> Independent {
    let of_side = |case: &&super::shared_causes::Case| match side {
        ErrorSide::FalseAccept => case.truth == SearchTruth::NonMated,
        ErrorSide::FalseReject => case.truth != SearchTruth::NonMated,
    };
    let cases = || {
        let kept = seen.cases.iter().filter(|case| kept.contains(&case.place));
        kept.filter(of_side)
    };
    let named: BTreeSet<&str> = cases().filter_map(|case| case.shown.as_deref()).collect();
    let unnamed = cases().filter(|case| case.shown.is_none()).count();
    Independent {
        named: named.len() as u64,
        unnamed: match side {
            ErrorSide::FalseAccept => unnamed as u64,
            ErrorSide::FalseReject => 0,
        },
    }
}

/// Number of labels still to be made, if each gives as many independent searches as those at hand; `None` if
/// those give none.
fn missing(needed: u64, present: u64, labelled: u64) -> Option<u64> {
    if present == 0 {
        return None;
    }
    let more = real(needed.saturating_sub(present)) * real(labelled) / real(present);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a cast of what is too large gives the largest"
    )]
    let more = more.ceil() as u64;
    Some(more)
}

#[cfg(test)]
mod tests {
    use super::super::audit::AcceptFeedback;
    use super::super::shared_causes::Case;
    use super::super::strata::{Inclusion, Strata};
    use super::*;
    use crate::certify::TargetFar;

    use crate::splitmix64::next as bits;

    /// Number of strangers in each stratum of the usual design. The upper three strata are accepts.
    const STRANGERS: [u64; 6] = [12_000, 6_000, 1_400, 400, 150, 50];
    const TRUE_FAR: f64 = 600.0 / 20_000.0;

    /// A sample of them; `labelled` is the labelled share of each stratum.
    fn sampled(state: &mut u64, labelled: [f64; 6]) -> Vec<SampledRow> {
        let strata = Strata::usual();
        let mut sampled = Vec::new();
        for (stratum, count) in STRANGERS.into_iter().enumerate() {
            for _ in 0..count {
                let sampling_hash = bits(state);
                let inclusion = strata.inclusion(stratum).unwrap();
                if inclusion.samples(sampling_hash) {
                    let said = uniform(bits(state)) < labelled[stratum];
                    let row = AuditRow {
                        grown: false,
                        stratum,
                        accepted: strata.accepts(stratum).unwrap(),
                        inclusion,
                        truth: said.then_some(SearchTruth::NonMated),
                    };
                    sampled.push(SampledRow { row, sampling_hash });
                }
            }
        }
        sampled
    }

    /// The share of accepts over 200 periods together, first among all labels, then in the simple random
    /// samples; and the mean number of rows in such a sample.
    fn shares(labelled: [f64; 6]) -> [f64; 3] {
        let (mut all, mut plain) = ([0_u64; 2], [0_u64; 2]);
        let count = |sums: &mut [u64; 2], sampled: &SampledRow| {
            sums[0] += u64::from(sampled.row.accepted);
            sums[1] += 1;
        };
        let mut state = 7;
        for _ in 0..200 {
            let rows = sampled(&mut state, labelled);
            let with_label = rows.iter().filter(|sampled| sampled.row.truth.is_some());
            with_label.for_each(|sampled| count(&mut all, sampled));
            let kept = plain_sample(&rows).unwrap();
            kept.iter()
                .for_each(|&place| count(&mut plain, &rows[place]));
        }
        let share = |[accepted, of]: [u64; 2]| real(accepted) / real(of);
        [share(all), share(plain), real(plain[1]) / 200.0]
    }

    #[test]
    fn the_plain_sample_has_the_far_of_the_traffic_where_the_labels_have_six_times_that() {
        let [all, plain, rows] = shares([1.0; 6]);
        assert!(0.15 < all, "{all}");
        // Its standard error is .0012.
        assert!((plain - TRUE_FAR).abs() < 0.004, "{plain}");
        // Half a per cent of 20,000 decisions.
        assert!((rows - 100.0).abs() < 3.0, "{rows}");
    }

    #[test]
    fn so_it_has_where_of_some_strata_a_part_is_labelled() {
        let [_, plain, rows] = shares([0.5, 1.0, 0.5, 0.1, 1.0, 1.0]);
        // Its standard error is .0017.
        assert!((plain - TRUE_FAR).abs() < 0.005, "{plain}");
        assert!((rows - 50.0).abs() < 3.0, "{rows}");
    }

    #[test]
    fn what_no_label_stands_for_leaves_no_plain_sample() {
        let mut state = 7;
        assert_eq!(plain_sample(&[]), None);
        let rows = sampled(&mut state, [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(plain_sample(&rows), None);
    }

    /// Strangers and enrolled labels, with every decision sampled.
    fn recalibration(certifying: Certifying, strangers: u64, from: Option<u64>) -> Recalibration {
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let truths = (0..strangers).map(|_| SearchTruth::NonMated);
        let truths: Vec<SearchTruth> = truths.chain([SearchTruth::MatedRight; 40]).collect();
        let row = |truth: &SearchTruth| AuditRow {
            grown: false,
            stratum: usize::from(*truth != SearchTruth::NonMated),
            accepted: *truth != SearchTruth::NonMated,
            inclusion: Inclusion::ALWAYS,
            truth: Some(*truth),
        };
        let case = |(place, truth): (usize, &SearchTruth)| Case {
            place,
            accepted: *truth != SearchTruth::NonMated,
            truth: *truth,
            found: None,
            // Four searches for each label.
            shown: (*truth != SearchTruth::NonMated).then(|| (place / 4).to_string()),
            conditions: BTreeMap::new(),
        };
        let rows: Vec<AuditRow> = truths.iter().map(row).collect();
        let cases: Vec<Case> = truths.iter().enumerate().map(case).collect();
        let unix_ms: Vec<u64> = (0..rows.len() as u64).map(|place| 1_000 * place).collect();
        let seen = AuditWindow {
            representative_from: 0,
            strata: &strata,
            rows: &rows,
            counted: None,
            reviews: None,
            unix_ms: &unix_ms,
            sampling_hashes: &vec![0; rows.len()],
            cases: &cases,
            unusable: 0,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
            gallery: None,
            grown: false,
            raised: [false; 2],
            reset: false,
        };
        Recalibration::of(certifying, &seen, from)
    }

    #[test]
    fn it_counts_what_the_certificate_counts_and_says_how_many_labels_are_missing() {
        let target = TargetFar::new(0.01, 0.95).unwrap();
        let far = Certifying {
            side: ErrorSide::FalseAccept,
            searches: target.trials_needed(),
        };
        let enough = recalibration(far, 300, None);
        assert_eq!((enough.needed, enough.present), (299, Some(300)));
        assert_eq!(enough.labels_missing, Some(0));
        assert!(
            enough.says().contains("That is enough"),
            "{}",
            enough.says()
        );

        // There are 100 strangers in 140 labels, so 199 more strangers need 279 labels.
        let few = recalibration(far, 100, None);
        assert_eq!((few.present, few.labels_missing), (Some(100), Some(279)));
        let says = few.says();
        assert!(says.contains("279 more labels"), "{says}");
        assert!(says.contains("199 pictures of other strangers"), "{says}");

        let lately = recalibration(far, 300, Some(51));
        assert_eq!(lately.present, Some(250));
        assert_eq!(lately.since_unix_ms, Some(50_000));
        assert!(
            lately.says().contains("1970-01-01T00:00:50.000Z"),
            "{}",
            lately.says()
        );

        assert_eq!(enough.unnamed, 300);
        assert!(enough.says().contains("strangers without a name"));

        let frr = Certifying {
            side: ErrorSide::FalseReject,
            ..far
        };
        let found = recalibration(frr, 100, None);
        assert_eq!(found.present, Some(10), "each label counts once");
    }

    #[test]
    fn each_stranger_with_a_name_counts_once() {
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let row = AuditRow {
            grown: false,
            stratum: 0,
            accepted: false,
            inclusion: Inclusion::ALWAYS,
            truth: Some(SearchTruth::NonMated),
        };
        // Ten decisions on three named strangers, and two on unnamed ones.
        let names = (0..10).map(|n| Some(format!("visitor {}", n % 3)));
        let cases: Vec<Case> = names
            .chain([None, None])
            .enumerate()
            .map(|(place, shown)| Case {
                place,
                accepted: false,
                truth: SearchTruth::NonMated,
                found: None,
                shown,
                conditions: BTreeMap::new(),
            })
            .collect();
        let seen = AuditWindow {
            representative_from: 0,
            strata: &strata,
            rows: &[row; 12],
            counted: None,
            reviews: None,
            unix_ms: &[0; 12],
            sampling_hashes: &[0; 12],
            cases: &cases,
            unusable: 0,
            feedback: AcceptFeedback { right: 0, wrong: 0 },
            gallery: None,
            grown: false,
            raised: [false; 2],
            reset: false,
        };
        let far = Certifying {
            side: ErrorSide::FalseAccept,
            searches: 4,
        };
        let found = Recalibration::of(far, &seen, None);
        assert_eq!((found.present, found.unnamed), (Some(5), 2));
        let says = found.says();
        assert!(
            says.contains("audit export DEPLOYMENT --for-calibration"),
            "{says}"
        );
        assert!(says.contains("calibrate DEPLOYMENT --queries"), "{says}");
    }
}
