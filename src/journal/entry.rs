//! What is recorded of a decision, and its annotations: what people say about it afterwards.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use matchpoint_calibration::decision::Decision;

/// Longest label, and longest name of an annotator: the same limits as for labels and ids of items.
pub const TEXT_BYTES_MAX: usize = 512;

/// The id of a decision: a UUID of version 7, whose first 48 bits are the time in milliseconds.
///
/// Ids are in the order in which decisions were made, so that the journal needs no other order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 16]", into = "[u8; 16]")]
pub struct DecisionId(Uuid);

impl DecisionId {
    /// A new id: greater than all that this process made before.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// A new id that names its journal. The order stays: random bits are replaced, not the counter.
    #[must_use]
    pub fn fresh_in(journal: JournalId) -> Self {
        let mut bytes = *Uuid::now_v7().as_bytes();
        if let Some(last) = bytes.last_chunk_mut() {
            *last = journal.0.to_be_bytes();
        }
        Self(Uuid::from_bytes(bytes))
    }

    /// The journal that the id names. Ids from before journals had names, and of servers that record
    /// nothing, name a random one.
    #[must_use]
    pub fn journal(&self) -> JournalId {
        let last = self.0.as_bytes().last_chunk().copied();
        JournalId(u16::from_be_bytes(last.unwrap_or_default()))
    }

    /// The id of a time, in milliseconds since 1970-01-01 UTC, distinguished from others of the same
    /// millisecond by ten bytes.
    #[must_use]
    pub fn at(unix_ms: u64, rest: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &rest).into_uuid())
    }

    /// Reads an id as answers carry it; `None` if it is not a UUID of version 7.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::checked(Uuid::try_parse(text).ok()?)
    }

    /// Its sixteen bytes, in the order of decisions.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// When the decision was made, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        u64::try_from(self.0.as_u128() >> 80).unwrap_or(u64::MAX)
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        Self::checked(Uuid::from_bytes(bytes))
    }

    fn checked(uuid: Uuid) -> Option<Self> {
        (uuid.get_version_num() == 7).then_some(Self(uuid))
    }
}

impl TryFrom<[u8; 16]> for DecisionId {
    type Error = &'static str;

    fn try_from(bytes: [u8; 16]) -> Result<Self, Self::Error> {
        Self::from_bytes(bytes).ok_or("not a UUID of version 7")
    }
}

impl From<DecisionId> for [u8; 16] {
    fn from(id: DecisionId) -> Self {
        *id.as_bytes()
    }
}

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of the state that decided: of the items, the model, the index and the operating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateId([u8; 16]);

impl StateId {
    /// The state of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads an id as answers carry it: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let read = base16ct::lower::decode(text, &mut bytes).ok()?;
        (read.len() == 16).then_some(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Display for StateId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A journal, as the ids of its decisions name it: their last 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalId(u16);

impl JournalId {
    /// A random one for a new journal, so that those of a few replicas differ.
    #[must_use]
    pub fn fresh() -> Self {
        DecisionId::fresh().journal()
    }

    /// The number as it is stored.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    pub(super) fn kept(number: u16) -> Self {
        Self(number)
    }
}

impl std::fmt::Display for JournalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// Where a search came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SearchSource {
    /// A caller; what the query shows is not known.
    Live,
    /// A caller who named what to compare with: no search, and so in no rate of searches.
    Comparison,
    /// A probe of our own whose label is enrolled.
    MatedCanary {
        /// The label that it should find.
        expected: String,
    },
    /// A probe of our own that shows a stranger to the items it was searched among.
    NonMatedCanary {
        /// What it shows, which is not enrolled, or was left out of the search.
        expected: String,
    },
}

/// Where a search came from, without the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// A caller.
    Live,
    /// A caller who named what to compare with.
    Comparison,
    /// A probe whose label is enrolled.
    MatedCanary,
    /// A probe that shows a stranger.
    NonMatedCanary,
}

impl SourceKind {
    /// The name in metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Comparison => "comparison",
            Self::MatedCanary => "canary_mated",
            Self::NonMatedCanary => "canary_nonmated",
        }
    }
}

impl SearchSource {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Live => SourceKind::Live,
            Self::Comparison => SourceKind::Comparison,
            Self::MatedCanary { .. } => SourceKind::MatedCanary,
            Self::NonMatedCanary { .. } => SourceKind::NonMatedCanary,
        }
    }

    /// The label that a canary shows.
    #[must_use]
    pub fn expected(&self) -> Option<&str> {
        match self {
            Self::Live | Self::Comparison => None,
            Self::MatedCanary { expected } | Self::NonMatedCanary { expected } => Some(expected),
        }
    }
}

/// How a decision took part in the sample for audit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    stratum: u16,
    probability: f64,
    sampled: bool,
}

impl Sampling {
    /// A decision of `stratum`, which was chosen with `probability`, and whether it was.
    ///
    /// `None` for a probability outside (0, 1]: nothing could be weighted by it.
    #[must_use]
    pub fn new(stratum: u16, probability: f64, sampled: bool) -> Option<Self> {
        let usable = 0.0 < probability && probability <= 1.0;
        usable.then_some(Self {
            stratum,
            probability,
            sampled,
        })
    }

    /// Whether decisions can be weighted by it, which is not certain of what is read from a file.
    pub(super) fn is_usable(&self) -> bool {
        Self::new(self.stratum, self.probability, self.sampled).is_some()
    }

