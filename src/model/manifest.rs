//! The manifest of a model folder, `model.toml`: read whole, with every mistake reported at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::pixels::{Filter, Fit, Geometry, JpegScale};

use super::section::{
    COLOUR, PATH, Section, choose, colour_of, inside, model_name, number, table_of, tensor_name,
    text, triple, whole, words,
};

/// The only version of the format so far.
const FORMAT: i64 = 1;

/// What the precision of the model's own file is called.
pub(super) const BASE_PRECISION: &str = "f32";

/// Beyond it no image model in use goes, and one input tensor passes 200 MB.
const SIDE_MAX: u32 = 4096;

/// Sixteen times the widest embedding in common use.
const DIMENSION_MAX: u32 = 65_536;

/// What `model.toml` says, checked.
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) licence: Option<String>,
    pub(super) file: PathBuf,
    /// 64 lower-case hex digits.
    pub(super) sha256: String,
    pub(super) input: Input,
    pub(super) geometry: Geometry,
    pub(super) output: Output,
    pub(super) golden: Golden,
    /// Other files with the same network in other arithmetic, by name.
    pub(super) precisions: BTreeMap<String, Precision>,
}

/// The network in other arithmetic: a file of its own, and what is due for the golden image.
pub(super) struct Precision {
    pub(super) file: PathBuf,
    /// 64 lower-case hex digits.
    pub(super) sha256: String,
    pub(super) golden: PathBuf,
    pub(super) cosine_min: f32,
}

/// How pixels become the input tensor.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) colour: Colour,
    /// Laid under transparent pixels.
    pub(super) background: [u8; 3],
    /// Grey levels, in RGB order.
    pub(super) mean: [f32; 3],
    /// Grey levels, in RGB order.
    pub(super) std: [f32; 3],
}

/// The order of the tensor's axes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layout {
    Nchw,
    Nhwc,
}

/// The order of the colour channels in the tensor.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Colour {
    Rgb,
    Bgr,
}

/// How the output tensor becomes an embedding.
pub(super) struct Output {
    pub(super) name: String,
    pub(super) take: Take,
    pub(super) dimension: usize,
}

/// Which part of the output is the embedding.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Take {
    /// All of `[batch, d]`.
    Vector,
    /// The first token of `[batch, tokens, d]`.
    FirstToken,
    /// The mean of the tokens of `[batch, tokens, d]`.
    MeanOfTokens,
}

/// The image and the reference embedding that are compared when the model is opened.
pub(super) struct Golden {
    pub(super) image: PathBuf,
    pub(super) embedding: PathBuf,
    pub(super) cosine_min: f32,
}

const LAYOUTS: [(&str, Layout); 2] = [("nchw", Layout::Nchw), ("nhwc", Layout::Nhwc)];
const COLOURS: [(&str, Colour); 2] = [("rgb", Colour::Rgb), ("bgr", Colour::Bgr)];
const FILTERS: [(&str, Filter); 5] = [
    ("box", Filter::Box),
    ("bilinear", Filter::Bilinear),
    ("hamming", Filter::Hamming),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
];
const JPEGS: [(&str, JpegScale); 2] = [("full", JpegScale::Full), ("reduced", JpegScale::Reduced)];
const TAKES: [(&str, Take); 3] = [
    ("vector", Take::Vector),
    ("first_token", Take::FirstToken),
    ("mean_of_tokens", Take::MeanOfTokens),
];

