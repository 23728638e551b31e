//! The charts of error rates and scores.

use super::axis::{AxisScale, AxisUnit, ChartAxis};
use super::contents::{BinnedScores, ErrorRate, ReportContents, TradeOffPoint, View};
use super::estimate::RateInterval;
use super::markup::Markup;
use super::numbers::{percent, score, short_percent};
use super::plot::{AxisNames, Plot, TextAnchor};

/// Smaller error rates are drawn like zero.
const RATE_MIN: f64 = 1e-7;

/// The DET curve, FRR against FAR on normal-deviate axes, with the operating point.
pub(super) fn det(report: &ReportContents) -> Option<Markup> {
    let points = &report.trade_off;
    let point = report.operating_point.as_ref();
    let shown = |error: ErrorRate, at_point: Option<f64>| {
        let named = target(report, error).into_iter().chain(at_point);
        named
            .filter(|rate| (RATE_MIN..1.0).contains(rate))
            .collect()
    };
    let far = deviate_axis(
        points.iter().filter_map(|point| point.far),
        shown(
            ErrorRate::FalseAccept,
            point.and_then(|point| point.far.value),
        ),
    )?;
    let frr = deviate_axis(
        points.iter().filter_map(|point| point.frr),
        shown(
            ErrorRate::FalseReject,
            point.and_then(|point| point.frr.value),
        ),
    )?;
    let mut plot = Plot::new(far, frr);
    let (upper, lower) = det_band(points);
    plot.area(&upper, &lower, "band");
    let curve = points
        .iter()
        .filter_map(|point| Some((point.far?, point.frr)))
        // A rate of zero would be infinitely far away.
        .filter(|(far, frr)| 0.0 < *far && frr.is_some_and(|frr| 0.0 < frr));
    plot.curve(curve, "line", "");
    for point in points {
        if let (Some(far), Some(frr)) = (point.far, point.frr)
            && plot.x.holds(far)
            && plot.y.holds(frr)
        {
            plot.dot((far, frr), "hover", &spoken(point));
        }
    }
    if let Some(far) = target(report, ErrorRate::FalseAccept) {
        plot.vertical(far, "target", &target_name(far));
    }
    if let Some(frr) = target(report, ErrorRate::FalseReject) {
        plot.horizontal(frr, "target", &target_name(frr), TextAnchor::Right);
    }
    operating_point(&mut plot, report);
    let summary = format!(
        "Curve of the false reject rate against the false accept rate, from {} thresholds.",
        points.len()
    );
    Some(plot.finish(
        "plot square",
        AxisNames {
            x: "False accept rate (FAR), normal-deviate scale →",
            y: "↑ False reject rate (FRR), normal-deviate scale",
        },
        &summary,
    ))
}

fn operating_point(plot: &mut Plot, report: &ReportContents) {
    let Some(point) = report.operating_point.as_ref() else {
        return;
    };
    let (Some(far), Some(frr)) = (point.far.value, point.frr.value) else {
        return;
    };
    let (Some(x), Some(y)) = (plot.x.at(far), plot.y.at(frr)) else {
        return;
    };
    let (x, y) = (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0));
    let ends = |axis: &ChartAxis, span: Option<RateInterval>, middle: f64| {
        let at = |end: f64| axis.at(end).unwrap_or(middle).clamp(0.0, 1.0);
        span.map_or((middle, middle), |span| (at(span.lower), at(span.upper)))
    };
    let (x_ends, y_ends) = (
        ends(&plot.x, point.far.interval, x),
        ends(&plot.y, point.frr.interval, y),
    );
    plot.rule(x_ends, (y, y), "whisker");
    plot.rule((x, x), y_ends, "whisker");
    let rates = format!("FAR {}, FRR {}", percent(Some(far)), percent(Some(frr)));
    let name = format!("threshold {}", score(Some(point.threshold)));
    plot.dot((far, frr), "operating", &format!("{name}: {rates}"));
    // The curve never passes above and to the right of the point, so there is space for the label.
    let corner = (x.max(x_ends.0) + 0.015, (y + 0.08).min(0.92));
    let side = if 0.5 < x {
        TextAnchor::Left
    } else {
        TextAnchor::Right
    };
    plot.label(corner, side, "name", &name);
    plot.label_below(corner, side, &rates);
}

