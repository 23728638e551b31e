//! A head from end to end: fitted, put behind the model in every precision, taken into service, and what it was fitted to
//! refused.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::{copy_folder, matchpoint, model, photos, run, text};
use matchpoint_adapt::{HeadRecord, Part};
use matchpoint_calibration::analysis::rng::SeededRng;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Similarity;
use serde_json::Value;
use tempfile::TempDir;

/// Runs a command line in which each `{}` stands for a path.
fn line(line: &str, paths: &[&Path]) -> Output {
    let mut paths = paths.iter();
    let word = |word: &str| match word {
        "{}" => paths.next().unwrap().to_str().unwrap().to_owned(),
        word => word.to_owned(),
    };
    let words: Vec<String> = line.split_whitespace().map(word).collect();
    assert!(paths.next().is_none(), "{line}");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&words)
}

/// The same, which ends well and prints JSON.
fn done(command: &str, paths: &[&Path]) -> Value {
    let output = line(&format!("{command} --json"), paths);
    assert!(output.status.success(), "{command}: {}", both(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same, which ends with this code, and with these words on standard error.
fn refused(command: &str, paths: &[&Path], code: i32, words: &str) {
    let output = line(command, paths);
    let said = both(&output);
    assert_eq!(output.status.code(), Some(code), "{command}: {said}");
    assert!(said.contains(words), "{command}: {said}");
}

fn both(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

fn adapt_photos(out: &Path, page: &Path) -> Value {
    let command = "adapt --images {} --model {} --out {} --recipe root-softmax-tcm --report {}";
    done(
        command,
        &[&photos().join("labels.csv"), &model(), out, page],
    )
}

/// A model adapted to the sample photographs, made once.
pub(crate) fn adapted() -> &'static Path {
    static ADAPTED: OnceLock<TempDir> = OnceLock::new();
    let folder = ADAPTED.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let report = adapt_photos(
            &folder.path().join("model"),
            &folder.path().join("page.html"),
        );
        assert_eq!(report["outcome"], "adapted");
        let models = report["models"].as_array().unwrap().iter();
        let precisions: Vec<&Value> = models.map(|one| &one["precision"]).collect();
        assert_eq!(precisions, ["f32", "fp16", "int8"]);
        folder
    });
    Box::leak(folder.path().join("model").into_boxed_path())
}

fn record(folder: &Path) -> HeadRecord {
    HeadRecord::parse(&fs::read(folder.join("head.json")).unwrap()).unwrap()
}

/// Vectors of a few photographs by a model.
fn embedded(folder: &Path, precision: Option<&str>, to: &Path) -> Vec<Vec<f32>> {
    let images = photos().join("images").join("gc_fishes_fish3");
    let out = to.join("vectors.npy");
    let named = precision.map_or(String::new(), |name| format!(" --precision {name}"));
    let command = format!("embed --model {{}} {{}} --out {{}}{named}");
    done(&command, &[folder, &images, &out]);
    let options = matchpoint_arrays::ReadOptions {
        name: None,
        text: None,
        bytes_max: 1 << 24,
    };
    let table = matchpoint_arrays::read(&out, &options).unwrap();
    let rows = table.vectors.chunks(table.dimension);
    rows.map(<[f32]>::to_vec).collect()
}

#[test]
fn the_network_computes_what_the_head_says_in_every_precision() {
    let (adapted, folder) = (adapted(), TempDir::new().unwrap());
    let weights = fs::read(adapted.join("head.f32")).unwrap();
    let head = record(adapted).head(&weights).unwrap();
    assert!(head.eight_bits() && head.roots());
    for precision in [None, Some("int8"), Some("fp16")] {
        let before = embedded(&model(), precision, folder.path());
        let behind = embedded(adapted, precision, folder.path());
        assert_eq!((before.len(), behind[0].len()), (behind.len(), head.to()));
        for (before, behind) in before.iter().zip(&behind) {
            let mapped = head.apply(before).unwrap();
            let cosine = Similarity::between(mapped.as_slice(), behind).unwrap();
            assert!(0.999_999 <= cosine.get(), "{precision:?}: {cosine:?}");
        }
    }
    for name in ["LICENSE", "NOTICE", "golden.jpg", "model.toml"] {
        assert!(adapted.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_head_in_thirty_two_bits_is_one_as_well() {
    let folder = TempDir::new().unwrap();
    let wide = folder.path().join("model");
    let images = photos().join("labels.csv");
    let command = "adapt --images {} --model {} --out {} --recipe root-softmax-tcm --head-bits 32";
    done(command, &[&images, &model(), &wide]);
    let weights = fs::read(wide.join("head.f32")).unwrap();
    let head = record(&wide).head(&weights).unwrap();
    assert!(!head.eight_bits());
    let bytes = |of: &Path| fs::metadata(of.join("model.onnx")).unwrap().len();
    let weights = u64::try_from(head.from() * head.to()).unwrap();
    let saved = bytes(&wide) - bytes(adapted());
    assert!(
        (weights * 4 * 7 / 10..weights * 3).contains(&saved),
        "{saved}"
    );
    let before = embedded(&model(), None, folder.path());
    let behind = embedded(&wide, None, folder.path());
    let narrow = embedded(adapted(), None, folder.path());
    for ((before, behind), narrow) in before.iter().zip(&behind).zip(&narrow) {
        let mapped = head.apply(before).unwrap();
        let to = |other| Similarity::between(mapped.as_slice(), other).unwrap().get();
        assert!(0.999_999 <= to(behind), "{}", to(behind));
        assert!((0.999..0.999_999).contains(&to(narrow)), "{}", to(narrow));
    }
    let refusal = "cannot be used with";
    let (vectors, labels) = vectors(folder.path(), 4, 4);
    let plain = "adapt --embeddings {} --labels {} --out {} --head-bits 32";
    refused(
        plain,
        &[&vectors, &labels, &folder.path().join("never")],
        2,
        refusal,
    );
}

#[test]
fn the_same_pictures_make_the_same_bytes() {
    let again = TempDir::new().unwrap();
    // The folder around it need not be there.
    let beside = again.path().join("models");
    let folder = beside.join("model");
    let page = TempDir::new().unwrap();
    let page = page.path().join("page.html");
    let report = adapt_photos(&folder, &page);
    // Of the labels that judge, before and behind, some pictures each.
    let drawn = fs::read_to_string(page).unwrap();
    let certified = report["supported"].to_string().contains("\"certified\"");
    assert_eq!(drawn.contains("What can be promised"), certified);
    assert!(100 < drawn.matches("<img").count());
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<PathBuf> = entries.map(|one| one.unwrap().file_name().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&folder), names(adapted()));
    for name in names(&folder) {
        let [one, other] = [&folder, adapted()].map(|folder| fs::read(folder.join(&name)).unwrap());
        assert!(one == other, "{}", name.display());
    }
    // Nothing of the making is left beside it.
    assert_eq!(names(&beside), [PathBuf::from("model")]);
}

pub(crate) fn gallery(deployment: &Path) -> Gallery {
    let params = IndexParams {
        graph_from_items: usize::MAX,
        ..IndexParams::default()
    };
    Gallery::open(&deployment.join("items.db"), Access::ReadOnly, params).unwrap()
}

#[test]
fn a_gallery_goes_behind_the_head_without_its_images() {
    let (adapted, folder) = (adapted(), TempDir::new().unwrap());
    let at = |name: &str| folder.path().join(name);
    let (base, mapped, embedded) = (at("base"), at("mapped"), at("embedded"));
    let images = photos().join("gallery.csv");
    done(
        "build {} --images {} --model {}",
        &[&base, &images, &model()],
    );
    for (enrolled, unchanged) in [(36, 0), (0, 36)] {
        let report = done(
            "build {} --embeddings-of {} --model {}",
            &[&mapped, &base, adapted],
        );
        assert_eq!(
            (&report["enrolled"], &report["unchanged"]),
            (&enrolled.into(), &unchanged.into())
        );
    }
    done(
        "build {} --images {} --model {}",
        &[&embedded, &images, adapted],
    );
    let (mapped_items, embedded_items) = (gallery(&mapped), gallery(&embedded));
    for (item, vector) in mapped_items.view().items() {
        let (other, from_pixels) = embedded_items.item(&item.id).unwrap();
        assert_eq!(
            (&item.label, &item.metadata),
            (&other.label, &other.metadata)
        );
        assert_eq!(item.source_sha256, other.source_sha256);
        let cosine = Similarity::between(vector, from_pixels.as_ref()).unwrap();
        assert!(0.999_999 <= cosine.get(), "{cosine:?}");
    }
    refused(
        "adapt {} --out {}",
        &[&mapped, &at("never")],
        65,
        "has a head already",
    );
}

#[test]
fn a_head_that_reads_a_second_layer_takes_the_kept_images_and_not_the_stored_embeddings() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (shop, plain, wide, never) = (at("shop"), at("plain"), at("wide"), at("never"));
    let images = photos().join("images");
    let adapt = "adapt {} --out {} --recipe root-whitening --second-layer";
    done(
        "build {} --images {} --model {}",
        &[&plain, &photos().join("gallery.csv"), &model()],
    );
    refused(adapt, &[&plain, &never], 66, "keeps no images");
    let build = "build {} --images {} --model {} --keep-images";
    done(build, &[&shop, &images, &model()]);
    let report = done(adapt, &[&shop, &wide]);
    assert_eq!(report["outcome"], "adapted");
    assert_eq!(
        (&report["second_layer"], &report["from"]),
        (&"b10.res".into(), &1392.into())
    );
    // What the head reads is an output of the network, and so of a model of its own.
    let read = at("read");
    let new = "model new {} --output matchpoint.layers/embedding --golden {} --out {} --set input.mean=[127,127,127] \
               --set input.std=[128,128,128] --set input.colour=rgb --set resize.fit=squash --set resize.filter=bilinear --set resize.jpeg=reduced";
    done(
        new,
        &[&wide.join("model.onnx"), &wide.join("golden.jpg"), &read],
    );
    let head = record(&wide).head(&fs::read(wide.join("head.f32")).unwrap());
    let [before, behind] = [&read, &wide].map(|model| embedded(model, None, folder.path()));
    for (before, behind) in before.iter().zip(&behind) {
        let mapped = head.as_ref().unwrap().apply(before).unwrap();
        let cosine = Similarity::between(mapped.as_slice(), behind).unwrap();
        assert!(0.999_999 <= cosine.get(), "{cosine:?}");
    }
    assert_eq!(record(&wide).base.unwrap().second_layer.unwrap(), "b10.res");
    // Without a head it is the model as it is shipped, whatever the head reads.
    let without = |report: &Value| {
        report["judgement"]["changes"][1]["without"]
            .as_f64()
            .unwrap()
    };
    let narrow = "adapt {} --out {} --recipe root-whitening";
    let narrow = done(narrow, &[&shop, &at("narrow")]);
    assert!((without(&report) - without(&narrow)).abs() < 1e-3);
    let again = "build {} --embeddings-of {} --model {}";
    refused(
        again,
        &[&never, &shop, &wide],
        4,
        "reads a second layer (b10.res)",
    );
    let behind = at("behind");
    done(
        "build {} --images-of {} --model {}",
        &[&behind, &shop, &wide],
    );
    choose_no_threshold(&behind, &report["parts"][0]["rows"]);

    let images = "adapt --images {} --model {} --out {}";
    let listed = photos().join("labels.csv");
    let mut named = format!("{images} --second-layer");
    refused(&named, &[&listed, &wide, &never], 65, "has a head already");
    named.push_str("=embedding");
    refused(&named, &[&listed, &model(), &never], 65, "is no map");
    let (file, list) = vectors(folder.path(), 60, 4);
    let vectors = format!("{ADAPT} --second-layer");
    refused(&vectors, &[&file, &list, &never], 2, "cannot be used with");
    let behind = "calibrate --embeddings {} --labels {} --head {} --equal-error";
    let words = "these have 12; it reads a second layer (b10.res)";
    refused(behind, &[&file, &list, &wide], 4, words);
    assert!(!never.exists());
}

/// Of a deployment's items, so many pictures that the head was fitted to.
fn choose_no_threshold(deployment: &Path, pictures: &Value) {
    let calibrate = "calibrate {} --gallery-as-queries --equal-error --dry-run";
    let fitted = "the head of the model was fitted to";
    refused(calibrate, &[deployment], 65, fitted);
    let left = done(&format!("{calibrate} --without-fitted"), &[deployment]);
    assert_eq!(&left["fitted"], pictures);
}

#[test]
fn a_signal_while_pictures_are_embedded_leaves_no_folder() {
    let folder = TempDir::new().unwrap();
    let images = photos().join("labels.csv");
    let mut adapt = matchpoint(&[]);
    adapt.args(["adapt", "--second-layer", "--images"]);
    adapt.arg(&images).arg("--model").arg(model());
    adapt.arg("--out").arg(folder.path().join("never"));
    let mut adapt = adapt.stderr(Stdio::piped()).spawn().unwrap();
    // The folder of the network with the layer is there before the first picture is embedded.
    let entries = || fs::read_dir(folder.path()).unwrap().count();
    while entries() == 0 && adapt.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = adapt.id().to_string();
    let kill = Command::new("kill").args(["-INT", &pid]).status();
    assert!(kill.unwrap().success());
    let output = adapt.wait_with_output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("nothing is written"), "{said}");
    assert_eq!(entries(), 0, "{said}");
}

#[test]
fn a_signal_while_the_list_is_read_ends_the_command() {
    let folder = TempDir::new().unwrap();
    let mut adapt = matchpoint(&[]);
    adapt.args(["adapt", "--images", "-", "--model"]);
    adapt.arg(model()).arg("--out").arg(folder.path().join("a"));
    adapt.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut adapt = adapt.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(adapt.try_wait().unwrap(), None, "it reads the list");
    let pid = adapt.id().to_string();
    let kill = Command::new("kill").args(["-INT", &pid]).status();
    assert!(kill.unwrap().success());
    let until = Instant::now() + Duration::from_secs(10);
    while adapt.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = adapt.try_wait().unwrap();
    adapt.kill().unwrap();
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
}

#[test]
fn items_that_no_picture_is_known_of_are_fitted_to_by_no_head() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let images = photos().join("images").join("gc_fishes_fish3");
    let (vectors, list, shop) = (at("vectors.npy"), at("rows.csv"), at("shop"));
    done(
        "embed --model {} {} --out {}",
        &[&model(), &images, &vectors],
    );
    let pictures = fs::read_dir(&images).unwrap().count();
    fs::write(&list, format!("label\n{}", "fish\n".repeat(pictures))).unwrap();
    let build = "build {} --embeddings {} --labels {} --model {}";
    done(build, &[&shop, &vectors, &list, &model()]);
    let words = format!("{pictures} items");
    refused("adapt {} --out {}", &[&shop, &at("never")], 65, &words);
}

