//! Compares the searches of traffic with those of the calibration, one after the other.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::calibrated::ShareAtCalibration;
use super::reference::CalibratedShare;
use super::{SearchSigns, TrafficFeature, TrafficReference};
use crate::binomial::real;
use crate::monitoring::drift::{DriftVerdict, Finding, FindingSubject};
use crate::monitoring::share_bet::{ShareBet, Wealth, begins, e_value};
use crate::rates::percent;

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
    /// The evidence of the calibration's labels against values above the limit.
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
    shares: Vec<ShareState>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct ShareState {
    /// By value. What an earlier version stored has none, and its evidence starts from the beginning.
    #[serde(default)]
    wealths: Vec<Wealth>,
    within: u64,
    accepted: u64,
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
            WatchedShare::new(reference, share, 1.0 / real(parts as u64), ln_e_alarm)
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
            wealths: vec![Wealth::default(); share.bets.len()],
            ..ShareState::default()
        };
        watch.state.shares = watch.shares.iter().map(begun).collect();
        watch
    }

    /// Continues from a stored state. If that has other shares or bets, the evidence starts from the beginning, and only
    /// an alarm that was raised stands.
    #[must_use]
    pub fn resumed(mut self, state: TrafficState) -> Self {
        let fits = |(share, state): (&WatchedShare, &ShareState)| {
            share.bets.len() == state.wealths.len()
                && state
                    .wealths
                    .iter()
                    .flatten()
                    .all(|wealth| wealth.is_finite())
        };
        let mut pairs = self.shares.iter().zip(&state.shares);
        if state.shares.len() == self.shares.len() && pairs.all(fits) {
            self.state = state;
            self.evidence = self.weigh();
        } else {
            self.state.alarm_at = state.alarm_at;
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
        }
    }

    /// The weighted mean of the evidence over all shares.
    fn weigh(&self) -> f64 {
        let pairs = self.shares.iter().zip(&self.state.shares);
        let sum: f64 = pairs
            .map(|(share, state)| share.weight * self.of_share(share, state))
            .sum();
        if self.shares.is_empty() { 1.0 } else { sum }
    }

    fn of_share(&self, share: &WatchedShare, state: &ShareState) -> f64 {
        if share.bets.is_empty() {
            return 1.0;
        }
        let against = |(value, wealth): (&ValueBet, &Wealth)| {
            value.calibrated * e_value(wealth, self.state.compared)
        };
        let values = share.bets.iter().zip(&state.wealths).map(against);
        values.fold(share.above_limit, f64::min)
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
        let shown = watched.map(|(share, state)| ShareInService {
            feature: share.feature,
            name: share.name.clone(),
            calibrated: share.calibrated,
            limit: share.limit,
            overall: ratio(state.within, compared),
            lately: ratio(share.recent, recent),
            ln_e: self.of_share(share, state).ln(),
            accept_rate: ratio(state.accepted, state.within),
            accept_rate_elsewhere: ratio(accepted - state.accepted, compared - state.within),
            weighted: share.weight * self.of_share(share, state),
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
            shares,
        }
    }
}

impl WatchedShare {
    fn new(
        reference: &TrafficReference,
        share: &CalibratedShare,
        weight: f64,
        ln_e_alarm: f64,
    ) -> Self {
        let [mated, strangers] = reference.labels();
        let labels = ShareAtCalibration::of([(&share.mated, mated), (&share.strangers, strangers)]);
        // Evidence with which this share would raise the alarm alone.
        let enough = ln_e_alarm - weight.ln();
        let calibrated = labels.larger();
        let limit = labels.limit(enough, LIMIT_MAX);
        // The labels' evidence grows with about the square of the distance, so that these are equal steps of it.
        let value = |limit: f64, number: u32| match number {
            0 => 0.0,
            _ => {
                let part = (f64::from(number) / f64::from(VALUES)).sqrt();
                calibrated + part * (limit - calibrated)
            }
        };
        let bet = |limit: f64, number: u32| ValueBet {
            bet: ShareBet::above(value(limit, number), WEALTH_MAX),
            calibrated: labels.ln_e(value(limit, number - 1)).exp(),
        };
        let bets = |limit| (1..=VALUES).map(move |number| bet(limit, number));
        Self {
            feature: share.rule.feature(),
            name: share.rule.name(),
            calibrated,
            limit: limit.unwrap_or(1.0),
            weight,
            bets: limit.into_iter().flat_map(bets).collect(),
            above_limit: limit.map_or(1.0, |limit| labels.ln_e(limit).exp()),
            recent: 0,
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (0 < whole).then(|| real(part) / real(whole))
}

/// A share of traffic, compared with the calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareInService {
    /// The kind of property.
    pub feature: TrafficFeature,
    /// The property in words.
    pub name: String,
    /// The share at calibration: the larger one of mated searches and strangers.
    pub calibrated: f64,
    /// The highest share that is consistent with the calibration, given its number of labels.
    pub limit: f64,
    /// The share among all compared searches; `None` before the first.
    pub overall: Option<f64>,
    /// The share among the latest 500 searches since the server started; `None` before the first.
    pub lately: Option<f64>,
    /// The natural logarithm of the evidence that the share is above that of the calibration, whatever that is.
    pub ln_e: f64,
    /// The share of accepts among these searches; `None` without any.
    pub accept_rate: Option<f64>,
    /// The share of accepts among all others; `None` without any.
    pub accept_rate_elsewhere: Option<f64>,
    weighted: f64,
}

/// The comparison of traffic with the calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficAssessment {
    /// Number of compared searches.
    pub compared: u64,
    /// Number of the latest searches for which shares are given separately.
    pub recent: u64,
    /// Number of labels of the calibration that were counted: enrolled ones, and strangers.
    pub labels: [u64; 2],
    /// Number of shares that are not watched because the calibration has too few labels for them.
    pub unwatched: usize,
    /// The natural logarithm of the evidence.
    pub ln_e: f64,
    /// The natural logarithm of the evidence at which the alarm is raised.
    pub ln_e_alarm: f64,
    /// The number, from 1, of the search that raised the alarm, which then stays raised; `None` without an
    /// alarm.
    pub alarm_at: Option<u64>,
    /// The watched shares, those with the most evidence first.
    pub shares: Vec<ShareInService>,
}

