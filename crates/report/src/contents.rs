//! The content of a report, which the caller fills in. Only tests serialise it, to check all of its numbers.

use super::estimate::{Estimate, RateInterval};

/// Everything that a report shows. A number that is `None` is shown as unknown. A part that is `None` or empty
/// is left out.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ReportContents {
    /// What was calibrated, in a few words.
    pub title: String,
    /// When it was made, as the caller writes it.
    pub created: Option<String>,
    /// Whether the rates of the verdict, the key figures, the curves and the conditions belong to searches or
    /// to comparisons.
    pub view: View,
    /// The verdict: what the reader can rely on.
    pub verdict: ReportVerdict,
    /// The threshold and its two error rates; `None` if no threshold was chosen.
    pub operating_point: Option<PointSummary>,
    /// The key rates, the most important first.
    pub figures: Vec<Figure>,
    /// FAR and FRR over thresholds in ascending order; empty if not measured.
    pub trade_off: Vec<TradeOffPoint>,
    /// The histogram of mated and non-mated scores.
    pub histogram: Option<BinnedScores>,
    /// How consistent the labels are at one threshold.
    pub consistency: Option<ConsistencyFigures>,
    /// The labels with the worst results.
    pub worst_labels: Option<WorstLabelTable>,
    /// Items of different labels that would be accepted as each other.
    pub intruders: Option<Intruders>,
    /// The searches for strangers with the highest scores: the query, and the item that it found.
    pub nearest_strangers: Option<Intruders>,
    /// The rates by value of each metadata column.
    pub conditions: Vec<ConditionTable>,
    /// The FAR by size of the gallery.
    pub growth: Option<GrowthCurve>,
    /// The remedies for inconsistent thresholds that were tried.
    pub remedies: Option<RemedyTable>,
    /// The possible targets.
    pub menu: Option<MenuTable>,
    /// The FAR if service brings only some kinds of the tested strangers, with one row for each kind.
    pub stress: Vec<ConditionRow>,
    /// The model, gallery, index, seeds, digests and software.
    pub made_with: Vec<Fact>,
    /// The assumptions of the promise in plain words, the most important first.
    pub assumptions: Vec<String>,
}

impl ReportContents {
    /// A report with a verdict only. All other parts are unknown or empty.
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

/// The kind of trial that rates belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum View {
    /// A search of a whole gallery (FPIR and FNIR of ISO/IEC 19795-1).
    Search,
    /// A comparison of two items (FMR and FNMR of ISO/IEC 19795-1).
    Pairwise,
}

/// What the reader can rely on, and the reasons.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ReportVerdict {
    /// Whether the target is promised.
    pub standing: ClaimKind,
    /// The target that the operator requested; `None` for a rule without a target, such as equal error.
    pub target: Option<TargetRate>,
    /// How the threshold is chosen, in plain words.
    pub rule: String,
    /// The upper bound on the rate at the confidence of the target, in [0, 1]. For a refusal, the lowest target
    /// that these data could support.
    pub bound: Option<f64>,
    /// The reasons why it is only estimated or refused, as whole sentences.
    pub reasons: Vec<String>,
    /// What is needed to meet the target, as whole sentences.
    pub needed: Vec<String>,
    /// The data behind the verdict, as whole sentences.
    pub data: Vec<String>,
}

/// How strong a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum ClaimKind {
    /// It holds with the stated confidence, under the assumptions.
    Promised,
    /// It describes the measurement only.
    Estimated,
    /// The data do not support it, so there is no threshold.
    Refused,
}

/// A target error rate.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct TargetRate {
    /// Which error rate is limited.
    pub error: ErrorRate,
    /// The highest allowed rate, in [0, 1].
    pub at_most: f64,
    /// The confidence of the promise, in [0.5, 1); `None` if none was given.
    pub confidence: Option<f64>,
}

