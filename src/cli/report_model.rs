//! A calibration and its analysis as the report that people look at.

use std::collections::BTreeMap;

use super::operating_point_text::Refusal;
use super::output::above_target;
use super::pictures::Pictures;
use matchpoint_calibration::analysis::far_by_size::FarBySize;
use matchpoint_calibration::analysis::pairs_view::PairsView;
use matchpoint_calibration::analysis::remedies::Remedies;
use matchpoint_calibration::analysis::remedy_measured::MeasuredRemedy;
use matchpoint_calibration::analysis::stress::Stress;
use matchpoint_calibration::analysis::{Analysis, EmbeddedSet};
use matchpoint_calibration::binomial::real;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::evaluate::histogram;
use matchpoint_calibration::menu::{Menu, MenuStanding};
use matchpoint_calibration::operating_point::{Content, ThresholdEvidence};
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::ThresholdSettings;
use matchpoint_calibration::rates::{Confidence, Interval, Proportion, Rate};
use matchpoint_calibration::recording::{Condition, LabelOutcome, Recording};
use matchpoint_calibration::target_rate::{at_least, can_be_asked_for};
use matchpoint_report::{
    BinnedScores, ClaimKind, ConditionRow, ConsistencyFigures, ErrorRate, Estimate, Fact, Figure,
    GrowthCurve, Intruders, LabelCurve, MeasuredOn, PicturedItem, RateInterval, ReportContents,
    ReportVerdict, SizePoint, SpreadFigure, ThresholdBand, View, WorstLabelRow, WorstLabelTable,
};

const HISTOGRAM_BINS: usize = 60;

/// What is known of a report before anything is calibrated.
pub(super) struct Outline<'a> {
    pub(super) title: String,
    pub(super) created: String,
    pub(super) settings: &'a ThresholdSettings,
}

/// Everything for the report of a successful calibration.
pub(super) struct Findings<'a> {
    /// Id of the operating point; `None` if it was not recorded.
    pub(super) id: Option<&'a str>,
    pub(super) content: &'a Content,
    pub(super) recording: &'a Recording,
    pub(super) analysis: &'a Analysis,
    pub(super) gallery: &'a EmbeddedSet,
    pub(super) names: &'a [String],
    pub(super) pictures: &'a Pictures,
    /// Those of the queries.
    pub(super) query_pictures: &'a Pictures,
}

impl Outline<'_> {
    /// The report of a refused calibration.
    pub(super) fn refused(&self, refusal: &Refusal) -> ReportContents {
        let mut needed = Vec::new();
        if let (Some(count), Some(present)) = (refusal.needed, refusal.independent_trials) {
            needed.push(format!(
                "Queries of {count} labels; there are {present}. More images of the same labels do not help."
            ));
        }
        if let Some(best) = refusal
            .best_supported
            .filter(|best| can_be_asked_for(*best))
        {
            needed.push(format!(
                "Or ask for {} or more: the lowest rate that these labels can support.",
                at_least(best)
            ));
        }
        let verdict = ReportVerdict {
            standing: ClaimKind::Refused,
            target: target(self.settings.target),
            rule: rule(self.settings.target).to_owned(),
            bound: None,
            reasons: vec![sentence(&refusal.message)],
            needed,
            data: Vec::new(),
        };
        ReportContents {
            created: Some(self.created.clone()),
            ..ReportContents::new(&self.title, View::Search, verdict)
        }
    }

    /// The report of a successful calibration.
    pub(super) fn page(&self, findings: &Findings<'_>) -> ReportContents {
        let (content, analysis) = (findings.content, findings.analysis);
        let pairwise = analysis.pairwise.as_ref();
        ReportContents {
            title: self.title.clone(),
            created: Some(self.created.clone()),
            view: View::Search,
            verdict: verdict(self.settings.target, content),
            operating_point: Some(operating_point(findings)),
            figures: figures(content, pairwise),
            trade_off: content
                .curve
                .iter()
                .map(|point| matchpoint_report::TradeOffPoint {
                    threshold: f64::from(point.threshold.get()),
                    far: point.far,
                    far_interval: point.far.and_then(|far| band(far, content.measured.far)),
                    frr: point.frr,
                    frr_interval: point.frr.and_then(|frr| band(frr, content.measured.frr)),
                })
                .collect(),
            histogram: scores(findings.recording),
            consistency: pairwise.and_then(consistency),
            worst_labels: worst_labels(findings),
            intruders: intruders(findings),
            nearest_strangers: nearest_strangers(findings),
            conditions: conditions(&analysis.conditions, content.target_far()),
            growth: analysis.growth.as_ref().map(|sizes| growth(sizes, content)),
            remedies: analysis.remedies.as_ref().map(remedies),
            menu: menu_of(findings),
            stress: analysis
                .stress
                .iter()
                .map(|one| stress(one, content))
                .collect(),
            made_with: made_with(content),
            assumptions: content.assumptions.clone(),
        }
    }
}