#[test]
fn a_head_is_put_behind_what_it_was_fitted_to_and_nothing_else() {
    let (adapted, folder) = (adapted(), TempDir::new().unwrap());
    let (base, to) = (folder.path().join("int8"), folder.path().join("never"));
    let (images, list) = (photos().join("gallery.csv"), photos().join("labels.csv"));
    let build = "build {} --images {} --model {} --precision int8";
    done(build, &[&base, &images, &model()]);
    let again = "build {} --embeddings-of {} --model {}";
    refused(
        again,
        &[&to, &base, adapted],
        4,
        "another head would make nonsense",
    );
    refused(again, &[&to, &base, &model()], 66, "cannot read the head");
    let adapt = "adapt --images {} --model {} --out {}";
    refused(adapt, &[&list, adapted, &to], 65, "has a head already");
    refused(adapt, &[&list, &model(), &base], 2, "is there already");
    let copy = folder.path().join("model");
    copy_folder(adapted, &copy);
    let record = text(&fs::read(copy.join("head.json")).unwrap());
    fs::write(
        copy.join("head.json"),
        record.replace("fitted_on", "fitted_to"),
    )
    .unwrap();
    refused(
        "inspect --model {}",
        &[&copy],
        65,
        "what the head was fitted to would not be known",
    );
}

