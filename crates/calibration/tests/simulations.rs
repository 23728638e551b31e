//! Whether the promise of a certified threshold holds, by seeded simulation.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, and prints what it measured"
)]

use std::collections::BTreeMap;

use matchpoint_calibration::certify::{TargetFar, certify, certify_either_way};
use matchpoint_calibration::certify_frr::TargetFrr;
use matchpoint_calibration::decision::{Decision, Threshold};
use matchpoint_calibration::procedure::{Assured, LabelledVectors, VectorRow, VectorTrials};
use matchpoint_calibration::review::ReviewBand;
use matchpoint_calibration::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
use matchpoint_vector::{Embedding, Similarity};

const RUNS: u32 = 300;
const CONFIDENCE: f64 = 0.9;

/// splitmix64 (Steele, Lea and Flood 2014), so that every run is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    fn uniform(&mut self) -> f64 {
        (f64::from(u32::try_from(self.next() >> 32).unwrap()) + 0.5) / 4_294_967_296.0
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
fn similarity(value: f64) -> Similarity {
    Similarity::new(value as f32).unwrap()
}

fn search(label: usize, probe: usize, score: Similarity, origin: StrangerOrigin) -> NonMatedSearch {
    let kind = match origin {
        StrangerOrigin::NeverEnrolled => "stranger",
        StrangerOrigin::LeftOut => "enrolled",
    };
    NonMatedSearch {
        label: format!("{kind}-{label}"),
        probe: format!("{kind}-{label}-{probe}"),
        top_score: Some(score),
        origin,
    }
}

fn certified(searches: Vec<NonMatedSearch>, seed: u64, target: TargetFar) -> Threshold {
    let trials = Trials::new(vec![], searches).unwrap();
    certify(&trials.one_probe_per_label(seed), target)
        .unwrap()
        .threshold
}

/// The share of runs plus three standard deviations of a share that is really `rate`.
fn at_most(rate: f64) -> f64 {
    rate + 3.0 * (rate * (1.0 - rate) / f64::from(RUNS)).sqrt()
}

fn share(count: u32) -> f64 {
    f64::from(count) / f64::from(RUNS)
}

/// P(N(0, 1) > x), by Simpson's rule on the density: enough for the truth of a simulation.
fn normal_tail(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal_tail(-x);
    }
    let (steps, width) = (400_u32, 10.0 / 400.0);
    let sum: f64 = (0..=steps)
        .map(|i| {
            let weight = if i == 0 || i == steps {
                1.0
            } else {
                f64::from(2 + 2 * (i % 2))
            };
            let at = x + f64::from(i) * width;
            weight * (-at * at / 2.0).exp()
        })
        .sum();
    sum * width / 3.0 / std::f64::consts::TAU.sqrt()
}

/// Labels differ (spread 0.12 between, 0.06 within), each with four probes. The naive threshold
/// leaves 1 % of all probes above it; the certified one uses one probe of each label.
#[test]
fn a_certified_far_is_kept_and_the_naive_quantile_is_not() {
    const LABELS: usize = 388;
    const PROBES: usize = 4;
    const FAR: f64 = 0.01;
    let (between, within) = (0.12_f64, 0.06_f64);
    let spread = between.hypot(within);
    let true_far = |threshold: f64| normal_tail((threshold - 0.2) / spread);
    let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
    let mut random = Random(1);
    let (mut broken, mut broken_naive) = (0, 0);
    for run in 0..RUNS {
        let mut searches = Vec::new();
        for label in 0..LABELS {
            let centre = 0.2 + between * random.normal();
            for probe in 0..PROBES {
                let score = similarity(centre + within * random.normal());
                searches.push(search(label, probe, score, StrangerOrigin::NeverEnrolled));
            }
        }
        let mut scores: Vec<f32> = searches
            .iter()
            .filter_map(|s| s.top_score)
            .map(Similarity::get)
            .collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let naive = f64::from(scores[LABELS * PROBES / 100]);
        let certified = f64::from(certified(searches, u64::from(run), target).get());
        broken += u32::from(FAR < true_far(certified));
        broken_naive += u32::from(FAR < true_far(naive));
    }
    println!(
        "certified {:.3}, naive {:.3}",
        share(broken),
        share(broken_naive)
    );
    assert!(share(broken) <= at_most(1.0 - CONFIDENCE));
    assert!(0.35 < share(broken_naive));
}

const DIMENSIONS: usize = 64;

type Vector = [f32; DIMENSIONS];

/// How labels and their images lie on the sphere; labels are drawn independently.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// How far some labels lean towards a common direction, which makes them alike.
    lean: f64,
    /// How far images of one label lie from its centre.
    noise: f64,
}

