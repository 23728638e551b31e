//! What is removed, oldest first, so that the journal keeps to its age and size.

use rusqlite::{Transaction, params};

use crate::journal::entry::DecisionId;
use crate::journal::error::{JournalError, failed};
use crate::journal::format::{source_kind, whole};
use crate::journal::store::{JournalStore, immediate, write_counts};
use crate::journal::totals::{self, CountsByKey, NumberedKey};

/// Rows removed in one transaction: a few milliseconds.
const STEP_ROWS: u32 = 500;
/// Images removed in one transaction. Each byte is overwritten, and is in the log until then.
const STEP_IMAGE_BYTES: u64 = 16 * 1024 * 1024;
/// Space given back to the disk at once, if the file is too long.
const SHRINK_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How far the clock may be ahead of the newest decision when a journal is opened. A longer pause is taken to be as
/// long as this: if the clock is wrong, what is removed by it does not come back.
const PAUSE_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;

/// How a journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// How much is kept.
    pub retention: Retention,
    /// The clock for the age of rows, in milliseconds since 1970-01-01 UTC.
    pub clock: fn() -> u64,
}

/// How much is kept. Totals are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Decisions that were not sampled and are not annotated, and images, are kept for this many
    /// milliseconds.
    pub ms: u64,
    /// Sampled and annotated decisions are kept for this long, without their images: rates and evidence are
    /// computed from them, annotated or not. Never shorter than `ms`.
    pub audited_ms: u64,
    /// Length of the file from which on the oldest decisions go, but not annotated ones, which take room from
    /// the others: those who may only search must not displace what people said. Its log adds at most 16 MiB.
    pub bytes: u64,
}

/// Where the next step begins.
#[derive(Clone, Debug, Default)]
pub(super) struct RetentionCursor {
    /// Rows up to here are removed, or kept for the audit and without an image.
    passed: Vec<u8>,
}

impl RetentionCursor {
    /// Goes back to a row that was inserted later than its successors.
    pub(super) fn inserted(&mut self, id: &[u8; 16]) {
        if id.as_slice() <= self.passed.as_slice() {
            self.passed.clear();
        }
    }
}

/// What one step did.
pub(super) struct Removed {
    pub(super) changes: CountsByKey,
    /// Sampled decisions that were removed for space before anybody annotated them.
    pub(super) crowded_out: u64,
    /// Whether another step would find more.
    pub(super) more: bool,
}

/// A row that a step considers.
struct RemovableRow {
    id: Vec<u8>,
    /// Whether it was sampled or is annotated.
    audited: bool,
    image_bytes: u64,
    key: NumberedKey,
}

impl JournalStore {
    /// How much too far ahead the clock is taken to be, in milliseconds.
    pub(super) fn clock_ahead_ms(&self, now_ms: u64) -> Result<u64, JournalError> {
        let newest = "SELECT max(id) FROM decisions";
        let newest = self.connection.query_row(newest, [], |row| row.get(0));
        let newest: Option<Vec<u8>> = newest.map_err(|error| failed(&self.path, "read", error))?;
        let newest = newest.and_then(|id| DecisionId::from_bytes(id.try_into().ok()?));
        let Some(newest) = newest else {
            return Ok(0);
        };
        let latest = newest.unix_ms().saturating_add(PAUSE_MS_MAX);
        let ahead = now_ms.saturating_sub(latest);
        if 0 < ahead {
            tracing::warn!(
                journal = %self.path.display(),
                newest_decision_unix_ms = newest.unix_ms(),
                clock_unix_ms = now_ms,
                "the clock is more than 30 days after the newest decision: either nothing was decided for that long, or the clock is wrong. Until the next start, decisions are removed by age as if it had been 30 days"
            );
        }
        Ok(ahead)
    }

    /// Removes a few of the oldest rows that are too old or do not fit.
    pub(super) fn remove_step(
        &mut self,
        retention: Retention,
        now_ms: u64,
        cursor: &mut RetentionCursor,
    ) -> Result<Removed, JournalError> {
        let too_large = retention.bytes < self.used_bytes()?;
        let before = |ms: u64| DecisionId::at(now_ms.saturating_sub(ms), [0; 10]);
        let newest = DecisionId::at(u64::MAX >> 16, [u8::MAX; 10]);
        let until = if too_large {
            newest
        } else {
            before(retention.ms)
        };
        let removed = self.try_remove(RetentionSweep {
            after: &cursor.passed,
            until,
            also_audited: false,
            spares_labelled: true,
        });
        let mut crowded_out = 0;
        let mut found = removed.map_err(|error| failed(&self.path, "remove from", error))?;
        if let Some(last) = found.last.take() {
            cursor.passed = last;
        } else {
            let kept = retention.audited_ms.max(retention.ms);
            let aged = RetentionSweep {
                after: &[],
                until: before(kept),
                also_audited: true,
                spares_labelled: false,
            };
            let removed = self.try_remove(aged);
            found = removed.map_err(|error| failed(&self.path, "remove from", error))?;
            if too_large && !found.looked_at {
                let removed = self.try_remove(RetentionSweep {
                    until: newest,
                    spares_labelled: true,
                    ..aged
                });
                found = removed.map_err(|error| failed(&self.path, "remove from", error))?;
                crowded_out = found.changes.values().map(|count| count.removed).sum();
            }
        }
        totals::add(&mut self.counts, &found.changes);
        let more = found.looked_at;
        if !more {
            self.shrink(retention.bytes)?;
        }
        Ok(Removed {
            changes: found.changes,
            crowded_out,
            more,
        })
    }

