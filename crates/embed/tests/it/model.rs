//! Models as folders, the runtime, embeddings against the reference pipeline, and the pool.
//!
//! Besides the shipped model there are toy models, written here byte by byte, whose embedding can
//! be computed by hand.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panic, and one prints its table"
)]

use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use matchpoint_embed::caller::{Caller, Cancellation, ClientId};
use matchpoint_embed::decode_memory::DecodeBudget;
use matchpoint_embed::draft::OnnxFile;
use matchpoint_embed::job::{JobKind, PoolError, PoolWorker};
use matchpoint_embed::pixels::{ImageLimits, Pixels};
use matchpoint_embed::pool::{Dropped, WorkerPool};
use matchpoint_embed::runtime::{Runtime, RuntimeCandidate, RuntimeError};
use matchpoint_embed::{
    Compute, Device, EmbedError, LayeredFolder, Model, ModelError, layered_folder,
};
use matchpoint_vector::{Embedding, Similarity};
use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tracing::{Instrument as _, Metadata, Span};

/// The repository: the shipped model and the fetched runtime are there.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const LIMITS: ImageLimits = ImageLimits {
    bytes_max: 1 << 24,
    decode_bytes_max: 1 << 28,
};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
        let named = std::env::var("ORT_DYLIB_PATH").ok();
        let cached = Path::new(ROOT).join(".cache/onnxruntime/1.32.0/libonnxruntime.so");
        let named = named.map(|path| candidate(Path::new(&path), "ORT_DYLIB_PATH", true));
        let candidates: Vec<RuntimeCandidate> = named
            .into_iter()
            .chain([candidate(&cached, "the project's cache", false)])
            .collect();
        Runtime::load(&candidates).unwrap_or_else(|error| panic!("{error}"))
    })
}

fn candidate(path: &Path, origin: &'static str, required: bool) -> RuntimeCandidate {
    RuntimeCandidate {
        path: path.to_owned(),
        origin,
        required,
    }
}

fn lite0() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(ROOT).join("models/efficientnet-lite0");
        Arc::new(Model::open(&folder, None, runtime(), &Compute::on(Device::Cpu)).unwrap())
    })
}

// === The reference pipeline ===

struct Oracle {
    name: String,
    image: Vec<u8>,
    /// What Pillow made of the image, 224 x 224.
    resized: Pixels,
    embedding: Embedding,
}

fn oracle() -> Vec<Oracle> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oracle");
    let embeddings = fs::read(folder.join("embedding.f32")).unwrap();
    let list = fs::read_to_string(folder.join("files.csv")).unwrap();
    let rows = list.lines().skip(1).zip(embeddings.chunks_exact(4 * 1280));
    rows.map(|(line, raw)| {
        let mut cells = line.split(',');
        // name,width,height,reference: the quoted cells come after them.
        let (name, reference) = (cells.next().unwrap(), cells.nth(2).unwrap());
        let resized = fs::read(folder.join(reference)).unwrap();
        let values = raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        Oracle {
            name: name.to_owned(),
            image: fs::read(folder.join(name)).unwrap(),
            resized: Pixels::decode(&resized, &LIMITS, [255; 3]).unwrap(),
            embedding: Embedding::normalise(values.collect()).unwrap(),
        }
    })
    .collect()
}

fn cosine(a: &Embedding, b: &Embedding) -> f32 {
    Similarity::between(a.as_slice(), b.as_slice())
        .unwrap()
        .get()
}

#[test]
fn inference_alone_equals_the_reference() {
    let mut embedder = lite0().embedder().unwrap();
    for image in oracle() {
        let planes =
            (0..3).flat_map(|channel| image.resized.as_rgb().iter().skip(channel).step_by(3));
        let tensor: Vec<f32> = planes
            .map(|grey| (f32::from(*grey) - 127.0) / 128.0)
            .collect();
        let cosine = cosine(&embedder.embed_tensor(&tensor).unwrap(), &image.embedding);
        assert!(0.999_999 <= cosine, "{}: {cosine}", image.name);
    }
}

#[test]
fn an_image_embeds_as_in_the_reference_pipeline() {
    let mut embedder = lite0().embedder().unwrap();
    let oracle = oracle();
    assert_eq!(oracle.len(), 16);
    let mut table = String::new();
    let mut lowest = 1.0_f32;
    for image in oracle {
        let embedded = embedder
            .embed(&image.image, &LIMITS, &Cancellation::never())
            .unwrap();
        let cosine = cosine(&embedded.embedding, &image.embedding);
        lowest = lowest.min(cosine);
        table += &format!(
            "\n{cosine:.6}  decode {:5.2} ms  inference {:5.2} ms  {}",
            1e3 * embedded.decode.as_secs_f64(),
            1e3 * embedded.inference.as_secs_f64(),
            image.name,
        );
    }
    println!("cosine to the reference, image by image:{table}");
    assert!(0.999 <= lowest, "{table}");
}

#[test]
fn the_same_image_gives_the_same_bits_in_every_embedder() {
    let image = fs::read(Path::new(ROOT).join("models/efficientnet-lite0/golden.jpg")).unwrap();
    let embed = |count: usize| {
        let mut embedder = lite0().embedder().unwrap();
        (0..count)
            .map(|_| {
                embedder
                    .embed(&image, &LIMITS, &Cancellation::never())
                    .unwrap()
                    .embedding
            })
            .last()
            .unwrap()
    };
    assert_eq!(embed(1), embed(3));
}

#[test]
fn the_shipped_model_says_what_it_is() {
    let model = lite0();
    assert_eq!(model.name(), "efficientnet-lite0");
    assert_eq!(model.dimension(), 1280);
    assert_eq!(model.provider(), "cpu");
    assert_eq!(model.licence(), Some("Apache-2.0"));
    assert!(model.description().is_some());
    assert_eq!(model.fingerprint().len(), 64);
    assert_eq!(model.runtime_version(), runtime().version());
    assert!(
        runtime().version().starts_with("1."),
        "{}",
        runtime().version()
    );
    assert!(runtime().path().is_absolute());
}

