//! The preprocessing that a model's own configuration states, as keys of a manifest.
//!
//! Supported are transformers' `preprocessor_config.json`, timm's `config.json` and `open_clip`'s
//! `open_clip_config.json`. Anything that is not understood is refused: a guess would make another model.

use serde_json::Value;

use super::keys::Keys;

/// Which library wrote a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    Transformers,
    Timm,
    OpenClip,
}

impl Library {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Timm => "timm",
            Self::OpenClip => "open_clip",
        }
    }
}

/// Sets the keys that a configuration states.
///
/// # Errors
/// It is none of the three, or asks for something that no key expresses.
pub(super) fn read(json: &[u8], keys: &mut Keys) -> Result<Library, String> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let json: Value =
        serde_json::from_slice(json).map_err(|cause| format!("it is not JSON: {cause}"))?;
    keys.set_text("input.colour", "rgb");
    if let Some(timm) = json.get("pretrained_cfg") {
        of_timm(timm, keys)?;
        return Ok(Library::Timm);
    }
    if json.get("model_cfg").is_some() {
        of_open_clip(&json, keys)?;
        return Ok(Library::OpenClip);
    }
    let known = [
        "image_processor_type",
        "feature_extractor_type",
        "image_mean",
        "do_resize",
    ];
    if known.iter().any(|key| json.get(key).is_some()) {
        of_transformers(&json, keys)?;
        return Ok(Library::Transformers);
    }
    Err(
        "it is none of transformers' preprocessor_config.json, timm's config.json and \
         open_clip's open_clip_config.json"
            .to_owned(),
    )
}

fn of_timm(json: &Value, keys: &mut Keys) -> Result<(), String> {
    let sides = list(json, "input_size")?;
    let (width, height) = rgb_sides(&sides)?;
    size(keys, width, height);
    mean_and_std(keys, &list(json, "mean")?, &list(json, "std")?)?;
    filter(keys, text(json, "interpolation")?.unwrap_or("bicubic"))?;
    if let Some(licence) = text(json, "license")? {
        keys.set_text("licence", licence);
    }
    let crop = share(json, "crop_pct")?.unwrap_or(0.875);
    // timm rounds each side down.
    let scaled = |side: u32| whole((f64::from(side) / crop).floor());
    match text(json, "crop_mode")?.unwrap_or("center") {
        "center" if width == height => {
            keys.set_text("resize.fit", "crop");
            keys.set("resize.short_side", scaled(width)?.to_string());
        }
        "squash" => squash_crop(keys, (scaled(width)?, scaled(height)?), (width, height)),
        other => return Err(unknown("crop_mode", other)),
    }
    Ok(())
}

fn of_open_clip(json: &Value, keys: &mut Keys) -> Result<(), String> {
    const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    const STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
    let none = Value::Null;
    let how = read_as(json, "preprocess_cfg", "an object", |value| {
        value.is_object().then_some(value)
    })?;
    let how = how.unwrap_or(&none);
    let vision = json.pointer("/model_cfg/vision_cfg").unwrap_or(&none);
    let side = how.get("size").or_else(|| vision.get("image_size"));
    let (width, height) = side
        .and_then(|side| sides_of(side, "size").ok())
        .ok_or("its image size is missing: model_cfg.vision_cfg.image_size")?;
    size(keys, width, height);
    let given = |key, usual: [f64; 3]| match how.get(key) {
        Some(_) => list(how, key),
        None => Ok(usual.to_vec()),
    };
    mean_and_std(keys, &given("mean", MEAN)?, &given("std", STD)?)?;
    filter(keys, text(how, "interpolation")?.unwrap_or("bicubic"))?;
    match text(how, "resize_mode")?.unwrap_or("shortest") {
        "shortest" if width == height => {
            keys.set_text("resize.fit", "crop");
            keys.set("resize.short_side", width.to_string());
        }
        "squash" => keys.set_text("resize.fit", "squash"),
        "shortest" => {
            return Err(format!(
                "resize_mode = shortest with {width} x {height} pixels: only squares are understood"
            ));
        }
        "longest" => {
            keys.set_text("resize.fit", "pad");
            let fill = read_as(how, "fill_color", "a grey level", Value::as_u64)?.unwrap_or(0);
            keys.set("resize.fill", format!("[{fill}, {fill}, {fill}]"));
        }
        other => return Err(unknown("resize_mode", other)),
    }
    Ok(())
}

