//! What a comparison of traffic with a calibration has found, in figures and words.

use super::TrafficFeature;
use crate::monitoring::drift::{DriftVerdict, Finding, FindingSubject};
use crate::rates::percent;

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
    /// Its evidence as it counts in the mean.
    pub(super) weighted: f64,
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
    /// What the alarm named when it was raised; `None` without an alarm, or if an earlier version raised it.
    pub(super) raised: Option<String>,
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
        if self.ln_e_alarm <= self.ln_e {
            return Some(self.names());
        }
        // The evidence may have fallen since, and now would name something else.
        let before = "it was raised by evidence of an earlier version, which is not kept";
        Some(self.raised.clone().unwrap_or_else(|| before.to_owned()))
    }

    /// The shares with the most evidence, as text.
    pub(super) fn names(&self) -> String {
        let named: Vec<String> = self.named().into_iter().map(ShareInService::says).collect();
        named.join("; ")
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