/// One edge of an area.
type Edge = Vec<(f64, f64)>;

/// The outer and the inner edge of the band: both rates at their upper ends, and both at their lower ends.
fn det_band(points: &[TradeOffPoint]) -> (Edge, Edge) {
    points
        .iter()
        .filter_map(|point| {
            let (far, frr) = (point.far_interval?, point.frr_interval?);
            Some(((far.upper, frr.upper), (far.lower, frr.lower)))
        })
        .unzip()
}

/// An axis from below the smallest rate to slightly above one half, or farther if the `shown` values need it.
fn deviate_axis(rates: impl Iterator<Item = f64>, shown: Vec<f64>) -> Option<ChartAxis> {
    let needed = shown.iter().copied().fold(0.0, f64::max);
    let inside: Vec<f64> = rates
        .filter(|rate| (RATE_MIN..=1.0).contains(rate))
        .chain(shown)
        .collect();
    let least = inside.iter().copied().reduce(f64::min)?;
    let most = inside.iter().copied().reduce(f64::max)?;
    let low = (least * 0.6).clamp(RATE_MIN, 0.4);
    let high = (most * 1.5).max(low * 4.0).min(0.6);
    let high = if 0.5 < needed {
        f64::midpoint(needed, 1.0)
    } else {
        high
    };
    ChartAxis::new(AxisScale::Deviate, AxisUnit::Share, (low, high))
}

/// Reads one error rate and its interval from a point.
type RateOfPoint = fn(&TradeOffPoint) -> (Option<f64>, Option<RateInterval>);

/// FAR and FRR over the threshold, with the targets.
pub(super) fn errors(report: &ReportContents) -> Option<Markup> {
    // A threshold above every possible score accepts nothing and has no position on the axis.
    let points: Vec<&TradeOffPoint> = report
        .trade_off
        .iter()
        .filter(|point| point.threshold <= 1.0)
        .collect();
    let x = ChartAxis::new(
        AxisScale::Linear,
        AxisUnit::Plain,
        (points.first()?.threshold, points.last()?.threshold),
    )?;
    let rates = points.iter().flat_map(|point| [point.far, point.frr]);
    let least = rates
        .flatten()
        .chain(report.verdict.target.map(|target| target.at_most))
        .filter(|rate| RATE_MIN <= *rate)
        .reduce(f64::min)?;
    let y = ChartAxis::new(
        AxisScale::Log,
        AxisUnit::Share,
        ((least * 0.5).min(0.1), 1.0),
    )?;
    let mut plot = Plot::new(x, y);
    let far: RateOfPoint = |point| (point.far, point.far_interval);
    let frr: RateOfPoint = |point| (point.frr, point.frr_interval);
    for (take, band, line) in [
        (far, "band non-mated", "line non-mated"),
        (frr, "band mated", "line mated"),
    ] {
        let (upper, lower): (Vec<_>, Vec<_>) = points
            .iter()
            .filter_map(|point| {
                let span = take(point).1?;
                Some(((point.threshold, span.upper), (point.threshold, span.lower)))
            })
            .unzip();
        plot.area(&upper, &lower, band);
        let curve = points.iter().map(|point| (point.threshold, take(point).0));
        plot.curve(curve, line, "");
    }
    name_errors(&mut plot, &points);
    if let Some(target) = report.verdict.target {
        let side = match target.error {
            ErrorRate::FalseAccept => TextAnchor::Right,
            ErrorRate::FalseReject => TextAnchor::Left,
        };
        plot.horizontal(target.at_most, "target", &target_name(target.at_most), side);
    }
    threshold_line(&mut plot, report);
    Some(plot.finish(
        "plot",
        AxisNames {
            x: "Threshold (similarity) →",
            y: "↑ Error rate, logarithmic scale",
        },
        "Curves of the false accept rate, which falls, and the false reject rate, which rises, \
         against the threshold.",
    ))
}