/// Images of a label nearly the same, labels in every direction: the nearest label of a label is
/// mostly also the other way round.
const ALIKE: Model = Model {
    lean: 0.0,
    noise: 0.05,
};
/// Images differ, and some labels resemble many others.
const MIXED: Model = Model {
    lean: 0.5,
    noise: 0.5,
};

impl Model {
    fn centre(self, random: &mut Random) -> Vector {
        let mut vector: Vector = std::array::from_fn(|_| narrow(random.normal()));
        vector[0] += narrow(self.lean * 8.0 * random.normal().abs());
        unit(vector)
    }

    fn image(self, centre: &Vector, random: &mut Random) -> Vector {
        let noise = self.noise / 8.0;
        unit(std::array::from_fn(|i| {
            centre[i] + narrow(noise * random.normal())
        }))
    }
}

fn unit(mut vector: Vector) -> Vector {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for x in &mut vector {
        *x /= length;
    }
    vector
}

#[expect(clippy::cast_possible_truncation, reason = "vectors are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// The best score of `probe` among `gallery` without the item at `masked`.
fn top_score(probe: &Vector, gallery: &[Vector], masked: Option<usize>) -> Similarity {
    gallery
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != masked)
        .filter_map(|(_, item)| Similarity::between(probe, item))
        .max()
        .unwrap()
}

/// The gallery's labels: just enough to certify FAR 5 % at 90 % with no accepted stranger, so
/// that the chance of a broken promise is 0.0994 by design, without slack.
const ENROLLED: usize = 45;

/// How often the promise is broken with `left_out` enrolled and otherwise fresh labels. The truth
/// comes from 500 further strangers against the whole gallery, others in each of ten runs.
fn share_broken(model: Model, left_out: usize) -> f64 {
    const FRESH: usize = 500;
    const FAR: f64 = 0.05;
    let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
    let mut random = Random(2);
    let mut fresh_probe = || {
        let centre = model.centre(&mut random);
        model.image(&centre, &mut random)
    };
    let pool: Vec<Vector> = (0..10 * FRESH).map(|_| fresh_probe()).collect();
    let mut broken = 0;
    for run in 0..RUNS {
        let enrolled: Vec<Vector> = (0..ENROLLED).map(|_| model.centre(&mut random)).collect();
        let gallery: Vec<Vector> = enrolled
            .iter()
            .map(|c| model.image(c, &mut random))
            .collect();
        let stranger = |random: &mut Random| {
            let centre = model.centre(random);
            top_score(&model.image(&centre, random), &gallery, None)
        };
        let mut searches = Vec::new();
        for (label, centre) in enrolled.iter().enumerate() {
            let (score, origin) = if label < left_out {
                let probe = model.image(centre, &mut random);
                (
                    top_score(&probe, &gallery, Some(label)),
                    StrangerOrigin::LeftOut,
                )
            } else {
                (stranger(&mut random), StrangerOrigin::NeverEnrolled)
            };
            searches.push(search(label, 0, score, origin));
        }
        let threshold = certified(searches, u64::from(run), target);
        let fresh = pool
            .chunks(FRESH)
            .nth(usize::try_from(run % 10).unwrap())
            .unwrap();
        let accepted: u32 = fresh
            .iter()
            .map(|probe| threshold.decide(Some(top_score(probe, &gallery, None))))
            .map(|decision| u32::from(decision == Decision::Accept))
            .sum();
        broken += u32::from(FAR < f64::from(accepted) / f64::from(u32::try_from(FRESH).unwrap()));
    }
    share(broken)
}

#[test]
fn never_enrolled_strangers_keep_the_promise() {
    for model in [ALIKE, MIXED] {
        let broken = share_broken(model, 0);
        println!("never enrolled, {model:?}: {broken:.3}");
        assert!(broken <= at_most(1.0 - CONFIDENCE), "{broken}");
    }
}

/// A known limit, measured so that it cannot be forgotten: left-out labels are not independent
/// trials, since two labels that resemble each other are accepted both or neither.
#[test]
fn left_out_labels_break_the_promise_too_often_as_documented() {
    for (model, left_out) in [(ALIKE, ENROLLED), (ALIKE, 27), (MIXED, ENROLLED)] {
        let broken = share_broken(model, left_out);
        println!("{left_out} of {ENROLLED} left out, {model:?}: {broken:.3}");
        assert!(broken <= at_most((1.0 - CONFIDENCE).sqrt()), "{broken}");
        if left_out == ENROLLED && model.lean <= 0.0 {
            assert!(
                at_most(1.0 - CONFIDENCE) < broken,
                "{broken}: better than documented"
            );
        }
    }
}

