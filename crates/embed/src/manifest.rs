//! The manifest of a model folder, `model.toml`. It is read completely, and every mistake is reported at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::pixels::Geometry;

use super::input::{COLOURS, Colour, InputEncoding, LAYOUTS, PixelScaling, read_input};
use super::output::{EmbeddingOutput, read_output, take_text};
use super::resize::{FILTERS, JPEGS, Resize, convention_texts, fit_text, read_resize};
use super::toml_table::{PATH, TomlTable, inside, model_name, number, spelling, table_of, text};

/// The only version of the format.
const FORMAT: i64 = 1;

/// The name of the file in a model folder.
pub(super) const MANIFEST_NAME: &str = "model.toml";

/// The name of the precision of the model's own file.
pub(super) const BASE_PRECISION: &str = "f32";

/// The checked content of `model.toml`.
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) licence: Option<String>,
    pub(super) file: PathBuf,
    /// 64 lower-case hexadecimal digits.
    pub(super) sha256: String,
    pub(super) input: InputEncoding,
    pub(super) geometry: Geometry,
    pub(super) output: EmbeddingOutput,
    pub(super) golden: GoldenFiles,
    /// Other files with the same network in another precision, by name.
    pub(super) precisions: BTreeMap<String, Precision>,
    /// The head that was fitted for the network, if there is one.
    pub(super) head: Option<HeadFiles>,
}

/// The file with the record of a fitted head. It affects no embedding, because the head itself is in the ONNX
/// file.
pub(super) struct HeadFiles {
    pub(super) record: PathBuf,
    /// 64 lower-case hexadecimal digits.
    pub(super) record_sha256: String,
}

/// The network in another precision: its file, and its reference embedding of the golden image.
pub(super) struct Precision {
    pub(super) file: PathBuf,
    /// 64 lower-case hexadecimal digits.
    pub(super) sha256: String,
    pub(super) golden: PathBuf,
    pub(super) cosine_min: f32,
}

/// The image and the reference embedding that are compared when the model is opened.
pub(super) struct GoldenFiles {
    pub(super) image: PathBuf,
    pub(super) embedding: PathBuf,
    pub(super) cosine_min: f32,
}

impl Manifest {
    /// Parses the text of a `model.toml`; returns every mistake in it on failure.
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
        let mut top = TomlTable::new("", table, mistakes);
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
        let head = top.optional("head", "a table", table_of);
        top.finish();

        // Each section is read even if an earlier one has mistakes, so that all are listed. A missing section
        // is one mistake, and not one for each of its keys.
        let [file, input, resize, output, golden] = tables;
        let file = file.and_then(|table| read_file(TomlTable::new("file", table, mistakes)));
        let input = input.and_then(|table| read_input(TomlTable::new("input", table, mistakes)));
        let sides = input.as_ref().map(|(_, width, height)| (*width, *height));
        let resize =
            resize.and_then(|table| read_resize(TomlTable::new("resize", table, mistakes), sides));
        let output =
            output.and_then(|table| read_output(TomlTable::new("output", table, mistakes)));
        let golden =
            golden.and_then(|table| read_golden(TomlTable::new("golden", table, mistakes)));
        let precisions = read_precisions(precisions.unwrap_or_default(), mistakes);
        let head = head.and_then(|table| read_head(TomlTable::new("head", table, mistakes)));