#[test]
fn what_the_head_was_fitted_to_can_neither_choose_a_threshold_nor_judge_it() {
    let folder = TempDir::new().unwrap();
    let shop = folder.path().join("shop");
    let images = photos().join("gallery.csv");
    done(
        "build {} --images {} --model {}",
        &[&shop, &images, adapted()],
    );
    let fitted = "the head of the model was fitted to";
    let queries = photos().join("calibrate.csv");
    let calibrate = "calibrate {} --queries {} --target-far 0.4 --confidence 0.6";
    refused(calibrate, &[&shop, &queries], 65, fitted);
    let report = done(&format!("{calibrate} --without-fitted"), &[&shop, &queries]);
    assert!(
        50 < report["fitted"].as_u64().unwrap(),
        "{}",
        report["fitted"]
    );
    assert_eq!(report["outcome"], "certified");
    let (evaluate, held_out) = ("evaluate {} --queries {}", photos().join("evaluate.csv"));
    refused(evaluate, &[&shop, &held_out], 65, fitted);
    done(&format!("{evaluate} --without-fitted"), &[&shop, &held_out]);
    let items = "calibrate {} --gallery-as-queries --equal-error --dry-run";
    refused(items, &[&shop], 65, fitted);

    // A name says nothing: the same bytes under another label, in another folder.
    let record = record(adapted());
    let of_part = |part: Part, name: &str| {
        let label = record.labels[&part].iter().next().unwrap();
        let renamed = folder.path().join(name);
        copy_folder(
            &photos().join("images").join(label),
            &renamed.join("somebody-else"),
        );
        renamed
    };
    let renamed = of_part(Part::Fit, "renamed");
    let pictures = fs::read_dir(renamed.join("somebody-else")).unwrap().count();
    let words = format!("{fitted} {pictures} of the queries");
    refused(evaluate, &[&shop, &renamed], 65, &words);
    done(evaluate, &[&shop, &of_part(Part::Calibrate, "new")]);

    // A new picture of an enrolled label is what comes in service; without its label it would be a stranger that was fitted to.
    let enrolled = gallery(&shop).view().labels();
    let label = record.labels[&Part::Fit].intersection(&enrolled).next();
    let (label, taken) = (label.unwrap(), folder.path().join("taken-today"));
    copy_folder(&photos().join("images").join(label), &taken.join(label));
    for picture in fs::read_dir(taken.join(label)).unwrap() {
        let picture = picture.unwrap().path();
        fs::write(&picture, [fs::read(&picture).unwrap(), vec![0]].concat()).unwrap();
    }
    let calibrate = "calibrate {} --queries {} --equal-error --dry-run";
    let said = both(&line(calibrate, &[&shop, &taken]));
    assert!(!said.contains(fitted), "{said}");
    let all = format!("{calibrate} --strangers all");
    refused(&all, &[&shop, &taken], 65, fitted);
}

