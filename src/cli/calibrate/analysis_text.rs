//! The findings of a calibration besides its threshold: as text, and as the report of a deployment.

use std::sync::Arc;

use crate::cli::output::pictures::{LabelledPictures, Pictures};
use crate::cli::output::progress::SharedProgress;
use crate::cli::output::{percent, table, wrapped};
use crate::cli::points::text::price_text;
use crate::deployment::{Deployment, Gathered, material_sets};
use crate::telemetry::escaped;
use matchpoint_calibration::analysis::consistency::Consistency;
use matchpoint_calibration::analysis::far_by_size::FarBySize;
use matchpoint_calibration::analysis::label_groups::LabelGroup;
use matchpoint_calibration::analysis::nearest_strangers::NearestStranger;
use matchpoint_calibration::analysis::pairs_view::{Certified, PairsView};
use matchpoint_calibration::analysis::remedy_comparison::RemedyOutcome;
use matchpoint_calibration::analysis::remedy_verdict::RemedyVerdict;
use matchpoint_calibration::analysis::stress::Stress;
use matchpoint_calibration::analysis::{Analysis, AnalysisInput, AnalysisScope};
use matchpoint_calibration::decision::Threshold;
use matchpoint_calibration::growth::FpirAt;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::policy::choose;
use matchpoint_calibration::procedure::{Refusal, ThresholdSettings};
use matchpoint_calibration::rates::Rate;
use matchpoint_calibration::recording::{Condition, Recording};
use matchpoint_report::ReportContents;
use matchpoint_report::calibrated::{Findings, Outline, above_target};

/// Number of lines of each list that are shown as text. `--json` and the report have all lines.
const SHOWN: usize = 5;

/// A deployment whose calibration is analysed.
pub(crate) struct AnalysisSubject<'a> {
    pub(crate) deployment: &'a Arc<Deployment>,
    pub(crate) gathered: &'a Gathered,
    pub(crate) settings: &'a ThresholdSettings,
    pub(crate) pictures: &'a Pictures,
    /// The pictures of the queries.
    pub(crate) query_pictures: &'a Pictures,
    pub(crate) scope: AnalysisScope,
}

impl AnalysisSubject<'_> {
    fn outline(&self, created: &str) -> Outline {
        Outline {
            title: format!("{}: calibration", self.deployment.name()),
            created: created.to_owned(),
            target: self.settings.target,
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) -> ReportContents {
        self.outline(&crate::clock::now_rfc_3339()).refused(refusal)
    }

    /// The threshold that the same rule gives on plain similarity.
    fn on_similarity(
        &self,
        point: &OperatingPoint,
        recording: &Recording,
    ) -> anyhow::Result<Threshold> {
        if point.content().adjustment.is_none() {
            return Ok(point.threshold());
        }
        let mut searches = recording.searches().to_vec();
        for found in searches
            .iter_mut()
            .filter_map(|search| search.found.as_mut())
        {
            found.adjusted = None;
        }
        let plain = Recording::new(searches)?.with_repeats(recording.trials().repeats().clone());
        let items = point.content().binding.gallery_items;
        let (target, _) = self.settings.tightened(items)?;
        let choice = choose(target, plain.trials(), self.settings.seed);
        Ok(choice.map_or(Threshold::ACCEPT_NOTHING, |choice| choice.threshold))
    }

    pub(crate) fn analyse(
        &self,
        point: &OperatingPoint,
        recording: &Recording,
    ) -> anyhow::Result<(Analysis, ReportContents)> {
        let sets = material_sets(self.gathered)?;
        let material = AnalysisInput {
            names: &sets.names,
            gallery: &sets.gallery,
            queries: sets.queries.as_ref(),
            recording,
            deep: &self.gathered.deep(),
            depth: Gathered::DEPTH,
            target: self.settings.target,
            threshold: point.threshold(),
            on_similarity: self.on_similarity(point, recording)?,
            seed: self.settings.seed,
            scope: self.scope,
        };
        let watched = SharedProgress::new("analyse");
        let analysis = material.analyse(&|done, total| watched.at(done, total))?;
        watched.finish();
        let page = self.outline(&point.content().created).page(&Findings {
            id: Some(point.id()),
            content: point.content(),
            recording,
            analysis: &analysis,
            pictures: &LabelledPictures::of(
                &sets.gallery,
                &sets.names,
                self.pictures,
                self.query_pictures,
            ),
        });
        Ok((analysis, page))
    }
}

