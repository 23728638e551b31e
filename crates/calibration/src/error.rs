//! Why a calibration, or the reading of one, did not succeed.

use super::likeness::LabelsAlike;
use super::percent::percent;
use super::refusal::{FrrRefused, GroupsUnderpowered, Mismatch, Overlap, Underpowered};
use super::strangers::UnnamedRefused;

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
    /// Nothing would be taken off, or more than all.
    #[error("margin factor {value} is not above 0 and at most 1; 0.75 is usual")]
    MarginFactor {
        /// The number given.
        value: f64,
    },
    /// A margin over nothing would accept whoever comes.
    #[error(
        "the margin score takes the best item of a second label, and probe '{probe}' found none; enrol more labels, or leave the margin out"
    )]
    NoOtherLabel {
        /// The probe.
        probe: String,
    },
    /// A rate that no number of trials can show, or that is no promise.
    #[error("target FRR {value} is outside [1e-9, 0.5]; give it as a fraction, such as 0.05")]
    TargetFrr {
        /// The number given.
        value: f64,
    },
    /// At zero or one, one kind of search would never occur.
    #[error("prior {value} is outside [1e-9, 1 - 1e-9]; give it as a fraction, such as 0.01")]
    Prior {
        /// The number given.
        value: f64,
    },
    /// Nothing, less than nothing, or beyond measure.
    #[error("the cost of a {of}, {value}, is outside [1e-9, 1e9]; give both in the same unit")]
    Cost {
        /// `false accept` or `false reject`.
        of: &'static str,
        /// The number given.
        value: f64,
    },
    /// A rate of one kind of search cannot be had from the other.
    #[error("there are no {kind} searches with a score to choose a threshold by; add some")]
    NoEvidence {
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// NaN is no evidence.
    #[error("a score of the {kind} searches is not a number; leave out what has no score")]
    NotAScore {
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// Misses outweigh accepts even if everything is accepted.
    #[error(
        "FAR and FRR never meet: with everything found accepted, FAR is {} and FRR, by \
         wrong or missing candidates alone, {}; choose by a target FAR or by cost",
        percent(*.far), percent(*.frr)
    )]
    NoEqualError {
        /// FAR at the lowest threshold.
        far: f64,
        /// FRR there.
        frr: f64,
    },
    /// Not a share.
    #[error("rate {value} is outside [0, 1]; give it as a fraction, such as 0.001")]
    NotARate {
        /// The number given.
        value: f64,
    },
    /// A prediction ahead of growth needs growth.
    #[error("a gallery of {now} items does not grow to {later}; give the larger size last")]
    Shrinking {
        /// Items now.
        now: u64,
        /// Items later.
        later: u64,
    },
    /// A part is neither empty nor more than the whole.
    #[error("a part of {size} cannot be drawn from {whole}; ask for 1 to {whole}")]
    NotAPart {
        /// Items or labels asked for.
        size: u64,
        /// Items or labels there are.
        whole: u64,
    },
    /// The depth or the size of the gallery is not what was searched.
    #[error("a search lists more than {most} candidates, its depth or the items of the gallery")]
    TooManyCandidates {
        /// The most that a search can list.
        most: usize,
    },
    /// Labels cannot be held out of one part, and more parts than this are of no use.
    #[error("{count} parts of the labels are outside [2, 100]; 5 is a good number")]
    FoldCount {
        /// The number given.
        count: u32,
    },
    /// No threshold keeps the FRR, or too few trials show it.
    #[error(transparent)]
    Frr(#[from] FrrRefused),
    /// Labels used twice.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// Strangers whom nobody named carry no certificate.
    #[error(transparent)]
    Unnamed(#[from] UnnamedRefused),
    /// One label under two spellings.
    #[error(transparent)]
    Alike(#[from] LabelsAlike),
    /// Too few independent trials for the target.
    #[error(transparent)]
    Underpowered(#[from] Underpowered),
    /// Too few labels in a group that is to keep the target.
    #[error(transparent)]
    Groups(#[from] GroupsUnderpowered),
    /// Nothing could be promised for strangers of no known group.
    #[error(
        "{missing} of {strangers} searches of strangers have no value of '{column}'; give each one in the metadata, or leave it out"
    )]
    GroupUnknown {
        /// The metadata column.
        column: String,
        /// Searches without it.
        missing: u64,
        /// Searches of strangers in all.
        strangers: u64,
    },
    /// Another policy has no FAR that a group could keep.
    #[error("the worst group is that of a certified target FAR; no other policy has one")]
    GroupsWithoutTargetFar,
    /// Another policy has no threshold that the mates had no part in.
    #[error("a review band goes with a target FAR; no other policy has one")]
    ReviewWithoutTargetFar,
    /// The record belongs to something else.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
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
    /// Only a FAR grows with the gallery in a way that can be foreseen.
    #[error("a larger gallery can be allowed for with a target FAR only")]
    GrowthWithoutTargetFar,
    /// A cohort without members says nothing.
    #[error("the cohort is empty, so no score can be normalised against it; give it embeddings")]
    EmptyCohort,
    /// An item is compared with members of other labels only.
    #[error(
        "a cohort takes items of two labels at least, so that scores can be normalised; enrol more"
    )]
    CohortLabels,
    /// A member that has no direction, or another length than one.
    #[error("a member of the cohort cannot be used: {0}; calibrate again")]
    CohortMember(#[source] matchpoint_vector::NotAnEmbedding),
    /// Not what a cohort's file holds.
    #[error("this is not a cohort: {0}; calibrate again or restore the file")]
    NotACohort(String),
    /// The cohort is of another model.
    #[error(
        "the cohort has dimension {cohort}, the embedding {embedding}; embed both with one model"
    )]
    CohortDimension {
        /// The dimension of the cohort member.
        cohort: usize,
        /// The dimension of the embedding.
        embedding: usize,
    },
    /// No similarities have such a mean and deviation.
    #[error(
        "mean {mean} and deviation {deviation} are not statistics of similarities; the mean is in \
         [-1, 1], the deviation in [1e-6, 1]: compute them again"
    )]
    NotCohortStatistics {
        /// The mean given.
        mean: f64,
        /// The deviation given.
        deviation: f64,
    },
    /// A floor that is no deviation.
    #[error("deviation floor {value} is outside [1e-6, 1]; 0.001 suits cosine similarities")]
    DeviationFloor {
        /// The number given.
        value: f64,
    },
    /// A record of a version that had them.
    #[error(
        "the operating point has thresholds by group of items, which this version no longer has; \
         calibrate again"
    )]
    ThresholdsByGroup,
    /// Not JSON, or not the fields of a recording.
    #[error("this is not a recording of searches: {0}; calibrate again or restore the file")]
    NotARecording(#[source] serde_json::Error),
    /// The searches are not what was recorded.
    #[error(
        "the recorded searches were altered: their digest is {computed}, not {stated}; restore them"
    )]
    RecordingAltered {
        /// The digest in the file.
        stated: String,
        /// The digest that the searches have.
        computed: String,
    },
}