/// Vectors in which labels differ along eight axes, and pictures of one label more along four others; and their list.
fn vectors(folder: &Path, labels: usize, each: usize) -> (PathBuf, PathBuf) {
    const AXES: usize = 12;
    let mut draws = SeededRng::new(7, 0);
    let mut noise = || f32::from(u16::try_from(draws.bits() >> 48).unwrap()) / 65_536.0 - 0.5;
    let mut bytes = Vec::new();
    let mut list = String::from("label\n");
    for label in 0..labels {
        let own: Vec<f32> = (0..AXES).map(|_| noise()).collect();
        for _ in 0..each {
            bytes.extend(u32::try_from(AXES).unwrap().to_le_bytes());
            for (axis, own) in own.iter().enumerate() {
                let size = if axis < 4 { 2.0 } else { 0.3 };
                bytes.extend((own + size * noise()).to_le_bytes());
            }
            list.push_str(&format!("label {label}\n"));
        }
    }
    let (file, labels) = (folder.join("vectors.fvecs"), folder.join("labels.csv"));
    fs::write(&file, bytes).unwrap();
    fs::write(&labels, list).unwrap();
    (file, labels)
}

const ADAPT: &str = "adapt --embeddings {} --labels {} --out {}";

#[test]
fn plain_vectors_get_a_head_that_a_calibration_takes_them_behind() {
    let folder = TempDir::new().unwrap();
    let (file, list) = vectors(folder.path(), 120, 4);
    let head = folder.path().join("head");
    let page = folder.path().join("page.html");
    let with_page = format!("{ADAPT} --report {{}}");
    let report = done(&with_page, &[&file, &list, &head, &page]);
    let drawn = fs::read_to_string(&page).unwrap();
    // Each of the five charts has lines and letters apart.
    assert_eq!(drawn.matches("<svg").count(), 10);
    assert!(drawn.contains("Better on labels that it had not seen"));
    assert_eq!(report["candidates"].as_array().unwrap().len(), 5);
    assert_eq!(report["parts"][0]["labels"], 60);
    let behind = "calibrate --embeddings {} --labels {} --head {} --equal-error";
    refused(
        behind,
        &[&file, &list, &head],
        65,
        "was fitted to 240 of the rows",
    );
    let adapted = done(
        &format!("{behind} --without-fitted"),
        &[&file, &list, &head],
    );
    assert_eq!(adapted["left_out"]["by_role"]["unused"], 240);
    let plain = "calibrate --embeddings {} --labels {} --equal-error";
    let plain = done(plain, &[&file, &list]);
    let error = |report: &Value| report["analysis"]["pairwise"]["equal_error"]["rate"].as_f64();
    let (adapted, plain) = (error(&adapted).unwrap(), error(&plain).unwrap());
    assert!(adapted < 0.7 * plain, "{plain} became {adapted}");

    // It takes what it was fitted to, and is what was written.
    let wide = folder.path().join("wide.fvecs");
    let row = [&3_u32.to_le_bytes()[..], &[0, 0, 128, 63].repeat(3)].concat();
    fs::write(&wide, row.repeat(480)).unwrap();
    refused(
        behind,
        &[&wide, &list, &head],
        4,
        "vectors of 12 components, and these have 3",
    );
    let weights = fs::read(head.join("head.f32")).unwrap();
    fs::write(head.join("head.f32"), &weights[4..]).unwrap();
    refused(
        behind,
        &[&file, &list, &head],
        65,
        "its weights have SHA-256",
    );
}

