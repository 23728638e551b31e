//! Measures by seeded simulation how useful a head is, and whether promises based on it hold.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use matchpoint_adapt::{
    AdaptError, AdaptRequest, AdaptStage, AdaptedHead, COMPONENTS, Head, HeadRecord, Judgement,
    LabelledRows, Part, Parts, Recipe, SupportedTargets,
};
use matchpoint_calibration::analysis::rng::SeededRng;
use matchpoint_calibration::certify::{TargetFar, certify_scores};
use matchpoint_calibration::menu::{MenuLine, MenuStanding};
use matchpoint_vector::{Embedding, Similarity};

const DIMENSION: usize = 16;

/// An approximately normal number: twelve uniform numbers minus six.
fn normal(draws: &mut SeededRng) -> f32 {
    let bits = |draws: &mut SeededRng| f32::from(u16::try_from(draws.bits() >> 48).unwrap());
    (0..12).map(|_| bits(draws) / 65_536.0).sum::<f32>() - 6.0
}

/// The variation between labels and, relative to it, that between pictures of one label, which is `odd` times
/// as large along four axes.
struct World {
    within: f32,
    odd: f32,
}

impl World {
    fn label(draws: &mut SeededRng) -> Vec<f32> {
        (0..DIMENSION).map(|_| normal(draws)).collect()
    }

    fn picture(&self, label: &[f32], draws: &mut SeededRng) -> Vec<f32> {
        let axis = |(at, value): (usize, &f32)| {
            let size = if at < 4 {
                self.within * self.odd
            } else {
                self.within
            };
            value + size * normal(draws)
        };
        label.iter().enumerate().map(axis).collect()
    }

    /// Rows for this many labels with four pictures each.
    fn rows(&self, labels: u32, draws: &mut SeededRng) -> LabelledRows {
        let (mut vectors, mut numbers) = (Vec::new(), Vec::new());
        for label in 0..labels {
            let mean = Self::label(draws);
            for _ in 0..4 {
                vectors.extend(self.picture(&mean, draws));
                numbers.push(label);
            }
        }
        LabelledRows::normalise(DIMENSION, vectors, numbers).unwrap()
    }
}

fn adapt(rows: &LabelledRows, recipe: Option<&str>, seed: u64) -> (AdaptedHead, HeadRecord) {
    adapt_in(false, rows, recipe, seed)
}

fn adapt_in(
    eight_bits: bool,
    rows: &LabelledRows,
    recipe: Option<&str>,
    seed: u64,
) -> (AdaptedHead, HeadRecord) {
    let names: Vec<String> = rows
        .labels()
        .iter()
        .map(|label| format!("label {label}"))
        .collect();
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    let parts = Parts::deal(&labels, seed).unwrap();
    let request = AdaptRequest {
        rows,
        names: &names,
        parts: &parts,
        recipe: recipe.map(|name| Recipe::named(name).unwrap()),
        components: COMPONENTS,
        eight_bits,
        seed,
    };
    let adapted = request.run(&|_, _, _| true).unwrap();
    let record = HeadRecord::of(&request, &adapted, None, &vec![None; rows.len()]);
    (adapted, record)
}

#[test]
fn a_head_of_roots_is_kept_as_one_and_older_records_have_none() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(2, 0));
    let (adapted, record) = adapt(&rows, Some("root-whitening"), 3);
    let (head, bytes) = (&adapted.head, adapted.head.to_bytes());
    assert!(head.roots() && record.roots);
    let text = String::from_utf8(record.to_bytes().unwrap()).unwrap();
    let read = HeadRecord::parse(text.as_bytes()).unwrap();
    assert_eq!(&read.head(&bytes).unwrap(), head);
    // Signs are kept, large components have less influence, and one row is mapped like many. This includes
    // zeros of both signs and values that are nearly zero.
    let mut vectors = rows.vectors().to_vec();
    vectors[5 * DIMENSION..][..4].copy_from_slice(&[0.0, -0.0, 1e-30, -1e-12]);
    let rows = LabelledRows::normalise(DIMENSION, vectors, rows.labels().to_vec()).unwrap();
    let together = head.apply_to(&rows).unwrap();
    let one = rows.row(5).unwrap();
    let roots: Vec<f32> = one
        .iter()
        .map(|value| value.abs().sqrt().copysign(*value))
        .collect();
    let linear = Head::from_bytes(&bytes, head.from(), head.to(), false, false).unwrap();
    let roots = Embedding::normalise(roots).unwrap();
    let expected = linear.apply(roots.as_slice()).unwrap();
    for found in [
        head.apply(one).unwrap().as_slice(),
        together.row(5).unwrap(),
    ] {
        let cosine = Similarity::between(found, expected.as_slice()).unwrap();
        assert!(0.999_999 < cosine.get(), "{cosine:?}");
    }
    // The first version had no square roots. A file of a later version is not guessed at.
    let older = text.replace("\"format\": 2", "\"format\": 1");
    let older = older.replace("  \"roots\": true,\n", "");
    assert!(older.len() < text.len());
    let older = HeadRecord::parse(older.as_bytes()).unwrap();
    assert!(!older.roots && older.head(&bytes).unwrap() == linear);
    assert!(text.contains("\"format\": 2"));
    let newer = text.replace("\"format\": 2", "\"format\": 5");
    let error = HeadRecord::parse(newer.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("1 to 4 are read"), "{error}");
    // A head without square roots is still written in the first version.
    let plain = adapt(&rows, Some("whitening"), 3).1.to_bytes().unwrap();
    assert!(String::from_utf8(plain).unwrap().contains("\"format\": 1"));
}

