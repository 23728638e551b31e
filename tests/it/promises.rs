//! What is said of a promise in a gallery that is not the calibration's any more.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::random::Random;
use crate::common::shop::{COMPONENTS, LABELS, build_shop, vector};
use crate::common::{Served, run, text};
use crate::indexed::{calibrate, enrol};
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::{CalibrationSettings, DeleteItemRequest, calibration_settings};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than gauges take to be looked at again.
const SEEN: Duration = Duration::from_secs(2);

/// What happens to the gallery after its calibration.
#[derive(Clone, Copy)]
enum Change {
    /// One item of each second label is removed.
    Removed,
    /// The list of the calibration's items is lost, and an item is enrolled.
    ListLost,
    /// An item is enrolled, with which an index begins.
    Indexed,
}

struct Ended {
    target: calibration_settings::Target,
    review_frr: Option<f64>,
    change: Change,
    /// Which rates were promised, and whether each still is.
    promises: &'static [(&'static str, bool)],
    why: &'static str,
}

struct Shop {
    _folder: TempDir,
    deployment: PathBuf,
    keys: PathBuf,
}

impl Shop {
    fn path(&self) -> &str {
        self.deployment.to_str().unwrap()
    }

    /// A key of a scope, in a file.
    fn key(&self, scope: &str) -> String {
        let keys = self.keys.to_str().unwrap();
        let new = ["keys", "new", scope, "--scopes", scope, "--keys-file", keys];
        let made = run(&[&new[..], &["--json"]].concat());
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let file = self.keys.with_extension(scope);
        fs::write(&file, made["key"].as_str().unwrap()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// A shop that was calibrated, and then changed.
    async fn changed(ended: &Ended) -> Self {
        let folder = TempDir::new().unwrap();
        let deployment = folder.path().join("shop");
        build_shop(&deployment, &[]);
        let shop = Self {
            keys: folder.path().join("keys.json"),
            _folder: folder,
            deployment,
        };
        let served = shop.serve(&[]);
        let channel = served.channel();
        let settings = CalibrationSettings {
            target: Some(ended.target),
            confidence: 0.9,
            review_frr: ended.review_frr,
            ..CalibrationSettings::default()
        };
        let mut random = Random(7);
        let known = (0..LABELS).map(|at| (format!("label {at}"), vector(at, 5)));
        let strangers: Vec<_> = (0..LABELS)
            .map(|at| (format!("stranger {at}"), random.vector(COMPONENTS)))
            .collect();
        calibrate(&channel, settings, known.chain(strangers)).await;
        served.end();
        if matches!(ended.change, Change::ListLost) {
            fs::remove_dir_all(shop.deployment.join("calibrated-items")).unwrap();
        }
        let served = shop.serve(&[]);
        match ended.change {
            Change::Removed => {
                let mut gallery = GalleryServiceClient::new(served.channel());
                for label in (0..LABELS).step_by(2) {
                    let delete = DeleteItemRequest {
                        id: format!("{label}/0"),
                        ..DeleteItemRequest::default()
                    };
                    gallery.delete_item(delete).await.unwrap();
                }
            }
            Change::ListLost | Change::Indexed => {
                let more = Random(3).vector(COMPONENTS);
                enrol(&served.channel(), "one more", more).await;
            }
        }
        served.end();
        shop
    }

    fn serve(&self, flags: &[&str]) -> Served {
        let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "181")];
        Served::start(&self.deployment, &settings, flags)
    }
}

/// What `status` prints and ends with.
fn status(address: &str, key: &str) -> (Value, String) {
    let ask = ["status", "--server", address, "--api-key-file", key];
    let json = run(&[&ask[..], &["--json"]].concat());
    assert_eq!(json.status.code(), Some(5), "{}", text(&json.stdout));
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let said = run(&ask);
    assert_eq!(said.status.code(), Some(5));
    (json["deployments"][0].clone(), words(&said.stdout))
}

