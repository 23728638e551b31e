//! The content of a report, filled in by the caller. Only tests serialise it, to check all its numbers.

use super::estimate::{Estimate, RateInterval};

/// Everything that a report shows. A number that is not known is `None`, and shown as unknown;
/// a part that was not measured is `None` or empty, and left out.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ReportContents {
    /// What was calibrated, in a few words.
    pub title: String,
    /// When it was made, in the caller's words.
    pub created: Option<String>,
    /// What the rates of the verdict, the key figures, the curves and the conditions are rates of.
    pub view: View,
    /// What can be relied on.
    pub verdict: ReportVerdict,
    /// The threshold and its two error rates; `None` if none was chosen.
    pub operating_point: Option<PointSummary>,
    /// The rates that matter, most important first.
    pub figures: Vec<Figure>,
    /// FAR and FRR along the thresholds, ascending; empty if not measured.
    pub trade_off: Vec<TradeOffPoint>,
    /// Scores of mated and non-mated trials.
    pub histogram: Option<BinnedScores>,
    /// How far the labels agree about a threshold.
    pub consistency: Option<ConsistencyFigures>,
    /// The labels that fare worst.
    pub worst_labels: Option<WorstLabelTable>,
    /// Items of different labels that would be accepted as one another.
    pub intruders: Option<Intruders>,
    /// Strangers' searches with the highest scores: the query, and the item that it found.
    pub nearest_strangers: Option<Intruders>,
    /// Rates by the value of a metadata column.
    pub conditions: Vec<ConditionTable>,
    /// FAR by size of the gallery.
    pub growth: Option<GrowthCurve>,
    /// What was tried against inconsistent thresholds.
    pub remedies: Option<RemedyTable>,
    /// The error rates that can be asked for.
    pub menu: Option<MenuTable>,
    /// The FAR if service has only a part of the strangers that were tested; a row for each.
    pub stress: Vec<ConditionRow>,
    /// Model, gallery, index, seeds, digests and software.
    pub made_with: Vec<Fact>,
    /// What must hold for the promise to hold, in plain words, most important first.
    pub assumptions: Vec<String>,
}

impl ReportContents {
    /// A report of a verdict alone: everything else is unknown, or was not measured.
    #[must_use]
    pub fn new(title: &str, view: View, verdict: ReportVerdict) -> Self {
        Self {
            title: title.to_owned(),
            created: None,
            view,
            verdict,
            operating_point: None,
            figures: Vec::new(),
            trade_off: Vec::new(),
            histogram: None,
            consistency: None,
            worst_labels: None,
            intruders: None,
            nearest_strangers: None,
            conditions: Vec::new(),
            growth: None,
            remedies: None,
            menu: None,
            stress: Vec::new(),
            made_with: Vec::new(),
            assumptions: Vec::new(),
        }
    }
}

/// What one trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum View {
    /// A search of a whole gallery (FPIR and FNIR of ISO/IEC 19795-1).
    Search,
    /// A comparison of two items (FMR and FNMR of ISO/IEC 19795-1).
    Pairwise,
}

/// What can be relied on, and why.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ReportVerdict {
    /// Whether it is a promise.
    pub standing: ClaimKind,
    /// The rate that the operator requested; `None` for a rule without a target, such as equal errors.
    pub target: Option<TargetRate>,
    /// How the threshold is chosen, in plain words.
    pub rule: String,
    /// The rate that is not exceeded with the confidence of the target, in [0, 1]; for a refusal, the
    /// lowest target that these data could support.
    pub bound: Option<f64>,
    /// Why it is only estimated, or refused: whole sentences.
    pub reasons: Vec<String>,
    /// What is necessary to meet the target: whole sentences.
    pub needed: Vec<String>,
    /// The data behind it: whole sentences.
    pub data: Vec<String>,
}

/// How strong the statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum ClaimKind {
    /// It holds with the confidence stated, under the assumptions.
    Promised,
    /// It is what was measured, and no more.
    Estimated,
    /// The data do not support it, and there is no threshold.
    Refused,
}

/// The error rate that is not to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct TargetRate {
    /// Which of the two.
    pub error: ErrorRate,
    /// How high it may be, in [0, 1].
    pub at_most: f64,
    /// The chance that this holds, in [0.5, 1); `None` if no chance was named.
    pub confidence: Option<f64>,
}