/// A list that gives the 480 vectors these labels.
fn listed(folder: &Path, header: &str, cells: impl Fn(usize) -> String) -> PathBuf {
    let rows: String = (0..480).map(|row| cells(row) + "\n").collect();
    let path = folder.join("other.csv");
    fs::write(&path, format!("{header}\n{rows}")).unwrap();
    path
}

#[test]
fn labels_that_no_head_can_be_fitted_to_are_refused_and_nothing_is_written() {
    let folder = TempDir::new().unwrap();
    let (root, out) = (folder.path(), folder.path().join("head"));
    let (file, list) = vectors(root, 120, 4);
    let label = |of: fn(usize) -> usize| listed(root, "label", |row| of(row).to_string());
    let few = |list: PathBuf, words: &str| refused(ADAPT, &[&file, &list, &out], 5, words);
    few(
        label(|_| 0),
        "of the 1 labels here 1 have two: label 59 more",
    );
    few(
        label(|row| row % 3),
        "of the 3 labels here 3 have two: label 57 more",
    );
    few(label(|row| row), "of the 480 labels here 0 have two");
    let part = |row: usize| if row < 300 { "fit" } else { "judge" };
    let later = |row: usize| if row < 300 { "fit" } else { "later" };
    let other = listed(root, "label,split", |row| {
        format!("{},{}", row / 4, later(row))
    });
    refused(ADAPT, &[&file, &other, &out], 65, "others `later`");
    let moved = |row: usize| if row == 3 { 99 } else { row / 4 };
    let twice = listed(root, "label,split", |row| {
        format!("{},{}", moved(row), part(row))
    });
    refused(
        ADAPT,
        &[&file, &twice, &out],
        65,
        "the label 99 is in two parts, fit and judge",
    );
    let named = format!("{ADAPT} --recipe magic");
    refused(
        &named,
        &[&file, &list, &out],
        2,
        "there is no recipe `magic`; there are whitening",
    );
    let split = format!("{ADAPT} --split x");
    refused(&split, &[&file, &list, &out], 65, "has no row to fit to");
    // Labels at random: no head is better than none.
    let random = label(|row| row * 7 % 120);
    refused(ADAPT, &[&file, &random, &out], 5, "nothing is written");
    assert!(!out.exists());
}