/// The documented limit: where look-alikes come in mutual pairs, each pair shows up twice or not
/// at all, and half as many trials are independent. The worst case is computed, not searched for:
/// pairs occur so that a label has a look-alike with probability `far`.
#[test]
fn left_out_labels_in_mutual_pairs_can_break_it_as_documented() {
    const FAR: f64 = 0.1;
    const LABELS: usize = 22;
    let target = TargetFar::new(FAR, CONFIDENCE).unwrap();
    let mut random = Random(3);
    let mut broken = 0;
    for run in 0..RUNS {
        let mut searches = Vec::new();
        for pair in 0..LABELS / 2 {
            let score = if random.uniform() < 1.001 * FAR {
                0.9
            } else {
                0.1
            };
            for label in [2 * pair, 2 * pair + 1] {
                searches.push(search(label, 0, similarity(score), StrangerOrigin::LeftOut));
            }
        }
        let threshold = certified(searches, u64::from(run), target);
        // From 0.9 down, a new label is accepted more often than FAR.
        broken += u32::from(threshold.decide(Some(similarity(0.9))) == Decision::Accept);
    }
    let root = (1.0 - CONFIDENCE).sqrt();
    println!(
        "mutual pairs: {:.3}, square root of delta {root:.3}",
        share(broken)
    );
    assert!(at_most(1.0 - CONFIDENCE) < share(broken));
    assert!(share(broken) <= at_most(root));
}

/// Mates score about 0.6, or about 0.4 where the best candidate is wrong, as one in five is; strangers about 0.3.
#[test]
fn a_review_band_keeps_both_of_its_promises() {
    const MATES: usize = 150;
    const STRANGERS: usize = 120;
    let (far, unseen) = (0.05, 0.2);
    let (right, wrong, stranger) = ((0.6, 0.15), (0.4, 0.1), (0.3, 0.1));
    let above = |at: f64, (mean, spread): (f64, f64)| normal_tail((at - mean) / spread);
    let far_target = TargetFar::new(far, CONFIDENCE).unwrap();
    let unseen_target = TargetFrr::new(unseen, CONFIDENCE).unwrap();
    let mut random = Random(9);
    let (mut far_broken, mut unseen_broken, mut either, mut narrower) = (0, 0, 0, 0);
    for run in 0..RUNS {
        let drawn = |random: &mut Random, (mean, spread): (f64, f64)| {
            similarity(mean + spread * random.normal())
        };
        let strangers = (0..STRANGERS).map(|label| {
            let score = drawn(&mut random, stranger);
            search(label, 0, score, StrangerOrigin::NeverEnrolled)
        });
        let strangers: Vec<_> = strangers.collect();
        let mates = (0..MATES).map(|label| {
            let label_matches = 0.2 < random.uniform();
            MatedSearch {
                label: format!("mate-{label}"),
                probe: format!("mate-{label}"),
                top: Some(Top {
                    score: drawn(&mut random, if label_matches { right } else { wrong }),
                    label_matches,
                }),
            }
        });
        let trials = Trials::new(mates.collect(), strangers).unwrap();
        let seed = u64::from(run);
        let accept = certify(&trials.one_probe_per_label(seed), far_target).unwrap();
        let accept = accept.threshold;
        let band = ReviewBand::certified(&trials, accept, unseen_target, seed).unwrap();
        let (low, high) = (
            f64::from(band.unseen.threshold.get()),
            f64::from(accept.get()),
        );
        let true_unseen =
            0.8 * (1.0 - above(low, right)) + 0.2 * (1.0 - above(low, wrong) + above(high, wrong));
        let broken = [far < above(high, stranger), unseen < true_unseen];
        far_broken += u32::from(broken[0]);
        unseen_broken += u32::from(broken[1]);
        either += u32::from(broken[0] || broken[1]);
        narrower += u32::from(low < high);
    }
    println!(
        "false accepts above the target in {}, unseen misses in {}, either in {}",
        share(far_broken),
        share(unseen_broken),
        share(either)
    );
    assert!(share(far_broken) <= at_most(0.1));
    assert!(share(unseen_broken) <= at_most(0.1));
    assert!(share(either) <= at_most(0.2));
    assert!(RUNS / 2 < narrower, "there was nothing to review");
}

const COMPONENTS: usize = 32;
/// Number of strangers on whom the true FAR is measured.
const OTHERS: u32 = 100_000;

/// A gallery, and strangers of whom a share sends one picture, such as the placeholder of a missing one. Its score is
/// higher than that of nearly every other stranger.
struct PlaceholderWorld {
    gallery: Vec<Vec<f32>>,
    placeholder: Vec<f32>,
    share: f64,
    /// Scores of other strangers, in ascending order.
    others: Vec<f32>,
}

