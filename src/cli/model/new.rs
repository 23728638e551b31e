//! `matchpoint model new`: the folder of a model, from its ONNX file and its configuration.

use std::fmt::Display;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::configuration;
use super::doubts;
use super::golden::{self, Golden, GoldenReport, with_golden};
use super::keys::Keys;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::file::write_within;
use crate::cli::output::{Output, table, wrapped};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{DeploymentError, LoadedModel, Models, TemporaryFolder};
use crate::files::open_file;
use crate::telemetry;
use matchpoint_embed::EmbedError;
use matchpoint_embed::caller::Cancellation;
use matchpoint_embed::draft::{ModelDraft, ModelInterface, OnnxFile, Port};
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_embed::runtime::Runtime;

/// How many of a model's own tensors are named if one is not found.
const TENSORS_SHOWN: usize = 12;
/// Write a model folder for an ONNX file
///
/// Names, layout, size, types and dimension are read from the ONNX file. How images are prepared no
/// ONNX file says: that comes from the model's own configuration (--from), or key by key (--set). With
/// --golden the pair is made that is checked whenever the model is opened. It is made by this program
/// itself unless --reference has what the author's pipeline gives for the same image; then
/// the two have to agree.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint model new resnet50.onnx --from config.json --golden photo.jpg --out models/resnet50
  matchpoint model new clip.onnx --from preprocessor_config.json --golden photo.jpg --reference photo.npy
  matchpoint model new classifier.onnx --output global_pool --from config.json --golden photo.jpg
  matchpoint model new faces.onnx --golden face.jpg --set input.colour=bgr --set resize.fit=squash \\
    --set resize.filter=opencv_linear --set input.mean=[127.5,127.5,127.5] --set input.std=[128,128,128]

--from reads transformers' preprocessor_config.json, timm's config.json and open_clip's
open_clip_config.json. The keys of a manifest are listed in docs/models.md.")]
pub(super) struct New {
    /// The ONNX file
    onnx: PathBuf,
    /// The folder to write [default: the ONNX file's name without its ending]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The model's configuration, which says how images are prepared
    #[arg(long, value_name = "FILE.json")]
    from: Option<PathBuf>,
    /// The output that holds the embedding, or any tensor that a node computes, which becomes one
    #[arg(long, value_name = "TENSOR")]
    output: Option<String>,
    /// A key of the manifest, before what --from and the ONNX file say; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A sharp photograph of several hundred pixels, for the golden pair
    #[arg(long, value_name = "IMAGE")]
    golden: Option<PathBuf>,
    /// What the author's pipeline gives for it: a .npy file of the shape (1, dimension)
    #[arg(long, value_name = "FILE.npy", requires = "golden")]
    reference: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Serialize)]
struct ModelNewReport {
    folder: PathBuf,
    manifest: String,
    /// The library whose configuration was read.
    configuration: Option<&'static str>,
    /// The tensor that was made an output.
    cut_at: Option<String>,
    golden: Option<GoldenReport>,
    /// Of the model as opened at the end.
    fingerprint: Option<String>,
    warnings: Vec<String>,
}

impl New {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let folder = self.folder()?;
        let mut models = Models::new(&engine, 1);
        let (runtime, limits) = (models.runtime()?, models.limits());
        let onnx = OnnxFile::read(&self.onnx).map_err(DeploymentError::from)?;
        let interface = onnx.interface(&runtime).map_err(DeploymentError::from)?;
        let (onnx, interface, cut_at) = self.cut(onnx, interface, &runtime)?;

