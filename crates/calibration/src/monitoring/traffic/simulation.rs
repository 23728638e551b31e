//! Simulates the comparison of traffic with a known truth. Seeds are fixed, so that each run gives the same
//! result.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    PictureFacts, SearchFacts, TrafficQuery, TrafficReference, TrafficState, TrafficWatch,
};
use crate::monitoring::drift::DriftVerdict;
use crate::splitmix64::SimulatedDraws;

const DIMENSION: usize = 16;
const DELTA: f64 = 0.05;

impl SimulatedDraws {
    /// An approximately normal number that is cheap to draw.
    fn nearly_normal(&mut self) -> f64 {
        let ones = self.bits().count_ones();
        (f64::from(ones) + self.uniform() - 32.5) / 4.0
    }

    fn of<T: Copy>(&mut self, shares: &[(T, f64)]) -> T {
        let mut left = self.uniform();
        let mut chosen = shares[0].0;
        for (what, share) in shares {
            if left < 0.0 {
                break;
            }
            left -= share;
            chosen = *what;
        }
        chosen
    }
}

/// The distribution of searches.
#[derive(Clone)]
struct SimulatedTraffic {
    formats: Vec<(&'static str, f64)>,
    cameras: Vec<(usize, f64)>,
    brightness: f64,
    sharpness: f64,
    /// The position of strangers along the fourth component. The third component separates them from mated
    /// searches.
    kind: f64,
}

fn usual() -> SimulatedTraffic {
    SimulatedTraffic {
        formats: vec![("JPEG", 0.9), ("PNG", 0.1)],
        cameras: vec![(0, 0.5), (1, 0.3), (2, 0.2)],
        brightness: 120.0,
        sharpness: 0.5,
        kind: 0.0,
    }
}

const CAMERAS: [&str; 3] = ["gate", "hall", "yard"];

impl SimulatedTraffic {
    /// A query for a label. Each camera shifts the embedding in its own way.
    fn query(&self, label: &str, mated: bool, draws: &mut SimulatedDraws) -> TrafficQuery {
        let camera = draws.of(&self.cameras);
        let mut vector = [0.0; DIMENSION].map(|_: f64| draws.nearly_normal());
        vector[camera] += 4.0;
        vector[3] += if mated { 3.0 } else { -3.0 };
        vector[4] += if mated { 0.0 } else { self.kind };
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        TrafficQuery {
            id: draws.uniform().to_string(),
            label: label.to_owned(),
            mated,
            conditions: BTreeMap::from([("camera".to_owned(), CAMERAS[camera].to_owned())]),
            #[expect(clippy::cast_possible_truncation, reason = "a vector")]
            vector: Arc::from(vector.map(|value| (value / length) as f32)),
            picture: Some(PictureFacts {
                format: draws.of(&self.formats),
                longest_side: draws.of(&[(640, 0.3), (1024, 0.5), (2048, 0.2)]),
                brightness: self.brightness + 40.0 * draws.nearly_normal(),
                sharpness: self.sharpness + 0.1 * draws.nearly_normal(),
            }),
            feature_length: Some(20.0 + draws.nearly_normal()),
        }
    }

    /// A calibration with three pictures of each label, and with `labels` enrolled labels and as many
    /// strangers.
    fn calibration(&self, labels: usize, draws: &mut SimulatedDraws) -> TrafficReference {
        self.calibration_with(labels, 3, draws)
    }

    fn calibration_with(
        &self,
        labels: usize,
        pictures: usize,
        draws: &mut SimulatedDraws,
    ) -> TrafficReference {
        let mut queries = Vec::new();
        for number in 0..2 * labels {
            let label = format!("label {number}");
            queries.extend((0..pictures).map(|_| self.query(&label, number < labels, draws)));
        }
        TrafficReference::of(&queries, 7)
    }

