//! The errors of a calibration and of reading its records.

use super::likeness::LabelsAlike;
use super::percent::percent;
use super::refusal::{FrrRefused, GroupsUnderpowered, Mismatch, Overlap, Underpowered};
use super::strangers::UnnamedRefused;

/// The reasons why a calibration, or reading its record, failed.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// NaN is not a threshold.
    #[error("a threshold must be a number, not NaN")]
    NotAThreshold,
    /// A confidence outside [0.5, 1): below even odds nothing is promised, and 1 cannot be reached.
    #[error("confidence {value} is outside [0.5, 1 - 1e-9]; give it as a fraction, such as 0.95")]
    Confidence {
        /// The number given.
        value: f64,
    },
    /// A target FAR that is too low for any number of trials, or too high for a promise.
    #[error("target FAR {value} is outside [1e-9, 0.5]; give it as a fraction, such as 0.001")]
    TargetFar {
        /// The number given.
        value: f64,
    },
    /// There are more events than trials, or no trials.
    #[error("{events} events in {trials} trials are not a proportion")]
    NotAProportion {
        /// Number of events.
        events: u64,
        /// Number of trials.
        trials: u64,
    },
    /// A probe id that occurs twice, because one image must not count twice.
    #[error("probe '{probe}' occurs twice among the {kind} searches; give every probe its own id")]
    RepeatedProbe {
        /// The repeated id.
        probe: String,
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// A label that is said to be both enrolled and never enrolled.
    #[error("label '{label}' is searched as never enrolled, and also as mated or left out")]
    ContradictoryLabel {
        /// The label.
        label: String,
    },
    /// Nothing is enrolled. In an empty gallery no stranger finds anything, whatever the threshold.
    #[error("the gallery is empty, so nothing can be learnt about it; enrol its items first")]
    EmptyGallery,
    /// A margin factor that is not above 0 and at most 1.
    #[error("margin factor {value} is not above 0 and at most 1; 0.75 is usual")]
    MarginFactor {
        /// The number given.
        value: f64,
    },
    /// There is no second label, so the margin score is undefined.
    #[error(
        "the margin score takes the best item of a second label, and probe '{probe}' found none; enrol more labels, or leave the margin out"
    )]
    NoOtherLabel {
        /// The probe.
        probe: String,
    },
    /// A target FRR that is too low for any number of trials, or too high for a promise.
    #[error("target FRR {value} is outside [1e-9, 0.5]; give it as a fraction, such as 0.05")]
    TargetFrr {
        /// The number given.
        value: f64,
    },
    /// A prior of 0 or 1, at which one kind of search would never occur.
    #[error("prior {value} is outside [1e-9, 1 - 1e-9]; give it as a fraction, such as 0.01")]
    Prior {
        /// The number given.
        value: f64,
    },
    /// A cost that is not positive or is out of range.
    #[error("the cost of a {of}, {value}, is outside [1e-9, 1e9]; give both in the same unit")]
    Cost {
        /// `false accept` or `false reject`.
        of: &'static str,
        /// The number given.
        value: f64,
    },
    /// A rate that needs a kind of search of which there is none.
    #[error("there are no {kind} searches with a score to choose a threshold by; add some")]
    NoEvidence {
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// A score that is NaN.
    #[error("a score of the {kind} searches is not a number; leave out what has no score")]
    NotAScore {
        /// `mated` or `non-mated`.
        kind: &'static str,
    },
    /// The FRR is above the FAR at every threshold, so they are never equal.
    #[error(
        "FAR and FRR never meet: with everything found accepted, FAR is {} and FRR, by \
         wrong or missing candidates alone, {}; choose by a target FAR or by cost",
        percent(*.far), percent(*.frr)
    )]
    NoEqualError {
        /// The FAR at the lowest threshold.
        far: f64,
        /// The FRR at the lowest threshold.
        frr: f64,
    },
    /// A rate outside [0, 1].
    #[error("rate {value} is outside [0, 1]; give it as a fraction, such as 0.001")]
    NotARate {
        /// The number given.
        value: f64,
    },
    /// Growth to a size that the gallery has already.
    #[error(
        "a gallery of {now} items does not grow to {later}; allow for more items than it has, or for no growth"
    )]
    NoGrowth {
        /// Number of items today.
        now: u64,
        /// Number of items later.
        later: u64,
    },
    /// Growth that needs a target today which is too low for any number of trials.
    #[error(
        "FAR {} in a gallery that grows from {now} items to {later} needs FAR {} today, which no number of labels can show; \
         allow for less growth, or ask for a higher FAR",
        percent(*.far), percent(*.far_today)
    )]
    GrowthTooFar {
        /// The target FAR that was asked for.
        far: f64,
        /// Number of items today.
        now: u64,
        /// Number of items later.
        later: u64,
        /// The FAR that today's gallery would need.
        far_today: f64,
    },
    /// A part of a gallery that is empty or larger than the gallery.
    #[error("a part of {size} cannot be drawn from {whole}; ask for 1 to {whole}")]
    NotAPart {
        /// Number of items or labels asked for.
        size: u64,
        /// Number of items or labels that exist.
        whole: u64,
    },
    /// A search with more candidates than its depth or the size of the gallery allows.
    #[error("a search lists more than {most} candidates, its depth or the items of the gallery")]
    TooManyCandidates {
        /// The highest number of candidates that a search can list.
        most: usize,
    },
    /// A number of folds that is too low to hold labels out, or uselessly high.
    #[error("{count} parts of the labels are outside [2, 100]; 5 is a good number")]
    FoldCount {
        /// The number given.
        count: u32,
    },
    /// No threshold keeps the target FRR, or there are too few trials to show it.
    #[error(transparent)]
    Frr(#[from] FrrRefused),
    /// Labels that were used for two purposes.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// A certificate would depend on unnamed strangers.
    #[error(transparent)]
    Unnamed(#[from] UnnamedRefused),
    /// Labels that differ only in spelling.
    #[error(transparent)]
    Alike(#[from] LabelsAlike),
    /// Too few independent trials for the target.
    #[error(transparent)]
    Underpowered(#[from] Underpowered),
    /// Too few labels in a group that has to keep the target.
    #[error(transparent)]
    Groups(#[from] GroupsUnderpowered),
    /// Strangers without a value in the column, for whom no group target could hold.
    #[error(
        "{missing} of {strangers} searches of strangers have no value of '{column}'; give each one in the metadata, or leave it out"
    )]
    GroupUnknown {
        /// The metadata column.
        column: String,
        /// Number of searches without a value.
        missing: u64,
        /// Number of all searches for strangers.
        strangers: u64,
    },
    /// Targets for groups need a policy with a target FAR.
    #[error("the worst group is that of a certified target FAR; no other policy has one")]
    GroupsWithoutTargetFar,
    /// Settings name no target, or several.
    #[error(
        "the settings name no target or several; one of target_far, target_frr, equal_error and costs is what a \
         threshold is for"
    )]
    NotOneTarget,
    /// A review band needs a policy whose threshold does not depend on mated searches.
    #[error("a review band goes with a target FAR; no other policy has one")]
    ReviewWithoutTargetFar,
    /// Every item was searched for among the others, and an FRR is to be promised.
    #[error(
        "a gallery that searches itself cannot promise an FRR, neither a target nor a review band: items that find each other are not independent; give queries of their own"
    )]
    MutualMates,
    /// The record belongs to another model, gallery, index or metric.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A record that is longer than any that this software writes.
    #[error("an operating point of {bytes} bytes is over the limit of {limit}")]
    RecordTooLarge {
        /// Number of bytes given.
        bytes: usize,
        /// Number of bytes allowed.
        limit: usize,
    },
    /// Not JSON, or not the fields of an operating point.
    #[error("this is not an operating point: {0}; calibrate again or restore the file")]
    NotARecord(#[source] serde_json::Error),
    /// A record in a format of another version.
    #[error("operating point has format {found}, this software reads format {supported}")]
    UnknownFormat {
        /// The format that the record names.
        found: u64,
        /// The format that can be read.
        supported: u64,
    },
    /// The content does not match its id.
    #[error("operating point {stated} was altered: its content hashes to {computed}; restore it")]
    Altered {
        /// The id in the record.
        stated: String,
        /// The id that the content has.
        computed: String,
    },
    /// Growth needs a target FAR, because the growth of other rates cannot be predicted.
    #[error("a larger gallery can be allowed for with a target FAR only")]
    GrowthWithoutTargetFar,
    /// A cohort without members.
    #[error("the cohort is empty, so no score can be normalised against it; give it embeddings")]
    EmptyCohort,
    /// A cohort with fewer than two labels: an item is only compared with members of other labels.
    #[error(
        "a cohort takes items of two labels at least, so that scores can be normalised; enrol more"
    )]
    CohortLabels,
    /// A cohort member that is not a unit vector.
    #[error("a member of the cohort cannot be used: {0}; calibrate again")]
    CohortMember(#[source] matchpoint_vector::NotAnEmbedding),
    /// Bytes that are not a cohort.
    #[error("this is not a cohort: {0}; calibrate again or restore the file")]
    NotACohort(String),
    /// The cohort has another dimension, so it comes from another model.
    #[error(
        "the cohort has dimension {cohort}, the embedding {embedding}; embed both with one model"
    )]
    CohortDimension {
        /// The dimension of the cohort member.
        cohort: usize,
        /// The dimension of the embedding.
        embedding: usize,
    },
    /// A mean and deviation that similarities cannot have.
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
    /// A floor for the deviation that is out of range.
    #[error("deviation floor {value} is outside [1e-6, 1]; 0.001 suits cosine similarities")]
    DeviationFloor {
        /// The number given.
        value: f64,
    },
    /// A record of a version that had thresholds for groups of items.
    #[error(
        "the operating point has thresholds by group of items, which this version no longer has; \
         calibrate again"
    )]
    ThresholdsByGroup,
    /// Not JSON, or not the fields of a recording.
    #[error("this is not a recording of searches: {0}; calibrate again or restore the file")]
    NotARecording(#[source] serde_json::Error),
    /// The searches do not match their digest.
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
    /// The code of a refused target; `None` if the input itself is wrong.
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

    /// For a refusal: the number of labels that the target needs, if known, and the number that there are.
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

/// The number of labels that a refused target lacks.
struct Shortage {
    needed: Option<u64>,
    present: u64,
    best_supported: f64,
}
