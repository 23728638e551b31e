//! The parts about labels and items that stand out.

use super::findings::Findings;
use crate::contents::{
    IntruderPair, Intruders, PicturedItem, View, WorstLabelRow, WorstLabelTable,
};
use crate::estimate::Estimate;
use matchpoint_calibration::binomial::real;
use matchpoint_calibration::rates::{Confidence, Interval, Proportion};
use matchpoint_calibration::recording::LabelOutcome;

/// Number of pictures of a label, enough to see what it is.
const PICTURES_OF_A_LABEL: usize = 3;

pub(super) fn worst_labels(findings: &Findings<'_>) -> Option<WorstLabelTable> {
    let worst = &findings.analysis.worst_labels;
    if worst.is_empty() {
        return None;
    }
    let row = |one: &LabelOutcome| WorstLabelRow {
        label: one.label.clone(),
        pictures: findings.pictures.of_label(&one.label, PICTURES_OF_A_LABEL),
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

pub(super) fn intruders(findings: &Findings<'_>) -> Option<Intruders> {
    let pairs = &findings.analysis.intruders;
    if pairs.is_empty() {
        return None;
    }
    let item = |id: &str, label: &str| PicturedItem {
        id: id.to_owned(),
        label: label.to_owned(),
        picture: findings.pictures.of_item(id),
    };
    Some(Intruders {
        pairs: pairs
            .iter()
            .map(|pair| IntruderPair {
                first: item(&pair.item_a, &pair.label_a),
                second: item(&pair.item_b, &pair.label_b),
                score: f64::from(pair.score),
                remark: None,
            })
            .collect(),
        total: Some(findings.analysis.intruder_pairs),
    })
}

pub(super) fn nearest_strangers(findings: &Findings<'_>) -> Option<Intruders> {
    let strangers = &findings.analysis.nearest_strangers;
    if strangers.is_empty() {
        return None;
    }
    let pairs = strangers.iter().map(|one| IntruderPair {
        first: PicturedItem {
            id: one.query.clone(),
            label: one.label.clone(),
            picture: findings.pictures.of_query(&one.query),
        },
        second: PicturedItem {
            id: one.item.clone(),
            label: one.item_label.clone(),
            picture: findings.pictures.of_item(&one.item),
        },
        score: f64::from(one.score),
        remark: Some(one.remark()),
    });
    Some(Intruders {
        pairs: pairs.collect(),
        total: None,
    })
}