/// The page of a calibration without a target.
pub(super) fn menu_page(title: &str, menu: &Menu, next: &str) -> ReportContents {
    let verdict = ReportVerdict {
        standing: ClaimKind::Refused,
        target: None,
        rule: "none yet: no target was named".to_owned(),
        bound: None,
        reasons: Vec::new(),
        needed: vec![format!("Name one: {next} --target-far RATE.")],
        data: vec![format!("{} labels of strangers.", menu.stranger_labels)],
    };
    ReportContents {
        menu: Some(menu_table(menu)),
        ..ReportContents::new(
            &format!("{title}: what to choose from"),
            View::Search,
            verdict,
        )
    }
}

/// Which other targets were possible.
fn menu_of(findings: &Findings<'_>) -> Option<matchpoint_report::MenuTable> {
    let content = findings.content;
    let confidence = content.confidence().unwrap_or(0.95);
    let trials = findings.recording.trials();
    let certifies = content.policy.certifies() || content.target_far().is_none();
    let menu = Menu::of(trials, confidence, content.seed, certifies).ok()?;
    Some(menu_table(&menu))
}

fn menu_table(menu: &Menu) -> matchpoint_report::MenuTable {
    let rows = menu.lines.iter().map(|line| matchpoint_report::MenuRow {
        far: line.far,
        standing: match line.standing {
            MenuStanding::Certified => "certified",
            MenuStanding::AimedAt => "aimed at, not certified",
            MenuStanding::Estimated => "estimated only",
            MenuStanding::Unsupported => "too few labels",
        }
        .to_owned(),
        threshold: line.threshold.map(|threshold| f64::from(threshold.get())),
        frr: line.frr.into(),
        frr_at_target: line.price.map(|price| price.frr_at_target),
        labels_needed: Some(line.labels_needed),
        labels_to_halve: line.price.and_then(|price| price.labels_to_halve),
    });
    matchpoint_report::MenuTable {
        confidence: menu.confidence,
        rows: rows.collect(),
    }
}

fn target(target: CalibrationTarget) -> Option<matchpoint_report::TargetRate> {
    let (error, at_most, confidence) = match target {
        CalibrationTarget::Far(far) | CalibrationTarget::FarEstimated(far) => {
            (ErrorRate::FalseAccept, far.far(), far.confidence())
        }
        CalibrationTarget::Frr(frr) => (ErrorRate::FalseReject, frr.frr(), frr.confidence()),
        CalibrationTarget::EqualError | CalibrationTarget::Cost(_) => return None,
    };
    Some(matchpoint_report::TargetRate {
        error,
        at_most,
        confidence: Some(confidence.get()),
    })
}

fn rule(target: CalibrationTarget) -> &'static str {
    match target {
        CalibrationTarget::Far(_) => "the lowest threshold whose false accept rate is proven",
        CalibrationTarget::FarEstimated(_) => {
            "the lowest threshold whose estimated bound meets the target"
        }
        CalibrationTarget::Frr(_) => "the highest threshold whose false reject rate is proven",
        CalibrationTarget::EqualError => "the threshold where both error rates are the same",
        CalibrationTarget::Cost(_) => "the threshold of the lowest expected cost",
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str())
}