#[test]
fn a_head_in_eight_bits_is_judged_and_kept_as_one_and_maps_nearly_the_same() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(2, 0));
    let whole = adapt(&rows, Some("root-whitening"), 3).0;
    let (rounded, record) = adapt_in(true, &rows, Some("root-whitening"), 3);
    assert!(rounded.head.eight_bits() && !whole.head.eight_bits());
    assert_eq!(
        rounded.head.to_bytes(),
        whole.head.clone().in_eight_bits().to_bytes()
    );
    // The judgement is of the head that is kept.
    assert_ne!(rounded.judgement.changes, whole.judgement.changes);
    let bytes = record.to_bytes().unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains("\"format\": 3"), "{text}");
    let read = HeadRecord::parse(&bytes).unwrap();
    let head = read.head(&rounded.head.to_bytes()).unwrap();
    assert_eq!(head, rounded.head);
    let (together, exact) = (
        head.apply_to(&rows).unwrap(),
        whole.head.apply_to(&rows).unwrap(),
    );
    let mut least = 1.0_f32;
    for row in 0..rows.len() {
        let alone = head.apply(rows.row(row).unwrap()).unwrap();
        let between = |other| Similarity::between(alone.as_slice(), other).unwrap().get();
        assert!(0.999_999 < between(together.row(row).unwrap()), "{row}");
        least = least.min(between(exact.row(row).unwrap()));
    }
    assert!((0.999..0.999_999).contains(&least), "{least}");
}

#[test]
fn a_label_that_was_fitted_is_known_in_another_spelling() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(2, 0));
    let (_, record) = adapt(&rows, Some("whitening"), 3);
    let read = HeadRecord::parse(&record.to_bytes().unwrap()).unwrap();
    assert_eq!(read, record);
    for (part, labels) in &record.labels {
        for label in labels {
            let number = label.strip_prefix("label ").unwrap();
            let respelled = format!("LABEL\u{200b}_{number}");
            for spelled in [label, &respelled] {
                let found = [&read, &record].map(|record| record.fitted_label(spelled));
                assert_eq!(found, [*part == Part::Fit; 2], "{spelled}");
            }
        }
    }
}

#[test]
fn a_record_with_a_figure_that_is_no_number_is_not_written() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(2, 0));
    let (_, record) = adapt(&rows, Some("whitening"), 3);
    for figure in [f64::NAN, f64::INFINITY] {
        let mut wrong = record.clone();
        wrong.judgement.changes[1].upper = figure;
        let error = wrong.to_bytes().unwrap_err().to_string();
        assert!(error.contains("a figure of EER is not a number"), "{error}");
    }
}

/// The targets that a quarter of the labels, with four pictures each, can certify.
fn supported(rows: &LabelledRows) -> SupportedTargets {
    let names: Vec<String> = (0..rows.len())
        .map(|row| format!("label {}", row / 4))
        .collect();
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    let parts = Parts::deal(&labels, 0).unwrap();
    let request = AdaptRequest {
        rows,
        names: &names,
        parts: &parts,
        recipe: Some(Recipe::named("whitening").unwrap()),
        components: COMPONENTS,
        eight_bits: false,
        seed: 0,
    };
    let adapted = request.run(&|_, _, _| true).unwrap();
    request.supported(&adapted).unwrap().unwrap()
}

