//! Labelled queries, searched for in a deployment: the trials of calibration and evaluation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::batch::in_order;
use super::build::is_the_images_fault;
use super::progress::Progress;
use super::refused::Refused;
use super::sources::{Source, Sources};
use crate::config::EngineConfig;
use crate::deployment::{
    Deployment, DeploymentError, Gathered, LabelledQuery, Models, OpenOptions, ProbeRequest,
    ProbeSource, Probed, Timings,
};
use matchpoint_gallery::Access;

/// Opens a deployment for one batch of work.
pub(super) fn open(
    deployment: &Path,
    model: Option<PathBuf>,
    access: Access,
    engine: &EngineConfig,
) -> anyhow::Result<Deployment> {
    let mut models = Models::new(engine, window(engine));
    Ok(Deployment::open(
        deployment,
        &mut models,
        OpenOptions {
            name: None,
            model,
            access,
        },
    )?)
}

fn window(engine: &EngineConfig) -> usize {
    engine.workers.count(engine.compute.joined_max()) * 4
}

/// What labelled queries found.
pub(super) struct Probes {
    pub(super) gathered: Gathered,
    /// Queries that could not be used.
    pub(super) failed: Vec<Refused>,
    /// Where the time of each query went.
    pub(super) timings: Vec<Timings>,
    /// How long all of it took.
    pub(super) took: Duration,
}

/// Which non-mated searches are made beside those of the queries themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// None.
    Ignored,
    /// What strangers would find in smaller galleries.
    OfStrangers,
    /// That, and enrolled labels searched once more with their own label masked, as strangers.
    OfAll,
}

/// Searches for every query, on all workers.
pub(super) fn run(
    deployment: &Arc<Deployment>,
    sources: &Sources,
    others: Others,
    engine: &EngineConfig,
) -> anyhow::Result<Probes> {
    let mut probes = Probes {
        gathered: Gathered::of(deployment),
        failed: sources.refused.clone(),
        timings: Vec::new(),
        took: Duration::ZERO,
    };
    let (snapshot, labels) = (probes.gathered.snapshot(), probes.gathered.labels());
    // An empty gallery is refused for what it is.
    if !labels.is_empty() {
        sources.refuse_contradictions(|label| labels.contains(label))?;
    }
    let mut progress = Progress::new("search", sources.items.len());
    let work = |(source, check_index): (Source, bool)| {
        let deployment = Arc::clone(deployment);
        let (snapshot, enrolled) = (Arc::clone(&snapshot), labels.contains(&source.label));
        async move {
            let probed = deployment.probe(ProbeRequest {
                snapshot,
                source: ProbeSource::File(source.path.clone()),
                label: source.label.clone(),
                others: match others {
                    Others::Ignored => false,
                    Others::OfStrangers => !enrolled,
                    Others::OfAll => true,
                },
                check_index,
            });
            let probed = probed.await;
            (source, probed)
        }
    };
    let done = |(source, probed): (Source, Result<Probed, DeploymentError>)| {
        progress.step();
        match probed {
            Ok(probed) => {
                probes.timings.push(probed.timings);
                let query = LabelledQuery {
                    id: source.id,
                    label: source.label,
                    conditions: source.metadata,
                };
                probes.gathered.add(query, probed);
            }
            Err(error) if is_the_images_fault(&error) => probes.failed.push(Refused {
                item: source.id,
                reason: error.to_string(),
            }),
            Err(error) => return Err(anyhow::Error::from(error)),
        }
        Ok(())
    };
    // Known beforehand, so that which queries are compared with exact search does not depend on
    // how fast the others are.
    let inputs = sources.items.iter().cloned().enumerate();
    let inputs = inputs.map(|(number, source)| (source, Gathered::checks_index(number)));
    super::runtime::single_threaded()?.block_on(in_order(inputs, window(engine), work, done))?;
    probes.gathered.settle()?;
    probes.took = progress.finish();
    Ok(probes)
}