        let (file, sha256) = file?;
        let (input, width, height) = input?;
        let Resize {
            fit,
            filter,
            jpeg,
            conventions,
        } = resize?;
        let grey = input.colour == Colour::Grey;
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
                conventions,
                grey,
            },
            output: output?,
            golden: golden?,
            precisions,
            head,
        })
    }

    /// The same model in another precision, with that precision's file and golden embedding. On failure, the
    /// names of the existing precisions.
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

    /// Every key that affects an embedding, one on each line, in a fixed order and spelling. A key that was
    /// added to the format later has no line if it has its default value, so that older manifests keep their
    /// fingerprints.
    pub(super) fn canonical(&self) -> String {
        let InputEncoding {
            name: _,
            layout,
            colour,
            background,
            scale,
        } = &self.input;
        let Geometry {
            width,
            height,
            fit,
            filter,
            jpeg,
            conventions,
            // Follows from the colour.
            grey: _,
        } = &self.geometry;
        let EmbeddingOutput {
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
        match scale {
            PixelScaling::Fixed { mean, std } => {
                line("input.mean", &format_args!("{mean:?}"));
                line("input.std", &format_args!("{std:?}"));
            }
            PixelScaling::Image => line("input.scale", &"image"),
        }
        line("resize.fit", &fit_text(*fit));
        for (key, convention) in convention_texts(*conventions) {
            line(key, &convention);
        }
        line("resize.filter", &spelling(&FILTERS, *filter));
        line("resize.jpeg", &spelling(&JPEGS, *jpeg));
        line("output.name", name);
        line("output.take", &take_text(*take));
        line("output.dimension", dimension);
        line("output.normalise", &"l2");
        lines
    }
}

fn read_file(mut table: TomlTable<'_>) -> Option<(PathBuf, String)> {
    let path = table.required("path", PATH, inside);
    let sha256 = table.required("sha256", SHA256, sha256_of);
    table.finish();
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
        let precision = read_precision(TomlTable::new(&label, table, mistakes));
        precisions.extend(precision.map(|precision| (name, precision)));
    }
    precisions
}

fn read_precision(mut table: TomlTable<'_>) -> Option<Precision> {
    let file = table.required("path", PATH, inside);
    let sha256 = table.required("sha256", SHA256, sha256_of);
    let golden = table.required("golden", PATH, inside);
    let cosine_min = table.required("cosine_min", COSINE_MIN, cosine_of);
    table.finish();
    Some(Precision {
        file: file?,
        sha256: sha256?,
        golden: golden?,
        cosine_min: cosine_min?,
    })
}

fn read_head(mut table: TomlTable<'_>) -> Option<HeadFiles> {
    let record = table.required("record", PATH, inside);
    let record_sha256 = table.required("record_sha256", SHA256, sha256_of);
    table.finish();
    Some(HeadFiles {
        record: record?,
        record_sha256: record_sha256?,
    })
}

const COSINE_MIN: &str = "a number from 0.9 to 1";

fn cosine_of(value: &Value) -> Option<f32> {
    number(value, 0.9..=1.0)
}