/// A copy of the shipped model's folder, its manifest changed.
fn lite0_with(from: &str, to: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let source = Path::new(ROOT).join("models/efficientnet-lite0");
    for file in ["model.onnx", "golden.jpg", "golden.f32"] {
        fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let manifest = fs::read_to_string(source.join("model.toml")).unwrap();
    assert!(manifest.contains(from), "{from}");
    fs::write(
        folder.path().join("model.toml"),
        manifest.replacen(from, to, 1),
    )
    .unwrap();
    folder
}

fn refusal(folder: &Path) -> ModelError {
    Model::open(folder, None, runtime(), &Compute::on(Device::Cpu)).unwrap_err()
}

#[test]
fn the_golden_check_catches_other_preprocessing() {
    let changes = [
        ("filter = \"bilinear\"", "filter = \"bicubic\""),
        ("fit = \"squash\"", "fit = \"pad\""),
        ("colour = \"rgb\"", "colour = \"bgr\""),
        (
            "mean = [127.0, 127.0, 127.0]",
            "mean = [123.675, 116.28, 103.53]",
        ),
    ];
    for (from, to) in changes {
        let folder = lite0_with(from, to);
        let ModelError::GoldenDiffers {
            cosine, cosine_min, ..
        } = refusal(folder.path())
        else {
            panic!("{to}: another refusal");
        };
        assert!(cosine < cosine_min, "{to}: {cosine}");
        let text = refusal(folder.path()).to_string();
        assert!(
            text.contains(&format!("{cosine:.6}")) && text.contains("usual causes"),
            "{text}"
        );
    }
}

#[test]
fn a_wrong_dimension_is_refused_with_the_models_own() {
    let folder = lite0_with("dimension = 1280", "dimension = 1000");
    let text = refusal(folder.path()).to_string();
    assert!(
        text.contains("[1, 1000] by output.take and output.dimension"),
        "{text}"
    );
    assert!(
        text.contains("outputs \"embedding\" Tensor<f32>(batch, 1280)"),
        "{text}"
    );
}

#[test]
fn wrong_names_and_sizes_are_refused_together_with_what_the_model_has() {
    let folder = lite0_with("name = \"pixels\"", "name = \"images\"");
    let text = refusal(folder.path()).to_string();
    assert!(
        text.contains("input.name = \"images\" must be the model's only input"),
        "{text}"
    );
    assert!(
        text.contains("inputs \"pixels\" Tensor<f32>(batch, 3, 224, 224)"),
        "{text}"
    );

    let toy = Toy::new()
        .change("width = 4", "width = 8")
        .change("name = \"out\"", "name = \"logits\"");
    let ModelError::Interface { mistakes, .. } = toy.refusal() else {
        panic!("another refusal")
    };
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
}

// === Toy models ===

/// Writes ONNX files: just enough of protobuf for a graph of one node, of sizes below 128.
mod onnx {
    pub(super) fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    pub(super) fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        [out, content.to_vec()].concat()
    }

    pub(super) fn text(field: u8, content: &str) -> Vec<u8> {
        bytes(field, content.as_bytes())
    }

    /// A tensor's name, the number of its type (1: f32, 2: u8, 3: i8, 6: i32, 10: f16, 11: f64) and
    /// its shape, of which 0 is open.
    fn value(name: &str, element: u8, shape: &[u8]) -> Vec<u8> {
        let side = |dim: &u8| match dim {
            0 => bytes(1, &[]),
            dim => bytes(1, &number(1, *dim)),
        };
        let dims: Vec<u8> = shape.iter().flat_map(side).collect();
        let tensor = [number(1, element), bytes(2, &dims)].concat();
        [text(1, name), bytes(2, &bytes(1, &tensor))].concat()
    }

    /// An attribute that is a list of whole numbers. Field 20, its type, needs a key of two bytes.
    pub(super) fn list(name: &str, values: &[u8]) -> Vec<u8> {
        let items: Vec<u8> = values.iter().flat_map(|item| number(8, *item)).collect();
        bytes(5, &[text(1, name), items, vec![0xa0, 0x01, 7]].concat())
    }

    /// An attribute that is one whole number.
    pub(super) fn whole(name: &str, value: u8) -> Vec<u8> {
        bytes(
            5,
            &[text(1, name), number(3, value), vec![0xa0, 0x01, 2]].concat(),
        )
    }

    /// A model whose `out` is one operator's result of `pixels`.
    pub(super) fn model(input: &[u8], operator: &str, attributes: &[u8], output: &[u8]) -> Vec<u8> {
        let node = [
            text(1, "pixels"),
            text(2, "out"),
            text(4, operator),
            attributes.to_vec(),
        ];
        file(&bytes(1, &node.concat()), 1, input, output)
    }

    /// A model with two sums: `wide`, of the whole image by one operator, and `small`, of half of its sides. A third is
    /// of a bias. By `Concat` that of the whole image has twice the channels, and nothing else is made of it.
    pub(super) fn two_sums(first: &str, image: &[u8]) -> Vec<u8> {
        let node = |inputs: [&str; 2], operator: &str, output: &str, attributes: &[u8]| {
            let named = inputs.iter().filter(|name| !name.is_empty());
            let inputs: Vec<u8> = named.flat_map(|name| text(1, name)).collect();
            let rest = [text(2, output), text(4, operator), attributes.to_vec()];
            bytes(1, &[inputs, rest.concat()].concat())
        };
        let halved = [list("kernel_shape", &[2, 2]), list("strides", &[2, 2])].concat();
        // A float, of type 1.
        let zero = [vec![0x15, 0, 0, 0, 0], vec![0xa0, 0x01, 1]].concat();
        let zero = bytes(5, &[text(1, "value_float"), zero].concat());
        let axis = bytes(
            5,
            &[text(1, "axis"), number(3, 1), vec![0xa0, 0x01, 2]].concat(),
        );
        let (second, attribute, read) = match first {
            "Concat" => ("pixels", axis.as_slice(), "pixels"),
            _ => ("", &[][..], "wide"),
        };
        let nodes = [
            node(["pixels", second], first, "sizes", attribute),
            node(["sizes", "sizes"], "Add", "wide", &[]),
            node(["", ""], "Constant", "bias", &zero),
            node([read, "bias"], "Add", "biased", &[]),
            node(["biased", ""], "MaxPool", "halved", &halved),
            node(["halved", "halved"], "Add", "small", &[]),
            node(["small", ""], "Flatten", "out", &[]),
        ];
        file(&nodes.concat(), 1, image, &[1, 6])
    }

    /// A model that flattens an image of this type.
    pub(super) fn flatten(element: u8, input: &[u8], output: &[u8]) -> Vec<u8> {
        let node = [text(1, "pixels"), text(2, "out"), text(4, "Flatten")];
        file(&bytes(1, &node.concat()), element, input, output)
    }

    /// A model that flattens so many images at once, 128 to 16,383.
    pub(super) fn flatten_many(images: u16, image: &[u8], length: u8) -> Vec<u8> {
        let [high, low] = [images >> 7, images & 0x7f].map(|part| u8::try_from(part).unwrap());
        let dim = |value: u8| bytes(1, &number(1, value));
        let many = bytes(1, &[1 << 3, low | 0x80, high]);
        let port = |field: u8, name: &str, rest: &[u8]| {
            let rest: Vec<u8> = rest.iter().flat_map(|side| dim(*side)).collect();
            let dims = bytes(2, &[many.clone(), rest].concat());
            let tensor = bytes(2, &bytes(1, &[number(1, 1), dims].concat()));
            bytes(field, &[text(1, name), tensor].concat())
        };
        let node = [text(1, "pixels"), text(2, "out"), text(4, "Flatten")];
        let graph = [
            bytes(1, &node.concat()),
            text(2, "toy"),
            port(11, "pixels", image),
            port(12, "out", &[length]),
        ];
        let opset = [text(1, ""), number(2, 13)].concat();
        [number(1, 8), bytes(7, &graph.concat()), bytes(8, &opset)].concat()
    }

    /// A model that adds to `pixels` a weight that it keeps in another file.
    pub(super) fn with_external_weight(file_name: &str, shape: &[u8]) -> Vec<u8> {
        let node = [
            text(1, "pixels"),
            text(1, "weight"),
            text(2, "out"),
            text(4, "Add"),
        ];
        let entry = |key, value: &str| bytes(13, &[text(1, key), text(2, value)].concat());
        let size = 4 * shape
            .iter()
            .map(|side| usize::from(*side))
            .product::<usize>();
        let weight = [
            shape.iter().flat_map(|side| number(1, *side)).collect(),
            number(2, 1),
            text(8, "weight"),
            entry("location", file_name),
            entry("offset", "0"),
            entry("length", &size.to_string()),
            number(14, 1),
        ];
        let weight = bytes(5, &weight.concat());
        file(
            &[bytes(1, &node.concat()), weight].concat(),
            1,
            shape,
            shape,
        )
    }

    /// A model that flattens an image and then goes in circles.
    pub(super) fn endless() -> Vec<u8> {
        let identity = |from: &str, to: &str| {
            let node = [text(1, from), text(2, to), text(4, "Identity")];
            bytes(1, &node.concat())
        };
        let body = [
            identity("go", "go_on"),
            identity("now", "next"),
            text(2, "body"),
            bytes(11, &value("turn", 7, &[])),
            bytes(11, &value("go", 9, &[])),
            bytes(11, &value("now", 1, &[1, 24])),
            bytes(12, &value("go_on", 9, &[])),
            bytes(12, &value("next", 1, &[1, 24])),
        ];
        let body = [
            text(1, "body"),
            bytes(6, &body.concat()),
            vec![0xa0, 0x01, 5],
        ];
        let nodes = [
            [text(1, "pixels"), text(2, "flat"), text(4, "Flatten")].concat(),
            [
                [text(1, ""), text(1, "yes"), text(1, "flat"), text(2, "out")].concat(),
                text(4, "Loop"),
                bytes(5, &body.concat()),
            ]
            .concat(),
        ];
        let nodes: Vec<u8> = nodes.iter().flat_map(|node| bytes(1, node)).collect();
        let yes = bytes(5, &[number(2, 9), text(8, "yes"), bytes(9, &[1])].concat());
        file(&[nodes, yes].concat(), 1, &[1, 3, 2, 4], &[1, 24])
    }

    fn file(nodes_and_weights: &[u8], element: u8, input: &[u8], output: &[u8]) -> Vec<u8> {
        let values = [
            bytes(11, &value("pixels", element, input)),
            bytes(12, &value("out", element, output)),
        ];
        let graph = [nodes_and_weights.to_vec(), text(2, "toy"), values.concat()].concat();
        let opset = [text(1, ""), number(2, 13)].concat();
        [number(1, 8), bytes(7, &graph), bytes(8, &opset)].concat()
    }
}

/// A model folder whose model hands its 4 x 2 input through, or little more.
struct Toy {
    folder: TempDir,
    manifest: String,
}

/// Rows of RGB pixels, 4 across and 2 down, as an uncompressed BMP file.
fn bmp(rgb: [[u8; 3]; 8]) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    for word in [
        54 + 24,
        0,
        54,
        40,
        4,
        2,
        24 << 16 | 1,
        0,
        24,
        2835,
        2835,
        0,
        0_u32,
    ] {
        file.extend(word.to_le_bytes());
    }
    for row in rgb.chunks_exact(4).rev() {
        row.iter().for_each(|[r, g, b]| file.extend([b, g, r]));
    }
    file
}

const GOLDEN: [[u8; 3]; 8] = [
    [10, 20, 30],
    [40, 50, 60],
    [70, 80, 90],
    [100, 110, 120],
    [130, 140, 150],
    [160, 170, 180],
    [190, 200, 210],
    [220, 230, 240],
];

impl Toy {
    /// `out` [1, 24] is the whole input, flattened: red, green, then blue.
    fn new() -> Self {
        let planes = (0..3).flat_map(|channel| GOLDEN.iter().map(move |pixel| pixel[channel]));
        Self::with(
            &onnx::model(&[1, 3, 2, 4], "Flatten", &[], &[1, 24]),
            &planes.map(f32::from).collect::<Vec<_>>(),
        )
    }

