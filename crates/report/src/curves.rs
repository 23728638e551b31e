//! The charts of label utilities and of growth.

use super::axis::{AxisScale, AxisUnit, ChartAxis};
use super::contents::{ConsistencyFigures, GrowthCurve, LabelCurve, SizePoint};
use super::markup::Markup;
use super::numbers::{count, percent, short_percent, shortened};
use super::plot::{AxisNames, Plot, TextAnchor};
use matchpoint_calibration::binomial::real;

/// The highest number of curves; more would form a solid area and a file that opens slowly.
pub(super) const CURVES_MAX: usize = 200;

/// Number of worst labels that are named at the edge.
const NAMED: usize = 3;

/// The height of a line of text, as a fraction of the chart's height.
const LINE: f64 = 0.055;

/// The utilities of labels over the thresholds, with their mean.
pub(super) fn utility(consistency: &ConsistencyFigures, threshold: Option<f64>) -> Option<Markup> {
    let thresholds = &consistency.thresholds;
    let x = ChartAxis::new(
        AxisScale::Linear,
        AxisUnit::Plain,
        (*thresholds.first()?, *thresholds.last()?),
    )?;
    let drawn = drawn(&consistency.labels);
    let least = drawn
        .iter()
        .flat_map(|curve| curve.utility.iter())
        .chain(&consistency.mean)
        .filter_map(|utility| *utility)
        .reduce(f64::min)?;
    let low = if least < 0.3 { 0.0 } else { least - 0.05 };
    let y = ChartAxis::new(AxisScale::Linear, AxisUnit::Plain, (low, 1.0))?;
    let mut plot = Plot::new(x, y);
    let along = |utility: &[Option<f64>]| -> Vec<(f64, Option<f64>)> {
        thresholds
            .iter()
            .copied()
            .zip(utility.iter().copied())
            .collect()
    };
    for curve in &drawn {
        plot.curve(along(&curve.utility).into_iter(), "label", &curve.label);
    }
    for curve in drawn.iter().take(NAMED) {
        plot.curve(
            along(&curve.utility).into_iter(),
            "label worst",
            &curve.label,
        );
    }
    let mean = along(&consistency.mean);
    plot.curve(mean.iter().copied(), "halo", "");
    plot.curve(mean.into_iter(), "line", "mean of all labels");
    if let Some(threshold) = threshold {
        plot.vertical(threshold, "threshold", "threshold");
    }
    name_curves(&mut plot, consistency, &drawn);
    let far = |far: f64| format!("FAR {}", short_percent(far));
    plot.ends(
        &far(consistency.band.far_high),
        &far(consistency.band.far_low),
    );
    let summary = format!(
        "The utility of each of {} labels against the threshold, and their mean.",
        drawn.len()
    );
    Some(plot.finish(
        "plot named",
        AxisNames {
            x: "Threshold (similarity) →",
            y: "↑ Utility of a label: harmonic mean of sensitivity and specificity",
        },
        &summary,
    ))
}

/// The curves to draw, the worst first: all, or a selection that is evenly spaced from the worst to the best.
fn drawn(labels: &[LabelCurve]) -> Vec<&LabelCurve> {
    let mut ranked: Vec<(f64, &LabelCurve)> = labels
        .iter()
        .filter_map(|curve| Some((mean_utility(curve)?, curve)))
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.label.cmp(&b.1.label)));
    let last = ranked.len().saturating_sub(1);
    let kept = ranked.len().min(CURVES_MAX);
    (0..kept)
        .filter_map(|index| ranked.get(index * last / kept.saturating_sub(1).max(1)))
        .map(|(_, curve)| *curve)
        .collect()
}

/// The mean over the thresholds at which the utility is known.
pub(super) fn mean_utility(curve: &LabelCurve) -> Option<f64> {
    let known: Vec<f64> = curve
        .utility
        .iter()
        .filter_map(|utility| *utility)
        .filter(|utility| utility.is_finite())
        .collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / real(known.len() as u64))
}