/// The two kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum ErrorRate {
    /// Accepting what should be rejected.
    FalseAccept,
    /// Rejecting what should be accepted, or accepting it with a wrong label.
    FalseReject,
}

/// The threshold with the rates measured at it.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct PointSummary {
    /// Its id; `None` if it was not recorded.
    pub id: Option<String>,
    /// A similarity that is equal or higher is accepted.
    pub threshold: f64,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
    /// The labels that the FAR was measured on.
    pub far_basis: MeasuredOn,
    /// The labels that the FRR was measured on.
    pub frr_basis: MeasuredOn,
}

/// The labels that a figure was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub enum MeasuredOn {
    /// Labels that had no part in choosing the threshold.
    HeldOut,
    /// The labels that chose the threshold, which makes the figure optimistic.
    ChoseThreshold,
    /// The figure does not depend on a threshold.
    NoThreshold,
}

/// A row of the table of key figures.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Figure {
    /// Its name, such as `False accept rate (FAR)`.
    pub name: String,
    /// What it counts, in one sentence.
    pub meaning: String,
    /// The rate as a fraction, in [0, 1].
    pub estimate: Estimate,
    /// The labels that it was measured on.
    pub basis: MeasuredOn,
}

/// Both error rates at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct TradeOffPoint {
    /// A similarity that is equal or higher is accepted. Above 1, nothing is accepted.
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

/// Histograms of mated and non-mated scores with the same bins of equal width.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct BinnedScores {
    /// The lower end of the first bin.
    pub lower: f64,
    /// The upper end of the last bin.
    pub upper: f64,
    /// Number of mated trials by bin.
    pub mated: Vec<u64>,
    /// Number of non-mated trials by bin.
    pub non_mated: Vec<u64>,
}

/// How consistent the labels are at one threshold (OPIS: Zhang and others, ICLR 2024).
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConsistencyFigures {
    /// Whether the rates belong to searches or to comparisons.
    pub view: View,
    /// The range of thresholds over which OPIS is measured.
    pub band: ThresholdBand,
    /// OPIS and related figures, the most important first.
    pub figures: Vec<SpreadFigure>,
    /// The thresholds at which utilities are given, in ascending order.
    pub thresholds: Vec<f64>,
    /// Mean utility over labels at each threshold.
    pub mean: Vec<Option<f64>>,
    /// The utilities of single labels.
    pub labels: Vec<LabelCurve>,
    /// Number of labels that were left out because they have no mated or no non-mated trials.
    pub labels_skipped: u64,
}

/// A range of thresholds, given by the pooled FAR at both ends.
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

/// A measure of the spread over labels, which is not a rate.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct SpreadFigure {
    /// Its name, such as `OPIS`.
    pub name: String,
    /// What it measures, in one sentence.
    pub meaning: String,
    /// The value; `None` if unknown.
    pub value: Option<f64>,
    /// Its interval.
    pub interval: Option<RateInterval>,
}

/// The utility of one label at the thresholds of its [`ConsistencyFigures`].
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct LabelCurve {
    /// The label.
    pub label: String,
    /// The harmonic mean of its sensitivity and specificity, in [0, 1].
    pub utility: Vec<Option<f64>>,
}

/// The labels with the worst results at the threshold.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct WorstLabelTable {
    /// Whether the rates belong to searches or to comparisons.
    pub view: View,
    /// The figure that labels are ranked by, such as `utility at the threshold`.
    pub ranked_by: String,
    /// The labels, the worst first.
    pub rows: Vec<WorstLabelRow>,
    /// Number of labels that were ranked.
    pub labels: u64,
}

/// The results of one label at the threshold.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct WorstLabelRow {
    /// The label.
    pub label: String,
    /// Pictures of some or all of its items.
    #[cfg_attr(test, serde(skip))]
    pub pictures: Vec<Picture>,
    /// The share of trials with other labels that are accepted as this label.
    pub far: Estimate,
    /// The share of trials with this label that are not accepted.
    pub frr: Estimate,
    /// The harmonic mean of sensitivity and specificity, in [0, 1].
    pub utility: Option<f64>,
}