fn verdict(asked: CalibrationTarget, content: &Content) -> ReportVerdict {
    let certifies = content.policy.certifies();
    let mut reasons = Vec::new();
    if !certifies {
        reasons.push(match asked {
            CalibrationTarget::Far(_) => {
                "Enrolled labels stood for strangers. They are not independent of each other, so nothing is certified.".to_owned()
            }
            CalibrationTarget::FarEstimated(_) => {
                "The bound is an approximation over labels; in simulations it is missed somewhat more often than it says.".to_owned()
            }
            CalibrationTarget::Frr(_) | CalibrationTarget::EqualError | CalibrationTarget::Cost(_) => {
                "This rule takes the rates as measured, and promises nothing.".to_owned()
            }
        });
    }
    let counts = &content.trials;
    let data = format!(
        "{} searches by {} enrolled labels; {} searches by {} labels that were never enrolled; {} searches by {} enrolled labels with their own items left out; a gallery of {} items and {} labels.",
        counts.mated.searches,
        counts.mated.labels,
        counts.never_enrolled.searches,
        counts.never_enrolled.labels,
        counts.left_out.searches,
        counts.left_out.labels,
        content.binding.gallery_items,
        content.binding.gallery_labels,
    );
    let frr_bound = content.frr_certificate().map(|found| found.frr_bound);
    ReportVerdict {
        standing: if certifies {
            ClaimKind::Promised
        } else {
            ClaimKind::Estimated
        },
        target: target(asked),
        rule: if certifies || !matches!(asked, CalibrationTarget::Far(_)) {
            rule(asked).to_owned()
        } else {
            "the threshold that the proof would give, were the trials independent".to_owned()
        },
        bound: content.far_bound().or(frr_bound),
        reasons,
        needed: Vec::new(),
        data: vec![data],
    }
}

fn operating_point(findings: &Findings<'_>) -> matchpoint_report::PointSummary {
    let content = findings.content;
    // The rates of the rule, by cross-fitting, are in the table: they belong to other thresholds.
    let measured = &content.measured;
    matchpoint_report::PointSummary {
        id: findings.id.map(str::to_owned),
        threshold: f64::from(content.threshold.get()),
        far: measured.far.into(),
        frr: measured.frr.into(),
        far_basis: MeasuredOn::ChoseThreshold,
        frr_basis: frr_basis(content),
    }
}

fn figures(content: &Content, pairwise: Option<&PairsView>) -> Vec<Figure> {
    let figure = |name: &str, meaning: &str, rate: Option<Rate>, basis| Figure {
        name: name.to_owned(),
        meaning: meaning.to_owned(),
        estimate: rate.into(),
        basis,
    };
    let far = "Non-mated searches that were accepted (FPIR).";
    let frr = "Mated searches rejected, or accepted with a wrong label (FNIR).";
    let measured = &content.measured;
    let held_out = content.held_out.as_ref();
    let mut figures = vec![
        figure(
            "False accept rate of the rule",
            RULE_FAR,
            held_out.and_then(|h| h.far),
            MeasuredOn::HeldOut,
        ),
        figure(
            "False reject rate of the rule",
            RULE_FRR,
            held_out.and_then(|h| h.frr),
            MeasuredOn::HeldOut,
        ),
        figure(
            "False accept rate",
            far,
            measured.far,
            MeasuredOn::ChoseThreshold,
        ),
        figure("False reject rate", frr, measured.frr, frr_basis(content)),
        figure(
            "Misidentification",
            "The part of the false rejects that was accepted with a wrong label.",
            measured.misidentification,
            frr_basis(content),
        ),
        figure(
            "Recall at 1",
            "Mated searches whose nearest item has the right label.",
            measured.recall_at_1,
            MeasuredOn::NoThreshold,
        ),
    ];
    if let Some(pairs) = pairwise {
        figures.push(figure(
            "Pairwise FAR at this threshold",
            "Comparisons of two images of different labels that would be accepted. Not a rate of searches.",
            pairs.at_threshold.far,
            MeasuredOn::ChoseThreshold,
        ));
        figures.push(figure(
            "Pairwise FRR at this threshold",
            "Comparisons of two images of one label that would be rejected. Not a rate of searches.",
            pairs.at_threshold.frr,
            MeasuredOn::ChoseThreshold,
        ));
    }
    figures
}

