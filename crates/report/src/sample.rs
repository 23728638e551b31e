//! A report with realistic made-up numbers, for tests.

use super::{
    BinnedScores, ClaimKind, ConditionRow, ConditionTable, ConsistencyFigures, ErrorRate, Estimate,
    Fact, Figure, GrowthCurve, IntruderPair, Intruders, LabelCurve, MeasuredOn, MenuRow, MenuTable,
    Picture, PicturedItem, PointSummary, RateInterval, RemedyRow, RemedyTable, ReportContents,
    ReportVerdict, SizePoint, SpreadFigure, TargetRate, ThresholdBand, TradeOffPoint, View,
    WorstLabelRow, WorstLabelTable,
};
use matchpoint_calibration::rates::{Confidence, Interval};

/// One white pixel.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4\
2mP4DwABAQEAG7buVgAAAABJRU5ErkJggg==";

const LABELS: [&str; 6] = [
    "enamel mug, speckled blue rim",
    "ceramic bowl, reactive glaze, wide, second firing, batch 2019",
    "tea towel",
    "oak chopping board",
    "wine glass, stemless",
    "carafe",
];

/// A report in which every part is known.
pub(crate) fn full() -> ReportContents {
    let trade_off = trade_off();
    ReportContents {
        title: "Shop catalogue, spring gallery".to_owned(),
        created: Some("2025-03-14T09:26:53Z".to_owned()),
        view: View::Search,
        verdict: verdict(),
        operating_point: Some(PointSummary {
            id: Some("op-5f0c2a91d3e7".to_owned()),
            threshold: 0.671_342_9,
            far: rate(2, 4_812, 1_604.0),
            frr: rate(391, 9_240, 813.7),
            far_basis: MeasuredOn::ChoseThreshold,
            frr_basis: MeasuredOn::HeldOut,
        }),
        figures: figures(),
        histogram: Some(histogram()),
        trade_off,
        consistency: Some(consistency(130)),
        worst_labels: Some(worst_labels()),
        intruders: Some(intruders()),
        nearest_strangers: Some(nearest_strangers()),
        conditions: conditions(),
        menu: Some(menu()),
        stress: vec![ConditionRow {
            value: "the nearest tenth".to_owned(),
            mark: Some("FAR above the 0.1 % asked for, within chance".to_owned()),
            far: rate(7, 480, 48.0),
            frr: Estimate::default(),
        }],
        growth: Some(growth()),
        remedies: Some(remedies()),
        made_with: made_with(),
        assumptions: [
            "Searches in use resemble the calibration searches: the same cameras, the same kinds \
             of things.",
            "Labels are drawn independently of one another.",
            "The gallery, the model and the index stay what they are.",
            "The labels of the calibration data are right.",
            "No label of the strangers is enrolled under another name.",
        ]
        .map(str::to_owned)
        .into(),
    }
}

/// A refusal in which nothing else is known.
pub(crate) fn refused() -> ReportContents {
    let verdict = ReportVerdict {
        standing: ClaimKind::Refused,
        bound: None,
        reasons: vec![
            "Even without a single false accept, 212 labels cannot show a FAR below 1.40 %."
                .to_owned(),
        ],
        needed: vec![
            "At least 2,995 labels that are not enrolled, one search each; 2,783 more than \
                 there are."
                .to_owned(),
            "Or a target FAR of 1.42 % or more.".to_owned(),
        ],
        ..verdict()
    };
    ReportContents::new("Too few strangers", View::Search, verdict)
}

fn verdict() -> ReportVerdict {
    ReportVerdict {
        standing: ClaimKind::Promised,
        target: Some(TargetRate {
            error: ErrorRate::FalseAccept,
            at_most: 0.001,
            confidence: Some(0.95),
        }),
        rule: "The lowest threshold whose FAR is certified to be at most the target.".to_owned(),
        bound: Some(0.000_998_079_012),
        reasons: Vec::new(),
        needed: Vec::new(),
        data: vec![
            "4,812 searches of 3,000 labels that are not enrolled; one search of each label \
             counts for the promise."
                .to_owned(),
            "9,240 searches of 812 labels that are enrolled, in a gallery of 12,408 items."
                .to_owned(),
        ],
    }
}