/// An encoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// A data URI that starts with `data:image/png;base64,`, or the same with jpeg or webp. Anything else is
    /// not shown.
    pub data_uri: String,
    /// What it shows, such as the id of its item.
    pub description: String,
}

/// Pairs of items with different labels that would be accepted as each other.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Intruders {
    /// The pairs, the most similar first.
    pub pairs: Vec<IntruderPair>,
    /// Number of all such pairs; `None` if they were not counted.
    pub total: Option<u64>,
}

/// A pair of items, or of a query and an item.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct IntruderPair {
    /// The first item.
    pub first: PicturedItem,
    /// The second item.
    pub second: PicturedItem,
    /// Their similarity, or the decision score.
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
    /// Its picture, if there is one.
    #[cfg_attr(test, serde(skip))]
    pub picture: Option<Picture>,
}

/// The rates by value of a metadata column.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConditionTable {
    /// The metadata column.
    pub column: String,
    /// One row for each value.
    pub rows: Vec<ConditionRow>,
}

/// The target FARs that can be asked for.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct MenuTable {
    /// The confidence of all rows.
    pub confidence: f64,
    /// The rows.
    pub rows: Vec<MenuRow>,
}

/// One target FAR that can be asked for.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct MenuRow {
    /// The target FAR.
    pub far: f64,
    /// Whether these data certify it, in words.
    pub standing: String,
    /// The threshold; `None` if these data support none.
    pub threshold: Option<f64>,
    /// The FRR at the threshold.
    pub frr: Estimate,
    /// The FRR where the true FAR equals the target.
    pub frr_at_target: Option<f64>,
    /// Number of labels of strangers that are needed to certify it.
    pub labels_needed: Option<u64>,
    /// How many more labels would halve the FRR that the certificate costs.
    pub labels_to_halve: Option<u64>,
}

/// The rates for one value of a metadata column.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct ConditionRow {
    /// The value in the column.
    pub value: String,
    /// A remark on its FAR if that is above the target.
    pub mark: Option<String>,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
}

/// The FAR per search by size of the gallery. In a larger gallery, a search has more chances to be wrong.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct GrowthCurve {
    /// The FAR at the threshold, measured on parts of the gallery.
    pub measured: Vec<SizePoint>,
    /// The predicted FAR at the threshold.
    pub predicted: Vec<SizePoint>,
    /// The target FAR, if there is one.
    pub target: Option<f64>,
    /// Number of items in the gallery today.
    pub items_now: Option<u64>,
    /// The size of the largest gallery whose predicted FAR, at the upper end of its interval, meets the target.
    pub holds_until: Option<u64>,
    /// The assumption of the prediction, as a whole sentence.
    pub assumption: String,
}

/// The FAR per search at one size of the gallery.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct SizePoint {
    /// Number of items in the gallery.
    pub items: u64,
    /// The false accept rate, in [0, 1].
    pub far: Option<f64>,
    /// Its interval.
    pub interval: Option<RateInterval>,
    /// Whether the rate is exact for these trials; otherwise it is a bound.
    pub exact: bool,
}

/// The remedies for inconsistent thresholds, each judged on labels that it was not fitted to.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct RemedyTable {
    /// Whether the rates belong to searches or to comparisons.
    pub view: View,
    /// The remedies, including no remedy.
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
    /// The FRR of the labels with the worst results.
    pub worst_frr: Estimate,
    /// The variance of utility over labels.
    pub spread: Option<f64>,
    /// The conclusion, as a whole sentence.
    pub verdict: String,
    /// Whether it is the recommended one.
    pub preferred: bool,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Fact {
    /// The name of the fact.
    pub name: String,
    /// Its value; `None` if unknown.
    pub value: Option<String>,
}