#[test]
fn vectors_that_are_none_are_refused_by_their_row_and_pictures_under_two_labels_are_named() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("head");
    let (file, list) = vectors(folder.path(), 120, 4);
    // A row has its length and twelve components, of four bytes each.
    let bytes = fs::read(&file).unwrap();
    let (length, row) = (52, 7 * 52);
    let no_number = (
        [
            &bytes[..row + 16],
            &f32::NAN.to_le_bytes(),
            &bytes[row + 20..],
        ]
        .concat(),
        "component 3",
    );
    let no_length = (
        [&bytes[..row + 4], &[0; 48], &bytes[row + length..]].concat(),
        "length zero",
    );
    for (broken, words) in [no_number, no_length] {
        fs::write(&file, broken).unwrap();
        refused(ADAPT, &[&file, &list, &out], 65, "row 7 counted from 0");
        refused(ADAPT, &[&file, &list, &out], 65, words);
    }
    let copied = [
        &bytes[..40 * length],
        &bytes[..length],
        &bytes[41 * length..],
    ]
    .concat();
    fs::write(&file, copied).unwrap();
    let across = &done(ADAPT, &[&file, &list, &out])["near_copies"];
    assert_eq!(across[0]["label"], "label 10");
    assert_eq!(across[0]["first_label"], "label 0");
}