    fn with(model: &[u8], golden: &[f32]) -> Self {
        let folder = TempDir::new().unwrap();
        let golden_bytes: Vec<u8> = golden
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        fs::write(folder.path().join("model.onnx"), model).unwrap();
        fs::write(folder.path().join("golden.bmp"), bmp(GOLDEN)).unwrap();
        fs::write(folder.path().join("golden.f32"), golden_bytes).unwrap();
        let sha256: String = Sha256::digest(model)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let manifest = format!(
            r#"
            format = 1
            name = "toy"
            [file]
            path = "model.onnx"
            sha256 = "{sha256}"
            [input]
            name = "pixels"
            layout = "nchw"
            width = 4
            height = 2
            colour = "rgb"
            mean = [0, 0, 0]
            std = [1, 1, 1]
            [resize]
            fit = "squash"
            filter = "bilinear"
            [output]
            name = "out"
            dimension = {}
            normalise = "l2"
            [golden]
            image = "golden.bmp"
            embedding = "golden.f32"
            cosine_min = 0.9999"#,
            golden.len()
        );
        Self { folder, manifest }
    }

    fn change(mut self, from: &str, to: &str) -> Self {
        assert!(self.manifest.contains(from), "{from}");
        self.manifest = self.manifest.replacen(from, to, 1);
        self
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn open_on(&self, device: Device) -> Result<Model, ModelError> {
        fs::write(self.path("model.toml"), &self.manifest).unwrap();
        Model::open(self.folder.path(), None, runtime(), &Compute::on(device))
    }

    fn open(&self) -> Model {
        self.open_on(Device::Cpu)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn refusal(&self) -> ModelError {
        self.open_on(Device::Cpu).unwrap_err()
    }
}

#[test]
fn both_layouts_and_both_colour_orders_reach_the_model() {
    let interleaved = onnx::model(&[1, 2, 4, 3], "Flatten", &[], &[1, 24]);
    let rgb: Vec<f32> = GOLDEN
        .iter()
        .flatten()
        .map(|grey| f32::from(*grey))
        .collect();
    Toy::with(&interleaved, &rgb)
        .change("\"nchw\"", "\"nhwc\"")
        .open();
    let bgr: Vec<f32> = GOLDEN
        .iter()
        .flat_map(|[r, g, b]| [*b, *g, *r])
        .map(f32::from)
        .collect();
    Toy::with(&interleaved, &bgr)
        .change("\"nchw\"", "\"nhwc\"")
        .change("\"rgb\"", "\"bgr\"")
        .open();
}

#[test]
fn an_embedding_can_be_the_first_or_the_mean_of_tokens() {
    // The mean over columns of [1, 3, 2, 4] leaves three tokens, one a channel, of two rows each.
    let attributes = [onnx::list("axes", &[3]), onnx::whole("keepdims", 0)].concat();
    let tokens = onnx::model(&[1, 3, 2, 4], "ReduceMean", &attributes, &[1, 3, 2]);
    let take = |way: &str, golden: &[f32]| {
        let taken = format!("name = \"out\"\ntake = \"{way}\"");
        Toy::with(&tokens, golden).change("name = \"out\"", &taken)
    };
    assert_eq!(take("first_token", &[55.0, 175.0]).open().dimension(), 2);
    take("mean_of_tokens", &[65.0, 185.0]).open();
    let text = take("vector", &[55.0, 175.0]).refusal().to_string();
    assert!(
        text.contains("must give f32 [1, 2]") && text.contains("(1, 3, 2)"),
        "{text}"
    );
}

#[test]
fn a_picture_for_which_the_model_has_no_embedding_is_named_as_such() {
    // The mean of each channel, after a mean of 100 is taken off each pixel.
    let attributes = [onnx::list("axes", &[2, 3]), onnx::whole("keepdims", 0)].concat();
    let means = onnx::model(&[1, 3, 2, 4], "ReduceMean", &attributes, &[1, 3]);
    let zeros =
        Toy::with(&means, &[15.0, 25.0, 35.0]).change("mean = [0, 0, 0]", "mean = [100, 100, 100]");
    // The logarithm of each channel's sum, after the same.
    let attributes = [onnx::list("axes", &[2, 3]), onnx::whole("keepdims", 0)].concat();
    let logarithms = onnx::model(&[1, 3, 2, 4], "ReduceLogSum", &attributes, &[1, 3]);
    let golden = [120.0_f32, 200.0, 280.0].map(f32::ln);
    let nans = Toy::with(&logarithms, &golden).change("mean = [0, 0, 0]", "mean = [100, 100, 100]");
    let balanced = [90, 110, 90, 110, 90, 110, 90, 110].map(|grey| [grey; 3]);
    let dark = [0, 40, 0, 40, 0, 40, 0, 40].map(|grey| [grey; 3]);
    for (model, picture, word) in [(zeros, balanced, "zero"), (nans, dark, "finite")] {
        let mut embedder = model.open().embedder().unwrap();
        let refused = embedder
            .embed(&bmp(picture), &LIMITS, &Cancellation::never())
            .unwrap_err();
        assert!(
            matches!(refused, EmbedError::NoEmbedding { .. }),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(
            embedder
                .embed(&bmp(GOLDEN), &LIMITS, &Cancellation::never())
                .is_ok()
        );
    }
}

#[test]
fn a_picture_of_one_colour_is_refused_and_one_with_a_visible_spot_is_not() {
    let mut embedder = Toy::new().open().embedder().unwrap();
    let mut varying_by = |levels: u8| {
        let mut picture = [[200, 100, 50]; 8];
        picture[3][2] += levels;
        embedder.embed(&bmp(picture), &LIMITS, &Cancellation::never())
    };
    for levels in [0, 1, 8] {
        let refused = varying_by(levels).unwrap_err();
        let found = matches!(refused, EmbedError::NoContent { contrast } if contrast == levels);
        assert!(found, "{refused:?}");
    }
    assert!(varying_by(9).is_ok());
}

#[test]
fn a_bad_image_is_the_images_fault_and_a_tensor_of_another_length_is_refused() {
    let mut embedder = Toy::new().open().embedder().unwrap();
    assert!(matches!(
        embedder.embed(b"no image", &LIMITS, &Cancellation::never()),
        Err(EmbedError::Image(_))
    ));
    assert!(matches!(
        embedder.embed_tensor(&[1.0; 23]),
        Err(EmbedError::Model { .. })
    ));
    assert!(embedder.embed_tensor(&[1.0; 24]).is_ok());
}

// === Folders that are refused ===

#[test]
fn a_changed_file_is_refused_by_name_with_both_hashes() {
    let toy = Toy::new();
    let mut bytes = fs::read(toy.path("model.onnx")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(toy.path("model.onnx"), &bytes).unwrap();
    let error = toy.refusal();
    let text = error.to_string();
    let ModelError::Changed {
        path,
        expected,
        found,
    } = error
    else {
        panic!("{text}")
    };
    assert_eq!(path, toy.path("model.onnx"));
    assert!(toy.manifest.contains(&expected) && expected != found);
    assert!(text.contains(&expected) && text.contains(&found) && text.contains("model.onnx"));
}

#[test]
fn a_missing_file_is_named() {
    for file in ["model.onnx", "golden.bmp", "golden.f32"] {
        let toy = Toy::new();
        fs::remove_file(toy.path(file)).unwrap();
        let ModelError::Read { path, .. } = toy.refusal() else {
            panic!("{file}")
        };
        assert_eq!(path, toy.path(file));
    }
    let empty = TempDir::new().unwrap();
    assert!(refusal(empty.path()).to_string().contains("model.toml"));
}

#[test]
fn a_reference_that_is_no_embedding_is_refused() {
    for (bytes, word) in [
        (vec![0; 95], "95 bytes instead of 96"),
        (vec![0; 96], "zero"),
    ] {
        let toy = Toy::new();
        fs::write(toy.path("golden.f32"), bytes).unwrap();
        let error = toy.refusal();
        assert!(matches!(error, ModelError::GoldenReference { .. }));
        assert!(error.to_string().contains(word), "{error}");
    }
    let toy = Toy::new();
    fs::write(toy.path("golden.bmp"), "no image").unwrap();
    assert!(matches!(
        toy.refusal(),
        ModelError::GoldenNotEmbedded { .. }
    ));
}

#[test]
fn a_draft_that_runs_without_an_end_is_ended() {
    let toy = Toy::with(&onnx::endless(), &[1.0; 24]);
    let file = OnnxFile::read(&toy.path("model.onnx")).unwrap();
    let draft = file.draft(&toy.manifest, runtime(), Duration::from_millis(50));
    let mut draft = draft.unwrap_or_else(|error| panic!("{error}"));
    let embedder = &mut draft.embedder;
    let ended = embedder.embed(&bmp(GOLDEN), &LIMITS, &Cancellation::never());
    let Err(EmbedError::Model { reason }) = ended else {
        panic!("{ended:?}")
    };
    assert!(reason.contains("did not end within 50ms"), "{reason}");
}

#[test]
fn a_file_that_is_no_whole_onnx_model_is_refused() {
    let whole = fs::read(Toy::new().path("model.onnx")).unwrap();
    for length in 0..whole.len() {
        let cut = Toy::with(&whole[..length], &[1.0; 24]);
        assert!(
            matches!(cut.refusal(), ModelError::Refused { .. }),
            "{length} bytes"
        );
    }
    let text = Toy::with(b"version https://git-lfs.github.com/spec/v1\n", &[1.0; 24]);
    assert!(matches!(text.refusal(), ModelError::Refused { .. }));
    let real = fs::read(Path::new(ROOT).join("models/efficientnet-lite0/model.onnx")).unwrap();
    let cut = Toy::with(&real[..real.len() / 2], &[1.0; 24]);
    assert!(matches!(cut.refusal(), ModelError::Refused { .. }));
}

#[test]
fn a_model_with_weights_in_another_file_is_refused() {
    // The runtime looks for them below the working directory, where this one is, and takes any file.
    for file in ["weight.bin", "Cargo.toml"] {
        let toy = Toy::with(&onnx::with_external_weight(file, &[1, 2]), &[1.0; 24]);
        fs::write(toy.path("weight.bin"), [0; 8]).unwrap();
        let error = toy.refusal();
        assert!(
            matches!(error, ModelError::NotOneFile { .. }),
            "{file}: {error}"
        );
        let text = error.to_string();
        for part in ["tensor \"weight\"", file, "save_as_external_data=False"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

// === Inputs and outputs of other types and shapes ===

/// A toy that flattens its image, in another type of number.
fn flat(element: u8, shape: &[u8], golden: &[f32]) -> Toy {
    let length = u8::try_from(golden.len()).unwrap();
    let model = onnx::flatten(element, shape, &[shape[0], length]);
    Toy::with(&model, golden)
}

/// The golden picture as planes of red, green and blue.
fn planes() -> Vec<f32> {
    let planes = (0..3).flat_map(|channel| GOLDEN.iter().map(move |pixel| pixel[channel]));
    planes.map(f32::from).collect()
}

#[test]
fn halves_doubles_and_bytes_go_in_and_come_out() {
    for element in [1, 10, 11, 2] {
        let toy = flat(element, &[1, 3, 2, 4], &planes());
        let toy = toy.change(
            "mean = [0, 0, 0]\n            std = [1, 1, 1]",
            "scale = \"none\"",
        );
        let mut embedder = toy.open().embedder().unwrap();
        let embedded = embedder
            .embed(&bmp(GOLDEN), &LIMITS, &Cancellation::never())
            .unwrap();
        let expected = Embedding::normalise(planes()).unwrap();
        // All levels here are whole numbers that a half holds.
        assert_eq!(embedded.embedding, expected, "{element}");
    }
}

#[test]
fn bytes_are_not_scaled_and_other_types_are_refused_by_name() {
    let scaled = flat(2, &[1, 3, 2, 4], &planes()).change("std = [1, 1, 1]", "std = [2, 2, 2]");
    let text = scaled.refusal().to_string();
    assert!(text.contains("input.scale has to be \"none\""), "{text}");
    let text = flat(6, &[1, 3, 2, 4], &planes()).refusal().to_string();
    assert!(
        text.contains("input \"pixels\" takes i32, which is not supported")
            && text.contains("output \"out\" gives i32")
            && text.contains("Cast"),
        "{text}"
    );
}

#[test]
fn a_vector_that_a_pooling_left_with_axes_of_one_is_a_vector() {
    let pooled = onnx::model(&[1, 3, 2, 4], "GlobalAveragePool", &[], &[1, 3, 1, 1]);
    Toy::with(&pooled, &[115.0, 125.0, 135.0]).open();
}

#[test]
fn one_and_four_channels_are_taken() {
    let lightness = |[r, g, b]: [u8; 3]| {
        let [r, g, b] = [r, g, b].map(u32::from);
        u8::try_from((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16).unwrap()
    };
    let grey: Vec<f32> = GOLDEN.map(lightness).map(f32::from).to_vec();
    let (three, one) = (
        "mean = [0, 0, 0]\n            std = [1, 1, 1]",
        "scale = \"none\"",
    );
    flat(1, &[1, 1, 2, 4], &grey)
        .change("\"rgb\"", "\"grey\"")
        .change(three, one)
        .open();
    let rgba = [planes(), vec![255.0; 8]].concat();
    flat(1, &[1, 4, 2, 4], &rgba)
        .change("\"rgb\"", "\"rgba\"")
        .change(three, one)
        .open();
    let text = flat(1, &[1, 4, 2, 4], &rgba).refusal().to_string();
    assert!(
        text.contains("must take f32 [1, 3, 2, 4] by input.layout, colour"),
        "{text}"
    );
}

/// As batch normalisation does in a model that was exported in training mode.
#[test]
fn a_model_that_mixes_the_images_of_a_run_is_refused_where_they_would_meet() {
    let over_images = onnx::whole("axis", 0);
    let mixing = onnx::model(
        &[2, 3, 1, 1],
        "LpNormalization",
        &over_images,
        &[2, 3, 1, 1],
    );
    let toy = Toy::with(&mixing, &[1.0; 3])
        .change("width = 4", "width = 1")
        .change("height = 2", "height = 1");
    fs::write(toy.path("model.toml"), &toy.manifest).unwrap();
    let open = |batch_max| {
        let compute = Compute {
            batch_max: Some(batch_max),
            ..Compute::on(Device::Cpu)
        };
        Model::open(toy.folder.path(), None, runtime(), &compute)
    };
    open(1).unwrap();
    let refused = open(2).err().unwrap();
    assert!(
        matches!(refused, ModelError::MixesImages { images: 2, .. }),
        "{refused}"
    );
}

#[test]
fn a_model_of_a_fixed_number_of_images_gives_one_its_own_embedding() {
    let toy = flat(1, &[4, 3, 2, 4], &planes());
    fs::write(toy.path("model.toml"), &toy.manifest).unwrap();
    for batch_max in [1, 3, 16] {
        let compute = Compute {
            batch_max: Some(batch_max),
            ..Compute::on(Device::Cpu)
        };
        let model = Model::open(toy.folder.path(), None, runtime(), &compute).unwrap();
        assert_eq!(model.joined_max(), batch_max.min(4));
        let mut embedder = model.embedder().unwrap();
        let mut other = GOLDEN;
        other[0] = [255, 0, 0];
        for picture in [GOLDEN, other, GOLDEN] {
            let found = embedder
                .embed(&bmp(picture), &LIMITS, &Cancellation::never())
                .unwrap()
                .embedding;
            let planes = (0..3).flat_map(|channel| picture.map(|pixel| f32::from(pixel[channel])));
            assert_eq!(found, Embedding::normalise(planes.collect()).unwrap());
        }
    }
    // Each search would pay for all of them.
    let many = Toy::with(&onnx::flatten_many(16_383, &[3, 2, 4], 24), &planes());
    let text = many.refusal().to_string();
    assert!(text.contains("takes 16383 images at once"), "{text}");
    // The mean of four images is no image's own.
    let attributes = [onnx::list("axes", &[0, 2, 3]), onnx::whole("keepdims", 1)].concat();
    let joined = onnx::model(&[4, 3, 2, 4], "ReduceMean", &attributes, &[1, 3, 1, 1]);
    let text = Toy::with(&joined, &[1.0; 3]).refusal().to_string();
    assert!(
        text.contains("takes 4 images at once and gives 1 results"),
        "{text}"
    );
}

#[test]
fn a_token_can_be_named_by_its_number_or_be_the_last() {
    // As above: three tokens, one a channel, of two rows each.
    let attributes = [onnx::list("axes", &[3]), onnx::whole("keepdims", 0)].concat();
    let tokens = onnx::model(&[1, 3, 2, 4], "ReduceMean", &attributes, &[1, 3, 2]);
    let take = |way: &str, golden: &[f32]| {
        let taken = format!("name = \"out\"\n{way}");
        Toy::with(&tokens, golden).change("name = \"out\"", &taken)
    };
    take("take = \"token\"\ntoken = 1", &[65.0, 185.0]).open();
    take("take = \"last_token\"", &[75.0, 195.0]).open();
    take("take = \"mean_of_tokens\"\nskip_tokens = 1", &[70.0, 190.0]).open();
    let text = take("take = \"token\"\ntoken = 3", &[65.0, 185.0]).refusal();
    assert!(
        text.to_string()
            .contains("[1, tokens, 2] with more than 3 tokens"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;

    let elsewhere = Toy::new();
    for file in ["model.onnx", "golden.bmp", "golden.f32"] {
        let toy = Toy::new();
        fs::remove_file(toy.path(file)).unwrap();
        symlink(elsewhere.path(file), toy.path(file)).unwrap();
        let ModelError::Link { path } = toy.refusal() else {
            panic!("{file}")
        };
        assert_eq!(path, toy.path(file));
    }
    let toy = Toy::new().change("\"model.onnx\"", "\"inner/model.onnx\"");
    symlink(elsewhere.folder.path(), toy.path("inner")).unwrap();
    assert!(matches!(toy.refusal(), ModelError::Link { .. }));
}

#[test]
fn all_mistakes_of_a_manifest_are_in_one_message() {
    let toy = Toy::new()
        .change("width = 4", "width = 0\nwidht = 4")
        .change("\"squash\"", "\"strech\"")
        .change("\"model.onnx\"", "\"../model.onnx\"");
    let error = toy.refusal();
    let text = error.to_string();
    let ModelError::Manifest { path, mistakes } = error else {
        panic!("{text}")
    };
    assert_eq!(path, toy.path("model.toml"));
    assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    for part in [
        "input.width = 0",
        "input.widht = 4",
        "resize.fit = \"strech\"",
        "file.path",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_fingerprint_covers_what_changes_an_embedding_and_nothing_else() {
    let fingerprint =
        |from: &str, to: &str| Toy::new().change(from, to).open().fingerprint().to_owned();
    let plain = Toy::new().open().fingerprint().to_owned();
    for (from, to) in [
        (
            "name = \"toy\"",
            "name = \"other\"\ndescription = \"words\"\nlicence = \"MIT\"",
        ),
        ("cosine_min = 0.9999", "cosine_min = 0.99"),
        (
            "mean = [0, 0, 0]",
            "background = [255, 255, 255]\nmean = [0.0, 0.0, 0.0]",
        ),
        ("name = \"out\"", "name = \"out\"\ntake = \"vector\""),
    ] {
        assert_eq!(fingerprint(from, to), plain, "{to}");
    }
    for (from, to) in [
        (
            "mean = [0, 0, 0]",
            "background = [0, 0, 0]\nmean = [0, 0, 0]",
        ),
        ("std = [1, 1, 1]", "std = [2, 2, 2]"),
        ("\"bilinear\"", "\"bicubic\""),
        ("\"squash\"", "\"pad\""),
        ("\"squash\"", "\"pad\"\nfill = [1, 2, 3]"),
    ] {
        assert_ne!(fingerprint(from, to), plain, "{to}");
    }
}

// === Runtime and device ===

#[test]
fn a_missing_runtime_is_answered_with_every_place_and_the_way_to_get_it() {
    let places = [
        candidate(Path::new("/nowhere/a.so"), "the project's cache", false),
        candidate(Path::new("/nowhere/b.so"), "the system", false),
    ];
    let text = Runtime::load(&places).unwrap_err().to_string();
    for part in [
        "/nowhere/a.so (the project's cache)",
        "/nowhere/b.so (the system)",
        "make runtime",
        "pip download --no-deps onnxruntime==1.32.0",
        "ORT_DYLIB_PATH",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_runtime_that_an_operator_names_must_be_there() {
    let places = [
        candidate(Path::new("/nowhere/a.so"), "ORT_DYLIB_PATH", true),
        candidate(runtime().path(), "the project's cache", false),
    ];
    let error = Runtime::load(&places).unwrap_err();
    assert!(matches!(error, RuntimeError::RequiredMissing { .. }));
    assert!(
        error.to_string().contains("/nowhere/a.so (ORT_DYLIB_PATH)"),
        "{error}"
    );
}

#[test]
fn a_runtime_that_is_a_text_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let error = Runtime::load(&[candidate(&path, "--runtime", true)]).unwrap_err();
    assert!(matches!(error, RuntimeError::NotALibrary { .. }));
    assert!(
        error
            .to_string()
            .contains("(--runtime) is not a shared library"),
        "{error}"
    );
}

#[test]
fn a_process_has_one_runtime() {
    let loaded = runtime();
    let again = Runtime::load(&[candidate(loaded.path(), "again", false)]).unwrap();
    assert_eq!(again.path(), loaded.path());
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("other.so");
    fs::copy(loaded.path(), &copy).unwrap();
    let error = Runtime::load(&[candidate(&copy, "--runtime", true)]).unwrap_err();
    assert!(
        matches!(error, RuntimeError::AlreadyLoaded { .. }),
        "{error}"
    );
}

#[test]
fn cuda_works_or_is_refused_and_auto_says_what_it_took() {
    let toy = Toy::new();
    let auto = toy.open_on(Device::Auto).unwrap().provider();
    match toy.open_on(Device::Cuda) {
        Ok(model) => assert_eq!((model.provider(), auto), ("cuda", "cuda")),
        Err(error) => {
            assert!(matches!(error, ModelError::Cuda { .. }), "{error}");
            assert!(error.to_string().contains("CUDA"), "{error}");
            assert_eq!(auto, "cpu");
        }
    }
}

#[test]
fn tensorrt_works_or_is_refused_by_name() {
    match Toy::new().open_on(Device::TensorRt) {
        Ok(model) => assert_eq!(model.provider(), "tensorrt"),
        Err(error) => {
            assert!(matches!(error, ModelError::TensorRt { .. }), "{error}");
            assert!(error.to_string().contains("TensorRT"), "{error}");
        }
    }
}

// === Batches, threads, precisions ===

fn lite0_with_compute(compute: &Compute) -> Model {
    let folder = Path::new(ROOT).join("models/efficientnet-lite0");
    Model::open(&folder, None, runtime(), compute).unwrap()
}

#[test]
fn an_image_has_the_same_embedding_in_any_batch_and_on_any_number_of_threads() {
    let images = oracle();
    let batched = Arc::new(lite0_with_compute(&Compute {
        batch_max: Some(6),
        ..Compute::on(Device::Cpu)
    }));
    assert_eq!((batched.joined_max(), lite0().joined_max()), (6, 1));
    // More workers than places in a batch: which images meet in which batch changes with each round.
    let pool = WorkerPool::start(batched, 8, 64).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8_usize {
            let (pool, images) = (&pool, &images);
            scope.spawn(move || {
                for round in 0..4 {
                    let image = &images[(worker * 5 + round * 3) % images.len()];
                    let bytes = image.image.clone();
                    let embedded = pool
                        .run_blocking(Caller::default(), JobKind::Image, move |embedder| {
                            embedder.embed(&bytes, &LIMITS)
                        })
                        .unwrap()
                        .unwrap();
                    let cosine = cosine(&embedded.embedding, &image.embedding);
                    assert!(0.999_99 <= cosine, "{}: {cosine}", image.name);
                }
            });
        }
    });

    let threaded = lite0_with_compute(&Compute {
        threads: 2,
        ..Compute::on(Device::Cpu)
    });
    let mut embedder = threaded.embedder().unwrap();
    for image in &images {
        let embedded = embedder
            .embed(&image.image, &LIMITS, &Cancellation::never())
            .unwrap();
        let cosine = cosine(&embedded.embedding, &image.embedding);
        assert!(0.999_99 <= cosine, "{}: {cosine}", image.name);
    }
}

fn batched_lite0() -> &'static WorkerPool {
    static POOL: OnceLock<WorkerPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let compute = Compute {
            batch_max: Some(4),
            ..Compute::on(Device::Cpu)
        };
        WorkerPool::start(Arc::new(lite0_with_compute(&compute)), 4, 64).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn an_image_has_the_same_embedding_beside_any_others(
        chosen in proptest::collection::vec(0..16_usize, 1..=4),
    ) {
        static IMAGES: OnceLock<Vec<Oracle>> = OnceLock::new();
        let images = IMAGES.get_or_init(oracle);
        let meeting = Arc::new(Barrier::new(chosen.len()));
        let embed = |index: usize| {
            let (bytes, meeting) = (images[index].image.clone(), Arc::clone(&meeting));
            let job = move |embedder: &mut PoolWorker<'_>| {
                meeting.wait();
                embedder.embed(&bytes, &LIMITS)
            };
            batched_lite0().run_blocking(Caller::default(), JobKind::Image, job).unwrap().unwrap().embedding
        };
        let embed = &embed;
        let embeddings: Vec<Embedding> = std::thread::scope(|scope| {
            let running: Vec<_> = chosen
                .iter()
                .map(|index| scope.spawn(move || embed(*index)))
                .collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for (index, embedding) in chosen.iter().zip(&embeddings) {
            let cosine = cosine(embedding, &images[*index].embedding);
            prop_assert!(0.999_99 <= cosine, "{}: {cosine}", images[*index].name);
        }
    }
}

#[test]
fn a_session_that_keeps_no_memory_between_runs_computes_the_same() {
    let images = oracle();
    let mut embedder = lite0_with_compute(&Compute {
        cpu_arena: false,
        ..Compute::on(Device::Cpu)
    })
    .embedder()
    .unwrap();
    for image in images.iter().take(3) {
        let embedded = embedder
            .embed(&image.image, &LIMITS, &Cancellation::never())
            .unwrap();
        let plain =
            lite0()
                .embedder()
                .unwrap()
                .embed(&image.image, &LIMITS, &Cancellation::never());
        assert_eq!(embedded.embedding, plain.unwrap().embedding);
    }
}

#[test]
fn one_bad_image_in_a_batch_costs_no_other_its_embedding() {
    let batched = Arc::new(lite0_with_compute(&Compute {
        batch_max: Some(4),
        decode_budget: DecodeBudget::new(Some(1 << 20)),
        ..Compute::on(Device::Cpu)
    }));
    let pool = WorkerPool::start(batched, 4, 64).unwrap();
    let images = oracle();
    std::thread::scope(|scope| {
        for (worker, image) in images.iter().take(4).enumerate() {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..3 {
                    let mut bytes = image.image.clone();
                    if worker == 2 {
                        bytes.truncate(bytes.len() / 2);
                    }
                    let result = pool
                        .run_blocking(Caller::default(), JobKind::Image, move |embedder| {
                            embedder.embed(&bytes, &LIMITS)
                        })
                        .unwrap();
                    assert_eq!(result.is_ok(), worker != 2, "{}", image.name);
                }
            });
        }
    });
}

#[test]
fn a_model_that_takes_one_image_at_a_time_is_run_one_by_one() {
    let toy = Toy::new();
    fs::write(toy.path("model.toml"), &toy.manifest).unwrap();
    let compute = Compute {
        batch_max: Some(8),
        ..Compute::on(Device::Cpu)
    };
    let model = Model::open(toy.folder.path(), None, runtime(), &compute).unwrap();
    let pool = WorkerPool::start(Arc::new(model), 8, 64).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let job =
                    |embedder: &mut PoolWorker<'_>| embedder.embed(&bmp(GOLDEN), &LIMITS).is_ok();
                assert_eq!(
                    pool.run_blocking(Caller::default(), JobKind::Image, job),
                    Ok(true)
                );
            });
        }
    });
}

#[test]
fn the_shipped_model_in_eight_bits_is_near_its_full_precision_and_another_model() {
    let folder = Path::new(ROOT).join("models/efficientnet-lite0");
    let compute = Compute::on(Device::Cpu);
    let int8 = match Model::open(&folder, Some("int8"), runtime(), &compute) {
        Ok(model) => model,
        // Processors whose 8-bit products saturate are refused by the golden check.
        Err(error @ ModelError::GoldenDiffers { .. }) => {
            println!("not on this processor: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(int8.dimension(), lite0().dimension());
    assert_ne!(int8.fingerprint(), lite0().fingerprint());
    let mut embedder = int8.embedder().unwrap();
    let images = oracle();
    let mut sum = 0.0;
    for image in &images {
        let embedded = embedder
            .embed(&image.image, &LIMITS, &Cancellation::never())
            .unwrap();
        let cosine = cosine(&embedded.embedding, &image.embedding);
        assert!((0.9..0.9999).contains(&cosine), "{}: {cosine}", image.name);
        sum += f64::from(cosine);
    }
    assert!(0.98 <= sum / 16.0, "{sum}");
}

#[test]
fn a_precision_is_another_model_with_its_own_golden_check() {
    let toy = Toy::new();
    let (model, golden) = (
        fs::read(toy.path("model.onnx")).unwrap(),
        fs::read(toy.path("golden.f32")).unwrap(),
    );
    // The same graph under another graph name: other bytes, so another hash.
    let other = onnx::model(&[1, 3, 2, 4], "Flatten", &onnx::whole("axis", 1), &[1, 24]);
    assert_ne!(model, other);
    fs::write(toy.path("other.onnx"), &other).unwrap();
    fs::write(toy.path("other.f32"), &golden).unwrap();
    let sha256: String = Sha256::digest(&other)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let manifest = format!(
        "{}\n[precision.int8]\npath = \"other.onnx\"\nsha256 = \"{sha256}\"\n\
         golden = \"other.f32\"\ncosine_min = 0.999\n",
        toy.manifest
    );
    fs::write(toy.path("model.toml"), manifest).unwrap();
    let open = |precision| {
        let compute = Compute::on(Device::Cpu);
        Model::open(toy.folder.path(), precision, runtime(), &compute)
    };
    let (plain, int8) = (open(None).unwrap(), open(Some("int8")).unwrap());
    assert_eq!((plain.precision(), int8.precision()), ("f32", "int8"));
    assert_eq!(
        open(Some("f32")).unwrap().fingerprint(),
        plain.fingerprint()
    );
    assert_ne!(plain.fingerprint(), int8.fingerprint());

    let text = open(Some("fp4")).unwrap_err().to_string();
    assert!(
        text.contains("no [precision.fp4]; there is f32, int8"),
        "{text}"
    );

    let mut wrong = golden;
    wrong[..48].fill(0);
    fs::write(toy.path("other.f32"), &wrong).unwrap();
    let error = open(Some("int8")).unwrap_err();
    assert!(matches!(error, ModelError::GoldenDiffers { .. }), "{error}");
    assert!(open(None).is_ok());
}

// === A second layer ===

/// The files of a folder, in a folder.
fn written(layered: &LayeredFolder) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in &layered.files {
        fs::write(folder.path().join(&file.path), &file.bytes).unwrap();
    }
    folder
}

fn embedding(model: &Model, image: &[u8]) -> Vec<f32> {
    let mut embedder = model.embedder().unwrap();
    let found = embedder.embed(image, &LIMITS, &Cancellation::never());
    found.unwrap().embedding.as_slice().to_vec()
}

#[test]
fn a_second_layer_is_the_mean_of_a_map_beside_the_embedding_and_as_long() {
    let unit = |values: &[f32]| Embedding::normalise(values.to_vec()).unwrap();
    let plain = [160.0, 220.0, 170.0, 230.0, 180.0, 240.0];
    let second = unit(&[115.0, 125.0, 135.0]);
    let expected = unit(&[unit(&plain).as_slice(), second.as_slice()].concat());
    let toy = Toy::with(&onnx::two_sums("Abs", &[1, 3, 2, 4]), &plain);
    // From version 18 of the operators on, a length is written otherwise. The version is the last byte of the file.
    let mut newer = onnx::two_sums("Abs", &[1, 3, 2, 4]);
    *newer.last_mut().unwrap() = 18;
    for toy in [&toy, &Toy::with(&newer, &plain)] {
        toy.open();
        let found = layered_folder(toy.folder.path(), None, runtime()).unwrap();
        assert_eq!((found.tensor.as_str(), found.own), ("wide", 6));
        let named = layered_folder(toy.folder.path(), Some("wide"), runtime());
        assert_eq!(named.unwrap(), found);
        let folder = written(&found);
        let compute = Compute::on(Device::Cpu);
        let model = Model::open(folder.path(), None, runtime(), &compute).unwrap();
        let cosine = cosine(&unit(&embedding(&model, &bmp(GOLDEN))), &expected);
        assert!(0.999_999 <= cosine, "{cosine}");
        let again = layered_folder(folder.path(), None, runtime()).unwrap_err();
        let again = again.to_string();
        assert!(again.contains("has a second layer already"), "{again}");
    }

    let layered = |tensor| layered_folder(toy.folder.path(), tensor, runtime());
    let refused = |tensor, words: &str| {
        let text = layered(tensor).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    };
    refused(
        Some("nowhere"),
        "no node computes a tensor \"nowhere\"; the sums of its blocks: wide, small",
    );
    refused(
        Some("out"),
        "\"out\" f32 [1, 6] is no map [batch, channels, height, width]",
    );
    let flat = Toy::new();
    let open = Toy::with(&onnx::two_sums("Abs", &[1, 3, 0, 0]), &plain);
    for (toy, words) in [
        (&flat, "the sums of its blocks: none"),
        (&open, "leaves the height and width of its maps open"),
    ] {
        fs::write(toy.path("model.toml"), &toy.manifest).unwrap();
        let text = layered_folder(toy.folder.path(), None, runtime()).unwrap_err();
        let text = text.to_string();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_second_layer_is_the_same_map_in_every_precision() {
    let image = [1, 3, 2, 4];
    let toy = Toy::with(&onnx::two_sums("Abs", &image), &[160.0; 6]);
    let refusal = |other: &[u8], golden: &str| {
        fs::write(toy.path("other.onnx"), other).unwrap();
        fs::copy(toy.path("golden.f32"), toy.path("other.f32")).unwrap();
        let sha256 = OnnxFile::read(&toy.path("other.onnx")).unwrap().sha256();
        let manifest = format!(
            "{}\n[precision.other]\npath = \"other.onnx\"\nsha256 = \"{sha256}\"\ngolden = \"{golden}\"\ncosine_min = 0.999\n",
            toy.manifest
        );
        fs::write(toy.path("model.toml"), manifest).unwrap();
        let layered = layered_folder(toy.folder.path(), None, runtime());
        layered.err().map(|error| error.to_string())
    };
    let refused = |other: &[u8], golden: &str, words: &str| {
        let text = refusal(other, golden).unwrap();
        assert!(text.contains(words), "{text}");
    };
    let flat = onnx::model(&image, "Flatten", &[], &[1, 24]);
    refused(&flat, "other.f32", "other.onnx computes no tensor \"wide\"");
    let negative = onnx::two_sums("Neg", &image);
    let words = "\"wide\" is another map in other.onnx than in model.onnx: its means of the golden image have a cosine of -1.000";
    refused(&negative, "other.f32", words);
    let more = onnx::two_sums("Concat", &image);
    let words = "in other.onnx than in model.onnx: it has 6 channels, and 3 there";
    refused(&more, "other.f32", words);
    let alike = onnx::two_sums("Log", &image);
    let words = "two of its precisions share golden.f32";
    refused(&alike, "golden.f32", words);
    assert_eq!(refusal(&alike, "other.f32"), None);
}

#[test]
fn the_shipped_model_gets_a_second_layer_in_every_precision_and_its_embedding_stays() {
    let shipped = Path::new(ROOT).join("models/efficientnet-lite0");
    let layered = layered_folder(&shipped, None, runtime()).unwrap();
    assert_eq!((layered.tensor.as_str(), layered.own), ("b10.res", 1280));
    let folder = written(&layered);
    for precision in [None, Some("int8"), Some("fp16")] {
        let open = |folder: &Path| {
            Model::open(folder, precision, runtime(), &Compute::on(Device::Cpu)).unwrap()
        };
        let (before, beside) = (open(&shipped), open(folder.path()));
        assert_eq!(beside.dimension(), 1280 + 112);
        for image in oracle().iter().take(3) {
            let [own, joined] = [&before, &beside].map(|model| embedding(model, &image.image));
            let (kept, second) = joined.split_at(1280);
            let length = |part: &[f32]| part.iter().map(|value| value * value).sum::<f32>();
            assert!((length(second) - 0.5).abs() < 1e-5);
            let cosine = Similarity::between(
                &own,
                Embedding::normalise(kept.to_vec()).unwrap().as_slice(),
            );
            assert!(
                0.999_999 <= cosine.unwrap().get(),
                "{precision:?}: {cosine:?}"
            );
        }
    }
}

// === The pool ===

fn pool(workers: usize, queue_len_max: usize) -> WorkerPool {
    WorkerPool::start(Arc::new(Toy::new().open()), workers, queue_len_max).unwrap()
}

/// Polls a future once: a job is queued in the first poll.
async fn begin<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// A job that says that it has begun, then holds its worker until told to end.
fn held() -> (
    impl FnOnce(&mut PoolWorker<'_>) + Send,
    oneshot::Receiver<()>,
    mpsc::Sender<()>,
) {
    let (begun, has_begun) = oneshot::channel();
    let (end, ended) = mpsc::channel();
    let job = move |_: &mut PoolWorker<'_>| {
        begun.send(()).unwrap();
        ended.recv().unwrap();
    };
    (job, has_begun, end)
}

#[tokio::test]
async fn a_full_queue_answers_busy_at_once() {
    let pool = pool(1, 1);
    let (job, begun, end) = held();
    let mut first = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut first).await.is_pending());
    begun.await.unwrap();
    let mut second = Box::pin(pool.run(Caller::default(), JobKind::Image, |_| 2));
    assert!(begin(&mut second).await.is_pending());
    assert_eq!(pool.queue_len(), 1);
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, |_| 3).await,
        Err(PoolError::Busy {
            queue_len_max: 1,
            retry_after: Duration::ZERO
        })
    );
    end.send(()).unwrap();
    assert_eq!(first.await, Ok(()));
    assert_eq!(second.await, Ok(2));
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, |_| 4).await,
        Ok(4)
    );
}

#[tokio::test]
async fn a_job_whose_caller_has_gone_is_not_run() {
    let pool = pool(1, 8);
    let runs = Arc::new(AtomicUsize::new(0));
    let (job, begun, end) = held();
    let mut first = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut first).await.is_pending());
    begun.await.unwrap();
    for _ in 0..5 {
        let runs = Arc::clone(&runs);
        let mut gone = Box::pin(pool.run(Caller::default(), JobKind::Image, move |_| {
            runs.fetch_add(1, Ordering::Relaxed)
        }));
        assert!(begin(&mut gone).await.is_pending());
    }
    end.send(()).unwrap();
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, |_| ()).await,
        Ok(())
    );
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_panic_costs_one_job() {
    let pool = pool(1, 4);
    let refused = pool
        .run(Caller::default(), JobKind::Image, |_| -> () {
            panic!("as the test wants it")
        })
        .await;
    assert_eq!(refused, Err(PoolError::Panicked));
    let image = bmp(GOLDEN);
    let embedded = pool
        .run(Caller::default(), JobKind::Image, move |embedder| {
            embedder.embed(&image, &LIMITS)
        })
        .await
        .unwrap();
    assert_eq!(
        embedded.unwrap().embedding.dimension(),
        pool.model().dimension()
    );
}