    fn search(&self, mated: f64, said: bool, draws: &mut SimulatedDraws) -> TrafficQuery {
        let is_mated = draws.uniform() < mated;
        let mut query = self.query("", is_mated, draws);
        if !said {
            query.conditions.clear();
        }
        query
    }

    /// Runs searches, of which a given share is mated.
    fn run(
        &self,
        watch: &mut TrafficWatch,
        reference: &TrafficReference,
        run: Run,
        draws: &mut SimulatedDraws,
    ) {
        for _ in 0..run.searches {
            let query = self.search(run.mated, run.said, draws);
            watch.observe(signs(reference, &query), query.mated);
        }
    }
}

#[derive(Clone, Copy)]
struct Run {
    searches: usize,
    mated: f64,
    /// Whether callers state the camera.
    said: bool,
}

const THOUSAND: Run = Run {
    searches: 1000,
    mated: 0.5,
    said: false,
};

fn signs(reference: &TrafficReference, query: &TrafficQuery) -> super::SearchSigns {
    reference.signs(&SearchFacts {
        vector: &query.vector,
        picture: query.picture,
        feature_length: query.feature_length,
        conditions: &query.conditions,
    })
}

/// The number of alarms in `months` months of unchanged traffic. The share of mated searches varies between 0
/// and 1, and each month has its own calibration. With `certain`, the calibration's shares are taken as the
/// truth.
fn false_alarms(months: u64, labels: usize, searches: usize, certain: bool) -> u64 {
    let mut draws = SimulatedDraws(20_000 + labels as u64);
    let mut alarms = 0;
    for _ in 0..months {
        let mut reference = usual().calibration(labels, &mut draws);
        if certain {
            const TIMES: u64 = 10_000;
            reference.mated_labels *= TIMES;
            reference.stranger_labels *= TIMES;
            for share in &mut reference.shares {
                share.mated.times(TIMES);
                share.strangers.times(TIMES);
            }
        }
        let mut watch = TrafficWatch::new(&reference, DELTA, 0);
        for part in 0..4 {
            let run = Run {
                searches: searches / 4,
                mated: [0.5, 1.0, 0.0, 0.9][part],
                said: part % 2 == 0,
            };
            usual().run(&mut watch, &reference, run, &mut draws);
        }
        alarms += u64::from(watch.assessment().alarm_at.is_some());
    }
    alarms
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures of docs/evidence.md")]
fn unchanged_traffic_raises_no_more_alarms_than_stated_whatever_part_of_it_is_mated() {
    for (months, labels) in [(1000, 60), (300, 20)] {
        let alarms = false_alarms(months, labels, 1000, false);
        eprintln!("{alarms} alarms in {months} months after {labels} labels of each kind");
        assert!(
            alarms <= months / 20,
            "{alarms} of {months} with {labels} labels"
        );
    }
    // Without bounds for the uncertainty of few labels, there would be many false alarms.
    let careless = false_alarms(100, 20, 1000, true);
    eprintln!("{careless} in 100 months if what is counted was taken for the truth");
    assert!(50 <= careless, "{careless} of 100");
}

/// A tenth of the pictures is PNG, and then a quarter.
#[test]
#[expect(clippy::print_stderr, reason = "the figures of docs/evidence.md")]
fn several_queries_of_each_label_show_a_smaller_change() {
    let mut draws = SimulatedDraws(17);
    let changed = SimulatedTraffic {
        formats: vec![("JPEG", 0.75), ("PNG", 0.25)],
        ..usual()
    };
    let mut seen = |pictures| {
        let months = 0..100;
        let alarms = months.filter(|_| {
            let reference = usual().calibration_with(100, pictures, &mut draws);
            let mut watch = TrafficWatch::new(&reference, DELTA, 0);
            changed.run(&mut watch, &reference, THOUSAND, &mut draws);
            watch.assessment().alarm_at.is_some()
        });
        alarms.count()
    };
    let (one, several) = (seen(1), seen(6));
    eprintln!("with one query of each label: seen in {one} of 100 months; with six: in {several}");
    assert!(one < 10 && 20 < several, "{one} {several}");
}

/// Half of the pictures become PNG, which a tenth was.
#[test]
#[expect(clippy::print_stderr, reason = "the figures of docs/evidence.md")]
fn a_change_is_seen_nearly_as_soon_however_long_was_quiet_before_it() {
    let mut draws = SimulatedDraws(13);
    let reference = usual().calibration(100, &mut draws);
    let changed = SimulatedTraffic {
        formats: vec![("JPEG", 0.5), ("PNG", 0.5)],
        ..usual()
    };
    // Drawn from with replacement, so that long times are quick.
    let mut pool = |traffic: &SimulatedTraffic| -> Vec<_> {
        let query = |_| signs(&reference, &traffic.search(0.5, false, &mut draws));
        (0..2_000).map(query).collect()
    };
    let (quiet, changed) = (pool(&usual()), pool(&changed));
    let mut delays = Vec::new();
    for searches in [0, 1_000, 10_000, 100_000] {
        let mut seen: Vec<u64> = (0..5)
            .map(|_| {
                let mut watch = TrafficWatch::new(&reference, DELTA, 0);
                let mut observe = |of: &[super::SearchSigns], draws: &mut SimulatedDraws| {
                    let at = usize::try_from(draws.bits() % of.len() as u64).unwrap();
                    watch.observe(of[at], false);
                    watch.state().alarm_at
                };
                for _ in 0..searches {
                    assert_eq!(observe(&quiet, &mut draws), None, "a false alarm");
                }
                loop {
                    if let Some(alarm_at) = observe(&changed, &mut draws) {
                        break alarm_at - searches;
                    }
                }
            })
            .collect();
        seen.sort_unstable();
        eprintln!(
            "after {searches} quiet searches: seen after {}, at most {}",
            seen[2], seen[4]
        );
        delays.push(seen[2]);
    }
    assert!(delays[0] < 100 && delays[3] < 250, "{delays:?}");
}

/// The number of the search at which traffic raises an alarm after a calibration on `labels` labels, and the
/// property that the alarm names.
fn alarm_of(traffic: &SimulatedTraffic, labels: usize, run: Run) -> (Option<u64>, String) {
    let mut draws = SimulatedDraws(5);
    let reference = usual().calibration(labels, &mut draws);
    let mut watch = TrafficWatch::new(&reference, DELTA, 0);
    traffic.run(&mut watch, &reference, run, &mut draws);
    let found = watch.assessment();
    (found.alarm_at, found.named()[0].name.clone())
}

#[test]
fn an_alarm_names_what_has_changed() {
    let usual = usual();
    let cases = [
        (
            "format WebP",
            SimulatedTraffic {
                formats: vec![("WebP", 0.6), ("JPEG", 0.4)],
                ..usual.clone()
            },
        ),
        (
            "brightness",
            SimulatedTraffic {
                brightness: 40.0,
                ..usual.clone()
            },
        ),
        (
            "sharpness",
            SimulatedTraffic {
                sharpness: 0.25,
                ..usual.clone()
            },
        ),
        (
            "looks like camera = yard",
            SimulatedTraffic {
                cameras: vec![(2, 1.0)],
                ..usual.clone()
            },
        ),
        ("embedding", SimulatedTraffic { kind: 8.0, ..usual }),
    ];
    for (name, traffic) in cases {
        let (alarm, of) = alarm_of(&traffic, 100, THOUSAND);
        assert!(
            alarm.is_some_and(|at| at < 600) && of.starts_with(name),
            "{name}: {alarm:?} of {of}"
        );
    }
}

#[test]
fn what_callers_say_is_compared_and_what_they_never_said_is_named() {
    let yard = SimulatedTraffic {
        cameras: vec![(2, 0.8), (0, 0.2)],
        ..usual()
    };
    let said = Run {
        said: true,
        ..THOUSAND
    };
    let mut draws = SimulatedDraws(5);
    let reference = usual().calibration(100, &mut draws);
    let mut watch = TrafficWatch::new(&reference, DELTA, 0);
    yard.run(&mut watch, &reference, said, &mut draws);
    let found = watch.assessment();
    let share = found
        .shares
        .iter()
        .find(|share| share.name == "said to be camera = yard")
        .unwrap();
    assert!(
        (share.overall.unwrap() - 0.8).abs() < 0.05 && share.limit < 0.5,
        "{share:?}"
    );
    assert!(found.ln_e_alarm < share.ln_e && found.alarm_at.is_some());
    assert!((share.accept_rate.unwrap() - 0.5).abs() < 0.1);
    // A camera that did not occur in the calibration.
    let mut watch = TrafficWatch::new(&reference, DELTA, 0);
    for number in 0..200 {
        let mut query = usual().search(0.5, true, &mut draws);
        if number % 2 == 0 {
            query
                .conditions
                .insert("camera".to_owned(), "roof".to_owned());
        }
        watch.observe(signs(&reference, &query), false);
    }
    let alarm = watch.assessment().alarm().unwrap();
    assert!(
        alarm.contains("a camera that the calibration did not have: 0 % at calibration"),
        "{alarm}"
    );
    let finding = watch.assessment().finding();
    assert_eq!(finding.verdict, DriftVerdict::Warning);
}

#[test]
fn a_change_after_a_long_quiet_time_is_seen_and_a_restart_forgets_nothing() {
    let mut draws = SimulatedDraws(9);
    let reference = usual().calibration(60, &mut draws);
    let mut watch = TrafficWatch::new(&reference, DELTA, 0);
    let quiet = Run {
        searches: 20_000,
        ..THOUSAND
    };
    usual().run(&mut watch, &reference, quiet, &mut draws);
    assert_eq!(watch.assessment().alarm_at, None);
    assert_eq!(watch.assessment().finding().verdict, DriftVerdict::Note);
    let json = serde_json::to_vec(watch.state()).unwrap();
    let state: TrafficState = serde_json::from_slice(&json).unwrap();
    let mut again = TrafficWatch::new(&reference, DELTA, 0).resumed(state);
    let webp = SimulatedTraffic {
        formats: vec![("WebP", 1.0)],
        ..usual()
    };
    let mut same = SimulatedDraws(10);
    webp.run(
        &mut watch,
        &reference,
        Run {
            searches: 100,
            ..THOUSAND
        },
        &mut SimulatedDraws(10),
    );
    webp.run(
        &mut again,
        &reference,
        Run {
            searches: 100,
            ..THOUSAND
        },
        &mut same,
    );
    let at = watch.assessment().alarm_at;
    assert!(at.is_some_and(|at| at < 20_030), "{at:?}");
    assert_eq!(again.assessment().alarm_at, at);
    // What an earlier version kept has other bets: its evidence starts over, and its alarm stands.
    let mut earlier = serde_json::to_value(watch.state()).unwrap();
    for share in earlier["shares"].as_array_mut().unwrap() {
        let kept = share.as_object_mut().unwrap();
        kept.remove("wealths");
        kept.insert("wealth".to_owned(), serde_json::json!([0.5, 0.5, 0.5, 0.5]));
    }
    let mut unnamed = earlier.clone();
    unnamed.as_object_mut().unwrap().remove("raised");
    let unnamed: TrafficState = serde_json::from_value(unnamed).unwrap();
    let earlier: TrafficState = serde_json::from_value(earlier).unwrap();
    let resumed = TrafficWatch::new(&reference, DELTA, 0).resumed(earlier);
    assert_eq!(
        (resumed.state().compared, resumed.state().alarm_at),
        (0, at)
    );
    // It names what it was raised for, and nothing else.
    let named = |watch: &TrafficWatch| watch.alarm().unwrap();
    assert!(
        named(&resumed).contains("format WebP"),
        "{}",
        named(&resumed)
    );
    let before = "evidence of an earlier version";
    assert!(named(&TrafficWatch::new(&reference, DELTA, 0).resumed(unnamed)).contains(before));
    // The alarm stays raised.
    usual().run(&mut watch, &reference, THOUSAND, &mut draws);
    assert_eq!(watch.assessment().alarm_at, at);
}

#[test]
fn a_reset_makes_the_next_alarm_dearer() {
    let mut draws = SimulatedDraws(9);
    let reference = usual().calibration(60, &mut draws);
    let ln_e_alarm = |resets| {
        TrafficWatch::new(&reference, DELTA, resets)
            .assessment()
            .ln_e_alarm
    };
    assert!((ln_e_alarm(0) - 20.0_f64.ln()).abs() < 1e-12);
    assert!((ln_e_alarm(3) - 160.0_f64.ln()).abs() < 1e-12);
}

#[test]
fn too_few_labels_watch_nothing_and_say_so() {
    let mut draws = SimulatedDraws(3);
    for queries in [Vec::new(), vec![usual().query("one", true, &mut draws)]] {
        let reference = TrafficReference::of(&queries, 7);
        let mut watch = TrafficWatch::new(&reference, DELTA, 0);
        let query = usual().query("", false, &mut draws);
        watch.observe(signs(&reference, &query), true);
        let found = watch.assessment();
        assert!(found.shares.is_empty() && found.alarm_at.is_none());
        assert_eq!(found.finding().verdict, DriftVerdict::Unknown);
    }
    // Strangers alone say nothing about mated searches.
    let strangers: Vec<TrafficQuery> = (0..90)
        .map(|number| usual().query(&number.to_string(), false, &mut draws))
        .collect();
    let reference = TrafficReference::of(&strangers, 7);
    assert!(
        TrafficWatch::new(&reference, DELTA, 0)
            .assessment()
            .shares
            .is_empty()
    );
}

#[test]
fn what_is_kept_is_read_again_and_damage_is_found() {
    let mut draws = SimulatedDraws(4);
    let reference = usual().calibration(30, &mut draws);
    let json = reference.to_json("op-1").unwrap();
    let read = |json: &[u8], point: &str| TrafficReference::from_json(json, point);
    assert_eq!(read(&json, "op-1").unwrap(), reference);
    assert!(
        read(&json, "op-2")
            .unwrap_err()
            .contains("the queries of op-1")
    );
    let text = String::from_utf8(json).unwrap();
    let before = text.replace("\"format\":3,\"operating_point\":\"op-1\"", "\"format\":1");
    assert_eq!(read(before.as_bytes(), "op-2").unwrap(), reference);
    let refused = |text: &str| read(text.as_bytes(), "op-1").unwrap_err();
    assert!(refused(&text.replace("\"JPEG\"", "\"JPEg\"")).contains("checksum"));
    assert!(refused(&text.replace("\"format\":3", "\"format\":4")).contains("format 4"));
    assert!(refused(&text.replace("\"format\":3", "\"format\":1")).contains("contradict"));
    assert!(refused(&text[..text.len() / 2]).contains("EOF"));
    // The order of the queries does not matter, and vectors of another dimension belong to no direction.
    let other = TrafficQuery {
        vector: Arc::from([1.0; 3]),
        ..usual().query("", true, &mut draws)
    };
    let signs = signs(&reference, &other);
    let directed = |share: usize| reference.shares[share].rule.axis().is_some();
    let shares = 0..reference.shares.len();
    assert!(shares.clone().any(|share| signs.has(share)) && shares.clone().any(directed));
    assert!(
        shares
            .into_iter()
            .all(|share| !(signs.has(share) && directed(share)))
    );
}
