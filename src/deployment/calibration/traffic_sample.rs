//! What a calibration's queries look like, to compare later traffic with.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use matchpoint_calibration::monitoring::traffic::{TrafficQuery, TrafficReference};
use matchpoint_calibration::recording::{RecordedSearch, TrialKind};

/// Queries that are kept, at most: 20 MB of 1,280 components.
const QUERIES_MAX: usize = 4_000;

/// Queries of a calibration; of many only some labels, each with all its queries. Which labels depends on a
/// hash of the label alone, and so neither on scores nor on the order.
#[derive(Clone, Debug, Default)]
pub(in crate::deployment) struct TrafficSample(BTreeMap<([u8; 32], String), TrafficQuery>);

impl TrafficSample {
    pub(in crate::deployment) fn add(&mut self, query: TrafficQuery) {
        let place: [u8; 32] = Sha256::digest(&query.label).into();
        self.0.insert((place, query.id.clone()), query);
        if QUERIES_MAX < self.0.len() {
            self.0.pop_last();
        }
    }

    /// What the queries look like that are trials, under the labels that they count as.
    pub(in crate::deployment) fn reference(
        &self,
        searches: &[RecordedSearch],
        seed: u64,
    ) -> TrafficReference {
        let trials = searches.iter().filter(|search| match search.truth {
            TrialKind::Mated | TrialKind::NeverEnrolled => true,
            TrialKind::LeftOut => false,
        });
        let labels: BTreeMap<&str, &str> = trials
            .map(|search| (search.probe.as_str(), search.label.as_str()))
            .collect();
        let queries = self.0.values().filter_map(|query| {
            let label = *labels.get(query.id.as_str())?;
            Some(TrafficQuery {
                label: label.to_owned(),
                ..query.clone()
            })
        });
        TrafficReference::of(&queries.collect::<Vec<_>>(), seed)
    }
}
