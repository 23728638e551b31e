//! Gathers evidence against a promise while outcomes come in. The evidence may be checked after each outcome.
//!
//! An e-process starts at 1. While the promise is kept, its expected value never grows, and it ever exceeds 1
//! / delta with a probability of at most delta (Ville 1939; Ramdas, Grünwald, Vovk and Shafer 2023). Checking
//! it every day costs nothing, unlike repeating a test that is made for one sample size.

use super::MonitoringError;
use super::audit::{AuditRow, SearchTruth};
use super::strata::Strata;
use crate::binomial::real;

/// The null hypothesis that a promise is kept: for every decision, given all earlier ones, the error
/// probability is at most `limit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Null {
    limit: f64,
    delta: f64,
}

/// The highest limit that evidence can be gathered against, because a rate of 1 cannot be exceeded.
pub const LIMIT_MAX: f64 = 0.999;

impl Null {
    /// Takes the highest allowed rate, and the probability `delta` with which an alarm may ever be raised
    /// while the rate is kept. With several deployments, divide delta among them.
    ///
    /// # Errors
    /// Returns an error for a limit outside [1e-9, [`LIMIT_MAX`]] and for a delta outside [1e-9, 0.5].
    pub fn new(limit: f64, delta: f64) -> Result<Self, MonitoringError> {
        if !(1e-9..=LIMIT_MAX).contains(&limit) {
            return Err(MonitoringError::Limit { value: limit });
        }
        if !(1e-9..=0.5).contains(&delta) {
            return Err(MonitoringError::Delta { value: delta });
        }
        Ok(Self { limit, delta })
    }

    /// The highest rate that is allowed.
    #[must_use]
    pub fn limit(self) -> f64 {
        self.limit
    }

    /// The highest probability of ever raising a false alarm.
    #[must_use]
    pub fn delta(self) -> f64 {
        self.delta
    }
}

/// The evidence that outcomes give against a promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EProcess {
    /// The natural logarithm of the e-process after the last outcome; 0 before the first.
    pub ln_e: f64,
    /// The highest value that `ln_e` ever had; at least 0.
    pub ln_e_max: f64,
    /// The value of `ln_e` at which the alarm is raised: ln(1 / delta).
    pub ln_e_alarm: f64,
    /// Number of outcomes that were examined.
    pub observations: u64,
    /// The number, from 1, of the outcome that raised the alarm, which then stays raised; 0 if outcomes
    /// raised it that are no longer kept. `None` without an alarm, which is no evidence that the promise is
    /// kept.
    pub alarm_at: Option<u64>,
}

/// The alternative rates are these multiples of the limit, so that nobody has to guess one. Averaging over
/// four costs at most ln 4 of `ln_e`, compared with the best of them.
const MULTIPLES: [f64; 4] = [1.5, 2.0, 4.0, 10.0];

/// The evidence of outcomes that are all observed, such as those of canaries; `true` is an error.
///
/// It is the likelihood ratio of independent outcomes, averaged over alternatives of 1.5, 2, 4 and 10 times
/// the limit. It is valid for any true rate up to the limit, because each likelihood ratio is expected to be
/// smaller at a lower rate.
#[must_use]
pub fn of_outcomes(null: Null, outcomes: impl IntoIterator<Item = bool>) -> EProcess {
    ratios(null, &alternatives(null), outcomes)
}

/// The alternative rates, which have to stay below 1.
fn alternatives(null: Null) -> [f64; 4] {
    MULTIPLES.map(|multiple| (multiple * null.limit).min(f64::midpoint(null.limit, 1.0)))
}

/// The log likelihood ratios of an error and of another outcome, for one alternative rate.
fn ln_ratios(null: Null, rate: f64) -> [f64; 2] {
    let other = (-rate).ln_1p() - (-null.limit).ln_1p();
    [(rate / null.limit).ln(), other]
}

/// The likelihood ratio of independent outcomes, averaged over alternative rates, which must all lie above
/// the limit and below 1.
fn ratios(null: Null, rates: &[f64], outcomes: impl IntoIterator<Item = bool>) -> EProcess {
    let mut mixture = Mixture::new(null, rates.len());
    for error in outcomes {
        mixture.step(rates, |rate| {
            let [of_error, of_other] = ln_ratios(null, rate);
            if error { of_error } else { of_other }
        });
    }
    mixture.process
}

/// The kind of error that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSide {
    /// A non-mated search is accepted.
    FalseAccept,
    /// A mated search is rejected, or accepted with a wrong label.
    FalseReject,
}

