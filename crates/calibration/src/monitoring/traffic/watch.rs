//! Compares the searches of traffic with those of the calibration, one after the other.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::assessment::{ShareInService, TrafficAssessment};
use super::calibrated::ShareAtCalibration;
use super::reference::CalibratedShare;
use super::{SearchSigns, TrafficFeature, TrafficReference};
use crate::binomial::real;
use crate::monitoring::sequential::unbegun;
use crate::monitoring::share_bet::{ShareBet, Wealth, begins, e_value};

/// A share with this limit or a higher one is not watched, because it can hardly exceed the limit.
const LIMIT_MAX: f64 = 0.95;
/// Values of a share, up to its limit, against which traffic bets. Between two of them evidence is a little less than
/// it could be.
const VALUES: u32 = 6;
/// The wealth of a bet is capped here, far beyond any alarm, so that numbers stay finite.
const WEALTH_MAX: f64 = 1e250;
/// Number of latest searches that count as recent.
const RECENT: usize = 500;

/// A share of traffic, and the bet against it.
#[derive(Clone, Debug)]
struct WatchedShare {
    feature: TrafficFeature,
    name: String,
    /// The share at calibration: the larger one of mated searches and strangers.
    calibrated: f64,
    /// The highest share that is consistent with the calibration.
    limit: f64,
    /// Its weight in the mean of all evidence.
    weight: f64,
    /// The bets that the share is above each of some values, the limit last. Empty if the share is not watched.
    bets: Vec<ValueBet>,
    /// The evidence of the calibration's labels against values above the limit, or against all if there is none. That is
    /// less than 1 if more labels are in the share than expected, as where a share is not watched for it.
    above_limit: f64,
    /// Number of recent searches in the share.
    recent: u64,
}

/// A bet that a share of traffic is above a value.
#[derive(Clone, Debug)]
struct ValueBet {
    bet: ShareBet,
    /// The evidence of the calibration's labels against all values above the one before, up to this one.
    calibrated: f64,
}

/// The evidence as it is stored between two runs of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficState {
    /// Number of searches compared so far.
    pub compared: u64,
    /// Number of compared searches that were accepted.
    accepted: u64,
    /// The number, from 1, of the search that raised the alarm; `None` without an alarm.
    pub(super) alarm_at: Option<u64>,
    /// What the alarm named when it was raised; an earlier version did not store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raised: Option<String>,
    shares: Vec<ShareState>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct ShareState {
    /// The highest share that is consistent with the calibration; absent if the share is not watched.
    #[serde(default)]
    limit: Option<f64>,
    /// By value. What an earlier version stored has none, and its evidence starts from the beginning.
    #[serde(default)]
    wealths: Vec<Wealth>,
    within: u64,
    accepted: u64,
}

impl ShareState {
    /// Whether a stored one of this state of all shares is of the same bets.
    fn is_continued(&self, stored: &Self, all: &TrafficState) -> bool {
        let counts = stored.within <= all.compared
            && stored.accepted <= stored.within.min(all.accepted)
            && stored.within - stored.accepted <= all.compared - all.accepted;
        let mut wealths = stored.wealths.iter().flatten();
        // A digit more or less is of no account.
        let is_near = match (self.limit, stored.limit) {
            (Some(own), Some(other)) => (own - other).abs() < 1e-9,
            (own, other) => own == other,
        };
        counts
            && is_near
            && self.wealths.len() == stored.wealths.len()
            && wealths.all(|wealth| wealth.is_finite() && 0.0 <= *wealth)
    }
}

/// Compares traffic with a calibration, in constant memory.
#[derive(Clone, Debug)]
pub struct TrafficWatch {
    shares: Vec<WatchedShare>,
    labels: [u64; 2],
    /// The natural logarithm of the evidence at which the alarm is raised.
    ln_e_alarm: f64,
    state: TrafficState,
    recent: VecDeque<SearchSigns>,
    /// The evidence after the last search.
    evidence: f64,
}

impl TrafficWatch {
    /// Starts to watch. The probability of ever raising a false alarm is at most `delta`. After `resets`
    /// earlier resets it is divided by 2^`resets`, so that all spans together have less than 2 `delta`.
    #[must_use]
    pub fn new(reference: &TrafficReference, delta: f64, resets: usize) -> Self {
        let features: Vec<TrafficFeature> =
            reference.shares.iter().map(|s| s.rule.feature()).collect();
        let mut different = features.clone();
        different.sort_unstable();
        different.dedup();
        let halvings = i32::try_from(resets).unwrap_or(i32::MAX);
        let ln_e_alarm = f64::from(halvings) * std::f64::consts::LN_2 - delta.ln();
        let of_feature = |feature| features.iter().filter(|&&other| other == feature).count();
        let watched = |share: &CalibratedShare| {
            let feature = share.rule.feature();
            // Each feature has the same weight in the evidence, however many shares it is divided into.
            let parts = different.len() * of_feature(feature);
            WatchedShare::new(
                reference.labels(),
                share,
                1.0 / real(parts as u64),
                ln_e_alarm,
            )
        };
        let mut watch = Self {
            shares: reference.shares.iter().map(watched).collect(),
            labels: reference.labels(),
            ln_e_alarm,
            state: TrafficState::default(),
            recent: VecDeque::with_capacity(RECENT),
            evidence: 1.0,
        };
        let begun = |share: &WatchedShare| ShareState {
            limit: (!share.bets.is_empty()).then_some(share.limit),
            wealths: vec![Wealth::default(); share.bets.len()],
            ..ShareState::default()
        };
        watch.state.shares = watch.shares.iter().map(begun).collect();
        watch
    }