/// Without its line breaks.
fn words(bytes: &[u8]) -> String {
    let words = text(bytes);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shown(arguments: &[&str]) -> String {
    let mut command = crate::common::matchpoint(arguments);
    let done = command.env("MATCHPOINT_GRAPH_FROM_ITEMS", "181").output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    words(&done.stdout)
}

async fn is_said_everywhere(ended: Ended) {
    let shop = Shop::changed(&ended).await;
    let [admin, till] = ["all", "search"].map(|scope| shop.key(scope));
    let keys = shop.keys.to_str().unwrap();
    for journal in ["on", "off"] {
        let served = shop.serve(&["--keys-file", keys, "--journal", journal]);
        let address = format!("http://{}", served.address);
        let (seen, admins) = status(&address, &admin);
        let (unseen, tills) = status(&address, &till);
        assert_eq!(seen["promises"], unseen["promises"]);
        let promises: Vec<(&str, bool)> = seen["promises"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                (
                    one["rate"].as_str().unwrap(),
                    one["stands"].as_bool().unwrap(),
                )
            })
            .collect();
        assert_eq!(promises, ended.promises);
        for said in [&admins, &tills] {
            assert!(said.contains(ended.why), "{said}");
            assert!(said.contains("which has ended"), "{said}");
        }
        let report = [
            "drift",
            "report",
            "--server",
            &address,
            "--api-key-file",
            &admin,
        ];
        if journal == "on" {
            let said = words(&run(&report).stdout);
            assert!(said.contains(ended.why), "{said}");
        }
        let at = ["shop", "--server", &address, "--api-key-file", &admin];
        for what in [&["inspect"][..], &["points", "list"], &["points", "show"]] {
            let said = shown(&[what, &at].concat());
            assert!(said.contains("ENDED") && said.contains(ended.why), "{said}");
        }
        tokio::time::sleep(SEEN).await;
        let metrics = served.scrape();
        for (rate, stands) in ended.promises {
            let of = format!("rate=\"{rate}\"}} {}", u8::from(*stands));
            let mut gauges = metrics.lines();
            let gauge = gauges
                .find(|line| line.starts_with("matchpoint_promise_stands{") && line.ends_with(&of));
            assert!(gauge.is_some(), "{of} {metrics}");
        }
        let predicted = metrics.contains("\nmatchpoint_predicted_far_ratio{");
        assert_eq!(predicted, !matches!(ended.change, Change::ListLost));
        served.end();
    }
    for what in [&["inspect"][..], &["points", "list"], &["points", "show"]] {
        let said = shown(&[what, &[shop.path()]].concat());
        assert!(said.contains("ENDED") && said.contains(ended.why), "{said}");
    }
}

#[tokio::test]
async fn an_frr_ends_with_the_items_that_are_gone() {
    is_said_everywhere(Ended {
        target: calibration_settings::Target::TargetFrr(0.1),
        review_frr: None,
        change: Change::Removed,
        promises: &[("frr", false)],
        why: "30 items of the calibration are gone",
    })
    .await;
}

#[tokio::test]
async fn an_frr_of_exact_searches_ends_with_an_index() {
    is_said_everywhere(Ended {
        target: calibration_settings::Target::TargetFrr(0.1),
        review_frr: None,
        change: Change::Indexed,
        promises: &[("frr", false)],
        why: "searches go through an index now",
    })
    .await;
}

#[tokio::test]
async fn an_frr_ends_with_the_list_of_items() {
    is_said_everywhere(Ended {
        target: calibration_settings::Target::TargetFrr(0.1),
        review_frr: None,
        change: Change::ListLost,
        promises: &[("frr", false)],
        why: "not known (",
    })
    .await;
}

#[tokio::test]
async fn a_far_ends_with_the_list_of_items() {
    is_said_everywhere(Ended {
        target: calibration_settings::Target::TargetFar(0.2),
        review_frr: None,
        change: Change::ListLost,
        promises: &[("far", false)],
        why: "not known (",
    })
    .await;
}

#[tokio::test]
async fn a_review_band_ends_with_the_items_that_are_gone_and_the_far_stands() {
    is_said_everywhere(Ended {
        target: calibration_settings::Target::TargetFar(0.2),
        review_frr: Some(0.1),
        change: Change::Removed,
        promises: &[("far", true), ("review", false)],
        why: "30 items of the calibration are gone",
    })
    .await;
}

/// Two calibrations of one gallery may have searched for different labels.
#[tokio::test]
async fn after_a_rollback_an_frr_goes_by_the_labels_that_were_searched_for_it() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("shop");
    build_shop(&deployment, &[]);
    let served = Served::start(&deployment, &[], &[]);
    let channel = served.channel();
    let settings = |target| CalibrationSettings {
        target: Some(target),
        confidence: 0.9,
        ..CalibrationSettings::default()
    };
    let half = (0..LABELS / 2).map(|at| (format!("label {at}"), vector(at, 5)));
    let frr = settings(calibration_settings::Target::TargetFrr(0.1));
    assert_eq!(calibrate(&channel, frr, half).await, None);
    let mut random = Random(7);
    let strangers = (0..LABELS).map(|at| (format!("stranger {at}"), random.vector(COMPONENTS)));
    let far = settings(calibration_settings::Target::TargetFar(0.2));
    assert_eq!(calibrate(&channel, far, strangers).await, None);
    served.end();
    let at = deployment.to_str().unwrap();
    assert!(run(&["points", "rollback", at]).status.success());
    let stands = |said: String| said.contains("FRR <= 10 % is promised of today's gallery");
    assert!(stands(words(&run(&["points", "list", at]).stdout)));

    let served = Served::start(&deployment, &[], &[]);
    let mut gallery = GalleryServiceClient::new(served.channel());
    let delete = DeleteItemRequest {
        id: "0/0".to_owned(),
        ..DeleteItemRequest::default()
    };
    gallery.delete_item(delete).await.unwrap();
    served.end();
    // With 30 searches the bound was 7.4 %; one of 30 labels makes it 10.7 %, one of 60 would make it 9.1 %.
    let said = words(&run(&["points", "list", at]).stdout);
    assert!(said.contains("ENDED") && !stands(said.clone()), "{said}");
}