/// An alarm names at most this many shares.
const NAMED_MAX: usize = 3;

impl TrafficAssessment {
    /// The shares that an alarm names: the one with the most evidence for each feature.
    #[must_use]
    pub fn named(&self) -> Vec<&ShareInService> {
        let mut named: Vec<&ShareInService> = Vec::new();
        for share in &self.shares {
            let other = named.iter().all(|known| known.feature != share.feature);
            let clear = named.is_empty() || self.ln_e_alarm <= share.ln_e;
            if other && clear && named.len() < NAMED_MAX {
                named.push(share);
            }
        }
        named
    }

    /// The alarm as a sentence; `None` without one.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.alarm_at?;
        let named: Vec<String> = self.named().into_iter().map(ShareInService::says).collect();
        Some(named.join("; "))
    }

    /// The finding as text.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let subject = FindingSubject::Traffic;
        if let Some(alarm) = self.alarm() {
            return Finding {
                subject,
                verdict: DriftVerdict::Warning,
                says: format!(
                    "Searches are not like those of the calibration, which its promise assumes: {alarm}. What that does to FAR and FRR is not known without labels."
                ),
                next: "Annotate sampled decisions (`matchpoint audit list`), and calibrate on pictures like those of today. If it has a cause that can be mended, mend it and say so with `matchpoint drift reset`.".to_owned(),
            };
        }
        let [mated, strangers] = self.labels;
        let watched = self.shares.len();
        if watched == 0 {
            return Finding {
                subject,
                verdict: DriftVerdict::Unknown,
                says: format!(
                    "Whether searches look like those of the calibration is not known: it had {mated} enrolled and {strangers} stranger labels left to compare with, which is too few."
                ),
                next: "Calibrate with more labels of both kinds.".to_owned(),
            };
        }
        let seen_from = self.tenth_seen_from();
        Finding {
            subject,
            verdict: DriftVerdict::Note,
            says: format!(
                "{} searches were compared with the calibration in {watched} ways, without evidence that they differ. With its {mated} enrolled and {strangers} stranger labels, a property of a tenth of the searches shows once it has grown beyond {:.0} %; strangers that look like enrolled things do not show at all.",
                self.compared,
                100.0 * seen_from
            ),
            next: String::new(),
        }
    }

    /// The limit that a share of a tenth at calibration would have, by the median margin of the watched
    /// shares.
    fn tenth_seen_from(&self) -> f64 {
        let margin = |share: &ShareInService| {
            let spread = (share.calibrated * (1.0 - share.calibrated)).sqrt();
            (0.0 < spread).then(|| (share.limit - share.calibrated) / spread)
        };
        let mut margins: Vec<f64> = self.shares.iter().filter_map(margin).collect();
        margins.sort_by(f64::total_cmp);
        let median = margins.get(margins.len() / 2).copied().unwrap_or(0.0);
        (0.1 + 0.3 * median).min(1.0)
    }
}

impl ShareInService {
    /// The share then and now, as text.
    #[must_use]
    pub fn says(&self) -> String {
        let today = match (self.lately, self.overall) {
            (Some(lately), _) => format!("{} of the latest searches", percent(lately)),
            (None, Some(overall)) => format!("{} of all searches", percent(overall)),
            (None, None) => "not seen".to_owned(),
        };
        format!(
            "{}: {} at calibration (at most {} by its labels), {today}",
            self.name,
            percent(self.calibrated),
            percent(self.limit),
        )
    }
}