/// Processors of transformers whose steps are supported here, and whether each crops the centre if its
/// configuration does not say. Others have steps of their own, often without a key for it: Levit enlarges
/// the short side, Perceiver crops before it resizes.
const PROCESSORS: [(&str, bool); 11] = [
    ("Beit", true),
    ("Bit", true),
    ("Blip", false),
    ("CLIP", true),
    ("ChineseCLIP", true),
    ("ConvNext", false),
    ("DeiT", true),
    ("MobileNetV1", true),
    ("MobileNetV2", true),
    ("Siglip", false),
    ("ViT", false),
];

/// Their keys that are read, or do not affect pixels.
const UNDERSTOOD: [&str; 22] = [
    "_valid_processor_keys",
    "crop_size",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "feature_extractor_type",
    "image_mean",
    "image_processor_type",
    "image_std",
    "input_data_format",
    "processor_class",
    "resample",
    "rescale_factor",
    "rescale_offset",
    "return_tensors",
    "size",
];

/// The processor's name without the common part, and whether it crops the centre by default.
fn processor(json: &Value) -> Result<(&str, bool), String> {
    let kind = kind(json)?;
    let base = kind.strip_suffix("Fast").unwrap_or(kind);
    let base = base
        .strip_suffix("ImageProcessor")
        .or_else(|| base.strip_suffix("FeatureExtractor"));
    let known = PROCESSORS.iter().find(|(name, _)| base == Some(name));
    let known = known.ok_or_else(|| {
        let names: Vec<&str> = PROCESSORS.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        format!(
            "{} may have steps of its own; read are the processors of {names}: state the keys by --set",
            brief(kind)
        )
    })?;
    let object = json.as_object().into_iter().flatten();
    let foreign = object.into_iter().find(|(key, value)| {
        let read =
            UNDERSTOOD.contains(&key.as_str()) || (known.0 == "ConvNext" && *key == "crop_pct");
        !read && !value.is_null() && **value != Value::Bool(false)
    });
    match foreign {
        None => Ok(*known),
        Some((key, value)) => Err(format!(
            "{} = {} is not understood; if it changes no pixel, take it out of the file, and else \
             state the keys by --set",
            brief(key),
            brief(&value.to_string())
        )),
    }
}

/// The name of the processor.
fn kind(json: &Value) -> Result<&str, String> {
    let kind = match text(json, "image_processor_type")? {
        Some(kind) => Some(kind),
        None => text(json, "feature_extractor_type")?,
    };
    kind.ok_or_else(|| {
        "image_processor_type is missing, and each processor has its own steps".to_owned()
    })
}