fn rate(events: u32, trials: u32, effective: f64) -> Estimate {
    let value = f64::from(events) / f64::from(trials);
    let interval = Interval::wilson(value, effective, Confidence::DISPLAY);
    Estimate {
        value: Some(value),
        interval: Some(interval.into()),
        events: Some(events.into()),
        trials: Some(trials.into()),
        labels: Some(u64::from(trials) / 6),
        effective_trials: Some(effective),
    }
}

fn figures() -> Vec<Figure> {
    let figure = |name: &str, meaning: &str, estimate, basis| Figure {
        name: name.to_owned(),
        meaning: meaning.to_owned(),
        estimate,
        basis,
    };
    vec![
        figure(
            "False accept rate (FAR)",
            "Searches for something that is not enrolled, and accepted.",
            rate(2, 4_812, 1_604.0),
            MeasuredOn::HeldOut,
        ),
        figure(
            "False reject rate (FRR)",
            "Searches for something that is enrolled, and rejected or given a wrong label.",
            rate(391, 9_240, 813.7),
            MeasuredOn::HeldOut,
        ),
        figure(
            "Misidentification",
            "The part of the FRR that was accepted with a wrong label.",
            rate(7, 9_240, 2_871.0),
            MeasuredOn::ChoseThreshold,
        ),
        figure(
            "Recall at 1",
            "Searches whose nearest item has the right label, at any score.",
            rate(9_102, 9_240, 1_127.0),
            MeasuredOn::NoThreshold,
        ),
        figure(
            "Equal error rate",
            "Where FAR and FRR are the same.",
            Estimate::bare(0.018_734),
            MeasuredOn::ChoseThreshold,
        ),
    ]
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn trade_off() -> Vec<TradeOffPoint> {
    let span =
        |rate: f64, trials: f64| Some(Interval::wilson(rate, trials, Confidence::DISPLAY).into());
    (0..=120_u8)
        .map(|step| {
            let threshold = 0.3 + f64::from(step) * 0.7 / 120.0;
            let far = logistic(-(threshold - 0.44) / 0.031);
            let far = if far < 2e-5 { 0.0 } else { far };
            let frr = 0.004 + 0.996 * logistic((threshold - 0.83) / 0.052);
            TradeOffPoint {
                threshold: if step == 120 { 1.000_000_1 } else { threshold },
                far: Some(far),
                far_interval: span(far, 1_604.0),
                frr: Some(frr),
                frr_interval: span(frr, 813.7),
            }
        })
        .collect()
}

fn histogram() -> BinnedScores {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "made-up counts"
    )]
    let bell = |middle: f64, width: f64, total: f64| {
        (0..120_u8)
            .map(|bin| {
                let score = -0.2 + (f64::from(bin) + 0.5) / 100.0;
                let height = (-0.5 * ((score - middle) / width).powi(2)).exp();
                (height * total * 0.01 / (width * 2.5)) as u64
            })
            .collect()
    };
    BinnedScores {
        lower: -0.2,
        upper: 1.0,
        mated: bell(0.82, 0.075, 9_240.0),
        non_mated: bell(0.46, 0.055, 4_812.0),
    }
}

/// The consistency of `labels` labels.
pub(crate) fn consistency(labels: u16) -> ConsistencyFigures {
    let thresholds: Vec<f64> = (0..=100_u8)
        .map(|step| 0.512_3 + f64::from(step) * 0.001_2)
        .collect();
    let curve = |offset: f64| -> Vec<Option<f64>> {
        thresholds
            .iter()
            .map(|threshold| {
                let accepted = logistic(-(threshold - 0.74 - offset) / 0.05);
                let rejected = logistic((threshold - 0.40 - offset * 0.8) / 0.045);
                Some(2.0 * accepted * rejected / (accepted + rejected))
            })
            .collect()
    };
    let labels: Vec<LabelCurve> = (0..labels)
        .map(|index| {
            // A golden-ratio sequence: evenly distributed, but without order.
            let even = (f64::from(index) * 0.618_034).fract();
            let offset = (even - 0.5) * 0.11 - if index % 41 == 3 { 0.12 } else { 0.0 };
            LabelCurve {
                label: LABELS.get(usize::from(index)).map_or_else(
                    || format!("product {index:04}"),
                    |label| (*label).to_owned(),
                ),
                utility: curve(offset),
            }
        })
        .collect();
    ConsistencyFigures {
        view: View::Pairwise,
        band: ThresholdBand {
            far_low: 0.01,
            far_high: 0.1,
            threshold_low: Some(0.512_3),
            threshold_high: Some(0.632_3),
        },
        figures: spreads(),
        mean: curve(-0.012),
        thresholds,
        labels,
        labels_skipped: 17,
    }
}