impl PlaceholderWorld {
    fn new(share: f64, random: &mut Random) -> Self {
        let mut one = || near(&[0.0; COMPONENTS], 1.0, random);
        let gallery: Vec<Vec<f32>> = (0..20).map(|_| one()).collect();
        let mut others: Vec<f32> = (0..OTHERS).map(|_| best(&gallery, &one())).collect();
        others.sort_unstable_by(f32::total_cmp);
        let placeholder = near(&gallery[0], 0.1, random);
        assert!(others[OTHERS as usize / 200 * 199] < best(&gallery, &placeholder));
        Self {
            gallery,
            placeholder,
            share,
            others,
        }
    }

    fn strangers(&self, count: usize, random: &mut Random) -> Vec<Vec<f32>> {
        let mut one = || {
            if random.uniform() < self.share {
                self.placeholder.clone()
            } else {
                near(&[0.0; COMPONENTS], 1.0, random)
            }
        };
        (0..count).map(|_| one()).collect()
    }

    /// The true FAR of the threshold that is certified on these strangers, each with a label of its own.
    fn far(&self, strangers: &[Vec<f32>], target: TargetFar, assured: Assured) -> f64 {
        let (items, labels) = (names("item", &self.gallery), names("stranger", strangers));
        let gallery = rows(&items, &self.gallery);
        let vectors = LabelledVectors::from_unit(gallery, rows(&labels, strangers)).unwrap();
        let trials = VectorTrials::search(&vectors, assured, &|_, _, _| true).unwrap();
        let found = certify_either_way(trials.recording.trials(), 0, target).unwrap();
        let accepts = |score| found.threshold.decide(Similarity::new(score)) == Decision::Accept;
        let rejected = self.others.partition_point(|score| !accepts(*score));
        let accepted = u32::try_from(self.others.len() - rejected).unwrap();
        let others = f64::from(accepted) / f64::from(OTHERS);
        let placeholder = f64::from(u8::from(accepts(best(&self.gallery, &self.placeholder))));
        self.share * placeholder + (1.0 - self.share) * others
    }
}

fn near(centre: &[f32], noise: f32, random: &mut Random) -> Vec<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "components are f32")]
    let raw = centre
        .iter()
        .map(|value| value + noise * random.normal() as f32);
    let unit = Embedding::normalise(raw.collect()).unwrap();
    unit.as_slice().to_vec()
}

fn best(gallery: &[Vec<f32>], query: &[f32]) -> f32 {
    let scores = gallery.iter();
    let scores = scores.map(|item| Similarity::between(query, item).unwrap());
    scores.max().unwrap().get()
}

fn names(kind: &str, vectors: &[Vec<f32>]) -> Vec<String> {
    (0..vectors.len())
        .map(|number| format!("{kind} {number}"))
        .collect()
}

fn rows<'a>(names: &'a [String], vectors: &'a [Vec<f32>]) -> Vec<VectorRow<'a>> {
    let both = names.iter().zip(vectors);
    let rows = both.map(|(name, vector)| VectorRow {
        id: name.clone(),
        label: name,
        conditions: BTreeMap::new(),
        vector,
    });
    rows.collect()
}

#[test]
fn strangers_who_share_a_picture_are_part_of_the_certified_far() {
    let target = TargetFar::new(0.05, 0.95).unwrap();
    let distinct = Assured {
        strangers_are_distinct: true,
        ..Assured::default()
    };
    for share_of_strangers in [0.0, 0.02, 0.1] {
        let mut random = Random(31);
        let world = PlaceholderWorld::new(share_of_strangers, &mut random);
        let [mut dropped, mut both_ways, mut apart] = [0; 3];
        for _ in 0..RUNS {
            let strangers = world.strangers(300, &mut random);
            let exceeds = |strangers: &[Vec<f32>], assured| {
                u32::from(target.far() < world.far(strangers, target, assured))
            };
            both_ways += exceeds(&strangers, Assured::default());
            apart += exceeds(&strangers, distinct);
            // As if the picture were one trial.
            let mut once = strangers;
            let first = once.iter().position(|one| *one == world.placeholder);
            let mut row = 0..;
            once.retain(|one| {
                let number = row.next();
                *one != world.placeholder || number == first
            });
            dropped += exceeds(&once, distinct);
        }
        println!(
            "{share_of_strangers} of strangers send one picture: FAR exceeded in {:.3} of calibrations that drop it, {:.3} that count it both ways, {:.3} that count each label",
            share(dropped),
            share(both_ways),
            share(apart)
        );
        assert!(share(both_ways) <= at_most(0.05), "{share_of_strangers}");
        assert!(share(apart) <= at_most(0.05), "{share_of_strangers}");
        if 0.0 < share_of_strangers {
            assert!(0.2 < share(dropped), "{share_of_strangers}");
        }
    }
}