/// Writes the names of both curves between them, at a height where the curves are far apart.
fn name_errors(plot: &mut Plot, points: &[&TradeOffPoint]) {
    let height = |plot: &Plot, rate: Option<f64>| rate.and_then(|rate| plot.y.at(rate));
    let below = |at: Option<f64>, limit: f64| at.is_some_and(|at| at <= limit);
    let far = points
        .iter()
        .find(|point| below(height(plot, point.far), 0.86));
    if let Some((x, y)) =
        far.and_then(|point| plot.x.at(point.threshold).zip(height(plot, point.far)))
    {
        let at = (x, y.max(0.1) + 0.01);
        plot.label(at, TextAnchor::Right, "name non-mated", "FAR");
    }
    let frr = points
        .iter()
        .rev()
        .find(|point| below(height(plot, point.frr), 0.86));
    if let Some((x, y)) =
        frr.and_then(|point| plot.x.at(point.threshold).zip(height(plot, point.frr)))
    {
        let at = (x - 0.005, y.max(0.1) + 0.02);
        plot.label(at, TextAnchor::Left, "name mated", "FRR");
    }
}

/// The histograms of mated and non-mated scores, as shares and as counts on a logarithmic scale.
pub(super) fn histograms(histogram: &BinnedScores, report: &ReportContents) -> Option<Markup> {
    let (x, kinds) = binned(histogram)?;
    let mut shares = shares_by_bin(x, &kinds)?;
    threshold_line(&mut shares, report);

    let most = kinds.iter().map(|kind| kind.most).max()?;
    let y = ChartAxis::new(AxisScale::Log, AxisUnit::Count, (0.7, real(most) * 1.5))?;
    let mut counts = Plot::new(x, y);
    for kind in &kinds {
        kind.draw(&mut counts, |count, _| real(count), 0.1);
    }
    if let Some(point) = &report.operating_point {
        counts.vertical(point.threshold, "threshold", "");
    }

    let [trial, trials] = trial_names(report.view);
    let mut panels = finish_shares(shares, "", trials);
    panels.append(counts.finish(
        "plot low",
        AxisNames {
            x: &format!("Score (similarity) of a {trial} →"),
            y: &format!("↑ Number of {trials} by bin, logarithmic scale"),
        },
        &format!("The same histogram as counts of {trials} on a logarithmic scale."),
    ));
    Some(panels)
}

/// The histogram of mated and non-mated pairs, as shares.
pub(super) fn pair_histogram(histogram: &BinnedScores) -> Option<Markup> {
    let (x, kinds) = binned(histogram)?;
    let shares = shares_by_bin(x, &kinds)?;
    Some(finish_shares(shares, "Similarity of a pair →", "pairs"))
}

fn finish_shares(shares: Plot, x: &str, trials: &str) -> Markup {
    shares.finish(
        "plot low",
        AxisNames {
            x,
            y: &format!("↑ Share of the {trials} of its kind, by bin"),
        },
        &format!("Histogram of the scores of mated and non-mated {trials}, as shares."),
    )
}