#[test]
fn a_disk_that_is_full_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let (file, list) = vectors(folder.path(), 120, 4);
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let program = matchpoint(&[]);
    // No file may have more than a block, and the system says so instead of ending the program.
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" adapt --embeddings \"$1\" --labels \"$2\" --out \"$3\"";
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(program.get_program())
        .args([&file, &list, &place.join("head")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", both(&output));
    assert!(
        both(&output).contains("nothing of it is kept"),
        "{}",
        both(&output)
    );
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn a_signal_while_the_folder_is_written_leaves_what_the_command_says() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let folder = TempDir::new().unwrap();
    let (file, list) = vectors(folder.path(), 120, 4);
    // What it says as it is stopped, with these faults.
    let stopped = |place: &Path, injected: [&str; 2]| {
        let adapt = Command::new("strace")
            .args(["--follow-forks", "--output=/dev/null"])
            .args(injected.map(|fault| format!("--inject={fault}")))
            .arg(matchpoint(&[]).get_program())
            .args(["adapt", "--embeddings"])
            .arg(&file)
            .arg("--labels")
            .arg(&list)
            .arg("--out")
            .arg(place.join("head"))
            .output()
            .unwrap();
        let said = both(&adapt);
        assert_eq!(adapt.status.code(), Some(130), "{said}");
        said
    };
    // It comes with the first file, and the folder of the second waits until it is heard.
    let place = folder.path().join("place");
    let said = stopped(
        &place,
        [
            "fsync:signal=INT:when=1",
            "?mkdir,?mkdirat:delay_enter=2000000:when=3+",
        ],
    );
    assert_eq!(said.matches("nothing is written").count(), 1, "{said}");
    assert!(!said.contains("written to"), "{said}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);

    // It comes as the folder gets its name, and what follows waits: nobody says that it is not there.
    let place = folder.path().join("named");
    let said = stopped(
        &place,
        [
            "?rename,?renameat,?renameat2:signal=INT:when=1",
            "fsync:delay_enter=2000000:when=4+",
        ],
    );
    assert!(!said.contains("nothing is written"), "{said}");
    assert_eq!(record(&place.join("head")).weights_sha256.len(), 64);
}

#[test]
fn a_kill_at_any_moment_of_the_writing_leaves_no_head_and_the_command_starts_over() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let folder = TempDir::new().unwrap();
    let (file, list) = vectors(folder.path(), 120, 4);
    let head = folder.path().join("place").join("head");
    // While its first file is written, its second, and when all is there but the name.
    for (call, number) in [
        ("fsync", 1),
        ("fsync", 2),
        ("?rename,?renameat,?renameat2", 1),
    ] {
        let killed = Command::new("strace")
            .args(["--follow-forks", "--output=/dev/null", "-e"])
            .arg(format!("inject={call}:signal=KILL:when={number}"))
            .arg(matchpoint(&[]).get_program())
            .args(["adapt", "--embeddings"])
            .arg(&file)
            .arg("--labels")
            .arg(&list)
            .arg("--out")
            .arg(&head)
            .output()
            .unwrap();
        assert!(!killed.status.success(), "{call} {number}");
        assert!(!head.exists(), "{call} {number}");
    }
    done(ADAPT, &[&file, &list, &head]);
    assert!(record(&head).weights_sha256.len() == 64);
}