/// The analysis as text.
pub(crate) fn text(analysis: &Analysis, target_far: Option<f64>) -> String {
    let mut text = String::new();
    if let Some(price) = &analysis.price {
        text.push_str(&wrapped(
            &format!("price of the proof: {}", price_text(price)),
            "  ",
        ));
    }
    if let Some(growth) = &analysis.growth {
        text.push_str(&growth_text(growth));
    }
    for one in analysis.worst_labels.iter().take(SHOWN) {
        let line = format!(
            "label {}: {} of {} own searches missed, {} others accepted as it",
            one.label, one.missed, one.mated, one.impostors
        );
        text.push_str(&wrapped(&line, "  "));
    }
    more(&mut text, analysis.worst_labels_total, "labels");
    if !analysis.intruders.is_empty() {
        text.push_str(&wrapped(
            &format!(
                "{} enrolled labels have items that would be accepted as another label: wrong labels, things enrolled twice, or look-alikes",
                analysis.intruded_labels
            ),
            "  ",
        ));
    }
    for pair in analysis.intruders.iter().take(SHOWN) {
        let line = format!(
            "{} ({}) and {} ({}) score {:.4}",
            pair.item_a, pair.label_a, pair.item_b, pair.label_b, pair.score
        );
        text.push_str(&wrapped(&line, "  "));
    }
    more(&mut text, analysis.intruder_pairs, "pairs");
    text.push_str(&stress_text(&analysis.stress, target_far));
    text.push_str(&strangers_text(&analysis.nearest_strangers));
    text.push_str(&conditions_text(&analysis.conditions, target_far));
    if let Some(pairs) = &analysis.pairwise {
        text.push_str("pairwise level (comparisons of two images, not searches)\n");
        text.push_str(&pairs_text(pairs));
    }
    if let Some(remedies) = &analysis.remedies {
        let comparison = &remedies.comparison;
        text.push_str(&format!(
            "remedies at an estimated FAR <= {}, fitted on {} labels, measured on {} others\n",
            percent(comparison.plan.rule.target().far()),
            comparison.fitting_labels,
            comparison.measuring_labels
        ));
        let telling = |one: &&RemedyOutcome| one.verdict != RemedyVerdict::NoGround;
        let told: Vec<&RemedyOutcome> = comparison.remedies.iter().filter(telling).collect();
        for one in &told {
            text.push_str(&wrapped(&one.sentence, "  - "));
        }
        let (rest, all) = (
            comparison.remedies.len() - told.len(),
            comparison.remedies.len(),
        );
        if 0 < rest {
            let what = format!(
                "{rest} of {all} give no ground to leave the one threshold: their FRR is within chance, or the labels are too few; --json and the report have the figures"
            );
            text.push_str(&wrapped(&what, "  - "));
        }
    }
    for note in &analysis.notes {
        text.push_str(&wrapped(note, "note: "));
    }
    text
}

/// The rates by value of a metadata column, with a mark if the FAR is above the target; empty if there are
/// none.
pub(crate) fn conditions_text(conditions: &[Condition], target_far: Option<f64>) -> String {
    let mut text = String::new();
    for one in conditions {
        let line = format!(
            "where {} is {}: FAR {}, FRR {}{}",
            escaped(&one.column),
            escaped(&one.value),
            brief(one.far.as_ref()),
            brief(one.frr.as_ref()),
            above_target(one.far.as_ref(), target_far)
                .map_or_else(String::new, |mark| format!(" <- {mark}"))
        );
        text.push_str(&wrapped(&line, "  "));
    }
    text
}

/// The FAR under each stress condition; empty if none was analysed.
fn stress_text(stresses: &[Stress], target_far: Option<f64>) -> String {
    if stresses.is_empty() {
        return String::new();
    }
    let mut text =
        "  if service brings less than the mixture that was tested (not promised)\n".to_owned();
    for one in stresses {
        let far = one.far;
        let named = if one.labels.is_empty() {
            String::new()
        } else {
            format!(" (such as {})", one.labels.join(", "))
        };
        let mark = target_far
            .filter(|target| *target < far.estimate)
            .map_or("", |target| {
                if target < far.lower {
                    " <- above what is asked for, by more than chance"
                } else {
                    " <- above what is asked for, within chance"
                }
            });
        let what = format!(
            "FAR {} [{} .. {}], {} labels: {}{named}{mark}",
            percent(far.estimate),
            percent(far.lower),
            percent(far.upper),
            far.labels,
            one.who
        );
        text.push_str(&wrapped(&what, "  - "));
    }
    text
}

/// A rate with its interval, as part of a line.
fn brief(rate: Option<&Rate>) -> String {
    rate.map_or_else(
        || "unknown".to_owned(),
        |rate| {
            format!(
                "{} [{} .. {}]",
                percent(rate.estimate),
                percent(rate.interval.lower),
                percent(rate.interval.upper)
            )
        },
    )
}

fn more(text: &mut String, total: u64, what: &str) {
    let rest = total.saturating_sub(SHOWN as u64);
    if 0 < rest {
        text.push_str(&format!(
            "  and {rest} more {what}; --json lists the first 20\n"
        ));
    }
}

fn strangers_text(strangers: &[NearestStranger]) -> String {
    if strangers.is_empty() {
        return String::new();
    }
    let mut text = wrapped(
        "the strangers with the highest scores: look at them, for a wrong label, a duplicate or a look-alike sets the threshold",
        "  ",
    );
    for one in strangers.iter().take(SHOWN) {
        let line = format!(
            "{} ({}) found {} ({}) score {:.4}, {}",
            one.query,
            one.label,
            one.item,
            one.item_label,
            one.score,
            one.remark(),
        );
        text.push_str(&wrapped(&line, "  "));
    }
    if SHOWN < strangers.len() {
        text.push_str(&format!(
            "  and {} more with --json, and with pictures in the report\n",
            strangers.len() - SHOWN
        ));
    }
    text
}