#[tokio::test]
async fn a_worker_that_does_not_come_back_is_given_up_and_another_takes_its_place() {
    let pool = pool(2, 4);
    let at_once = Duration::ZERO;
    let run = |number: u32| pool.run(Caller::default(), JobKind::Image, move |_| number);
    let (mut stuck, mut ends) = (Vec::new(), Vec::new());
    for number in 0..2 {
        let (job, begun, end) = held();
        let mut running = Box::pin(pool.run(client(number), JobKind::LargeImage, job));
        assert!(begin(&mut running).await.is_pending());
        begun.await.unwrap();
        pool.give_up_after(Duration::from_secs(3600));
        assert_eq!(pool.take_dropped().stuck, 0);
        pool.give_up_after(at_once);
        pool.give_up_after(at_once);
        assert_eq!(pool.take_dropped().stuck, 1);
        stuck.push(running);
        ends.push(end);
        assert_eq!(pool.is_worn_out(), number == 1);
        // Large images too: what the stuck one took is given back.
        assert_eq!(run(7).await, Ok(7));
        let large = pool.run(Caller::default(), JobKind::LargeImage, |_| 8);
        assert_eq!(large.await, Ok(8));
    }
    // One comes back after all, and is one too many.
    ends.remove(0).send(()).unwrap();
    assert_eq!(stuck.remove(0).await, Ok(()));
    while pool.is_worn_out() {
        tokio::task::yield_now().await;
    }
    assert_eq!(run(9).await, Ok(9));
    // The end of the pool does not wait for the other.
    pool.shutdown();
    assert_eq!(run(10).await, Err(PoolError::Stopped));
}