#[test]
fn strangers_under_several_names_promise_no_more_than_one() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    // Fifty things, each with the same four pictures under eight labels.
    let rows = world.rows(50, &mut SeededRng::new(4, 0));
    let things = rows.vectors().chunks(4 * DIMENSION);
    let vectors: Vec<f32> = things.flat_map(|thing| thing.repeat(8)).collect();
    let labels = (0..400).flat_map(|label| [label; 4]).collect();
    let rows = LabelledRows::normalise(DIMENSION, vectors, labels).unwrap();
    let supported = supported(&rows);
    for menu in [supported.without, supported.with] {
        assert!(menu.stranger_labels < 40, "{menu:?}");
    }
}

#[test]
fn what_is_left_to_calibrate_with_promises_the_same_searches_before_and_behind() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let supported = supported(&world.rows(400, &mut SeededRng::new(3, 0)));
    // A hundred labels are left, and half of them are enrolled. 50 strangers certify 10 % at 95 %, but not 5 %.
    assert_eq!(supported.enrolled_labels, 50);
    assert_eq!(supported.with.stranger_labels, 50);
    let lines = supported.without.lines.iter().zip(&supported.with.lines);
    for (without, with) in lines {
        let certified = 0.09 < with.far;
        for line in [without, with] {
            assert_eq!(
                line.standing == MenuStanding::Certified,
                certified,
                "{line:?}"
            );
        }
        if certified {
            let frr = |line: &MenuLine| line.frr.as_ref().unwrap().estimate;
            assert!(frr(with) < frr(without), "{without:?} {with:?}");
        }
    }
}