/// A bet against a promise (testing by betting) on audited decisions, which are observed with known
/// probabilities.
///
/// Each decision contributes X = (S / pi) r (e - limit), where S = 1 if it was sampled, r = 1 if it could
/// have been an error of this kind, and e = 1 if it was one. While the promise is kept, X has an expected
/// value of at most 0, so the product of 1 + lambda X is an e-process for each fixed lambda (Waudby-Smith and
/// Ramdas 2024), and so is an average over several lambdas. A bet that starts at the first decision loses
/// much of its wealth during a long quiet period. Therefore the average is also taken over starting times:
/// half of the weight starts at the first decision, and the rest at later ones.
///
/// A labelling budget multiplies all pi by one factor that is fixed before the decision is made. The stake is
/// multiplied by the same factor, which may depend on the past, so the two cancel: only the pi of the design
/// counts, whatever part of it was in force at the time.
///
/// The promise of a FAR can change with the size of the gallery. Then the limit of each decision is the one that
/// its own answer promised: it is fixed before the decision is made, so the expected value of X is at most 0
/// as long as every promise is kept, and the bound on false alarms is the same. No evidence against one limit
/// becomes evidence against another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bet<'a> {
    null: Null,
    side: ErrorSide,
    strata: &'a Strata,
    stakes: [f64; STAKES],
    double: f64,
    /// The highest rate that was promised for decisions in a gallery that had grown, if it is another.
    grown: Option<f64>,
}

/// The largest part of its wealth that a bet may lose by one decision.
const LOSS_MAX: f64 = 0.5;
/// Number of stakes that are averaged. This costs at most ln 6 of `ln_e`, compared with the best of them.
const STAKES: usize = 6;

impl<'a> Bet<'a> {
    /// A bet on decisions that are sampled by `strata`.
    ///
    /// An error that is sampled with probability pi multiplies the wealth by about 1 + lambda / pi. If all
    /// decisions were sampled with the same pi, the best lambda for a rate of some multiple of its limit
    /// would be pi (multiple - 1). It is smaller if some decisions are sampled more rarely and therefore
    /// weigh more. So the stakes form a geometric sequence from pi / 16 to 9 pi, where pi is that of the
    /// stratum next to the threshold, in which such errors are most likely. They are capped at half of the
    /// lowest pi divided by the limit, so that one decision costs at most half of the wealth.
    #[must_use]
    pub fn new(null: Null, side: ErrorSide, strata: &'a Strata) -> Self {
        let likeliest = match side {
            ErrorSide::FalseAccept => strata.first_accepting(),
            // The stratum just below the threshold.
            ErrorSide::FalseReject => strata.first_accepting().saturating_sub(1),
        };
        let floor = strata.floor();
        let likely = strata.inclusion(likeliest).unwrap_or(floor).get();
        let most = LOSS_MAX * floor.get() / null.limit;
        Self {
            null,
            side,
            strata,
            // With this stake, an error in that stratum doubles the wealth, which is the ratio of the two
            // rates.
            double: (likely / (1.0 - null.limit)).min(most),
            stakes: between((0.5 * likely).min(most) / 8.0, (9.0 * likely).min(most)),
            grown: None,
        }
    }

    /// The same bet, if for decisions in a gallery that had grown another limit was promised.
    #[must_use]
    pub fn with_grown(self, null: Option<Null>) -> Self {
        Self {
            grown: null.map(Null::limit),
            ..self
        }
    }

    /// The limit of a decision: the one that its answer promised.
    fn limit_of(&self, row: &AuditRow) -> f64 {
        let grown = self.grown.filter(|_| row.grown);
        grown.unwrap_or(self.null.limit)
    }

    /// The highest stake on a decision: one that loses half of the wealth at the most.
    pub(super) fn stake_max(&self, row: &AuditRow) -> f64 {
        LOSS_MAX * self.strata.floor().get() / self.limit_of(row)
    }

    /// Computes the evidence after `rows`, the sampled decisions in the order in which they were made.
    ///
    /// It is computed again whenever a label is added or corrected. A row without a label counts as the
    /// outcome that supports the promise most. So late labels can only increase the evidence, and the bound
    /// on false alarms holds whichever labels are missing.
    ///
    /// # Errors
    /// Returns an error if a row has a stratum that the design does not have.
    pub fn settle(
        &self,
        rows: impl IntoIterator<Item = AuditRow>,
    ) -> Result<EProcess, MonitoringError> {
        let mut mixture = Mixture::new(self.null, self.stakes.len());
        for row in rows {
            let (gain, most) = (self.weighted_gain(&row)?, self.stake_max(&row));
            mixture.step_or_begin(&self.stakes, |stake| (stake.min(most) * gain).ln_1p());
        }
        Ok(mixture.process)
    }

