//! The queries of the demo, and what was decided on each.

use serde::Serialize;

use crate::cli::input::image_sources::ImageSource;
use crate::cli::output::{percent, rate, table};
use matchpoint_calibration::decision::Threshold;
use matchpoint_calibration::evaluate::evaluate;
use matchpoint_calibration::rates::Rate;
use matchpoint_calibration::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
use matchpoint_client::proto::{self, DecisionBasis, SearchResponse};
use matchpoint_vector::Similarity;

/// Decisions on queries that had no part in the calibration.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct DecisionCounts {
    pub(super) known_accepted: u32,
    pub(super) known_accepted_wrong_label: u32,
    pub(super) known_rejected: u32,
    pub(super) strangers_rejected: u32,
    pub(super) strangers_accepted: u32,
    pub(super) undecided: u32,
    pub(super) failed: u32,
}

/// The rates of these decisions.
pub(super) struct DemoRates {
    pub(super) far: Option<Rate>,
    pub(super) frr: Option<Rate>,
    pub(super) recall_at_1: Option<Rate>,
}

/// The answers to all queries.
#[derive(Default)]
pub(super) struct AskedQueries {
    pub(super) counts: DecisionCounts,
    /// What the decisions rest on, by the answers.
    basis: DecisionBasis,
    mated: Vec<MatedSearch>,
    non_mated: Vec<NonMatedSearch>,
}

impl AskedQueries {
    /// Counts an answer, and returns in words what happened to the query.
    pub(super) fn count(
        &mut self,
        source: &ImageSource,
        known: bool,
        found: &SearchResponse,
    ) -> &'static str {
        self.basis = found.basis.clone().unwrap_or_default();
        let best = found.matches.first();
        let score = best.and_then(|best| Similarity::new(best.score));
        let right = best.is_some_and(|best| best.label == source.label);
        let (label, probe) = (source.label.clone(), source.id.clone());
        if known {
            let top = score.map(|score| Top {
                score,
                label_matches: right,
            });
            self.mated.push(MatedSearch { label, probe, top });
        } else {
            let origin = StrangerOrigin::NeverEnrolled;
            self.non_mated.push(NonMatedSearch {
                label,
                probe,
                top_score: score,
                origin,
            });
        }
        let counts = &mut self.counts;
        let (counter, kind) = match (found.decision(), known, right) {
            (proto::Decision::Accept, true, true) => {
                (&mut counts.known_accepted, "rightly accepted")
            }
            (proto::Decision::Accept, true, false) => (
                &mut counts.known_accepted_wrong_label,
                "accepted with a WRONG label",
            ),
            (proto::Decision::Accept, false, _) => {
                (&mut counts.strangers_accepted, "WRONGLY accepted")
            }
            (proto::Decision::Reject, true, _) => (&mut counts.known_rejected, "WRONGLY rejected"),
            (proto::Decision::Reject, false, _) => {
                (&mut counts.strangers_rejected, "rightly rejected")
            }
            (proto::Decision::Undecided | proto::Decision::Unspecified, _, _) => {
                (&mut counts.undecided, "undecided")
            }
        };
        *counter += 1;
        kind
    }

    pub(super) fn measure(&self) -> anyhow::Result<DemoRates> {
        let threshold = self.basis.threshold.map(Threshold::new).transpose()?;
        let trials = Trials::new(self.mated.clone(), self.non_mated.clone())?;
        let measured = evaluate(&trials, threshold);
        let errors = measured.errors.as_ref();
        Ok(DemoRates {
            far: errors.and_then(|errors| errors.far),
            frr: errors.and_then(|errors| errors.frr),
            recall_at_1: measured.recall_at_1,
        })
    }

    pub(super) fn text(&self) -> anyhow::Result<String> {
        let (counts, measured) = (self.counts, self.measure()?);
        let promised = self.basis.target_far.unwrap_or_default();
        let bad = |count: u32| {
            if count == 0 {
                "none".to_owned()
            } else {
                count.to_string()
            }
        };
        Ok(table(&[
            ("known, accepted", counts.known_accepted.to_string()),
            ("known, wrong label", bad(counts.known_accepted_wrong_label)),
            ("known, rejected", counts.known_rejected.to_string()),
            ("strangers, rejected", counts.strangers_rejected.to_string()),
            ("strangers, accepted", counts.strangers_accepted.to_string()),
            ("undecided or failed", bad(counts.undecided + counts.failed)),
            (
                "FAR",
                format!(
                    "{}; promised <= {}",
                    rate(measured.far.as_ref()),
                    percent(promised)
                ),
            ),
            ("FRR", rate(measured.frr.as_ref())),
        ]))
    }
}

/// One example of each kind is enough.
#[derive(Default)]
pub(super) struct ShownKinds(Vec<&'static str>);

impl ShownKinds {
    pub(super) fn wants(&mut self, kind: &'static str) -> bool {
        let new = !self.0.contains(&kind);
        if new {
            self.0.push(kind);
        }
        new
    }
}
