//! Labelled queries, searched for in a deployment: the trials of calibration and evaluation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::batch::in_order;
use super::build::is_the_images_fault;
use super::image_sources::{ImageSource, ImageSources};
use super::progress::ItemProgress;
use super::refused::RefusedItem;
use crate::config::EngineConfig;
use crate::deployment::{
    Deployment, DeploymentError, Gathered, LabelledQuery, MaskedSearches, Models, OpenOptions,
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
    pub(super) failed: Vec<RefusedItem>,
    /// Where the time of each query went.
    pub(super) timings: Vec<Timings>,
    /// How long all of it took.
    pub(super) took: Duration,
}

/// Searches for every query, on all workers.
pub(super) fn run(
    deployment: &Arc<Deployment>,
    sources: &ImageSources,
    masked: MaskedSearches,
    engine: &EngineConfig,
) -> anyhow::Result<Probes> {
    let mut probes = Probes {
        gathered: Gathered::of(deployment),
        failed: sources.refused.clone(),
        timings: Vec::new(),
        took: Duration::ZERO,
    };
    let labels = probes.gathered.labels();
    // An empty gallery is refused for what it is.
    if !labels.is_empty() {
        sources.refuse_contradictions(|label| labels.contains(label))?;
    }
    let mut progress = ItemProgress::new("search", sources.items.len());
    let requests = probes.gathered.requests(masked);
    let work = |(number, source): (usize, ImageSource)| {
        let file = ProbeSource::File(source.path.clone());
        let request = requests.request(number, &source.label, file);
        let deployment = Arc::clone(deployment);
        async move { (source, deployment.probe(request).await) }
    };
    let done = |(source, probed): (ImageSource, Result<Probed, DeploymentError>)| {
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
            Err(error) if is_the_images_fault(&error) => probes.failed.push(RefusedItem {
                item: source.id,
                reason: error.to_string(),
            }),
            Err(error) => return Err(anyhow::Error::from(error)),
        }
        Ok(())
    };
    let inputs = sources.items.iter().cloned().enumerate();
    super::runtime::single_threaded()?.block_on(in_order(inputs, window(engine), work, done))?;
    probes.gathered.settle()?;
    probes.took = progress.finish();
    Ok(probes)
}
