//! Records which of its own items today's gallery accepts with their labels left out.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::left_out_round::{LeftOutItem, LeftOutRound};
use super::lookalikes::Lookalike;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::files::{FileError, read_json, write_json};
use crate::telemetry;
use matchpoint_calibration::monitoring::left_out::{LeftOutRate, LeftOutSearch, LeftOutStanding};
use matchpoint_gallery::view::GalleryView;

/// The highest number of labels in a round: enough to show a FAR of 1 %, and few enough that a round is short.
const LEFT_OUT_MAX: usize = 500;
/// Number of look-alikes of a round that are named.
const NAMED_MAX: usize = 20;
/// Hashed before ids and labels; another seed would choose other items.
const SEED: &[u8] = b"matchpoint left out 1";
/// The file in the deployment's folder with the result of the first round under an operating point.
const FILE: &str = "left-out.json";

/// The result that later rounds are compared with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstRound {
    operating_point: String,
    /// `None` if items of the calibration had already been replaced or others added.
    rate: Option<LeftOutRate>,
}

/// The ids of the items of a round: one of each label, or a sample of labels if there are many. A hash chooses
/// them, so that the same items are searched for in each round, and new ones have the same chance to be
/// included.
#[must_use]
pub fn left_out_sample(view: &GalleryView) -> Vec<String> {
    let mut labels: HashMap<&str, ([u8; 32], &str)> = HashMap::new();
    for (head, _) in view.items() {
        let found = (hash(&head.id), head.id.as_str());
        labels
            .entry(&head.label)
            .and_modify(|known| *known = found.min(*known))
            .or_insert(found);
    }
    let mut sample: Vec<([u8; 32], &str)> = labels
        .into_iter()
        .map(|(label, (_, id))| (hash(label), id))
        .collect();
    sample.sort_unstable();
    sample.truncate(LEFT_OUT_MAX);
    sample.into_iter().map(|(_, id)| id.to_owned()).collect()
}

fn hash(text: &str) -> [u8; 32] {
    let seeded = Sha256::new().chain_update(SEED);
    seeded.chain_update(text).finalize().into()
}

impl Monitor {
    /// The latest round under the active operating point; `None` before its first.
    #[must_use]
    pub fn left_out(&self) -> Option<Arc<LeftOutRound>> {
        let active = self.observed().active_point()?;
        let round = self.left_out.load_full()?;
        (round.operating_point == active.id()).then_some(round)
    }

    /// Records the result of a round under an operating point.
    pub fn left_out_searched(&self, operating_point: &str, found: &[LeftOutItem]) {
        let searches: Vec<LeftOutSearch> = found
            .iter()
            .map(|one| LeftOutSearch {
                label: one.head.label.clone(),
                accepted_as: one.accepted_as.as_ref().map(|other| other.label.clone()),
            })
            .collect();
        // Another operating point has become active, or there was nothing to search for.
        let (Some(now), Some(today)) =
            (LeftOutRate::of(&searches), self.observed().promise_today())
        else {
            return;
        };
        let whole = today.coverage.is_some_and(|coverage| coverage.added() == 0);
        let first = self.first_round(operating_point, now, whole);
        let first = first.unwrap_or_else(|error| {
            tracing::warn!(%error, deployment = self.observed().name(), "what left-out searches came to at first is not known");
            None
        });
        let unix_ms = now_ms();
        let lookalikes = found.iter().filter_map(|one| {
            Some(Lookalike {
                unix_ms,
                item: one.head.id.clone(),
                label: one.head.label.clone(),
                others: 1,
                nearest: one.accepted_as.clone()?,
            })
        });
        let round = LeftOutRound {
            operating_point: operating_point.to_owned(),
            unix_ms,
            standing: LeftOutStanding {
                now,
                first,
                target_far: today.target_far,
            },
            lookalikes: lookalikes.take(NAMED_MAX).collect(),
        };
        self.show_left_out(&round);
        self.left_out.store(Some(Arc::new(round)));
    }

    /// The result of the first round. If there was none, this round becomes the first.
    fn first_round(
        &self,
        operating_point: &str,
        now: LeftOutRate,
        whole: bool,
    ) -> Result<Option<LeftOutRate>, FileError> {
        let Some(records) = self.observed().records() else {
            return Ok(None);
        };
        let path = records.join(FILE);
        let known = read_json::<FirstRound>(&path)?;
        if let Some(known) = known.filter(|known| known.operating_point == operating_point) {
            return Ok(known.rate);
        }
        let first = FirstRound {
            operating_point: operating_point.to_owned(),
            rate: whole.then_some(now),
        };
        write_json(&path, &first)?;
        Ok(first.rate)
    }

    fn show_left_out(&self, round: &LeftOutRound) {
        let LeftOutRate {
            searches,
            accepted,
            estimate,
            interval,
        } = round.standing.now;
        let gauges = telemetry::LeftOutGauges {
            searches,
            accepted,
            rate: [estimate, interval.lower, interval.upper],
            limit: round.standing.limit(),
        };
        telemetry::left_out_searched(self.observed().name(), &round.operating_point, gauges);
    }
}
