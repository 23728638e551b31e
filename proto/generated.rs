//! Holds what is generated from `proto/` to the contract. It is kept, so that who builds the program compiles no
//! compiler of protobuf; `make protocol` writes it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

type Files = BTreeMap<String, Vec<u8>>;

/// Images in requests: parts of what was received, and no copies of it.
const IMAGES: [&str; 6] = [
    ".matchpoint.v1.UpsertItemRequest.image",
    ".matchpoint.v1.SearchRequest.image",
    ".matchpoint.v1.VerifyRequest.image",
    ".matchpoint.v1.Reference.image",
    ".matchpoint.v1.EmbedRequest.image",
    ".matchpoint.v1.LabelledQuery.image",
];

#[test]
fn what_is_kept_is_what_the_contract_gives() -> Result<(), Box<dyn Error>> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/client/generated");
    let made = generate()?;
    if env::var_os("MATCHPOINT_TESTS_WRITE_GENERATED").is_some() {
        for (name, bytes) in &made {
            fs::write(kept.join(name), bytes)?;
        }
    }
    for (name, bytes) in &made {
        let same = fs::read(kept.join(name)).is_ok_and(|found| found == *bytes);
        assert!(
            same,
            "crates/client/generated/{name} is not what proto/ gives: run `make protocol`"
        );
    }
    assert_eq!(
        fs::read_dir(kept)?.count(),
        made.len(),
        "there are files that nothing generates"
    );
    Ok(())
}

/// Compiles the contract, by a compiler in pure Rust: nothing to install.
fn generate() -> Result<Files, Box<dyn Error>> {
    let proto = env!("CARGO_MANIFEST_DIR");
    let mut compiler = protox::Compiler::new([proto])?;
    compiler.include_imports(true).include_source_info(true);
    for room in [
        "calibration",
        "decision",
        "retrieval",
        "gallery",
        "monitoring",
        "operating_point",
        "server",
        "snapshot",
    ] {
        compiler.open_file(format!("matchpoint/v1/{room}.proto"))?;
    }
    compiler.open_file("grpc/health/v1/health.proto")?;

    let descriptors = compiler.encode_file_descriptor_set();
    let mut made = Files::from([("descriptors.bin".to_owned(), descriptors)]);
    // Each package is compiled with what it refers to as foreign, so that this is named by an absolute path.
    for (package, foreign, path) in [
        (
            "matchpoint.v1",
            ".google.longrunning",
            "crate::proto::longrunning",
        ),
        ("google.longrunning", ".matchpoint.v1", "crate::proto"),
        ("grpc.health.v1", ".matchpoint.v1", "crate::proto"),
    ] {
        let out = tempfile::tempdir()?;
        let configured = as_json(tonic_prost_build::configure());
        IMAGES
            .into_iter()
            .fold(configured, tonic_prost_build::Builder::bytes)
            .emit_rerun_if_changed(false)
            .out_dir(out.path())
            .extern_path(".google.rpc.Status", "::tonic_types::Status")
            .extern_path(foreign, path)
            .codec_path("crate::CountingCodec")
            .compile_fds_with_config(compiler.file_descriptor_set(), named())?;
        let name = format!("{package}.rs");
        let code = fs::read(out.path().join(&name))?;
        made.insert(name, code);
    }
    Ok(made)
}

/// Messages know their names: by these the contract says what they are made of.
fn named() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    config
}

/// Messages that the commands print as JSON, under the names of their fields. What is absent is null.
const JSON_MESSAGES: &[&str] = &[
    "AcceptedItem",
    "AlikeLabels",
    "Annotation",
    "AuditedRate",
    "CalibrateMetadata",
    "CanaryRound",
    "CrowdedGroup",
    "CrowdedStrangers",
    "DecisionBasis",
    "DeploymentInfo",
    "DriftReset",
    "ErrorGroup",
    "Evidence",
    "FailedQuery",
    "Finding",
    "Flip",
    "GalleryDuplicate",
    "GetDecisionResponse",
    "GetDriftResponse",
    "GetShadowResponse",
    "GroundTruth",
    "LeftOutCheck",
    "Lookalike",
    "Match",
    "MeasuredRate",
    "OperatingPoint",
    "PromiseStanding",
    "QueryDuplicate",
    "RateHistoryPoint",
    "ReviewShare",
    "TrafficComparison",
    "TrafficShare",
    "Recalibration",
    "RecordedDecision",
    "ReviewBand",
    "SearchResponse",
    "ShadowCount",
    "ShadowDisagreement",
    "ShadowInfo",
    "ShadowOutcome",
    "ShadowSkipped",
    "StageTimings",
    "StrangerNearDuplicate",
    "UnnamedStrangers",
    "UnopenedDeployment",
];

/// Fields whose enum is printed by its name, and the function of `enum_names` that gives it.
const ENUM_FIELDS: &[(&str, &str)] = &[
    ("AlikeLabels.likeness", "label_likeness"),
    ("Annotation.kind", "annotation_kind"),
    ("CalibrateMetadata.stage", "calibration_stage"),
    ("DecisionBasis.undecided_reason", "undecided_reason"),
    ("DeploymentInfo.undecided_reason", "undecided_reason"),
    ("Finding.verdict", "verdict"),
    ("RecordedDecision.decision", "decision"),
    ("SearchResponse.decision", "decision"),
    ("ShadowCount.label_agreement", "label_agreement"),
    ("ShadowCount.live", "decision"),
    ("ShadowCount.shadow", "decision"),
    ("ShadowDisagreement.label_agreement", "label_agreement"),
    ("ShadowOutcome.decision", "decision"),
];

/// Fields that are printed among those of the message around them.
const FLAT_FIELDS: &[&str] = &[
    "GetDecisionResponse.decision",
    "GroundTruth.truth",
    "SearchResponse.basis",
    "SearchResponse.timings",
];

/// Has messages serialised, as the commands print them.
fn as_json(mut builder: tonic_prost_build::Builder) -> tonic_prost_build::Builder {
    for message in JSON_MESSAGES {
        builder = builder.message_attribute(message, "#[derive(serde::Serialize)]");
    }
    for (field, name) in ENUM_FIELDS {
        let attribute = format!("#[serde(serialize_with = \"crate::enum_names::{name}\")]");
        builder = builder.field_attribute(field, attribute);
    }
    for field in FLAT_FIELDS {
        builder = builder.field_attribute(field, "#[serde(flatten)]");
    }
    builder
        .enum_attribute(
            "GroundTruth.truth",
            "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]",
        )
        .btree_map("Match.metadata")
        // Pictures are no text.
        .field_attribute("GetDecisionResponse.image", "#[serde(skip)]")
        .field_attribute("GetDecisionResponse.matched_image", "#[serde(skip)]")
}