/// Cross-fitting measures the rule for choosing, not the one threshold.
const RULE_FAR: &str = "FPIR by cross-fitting: each part of the labels judged by the threshold that the other parts chose.";
const RULE_FRR: &str = "FNIR by cross-fitting: each part of the labels judged by the threshold that the other parts chose.";

/// With a target FAR, mated searches have no part in choosing.
fn frr_basis(content: &Content) -> MeasuredOn {
    match content.evidence {
        _ if 0 < content.trials.left_out.searches => MeasuredOn::ChoseThreshold,
        None | Some(ThresholdEvidence::FarEstimated(_)) => MeasuredOn::HeldOut,
        Some(_) => MeasuredOn::ChoseThreshold,
    }
}

/// An interval as at the threshold, carried along the curve by the effective trials there.
fn band(estimate: f64, at_threshold: Option<Rate>) -> Option<RateInterval> {
    let rate = at_threshold?;
    let confidence = rate.interval.confidence;
    let interval = Interval::wilson(estimate, rate.effective_trials, confidence);
    Some(interval.into())
}

fn scores(recording: &Recording) -> Option<BinnedScores> {
    let counted = histogram(recording.trials(), HISTOGRAM_BINS)?;
    Some(BinnedScores {
        lower: counted.lower,
        upper: counted.upper,
        mated: counted.mated,
        non_mated: counted.non_mated,
    })
}

fn consistency(pairs: &PairsView) -> Option<ConsistencyFigures> {
    let measured = pairs.consistency.as_ref()?;
    let span = |of: &matchpoint_calibration::analysis::consistency::Resampled| RateInterval {
        lower: of.lower,
        upper: of.upper,
        confidence: of.confidence.get(),
    };
    let mut figures = Vec::new();
    if let Some(split) = &measured.split_half {
        figures.push(SpreadFigure {
            name: "OPIS, split-half".to_owned(),
            meaning: "The variance of utility over labels, free of the excess that few images cause. The figure to compare by.".to_owned(),
            value: Some(split.estimate),
            interval: Some(span(split)),
        });
    }
    figures.push(SpreadFigure {
        name: "OPIS".to_owned(),
        meaning: "The variance of utility over labels, averaged over the band; too high with few images of each label.".to_owned(),
        value: Some(measured.opis.estimate),
        interval: Some(span(&measured.opis)),
    });
    figures.push(SpreadFigure {
        name: format!("epsilon-OPIS ({:.0} %)", measured.epsilon * 100.0),
        meaning: "The squared distance in utility between the worst and the best labels."
            .to_owned(),
        value: Some(measured.epsilon_opis),
        interval: None,
    });
    let utilities = &pairs.utilities;
    let known = |curve: &[f64]| curve.iter().map(|value| Some(*value)).collect();
    Some(ConsistencyFigures {
        view: View::Pairwise,
        band: ThresholdBand {
            far_low: measured.band.far_low,
            far_high: measured.band.far_high,
            threshold_low: Some(f64::from(measured.threshold_low.get())),
            threshold_high: Some(f64::from(measured.threshold_high.get())),
        },
        figures,
        thresholds: utilities
            .thresholds
            .iter()
            .map(|threshold| f64::from(threshold.get()))
            .collect(),
        mean: known(&utilities.mean),
        labels: utilities
            .labels
            .iter()
            .map(|(label, curve)| LabelCurve {
                label: label.clone(),
                utility: known(curve),
            })
            .collect(),
        labels_skipped: measured.skipped,
    })
}