fn of_transformers(json: &Value, keys: &mut Keys) -> Result<(), String> {
    let (base, crops) = processor(json)?;
    if !flag(json, "do_resize", true)? {
        return Err("do_resize = false: images of any size are not taken".to_owned());
    }
    scale_of_transformers(json, keys)?;
    // Pillow's numbers of filters.
    let resample = read_as(json, "resample", "the number of a filter", Value::as_u64)?;
    let name = match resample {
        Some(1) => "lanczos",
        Some(2) => "bilinear",
        Some(3) => "bicubic",
        Some(4) => "box",
        Some(5) => "hamming",
        Some(other) => return Err(unknown("resample", &other.to_string())),
        None => return Err("resample is missing, and each processor has its own".to_owned()),
    };
    keys.set_text("resize.filter", name);
    let kind = kind(json)?;
    let target = json.get("size").ok_or("size is missing")?;
    let crops = flag(json, "do_center_crop", crops)?;
    let edge = |key: &str| read_as(target, key, "a length in pixels", Value::as_f64);
    if let Some(short) = edge("shortest_edge")? {
        let short = whole(short)?;
        if edge("longest_edge")?.is_some() {
            return Err("size.longest_edge beside size.shortest_edge has no equal here".to_owned());
        }
        if base == "ConvNext" {
            return convnext(json, short, keys);
        }
        if !crops {
            return Err(
                "size.shortest_edge without do_center_crop: each image would have a size \
                        of its own"
                    .to_owned(),
            );
        }
        let (width, height) = sides_of(json.get("crop_size").unwrap_or(&Value::Null), "crop_size")?;
        size(keys, width, height);
        keys.set_text("resize.fit", "crop");
        keys.set("resize.short_side", short.to_string());
        margin(kind, keys);
        return Ok(());
    }
    // A plain number means a square for some processors and a short side for others.
    if target.is_number() && !["ViT", "DeiT", "Beit"].contains(&base) {
        return Err(format!(
            "size = {target} means a square for some processors and a short side for others; write \
             {{\"shortest_edge\": {target}}} or {{\"height\": {target}, \"width\": {target}}}"
        ));
    }
    let (width, height) = sides_of(target, "size")?;
    if crops {
        let cut = sides_of(json.get("crop_size").unwrap_or(&Value::Null), "crop_size")?;
        size(keys, cut.0, cut.1);
        squash_crop(keys, (width, height), cut);
        if keys.get("resize.fit") == Some("\"squash_crop\"") {
            margin(kind, keys);
        }
    } else {
        size(keys, width, height);
        keys.set_text("resize.fit", "squash");
    }
    Ok(())
}

/// `ConvNext` resizes to a larger short side if the size is small, and crops the centre.
fn convnext(json: &Value, side: u32, keys: &mut Keys) -> Result<(), String> {
    size(keys, side, side);
    if 384 <= side {
        keys.set_text("resize.fit", "squash");
        return Ok(());
    }
    let share = share(json, "crop_pct")?.unwrap_or(224.0 / 256.0);
    keys.set_text("resize.fit", "crop");
    let short = whole((f64::from(side) / share).trunc())?;
    keys.set("resize.short_side", short.to_string());
    margin(kind(json)?, keys);
    Ok(())
}

/// The processors themselves round half a pixel at the crop down; those on torchvision round as it does.
fn margin(kind: &str, keys: &mut Keys) {
    if !kind.ends_with("Fast") {
        keys.set_text("resize.margin", "down");
    }
}

fn scale_of_transformers(json: &Value, keys: &mut Keys) -> Result<(), String> {
    let factor = read_as(json, "rescale_factor", "a number", Value::as_f64)?;
    let factor = factor.unwrap_or(1.0 / 255.0);
    if !flag(json, "do_rescale", true)? || 1e-7 < (factor - 1.0 / 255.0).abs() {
        return Err(format!(
            "do_rescale and rescale_factor = {factor:?}: only 1/255 is understood; state input.mean and \
             input.std by --set"
        ));
    }
    if flag(json, "rescale_offset", false)? {
        return Err(unknown("rescale_offset", "true"));
    }
    if !flag(json, "do_normalize", true)? {
        keys.set_text("input.scale", "unit");
        return Ok(());
    }
    mean_and_std(keys, &list(json, "image_mean")?, &list(json, "image_std")?)
}

fn squash_crop(keys: &mut Keys, scaled: (u32, u32), target: (u32, u32)) {
    if scaled == target {
        keys.set_text("resize.fit", "squash");
        return;
    }
    keys.set_text("resize.fit", "squash_crop");
    keys.set("resize.scaled_width", scaled.0.to_string());
    keys.set("resize.scaled_height", scaled.1.to_string());
}

fn size(keys: &mut Keys, width: u32, height: u32) {
    keys.set("input.width", width.to_string());
    keys.set("input.height", height.to_string());
}

