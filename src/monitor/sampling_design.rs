//! The design by which decisions are sampled for annotation: strata, starting time, and a hash of their ids.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::now_ms;
use crate::files::{FileError, read_file, write_json};
use crate::journal::entry::DecisionId;
use matchpoint_calibration::monitoring::strata::Strata;

/// The file with the design of the audit and its starting time.
const DESIGN_FILE: &str = "audit.json";

/// The design of the audit, and the time since when it is used. Rates and evidence belong to one design.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SamplingDesign {
    strata: Strata,
    pub(super) since_unix_ms: u64,
}

/// 64 uniformly distributed bits that depend on neither score nor truth. It can be recomputed from the ids
/// which decisions are sampled.
pub(super) fn sampling_hash(id: &DecisionId) -> u64 {
    let digest: [u8; 32] = Sha256::digest(id.as_bytes()).into();
    digest
        .first_chunk()
        .map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

/// The design by which decisions of the deployment in `folder` are sampled; `None` if there is none yet, or if
/// it is damaged, which is logged.
pub(super) fn design_of(folder: &Path) -> Result<Option<SamplingDesign>, FileError> {
    let path = folder.join(DESIGN_FILE);
    match read_file(&path) {
        Ok(bytes) => Ok(serde_json::from_slice::<SamplingDesign>(&bytes)
            .inspect_err(|error| {
                tracing::error!(%error, path = %path.display(), "the design of the audit is damaged: another one begins when it is served, and rates, evidence and alarms start over");
            })
            .ok()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(FileError::io(&path, &cause)),
    }
}

/// How far the beginning of a design, or a reset, may lie ahead of the clock. Decisions before it count for nothing, so with a
/// beginning that is far ahead the audit would be silent; a clock that is corrected by less loses only as much.
pub(super) const AHEAD_MS_MAX: u64 = 60 * 60 * 1000;

/// The time since when decisions are sampled by these strata, which is now if they are new.
pub(super) fn begin_design(folder: &Path, strata: &Strata) -> Result<u64, FileError> {
    let known = design_of(folder)?;
    let path = folder.join(DESIGN_FILE);
    let now = now_ms();
    let ahead = |known: &SamplingDesign| now.saturating_add(AHEAD_MS_MAX) < known.since_unix_ms;
    if known.as_ref().is_some_and(ahead) {
        tracing::warn!(path = %path.display(), "the audit began at a time that has not come yet, so a clock was wrong: rates, evidence and alarms start over");
    } else if let Some(known) = known.as_ref().filter(|known| known.strata == *strata) {
        return Ok(known.since_unix_ms);
    } else if known.is_some() {
        tracing::warn!(path = %path.display(), "the design of the audit has changed: rates, evidence and alarms start over");
    }
    let design = SamplingDesign {
        strata: strata.clone(),
        since_unix_ms: now,
    };
    write_json(&path, &design)?;
    Ok(design.since_unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_design_from_the_future_begins_again_and_one_of_the_past_stays() {
        let folder = tempfile::tempdir().unwrap();
        let strata = Strata::usual();
        let write = |since_unix_ms: u64| {
            let design = SamplingDesign {
                strata: strata.clone(),
                since_unix_ms,
            };
            write_json(&folder.path().join(DESIGN_FILE), &design).unwrap();
        };
        let day = 24 * 60 * 60 * 1000;
        for (since, stays) in [
            (now_ms() - day, true),
            (now_ms() + 60_000, true),
            (now_ms() + day, false),
        ] {
            write(since);
            let before = now_ms();
            let begun = begin_design(folder.path(), &strata).unwrap();
            if stays {
                assert_eq!(begun, since);
            } else {
                assert!((before..=now_ms()).contains(&begun));
            }
        }
    }
}
