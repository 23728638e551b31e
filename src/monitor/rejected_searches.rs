//! Rejected searches whose pictures may be kept: what nobody has enrolled may be among them.

use std::ops::Range;
use std::path::Path;

use super::audit_evaluation::recorded_decisions;
use super::error::MonitorError;
use crate::journal::FILE_NAME;
use crate::journal::entry::{AnnotatedTruth, DecisionId, DecisionRow, Sampling, SourceKind};
use crate::journal::read::JournalReader;
use matchpoint_calibration::decision::Decision;

/// A rejected search that was sampled for audit, so that its picture may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSearch {
    /// Its decision.
    pub id: DecisionId,
    /// Whom it shows, if an annotation names a stranger.
    pub stranger: Option<String>,
}

/// The rejected searches of callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedSearches {
    /// How many there are.
    pub rejects: u64,
    /// Those of them of which an annotation says that they show an enrolled label, or nothing that can be used.
    pub known: u64,
    /// Those that were sampled, without the known ones, in the order in which they were made.
    pub sampled: Vec<RejectedSearch>,
}

/// The rejected searches that the journal of the deployment in `folder` holds, made within these times, whatever operating point
/// rejected them. Also while the deployment is served.
///
/// # Errors
/// There is no journal, it is damaged, or the disk.
pub fn rejected_searches(
    folder: &Path,
    unix_ms: Range<u64>,
) -> Result<RejectedSearches, MonitorError> {
    let mut found = RejectedSearches::default();
    recorded_decisions(folder, unix_ms, |row| {
        found.take(row);
        true
    })?;
    // Those of one operating point come after those of another.
    found.sampled.sort_by_key(|search| search.id);
    Ok(found)
}

/// The picture of a decision, if it is kept.
///
/// # Errors
/// There is no journal, it is damaged, or the disk.
pub fn kept_picture(folder: &Path, id: DecisionId) -> Result<Option<Vec<u8>>, MonitorError> {
    Ok(JournalReader::open(&folder.join(FILE_NAME))?.image(id)?)
}

impl RejectedSearches {
    fn take(&mut self, row: DecisionRow) {
        let entry = row.entry;
        if entry.decision != Decision::Reject || entry.source.kind() != SourceKind::Live {
            return;
        }
        self.rejects += 1;
        let stranger = match row.annotation.map(|annotation| annotation.truth) {
            Some(AnnotatedTruth::Mated { .. } | AnnotatedTruth::Unusable) => {
                self.known += 1;
                return;
            }
            Some(AnnotatedTruth::Stranger { name }) => Some(name),
            Some(AnnotatedTruth::NonMated) | None => None,
        };
        if entry.sampling.is_some_and(|part| Sampling::sampled(&part)) {
            let id = entry.id;
            self.sampled.push(RejectedSearch { id, stranger });
        }
    }
}