#[tokio::test]
async fn the_end_of_a_pool_waits_for_a_worker_that_is_stuck_for_a_moment_only() {
    let pool = pool(2, 4);
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    drop(running);
    // Without the limit this would wait until the job is ended below, which is never.
    drop(pool);
    end.send(()).unwrap();
}

#[tokio::test]
async fn workers_that_come_back_leave_as_many_as_there_were_to_be() {
    let pool = pool(1, 4);
    let (mut stuck, mut ends) = (Vec::new(), Vec::new());
    for number in 0..2 {
        let (job, begun, end) = held();
        let mut running = Box::pin(pool.run(client(number), JobKind::Image, job));
        assert!(begin(&mut running).await.is_pending());
        begun.await.unwrap();
        pool.give_up_after(Duration::ZERO);
        stuck.push(running);
        ends.push(end);
    }
    assert!(pool.is_worn_out());
    ends.remove(0).send(()).unwrap();
    assert_eq!(stuck.remove(0).await, Ok(()));
    while pool.is_worn_out() {
        tokio::task::yield_now().await;
    }
    // The only worker that there was to be is stuck still, and it is not too many any more.
    pool.give_up_after(Duration::from_secs(3600));
    let answered = pool.run(Caller::default(), JobKind::Image, |_| 7);
    let answered = tokio::time::timeout(Duration::from_secs(20), answered).await;
    assert_eq!(answered.unwrap(), Ok(7));
    ends.remove(0).send(()).unwrap();
    assert_eq!(stuck.remove(0).await, Ok(()));
}