    /// X of a sampled row: r (e - limit) / pi, with the limit of the row. The pi is that of the design, because the factor of a
    /// labelling budget cancels.
    ///
    /// # Errors
    /// Returns an error if a row has a stratum that the design does not have.
    pub(super) fn weighted_gain(&self, row: &AuditRow) -> Result<f64, MonitoringError> {
        let Some(inclusion) = self.strata.inclusion(row.stratum) else {
            return Err(MonitoringError::RowOfAnother {
                stratum: row.stratum,
                outcome: if row.accepted { "accepted" } else { "rejected" },
            });
        };
        Ok(self.gain(row) / inclusion.get())
    }

    /// The best stake for a rate of twice the limit, for errors where they are most likely. If all decisions
    /// are sampled, it makes 1 + lambda X the likelihood ratio of the doubled rate.
    pub(super) fn stake_for_double(&self) -> f64 {
        self.double
    }

    /// r (e - limit).
    fn gain(&self, row: &AuditRow) -> f64 {
        let error = match (self.side, row.accepted, row.truth) {
            // A row without a label counts as mated; for false rejects, an accepted one counts as correctly
            // matched.
            (ErrorSide::FalseAccept, true, None) | (ErrorSide::FalseReject, false, None) => None,
            (ErrorSide::FalseAccept, false, None) | (ErrorSide::FalseReject, true, None) => {
                Some(false)
            }
            (ErrorSide::FalseAccept, accepted, Some(SearchTruth::NonMated)) => Some(accepted),
            (
                ErrorSide::FalseAccept,
                _,
                Some(SearchTruth::MatedRight | SearchTruth::MatedWrong),
            )
            | (ErrorSide::FalseReject, _, Some(SearchTruth::NonMated)) => None,
            (ErrorSide::FalseReject, accepted, Some(SearchTruth::MatedRight)) => Some(!accepted),
            (ErrorSide::FalseReject, _, Some(SearchTruth::MatedWrong)) => Some(true),
        };
        error.map_or(0.0, |error| f64::from(u8::from(error)) - self.limit_of(row))
    }
}

/// A geometric sequence from the lowest to the highest.
fn between(lowest: f64, highest: f64) -> [f64; STAKES] {
    let ratio = (highest / lowest).powf(1.0 / real(STAKES as u64 - 1));
    let mut next = lowest;
    [(); STAKES].map(|()| {
        let this = next;
        next *= ratio;
        this
    })
}

/// Several e-processes on the same outcomes, and their average.
struct Mixture {
    logs: Vec<f64>,
    process: EProcess,
}

impl Mixture {
    fn new(null: Null, count: usize) -> Self {
        Self {
            logs: vec![0.0; count],
            process: EProcess {
                ln_e: 0.0,
                ln_e_max: 0.0,
                ln_e_alarm: -null.delta.ln(),
                observations: 0,
                alarm_at: None,
            },
        }
    }

    fn step(&mut self, parameters: &[f64], ln_factor: impl Fn(f64) -> f64) {
        for (log, &parameter) in self.logs.iter_mut().zip(parameters) {
            *log += ln_factor(parameter);
        }
        self.record(ln_mean_exp(&self.logs));
    }

    /// Like [`Mixture::step`], but a part of the remaining weight also starts a new bet at each outcome. All
    /// started bets are multiplied by the same factor, so only their sum is kept.
    fn step_or_begin(&mut self, parameters: &[f64], ln_factor: impl Fn(f64) -> f64) {
        // A part of the weight that has not started yet starts now; the rest keeps its wealth of 1.
        let before = self.process.observations;
        let begins = (unbegun(before) - unbegun(before + 1)).ln();
        let left = unbegun(before + 1).ln();
        for (log, &parameter) in self.logs.iter_mut().zip(parameters) {
            // Before the first outcome, no bet has started.
            let begun = if before == 0 {
                begins
            } else {
                ln_add_exp(*log, begins)
            };
            *log = begun + ln_factor(parameter);
        }
        self.record(ln_add_exp(ln_mean_exp(&self.logs), left));
    }