/// The two ways to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum ErrorRate {
    /// Accepting what should be rejected.
    FalseAccept,
    /// Rejecting what should be accepted, or accepting it with a wrong label.
    FalseReject,
}

/// The threshold with what was measured at it.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct PointSummary {
    /// Its id; `None` if it was not recorded.
    pub id: Option<String>,
    /// Accept at or above this similarity.
    pub threshold: f64,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
    /// On which labels the FAR was measured.
    pub far_basis: MeasuredOn,
    /// On which labels the FRR was measured.
    pub frr_basis: MeasuredOn,
}

/// Whose labels a figure was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum MeasuredOn {
    /// Labels that had no part in choosing the threshold.
    HeldOut,
    /// The labels that chose the threshold, which makes the figure too good.
    ChoseThreshold,
    /// The figure does not depend on a threshold.
    NoThreshold,
}

/// One rate of the table of key figures.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Figure {
    /// Its name, such as `False accept rate (FAR)`.
    pub name: String,
    /// What it counts, in one sentence.
    pub meaning: String,
    /// A fraction, in [0, 1].
    pub estimate: Estimate,
    /// Where it comes from.
    pub basis: MeasuredOn,
}

/// Both error rates at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct TradeOffPoint {
    /// Accept at or above this similarity. Above 1 it accepts nothing.
    pub threshold: f64,
    /// The false accept rate, in [0, 1].
    pub far: Option<f64>,
    /// Its interval.
    pub far_interval: Option<RateInterval>,
    /// The false reject rate, in [0, 1].
    pub frr: Option<f64>,
    /// Its interval.
    pub frr_interval: Option<RateInterval>,
}

/// Scores counted in bins of equal width, as many mated as non-mated bins.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct BinnedScores {
    /// The low end of the first bin.
    pub lower: f64,
    /// The high end of the last bin.
    pub upper: f64,
    /// Mated trials by bin.
    pub mated: Vec<u64>,
    /// Non-mated trials by bin.
    pub non_mated: Vec<u64>,
}

/// How far the labels agree on a threshold (OPIS: Zhang and others, ICLR 2024).
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConsistencyFigures {
    /// What the rates below count.
    pub view: View,
    /// The range of thresholds that OPIS is taken over.
    pub band: ThresholdBand,
    /// OPIS and its relatives, most important first.
    pub figures: Vec<SpreadFigure>,
    /// The thresholds at which utilities are given, ascending.
    pub thresholds: Vec<f64>,
    /// Mean utility over labels at each threshold.
    pub mean: Vec<Option<f64>>,
    /// The labels' own utilities.
    pub labels: Vec<LabelCurve>,
    /// Labels that were left out because they had no mated or no non-mated trials.
    pub labels_skipped: u64,
}

/// The thresholds at which the FAR over all labels runs from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ThresholdBand {
    /// The lower FAR, at the higher threshold.
    pub far_low: f64,
    /// The higher FAR, at the lower threshold.
    pub far_high: f64,
    /// The threshold at `far_high`.
    pub threshold_low: Option<f64>,
    /// The threshold at `far_low`.
    pub threshold_high: Option<f64>,
}

/// A measure of spread over labels. Not a rate.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct SpreadFigure {
    /// Its name, such as `OPIS`.
    pub name: String,
    /// What it is, in one sentence.
    pub meaning: String,
    /// The measure.
    pub value: Option<f64>,
    /// Its interval.
    pub interval: Option<RateInterval>,
}

/// The utility of one label along the thresholds of its [`ConsistencyFigures`].
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct LabelCurve {
    /// The label.
    pub label: String,
    /// The harmonic mean of its sensitivity and specificity, in [0, 1].
    pub utility: Vec<Option<f64>>,
}

/// The labels that fare worst at the threshold.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct WorstLabelTable {
    /// What the rates below count.
    pub view: View,
    /// By what they are ranked, such as `utility at the threshold`.
    pub ranked_by: String,
    /// Worst first.
    pub rows: Vec<WorstLabelRow>,
    /// Labels that were ranked.
    pub labels: u64,
}

