//! Annotations: what people say about decisions, written with its history.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::journal::entry::{
    Annotation, AnnotationKind, AnnotationOutcome, AnnotationRefusal, DecisionId, JournalId,
};
use crate::journal::error::{JournalError, failed};
use crate::journal::format::{UNASKED, read_annotation, truth_columns};
use crate::journal::store::{JournalStore, immediate};

/// What became of each annotation of a batch, in its order.
pub(super) type AnnotationOutcomes = Vec<Result<AnnotationOutcome, AnnotationRefusal>>;

impl JournalStore {
    /// Writes annotations in one transaction. What is refused or repeated changes nothing.
    pub(super) fn label(
        &mut self,
        labels: &[Annotation],
    ) -> Result<AnnotationOutcomes, JournalError> {
        let written = self.try_label(labels);
        written.map_err(|error| failed(&self.path, "write to", error))
    }

    fn try_label(&mut self, labels: &[Annotation]) -> Result<AnnotationOutcomes, rusqlite::Error> {
        let transaction = immediate(&mut self.connection)?;
        let mut outcomes = AnnotationOutcomes::with_capacity(labels.len());
        for label in labels {
            outcomes.push(match label.check() {
                Ok(()) => report(&transaction, label)?
                    .ok_or_else(|| absent(label.decision, &self.removed_to, self.name)),
                Err(refused) => Err(refused),
            });
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

/// Why a decision is not in the journal.
pub(super) fn absent(
    decision: DecisionId,
    removed_to: &[u8],
    name: JournalId,
) -> AnnotationRefusal {
    if decision.as_bytes().as_slice() <= removed_to {
        AnnotationRefusal::Expired { decision }
    } else if decision.journal() == name {
        AnnotationRefusal::Unknown { decision }
    } else {
        AnnotationRefusal::Elsewhere { decision }
    }
}

/// `None` if there is no such decision.
fn report(
    transaction: &Transaction<'_>,
    label: &Annotation,
) -> Result<Option<AnnotationOutcome>, rusqlite::Error> {
    let decision = label.decision;
    let sampled: Option<bool> = transaction
        .prepare_cached("SELECT sampled FROM decisions WHERE id = ?")?
        .query_row([decision.as_bytes()], |row| row.get(0))
        .optional()?;
    let Some(sampled) = sampled else {
        return Ok(None);
    };
    let mut history = history(transaction, decision)?;
    if sampled {
        // Annotations for the audit and unasked feedback are separate histories.
        history.retain(|said| said.kind == label.kind);
    }
    let outcome = match history.last() {
        None => AnnotationOutcome::Added,
        // Also if an answer was lost, the annotation was corrected since, and the first one is sent again.
        Some(last) if last.repeats(label) || history.contains(label) => {
            return Ok(Some(AnnotationOutcome::Repeated));
        }
        Some(last) if last.truth == label.truth => AnnotationOutcome::Confirmed,
        Some(_) => AnnotationOutcome::Corrected,
    };
    let (truth, text) = truth_columns(label);
    let sql =
        "INSERT INTO labels (decision, unix_ms, said_by, truth, label) VALUES (?, ?, ?, ?, ?)";
    transaction.prepare_cached(sql)?.execute(params![
        decision.as_bytes(),
        label.unix_ms.cast_signed(),
        label.annotator,
        truth,
        text
    ])?;
    let number = transaction.last_insert_rowid();
    // Feedback does not take a sampled decision off the queue: nobody asked whoever complains.
    if label.kind == AnnotationKind::Audit || !sampled {
        transaction
            .prepare_cached("UPDATE decisions SET labelled = ? WHERE id = ?")?
            .execute(params![number, decision.as_bytes()])?;
    }
    Ok(Some(outcome))
}

/// The latest feedback on each decision.
pub(super) fn feedback(
    connection: &rusqlite::Connection,
) -> Result<HashMap<DecisionId, Annotation>, rusqlite::Error> {
    let sql = "SELECT unix_ms, said_by, truth, label, decision FROM labels WHERE ? < truth \
               ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([UNASKED])?;
    let mut found = HashMap::new();
    while let Some(row) = rows.next()? {
        if let Some(decision) = DecisionId::from_bytes(row.get(4)?) {
            found.insert(decision, read_annotation(row, decision, 0)?);
        }
    }
    Ok(found)
}

/// All annotations of a decision, the latest last.
pub(super) fn history(
    connection: &rusqlite::Connection,
    decision: DecisionId,
) -> Result<Vec<Annotation>, rusqlite::Error> {
    let sql = "SELECT unix_ms, said_by, truth, label FROM labels WHERE decision = ? \
               ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([decision.as_bytes()], |row| {
        read_annotation(row, decision, 0)
    })?;
    rows.collect()
}