impl CalibrationError {
    /// The name of a refusal of the target; `None` if the input itself is wrong.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        let unattainable = matches!(
            self,
            Self::Frr(FrrRefused::Unattainable { .. })
                | Self::NoEqualError { .. }
                | Self::NoEvidence { .. }
        );
        if unattainable {
            return Some("CALIBRATION_UNATTAINABLE");
        }
        if let Self::Unnamed(_) = self {
            return Some("STRANGERS_UNNAMED");
        }
        self.shortage().map(|_| "CALIBRATION_UNDERPOWERED")
    }

    /// For a refusal: the labels that the target takes, if that can be said, and those that
    /// there are.
    #[must_use]
    pub fn trials_needed(&self) -> Option<(Option<u64>, u64)> {
        let Shortage {
            needed, present, ..
        } = self.shortage()?;
        Some((needed, present))
    }

    /// For a refusal: the lowest rate of the kind asked for that the trials can certify.
    #[must_use]
    pub fn best_supported(&self) -> Option<f64> {
        self.shortage().map(|shortage| shortage.best_supported)
    }

    fn shortage(&self) -> Option<Shortage> {
        if let Self::Underpowered(refused) = self {
            return Some(Shortage {
                needed: Some(refused.needed),
                present: refused.independent_trials,
                best_supported: refused.best_supported_far,
            });
        }
        if let Self::Groups(refused) = self {
            let short = || refused.short.iter();
            return Some(Shortage {
                needed: Some(refused.needed),
                present: short().map(|one| one.labels).min().unwrap_or(0),
                best_supported: short()
                    .map(|one| one.best_supported_far)
                    .fold(0.0, f64::max),
            });
        }
        let Self::Frr(refused) = self else {
            return None;
        };
        Some(match *refused {
            FrrRefused::Underpowered {
                needed,
                independent_trials: present,
                best_supported_frr: best_supported,
                ..
            } => Shortage {
                needed,
                present,
                best_supported,
            },
            FrrRefused::Unattainable {
                independent_trials: present,
                best_supported_frr: best_supported,
                ..
            } => Shortage {
                needed: None,
                present,
                best_supported,
            },
        })
    }
}

/// What a refused target lacks.
struct Shortage {
    needed: Option<u64>,
    present: u64,
    best_supported: f64,
}