    fn record(&mut self, ln_e: f64) {
        let process = &mut self.process;
        process.observations += 1;
        process.ln_e = ln_e;
        process.ln_e_max = process.ln_e_max.max(process.ln_e);
        if process.alarm_at.is_none() && process.ln_e_alarm <= process.ln_e {
            process.alarm_at = Some(process.observations);
        }
    }
}

/// The weight of the bets that start after `observations` outcomes. It is 1 before the first outcome, and
/// then decreases so slowly that a late start still has some weight.
pub(super) fn unbegun(observations: u64) -> f64 {
    1.0 / (1.0 + real(observations + 1).log2())
}

fn ln_add_exp(a: f64, b: f64) -> f64 {
    a.max(b) + (-(a - b).abs()).exp().ln_1p()
}

/// The logarithm of the mean of numbers with these logarithms.
pub(super) fn ln_mean_exp(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
    most + (sum / real(logs.len() as u64)).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::monitoring::strata::Inclusion;
    use crate::splitmix64::SimulatedDraws;

    fn null() -> Null {
        Null::new(0.01, 0.05).unwrap()
    }

    fn close(found: f64, expected: f64, within: f64) {
        assert!(
            (found - expected).abs() <= within,
            "{found} is not {expected}"
        );
    }

    /// 30 zeros, 1, 20 zeros, 1, 10 zeros, 1, 1, 0, 1.
    fn reference() -> Vec<bool> {
        let mut outcomes = Vec::new();
        for zeros in [30, 20, 10, 0, 1] {
            outcomes.extend(std::iter::repeat_n(false, zeros));
            outcomes.push(true);
        }
        outcomes
    }

    #[test]
    fn the_likelihood_ratio_is_that_of_the_reference() {
        let one = |error| ratios(null(), &[0.02], [error]).ln_e;
        close(one(true), std::f64::consts::LN_2, 1e-15);
        close(one(false), -0.010_152_371_464, 1e-12);
        let found = ratios(null(), &[0.02], reference());
        close(found.ln_e, 2.846_441_243, 5e-10);
        close(found.ln_e_alarm, 20.0_f64.ln(), 1e-12);
        assert_eq!((found.observations, found.alarm_at), (66, None));
    }

    #[test]
    fn an_alarm_names_its_outcome_and_stays() {
        let outcomes = reference().into_iter().chain([true]);
        let calm = std::iter::repeat_n(false, 500);
        let found = ratios(null(), &[0.02], outcomes.chain(calm));
        assert_eq!(found.alarm_at, Some(67));
        assert!(found.ln_e < 0.0);
        close(found.ln_e_max, 2.846_441_243 + 2.0_f64.ln(), 5e-10);
    }

    #[test]
    fn the_average_is_short_of_its_best_alternative_by_the_logarithm_of_their_number_at_most() {
        let average = of_outcomes(null(), reference()).ln_e;
        let best = MULTIPLES
            .map(|m| ratios(null(), &[m * 0.01], reference()).ln_e)
            .into_iter()
            .fold(0.0, f64::max);
        assert!(
            best - 4.0_f64.ln() <= average && average <= best,
            "{average} {best}"
        );
    }

    fn row(stratum: usize, truth: Option<SearchTruth>) -> AuditRow {
        let strata = Strata::usual();
        AuditRow {
            grown: false,
            stratum,
            accepted: strata.accepts(stratum).unwrap(),
            inclusion: strata.inclusion(stratum).unwrap(),
            truth,
        }
    }

    #[test]
    fn each_audited_decision_multiplies_the_wealth_as_defined() {
        let strata = Strata::usual();
        let bet = Bet::new(null(), ErrorSide::FalseAccept, &strata);
        let ln_e = |row: AuditRow| bet.settle([row]).unwrap().ln_e;
        // pi = 0.2 at the threshold and 0.005 at the lowest, so the stakes range from 0.0125 to 0.25.
        let mean = |gain: f64| {
            let stakes = (0..6).map(|step| 0.0125 * 20.0_f64.powf(f64::from(step) / 5.0));
            let factors = stakes.map(|stake| 1.0 + stake * gain);
            // Half of the weight starts with the first decision.
            (0.5 + 0.5 * factors.sum::<f64>() / 6.0).ln()
        };
        close(
            ln_e(row(3, Some(SearchTruth::NonMated))),
            mean(0.99 / 0.2),
            1e-12,
        );
        close(
            ln_e(row(0, Some(SearchTruth::NonMated))),
            mean(-0.01 / 0.005),
            1e-12,
        );
        close(ln_e(row(3, Some(SearchTruth::MatedWrong))), 0.0, 0.0);
        // A budget samples a tenth of the decisions and divides the stake by ten too.
        let rarer = AuditRow {
            inclusion: Inclusion::new(0.02).unwrap(),
            ..row(3, Some(SearchTruth::NonMated))
        };
        close(ln_e(rarer), mean(0.99 / 0.2), 1e-12);
        let bet = Bet::new(null(), ErrorSide::FalseReject, &strata);
        let ln_e = |row: AuditRow| bet.settle([row]).unwrap().ln_e;
        close(
            ln_e(row(2, Some(SearchTruth::MatedRight))),
            mean(0.99 / 0.2),
            1e-12,
        );
        close(
            ln_e(row(5, Some(SearchTruth::MatedWrong))),
            mean(0.99 / 0.02),
            1e-12,
        );
        close(
            ln_e(row(5, Some(SearchTruth::MatedRight))),
            mean(-0.01 / 0.02),
            1e-12,
        );
        close(ln_e(row(2, Some(SearchTruth::NonMated))), 0.0, 0.0);
    }

    #[test]
    fn what_a_bet_was_not_made_for_is_refused() {
        let strata = Strata::usual();
        let bet = Bet::new(null(), ErrorSide::FalseAccept, &strata);
        let of_another = AuditRow {
            stratum: 6,
            ..row(0, None)
        };
        assert!(bet.settle([of_another]).is_err());
        assert!(Null::new(0.0, 0.05).is_err() && Null::new(0.01, 0.0).is_err());
        assert!(Null::new(1.0, 0.05).is_err() && Null::new(0.01, 0.6).is_err());
    }

    /// The rate is half of its limit for so many labelled decisions, and then four times the limit.
    #[test]
    #[expect(clippy::print_stderr, reason = "figures of docs/evidence.md")]
    fn a_change_raises_an_alarm_nearly_as_soon_however_long_was_quiet_before_it() {
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let mut draws = SimulatedDraws(11);
        let sides = [
            (ErrorSide::FalseAccept, SearchTruth::NonMated, true),
            (ErrorSide::FalseReject, SearchTruth::MatedRight, false),
        ];
        for (side, truth, error_accepted) in sides {
            let bet = Bet::new(null(), side, &strata);
            let mut delays = Vec::new();
            for quiet in [0, 1_000, 10_000, 100_000_u64] {
                let mut seen: Vec<u64> = (0..11)
                    .map(|_| {
                        let rows = (0..quiet + 2_000).map(|number| {
                            let rate = if number < quiet { 0.005 } else { 0.04 };
                            let accepted = (draws.uniform() < rate) == error_accepted;
                            AuditRow {
                                grown: false,
                                stratum: usize::from(accepted),
                                accepted,
                                inclusion: Inclusion::ALWAYS,
                                truth: Some(truth),
                            }
                        });
                        let alarm = bet.settle(rows).unwrap().alarm_at.unwrap();
                        alarm.checked_sub(quiet).expect("no false alarm")
                    })
                    .collect();
                seen.sort_unstable();
                eprintln!(
                    "{side:?} after {quiet} quiet decisions: seen after {}, at most {}",
                    seen[5], seen[10]
                );
                delays.push(seen[5]);
            }
            assert!(delays[0] < 200 && delays[3] < 1_200, "{delays:?}");
        }
    }

    fn any_truth() -> impl Strategy<Value = SearchTruth> {
        prop::sample::select(vec![
            SearchTruth::MatedRight,
            SearchTruth::MatedWrong,
            SearchTruth::NonMated,
        ])
    }

    proptest! {
        #[test]
        fn a_late_label_never_lowers_the_evidence(
            sampled in prop::collection::vec((0..6_usize, any_truth(), any::<bool>()), 1..60)
        ) {
            for side in [ErrorSide::FalseAccept, ErrorSide::FalseReject] {
                let strata = Strata::usual();
                let bet = Bet::new(null(), side, &strata);
                let all: Vec<_> = sampled.iter().map(|d| row(d.0, Some(d.1))).collect();
                let some: Vec<_> = sampled
                    .iter()
                    .map(|d| row(d.0, d.2.then_some(d.1)))
                    .collect();
                let (all, some) = (bet.settle(all).unwrap(), bet.settle(some).unwrap());
                prop_assert!(some.ln_e <= all.ln_e + 1e-9);
                prop_assert!(some.ln_e.is_finite());
            }
        }
    }
}