#[test]
fn a_head_is_taken_where_pictures_of_one_label_differ_more_along_some_axes() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(160, &mut SeededRng::new(1, 0));
    let (adapted, record) = adapt(&rows, None, 3);
    assert_eq!(adapted.judgement.refused, None);
    let rates: Vec<(f64, f64)> = adapted
        .judgement
        .changes
        .iter()
        .map(|one| (one.without, one.with))
        .collect();
    assert!(
        rates[1].1 < 0.7 * rates[1].0 && rates[2].1 < 0.8 * rates[2].0,
        "{rates:?}"
    );
    assert_eq!(adapted.candidates.len(), 5);
    // A recipe that was named is not compared with others.
    assert!(adapt(&rows, Some("softmax"), 3).0.candidates.is_empty());

    // The same result to the last bit, with any number of threads.
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let (again, again_record) = pool.install(|| adapt(&rows, None, 3));
        assert_eq!((&again, &again_record), (&adapted, &record));
    }
    assert_ne!(adapt(&rows, None, 4).0.head, adapted.head);

    // The head and the data that it was fitted to are recorded.
    let bytes = adapted.head.to_bytes();
    let read = HeadRecord::parse(&record.to_bytes().unwrap()).unwrap();
    assert_eq!(
        (read.head(&bytes).unwrap(), &read),
        (adapted.head.clone(), &record)
    );
    assert!(
        read.head(&bytes[1..]).is_err() && Head::from_bytes(&bytes, 15, 16, false, false).is_err()
    );
    assert_eq!(read.labels[&Part::Fit].len(), 80);
    assert_eq!(read.fitted_on.len(), 320);
    let fitted = rows
        .labels()
        .iter()
        .position(|label| read.fitted_label(&format!("label {label}")));
    let vector = rows.row(fitted.unwrap()).unwrap();
    assert!(
        read.fitted_on
            .contains(&matchpoint_adapt::vector_sha256(vector))
    );

    // One vector is mapped exactly like many.
    let mapped = adapted.head.apply_to(&rows).unwrap();
    let one = adapted.head.apply(rows.row(7).unwrap()).unwrap();
    let differences = one.as_slice().iter().zip(mapped.row(7).unwrap());
    assert!(differences.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_head_that_is_no_better_is_refused_in_all_but_a_few_of_many_draws() {
    let world = World {
        within: 0.6,
        odd: 1.0,
    };
    let (runs, mut taken) = (200, 0);
    for run in 0..runs {
        let mut draws = SeededRng::new(run, 1);
        let rows = world.rows(30, &mut draws);
        // Two views that are equally good, so neither is better except by chance.
        let view = |draws: &mut SeededRng| {
            let noisy = rows
                .vectors()
                .iter()
                .map(|value| value + 0.08 * normal(draws));
            LabelledRows::normalise(DIMENSION, noisy.collect(), rows.labels().to_vec()).unwrap()
        };
        let (before, behind) = (view(&mut draws), view(&mut draws));
        taken += u64::from(
            Judgement::of(&before, &behind, run)
                .unwrap()
                .refused
                .is_none(),
        );
    }
    // 2.5 % for each of two figures that must be better together, plus three standard deviations.
    assert!(taken <= 11, "{taken} of {runs}");
}

#[test]
fn a_head_fitted_to_noise_is_refused() {
    let world = World {
        within: 0.4,
        odd: 1.0,
    };
    for seed in 0..4 {
        let rows = world.rows(64, &mut SeededRng::new(seed, 2));
        let judgement = adapt(&rows, Some("whitening"), seed).0.judgement;
        assert!(judgement.refused.is_some(), "{judgement:?}");
    }
}

/// The best score of a picture in a gallery.
fn best(gallery: &LabelledRows, unit: &[f32]) -> Similarity {
    let scores = (0..gallery.len()).filter_map(|row| Similarity::between(gallery.row(row)?, unit));
    scores.max().unwrap()
}

#[test]
fn what_is_certified_behind_a_head_holds_as_often_as_promised() {
    let world = World {
        within: 0.5,
        odd: 4.0,
    };
    let mut draws = SeededRng::new(9, 0);
    let rows = world.rows(120, &mut draws);
    let (adapted, record) = adapt(&rows, Some("whitening"), 0);
    assert_eq!(adapted.judgement.refused, None);
    // The gallery contains labels that the head was fitted to, as in service; the strangers are new to both.
    let enrolled: Vec<usize> = (0..rows.len()).filter(|row| row % 4 == 0).collect();
    let gallery = adapted.head.apply_to(&rows.chosen(&enrolled)).unwrap();
    assert!(
        enrolled
            .iter()
            .any(|row| record.fitted_label(&format!("label {}", rows.labels()[*row])))
    );
    let stranger = |draws: &mut SeededRng| {
        let label = World::label(draws);
        let picture = LabelledRows::normalise(DIMENSION, world.picture(&label, draws), vec![0]);
        best(
            &gallery,
            adapted
                .head
                .apply(picture.unwrap().row(0).unwrap())
                .unwrap()
                .as_slice(),
        )
    };
    let pool: Vec<Similarity> = (0..20_000).map(|_| stranger(&mut draws)).collect();
    let (runs, target) = (300, TargetFar::new(0.05, 0.9).unwrap());
    let mut broken = 0;
    for _ in 0..runs {
        let scores = (0..60).map(|_| pool[draws.below(pool.len())]).collect();
        let threshold = certify_scores(scores, 60, target).unwrap().threshold.get();
        let accepted = pool.iter().filter(|score| threshold <= score.get()).count();
        broken += u32::from(1_000 < accepted);
    }
    // A tenth of 300, plus three standard deviations.
    assert!(broken <= 45, "{broken} of {runs}");
}

#[test]
fn work_that_is_interrupted_ends_at_each_stage_without_a_head() {
    let world = World {
        within: 0.5,
        odd: 4.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(0, 0));
    let names: Vec<String> = rows.labels().iter().map(u32::to_string).collect();
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    let parts = Parts::deal(&labels, 0).unwrap();
    for (last, recipe) in [
        (AdaptStage::Compare, None),
        (AdaptStage::Fit, Some("softmax-tcm")),
        (AdaptStage::Judge, Some("whitening")),
    ] {
        let request = AdaptRequest {
            rows: &rows,
            names: &names,
            parts: &parts,
            recipe: recipe.map(|name| Recipe::named(name).unwrap()),
            components: COMPONENTS,
            eight_bits: false,
            seed: 0,
        };
        let ended = request.run(&|stage, _, _| stage != last);
        assert!(matches!(ended, Err(AdaptError::Stopped)), "{last:?}");
    }
}

#[test]
fn a_head_gives_as_many_components_as_it_is_asked_for() {
    let world = World {
        within: 0.5,
        odd: 5.0,
    };
    let rows = world.rows(80, &mut SeededRng::new(0, 0));
    let recipe = Recipe::named("root-whitening").unwrap();
    for (asked, given) in [(7, 7), (usize::MAX, rows.dimension())] {
        let head = recipe.fit(&rows, asked, 0, &|_, _| true).unwrap();
        assert_eq!(head.to(), given);
    }
}