        let mut keys = Keys::default();
        let configuration = self.gather(&mut keys, &interface)?;
        self.describe(&mut keys, &interface)?;
        keys.set_text("file.path", "model.onnx");
        keys.set_text("file.sha256", &onnx.sha256());
        let draft = onnx.draft(&with_golden(&keys), &runtime, OnnxFile::RUN_TIME_MAX);
        let mut draft = draft.map_err(|error| self.incomplete(error.into()))?;
        let mut warnings = self.warnings(&mut draft, limits)?;
        let golden = match &self.golden {
            Some(image) => {
                let reference = self.reference.as_deref();
                let (draft, keys) = (&mut draft, &mut keys);
                Some(golden::make(image, reference, draft, keys, limits)?)
            }
            None => None,
        };
        warnings.extend(golden.as_ref().and_then(|golden| golden.report.doubt()));
        let opened = write(&folder, &onnx, &keys, golden.as_ref(), &mut models)?;
        let fingerprint = opened.map(|opened| opened.model.fingerprint().to_owned());
        let report = ModelNewReport {
            folder,
            manifest: keys.text(),
            configuration,
            cut_at,
            golden: golden.map(|golden| golden.report),
            fingerprint,
            warnings,
        };
        Output::new(self.json).result(&report, text)?;
        Ok(Exit::Done)
    }

    /// The model's folder, which must not exist yet, or be empty.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let folder = match &self.out {
            Some(out) => out.clone(),
            None => PathBuf::from(self.onnx.file_stem().unwrap_or_default()),
        };
        let is_empty = fs::read_dir(&folder).is_ok_and(|mut within| within.next().is_none());
        let about = folder.symlink_metadata();
        if about.is_ok_and(|about| !(about.is_dir() && is_empty)) {
            let message = format!(
                "{} is there already; name a new folder by --out",
                folder.display()
            );
            return Err(fail(Exit::Usage, message));
        }
        Ok(folder)
    }

    /// The model with the requested tensor as an output.
    fn cut(
        &self,
        onnx: OnnxFile,
        interface: ModelInterface,
        runtime: &Runtime,
    ) -> anyhow::Result<(OnnxFile, ModelInterface, Option<String>)> {
        let Some(tensor) = &self.output else {
            return Ok((onnx, interface, None));
        };
        if interface.outputs.iter().any(|port| port.name == *tensor) {
            return Ok((onnx, interface, None));
        }
        let computed = onnx.computed();
        if !computed.contains(tensor) {
            let last = computed.iter().rev().take(TENSORS_SHOWN).rev();
            let last: Vec<&str> = last.map(String::as_str).collect();
            return Err(fail(
                Exit::Usage,
                format!(
                    "no node of {} computes a tensor {tensor:?}; the last that are computed: {}",
                    self.onnx.display(),
                    last.join(", ")
                ),
            ));
        }
        let cut = onnx.with_outputs(&[tensor]);
        let interface = cut.interface(runtime).map_err(DeploymentError::from)?;
        Ok((cut, interface, Some(tensor.clone())))
    }

    /// Reads the configuration and the command line. Returns the library of the configuration.
    fn gather(
        &self,
        keys: &mut Keys,
        interface: &ModelInterface,
    ) -> anyhow::Result<Option<&'static str>> {
        keys.set("format", "1");
        let stem = self.onnx.file_stem().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = stem.chars().map(plain).take(64).collect();
        keys.set_text("name", &name);
        let mut configuration = None;
        if let Some(path) = &self.from {
            let json = configuration_file(path)?;
            let library = configuration::read(&json, keys)
                .map_err(|why| fail(Exit::BadData, format!("{}: {why}", path.display())))?;
            configuration = Some(library.name());
        }
        let bytes = interface.inputs.iter().any(|input| input.element == "u8");
        if bytes {
            for key in ["input.mean", "input.std"] {
                keys.remove(key);
            }
            keys.set_text("input.scale", "none");
        }
        for said in &self.set {
            keys.set_from_flag(said)
                .map_err(|why| fail(Exit::Usage, why))?;
        }
        Ok(configuration)
    }

    /// Adds what the ONNX file states, unless it is set.
    fn describe(&self, keys: &mut Keys, interface: &ModelInterface) -> anyhow::Result<()> {
        let [input] = interface.inputs.as_slice() else {
            let names: Vec<String> = interface.inputs.iter().map(Port::to_string).collect();
            return Err(fail(
                Exit::BadData,
                format!(
                    "the model takes {} inputs ({}), and only models that take an image and nothing \
                     else can be used",
                    names.len(),
                    names.join(", ")
                ),
            ));
        };
        if input.shape.len() != 4 {
            return Err(fail(
                Exit::BadData,
                format!(
                    "the model's input {input} is no picture, which has four axes: [batch, 3, height, \
                     width] or [batch, height, width, 3]"
                ),
            ));
        }
        keys.set_text("input.name", &input.name);
        describe_input(keys, input);
        let output = self.chosen(interface)?;
        keys.set_text("output.name", &output.name);
        keys.propose("output.normalise", "\"l2\"");
        let axes = output.shape.get(1..).unwrap_or_default();
        let dimension = match axes {
            [_tokens, last] if *last != Some(1) => *last,
            axes => axes.iter().flatten().copied().find(|length| 1 < *length),
        };
        if let Some(dimension) = dimension {
            keys.propose("output.dimension", dimension.to_string());
        }
        let is_vector = axes.iter().filter(|length| **length != Some(1)).count() <= 1;
        if !is_vector && axes.len() == 2 && keys.get("output.take").is_none() {
            return Err(fail(
                Exit::Usage,
                format!(
                    "the output {output} has a vector for each token; say which is the embedding: \
                     --set output.take=first_token, last_token, mean_of_tokens, or token with --set \
                     output.token=NUMBER"
                ),
            ));
        }
        Ok(())
    }

    fn chosen<'a>(&self, interface: &'a ModelInterface) -> anyhow::Result<&'a Port> {
        let outputs = &interface.outputs;
        let named = |name: &str| outputs.iter().find(|port| port.name == name);
        match (&self.output, outputs.as_slice()) {
            (Some(name), _) => named(name)
                .ok_or_else(|| fail(Exit::Internal, format!("the output {name:?} is not there"))),
            (None, [only]) => Ok(only),
            (None, []) => Err(fail(Exit::BadData, "the model has no output")),
            (None, several) => {
                let texts: Vec<String> = several.iter().map(Port::to_string).collect();
                Err(fail(
                    Exit::Usage,
                    format!(
                        "the model has several outputs; say by --output which is the embedding: {}",
                        texts.join(", ")
                    ),
                ))
            }
        }
    }

    /// What is doubtful about the model's embeddings of generated pictures.
    fn warnings(&self, draft: &mut ModelDraft, limits: ImageLimits) -> anyhow::Result<Vec<String>> {
        let unusable = |why: &dyn Display| {
            let message = format!("{} cannot be used: {why}", self.onnx.display());
            fail(Exit::BadData, message)
        };
        let mut embedded: Vec<Embedded> = Vec::new();
        let mut reason = None;
        for picture in doubts::unlike_pictures() {
            let one = draft
                .embedder
                .embed(&picture, &limits, &Cancellation::never());
            match one {
                Ok(one) => embedded.push(one),
                // Others would fail too, or take as long.
                Err(EmbedError::Model { reason }) => return Err(unusable(&reason)),
                Err(EmbedError::NoEmbedding { cause }) => reason = Some(cause.to_string()),
                Err(refused) => reason = Some(refused.to_string()),
            }
        }
        let mut warnings = doubts::of(draft.embedder.dimension(), &embedded);
        match reason {
            Some(none) if embedded.is_empty() => {
                return Err(unusable(&format_args!(
                    "it gives no embedding for any of the generated test pictures ({none})"
                )));
            }
            Some(reason) => warnings.push(format!(
                "a test picture has no embedding ({reason}); pictures such as it will be refused"
            )),
            None => {}
        }
        Ok(warnings)
    }

    /// Missing keys are not the model's fault.
    fn incomplete(&self, error: DeploymentError) -> anyhow::Error {
        let text = error.to_string();
        if self.from.is_none() && text.contains(" is missing: ") {
            return fail(
                Exit::Usage,
                format!(
                    "no ONNX file says how images are prepared: give the model's configuration with \
                     --from, or each key with --set, as its author's code has it\n{text}"
                ),
            );
        }
        error.into()
    }
}