impl Manifest {
    /// Reads the text of a `model.toml`; on failure returns every mistake in it.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: Table = text.parse().map_err(|cause: toml::de::Error| {
            vec![format!("not TOML: {}", cause.to_string().trim())]
        })?;
        let mut mistakes = Vec::new();
        match Self::read(table, &mut mistakes) {
            Some(manifest) if mistakes.is_empty() => Ok(manifest),
            _ => Err(mistakes),
        }
    }

    fn read(table: Table, mistakes: &mut Vec<String>) -> Option<Self> {
        let mut top = Section::new("", table, mistakes);
        top.required("format", "1", |value| {
            (value.as_integer()? == FORMAT).then_some(())
        });
        let name = top.required(
            "name",
            "1 to 64 letters, digits, '.', '-' or '_'",
            model_name,
        );
        let description = top.optional("description", "a text", text);
        let licence = top.optional("licence", "a text", text);
        let tables = ["file", "input", "resize", "output", "golden"]
            .map(|key| top.required(key, "a table", table_of));
        let precisions = top.optional("precision", "a table of tables", table_of);
        top.finish();

        // Each section is read even where an earlier one failed, to list every mistake. A missing
        // section is one mistake, not one for each of its keys.
        let [file, input, resize, output, golden] = tables;
        let file = file.and_then(|table| read_file(Section::new("file", table, mistakes)));
        let input = input.and_then(|table| read_input(Section::new("input", table, mistakes)));
        let sides = input.as_ref().map(|(_, width, height)| (*width, *height));
        let resize =
            resize.and_then(|table| read_resize(Section::new("resize", table, mistakes), sides));
        let output = output.and_then(|table| read_output(Section::new("output", table, mistakes)));
        let golden = golden.and_then(|table| read_golden(Section::new("golden", table, mistakes)));
        let precisions = read_precisions(precisions.unwrap_or_default(), mistakes);

        let (file, sha256) = file?;
        let (input, width, height) = input?;
        let (fit, filter, jpeg) = resize?;
        Some(Self {
            name: name?,
            description,
            licence,
            file,
            sha256,
            input,
            geometry: Geometry {
                width,
                height,
                fit,
                filter,
                jpeg,
            },
            output: output?,
            golden: golden?,
            precisions,
        })
    }

    /// The same model in another precision: its file and its golden embedding in place of the
    /// model's own. On failure, the names of those that there are.
    pub(super) fn in_precision(mut self, name: &str) -> Result<Self, Vec<String>> {
        let Some(precision) = self.precisions.remove(name) else {
            return Err(self.precisions.into_keys().collect());
        };
        let Precision {
            file,
            sha256,
            golden,
            cosine_min,
        } = precision;
        self.file = file;
        self.sha256 = sha256;
        self.golden.embedding = golden;
        self.golden.cosine_min = cosine_min;
        Ok(self)
    }

    /// Every key that changes an embedding, one a line, in a fixed order and spelling.
    pub(super) fn canonical(&self) -> String {
        let Input {
            name: _,
            layout,
            colour,
            background,
            mean,
            std,
        } = &self.input;
        let Geometry {
            width,
            height,
            fit,
            filter,
            jpeg,
        } = &self.geometry;
        let Output {
            name,
            take,
            dimension,
        } = &self.output;
        let mut lines = String::new();
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(lines, "{key} = {value}").unwrap_or_default(); // a String takes every write
        };
        line("input.layout", &spelling(&LAYOUTS, *layout));
        line("input.width", width);
        line("input.height", height);
        line("input.colour", &spelling(&COLOURS, *colour));
        line("input.background", &format_args!("{background:?}"));
        line("input.mean", &format_args!("{mean:?}"));
        line("input.std", &format_args!("{std:?}"));
        match fit {
            Fit::Squash => line("resize.fit", &"squash"),
            Fit::Crop { short_side } => line("resize.fit", &format_args!("crop {short_side}")),
            Fit::Pad { fill } => line("resize.fit", &format_args!("pad {fill:?}")),
        }
        line("resize.filter", &spelling(&FILTERS, *filter));
        line("resize.jpeg", &spelling(&JPEGS, *jpeg));
        line("output.name", name);
        line("output.take", &spelling(&TAKES, *take));
        line("output.dimension", dimension);
        line("output.normalise", &"l2");
        lines
    }
}