/// The axis of the scores that occur, and the bins of each kind.
fn binned(histogram: &BinnedScores) -> Option<(ChartAxis, [TrialBins<'_>; 2])> {
    let bins = histogram.mated.len().max(histogram.non_mated.len());
    let width = (histogram.upper - histogram.lower) / real(bins as u64);
    let filled = |counts: &[u64]| {
        let first = counts.iter().position(|count| 0 < *count)?;
        let last = counts.iter().rposition(|count| 0 < *count)?;
        Some((first, last))
    };
    let (first, last) = [&histogram.mated, &histogram.non_mated]
        .into_iter()
        .filter_map(|counts| filled(counts))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    let edge = |bin: usize| histogram.lower + width * real(bin as u64);
    let x = ChartAxis::new(
        AxisScale::Linear,
        AxisUnit::Plain,
        (edge(first), edge(last + 1)),
    )?;
    let kinds = [
        TrialBins::new("non-mated", &histogram.non_mated, edge),
        TrialBins::new("mated", &histogram.mated, edge),
    ];
    Some((x, kinds))
}

fn shares_by_bin(x: ChartAxis, kinds: &[TrialBins<'_>; 2]) -> Option<Plot> {
    let most = kinds.iter().map(TrialBins::most_share).reduce(f64::max)?;
    let y = ChartAxis::new(AxisScale::Linear, AxisUnit::Share, (0.0, most * 1.18))?;
    let mut shares = Plot::new(x, y);
    for kind in kinds {
        kind.draw(&mut shares, |count, total| real(count) / real(total), 0.0);
    }
    name_kinds(&mut shares, kinds);
    Some(shares)
}

/// The bins of the mated or of the non-mated trials.
struct TrialBins<'a> {
    name: &'static str,
    counts: &'a [u64],
    edges: Vec<f64>,
    total: u64,
    most: u64,
}

impl<'a> TrialBins<'a> {
    fn new(name: &'static str, counts: &'a [u64], edge: impl Fn(usize) -> f64) -> Self {
        Self {
            name,
            counts,
            edges: (0..=counts.len()).map(edge).collect(),
            total: counts
                .iter()
                .fold(0, |sum, count| sum.saturating_add(*count)),
            most: counts.iter().copied().max().unwrap_or(0),
        }
    }

    fn most_share(&self) -> f64 {
        real(self.most) / real(self.total.max(1))
    }

    /// Draws the bins as steps above the level `foot`.
    fn draw(&self, plot: &mut Plot, height: impl Fn(u64, u64) -> f64, foot: f64) {
        let total = self.total.max(1);
        let tops: Vec<(f64, f64)> = self
            .counts
            .iter()
            .zip(self.edges.windows(2))
            .flat_map(|(count, edges)| {
                let top = height(*count, total).max(foot);
                edges.iter().map(move |edge| (*edge, top))
            })
            .collect();
        let feet: Vec<(f64, f64)> = tops.iter().map(|(x, _)| (*x, foot)).collect();
        let class = match self.name {
            "mated" => "bins mated",
            _ => "bins non-mated",
        };
        plot.area(&tops, &feet, class);
    }

    /// The position of the highest bin, in fractions of the frame.
    fn peak(&self, plot: &Plot) -> Option<(f64, f64)> {
        let bin = self.counts.iter().position(|count| *count == self.most)?;
        let (low, high) = (self.edges.get(bin)?, self.edges.get(bin + 1)?);
        let x = plot.x.at(f64::midpoint(*low, *high))?;
        Some((x, plot.y.at(self.most_share())?))
    }
}

/// Writes the name of each kind above its highest bin, on the side away from the other kind.
fn name_kinds(plot: &mut Plot, kinds: &[TrialBins<'_>]) {
    let peaks: Vec<_> = kinds
        .iter()
        .filter(|kind| 0 < kind.total)
        .filter_map(|kind| Some((kind, kind.peak(plot)?)))
        .collect();
    for (kind, (x, y)) in &peaks {
        let other = peaks
            .iter()
            .map(|(_, (other, _))| *other)
            .find(|other| 1e-9 < (other - x).abs());
        let near = other.is_some_and(|other| (other - x).abs() < 0.3);
        let side = match other {
            Some(other) if near && *x < other && 0.25 < *x => TextAnchor::Left,
            Some(other) if near && other < *x && *x < 0.75 => TextAnchor::Right,
            _ if *x < 0.25 => TextAnchor::Right,
            _ if 0.75 < *x => TextAnchor::Left,
            _ => TextAnchor::Middle,
        };
        let class = match kind.name {
            "mated" => "name mated",
            _ => "name non-mated",
        };
        let text = format!("{}, {}", kind.name, super::numbers::count(Some(kind.total)));
        plot.label((*x, y + 0.06), side, class, &text);
    }
}

fn threshold_line(plot: &mut Plot, report: &ReportContents) {
    if let Some(point) = &report.operating_point {
        let name = format!("accept from {} →", score(Some(point.threshold)));
        plot.vertical(point.threshold, "threshold", &name);
    }
}

/// The words for a trial in this view, singular and plural.
pub(super) fn trial_names(view: View) -> [&'static str; 2] {
    match view {
        View::Search => ["search", "searches"],
        View::Pairwise => ["pair", "pairs"],
    }
}

fn target(report: &ReportContents, error: ErrorRate) -> Option<f64> {
    report
        .verdict
        .target
        .filter(|target| target.error == error)
        .map(|target| target.at_most)
}

fn target_name(at_most: f64) -> String {
    format!("target: at most {}", short_percent(at_most))
}

fn spoken(point: &TradeOffPoint) -> String {
    format!(
        "threshold {}: FAR {}, FRR {}",
        score(Some(point.threshold)),
        percent(point.far),
        percent(point.frr)
    )
}

fn real(count: u64) -> f64 {
    matchpoint_calibration::binomial::real(count)
}