fn describe_input(keys: &mut Keys, input: &Port) {
    let [_, second, third, fourth] = input.shape.as_slice() else {
        return;
    };
    let is_channels = |length: &Option<u32>| matches!(length, Some(1 | 3 | 4));
    let (first, last) = (is_channels(second), is_channels(fourth));
    let said = keys.get("input.layout").map(ToOwned::to_owned);
    let layout = match said.as_deref() {
        Some("\"nchw\"") => "nchw",
        Some("\"nhwc\"") => "nhwc",
        _ if first && !last => "nchw",
        _ if last && !first => "nhwc",
        _ => return,
    };
    keys.propose("input.layout", format!("\"{layout}\""));
    let (channels, height, width) = if layout == "nchw" {
        (second, third, fourth)
    } else {
        (fourth, second, third)
    };
    for (key, length) in [("input.width", width), ("input.height", height)] {
        if let Some(length) = length {
            keys.propose(key, length.to_string());
        }
    }
    if *channels == Some(1) {
        keys.propose("input.colour", "\"grey\"");
    }
}

/// Reads a configuration, within a limit, and not from a pipe.
fn configuration_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    // Real ones have a kilobyte or two.
    const BYTES_MAX: u64 = 1 << 20;
    let failed = |cause: String| {
        let message = format!("cannot read {}: {cause}", path.display());
        fail(Exit::NoInput, message)
    };
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(|cause| failed(cause.to_string()))?;
    let read = file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Ok(length) if length as u64 <= BYTES_MAX => Ok(bytes),
        Ok(_) => Err(failed("it is longer than any configuration".to_owned())),
        Err(cause) => Err(failed(cause.to_string())),
    }
}

