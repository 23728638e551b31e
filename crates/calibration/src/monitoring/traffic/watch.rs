//! Compares the searches of traffic with those of the calibration, one by one.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::reference::CalibratedShare;
use super::{SearchSigns, TrafficFeature, TrafficReference};
use crate::binomial::{real, upper_bound};
use crate::monitoring::drift::{DriftVerdict, Finding, FindingSubject};
use crate::monitoring::sequential::unbegun;
use crate::rates::percent;

/// Alternatives: these parts of the way from a share's limit to 1.
const ALTERNATIVES: [f64; 4] = [0.05, 0.15, 0.4, 0.8];
/// A share whose limit is as high can hardly exceed it, and is not watched.
const LIMIT_MAX: f64 = 0.95;
/// Where wealth stops growing: an alarm has long been raised, and numbers stay finite.
const WEALTH_MAX: f64 = 1e250;
/// Searches that are called recent.
const RECENT: usize = 500;

/// A share of traffic, and the bet on it.
#[derive(Clone, Debug)]
struct WatchedShare {
    feature: TrafficFeature,
    name: String,
    /// Its share at calibration, the larger one of both classes.
    calibrated: f64,
    /// What it is at most while traffic is like the calibration.
    limit: f64,
    /// Its part of the evidence.
    weight: f64,
    /// By alternative: what a search outside of it, and one within, multiplies the wealth by. `None` if it is not
    /// watched.
    factors: Option<[[f64; 2]; ALTERNATIVES.len()]>,
    /// Recent searches within it.
    recent: u64,
}

/// What is stored of the evidence from one run of a server to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficState {
    /// Searches compared so far.
    pub compared: u64,
    /// Those of them that were accepted.
    accepted: u64,
    /// The number of the search, from 1, that raised the alarm.
    alarm_at: Option<u64>,
    shares: Vec<ShareState>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareState {
    wealth: [f64; ALTERNATIVES.len()],
    within: u64,
    accepted: u64,
}

/// Compares traffic with a calibration, in memory that does not grow with it.
#[derive(Clone, Debug)]
pub struct TrafficWatch {
    shares: Vec<WatchedShare>,
    labels: [u64; 2],
    /// The logarithm of the evidence that raises an alarm.
    ln_e_alarm: f64,
    state: TrafficState,
    recent: VecDeque<SearchSigns>,
    /// The evidence after the latest search.
    evidence: f64,
}

impl TrafficWatch {
    /// Begins to watch. An alarm is false with a probability of at most `delta`, ever; where the evidence was reset
    /// `resets` times before, this one has `delta` / 2^`resets` of its half, so that all have less than
    /// 1.5 `delta`.
    #[must_use]
    pub fn new(reference: &TrafficReference, delta: f64, resets: usize) -> Self {
        let features: Vec<TrafficFeature> =
            reference.shares.iter().map(|s| s.rule.feature()).collect();
        let mut different = features.clone();
        different.sort_unstable();
        different.dedup();
        let of_feature = |feature| features.iter().filter(|&&other| other == feature).count();
        let watched = |share: &CalibratedShare| {
            let feature = share.rule.feature();
            // Each feature has as much of the evidence as any other, however many shares it is cut into.
            let parts = different.len() * of_feature(feature);
            WatchedShare::new(reference, share, 1.0 / real(parts as u64), delta)
        };
        let halvings = i32::try_from(resets).unwrap_or(i32::MAX);
        let mut watch = Self {
            shares: reference.shares.iter().map(watched).collect(),
            labels: reference.labels(),
            ln_e_alarm: (2.0 / delta).ln() + f64::from(halvings) * std::f64::consts::LN_2,
            state: TrafficState::default(),
            recent: VecDeque::with_capacity(RECENT),
            evidence: 1.0,
        };
        watch.state.shares = vec![ShareState::default(); watch.shares.len()];
        watch
    }

    /// Continues from what was stored; if that has other shares, from the beginning.
    #[must_use]
    pub fn resumed(mut self, state: TrafficState) -> Self {
        let finite = |share: &ShareState| share.wealth.iter().all(|wealth| wealth.is_finite());
        if state.shares.len() == self.shares.len() && state.shares.iter().all(finite) {
            self.state = state;
            self.evidence = self.weigh();
        }
        self
    }

    /// What has to be stored.
    #[must_use]
    pub fn state(&self) -> &TrafficState {
        &self.state
    }