fn spreads() -> Vec<SpreadFigure> {
    vec![
        SpreadFigure {
            name: "OPIS, split halves".to_owned(),
            meaning: "Not biased where labels have few items.".to_owned(),
            value: Some(0.003_187),
            interval: Some(RateInterval {
                lower: 0.002_211,
                upper: 0.004_362,
                confidence: 0.95,
            }),
        },
        SpreadFigure {
            name: "OPIS".to_owned(),
            meaning: "As published; too high where labels have few items.".to_owned(),
            value: Some(0.003_942),
            interval: Some(RateInterval {
                lower: 0.002_951,
                upper: 0.005_144,
                confidence: 0.95,
            }),
        },
        SpreadFigure {
            name: "ε-OPIS, ε = 10 %".to_owned(),
            meaning: "The worst against the best tenth of the labels.".to_owned(),
            value: Some(0.048_21),
            interval: None,
        },
    ]
}

fn worst_labels() -> WorstLabelTable {
    let rows = LABELS
        .iter()
        .zip([31_u32, 24, 19, 17, 13, 11])
        .map(|(label, rejected)| WorstLabelRow {
            label: (*label).to_owned(),
            pictures: vec![picture(label); 4],
            far: rate(rejected / 4, 40_320, 911.0),
            frr: rate(rejected, 66, 12.0),
            utility: Some(1.0 - f64::from(rejected) / 80.0),
        })
        .collect();
    WorstLabelTable {
        view: View::Pairwise,
        ranked_by: "utility at the threshold".to_owned(),
        rows,
        labels: 812,
    }
}

fn picture(what: &str) -> Picture {
    Picture {
        data_uri: PICTURE.to_owned(),
        description: format!("an item of {what}"),
    }
}

fn nearest_strangers() -> Intruders {
    let item = |id: &str, label: &str| PicturedItem {
        id: id.to_owned(),
        label: label.to_owned(),
        picture: None,
    };
    Intruders {
        pairs: vec![IntruderPair {
            first: item("photo-17.jpg", "decanter"),
            second: item("sku-00001-front.jpg", "carafe"),
            score: 0.7391,
            remark: Some("rejected".to_owned()),
        }],
        total: None,
    }
}

fn intruders() -> Intruders {
    let item = |index: usize| {
        let label = LABELS.get(index).copied().unwrap_or("carafe");
        PicturedItem {
            id: format!("sku-{index:05}-front.jpg"),
            label: label.to_owned(),
            picture: (index != 5).then(|| picture(label)),
        }
    };
    Intruders {
        pairs: [
            (0, 1, 0.9913),
            (2, 3, 0.8842),
            (4, 5, 0.8127),
            (0, 4, 0.7704),
        ]
        .map(|(first, second, score)| IntruderPair {
            first: item(first),
            second: item(second),
            score,
            remark: None,
        })
        .into(),
        total: Some(1_326),
    }
}

fn menu() -> MenuTable {
    let row = |far, standing: &str, frr, at_target| MenuRow {
        far,
        standing: standing.to_owned(),
        threshold: Some(0.712_5),
        frr,
        frr_at_target: at_target,
        labels_needed: Some(299),
        labels_to_halve: at_target.map(|_| 412),
    };
    MenuTable {
        confidence: 0.95,
        rows: vec![
            row(0.01, "certified", rate(212, 5_871, 601.0), Some(0.031_2)),
            row(0.001, "estimated only", Estimate::default(), None),
        ],
    }
}