    /// Gives unused space back to the disk, if the file is too long.
    fn shrink(&self, bytes: u64) -> Result<(), JournalError> {
        let excess = self.file_bytes()?.saturating_sub(bytes);
        if excess == 0 {
            return Ok(());
        }
        let pages = excess.min(SHRINK_BYTES_MAX).div_ceil(self.page_bytes()?);
        let sql = format!("PRAGMA incremental_vacuum({pages})");
        let shrink = || {
            let mut statement = self.connection.prepare(&sql)?;
            let mut freed = statement.query([])?;
            // Each step gives back one page.
            while freed.next()?.is_some() {}
            Ok(())
        };
        shrink().map_err(|error| failed(&self.path, "shorten", error))
    }

    fn try_remove(&mut self, sweep: RetentionSweep<'_>) -> Result<RetentionSwept, rusqlite::Error> {
        let transaction = immediate(&mut self.connection)?;
        let candidates = candidates(&transaction, &sweep)?;
        let (mut changes, mut bytes, mut last) = (CountsByKey::new(), 0, None);
        let mut removed_to = self.removed_to.clone();
        for candidate in candidates {
            if STEP_IMAGE_BYTES < bytes {
                break;
            }
            bytes += candidate.image_bytes;
            if 0 < candidate.image_bytes {
                let mut delete = transaction.prepare_cached("DELETE FROM images WHERE id = ?")?;
                delete.execute([&candidate.id])?;
            }
            if sweep.also_audited || !candidate.audited {
                remove(&transaction, &candidate)?;
                changes.entry(candidate.key).or_default().removed += 1;
                removed_to = removed_to.max(candidate.id.clone());
            }
            last = Some(candidate.id);
        }
        if last.is_some() {
            write_counts(&transaction, &changes)?;
            let for_space = sweep.also_audited && sweep.spares_labelled;
            let mut set = transaction.prepare_cached(
                "UPDATE journal SET removed_to = ?1, \
                 crowded_to = CASE WHEN ?2 THEN max(crowded_to, ?3) ELSE crowded_to END",
            )?;
            set.execute(params![removed_to, for_space, last])?;
            drop(set);
            transaction.commit()?;
            self.removed_to = removed_to;
        }
        Ok(RetentionSwept {
            looked_at: last.is_some(),
            changes,
            last,
        })
    }
}

/// Which rows a step considers.
#[derive(Clone, Copy)]
struct RetentionSweep<'a> {
    after: &'a [u8],
    until: DecisionId,
    also_audited: bool,
    /// Whether annotated rows are kept while other sampled rows are removed.
    spares_labelled: bool,
}

struct RetentionSwept {
    changes: CountsByKey,
    looked_at: bool,
    last: Option<Vec<u8>>,
}

fn candidates(
    transaction: &Transaction<'_>,
    sweep: &RetentionSweep<'_>,
) -> Result<Vec<RemovableRow>, rusqlite::Error> {
    let mut statement = transaction.prepare_cached(
        "SELECT d.id, d.labelled, coalesce(length(i.bytes), 0), d.point, d.source, d.decision, \
         d.stratum, d.filtered, d.sampled FROM decisions d LEFT JOIN images i ON i.id = d.id \
         WHERE ? < d.id AND d.id < ? AND (? OR d.labelled = 0) ORDER BY d.id LIMIT ?",
    )?;
    let all = !(sweep.also_audited && sweep.spares_labelled);
    let bounds = params![sweep.after, sweep.until.as_bytes(), all, STEP_ROWS];
    let rows = statement.query_map(bounds, |row| {
        Ok(RemovableRow {
            id: row.get(0)?,
            audited: row.get::<_, i64>(1)? != 0 || row.get(8)?,
            image_bytes: whole(row, 2)?,
            key: NumberedKey {
                point: row.get(3)?,
                source: source_kind(row, 4)?,
                decision: row.get(5)?,
                stratum: row.get(6)?,
                filtered: row.get(7)?,
            },
        })
    })?;
    rows.collect()
}

fn remove(transaction: &Transaction<'_>, candidate: &RemovableRow) -> Result<(), rusqlite::Error> {
    let mut delete = transaction.prepare_cached("DELETE FROM decisions WHERE id = ?")?;
    delete.execute([&candidate.id])?;
    // Also if it has feedback only.
    if candidate.audited {
        let mut delete = transaction.prepare_cached("DELETE FROM labels WHERE decision = ?")?;
        delete.execute([&candidate.id])?;
    }
    Ok(())
}
