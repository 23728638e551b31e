//! Searches for labelled queries in a deployment, as trials for calibration and evaluation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSource, ImageSources};
use crate::cli::output::progress::ItemProgress;
use crate::config::EngineConfig;
use crate::deployment::{
    Deployment, Gathered, LabelledQuery, MaskedSearches, Models, OpenOptions, ProbeSource,
    QueryFailure, QuerySettings, QueryToSearch, RefusedItem, Timings,
};
use matchpoint_gallery::Access;

/// Opens a deployment for one batch of work.
pub(crate) fn open(
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
            model,
            ..OpenOptions::recorded(access)
        },
    )?)
}

/// What a command that may be a dry run does with a deployment.
pub(crate) fn access(dry_run: bool) -> Access {
    if dry_run {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    }
}

/// How many queries may be embedded at once: what the queue of the workers holds.
pub(crate) fn window(engine: &EngineConfig) -> usize {
    engine.workers.count(engine.compute.joined_max()) * 4
}

/// Whether embeddings of queries are cached.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct CacheFlags {
    /// Embed every query again, and keep none of their embeddings: else a picture is embedded once, and a second run takes
    /// its embedding from query-embeddings.cache in the deployment's folder, here or on the server
    #[arg(long)]
    pub(crate) no_cache: bool,
}

/// The results of searches for labelled queries.
pub(crate) struct Probes {
    pub(crate) gathered: Gathered,
    /// Queries that could not be used.
    pub(crate) failed: Vec<RefusedItem>,
    /// The time of each query by stage.
    pub(crate) timings: Vec<Timings>,
    /// The duration of all searches together.
    pub(crate) took: Duration,
}

impl Probes {
    /// Leaves out queries that the model's head was fitted to, or refuses them if `without_fitted` is false.
    pub(crate) fn but_fitted(mut self, without_fitted: bool) -> anyhow::Result<Self> {
        if without_fitted {
            self.gathered = self.gathered.without_fitted();
        }
        self.gathered.refuse_fitted()?;
        Ok(self)
    }
}

/// Searches for every image of a list, on all workers.
pub(crate) fn run(
    deployment: &Arc<Deployment>,
    sources: &ImageSources,
    masked: MaskedSearches,
    engine: &EngineConfig,
    cache: CacheFlags,
) -> anyhow::Result<Probes> {
    let kept = (!cache.no_cache).then(|| deployment.embedding_cache());
    let gathered = Gathered::of(deployment)?.with_cache(kept.flatten());
    let labels = gathered.labels();
    // An empty gallery is reported by another error.
    if !labels.is_empty() {
        sources.refuse_contradictions(|label| labels.contains(label))?;
    }
    let query = |source: &ImageSource| QueryToSearch {
        query: LabelledQuery {
            id: source.id.clone(),
            label: source.label.clone(),
            conditions: source.metadata.clone(),
        },
        source: Ok(ProbeSource::File(source.path.clone())),
    };
    let queries = sources.items.iter().map(query);
    let settings = QuerySettings {
        masked,
        in_flight_max: window(engine),
    };
    let mut probes = search(deployment, gathered, settings, queries)?;
    probes.failed = [sources.refused.clone(), probes.failed].concat();
    refuse_if_none_is_usable(&probes)?;
    Ok(probes)
}

/// Refuses a list of which no picture can be used: paths that lead nowhere are no lack of labels.
fn refuse_if_none_is_usable(probes: &Probes) -> anyhow::Result<()> {
    let (Some(first), true) = (probes.failed.first(), probes.timings.is_empty()) else {
        return Ok(());
    };
    let count = probes.failed.len();
    let message = format!(
        "no query can be used: all {count} failed, the first of them {first}. Paths in a list begin at its \
         folder, or at the working folder where it comes from standard input"
    );
    Err(fail(Exit::NoInput, message))
}

/// Searches for every query, on all workers.
pub(crate) fn search(
    deployment: &Arc<Deployment>,
    gathered: Gathered,
    settings: QuerySettings,
    queries: impl ExactSizeIterator<Item = QueryToSearch>,
) -> anyhow::Result<Probes> {
    let mut probes = Probes {
        gathered,
        failed: Vec::new(),
        timings: Vec::new(),
        took: Duration::ZERO,
    };
    let mut progress = ItemProgress::new("search", queries.len());
    let (timings, failed) = (&mut probes.timings, &mut probes.failed);
    let done = |id: &str, outcome: Result<Timings, QueryFailure>| {
        progress.step();
        match outcome {
            Ok(took) => timings.push(took),
            Err(QueryFailure::Search(error)) if !error.is_of_one_image() => {
                return Err(anyhow::Error::from(error));
            }
            Err(failure) => {
                let reason = failure.to_string();
                // An id is the path, where nothing else was given.
                let twice = format!("{id}: ");
                failed.push(RefusedItem {
                    item: id.to_owned(),
                    reason: reason.strip_prefix(&twice).unwrap_or(&reason).to_owned(),
                });
            }
        }
        Ok(())
    };
    let queries = tokio_stream::iter(queries.map(Ok));
    let search = probes.gathered.search(deployment, settings, queries, done);
    crate::cli::runtime::single_threaded()?.block_on(search)?;
    probes.gathered.settle()?;
    probes.took = progress.finish();
    Ok(probes)
}
