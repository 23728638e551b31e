//! From searches with known truth to a threshold that keeps a promise.
//!
//! Reading order: what a threshold does, what a trial is, rates with intervals, the certified
//! threshold, the report, and the record that keeps all of it.

pub mod binomial;
pub mod certify;
pub mod decision;
pub mod evaluate;
pub mod operating_point;
pub mod rates;
pub mod trials;

/// Why a calibration, or the reading of one, did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// NaN cannot be compared.
    #[error("a threshold must be a number, not NaN")]
    NotAThreshold,
    /// Below even odds nothing is promised; at one everything would be.
    #[error("confidence {value} is outside [0.5, 1 - 1e-9]; give it as a fraction, such as 0.95")]
    Confidence {
        /// The number given.
        value: f64,
    },
    /// A rate that no number of trials can show, or that is no promise.
    #[error("target FAR {value} is outside [1e-9, 0.5]; give it as a fraction, such as 0.001")]
    TargetFar {
        /// The number given.
        value: f64,
    },
    /// More events than trials, or no trial.
    #[error("{events} events in {trials} trials are not a proportion")]
    NotAProportion {
        /// How often it happened.
        events: u64,
        /// How often it could have happened.
        trials: u64,
    },
    /// One image cannot count twice.
    #[error("probe '{probe}' occurs twice among the {kind} searches; give every probe its own id")]
    RepeatedProbe {
        /// The id that is repeated.
        probe: String,
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// A label is enrolled or it is not.
    #[error("label '{label}' is searched as never enrolled, and also as mated or left out")]
    ContradictoryLabel {
        /// The label.
        label: String,
    },
    /// In an empty gallery no stranger finds anything, whatever the threshold.
    #[error("the gallery is empty, so nothing can be learnt about it; enrol its items first")]
    EmptyGallery,
    /// Too few independent trials for the target.
    #[error(transparent)]
    Underpowered(#[from] certify::Underpowered),
    /// The record belongs to something else.
    #[error(transparent)]
    Mismatch(#[from] operating_point::Mismatch),
    /// Longer than any record that this software writes.
    #[error("an operating point of {bytes} bytes is over the limit of {limit}")]
    RecordTooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or not the fields of an operating point.
    #[error("this is not an operating point: {0}; calibrate again or restore the file")]
    NotARecord(#[source] serde_json::Error),
    /// Written by another version.
    #[error("operating point has format {found}, this software reads format {supported}")]
    UnknownFormat {
        /// The format that the record names.
        found: u64,
        /// The format that can be read.
        supported: u64,
    },
    /// The content is not what was sealed.
    #[error("operating point {stated} was altered: its content hashes to {computed}; restore it")]
    Altered {
        /// The id in the record.
        stated: String,
        /// The id that the content has.
        computed: String,
    },
}