/// One label at the threshold.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct WorstLabelRow {
    /// The label.
    pub label: String,
    /// Its items, or some of them.
    #[cfg_attr(test, serde(skip))]
    pub pictures: Vec<Picture>,
    /// The share of others that are accepted as this label.
    pub far: Estimate,
    /// The share of its own that are not accepted.
    pub frr: Estimate,
    /// The harmonic mean of sensitivity and specificity, in [0, 1].
    pub utility: Option<f64>,
}

/// A picture, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `data:image/png;base64,` and so on, or jpeg or webp; anything else is not shown.
    pub data_uri: String,
    /// What it shows, such as the id of its item.
    pub description: String,
}

/// Items of different labels that would be accepted as one another.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Intruders {
    /// The most similar first.
    pub pairs: Vec<IntruderPair>,
    /// How many there are in all; `None` if they were not counted.
    pub total: Option<u64>,
}

/// One such pair.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct IntruderPair {
    /// One item.
    pub first: PicturedItem,
    /// The other.
    pub second: PicturedItem,
    /// Their similarity, or what is compared with the threshold.
    pub score: f64,
    /// A remark about the pair.
    pub remark: Option<String>,
}

/// An item of the gallery, or a probe.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct PicturedItem {
    /// Its id.
    pub id: String,
    /// Its label.
    pub label: String,
    /// What it looks like.
    #[cfg_attr(test, serde(skip))]
    pub picture: Option<Picture>,
}

/// Rates by the value of a metadata column.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConditionTable {
    /// The column.
    pub column: String,
    /// A row for each value.
    pub rows: Vec<ConditionRow>,
}

/// The false accept rates that can be asked for.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct MenuTable {
    /// The confidence of every row.
    pub confidence: f64,
    /// The rows.
    pub rows: Vec<MenuRow>,
}

/// One false accept rate that can be asked for.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct MenuRow {
    /// The rate.
    pub far: f64,
    /// Whether these data certify it, in words.
    pub standing: String,
    /// Accept at or above this score; `None` if these data support none.
    pub threshold: Option<f64>,
    /// The false reject rate there.
    pub frr: Estimate,
    /// The false reject rate where the true false accept rate is this one.
    pub frr_at_target: Option<f64>,
    /// Labels of strangers that are necessary to certify it.
    pub labels_needed: Option<u64>,
    /// How many more labels halve the false rejects that certifying it costs.
    pub labels_to_halve: Option<u64>,
}

/// Rates for one value of the column.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConditionRow {
    /// The value.
    pub value: String,
    /// A remark on its FAR, if that is above the target.
    pub mark: Option<String>,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
}

/// FAR per search by size of the gallery. A search has more chances to be wrong in a larger one.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct GrowthCurve {
    /// Measured at the threshold, on parts of the gallery.
    pub measured: Vec<SizePoint>,
    /// Predicted at the threshold.
    pub predicted: Vec<SizePoint>,
    /// The highest FAR allowed.
    pub target: Option<f64>,
    /// Items in the gallery now.
    pub items_now: Option<u64>,
    /// The largest gallery whose predicted FAR, at the upper end of its interval, meets the target.
    pub holds_until: Option<u64>,
    /// What the prediction assumes: a whole sentence.
    pub assumption: String,
}

/// FAR per search at one size of the gallery.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct SizePoint {
    /// Items in the gallery.
    pub items: u64,
    /// The false accept rate, in [0, 1].
    pub far: Option<f64>,
    /// Its interval.
    pub interval: Option<RateInterval>,
    /// Whether the rate is exact for the trials, and not a bound.
    pub exact: bool,
}

/// What was tried against inconsistent thresholds, each judged on labels that it was not fitted to.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct RemedyTable {
    /// What the rates below count.
    pub view: View,
    /// Doing nothing among them.
    pub rows: Vec<RemedyRow>,
}

/// One remedy.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct RemedyRow {
    /// Its name.
    pub name: String,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
    /// The FRR of the labels that fare worst.
    pub worst_frr: Estimate,
    /// The variance of utility over labels.
    pub spread: Option<f64>,
    /// The conclusion: a whole sentence.
    pub verdict: String,
    /// Whether it is the one to use.
    pub preferred: bool,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its value; `None` if unknown.
    pub value: Option<String>,
}
