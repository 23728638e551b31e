//! The table `[input]` of a manifest: how pixels are converted to the input of a model.

use super::toml_table::{COLOUR, TomlTable, choose, colour_of, numbers, tensor_name, whole, words};

/// The highest side length in pixels. No image model in use has more, and one input tensor would exceed 200 MB.
pub(super) const SIDE_MAX: u32 = 4096;

/// How pixels are converted to the input tensor.
pub(super) struct InputEncoding {
    pub(super) name: String,
    pub(super) layout: TensorLayout,
    pub(super) colour: Colour,
    /// The colour that is laid under transparent pixels.
    pub(super) background: [u8; 3],
    pub(super) scale: PixelScaling,
}

/// How grey levels are converted to numbers.
pub(super) enum PixelScaling {
    /// With the same mean and standard deviation for every image, one of each for each channel, in grey levels
    /// and in RGB order.
    Fixed { mean: Vec<f32>, std: Vec<f32> },
    /// With the mean and standard deviation of the image itself.
    Image,
}

impl PixelScaling {
    /// Whether grey levels are not changed.
    pub(super) fn is_none(&self) -> bool {
        let (Self::Fixed { mean, std }, bits) = (self, |value: f32| value.to_bits()) else {
            return false;
        };
        mean.iter().all(|mean| bits(mean.abs()) == 0)
            && std.iter().all(|std| bits(*std) == bits(1.0))
    }
}

/// The order of the tensor's axes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum TensorLayout {
    Nchw,
    Nhwc,
}

/// The order of the colour channels in the tensor.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Colour {
    Rgb,
    Bgr,
    Grey,
    Rgba,
    Bgra,
}

/// The content of one channel of the tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Channel {
    Red,
    Green,
    Blue,
    Alpha,
}

impl Channel {
    /// The position in RGB order. For a grey channel all are equal, so it is that of red.
    pub(super) fn place(self) -> usize {
        match self {
            Self::Red => 0,
            Self::Green => 1,
            Self::Blue => 2,
            Self::Alpha => 3,
        }
    }
}

impl Colour {
    /// The channels, in the order of the tensor.
    pub(super) fn order(self) -> &'static [Channel] {
        use Channel::{Alpha, Blue, Green, Red};
        match self {
            Self::Rgb => &[Red, Green, Blue],
            Self::Bgr => &[Blue, Green, Red],
            Self::Grey => &[Red],
            Self::Rgba => &[Red, Green, Blue, Alpha],
            Self::Bgra => &[Blue, Green, Red, Alpha],
        }
    }

    /// The number of channels.
    pub(super) fn channels(self) -> usize {
        self.order().len()
    }
}

pub(super) const LAYOUTS: [(&str, TensorLayout); 2] =
    [("nchw", TensorLayout::Nchw), ("nhwc", TensorLayout::Nhwc)];
pub(super) const COLOURS: [(&str, Colour); 5] = [
    ("rgb", Colour::Rgb),
    ("bgr", Colour::Bgr),
    ("grey", Colour::Grey),
    ("rgba", Colour::Rgba),
    ("bgra", Colour::Bgra),
];

/// Reads the table; returns the input, its width and its height.
pub(super) fn read_input(mut table: TomlTable<'_>) -> Option<(InputEncoding, u32, u32)> {
    let sides = format!("a whole number from 1 to {SIDE_MAX}");
    let name = table.required("name", "a text that is not empty", tensor_name);
    let layout = table.required("layout", &words(&LAYOUTS), |value| choose(&LAYOUTS, value));
    let width = table.required("width", &sides, |value| whole(value, 1..=SIDE_MAX));
    let height = table.required("height", &sides, |value| whole(value, 1..=SIDE_MAX));
    let colour = table.required("colour", &words(&COLOURS), |value| choose(&COLOURS, value));
    let background = table.optional("background", COLOUR, colour_of);
    let scale = read_scale(&mut table, colour.unwrap_or(Colour::Rgb));
    table.finish();
    let input = InputEncoding {
        name: name?,
        layout: layout?,
        colour: colour?,
        background: background.unwrap_or([255; 3]),
        scale: scale?,
    };
    Some((input, width?, height?))
}

/// The words for [`PixelScaling`] in a manifest.
#[derive(Clone, Copy, PartialEq)]
enum ScaleWord {
    MeanStd,
    Unit,
    Grey,
    Image,
}

const SCALES: [(&str, ScaleWord); 4] = [
    ("mean_std", ScaleWord::MeanStd),
    ("unit", ScaleWord::Unit),
    ("none", ScaleWord::Grey),
    ("image", ScaleWord::Image),
];

fn read_scale(table: &mut TomlTable<'_>, colour: Colour) -> Option<PixelScaling> {
    let scale = table.optional("scale", &words(&SCALES), |value| choose(&SCALES, value));
    let channels = colour.channels();
    let fixed = |std: f32| PixelScaling::Fixed {
        mean: vec![0.0; channels],
        std: vec![std; channels],
    };
    match scale.unwrap_or(ScaleWord::MeanStd) {
        ScaleWord::MeanStd => {}
        ScaleWord::Unit => return Some(fixed(255.0)),
        ScaleWord::Grey => return Some(fixed(1.0)),
        ScaleWord::Image => return Some(PixelScaling::Image),
    }
    let (count, order) = match colour {
        Colour::Rgb | Colour::Bgr => ("three numbers", "in RGB order"),
        Colour::Grey => ("one number", "in a list"),
        Colour::Rgba | Colour::Bgra => ("four numbers", "in RGBA order"),
    };
    let allowed = format!("{count} from 0 to 255, {order}");
    let mean = table.required("mean", &allowed, |value| {
        numbers(value, channels, 0.0..=255.0)
    });
    // Values below one show that the author thinks of levels in 0..1; the input would be scaled 255 times too
    // much.
    let allowed =
        format!("{count} from 1 to 1000 in grey levels (255 times those for 0..1), {order}");
    let std = table.required("std", &allowed, |value| {
        numbers(value, channels, 1.0..=1000.0)
    });
    Some(PixelScaling::Fixed {
        mean: mean?,
        std: std?,
    })
}