fn number_of(caller: u64) -> ClientId {
    ClientId {
        caller,
        connection: 0,
    }
}

fn client(client: u64) -> Caller {
    Caller {
        client: number_of(client),
        ..Caller::default()
    }
}

#[tokio::test]
async fn a_flood_of_one_client_gives_its_newest_place_to_another() {
    let pool = pool(1, 2);
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(client(1), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    let mut older = Box::pin(pool.run(client(1), JobKind::Image, |_| "older"));
    let mut newest = Box::pin(pool.run(client(1), JobKind::Image, |_| "newest"));
    assert!(begin(&mut older).await.is_pending());
    assert!(begin(&mut newest).await.is_pending());
    let refused = pool
        .run(client(1), JobKind::Image, |_| "one too many")
        .await;
    assert!(
        matches!(refused, Err(PoolError::Busy { .. })),
        "{refused:?}"
    );

    let mut other = Box::pin(pool.run(client(2), JobKind::Image, |_| "other"));
    assert!(begin(&mut other).await.is_pending());
    let displaced = newest.await;
    assert!(
        matches!(displaced, Err(PoolError::Busy { .. })),
        "{displaced:?}"
    );
    end.send(()).unwrap();
    assert_eq!(older.await, Ok("older"));
    assert_eq!(other.await, Ok("other"));
}

#[tokio::test]
async fn a_prompt_caller_is_refused_what_would_wait_for_long_and_others_are_not() {
    let pool = pool(1, 64).with_delay_at_most(Duration::from_millis(10));
    pool.run(Caller::default(), JobKind::Image, pause(20))
        .await
        .unwrap();
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(client(1), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    // A job takes 20 ms, so two may always wait; more do until that has been so for 100 ms.
    let mut waiting = Vec::new();
    let refused = loop {
        let prompt = pool.run(client(1).prompt(), JobKind::Image, |_| "answered");
        let mut prompt = Box::pin(prompt);
        match begin(&mut prompt).await {
            Poll::Pending => waiting.push(prompt),
            Poll::Ready(refused) => break refused,
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    };
    let Err(PoolError::Delayed { wait, retry_after }) = refused else {
        panic!("{refused:?} after {}", waiting.len());
    };
    assert!(5 <= waiting.len(), "{}", waiting.len());
    let expected = u32::try_from(waiting.len()).unwrap() * Duration::from_millis(20);
    assert!(expected <= wait && wait <= retry_after, "{wait:?}");
    // Who may wait does, and so does another caller.
    let mut batch = Box::pin(pool.run(client(1), JobKind::Image, |_| "answered"));
    assert!(begin(&mut batch).await.is_pending());
    let mut other = Box::pin(pool.run(client(2).prompt(), JobKind::Image, |_| "answered"));
    assert!(begin(&mut other).await.is_pending());
    end.send(()).unwrap();
    running.await.unwrap();
    for job in waiting {
        assert_eq!(job.await, Ok("answered"));
    }
    assert_eq!((batch.await, other.await), (Ok("answered"), Ok("answered")));
}

#[tokio::test]
async fn what_would_wait_beyond_its_deadline_is_refused_at_once() {
    let pool = pool(1, 8);
    // The pace: a job of 20 ms.
    let pause = |_: &mut PoolWorker<'_>| std::thread::park_timeout(Duration::from_millis(20));
    pool.run(Caller::default(), JobKind::Image, pause)
        .await
        .unwrap();
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Box::pin(pool.run(Caller::default(), JobKind::Image, pause)))
        .collect();
    for job in &mut waiting {
        assert!(begin(job).await.is_pending());
    }
    let within = |milliseconds| Caller {
        client: number_of(2),
        deadline: Some(Instant::now() + Duration::from_millis(milliseconds)),
        ..Caller::default()
    };
    let late = pool.run(within(30), JobKind::Image, |_| "late").await;
    assert!(matches!(late, Err(PoolError::Late { .. })), "{late:?}");
    let mut in_time = Box::pin(pool.run(within(60_000), JobKind::Image, |_| "in time"));
    assert!(begin(&mut in_time).await.is_pending());
    end.send(()).unwrap();
    assert_eq!(in_time.await, Ok("in time"));
}

fn pause(milliseconds: u64) -> impl FnOnce(&mut PoolWorker<'_>) + Send {
    move |_| std::thread::park_timeout(Duration::from_millis(milliseconds))
}

#[tokio::test]
async fn a_flood_of_one_client_takes_no_time_from_another() {
    let pool = pool(1, 64);
    pool.run(Caller::default(), JobKind::Image, pause(20))
        .await
        .unwrap();
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(client(1), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    let flood = || Box::pin(pool.run(client(1), JobKind::Image, pause(20)));
    let mut flood: Vec<_> = (0..40).map(|_| flood()).collect();
    for job in &mut flood {
        assert!(begin(job).await.is_pending());
    }
    // Half of what the flood takes, and ten times what stands before the other client.
    let other = Caller {
        client: number_of(2),
        deadline: Some(Instant::now() + Duration::from_millis(400)),
        ..Caller::default()
    };
    let mut polite = Box::pin(pool.run(other, JobKind::Image, |_| "answered"));
    assert!(begin(&mut polite).await.is_pending());
    end.send(()).unwrap();
    assert_eq!(polite.await, Ok("answered"));
}

#[tokio::test]
async fn what_cannot_be_done_in_time_is_not_run() {
    let pool = pool(1, 8);
    pool.run(Caller::default(), JobKind::Image, pause(1000))
        .await
        .unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = || {
        let runs = Arc::clone(&runs);
        move |_: &mut PoolWorker<'_>| runs.fetch_add(1, Ordering::Relaxed)
    };
    let within = |milliseconds| Caller {
        client: number_of(2),
        deadline: Some(Instant::now() + Duration::from_millis(milliseconds)),
        ..Caller::default()
    };
    // Nothing stands before it, and a job takes longer than that.
    let late = pool.run(within(500), JobKind::Image, count()).await;
    assert!(matches!(late, Err(PoolError::Late { .. })), "{late:?}");
    // One that takes a vector's time is done by then.
    let quick = pool.run(within(500), JobKind::Vector, |_| "done").await;
    assert_eq!(quick, Ok("done"));

    // The worker may have taken that one before it knew how long the first took, and dropped it.
    assert!(pool.take_dropped().late <= 1);

    // What stood before it took longer than was to be expected.
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    let mut expired = Box::pin(pool.run(within(100), JobKind::Vector, count()));
    assert!(begin(&mut expired).await.is_pending());
    // A wake-up that is left from before ends the first wait at once.
    let passed = Instant::now() + Duration::from_millis(101);
    while let Some(left) = passed.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
    end.send(()).unwrap();
    let late = expired.await;
    assert!(matches!(late, Err(PoolError::Late { .. })), "{late:?}");
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    let dropped = Dropped {
        late: 1,
        ..Dropped::default()
    };
    assert_eq!(pool.take_dropped(), dropped);
}

#[tokio::test]
async fn jobs_whose_callers_have_gone_keep_no_places() {
    let pool = pool(1, 4);
    let (job, begun, end) = held();
    let mut running = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut running).await.is_pending());
    begun.await.unwrap();
    let mut gone: Vec<_> = (0..4)
        .map(|_| Box::pin(pool.run(client(1), JobKind::Image, |_| ())))
        .collect();
    for job in &mut gone {
        assert!(begin(job).await.is_pending());
    }
    drop(gone);
    let mut same: Vec<_> = (0..4)
        .map(|_| Box::pin(pool.run(client(1), JobKind::Image, |_| "answered")))
        .collect();
    for job in &mut same {
        assert!(begin(job).await.is_pending());
    }
    end.send(()).unwrap();
    for job in same {
        assert_eq!(job.await, Ok("answered"));
    }
    assert_eq!(pool.take_dropped().gone, 4);
    assert_eq!(pool.take_dropped(), Dropped::default());
}

#[tokio::test]
async fn an_image_is_not_run_through_the_model_where_its_caller_has_gone_meanwhile() {
    let pool = pool(1, 4);
    let (gone, has_gone) = mpsc::channel::<()>();
    let (embedded, outcome) = mpsc::channel();
    let (begun, has_begun) = oneshot::channel();
    let mut call = Box::pin(
        pool.run(Caller::default(), JobKind::Image, move |embedder| {
            begun.send(()).unwrap();
            // Until the caller has gone.
            has_gone.recv().unwrap_err();
            embedded
                .send(embedder.embed(&bmp(GOLDEN), &LIMITS))
                .unwrap();
        }),
    );
    assert!(begin(&mut call).await.is_pending());
    has_begun.await.unwrap();
    drop(call);
    drop(gone);
    let outcome = outcome.recv().unwrap();
    assert!(matches!(outcome, Err(EmbedError::GivenUp)), "{outcome:?}");
}

#[tokio::test]
async fn shutdown_finishes_what_is_queued_and_takes_no_more() {
    let pool = Arc::new(pool(1, 4));
    let (job, begun, end) = held();
    let mut first = Box::pin(pool.run(Caller::default(), JobKind::Image, job));
    assert!(begin(&mut first).await.is_pending());
    begun.await.unwrap();
    let mut second = Box::pin(pool.run(Caller::default(), JobKind::Image, |_| 2));
    assert!(begin(&mut second).await.is_pending());
    let ending = Arc::clone(&pool);
    let shutdown = std::thread::spawn(move || ending.shutdown());
    while pool.queue_len() != 0 {
        tokio::task::yield_now().await; // until it takes no more
    }
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, |_| 3).await,
        Err(PoolError::Stopped)
    );
    end.send(()).unwrap();
    shutdown.join().unwrap();
    assert_eq!(second.await, Ok(2));
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, |_| 4).await,
        Err(PoolError::Stopped)
    );
}

