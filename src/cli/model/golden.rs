//! The golden pair of a model whose folder is being written.

use std::path::Path;

use serde::Serialize;

use super::keys::Keys;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::image_ending::ending;
use crate::deployment::{DeploymentError, read_image};
use matchpoint_arrays::ReadOptions;
use matchpoint_embed::caller::Cancellation;
use matchpoint_embed::draft::ModelDraft;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_vector::{Embedding, Similarity};

/// Decoders and processors differ a little: a higher limit would fail.
const COSINE_MIN_MAX: f32 = 0.9995;
/// The lowest that a manifest allows.
const COSINE_MIN_MIN: f32 = 0.9;
const FILTERS: [&str; 9] = [
    "box",
    "bilinear",
    "hamming",
    "bicubic",
    "lanczos",
    "opencv_linear",
    "opencv_cubic",
    "opencv_lanczos4",
    "opencv_area",
];

#[derive(Serialize)]
pub(super) struct GoldenReport {
    /// Whether the reference comes from the author's pipeline.
    pub(super) independent: bool,
    /// Our embedding's cosine to the reference.
    pub(super) cosine: f32,
    pub(super) cosine_min: f32,
    /// Under each other filter, the nearest first.
    pub(super) other_filters: Vec<(&'static str, f32)>,
}

/// The golden pair to be written.
pub(super) struct Golden {
    pub(super) image: Vec<u8>,
    pub(super) name: String,
    pub(super) embedding: Embedding,
    pub(super) report: GoldenReport,
}

/// Makes the golden pair, and records it in the manifest.
pub(super) fn make(
    image: &Path,
    reference: Option<&Path>,
    draft: &mut ModelDraft,
    keys: &mut Keys,
    limits: ImageLimits,
) -> anyhow::Result<Golden> {
    let bytes = read_image(image, &limits)
        .map_err(|cause| fail(Exit::NoInput, format!("cannot read {cause}")))?;
    let unusable = |cause: &dyn std::fmt::Display| {
        let message = format!("{} cannot be embedded: {cause}", image.display());
        fail(Exit::BadData, message)
    };
    let mut embed = || {
        let embedder = &mut draft.embedder;
        let embedded = embedder.embed(&bytes, &limits, &Cancellation::never());
        embedded.map_err(|cause| unusable(&cause))
    };
    let own = embed()?.embedding;
    let apart = cosine(&own, &embed()?.embedding);
    if apart < COSINE_MIN_MAX {
        return Err(unusable(&format_args!(
            "the second time the model gives another embedding, of cosine {apart:.6} to the first; is \
             there chance in it, such as dropout? Export it for inference"
        )));
    }
    let independent = reference.is_some();
    let reference = match reference {
        Some(path) => read_reference(path, own.dimension())?,
        None => own.clone(),
    };
    let cosine = cosine(&own, &reference);
    let other_filters = other_filters(draft, keys, &bytes, limits, &reference)?;
    let cosine_min = match keys
        .get("golden.cosine_min")
        .and_then(|said| said.parse().ok())
    {
        Some(said) => said,
        None => least_cosine(&other_filters),
    };
    if cosine < cosine_min || cosine.is_nan() {
        let better: Vec<String> = other_filters
            .iter()
            .filter(|(_, other)| cosine < *other)
            .map(|(name, other)| format!("{name} {other:.6}"))
            .collect();
        let filters = better.join(", ");
        return Err(fail(
            Exit::BadData,
            format!(
                "the reference and our own embedding of {} have cosine {cosine:.6}, below {cosine_min}: \
                 the preprocessing is not the author's{}",
                image.display(),
                if filters.is_empty() {
                    String::new()
                } else {
                    format!("; with other filters it would be: {filters}")
                }
            ),
        ));
    }
    let name = format!("golden.{}", ending(&bytes));
    keys.set_text("golden.image", &name);
    keys.set_text("golden.embedding", "golden.f32");
    keys.set("golden.cosine_min", cosine_min.to_string());
    Ok(Golden {
        image: bytes,
        name,
        embedding: reference,
        report: GoldenReport {
            independent,
            cosine,
            cosine_min,
            other_filters,
        },
    })
}

/// The manifest, with a golden pair that is made later.
pub(super) fn with_golden(keys: &Keys) -> String {
    let mut keys = keys.clone();
    keys.propose("golden.image", "\"golden.jpg\"");
    keys.propose("golden.embedding", "\"golden.f32\"");
    keys.propose("golden.cosine_min", "0.9");
    keys.text()
}

fn read_reference(path: &Path, dimension: usize) -> anyhow::Result<Embedding> {
    let options = ReadOptions {
        name: None,
        text: None,
        bytes_max: 1 << 30,
    };
    let found = matchpoint_arrays::read(path, &options)?;
    let wrong = |what: String| fail(Exit::BadData, format!("{}: {what}", path.display()));
    if found.rows() != 1 || found.dimension != dimension {
        return Err(wrong(format!(
            "it holds {} rows of {} numbers, and has to hold one of {dimension}",
            found.rows(),
            found.dimension
        )));
    }
    Embedding::normalise(found.vectors).map_err(|cause| wrong(cause.to_string()))
}

fn cosine(a: &Embedding, b: &Embedding) -> f32 {
    Similarity::between(a.as_slice(), b.as_slice()).map_or(f32::NAN, Similarity::get)
}

impl GoldenReport {
    /// What the golden check would not notice.
    pub(super) fn doubt(&self) -> Option<String> {
        let passing = |(_, cosine): &&(&str, f32)| self.cosine_min <= *cosine;
        let passing = self.other_filters.iter().filter(passing);
        let names: Vec<&str> = passing.map(|(name, _)| *name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "with this photograph a wrong filter would pass the golden check ({}): take a sharper \
                 one, several times larger than the model's input",
                names.join(", ")
            )
        })
    }
}

/// What each other filter would give, as cosine to the reference.
fn other_filters(
    draft: &mut ModelDraft,
    keys: &Keys,
    image: &[u8],
    limits: ImageLimits,
    reference: &Embedding,
) -> anyhow::Result<Vec<(&'static str, f32)>> {
    let own = keys.get("resize.filter").unwrap_or_default().to_owned();
    let mut others = Vec::new();
    for name in FILTERS {
        if own == format!("\"{name}\"") {
            continue;
        }
        let mut other = keys.clone();
        other.set_text("resize.filter", name);
        other.remove("resize.jpeg");
        draft
            .prepare_as(&with_golden(&other))
            .map_err(DeploymentError::from)?;
        if let Ok(embedded) = draft.embedder.embed(image, &limits, &Cancellation::never()) {
            others.push((name, cosine(&embedded.embedding, reference)));
        }
    }
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(others)
}

/// A quarter of the way to the nearest wrong filter, rounded up to four digits.
fn least_cosine(others: &[(&'static str, f32)]) -> f32 {
    let nearest = others.first().map_or(COSINE_MIN_MIN, |(_, cosine)| *cosine);
    let quarter = 1.0 - (1.0 - nearest) / 4.0;
    ((quarter * 1e4).round() / 1e4).clamp(COSINE_MIN_MIN, COSINE_MIN_MAX)
}
