//! Selects annotated decisions that form a simple random sample of the searches, with their pictures.

use std::ops::Range;
use std::path::Path;

use super::audit_evaluation::sampled;
use super::error::MonitorError;
use super::resets::Resets;
use super::sampling_design::{design_of, sampling_hash};
use crate::journal::FILE_NAME;
use crate::journal::entry::{AnnotatedTruth, DecisionId, DecisionRow};
use crate::journal::read::JournalReader;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::audit::SearchTruth;
use matchpoint_calibration::monitoring::plain_sample::{SampledRow, plain_sample};

/// What a decision's query showed, by its annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryContent {
    /// A label that is enrolled now or was enrolled at some time.
    Label(String),
    /// A named stranger.
    Named(String),
    /// An unnamed stranger.
    Unnamed,
}

/// A labelled decision.
#[derive(Clone, Debug)]
pub struct LabelledDecision {
    /// Its id.
    pub id: DecisionId,
    /// What its query showed.
    pub shown: QueryContent,
    /// The picture, if it is stored.
    pub image: Option<Vec<u8>>,
}

/// Passes to `take` the annotated decisions of operating point `point` that were made within these times and
/// form a simple random sample of its searches (`plain_sample`), until `take` has enough. Returns whether there
/// is such a sample. It can run while the deployment is served.
///
/// # Errors
/// Returns an error if there is no journal, if it is damaged, or if the disk fails.
pub fn labelled_sample(
    folder: &Path,
    point: &str,
    unix_ms: Range<u64>,
    mut take: impl FnMut(LabelledDecision) -> bool,
) -> Result<bool, MonitorError> {
    let reader = JournalReader::open(&folder.join(FILE_NAME))?;
    let Some(design) = design_of(folder)? else {
        return Ok(false);
    };
    let since_ms = Resets::of(folder, point, design.since_unix_ms)?.since_ms();
    let since_ms = since_ms.max(reader.representative_since_ms()?);
    let (mut rows, mut said) = (Vec::new(), Vec::new());
    reader.audited(point, since_ms.max(unix_ms.start), |row| {
        if unix_ms.contains(&row.entry.id.unix_ms())
            && let Some((sampled, truth)) = annotated(&row)
        {
            rows.push(sampled);
            said.push((row.entry.id, truth));
        }
    })?;
    let Some(kept) = plain_sample(&rows) else {
        return Ok(false);
    };
    for place in kept {
        let Some((id, Some(truth))) = said.get(place).cloned() else {
            continue;
        };
        let shown = match truth {
            AnnotatedTruth::Mated { label } => QueryContent::Label(label),
            AnnotatedTruth::Stranger { name } => QueryContent::Named(name),
            // Unusable ones do not occur here.
            AnnotatedTruth::NonMated | AnnotatedTruth::Unusable => QueryContent::Unnamed,
        };
        let image = reader.image(id)?;
        if !take(LabelledDecision { id, shown, image }) {
            break;
        }
    }
    Ok(true)
}

/// A sampled row, and its annotation if it can be used.
fn annotated(row: &DecisionRow) -> Option<(SampledRow, Option<AnnotatedTruth>)> {
    let said = row.annotation.as_ref().map(|said| said.truth.clone());
    let said = said.filter(|truth| *truth != AnnotatedTruth::Unusable);
    // Only the existence of an annotation matters here; the calibration finds out which labels are enrolled.
    let truth = said.as_ref().map(|_| SearchTruth::NonMated);
    let row_of_audit = sampled(row, row.entry.decision == Decision::Accept, truth)?;
    let drawn = SampledRow {
        row: row_of_audit,
        sampling_hash: sampling_hash(&row.entry.id),
    };
    Some((drawn, said))
}

#[cfg(test)]
mod tests {
    use super::super::sampling_design::begin_design;
    use super::*;
    use crate::clock::now_ms;
    use crate::journal::entry::{
        Annotation, AnnotationKind, DecisionEntry, Sampling, SearchSource,
    };
    use crate::journal::{Journal, JournalOptions, Retention};
    use matchpoint_calibration::monitoring::strata::Strata;

    fn reject(id: DecisionId) -> DecisionEntry {
        DecisionEntry {
            id,
            operating_point: Some("op-1".to_owned()),
            generation: 1,
            gallery_items: 1,
            state: None,
            decision: Decision::Reject,
            best: None,
            filtered: false,
            sampling: Sampling::new(0, 1.0, true),
            source: SearchSource::Live,
        }
    }

    #[test]
    fn a_plain_sample_holds_nothing_of_the_time_of_which_others_were_removed() {
        let folder = tempfile::tempdir().unwrap();
        begin_design(folder.path(), &Strata::usual()).unwrap();
        let retention = Retention {
            ms: u64::MAX,
            audited_ms: u64::MAX,
            bytes: 1 << 20,
        };
        let options = JournalOptions {
            retention,
            clock: now_ms,
        };
        let path = folder.path().join(FILE_NAME);
        let journal = Journal::open(&path, options, |_| {}).unwrap();
        let began = now_ms();
        let id = |number: u64| {
            let mut rest = [0; 10];
            rest[2..].copy_from_slice(&number.to_be_bytes());
            DecisionId::at(began + number, rest)
        };
        let said = |number: u64| Annotation {
            decision: id(number),
            truth: AnnotatedTruth::NonMated,
            annotator: "anna".to_owned(),
            unix_ms: began + number,
            kind: AnnotationKind::Audit,
        };
        let sample = || {
            let mut found = Vec::new();
            let take = |decision: LabelledDecision| {
                found.push(decision.id);
                true
            };
            labelled_sample(folder.path(), "op-1", 0..u64::MAX, take).map(|any| (any, found))
        };
        (0..50).for_each(|number| journal.record(reject(id(number)), None));
        journal.report((0..50).map(said).collect()).unwrap();
        assert_eq!(sample().unwrap().1.len(), 50);
        // In parts that the queue holds, however slow the disk is.
        for part in [50..6_000, 6_000..12_000] {
            part.for_each(|number| journal.record(reject(id(number)), None));
            journal.flush().unwrap();
        }
        journal.retain().unwrap();
        let reader = journal.reader().unwrap();
        assert!(reader.decision(id(49)).unwrap().is_some());
        assert!(reader.decision(id(50)).unwrap().is_none());
        assert_eq!(sample().unwrap(), (false, Vec::new()));
        journal
            .report((11_980..12_000).map(said).collect())
            .unwrap();
        let (any, found) = sample().unwrap();
        assert!(any);
        assert_eq!(found, (11_980..12_000).map(id).collect::<Vec<_>>());
    }
}