    /// Takes the next search, in the order in which they are made.
    pub fn observe(&mut self, signs: SearchSigns, accepted: bool) {
        let before = self.state.compared;
        self.state.compared += 1;
        self.state.accepted += u64::from(accepted);
        // Of the weight that has not begun, a part begins with this search: a change after a long quiet time is seen too.
        let begins = unbegun(before) - unbegun(before + 1);
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
            if let Some(factors) = &share.factors {
                for (wealth, [outside, inside]) in state.wealth.iter_mut().zip(factors) {
                    let factor = if within { inside } else { outside };
                    *wealth = ((*wealth + begins) * factor).min(WEALTH_MAX);
                }
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

    /// The mean of the evidence over all shares.
    fn weigh(&self) -> f64 {
        let pairs = self.shares.iter().zip(&self.state.shares);
        let sum: f64 = pairs
            .map(|(share, state)| share.weight * self.of_share(share, state))
            .sum();
        if self.shares.is_empty() { 1.0 } else { sum }
    }

    fn of_share(&self, share: &WatchedShare, state: &ShareState) -> f64 {
        if share.factors.is_none() {
            return 1.0;
        }
        let wealth: f64 = state.wealth.iter().sum();
        wealth / real(ALTERNATIVES.len() as u64) + unbegun(self.state.compared)
    }

    /// The alarm in words; `None` without one.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.state.alarm_at?;
        self.assessment().alarm()
    }

    /// What is known so far.
    #[must_use]
    pub fn assessment(&self) -> TrafficAssessment {
        let recent = self.recent.len() as u64;
        let (compared, accepted) = (self.state.compared, self.state.accepted);
        let pairs = self.shares.iter().zip(&self.state.shares);
        let watched = pairs.filter(|(share, _)| share.factors.is_some());
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
    fn new(reference: &TrafficReference, share: &CalibratedShare, weight: f64, delta: f64) -> Self {
        let classes = [
            (share.mated, reference.mated_labels),
            (share.strangers, reference.stranger_labels),
        ];
        // Half of delta, over all shares and both classes.
        let alpha = delta / 2.0 * weight / 2.0;
        let larger =
            |of: &dyn Fn((u64, u64)) -> f64| classes.into_iter().map(of).fold(0.0, f64::max);
        // Of a class without labels nothing is known.
        let limit = larger(&|(within, labels)| match labels {
            0 => 1.0,
            _ => upper_bound(within, labels, alpha),
        });
        let against = |part: f64| {
            let rate = limit + part * (1.0 - limit);
            [(1.0 - rate) / (1.0 - limit), rate / limit]
        };
        Self {
            feature: share.rule.feature(),
            name: share.rule.name(),
            calibrated: larger(&|(within, labels)| ratio(within, labels).unwrap_or(0.0)),
            limit,
            weight,
            factors: (limit < LIMIT_MAX).then(|| ALTERNATIVES.map(against)),
            recent: 0,
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (0 < whole).then(|| real(part) / real(whole))
}

/// A share of traffic compared with the calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareInService {
    /// What it is about.
    pub feature: TrafficFeature,
    /// Which searches these are, in words.
    pub name: String,
    /// The share at calibration, the larger one of mated searches and strangers.
    pub calibrated: f64,
    /// What the share is at most while traffic is like the calibration, by the number of its labels.
    pub limit: f64,
    /// Of all searches that were compared; `None` before the first.
    pub overall: Option<f64>,
    /// Of the latest 500 since the server started; `None` before the first.
    pub lately: Option<f64>,
    /// The logarithm of the evidence that it is above its limit.
    pub ln_e: f64,
    /// The share of accepts among these searches; `None` without any.
    pub accept_rate: Option<f64>,
    /// The share of accepts among all others; `None` without any.
    pub accept_rate_elsewhere: Option<f64>,
    weighted: f64,
}

/// Whether traffic looks like the calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficAssessment {
    /// Searches compared.
    pub compared: u64,
    /// The latest of them, of which shares are said too.
    pub recent: u64,
    /// Labels of the calibration that shares were counted on: enrolled ones and strangers.
    pub labels: [u64; 2],
    /// Shares of which these labels say too little.
    pub unwatched: usize,
    /// The logarithm of the evidence.
    pub ln_e: f64,
    /// The logarithm from which on it is an alarm.
    pub ln_e_alarm: f64,
    /// The number of the search, from 1, that raised it; it stays raised.
    pub alarm_at: Option<u64>,
    /// The shares that are watched, those with most of the evidence first.
    pub shares: Vec<ShareInService>,
}

/// Shares that an alarm names, at most.
const NAMED_MAX: usize = 3;

impl TrafficAssessment {
    /// The shares that an alarm is about: of each feature the clearest one.
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

    /// The alarm in a sentence; `None` without one.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.alarm_at?;
        let named: Vec<String> = self.named().into_iter().map(ShareInService::says).collect();
        Some(named.join("; "))
    }

    /// In words.
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

    /// Where a share of a tenth at calibration would have its limit, in the median of the shares.
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
    /// What it was and is.
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
