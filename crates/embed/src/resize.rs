//! The table `[resize]` of a manifest: how an image is brought to the input's size.

use toml::Value;

use crate::pixels::{
    AspectFit, CanvasPosition, Conventions, JpegScale, Margin, OpenCv, ResizeFilter, Rounding,
};

use super::input::SIDE_MAX;
use super::toml_table::{COLOUR, TomlTable, choose, colour_of, spelling, whole, words};

/// The filters by name; the first five are those of Pillow.
pub(super) const FILTERS: [(&str, ResizeFilter); 9] = [
    ("box", ResizeFilter::Box),
    ("bilinear", ResizeFilter::Bilinear),
    ("hamming", ResizeFilter::Hamming),
    ("bicubic", ResizeFilter::Bicubic),
    ("lanczos", ResizeFilter::Lanczos),
    ("opencv_linear", ResizeFilter::OpenCv(OpenCv::Linear)),
    ("opencv_cubic", ResizeFilter::OpenCv(OpenCv::Cubic)),
    ("opencv_lanczos4", ResizeFilter::OpenCv(OpenCv::Lanczos4)),
    ("opencv_area", ResizeFilter::OpenCv(OpenCv::Area)),
];
const SIDES: [(&str, Rounding); 3] = [
    ("down", Rounding::Down),
    ("nearest", Rounding::Nearest),
    ("up", Rounding::Up),
];
const MARGINS: [(&str, Margin); 2] = [("even", Margin::Even), ("down", Margin::Down)];
const PLACES: [(&str, CanvasPosition); 2] = [
    ("centre", CanvasPosition::Centre),
    ("top_left", CanvasPosition::TopLeft),
];
pub(super) const JPEGS: [(&str, JpegScale); 2] =
    [("full", JpegScale::Full), ("reduced", JpegScale::Reduced)];

/// The table `[resize]`.
pub(super) struct Resize {
    pub(super) fit: AspectFit,
    pub(super) filter: ResizeFilter,
    pub(super) jpeg: JpegScale,
    pub(super) conventions: Conventions,
}

/// The words for [`AspectFit`] in a manifest.
#[derive(Clone, Copy, PartialEq)]
enum FitWord {
    Squash,
    SquashCrop,
    Crop,
    Pad,
}

const FITS: [(&str, FitWord); 4] = [
    ("squash", FitWord::Squash),
    ("crop", FitWord::Crop),
    ("pad", FitWord::Pad),
    ("squash_crop", FitWord::SquashCrop),
];

/// Reads the table; `sides` are those of the input, if they are known.
pub(super) fn read_resize(mut table: TomlTable<'_>, sides: Option<(u32, u32)>) -> Option<Resize> {
    let word = table.required("fit", &words(&FITS), |value| choose(&FITS, value));
    let filter = table.required("filter", &words(&FILTERS), |value| choose(&FILTERS, value));
    let fit = read_fit(&mut table, word, sides);
    let mut conventions = Conventions::default();
    // A key without effect would be a mistake, so each key is only known if it has an effect.
    if word.is_none_or(|word| matches!(word, FitWord::Crop | FitWord::Pad)) {
        conventions.side = table.optional("side", &words(&SIDES), |value| choose(&SIDES, value));
    }
    if word.is_none_or(|word| matches!(word, FitWord::Crop | FitWord::SquashCrop)) {
        let margin = table.optional("margin", &words(&MARGINS), |value| choose(&MARGINS, value));
        conventions.margin = margin.unwrap_or_default();
    }
    if word.is_none_or(|word| word == FitWord::Pad) {
        let place = table.optional("place", &words(&PLACES), |value| choose(&PLACES, value));
        conventions.place = place.unwrap_or_default();
    }
    // Stating the usual convention is the same as stating none.
    let usual = match word {
        Some(FitWord::Pad) => Rounding::Nearest,
        Some(FitWord::Squash | FitWord::SquashCrop | FitWord::Crop) | None => Rounding::Down,
    };
    conventions.side = conventions.side.filter(|side| *side != usual);
    let (mut jpegs, mut allowed) = (&JPEGS[..], words(&JPEGS));
    if matches!(filter, Some(ResizeFilter::OpenCv(_))) {
        // These filters use single pixels, but a reduced JPEG has only means of pixels.
        jpegs = jpegs.get(..1).unwrap_or_default();
        allowed = format!("{} with a filter of OpenCV", words(jpegs));
    }
    let jpeg = table.optional("jpeg", &allowed, |value| choose(jpegs, value));
    table.finish();
    Some(Resize {
        fit: fit?,
        filter: filter?,
        jpeg: jpeg.unwrap_or(JpegScale::Full),
        conventions,
    })
}

fn read_fit(
    table: &mut TomlTable<'_>,
    word: Option<FitWord>,
    sides: Option<(u32, u32)>,
) -> Option<AspectFit> {
    let (width_min, height_min) = sides.unwrap_or((1, 1));
    let most = 2 * SIDE_MAX;
    let short_side_min = width_min.max(height_min);
    let allowed =
        format!("a whole number from {short_side_min} (the larger of width and height) to {most}");
    let short_side = |value: &Value| whole(value, short_side_min..=most);
    match word {
        Some(FitWord::Crop) => table
            .required("short_side", &allowed, short_side)
            .map(|short_side| AspectFit::Crop { short_side }),
        Some(FitWord::SquashCrop) => {
            let mut scaled = |key, least: u32| {
                let allowed = format!("a whole number from {least} (the input's) to {most}");
                table.required(key, &allowed, |value| whole(value, least..=most))
            };
            let (width, height) = (
                scaled("scaled_width", width_min),
                scaled("scaled_height", height_min),
            );
            Some(AspectFit::SquashCrop {
                width: width?,
                height: height?,
            })
        }
        Some(FitWord::Pad) => Some(AspectFit::Pad {
            fill: table.optional("fill", COLOUR, colour_of).unwrap_or([0; 3]),
        }),
        Some(FitWord::Squash) => Some(AspectFit::Squash),
        None => {
            table.optional("short_side", &allowed, short_side);
            table.optional("fill", COLOUR, colour_of);
            for key in ["scaled_width", "scaled_height"] {
                table.optional(key, "a whole number", |value| whole(value, 1..=most));
            }
            None
        }
    }
}

/// A fit and its sizes as the fingerprint has it.
pub(super) fn fit_text(fit: AspectFit) -> String {
    match fit {
        AspectFit::Squash => "squash".to_owned(),
        AspectFit::SquashCrop { width, height } => format!("squash_crop {width} {height}"),
        AspectFit::Crop { short_side } => format!("crop {short_side}"),
        AspectFit::Pad { fill } => format!("pad {fill:?}"),
    }
}

/// The conventions as the fingerprint has them: those that are not the usual ones.
pub(super) fn convention_texts(conventions: Conventions) -> Vec<(&'static str, &'static str)> {
    let Conventions {
        side,
        margin,
        place,
    } = conventions;
    let side = side.map(|side| ("resize.side", spelling(&SIDES, side)));
    let margin = Some(margin).filter(|margin| *margin != Margin::default());
    let margin = margin.map(|margin| ("resize.margin", spelling(&MARGINS, margin)));
    let place = Some(place).filter(|place| *place != CanvasPosition::default());
    let place = place.map(|place| ("resize.place", spelling(&PLACES, place)));
    [side, margin, place].into_iter().flatten().collect()
}