/// Writes the folder under a temporary name, opens the model if it has a golden pair, and then renames the
/// folder: it is complete or absent.
fn write(
    folder: &Path,
    onnx: &OnnxFile,
    keys: &Keys,
    golden: Option<&Golden>,
    models: &mut Models,
) -> anyhow::Result<Option<LoadedModel>> {
    let failed = |cause: std::io::Error| {
        let message = format!("cannot write {}: {cause}", folder.display());
        fail(Exit::Io, message)
    };
    let parent = folder.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(parent).map_err(failed)?;
    let temporary = TemporaryFolder::new(folder)?;
    let write = |name: &str, bytes: &[u8]| write_within(&temporary, Path::new(name), bytes);
    write("model.onnx", onnx.bytes())?;
    if let Some(golden) = golden {
        write(&golden.name, &golden.image)?;
        let values = golden.embedding.as_slice().iter();
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        write("golden.f32", &bytes)?;
    }
    write("model.toml", keys.text().as_bytes())?;
    let opened = match golden {
        Some(_) => Some(models.open(temporary.path(), None)?),
        None => None,
    };
    // An empty one; any other was refused.
    drop(fs::remove_dir(folder));
    temporary.publish(folder).map_err(failed)?;
    Ok(opened)
}

fn text(report: &ModelNewReport) -> String {
    let mut text = format!("model folder {}\n", report.folder.display());
    let mut rows = Vec::new();
    if let Some(library) = report.configuration {
        rows.push((
            "prepared as",
            format!("the configuration of {library} says"),
        ));
    }
    if let Some(tensor) = &report.cut_at {
        rows.push((
            "output",
            format!("{tensor}, which was none before; the others are still there"),
        ));
    }
    if let Some(golden) = &report.golden {
        rows.push((
            "golden pair",
            if golden.independent {
                format!("the author's, cosine {:.6} to our own", golden.cosine)
            } else {
                "made by this program".to_owned()
            },
        ));
        rows.push(("cosine_min", golden.cosine_min.to_string()));
        let others = golden.other_filters.iter().take(3);
        let others: Vec<String> = others
            .map(|(name, cosine)| format!("{name} {cosine:.5}"))
            .collect();
        rows.push(("nearest filters", others.join(", ")));
    }
    rows.extend(
        report
            .fingerprint
            .clone()
            .map(|print| ("fingerprint", print)),
    );
    text.push_str(&table(&rows));
    text.push('\n');
    text.push_str(&report.manifest);
    text.push('\n');
    let note = match &report.golden {
        None => Some(
            "There is no golden pair yet, and without it the model is refused: give a photograph with \
             --golden, or run scripts/make_golden.py.",
        ),
        Some(golden) if !golden.independent => Some(
            "The golden pair is this program's own: it finds what changes from now on, and not \
             whether the manifest says what the model's author does. Compare once: matchpoint model \
             check, or --reference.",
        ),
        Some(_) => None,
    };
    if let Some(note) = note {
        text.push_str(&wrapped(note, ""));
    }
    for warning in &report.warnings {
        text.push_str(&wrapped(warning, "warning: "));
    }
    text
}