fn filter(keys: &mut Keys, name: &str) -> Result<(), String> {
    let known = ["bilinear", "bicubic", "lanczos", "box", "hamming"];
    if !known.contains(&name) {
        return Err(unknown("interpolation", name));
    }
    keys.set_text("resize.filter", name);
    Ok(())
}

/// Mean and std for 0..1, converted to grey levels.
fn mean_and_std(keys: &mut Keys, mean: &[f64], std: &[f64]) -> Result<(), String> {
    if mean.len() != 3 || std.len() != 3 {
        return Err("mean and std are no three numbers each".to_owned());
    }
    if mean
        .iter()
        .chain(std)
        .any(|number| !(0.0..=1.0).contains(number))
    {
        return Err("mean or std is not between 0 and 1".to_owned());
    }
    keys.set("input.mean", levels(mean));
    keys.set("input.std", levels(std));
    Ok(())
}

fn levels(shares: &[f64]) -> String {
    let level = |share: &f64| {
        let text = format!("{:.7}", share * 255.0);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let texts: Vec<String> = shares.iter().map(level).collect();
    format!("[{}]", texts.join(", "))
}

/// A key's value; `None` if it is missing or null. A value of another type is an error, not the default: it
/// was meant to say something.
fn read_as<'a, T>(
    json: &'a Value,
    key: &str,
    what: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = json.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let wrong = || format!("{key} = {} is not {what}", brief(&value.to_string()));
    read(value).map(Some).ok_or_else(wrong)
}

fn text<'a>(json: &'a Value, key: &str) -> Result<Option<&'a str>, String> {
    read_as(json, key, "a text", Value::as_str)
}

fn flag(json: &Value, key: &str, usual: bool) -> Result<bool, String> {
    match json.get(key) {
        None => Ok(usual),
        // The meaning of null differs between versions of a processor.
        Some(said) => said
            .as_bool()
            .ok_or_else(|| format!("{key} = {} is not true or false", brief(&said.to_string()))),
    }
}

/// The share of a side that is kept by the crop.
fn share(json: &Value, key: &str) -> Result<Option<f64>, String> {
    read_as(json, key, "a share from 0.01 to 1", |value| {
        value.as_f64().filter(|share| (0.01..=1.0).contains(share))
    })
}

fn list(json: &Value, key: &str) -> Result<Vec<f64>, String> {
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
    let list = read_as(json, key, "a list of numbers", numbers)?;
    list.ok_or_else(|| format!("{key} is missing"))
}

/// A text of any length, shortened for a message.
fn brief(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Width and height of `[channels, height, width]`; everything supported here has three channels.
fn rgb_sides(sides: &[f64]) -> Result<(u32, u32), String> {
    match sides {
        [3.0, height, width] => Ok((whole(*width)?, whole(*height)?)),
        _ => Err(format!(
            "input_size = {} is not [3, height, width]",
            brief(&format!("{sides:?}"))
        )),
    }
}

fn whole(number: f64) -> Result<u32, String> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the range, and whole"
    )]
    if (1.0..=65_536.0).contains(&number) && number.fract() == 0.0 {
        Ok(number as u32)
    } else {
        Err(format!("{number:?} is no length in pixels"))
    }
}

/// Width and height of `{"height": h, "width": w}`, or of a square.
fn sides_of(value: &Value, key: &str) -> Result<(u32, u32), String> {
    let side = |value: Option<&Value>| value.and_then(Value::as_f64).map(whole);
    match (side(value.get("width")), side(value.get("height"))) {
        (Some(width), Some(height)) => Ok((width?, height?)),
        _ => {
            let pair = value.as_array().map(Vec::as_slice);
            if let Some([height, width]) = pair
                && let (Some(height), Some(width)) = (side(Some(height)), side(Some(width)))
            {
                return Ok((width?, height?));
            }
            let square = side(Some(value));
            let square = square.ok_or_else(|| format!("{key} has no height and width"))??;
            Ok((square, square))
        }
    }
}

