//! What a calibration says beyond its threshold: as text, and as the report of a deployment.

use std::path::Path;
use std::sync::Arc;

use super::calibrate::Refusal;
use super::exit::{Exit, fail};
use super::output::{percent, table, wrapped};
use super::page::{Findings, Outline};
use super::pictures::Pictures;
use super::progress::Watched;
use crate::analysis::consistency::Consistency;
use crate::analysis::pairs_view::PairsView;
use crate::analysis::remedy_comparison::Compared;
use crate::analysis::remedy_verdict::Verdict;
use crate::analysis::sizes::Sizes;
use crate::analysis::{Analysis, Material, Scope};
use crate::calibration::operating_point::OperatingPoint;
use crate::calibration::rates::Rate;
use crate::calibration::recording::{Condition, Recording};
use crate::deployment::{CalibrationSettings, Deployment, Gathered, material_sets};
use crate::report::Report;

/// Lines of each list that are shown as text; `--json` and the report have all.
const SHOWN: usize = 5;

/// A deployment whose calibration is analysed.
pub(super) struct Subject<'a> {
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) gathered: &'a Gathered,
    pub(super) settings: &'a CalibrationSettings,
    pub(super) pictures: &'a Pictures,
    pub(super) scope: Scope,
}

impl Subject<'_> {
    fn outline(&self, created: &str) -> Outline<'_> {
        Outline {
            title: format!("{}: calibration", self.deployment.name()),
            created: created.to_owned(),
            settings: self.settings,
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Report {
        self.outline(&crate::deployment::now_rfc_3339())
            .refused(refusal)
    }

    pub(super) fn analyse(
        &self,
        point: &OperatingPoint,
        recording: &Recording,
    ) -> anyhow::Result<(Analysis, Report)> {
        let sets = material_sets(&self.deployment.snapshot(), self.gathered)?;
        let material = Material {
            names: &sets.names,
            gallery: &sets.gallery,
            queries: sets.queries.as_ref(),
            recording,
            deep: &self.gathered.near,
            depth: Gathered::DEPTH,
            target: self.settings.target,
            threshold: point.threshold(),
            seed: self.settings.seed,
            scope: self.scope,
        };
        let watched = Watched::new("analyse");
        let analysis = material.analyse(&|done, total| watched.at(done, total))?;
        watched.finish();
        let page = self.outline(&point.content().created).page(&Findings {
            id: Some(point.id()),
            content: point.content(),
            recording,
            analysis: &analysis,
            gallery: &sets.gallery,
            names: &sets.names,
            pictures: self.pictures,
        });
        Ok((analysis, page))
    }
}

/// Writes the report beside its place first, so that a broken one never stands there.
pub(super) fn write_report(path: &Path, page: &Report) -> anyhow::Result<()> {
    let failed = |cause: std::io::Error| {
        fail(
            Exit::Io,
            format!("cannot write {}: {cause}", path.display()),
        )
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    std::fs::write(&beside, crate::report::render(page)).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

/// An analysis, for a person to read.
pub(super) fn text(analysis: &Analysis) -> String {
    let mut text = String::new();
    if let Some(growth) = &analysis.growth {
        text.push_str(&growth_text(growth));
    }
    for one in analysis.worst_labels.iter().take(SHOWN) {
        text.push_str(&format!(
            "  label {}: {} of {} own searches missed, {} others accepted as it\n",
            one.label, one.missed, one.mated, one.impostors
        ));
    }
    more(&mut text, analysis.worst_labels.len(), "labels");
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
        text.push_str(&format!(
            "  {} ({}) and {} ({}) score {:.4}\n",
            pair.item_a, pair.label_a, pair.item_b, pair.label_b, pair.score
        ));
    }
    more(&mut text, analysis.intruders.len(), "pairs");
    text.push_str(&conditions_text(&analysis.conditions));
    if let Some(pairs) = &analysis.pairwise {
        text.push_str("pairwise level (comparisons of two images, not searches)\n");
        text.push_str(&pairs_text(pairs));
    }
    if let Some(remedies) = &analysis.remedies {
        let comparison = &remedies.comparison;
        text.push_str(&format!(
            "remedies, fitted on {} labels, measured on {} others\n",
            comparison.fitting_labels, comparison.measuring_labels
        ));
        let telling = |one: &&Compared| one.verdict != Verdict::NoGround;
        let told: Vec<&Compared> = comparison.remedies.iter().filter(telling).collect();
        for one in &told {
            text.push_str(&wrapped(&one.sentence, "  - "));
        }
        let (rest, all) = (
            comparison.remedies.len() - told.len(),
            comparison.remedies.len(),
        );
        if 0 < rest {
            let what = format!(
                "{rest} of {all} show no difference beyond chance: no ground to leave the one threshold; --json and the report have the figures"
            );
            text.push_str(&wrapped(&what, "  - "));
        }
    }
    for note in &analysis.notes {
        text.push_str(&wrapped(note, "note: "));
    }
    text
}

/// Rates by the value of a metadata column; nothing where there are none.
pub(super) fn conditions_text(conditions: &[Condition]) -> String {
    let mut text = String::new();
    for one in conditions {
        text.push_str(&format!(
            "  where {} is {}: FAR {}, FRR {}\n",
            one.column,
            one.value,
            brief(one.far.as_ref()),
            brief(one.frr.as_ref())
        ));
    }
    text
}

/// A rate with its interval, on part of a line.
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

fn more(text: &mut String, total: usize, what: &str) {
    if SHOWN < total {
        let rest = total - SHOWN;
        text.push_str(&format!("  and {rest} more {what}; --json has them\n"));
    }
}

fn growth_text(growth: &Sizes) -> String {
    let parts: Vec<String> = growth
        .measured
        .iter()
        .map(|point| format!("{} labels {}", point.size, percent(point.fpir)))
        .collect();
    let predicted: Vec<String> = growth
        .predicted
        .iter()
        .map(|point| format!("{} items {}", point.items, percent(point.fpir)))
        .collect();
    let mut rows = vec![
        ("FAR by size", parts.join(", ")),
        ("FAR predicted", predicted.join(", ")),
    ];
    if let Some(until) = growth.holds_until {
        rows.push((
            "estimate meets",
            format!("the target up to about {until} items; --grow-to tightens the threshold ahead"),
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
    if let Some(certified) = &pairs.certified {
        rows.push(("certified", match (certified.threshold, &certified.refused) {
            (Some(threshold), _) => format!(
                "accept two images from {:.4}: FAR <= {} per comparison, on {} label-disjoint pairs",
                threshold.get(),
                percent(certified.target.far()),
                certified.trials,
            ),
            (None, refused) => refused.clone().unwrap_or_default(),
        }));
    }
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
            .consistency
            .as_ref()
            .map(|found| ("OPIS", opis_text(found))),
    );
    table(&rows)
}

fn opis_text(found: &Consistency) -> String {
    let figure = found.split_half.as_ref().unwrap_or(&found.opis);
    let kind = if found.split_half.is_some() {
        "split-half, "
    } else {
        ""
    };
    format!(
        "{:.3e} [{:.1e} .. {:.1e}] ({kind}FAR {} .. {}, {} labels, {} skipped); plain {:.3e}",
        figure.estimate,
        figure.lower,
        figure.upper,
        percent(found.band.far_low),
        percent(found.band.far_high),
        found.labels,
        found.skipped,
        found.opis.estimate,
    )
}