fn growth_text(growth: &FarBySize) -> String {
    let parts: Vec<String> = growth
        .measured
        .iter()
        .map(|point| {
            let at_least = if point.exact { "" } else { "at least " };
            format!("{} labels {at_least}{}", point.size, percent(point.fpir))
        })
        .collect();
    let listed = |points: &[FpirAt]| {
        let points = points.iter();
        let points: Vec<String> = points
            .map(|point| format!("{} items {}", point.items, percent(point.fpir)))
            .collect();
        points.join(", ")
    };
    let ranges = growth.predicted.iter().zip(&growth.predicted_ranges);
    let ranges: Vec<String> = ranges
        .map(|(point, range)| {
            let [estimate, lower, upper] = [point.fpir, range.lower, range.upper].map(percent);
            format!("{} items {estimate} [{lower} .. {upper}]", point.items)
        })
        .collect();
    let predicted = if growth.predicted_at_most.is_empty() {
        ranges.join(", ")
    } else {
        format!(
            "at most {} (none of {} searches was accepted; from the upper end of the interval)",
            listed(&growth.predicted_at_most),
            growth.searches
        )
    };
    let mut rows = vec![
        ("FAR by size", parts.join(", ")),
        ("FAR predicted", predicted),
    ];
    if let Some(check) = growth.check {
        rows.push((
            "as a check",
            format!(
                "from half of the labels {} was predicted for all of them, where {} was measured",
                percent(check.predicted),
                percent(check.measured)
            ),
        ));
    }
    if let Some(least) = growth.holds_until {
        let most = growth.holds_at_most_until.map_or_else(
            || "whether it does beyond, so few accepts do not say".to_owned(),
            |most| format!("and to at most {most}"),
        );
        rows.push((
            "target met",
            format!(
                "up to at least {least} items by the interval, {most}; --grow-to tightens the threshold ahead"
            ),
        ));
    }
    table(&rows)
}

fn pairs_text(pairs: &PairsView) -> String {
    let mut rows = vec![(
        "pairs",
        format!(
            "{} of one label, {} of two labels",
            pairs.mated_pairs, pairs.non_mated_pairs
        ),
    )];
    if let Some(crossing) = &pairs.equal_error {
        rows.push((
            "equal error",
            format!(
                "{} at {:.4}",
                percent(crossing.rate),
                crossing.threshold.get()
            ),
        ));
    }
    for at in &pairs.at_far {
        let (Some(asked), Some(far), Some(frr)) = (at.asked_far, &at.far, &at.frr) else {
            continue;
        };
        rows.push((
            "FRR at FAR",
            format!(
                "{}: {} [{} .. {}], threshold {:.4}; FAR [{} .. {}], {:.0} effective pairs",
                percent(asked),
                percent(frr.estimate),
                percent(frr.interval.lower),
                percent(frr.interval.upper),
                at.threshold.get(),
                percent(far.interval.lower),
                percent(far.interval.upper),
                far.effective_trials,
            ),
        ));
    }
    rows.extend(
        pairs
            .certified
            .as_ref()
            .map(|found| ("certified", certified_text(found))),
    );
    if let Some(estimated) = &pairs.estimated {
        rows.push((
            "estimated",
            format!(
                "accept two images from {:.4}: its upper bound over labels meets the target",
                estimated.threshold.get()
            ),
        ));
    }
    rows.extend(
        pairs
            .groups
            .iter()
            .map(|one| ("labels where", group_text(one))),
    );
    rows.extend(
        pairs
            .consistency
            .as_ref()
            .map(|found| ("OPIS", opis_text(found))),
    );
    table(&rows)
}

fn opis_text(found: &Consistency) -> String {
    let figure = found.split_half.as_ref().unwrap_or(&found.opis);
    let (kind, labels) = if found.split_half.is_some() {
        ("split-half", found.split_half_labels)
    } else {
        (
            "plain, too high with few images of each label",
            found.labels,
        )
    };
    format!(
        "{:.3e} [{:.1e} .. {:.1e}] ({kind}, FAR {} .. {}, {} labels, {} skipped); plain {:.3e}",
        figure.estimate,
        figure.lower,
        figure.upper,
        percent(found.band.far_low),
        percent(found.band.far_high),
        labels,
        found.skipped,
        found.opis.estimate,
    )
}

fn certified_text(found: &Certified) -> String {
    let Some(threshold) = found.threshold else {
        return found.refused.clone().unwrap_or_default();
    };
    format!(
        "accept two images from {:.4}: FAR <= {} per comparison at {} confidence, on {} label-disjoint pairs",
        threshold.get(),
        percent(found.target.far()),
        percent(found.target.confidence().get()),
        found.trials,
    )
}

fn group_text(one: &LabelGroup) -> String {
    format!(
        "{} is {}: FAR {}, FRR {} ({} labels)",
        one.column,
        one.value,
        brief(one.outcome.far.as_ref()),
        brief(one.outcome.frr.as_ref()),
        one.outcome.labels,
    )
}