fn unknown(key: &str, value: &str) -> String {
    let value = brief(value);
    format!("{key} = {value} has no equal here; state the keys of [resize] by --set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(json: &str) -> (Library, Keys) {
        let mut keys = Keys::default();
        let library = read(json.as_bytes(), &mut keys).unwrap();
        (library, keys)
    }

    fn is(keys: &Keys, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(keys.get(key), Some(*value), "{key} of {keys:?}");
        }
    }

    #[test]
    fn transformers_clip_is_a_crop_with_its_margin_rounded_down() {
        let (library, found) = keys(
            r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
            "do_normalize": true, "do_resize": true, "image_processor_type": "CLIPImageProcessor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3, "size": {"shortest_edge": 224}}"#,
        );
        assert_eq!(library, Library::Transformers);
        is(
            &found,
            &[
                ("resize.fit", "\"crop\""),
                ("resize.short_side", "224"),
                ("resize.margin", "\"down\""),
                ("resize.filter", "\"bicubic\""),
                ("input.mean", "[122.7709383, 116.7460125, 104.0937362]"),
                ("input.width", "224"),
            ],
        );
    }

    #[test]
    fn transformers_vit_is_a_squash_and_deit_cuts_a_part_of_one() {
        let vit = r#"{"do_normalize": true, "do_resize": true, "resample": 2, "size": 224,
            "feature_extractor_type": "ViTFeatureExtractor",
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
        let expected = [
            ("resize.fit", "\"squash\""),
            ("resize.filter", "\"bilinear\""),
            ("input.std", "[127.5, 127.5, 127.5]"),
        ];
        is(&keys(vit).1, &expected);
        let deit = vit
            .replace("224", r#"{"height": 256, "width": 256}"#)
            .replace(
                "\"resample\"",
                r#""do_center_crop": true, "crop_size": 224, "resample""#,
            );
        let expected = [
            ("resize.fit", "\"squash_crop\""),
            ("resize.scaled_width", "256"),
            ("input.height", "224"),
        ];
        is(&keys(&deit).1, &expected);
        // It cuts unless it is told not to, and has nothing to cut to.
        let silent = vit.replace("ViT", "DeiT");
        let refused = read(silent.as_bytes(), &mut Keys::default()).unwrap_err();
        assert!(refused.contains("crop_size"), "{refused}");
        // What is false asks for nothing.
        let padless = vit.replace("\"resample\"", "\"do_pad\": false, \"resample\"");
        is(&keys(&padless).1, &[("resize.fit", "\"squash\"")]);
    }

    #[test]
    fn timm_crops_by_its_share_and_squashes_where_it_says_so() {
        let timm = r#"{"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {
            "input_size": [3, 224, 224], "crop_pct": 0.95, "crop_mode": "center",
            "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "license": "apache-2.0"}}"#;
        let (library, found) = keys(timm);
        assert_eq!(library, Library::Timm);
        let expected = [
            ("resize.fit", "\"crop\""),
            ("resize.short_side", "235"),
            ("input.mean", "[123.675, 116.28, 103.53]"),
            ("licence", "\"apache-2.0\""),
        ];
        is(&found, &expected);
        assert_eq!(found.get("resize.margin"), None);
        let squash = timm.replace("\"center\"", "\"squash\"");
        is(&keys(&squash).1, &[("resize.scaled_height", "235")]);
        let whole = squash.replace("0.95", "1.0");
        is(&keys(&whole).1, &[("resize.fit", "\"squash\"")]);
    }

    #[test]
    fn open_clip_has_its_own_defaults() {
        let (library, found) = keys(
            r#"{"model_cfg": {"embed_dim": 512, "vision_cfg": {"image_size": 224}},
            "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#,
        );
        assert_eq!(library, Library::OpenClip);
        let expected = [
            ("resize.fit", "\"crop\""),
            ("resize.short_side", "224"),
            ("resize.filter", "\"bicubic\""),
            ("input.mean", "[127.5, 127.5, 127.5]"),
        ];
        is(&found, &expected);
    }

    #[test]
    fn a_value_of_another_type_is_refused_and_no_default() {
        let vit = r#"{"image_processor_type": "ViTImageProcessor", "resample": 2, "size": 64,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "x": null}"#;
        let timm = r#"{"pretrained_cfg": {"input_size": [3, 64, 64], "x": null,
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#;
        let clip =
            r#"{"model_cfg": {"vision_cfg": {"image_size": 64}}, "preprocess_cfg": {"x": null}}"#;
        for json in [vit, timm, clip] {
            assert!(
                read(json.as_bytes(), &mut Keys::default()).is_ok(),
                "{json}"
            );
        }
        let cases = [
            (vit, "do_resize", "\"false\""),
            (vit, "do_normalize", "0"),
            (vit, "do_normalize", "null"),
            (vit, "do_center_crop", "\"false\""),
            (vit, "rescale_factor", "\"0.0039\""),
            (vit, "rescale_offset", "1"),
            (timm, "crop_pct", "\"0.9\""),
            (timm, "crop_pct", "0"),
            (timm, "crop_mode", "3"),
            (timm, "interpolation", "3"),
            (timm, "license", "[]"),
            (clip, "interpolation", "3"),
            (clip, "resize_mode", "5"),
            (clip, "size", "\"64\""),
        ];
        for (json, key, value) in cases {
            let wrong = json.replace("\"x\": null", &format!("\"{key}\": {value}"));
            let refused = read(wrong.as_bytes(), &mut Keys::default()).unwrap_err();
            let said = refused.contains(key) || key == "size" && refused.contains("image size");
            assert!(said, "{key} = {value}: {refused}");
        }
        let grey = timm.replace("[3, 64", "[1, 64");
        assert!(read(grey.as_bytes(), &mut Keys::default()).is_err());
        let long = vit.replace("null", &format!("\"{}\"", "a".repeat(1 << 16)));
        let refused = read(long.as_bytes(), &mut Keys::default()).unwrap_err();
        assert!(refused.len() < 300, "{}", refused.len());
        let marked = format!("\u{feff}{vit}");
        assert!(read(marked.as_bytes(), &mut Keys::default()).is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_guessed() {
        let timm = r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_mode": "border",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#;
        let clip = r#"{"image_processor_type": "CLIPImageProcessor", "size": 224, "resample": 3,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
        let levels = clip.replace("0.5", "127.5");
        let factor = clip.replace("\"size\"", "\"rescale_factor\": 0.0078, \"size\"");
        let levit = clip.replace("CLIPImage", "LevitImage");
        let unnamed = clip.replace("\"image_processor_type\": \"CLIPImageProcessor\",", "");
        let flipped = clip.replace("\"size\"", "\"do_flip_channel_order\": true, \"size\"");
        let share = clip.replace("\"size\"", "\"crop_pct\": 0.9, \"size\"");
        let multiple = clip.replace("\"size\"", "\"ensure_multiple_of\": 14, \"size\"");
        let longest = clip.replace(
            "224",
            r#"{"shortest_edge": 224, "longest_edge": 300}, "crop_size": 224"#,
        );
        let cases = [
            (&*levit, "LevitImageProcessor may have steps of its own"),
            (&*unnamed, "image_processor_type is missing"),
            (&*flipped, "do_flip_channel_order = true is not understood"),
            (&*share, "crop_pct = 0.9 is not understood"),
            (&*multiple, "ensure_multiple_of = 14"),
            (&*longest, "longest_edge"),
            (timm, "crop_mode = border"),
            (clip, "a square for some"),
            (&*levels, "between 0 and 1"),
            (&*factor, "rescale_factor"),
            ("{}", "none of"),
            ("x", "not JSON"),
        ];
        for (json, expected) in cases {
            let refused = read(json.as_bytes(), &mut Keys::default()).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
