//! A sample of a calibration's queries, to compare later traffic with.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use matchpoint_calibration::monitoring::traffic::{TrafficQuery, TrafficReference};
use matchpoint_calibration::recording::{RecordedSearch, TrialKind};

/// The highest number of queries that are kept: 20 MB with 1,280 components.
const QUERIES_MAX: usize = 4_000;

/// Queries of a calibration. If there are many, only some labels are kept, each with all its queries. A hash of
/// the label alone decides which, so the choice depends neither on scores nor on the order.
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

    /// Describes the queries that are trials, under the labels that they count as.
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