#[test]
fn batch_work_waits_for_its_place_and_every_worker_takes_part() {
    let pool = pool(2, 1);
    let image = bmp(GOLDEN);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let image = image.clone();
                let embedded =
                    pool.run_blocking(Caller::default(), JobKind::Image, move |embedder| {
                        embedder.embed(&image, &LIMITS)
                    });
                assert!(embedded.unwrap().is_ok());
            });
        }
    });
    // Two jobs that wait for each other end only where two workers run them.
    let meeting = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let meeting = Arc::clone(&meeting);
            scope.spawn(|| {
                pool.run_blocking(Caller::default(), JobKind::Image, move |_| meeting.wait())
                    .unwrap()
            });
        }
    });
}

#[tokio::test]
async fn every_session_passes_the_golden_check_before_it_serves() {
    let model = Arc::new(Toy::new().open());
    assert_eq!(model.golden_checks(), 1);
    // The first worker has the session that the model was opened with.
    let pool = WorkerPool::start(Arc::clone(&model), 3, 8).unwrap();
    assert_eq!(model.golden_checks(), 3);
    drop(pool);

    let pool = WorkerPool::start(Arc::clone(&model), 1, 8).unwrap();
    assert_eq!(model.golden_checks(), 4);
    let panics = |_: &mut PoolWorker<'_>| -> () { panic!("as the test wants it") };
    assert_eq!(
        pool.run(Caller::default(), JobKind::Image, panics).await,
        Err(PoolError::Panicked)
    );
    // The next job is run by the fresh session.
    pool.run(Caller::default(), JobKind::Image, |_| ())
        .await
        .unwrap();
    assert_eq!(model.golden_checks(), 5);

    // A shared session, at 1, 2, 4 and 6 images.
    let batched = lite0_with_compute(&Compute {
        batch_max: Some(6),
        ..Compute::on(Device::Cpu)
    });
    assert_eq!(batched.golden_checks(), 4);
}

#[tokio::test]
async fn a_job_runs_in_its_callers_span() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    let pool = pool(1, 1);
    let job = pool.run(Caller::default(), JobKind::Image, |_| {
        Span::current().metadata().map(Metadata::name)
    });
    assert_eq!(
        job.instrument(tracing::info_span!("request")).await,
        Ok(Some("request"))
    );
}

#[test]
fn a_pool_without_workers_or_queue_is_refused() {
    let model = Arc::new(Toy::new().open());
    for (workers, queue_len_max) in [(0, 1), (1, 0)] {
        let refused = WorkerPool::start(Arc::clone(&model), workers, queue_len_max);
        assert!(matches!(refused, Err(ModelError::EmptyPool { .. })));
    }
}