/// Names the mean and the worst labels at the right edge, one below the other.
fn name_curves(plot: &mut Plot, consistency: &ConsistencyFigures, drawn: &[&LabelCurve]) {
    let end = |plot: &Plot, utility: &[Option<f64>]| {
        utility
            .iter()
            .rev()
            .find_map(|utility| plot.y.at((*utility)?))
    };
    let mut names: Vec<(f64, &'static str, String)> = drawn
        .iter()
        .take(NAMED)
        .filter_map(|curve| {
            let at = end(plot, &curve.utility)?;
            Some((at, "note end", shortened(&curve.label, 24)))
        })
        .collect();
    if let Some(at) = end(plot, &consistency.mean) {
        names.push((at, "name end", "mean".to_owned()));
    }
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut ceiling = 1.0_f64;
    let mut left = real(names.len() as u64);
    for (at, class, text) in names {
        left -= 1.0;
        // Leaves space for the names that follow, down to the bottom.
        let at = at.max(LINE * left).min(ceiling);
        plot.label((1.0, at), TextAnchor::Right, class, &text);
        ceiling = at - LINE;
    }
}

/// The FAR by size of the gallery, measured and predicted.
pub(super) fn growth(growth: &GrowthCurve) -> Option<Markup> {
    let points = || growth.measured.iter().chain(&growth.predicted);
    let sizes = points()
        .filter(|point| point.far.is_some())
        .map(|point| point.items)
        .chain(growth.items_now)
        .filter(|items| 0 < *items);
    let (least, most) = extent(sizes.map(real))?;
    let x = ChartAxis::new(AxisScale::Log, AxisUnit::Count, (least * 0.8, most * 1.25))?;
    // The axis includes the upper ends of intervals. The lower ends of small counts are zero.
    let rates = points()
        .flat_map(|point| [point.far, point.interval.map(|span| span.upper)])
        .flatten()
        .chain(growth.target)
        .filter(|rate| 1e-9 <= *rate);
    let (least, most) = extent(rates)?;
    let y = ChartAxis::new(
        AxisScale::Log,
        AxisUnit::Share,
        (least * 0.3, (most * 2.5).min(1.0)),
    )?;
    let mut plot = Plot::new(x, y);
    if let Some(target) = growth.target {
        let name = format!("target: at most {}", short_percent(target));
        plot.horizontal(target, "target", &name, TextAnchor::Right);
    }
    if let Some(items) = growth.items_now {
        let name = format!("now: {} items", count(Some(items)));
        plot.vertical(real(items), "now", &name);
    }
    let predicted = growth
        .predicted
        .iter()
        .map(|point| (real(point.items), point.far));
    plot.curve(predicted, "line predicted", "predicted");
    for point in &growth.measured {
        measured(&mut plot, point);
    }
    name_growth(&mut plot, growth);
    Some(plot.finish(
        "plot",
        AxisNames {
            x: "Items in the gallery, logarithmic scale →",
            y: "↑ False accept rate per search, logarithmic scale",
        },
        "The false accept rate per search by size of the gallery: measured on parts of it, and \
         predicted.",
    ))
}

fn measured(plot: &mut Plot, point: &SizePoint) {
    let Some(far) = point.far else {
        return;
    };
    let Some(x) = plot.x.at(real(point.items)) else {
        return;
    };
    if let Some(span) = point.interval
        && let (Some(low), Some(high)) = (plot.y.at(span.lower), plot.y.at(span.upper))
    {
        plot.rule((x, x), (low.max(0.0), high.min(1.0)), "whisker");
    }
    let title = format!("{} items: {}", count(Some(point.items)), percent(Some(far)));
    let class = if point.exact {
        "measured"
    } else {
        "measured bound"
    };
    plot.dot((real(point.items), far), class, &title);
}

fn name_growth(plot: &mut Plot, growth: &GrowthCurve) {
    let place =
        |plot: &Plot, point: &SizePoint| plot.x.at(real(point.items)).zip(plot.y.at(point.far?));
    let last = growth
        .predicted
        .iter()
        .rev()
        .find(|point| point.far.is_some());
    // The line rises, so there is space above its end and below its start.
    if let Some((x, y)) = last.and_then(|point| place(plot, point)) {
        plot.label((x - 0.01, y + 0.03), TextAnchor::Left, "name", "predicted");
    }
    let largest = growth
        .measured
        .iter()
        .rev()
        .find(|point| point.far.is_some());
    if let Some((x, y)) = largest.and_then(|point| place(plot, point)) {
        plot.label((x, y - 0.05), TextAnchor::with_room(x), "name", "measured");
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .map(|value| (value, value))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_labels_the_worst_the_best_and_an_even_spread_are_drawn() {
        let labels: Vec<LabelCurve> = (0..500_u16)
            .map(|index| LabelCurve {
                label: format!("label {index}"),
                utility: vec![Some(f64::from(index) / 500.0), None],
            })
            .collect();
        let drawn = drawn(&labels);
        assert_eq!(drawn.len(), CURVES_MAX);
        assert_eq!(drawn[0].label, "label 0");
        assert_eq!(drawn[199].label, "label 499");
        assert!(super::drawn(&[]).is_empty());
        assert_eq!(super::drawn(&labels[..1]).len(), 1);
        assert_eq!(super::drawn(&labels[..200]).len(), 200);
    }
}