    /// Continues from a stored state. If that has other shares or bets, or counts that cannot be, the evidence starts from
    /// the beginning, and only an alarm that was raised stands.
    #[must_use]
    pub fn resumed(mut self, state: TrafficState) -> Self {
        let begun = &self.state.shares;
        let fits = state.accepted <= state.compared
            && begun.len() == state.shares.len()
            && begun
                .iter()
                .zip(&state.shares)
                .all(|(begun, stored)| begun.is_continued(stored, &state));
        if fits {
            self.state = state;
            self.evidence = self.weigh();
        } else {
            self.state.alarm_at = state.alarm_at;
            self.state.raised = state.raised;
        }
        self
    }

    /// The state that has to be stored.
    #[must_use]
    pub fn state(&self) -> &TrafficState {
        &self.state
    }

    /// Adds the next search; searches must come in the order in which they are made.
    pub fn observe(&mut self, signs: SearchSigns, accepted: bool) {
        let before = self.state.compared;
        self.state.compared += 1;
        self.state.accepted += u64::from(accepted);
        let begins = begins(before);
        for (number, (share, state)) in self
            .shares
            .iter_mut()
            .zip(&mut self.state.shares)
            .enumerate()
        {
            let within = signs.has(number);
            state.within += u64::from(within);
            state.accepted += u64::from(within && accepted);
            share.recent += u64::from(within);
            for (value, wealth) in share.bets.iter().zip(&mut state.wealths) {
                value.bet.observe(wealth, within, begins);
            }
        }
        if self.recent.len() == RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            for (number, share) in self.shares.iter_mut().enumerate() {
                share.recent -= u64::from(oldest.has(number));
            }
        }
        self.recent.push_back(signs);
        self.evidence = self.weigh();
        if self.state.alarm_at.is_none() && self.ln_e_alarm <= self.evidence.ln() {
            self.state.alarm_at = Some(self.state.compared);
            self.state.raised = Some(self.assessment().names());
        }
    }

    /// The weighted mean of the evidence over all shares.
    fn weigh(&self) -> f64 {
        let unbegun = unbegun(self.state.compared);
        let pairs = self.shares.iter().zip(&self.state.shares);
        let weighted = pairs.map(|(share, state)| share.weight * share.evidence(state, unbegun));
        if self.shares.is_empty() {
            1.0
        } else {
            weighted.sum()
        }
    }

    /// The alarm as text; `None` without one.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.state.alarm_at?;
        self.assessment().alarm()
    }

    /// The comparison so far.
    #[must_use]
    pub fn assessment(&self) -> TrafficAssessment {
        let recent = self.recent.len() as u64;
        let (compared, accepted) = (self.state.compared, self.state.accepted);
        let pairs = self.shares.iter().zip(&self.state.shares);
        let watched = pairs.filter(|(share, _)| !share.bets.is_empty());
        let unbegun = unbegun(compared);
        let watched = watched.map(|(share, state)| (share, state, share.evidence(state, unbegun)));
        let shown = watched.map(|(share, state, evidence)| ShareInService {
            feature: share.feature,
            name: share.name.clone(),
            calibrated: share.calibrated,
            limit: share.limit,
            overall: ratio(state.within, compared),
            lately: ratio(share.recent, recent),
            ln_e: evidence.ln(),
            accept_rate: ratio(state.accepted, state.within),
            accept_rate_elsewhere: ratio(accepted - state.accepted, compared - state.within),
            weighted: share.weight * evidence,
        });
        let mut shares: Vec<ShareInService> = shown.collect();
        shares.sort_by(|a, b| b.weighted.total_cmp(&a.weighted));
        TrafficAssessment {
            compared,
            recent,
            labels: self.labels,
            unwatched: self.shares.len() - shares.len(),
            ln_e: self.evidence.ln(),
            ln_e_alarm: self.ln_e_alarm,
            alarm_at: self.state.alarm_at,
            raised: self.state.raised.clone(),
            shares,
        }
    }
}