fn worst_labels(findings: &Findings<'_>) -> Option<WorstLabelTable> {
    let worst = &findings.analysis.worst_labels;
    if worst.is_empty() {
        return None;
    }
    let mut items: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (row, id) in findings.gallery.ids.iter().enumerate() {
        let label = findings.gallery.label(row, findings.names);
        items.entry(label).or_default().push(id);
    }
    let row = |one: &LabelOutcome| WorstLabelRow {
        label: one.label.clone(),
        pictures: items
            .get(one.label.as_str())
            .into_iter()
            .flatten()
            .filter_map(|id| findings.pictures.of(id))
            .take(3)
            .collect(),
        far: Estimate {
            events: Some(one.impostors),
            ..Estimate::default()
        },
        frr: Estimate {
            value: (0 < one.mated).then(|| real(one.missed) / real(one.mated)),
            interval: Proportion::new(one.missed, one.mated)
                .ok()
                .map(|share| Interval::clopper_pearson(share, Confidence::DISPLAY).into()),
            events: Some(one.missed),
            trials: Some(one.mated),
            ..Estimate::default()
        },
        utility: None,
    };
    Some(WorstLabelTable {
        view: View::Search,
        ranked_by: "share of own searches missed, then strangers accepted".to_owned(),
        rows: worst.iter().map(row).collect(),
        labels: findings.content.binding.gallery_labels,
    })
}

fn intruders(findings: &Findings<'_>) -> Option<Intruders> {
    let pairs = &findings.analysis.intruders;
    if pairs.is_empty() {
        return None;
    }
    let item = |id: &str, label: &str| PicturedItem {
        id: id.to_owned(),
        label: label.to_owned(),
        picture: findings.pictures.of(id),
    };
    Some(Intruders {
        pairs: pairs
            .iter()
            .map(|pair| matchpoint_report::IntruderPair {
                first: item(&pair.item_a, &pair.label_a),
                second: item(&pair.item_b, &pair.label_b),
                score: f64::from(pair.score),
                remark: None,
            })
            .collect(),
        total: Some(findings.analysis.intruder_pairs),
    })
}

fn nearest_strangers(findings: &Findings<'_>) -> Option<Intruders> {
    let strangers = &findings.analysis.nearest_strangers;
    if strangers.is_empty() {
        return None;
    }
    let pairs = strangers.iter().map(|one| matchpoint_report::IntruderPair {
        first: PicturedItem {
            id: one.query.clone(),
            label: one.label.clone(),
            picture: findings.query_pictures.of(&one.query),
        },
        second: PicturedItem {
            id: one.item.clone(),
            label: one.item_label.clone(),
            picture: findings.pictures.of(&one.item),
        },
        score: f64::from(one.score),
        remark: Some(one.remark()),
    });
    Some(Intruders {
        pairs: pairs.collect(),
        total: None,
    })
}

fn conditions(
    all: &[Condition],
    target: Option<TargetFar>,
) -> Vec<matchpoint_report::ConditionTable> {
    let mut columns: Vec<matchpoint_report::ConditionTable> = Vec::new();
    for one in all {
        let row = ConditionRow {
            value: one.value.clone(),
            mark: above_target(one.far.as_ref(), target.map(TargetFar::far)),
            far: one.far.into(),
            frr: one.frr.into(),
        };
        match columns.last_mut().filter(|last| last.column == one.column) {
            Some(column) => column.rows.push(row),
            None => columns.push(matchpoint_report::ConditionTable {
                column: one.column.clone(),
                rows: vec![row],
            }),
        }
    }
    columns
}

fn stress(one: &Stress, content: &Content) -> ConditionRow {
    let far = one.far;
    let target = content.target_far().map(TargetFar::far);
    let above = target.filter(|target| *target < far.estimate);
    let named = if one.labels.is_empty() {
        String::new()
    } else {
        format!(", such as {}", one.labels.join(", "))
    };
    ConditionRow {
        value: format!("{}{named}", one.who),
        mark: above.map(|target| {
            let chance = if target < far.lower {
                "by more than chance"
            } else {
                "within chance"
            };
            format!("above what is asked for, {chance}")
        }),
        far: Estimate {
            interval: Some(RateInterval {
                lower: far.lower,
                upper: far.upper,
                confidence: far.confidence,
            }),
            labels: Some(far.labels),
            ..Estimate::bare(far.estimate)
        },
        frr: Estimate::default(),
    }
}