fn spelling<T: Copy + PartialEq>(spellings: &[(&'static str, T)], value: T) -> &'static str {
    spellings
        .iter()
        .find(|(_, candidate)| *candidate == value)
        .map_or("", |(word, _)| *word)
}

fn read_file(mut section: Section<'_>) -> Option<(PathBuf, String)> {
    let path = section.required("path", PATH, inside);
    let sha256 = section.required("sha256", SHA256, sha256_of);
    section.finish();
    Some((path?, sha256?))
}

const SHA256: &str = "64 hex digits, as `sha256sum` prints";

fn sha256_of(value: &Value) -> Option<String> {
    let digits = value.as_str()?;
    let hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| digits.to_ascii_lowercase())
}

/// `[precision.NAME]`, each of them.
fn read_precisions(table: Table, mistakes: &mut Vec<String>) -> BTreeMap<String, Precision> {
    let mut precisions = BTreeMap::new();
    for (name, value) in table {
        let label = format!("precision.{name}");
        if model_name(&Value::from(name.as_str())).is_none() || name == BASE_PRECISION {
            mistakes.push(format!(
                "{label}: allowed is a name of letters, digits, '.', '-' or '_', and not \
                 \"{BASE_PRECISION}\", which is the model's own file"
            ));
            continue;
        }
        let Some(table) = table_of(&value) else {
            mistakes.push(format!("{label} = {value}: allowed is a table"));
            continue;
        };
        let precision = read_precision(Section::new(&label, table, mistakes));
        precisions.extend(precision.map(|precision| (name, precision)));
    }
    precisions
}

fn read_precision(mut section: Section<'_>) -> Option<Precision> {
    let file = section.required("path", PATH, inside);
    let sha256 = section.required("sha256", SHA256, sha256_of);
    let golden = section.required("golden", PATH, inside);
    let cosine_min = section.required("cosine_min", COSINE_MIN, cosine_of);
    section.finish();
    Some(Precision {
        file: file?,
        sha256: sha256?,
        golden: golden?,
        cosine_min: cosine_min?,
    })
}

fn read_input(mut section: Section<'_>) -> Option<(Input, u32, u32)> {
    let sides = format!("a whole number from 1 to {SIDE_MAX}");
    let name = section.required("name", "a text that is not empty", tensor_name);
    let layout = section.required("layout", &words(&LAYOUTS), |value| choose(&LAYOUTS, value));
    let width = section.required("width", &sides, |value| whole(value, 1..=SIDE_MAX));
    let height = section.required("height", &sides, |value| whole(value, 1..=SIDE_MAX));
    let colour = section.required("colour", &words(&COLOURS), |value| choose(&COLOURS, value));
    let background = section.optional("background", COLOUR, colour_of);
    let mean = section.required(
        "mean",
        "three numbers from 0 to 255, in RGB order",
        |value| triple(value, |item| number(item, 0.0..=255.0)),
    );
    // Values below one mean that the author thinks in 0..1, and would scale the input 255 times.
    let allowed =
        "three numbers from 1 to 1000 in grey levels (255 times those for 0..1), in RGB order";
    let std = section.required("std", allowed, |value| {
        triple(value, |item| number(item, 1.0..=1000.0))
    });
    section.finish();
    let input = Input {
        name: name?,
        layout: layout?,
        colour: colour?,
        background: background.unwrap_or([255; 3]),
        mean: mean?,
        std: std?,
    };
    Some((input, width?, height?))
}

fn read_resize(
    mut section: Section<'_>,
    sides: Option<(u32, u32)>,
) -> Option<(Fit, Filter, JpegScale)> {
    let fits = [("squash", "squash"), ("crop", "crop"), ("pad", "pad")];
    let fit = section.required("fit", &words(&fits), |value| choose(&fits, value));
    let filter = section.required("filter", &words(&FILTERS), |value| choose(&FILTERS, value));
    let short_side_min = sides.map_or(1, |(width, height)| width.max(height));
    let allowed = format!(
        "a whole number from {short_side_min} (the larger of width and height) to {}",
        2 * SIDE_MAX
    );
    let short_side = |value: &Value| whole(value, short_side_min..=2 * SIDE_MAX);
    let fit = match fit {
        Some("crop") => section
            .required("short_side", &allowed, short_side)
            .map(|short_side| Fit::Crop { short_side }),
        Some("pad") => Some(Fit::Pad {
            fill: section
                .optional("fill", COLOUR, colour_of)
                .unwrap_or([0; 3]),
        }),
        Some(_) => Some(Fit::Squash),
        None => {
            section.optional("short_side", &allowed, short_side);
            section.optional("fill", COLOUR, colour_of);
            None
        }
    };
    let jpeg = section.optional("jpeg", &words(&JPEGS), |value| choose(&JPEGS, value));
    section.finish();
    Some((fit?, filter?, jpeg.unwrap_or(JpegScale::Full)))
}

fn read_output(mut section: Section<'_>) -> Option<Output> {
    let name = section.required("name", "a text that is not empty", tensor_name);
    let take = section.optional("take", &words(&TAKES), |value| choose(&TAKES, value));
    let allowed = format!("a whole number from 1 to {DIMENSION_MAX}");
    let dimension = section.required("dimension", &allowed, |value| {
        whole(value, 1..=DIMENSION_MAX)
    });
    section.required("normalise", "\"l2\"", |value| {
        (value.as_str()? == "l2").then_some(())
    });
    section.finish();
    Some(Output {
        name: name?,
        take: take.unwrap_or(Take::Vector),
        dimension: usize::try_from(dimension?).ok()?,
    })
}

const COSINE_MIN: &str = "a number from 0.9 to 1";

fn cosine_of(value: &Value) -> Option<f32> {
    number(value, 0.9..=1.0)
}

fn read_golden(mut section: Section<'_>) -> Option<Golden> {
    let image = section.required("image", PATH, inside);
    let embedding = section.required("embedding", PATH, inside);
    let cosine_min = section.required("cosine_min", COSINE_MIN, cosine_of);
    section.finish();
    Some(Golden {
        image: image?,
        embedding: embedding?,
        cosine_min: cosine_min?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        format = 1
        name = "toy"
        [file]
        path = "model.onnx"
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        [input]
        name = "pixels"
        layout = "nchw"
        width = 4
        height = 2
        colour = "rgb"
        mean = [127, 127.5, 0]
        std = [128.0, 1, 58.395]
        [resize]
        fit = "squash"
        filter = "bilinear"
        [output]
        name = "embedding"
        dimension = 24
        normalise = "l2"
        [golden]
        image = "golden.jpg"
        embedding = "golden.f32"
        cosine_min = 0.9995
    "#;

    fn mistakes(text: &str) -> Vec<String> {
        Manifest::parse(text).err().unwrap()
    }

    #[test]
    fn the_shortest_manifest_has_the_documented_defaults() {
        let manifest = Manifest::parse(GOOD).ok().unwrap();
        assert_eq!(manifest.input.background, [255, 255, 255]);
        assert!(manifest.output.take == Take::Vector);
        assert_eq!(manifest.description, None);
        assert_eq!(
            manifest.canonical(),
            "input.layout = nchw\ninput.width = 4\ninput.height = 2\ninput.colour = rgb\n\
             input.background = [255, 255, 255]\ninput.mean = [127.0, 127.5, 0.0]\n\
             input.std = [128.0, 1.0, 58.395]\nresize.fit = squash\nresize.filter = bilinear\n\
             resize.jpeg = full\noutput.name = embedding\noutput.take = vector\noutput.dimension = 24\n\
             output.normalise = l2\n"
        );
    }

    /// A part of the good manifest, what stands there instead, and the message.
    const MISTAKES: &[(&str, &str, &str)] = &[
        ("format = 1", "format = 2", "format = 2: allowed is 1"),
        (
            "name = \"toy\"",
            "name = \"a/b\"",
            "name = \"a/b\": allowed is 1 to 64 letters",
        ),
        (
            "\"model.onnx\"",
            "\"../model.onnx\"",
            "file.path = \"../model.onnx\": allowed is a rel",
        ),
        (
            "\"model.onnx\"",
            "\"/etc/passwd\"",
            "file.path = \"/etc/passwd\": allowed is a relative",
        ),
        (
            "filter = \"bilinear\"",
            "filter = \"bilinear\"\njpeg = \"half\"",
            "resize.jpeg = \"half\": allowed is \"full\" or \"reduced\"",
        ),
        (
            "\"nchw\"",
            "\"chw\"",
            "input.layout = \"chw\": allowed is \"nchw\" or \"nhwc\"",
        ),
        (
            "width = 4",
            "width = 0",
            "input.width = 0: allowed is a whole number from 1 to 4096",
        ),
        (
            "width = 4",
            "",
            "input.width is missing: allowed is a whole number",
        ),
        (
            "\"rgb\"",
            "3",
            "input.colour = 3: allowed is \"rgb\" or \"bgr\"",
        ),
        (
            "mean = [127, 127.5, 0]",
            "mean = [nan, 1, 1]",
            "input.mean = [nan, 1, 1]: allowed",
        ),
        (
            "[128.0, 1, 58.395]",
            "[0.229, 0.224, 0.225]",
            "in grey levels",
        ),
        (
            "[128.0, 1, 58.395]",
            "[128.0, 128.0]",
            "input.std = [128.0, 128.0]: allowed is three",
        ),
        (
            "\"squash\"",
            "\"stretch\"",
            "resize.fit = \"stretch\": allowed is \"squash\" or \"crop\"",
        ),
        (
            "\"squash\"",
            "\"crop\"",
            "resize.short_side is missing: allowed is a whole number from 4",
        ),
        (
            "\"squash\"",
            "\"crop\"\nshort_side = 3",
            "resize.short_side = 3: allowed is",
        ),
        (
            "\"squash\"",
            "\"squash\"\nfill = [0, 0, 0]",
            "resize.fill = [0, 0, 0]: unknown key",
        ),
        (
            "\"bilinear\"",
            "\"area\"",
            "resize.filter = \"area\": allowed is \"box\" or \"bilinear\"",
        ),
        (
            "normalise = \"l2\"",
            "normalise = \"none\"",
            "output.normalise = \"none\": allowed is \"l2\"",
        ),
        (
            "0.9995",
            "0.5",
            "golden.cosine_min = 0.5: allowed is a number from 0.9 to 1",
        ),
        (
            "[resize]",
            "size = 3\n[resize]",
            "input.size = 3: unknown key, allowed are name, layout",
        ),
        (
            "format = 1",
            "format = 1\ntypo = true",
            "typo = true: unknown key, allowed are format",
        ),
    ];

    #[test]
    fn every_mistake_names_its_key_its_value_and_what_is_allowed() {
        for (good, bad, expected) in MISTAKES {
            let found = mistakes(&GOOD.replacen(good, bad, 1));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(found[0].contains(expected), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_precision_has_its_own_file_and_golden_embedding() {
        let int8 = format!(
            "{GOOD}\n[precision.int8]\npath = \"q.onnx\"\nsha256 = \"{}\"\ngolden = \"q.f32\"\n\
             cosine_min = 0.97\n",
            "AB".repeat(32)
        );
        let parse = |text: &str| Manifest::parse(text).ok().unwrap();
        let (plain, parsed) = (parse(GOOD), parse(&int8));
        assert_eq!(parsed.canonical(), plain.canonical());
        assert_eq!(parsed.sha256, plain.sha256);
        let other = parsed.in_precision("int8").ok().unwrap();
        assert_eq!(other.file, PathBuf::from("q.onnx"));
        assert_eq!(other.sha256, "ab".repeat(32));
        assert_eq!(other.golden.embedding, PathBuf::from("q.f32"));
        assert_eq!(other.golden.image, plain.golden.image);

        let unknown = Manifest::parse(&int8)
            .ok()
            .map(|manifest| manifest.in_precision("fp4"));
        assert!(matches!(unknown, Some(Err(names)) if names == ["int8"]));

        let wrong = int8
            .replace("cosine_min = 0.97", "cosine = 0.97")
            .replace("golden = \"q.f32\"", "golden = \"../q.f32\"");
        let found = mistakes(&wrong);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("precision.int8.golden = \"../q.f32\""),
            "{found:?}"
        );
        let found = mistakes(&format!("{GOOD}\n[precision.f32]\npath = \"q.onnx\"\n"));
        assert!(found[0].contains("the model's own file"), "{found:?}");
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = GOOD
            .replace("format = 1", "format = 9\nextra = 1")
            .replace("width = 4", "width = -4")
            .replace("fit = \"squash\"", "fit = \"zoom\"\nshort_side = 1")
            .replace("[golden]", "[brass]");
        let found = mistakes(&text);
        for label in [
            "format",
            "extra",
            "golden",
            "brass",
            "input.width",
            "resize.fit",
        ] {
            assert!(
                found.iter().any(|mistake| mistake.starts_with(label)),
                "{label}: {found:?}"
            );
        }
        assert_eq!(found.len(), 6, "{found:?}");
    }

    #[test]
    fn text_that_is_not_toml_is_one_mistake_with_its_line() {
        let found = mistakes("format = 1\nname = ");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("not TOML") && found[0].contains("line 2"),
            "{found:?}"
        );
    }
}