impl WatchedShare {
    /// Of so many enrolled labels and strangers.
    fn new(
        [mated, strangers]: [u64; 2],
        share: &CalibratedShare,
        weight: f64,
        ln_e_alarm: f64,
    ) -> Self {
        let labels = ShareAtCalibration::of([(&share.mated, mated), (&share.strangers, strangers)]);
        // Evidence with which this share would raise the alarm alone.
        let enough = ln_e_alarm - weight.ln();
        let calibrated = labels.larger();
        let limit = labels.limit(enough, LIMIT_MAX);
        // The labels' evidence grows with about the square of the distance, so that these are equal steps of it.
        let value = |limit: f64, number: u32| {
            let part = (f64::from(number) / f64::from(VALUES)).sqrt();
            calibrated + part * (limit - calibrated)
        };
        let values = limit
            .into_iter()
            .flat_map(|limit| (1..=VALUES).map(move |n| value(limit, n)));
        let mut before = 0.0;
        let bets = values.map(|value| ValueBet {
            bet: ShareBet::above(value, WEALTH_MAX),
            calibrated: labels.ln_e(std::mem::replace(&mut before, value)).exp(),
        });
        let bets = bets.collect();
        Self {
            feature: share.rule.feature(),
            name: share.rule.name(),
            calibrated,
            limit: limit.unwrap_or(1.0),
            weight,
            bets,
            above_limit: labels.ln_e(limit.unwrap_or(0.0)).exp(),
            recent: 0,
        }
    }

    /// The evidence that the share is above that of the calibration: the least over the values that it may have.
    fn evidence(&self, state: &ShareState, unbegun: f64) -> f64 {
        let against =
            |(value, wealth): (&ValueBet, &Wealth)| value.calibrated * e_value(wealth, unbegun);
        let values = self.bets.iter().zip(&state.wealths).map(against);
        values.fold(self.above_limit, f64::min)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (0 < whole).then(|| real(part) / real(whole))
}

#[cfg(test)]
mod tests {
    use super::super::calibrated::CountedLabels;
    use super::super::shares::ShareRule;
    use super::*;
    use statrs::distribution::{Binomial, Discrete};

    /// Traffic whose share is that of the calibration's labels makes bets against lower values as high as they can get.
    #[test]
    fn the_evidence_of_a_share_is_one_at_most_on_average_whether_or_not_it_is_watched() {
        let mut unwatched = 0;
        for labels in (5..60).step_by(3) {
            for rate in [0.02, 0.1, 0.3, 0.5, 0.7, 0.88, 0.95] {
                let drawn = Binomial::new(rate, labels).unwrap();
                let mut mean = 0.0;
                for within in 0..=labels {
                    let share = CalibratedShare {
                        rule: ShareRule::Format {
                            name: "PNG".to_owned(),
                        },
                        mated: CountedLabels::ByOneQuery(within),
                        strangers: CountedLabels::ByOneQuery(0),
                    };
                    let watched = WatchedShare::new([labels, 0], &share, 1.0 / 47.0, 20_f64.ln());
                    unwatched += u32::from(watched.bets.is_empty());
                    let value = |number: u32| {
                        let part = (f64::from(number) / f64::from(VALUES)).sqrt();
                        watched.calibrated + part * (watched.limit - watched.calibrated)
                    };
                    let state = ShareState {
                        wealths: (1..=VALUES)
                            .map(|number| {
                                [if value(number) < rate {
                                    WEALTH_MAX
                                } else {
                                    1.0
                                }; 4]
                            })
                            .take(watched.bets.len())
                            .collect(),
                        ..ShareState::default()
                    };
                    mean += drawn.pmf(within) * watched.evidence(&state, 0.0);
                }
                assert!(mean <= 1.0 + 1e-9, "{labels} labels, {rate}: {mean}");
            }
        }
        assert!(0 < unwatched);
    }

    #[test]
    fn a_state_that_cannot_be_begins_anew() {
        let begun = ShareState {
            limit: Some(0.3),
            wealths: vec![Wealth::default(); 6],
            ..ShareState::default()
        };
        let all = TrafficState {
            compared: 10,
            accepted: 6,
            ..TrafficState::default()
        };
        let stored = ShareState {
            within: 5,
            accepted: 3,
            ..begun.clone()
        };
        assert!(begun.is_continued(&stored, &all));
        let mut others = vec![stored.clone(); 6];
        others[0].within = 11;
        others[1].accepted = 6;
        others[2].limit = Some(0.31);
        others[3].limit = None;
        others[4].wealths[2] = [-1.0; 4];
        others[5].wealths.truncate(5);
        // Of the four that were rejected, five are in the share.
        others.push(ShareState {
            accepted: 0,
            ..stored
        });
        for other in &others {
            assert!(!begun.is_continued(other, &all), "{other:?}");
        }
    }
}