fn conditions() -> Vec<ConditionTable> {
    let row = |value: &str, accepted, rejected| ConditionRow {
        value: value.to_owned(),
        mark: (value == "scanner")
            .then(|| "FAR above the 0.1 % asked for, within chance".to_owned()),
        far: accepted,
        frr: rejected,
    };
    vec![
        ConditionTable {
            column: "camera".to_owned(),
            rows: vec![
                row("phone", rate(1, 3_104, 1_022.0), rate(212, 5_871, 601.0)),
                row("studio", rate(0, 1_204, 388.0), rate(31, 2_409, 377.0)),
                row("scanner", rate(1, 504, 160.0), rate(148, 960, 119.0)),
            ],
        },
        ConditionTable {
            column: "background".to_owned(),
            rows: vec![
                row("white", rate(1, 2_907, 950.0), rate(101, 5_112, 580.0)),
                row("any other", rate(1, 1_905, 640.0), Estimate::default()),
            ],
        },
    ]
}

fn growth() -> GrowthCurve {
    let point = |items: u32, far: f64| SizePoint {
        items: items.into(),
        far: Some(far),
        interval: Some(Interval::wilson(far, 4_000.0, Confidence::DISPLAY).into()),
        exact: items != 388,
    };
    let predicted = |items: u32| SizePoint {
        items: items.into(),
        far: Some(1.0 - (1.0 - 0.000_416_f64).powf(f64::from(items) / 12_408.0)),
        interval: None,
        exact: true,
    };
    GrowthCurve {
        measured: vec![
            point(388, 0.000_019),
            point(1_551, 0.000_061),
            point(3_102, 0.000_117),
            point(6_204, 0.000_221),
            point(12_408, 0.000_416),
        ],
        predicted: [388, 12_408, 50_000, 124_080, 500_000]
            .map(predicted)
            .into(),
        target: Some(0.001),
        items_now: Some(12_408),
        holds_until: Some(29_834),
        assumption: "every new item is as likely to be taken for a stranger's as the present ones."
            .to_owned(),
    }
}

fn remedies() -> RemedyTable {
    let remedy = |name: &str, rates: [Estimate; 3], spread, verdict: &str| RemedyRow {
        name: name.to_owned(),
        far: rates[0],
        frr: rates[1],
        worst_frr: rates[2],
        spread: Some(spread),
        verdict: verdict.to_owned(),
        preferred: name == "AS-norm",
    };
    RemedyTable {
        view: View::Search,
        rows: vec![
            remedy(
                "none",
                [
                    rate(2, 2_406, 802.0),
                    rate(197, 4_620, 401.0),
                    rate(151, 462, 38.0),
                ],
                0.014_12,
                "One threshold for all.",
            ),
            remedy(
                "AS-norm",
                [
                    rate(2, 2_406, 790.0),
                    rate(149, 4_620, 409.0),
                    rate(88, 462, 37.0),
                ],
                0.006_31,
                "AS-norm lowers the FRR of the worst labels from 32.7 % to 19.0 % on 406 labels \
                 that were not used to fit it; the FAR does not differ beyond its uncertainty.",
            ),
            remedy(
                "thresholds by camera",
                [
                    rate(1, 2_406, 801.0),
                    rate(208, 4_620, 398.0),
                    rate(153, 462, 38.0),
                ],
                0.013_77,
                "No ground to prefer it: the difference is within its uncertainty over labels.",
            ),
        ],
    }
}

fn made_with() -> Vec<Fact> {
    [
        ("Model", Some("efficientnet-lite0, 1,280 dimensions")),
        (
            "Model fingerprint",
            Some("9f2a61c4e1b5d08c7a3375b1f6ad20cf45de8b9072c1e6a8843fb0d9e2715c36"),
        ),
        ("Gallery", Some("12,408 items, 812 labels, revision 4,117")),
        ("Index", Some("HNSW, M 16, ef 128")),
        ("Seed", Some("20250314")),
        (
            "Calibration digest",
            Some("c51b83d04be2f7a19e60d5c2847f3a9bb86e0d1745c2fa938de6710b4c29f58e"),
        ),
        ("Licence of the model", None),
        ("Software", Some("matchpoint 0.1.0")),
    ]
    .map(|(name, value)| Fact {
        name: name.to_owned(),
        value: value.map(str::to_owned),
    })
    .into()
}
