//! The features by which searches are compared.

use serde::{Deserialize, Serialize};

use super::SearchFacts;

/// The picture formats that are told apart.
pub(super) const FORMATS: [&str; 5] = ["JPEG", "PNG", "WebP", "GIF", "BMP"];

/// The kind of property that a share is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrafficFeature {
    /// The format of the picture.
    Format,
    /// The length of the picture's longer side.
    Size,
    /// The picture's mean grey level.
    Brightness,
    /// The picture's sharpness.
    Sharpness,
    /// The length of the feature vector.
    FeatureLength,
    /// The position of the embedding.
    Embedding,
    /// A condition of the calibration whose embeddings the query resembles.
    Resemblance,
    /// A condition that the caller states.
    Condition,
}

impl TrafficFeature {
    /// All variants.
    pub const ALL: [Self; 8] = [
        Self::Format,
        Self::Size,
        Self::Brightness,
        Self::Sharpness,
        Self::FeatureLength,
        Self::Embedding,
        Self::Resemblance,
        Self::Condition,
    ];

    /// The name used in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Size => "size",
            Self::Brightness => "brightness",
            Self::Sharpness => "sharpness",
            Self::FeatureLength => "feature_length",
            Self::Embedding => "embedding",
            Self::Resemblance => "resemblance",
            Self::Condition => "condition",
        }
    }
}

/// The set of shares that a search belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchSigns(u128);

impl SearchSigns {
    /// The set of the shares with these indices, which are below 128.
    pub(super) fn of(shares: impl Iterator<Item = usize>) -> Self {
        Self(shares.fold(0, |signs, share| signs | 1 << share))
    }

    /// Whether the search belongs to the share with this index.
    pub(super) fn has(self, share: usize) -> bool {
        (self.0 >> share) & 1 == 1
    }
}

/// A number that is measured of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PictureMeasure {
    LongestSide,
    Brightness,
    Sharpness,
    FeatureLength,
}

impl PictureMeasure {
    pub(super) const ALL: [Self; 4] = [
        Self::LongestSide,
        Self::Brightness,
        Self::Sharpness,
        Self::FeatureLength,
    ];

    pub(super) fn of(self, search: &SearchFacts<'_>) -> Option<f64> {
        let picture = search.picture;
        match self {
            Self::LongestSide => picture.map(|picture| f64::from(picture.longest_side)),
            Self::Brightness => picture.map(|picture| picture.brightness),
            Self::Sharpness => picture.map(|picture| picture.sharpness),
            Self::FeatureLength => search.feature_length,
        }
    }

    fn feature(self) -> TrafficFeature {
        match self {
            Self::LongestSide => TrafficFeature::Size,
            Self::Brightness => TrafficFeature::Brightness,
            Self::Sharpness => TrafficFeature::Sharpness,
            Self::FeatureLength => TrafficFeature::FeatureLength,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::LongestSide => "longer side in pixels",
            Self::Brightness => "brightness (0 to 255)",
            Self::Sharpness => "sharpness",
            Self::FeatureLength => "length of the feature",
        }
    }
}

/// The side of an edge that belongs to a share. The edge itself does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Beyond {
    Below(f64),
    Above(f64),
}

impl Beyond {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::Below(edge) => value < edge,
            Self::Above(edge) => edge < value,
        }
    }

    fn says(self) -> String {
        match self {
            Self::Below(edge) => format!("below {}", short(edge)),
            Self::Above(edge) => format!("above {}", short(edge)),
        }
    }
}

/// Three significant digits, or all digits before the point of a larger number.
fn short(number: f64) -> String {
    if 100.0 <= number.abs() {
        format!("{number:.0}")
    } else if 1.0 <= number.abs() {
        format!("{number:.1}")
    } else {
        format!("{number:.3}")
    }
}

/// The rule that decides which searches belong to a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum ShareRule {
    /// The picture has this format.
    Format { name: String },
    /// A measure of the picture lies beyond an edge.
    Measure {
        measure: PictureMeasure,
        side: Beyond,
    },
    /// The embedding lies beyond an edge along the direction with this index.
    Direction { axis: usize, side: Beyond },
    /// Along this direction, the embedding lies farther than the edge towards the calibration's queries with
    /// this condition.
    Resemblance {
        axis: usize,
        edge: f64,
        key: String,
        value: String,
    },
    /// The caller states this value of a condition.
    Condition { key: String, value: String },
    /// The caller states a value of a condition that did not occur in the calibration.
    OtherCondition { key: String, known: Vec<String> },
}

impl ShareRule {
    /// Whether a search belongs to the share; `along` is the position of its embedding along each direction.
    pub(super) fn holds(&self, search: &SearchFacts<'_>, along: &[f64]) -> bool {
        match self {
            Self::Format { name } => {
                let picture = search.picture;
                picture.is_some_and(|picture| picture.format == name)
            }
            Self::Measure { measure, side } => {
                measure.of(search).is_some_and(|value| side.holds(value))
            }
            Self::Direction { axis, side } => {
                along.get(*axis).is_some_and(|value| side.holds(*value))
            }
            Self::Resemblance { axis, edge, .. } => {
                along.get(*axis).is_some_and(|value| edge < value)
            }
            Self::Condition { key, value } => search.conditions.get(key) == Some(value),
            Self::OtherCondition { key, known } => {
                let said = search.conditions.get(key);
                said.is_some_and(|said| !known.contains(said))
            }
        }
    }

    pub(super) fn feature(&self) -> TrafficFeature {
        match self {
            Self::Format { .. } => TrafficFeature::Format,
            Self::Measure { measure, .. } => measure.feature(),
            Self::Direction { .. } => TrafficFeature::Embedding,
            Self::Resemblance { .. } => TrafficFeature::Resemblance,
            Self::Condition { .. } | Self::OtherCondition { .. } => TrafficFeature::Condition,
        }
    }

    /// The index of the direction that the rule needs; `None` if it needs none.
    pub(super) fn axis(&self) -> Option<usize> {
        match self {
            Self::Direction { axis, .. } | Self::Resemblance { axis, .. } => Some(*axis),
            Self::Format { .. }
            | Self::Measure { .. }
            | Self::Condition { .. }
            | Self::OtherCondition { .. } => None,
        }
    }

    /// The property in words.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Format { name } => format!("format {name}"),
            Self::Measure { measure, side } => format!("{} {}", measure.name(), side.says()),
            Self::Direction { axis, side } => {
                format!("embedding {} in direction {}", side.says(), axis + 1)
            }
            Self::Resemblance { key, value, .. } => format!("looks like {key} = {value}"),
            Self::Condition { key, value } => format!("said to be {key} = {value}"),
            Self::OtherCondition { key, .. } => {
                format!("said to be a {key} that the calibration did not have")
            }
        }
    }
}