fn read_golden(mut table: TomlTable<'_>) -> Option<GoldenFiles> {
    let image = table.required("image", PATH, inside);
    let embedding = table.required("embedding", PATH, inside);
    let cosine_min = table.required("cosine_min", COSINE_MIN, cosine_of);
    table.finish();
    Some(GoldenFiles {
        image: image?,
        embedding: embedding?,
        cosine_min: cosine_min?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::EmbeddingPart;

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
        assert!(manifest.output.take == EmbeddingPart::Vector);
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

    /// A part of the good manifest, its replacement, and the expected message.
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
            "\"bilinear\"",
            "\"opencv_linear\"\njpeg = \"reduced\"",
            "resize.jpeg = \"reduced\": allowed is \"full\" with a filter of OpenCV",
        ),
        (
            "\"squash\"",
            "\"squash_crop\"\nscaled_width = 3\nscaled_height = 2",
            "resize.scaled_width = 3: allowed is a whole number from 4",
        ),
        (
            "\"squash\"",
            "\"squash\"\nplace = \"top_left\"",
            "resize.place = \"top_left\": unknown key",
        ),
        (
            "\"squash\"",
            "\"pad\"\nplace = \"bottom\"",
            "resize.place = \"bottom\": allowed is \"centre\" or \"top_left\"",
        ),
        (
            "colour = \"rgb\"",
            "colour = \"rgb\"\nscale = \"half\"",
            "input.scale = \"half\": allowed is \"mean_std\" or \"unit\"",
        ),
        (
            "format = 1",
            "format = 1\nhead = { record = \"head.json\" }",
            "head.record_sha256 is missing: allowed is 64 hex digits",
        ),
        (
            "dimension = 24",
            "dimension = 24\ntake = \"token\"",
            "output.token is missing: allowed is the token's number",
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

    fn canonical_with(good: &str, other: &str) -> String {
        assert!(GOOD.contains(good), "{good}");
        let parsed = Manifest::parse(&GOOD.replacen(good, other, 1));
        parsed
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .canonical()
    }

    #[test]
    fn every_way_to_prepare_an_image_has_a_fingerprint_of_its_own() {
        let (mean, scaled) = (
            "mean = [127, 127.5, 0]\n        std = [128.0, 1, 58.395]",
            "scaled_width = 8\nscaled_height = 8",
        );
        let crop = "fit = \"crop\"\nshort_side = 8";
        let changes: Vec<(&str, String, &str)> = vec![
            (
                "fit = \"squash\"",
                format!("fit = \"squash_crop\"\n{scaled}"),
                "squash_crop 8 8\n",
            ),
            (
                "fit = \"squash\"",
                format!("{crop}\nmargin = \"down\""),
                "resize.margin = down\n",
            ),
            (
                "fit = \"squash\"",
                format!("{crop}\nside = \"nearest\""),
                "resize.side = nearest\n",
            ),
            (
                "fit = \"squash\"",
                "fit = \"pad\"\nplace = \"top_left\"".into(),
                "place = top_left\n",
            ),
            (
                "fit = \"squash\"",
                "fit = \"pad\"\nside = \"down\"".into(),
                "resize.side = down\n",
            ),
            (
                "\"bilinear\"",
                "\"opencv_area\"".into(),
                "resize.filter = opencv_area\n",
            ),
            (mean, "scale = \"image\"".into(), "input.scale = image\n"),
            (
                mean,
                "scale = \"unit\"".into(),
                "input.std = [255.0, 255.0, 255.0]\n",
            ),
            (
                "dimension = 24",
                "dimension = 24\ntake = \"last_token\"".into(),
                "take = last_token\n",
            ),
            (
                "dimension = 24",
                "dimension = 24\ntake = \"token\"\ntoken = 3".into(),
                "take = token 3\n",
            ),
            (
                "dimension = 24",
                "dimension = 24\ntake = \"mean_of_tokens\"\nskip_tokens = 1".into(),
                "take = mean_of_tokens from 1\n",
            ),
        ];
        for (good, other, expected) in &changes {
            let found = canonical_with(good, other);
            assert!(found.contains(expected), "{other}: {found}");
        }
        let grey = GOOD.replacen("\"rgb\"", "\"grey\"", 1);
        let grey = grey.replacen(mean, "mean = [127]\nstd = [128]", 1);
        let grey = Manifest::parse(&grey).ok().unwrap();
        assert!(grey.geometry.grey);
        assert!(grey.canonical().contains("colour = grey\n"));
    }

    #[test]
    fn the_usual_said_outright_is_the_same_model() {
        let crop = "fit = \"crop\"\nshort_side = 8";
        let usual = format!("{crop}\nside = \"down\"\nmargin = \"even\"");
        let pad = "fit = \"pad\"\nfill = [0, 0, 0]\nside = \"nearest\"\nplace = \"centre\"";
        let squash = "fit = \"squash\"";
        let mean = "mean = [127, 127.5, 0]";
        assert_eq!(canonical_with(squash, crop), canonical_with(squash, &usual));
        assert_eq!(
            canonical_with(squash, "fit = \"pad\""),
            canonical_with(squash, pad)
        );
        assert_eq!(
            canonical_with(mean, mean),
            canonical_with(mean, &format!("scale = \"mean_std\"\n{mean}"))
        );
        let tokens = "dimension = 24\ntake = \"mean_of_tokens\"";
        assert_eq!(
            canonical_with("dimension = 24", tokens),
            canonical_with("dimension = 24", &format!("{tokens}\nskip_tokens = 0"))
        );
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