    /// The number of its stratum.
    #[must_use]
    pub fn stratum(&self) -> u16 {
        self.stratum
    }

    /// The probability with which a decision of this stratum is chosen, in (0, 1].
    #[must_use]
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// Whether this one was chosen.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.sampled
    }
}

/// The item that was decided on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecidedItem {
    /// Its label.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its cosine similarity.
    pub similarity: f32,
    /// What was compared with the threshold; `None` if nothing was decided.
    pub decision_score: Option<f32>,
    /// Its similarity minus that of the best item of another label; `None` if the search found no other
    /// label.
    pub margin: Option<f32>,
}

/// One decision, without the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionEntry {
    /// Its id, which contains its time.
    pub id: DecisionId,
    /// The active operating point; `None` when undecided.
    pub operating_point: Option<String>,
    /// The gallery's generation that was searched.
    pub generation: u64,
    /// Items in it.
    pub gallery_items: u64,
    /// The state by which it was decided; `None` for a decision from before states were recorded.
    pub state: Option<StateId>,
    /// What was decided.
    pub decision: Decision,
    /// What was decided on; `None` if nothing was found.
    pub best: Option<DecidedItem>,
    /// Whether a filter restricted the items that could be found.
    pub filtered: bool,
    /// Its part in the sample; `None` if nothing was decided.
    pub sampling: Option<Sampling>,
    /// Where the search came from.
    pub source: SearchSource,
}

/// What a query really showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnotatedTruth {
    /// Something enrolled.
    Mated {
        /// Its label.
        label: String,
    },
    /// A stranger: nothing enrolled.
    NonMated,
    /// A stranger who is known to somebody.
    Stranger {
        /// Who it is: always the same name for the same stranger.
        name: String,
    },
    /// Nobody can tell.
    Unusable,
}

/// What somebody says a decision's query showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The decision.
    pub decision: DecisionId,
    /// What the query showed.
    pub truth: AnnotatedTruth,
    /// Who or what says so.
    pub annotator: String,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Whether somebody was asked for it.
    pub kind: AnnotationKind,
}

impl Annotation {
    pub(super) fn check(&self) -> Result<(), AnnotationRefusal> {
        let fits = |text: &str| (1..=TEXT_BYTES_MAX).contains(&text.len());
        let label = match &self.truth {
            AnnotatedTruth::Mated { label: text } | AnnotatedTruth::Stranger { name: text } => {
                Some(text)
            }
            AnnotatedTruth::NonMated | AnnotatedTruth::Unusable => None,
        };
        let problem = |field| AnnotationRefusal::Text { field };
        if label.is_some_and(|label| !fits(label)) {
            return Err(problem("label"));
        }
        if !fits(&self.annotator) {
            return Err(problem("said_by"));
        }
        Ok(())
    }

    /// Whether it says the same as `other`, and nothing more.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        self.truth == other.truth && self.annotator == other.annotator && self.kind == other.kind
    }
}

/// Why one annotation of a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationRefusal {
    /// Never recorded, or lost.
    #[error(
        "there is no decision {decision} in the journal; it belongs to another deployment, or was not recorded"
    )]
    Unknown {
        /// The id.
        decision: DecisionId,
    },
    /// Its id names another journal.
    #[error(
        "decision {decision} is not in this journal, and its id names journal {}: ask the server that records in that one",
        decision.journal()
    )]
    Elsewhere {
        /// The id.
        decision: DecisionId,
    },
    /// As old as decisions that were removed.
    #[error("decision {decision} is older than what the journal keeps")]
    Expired {
        /// The id.
        decision: DecisionId,
    },
    /// A text of the annotation is empty or too long.
    #[error("{field} must have 1 to {TEXT_BYTES_MAX} bytes")]
    Text {
        /// Which.
        field: &'static str,
    },
}

/// What an annotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationOutcome {
    /// The first for its decision.
    Added,
    /// It says what somebody else said before.
    Confirmed,
    /// It differs from what was said before, and counts from now on.
    Corrected,
    /// It was there already; nothing was written.
    Repeated,
}

/// Why a decision has an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationKind {
    /// Somebody was asked, because the decision was sampled for audit: it is weighted by the inclusion
    /// probability.
    Audit,
    /// Somebody reported it unasked, which depends on the truth. It shows precision only, even if the
    /// decision happens to be sampled.
    Feedback,
}

/// A decision as it is in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRow {
    /// The decision.
    pub entry: DecisionEntry,
    /// The annotation that counts: for a sampled decision, the latest that was asked for.
    pub annotation: Option<Annotation>,
    /// The latest feedback on a sampled decision, if that was looked up.
    pub feedback: Option<Annotation>,
}

impl DecisionRow {
    /// Why it has an annotation; `None` without one.
    #[must_use]
    pub fn annotation_kind(&self) -> Option<AnnotationKind> {
        self.annotation.as_ref()?;
        Some(match self.inclusion_probability() {
            Some(_) => AnnotationKind::Audit,
            None => AnnotationKind::Feedback,
        })
    }

    /// The probability with which it was sampled; `None` if it took no part.
    #[must_use]
    pub fn inclusion_probability(&self) -> Option<f64> {
        let sampling = self.entry.sampling.filter(Sampling::sampled)?;
        Some(sampling.probability())
    }
}