fn growth(sizes: &FarBySize, content: &Content) -> GrowthCurve {
    let labels = real(content.binding.gallery_labels.max(1));
    let items = real(sizes.items_now);
    let measured = sizes.measured.iter().map(|point| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of items, for drawing"
        )]
        let size = (real(point.size) / labels * items).round() as u64;
        let spread = 1.96 * point.standard_error;
        SizePoint {
            items: size,
            far: Some(point.fpir),
            interval: Some(RateInterval {
                lower: (point.fpir - spread).clamp(0.0, 1.0),
                upper: (point.fpir_at_most + spread).clamp(0.0, 1.0),
                confidence: 0.95,
            }),
            exact: point.exact,
        }
    });
    // If nothing was accepted, only the upper end is known.
    let predicted = if sizes.predicted_at_most.is_empty() {
        &sizes.predicted
    } else {
        &sizes.predicted_at_most
    };
    let ranges = sizes.predicted_ranges.iter();
    let predicted = predicted
        .iter()
        .zip(ranges)
        .map(|(point, range)| SizePoint {
            items: point.items,
            far: Some(point.fpir),
            interval: Some(RateInterval {
                lower: range.lower,
                upper: range.upper,
                confidence: 0.95,
            }),
            exact: false,
        });
    GrowthCurve {
        measured: measured.collect(),
        predicted: predicted.collect(),
        target: content
            .growth
            .map(|growth| growth.target_far)
            .or(content.target_far().map(TargetFar::far)),
        items_now: Some(sizes.items_now),
        holds_until: sizes.holds_until,
        assumption: if sizes.predicted_at_most.is_empty() {
            sentence(sizes.assumption)
        } else {
            format!(
                "{} No search was accepted, so that what is shown is the upper end of its interval.",
                sentence(sizes.assumption)
            )
        },
    }
}

fn remedies(remedies: &Remedies) -> matchpoint_report::RemedyTable {
    let row = |measured: &MeasuredRemedy, verdict: String, preferred: bool| {
        matchpoint_report::RemedyRow {
            name: measured.fitted.remedy.as_str().to_owned(),
            far: measured.far.into(),
            frr: measured.frr.into(),
            worst_frr: measured
                .worst_labels
                .as_ref()
                .map(|worst| Estimate::bare(worst.mean_of_worst_tenth))
                .unwrap_or_default(),
            spread: measured.utility_variance,
            verdict,
            preferred,
        }
    };
    let comparison = &remedies.comparison;
    let any = comparison.remedies.iter().any(|one| one.verdict.prefers());
    let far = comparison.plan.rule.target().far() * 100.0;
    let rest = if any {
        ""
    } else {
        " None of them has a lower FRR by more than chance without a higher rate elsewhere: keep one threshold."
    };
    let nothing = format!(
        "What the remedies are compared with: one threshold, chosen again on half of the labels for an estimated FAR of at most {far} %. Not the operating point above.{rest}"
    );
    let mut rows = vec![row(&comparison.one_threshold, nothing, !any)];
    rows.extend(
        comparison
            .remedies
            .iter()
            .map(|one| row(&one.measured, one.sentence.clone(), one.verdict.prefers())),
    );
    matchpoint_report::RemedyTable {
        view: View::Search,
        rows,
    }
}

fn made_with(content: &Content) -> Vec<Fact> {
    let binding = &content.binding;
    let index = content.index_check.map(|check| {
        format!(
            "{} of {} searches missed the nearest item",
            check.missed, check.sampled
        )
    });
    let facts = [
        ("Policy", Some(content.goal())),
        (
            "Compared with the threshold",
            Some(super::operating_point_text::compared_score(content)),
        ),
        ("Model", Some(binding.model_name.clone())),
        ("Model fingerprint", Some(binding.model_fingerprint.clone())),
        ("Gallery", Some(binding.gallery_id.clone())),
        ("Gallery digest", Some(binding.gallery_digest.clone())),
        ("Index", Some(binding.index.clone())),
        (
            "Index against exact search",
            index.or_else(|| Some("exact: nothing is missed".to_owned())),
        ),
        ("Metric", Some(binding.metric.to_string())),
        ("Seed", Some(content.seed.to_string())),
        ("Searches digest", Some(content.calibration_digest.clone())),
        ("Software", Some(content.software.clone())),
    ];
    facts
        .into_iter()
        .map(|(name, value)| Fact {
            name: name.to_owned(),
            value,
        })
        .collect()
}
