//! Labelled queries, searched for in a deployment: the trials of calibration and evaluation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::batch::in_order;
use super::build::is_the_images_fault;
use super::progress::Progress;
use super::sources::{Refused, Source, Sources};
use crate::calibration::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
use crate::config::Engine;
use crate::deployment::{Deployment, DeploymentError, Models, OpenOptions, Probed, Timings};
use crate::gallery::Access;

/// Opens a deployment for one batch of work.
pub(super) fn open(
    deployment: &Path,
    model: Option<PathBuf>,
    access: Access,
    engine: &Engine,
) -> anyhow::Result<Deployment> {
    let mut models = Models::new(engine, window(engine))?;
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

fn window(engine: &Engine) -> usize {
    engine.workers * 4
}

/// What labelled queries found.
pub(super) struct Probes {
    pub(super) trials: Trials,
    /// Queries that could not be used.
    pub(super) failed: Vec<Refused>,
    /// How many mated queries have their label among the five nearest items.
    pub(super) in_top_5: usize,
    /// Where the time of each query went.
    pub(super) timings: Vec<Timings>,
    /// How long all of it took.
    pub(super) took: Duration,
}

#[derive(Default)]
struct Collected {
    mated: Vec<MatedSearch>,
    non_mated: Vec<NonMatedSearch>,
    failed: Vec<Refused>,
    in_top_5: usize,
    timings: Vec<Timings>,
}

/// Searches for every query, on all workers. With `leave_out`, queries of enrolled labels are
/// searched once more with their own label masked, as strangers.
pub(super) fn run(
    deployment: &Arc<Deployment>,
    sources: &Sources,
    leave_out: bool,
    engine: &Engine,
) -> anyhow::Result<Probes> {
    let snapshot = deployment.snapshot();
    let enrolled: BTreeSet<&str> = snapshot
        .items()
        .map(|(head, _)| head.label.as_str())
        .collect();
    let mut collected = Collected {
        failed: sources.refused.clone(),
        ..Collected::default()
    };
    let mut progress = Progress::new("search", sources.items.len());
    let work = |source: Source| {
        let deployment = Arc::clone(deployment);
        let is_enrolled = enrolled.contains(source.label.as_str());
        async move {
            let probe = deployment.probe(
                source.path.clone(),
                source.label.clone(),
                is_enrolled && leave_out,
            );
            let probed = probe.await;
            (source, is_enrolled, probed)
        }
    };
    let done = |(source, is_enrolled, probed): (Source, bool, Result<Probed, DeploymentError>)| {
        progress.step();
        match probed {
            Ok(probed) => collected.take(source, (is_enrolled, leave_out), &probed),
            Err(error) if is_the_images_fault(&error) => {
                collected.failed.push(Refused {
                    item: source.id,
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(anyhow::Error::from(error)),
        }
        Ok(())
    };
    super::runtime()?.block_on(in_order(
        sources.items.iter().cloned(),
        window(engine),
        work,
        done,
    ))?;
    Ok(Probes {
        trials: Trials::new(collected.mated, collected.non_mated)?,
        failed: collected.failed,
        in_top_5: collected.in_top_5,
        timings: collected.timings,
        took: progress.finish(),
    })
}

impl Collected {
    fn take(&mut self, source: Source, (enrolled, leave_out): (bool, bool), probed: &Probed) {
        self.timings.push(probed.timings);
        let Source {
            id: probe, label, ..
        } = source;
        if !enrolled {
            let top_score = probed.hits.first().map(|hit| hit.score);
            let origin = StrangerOrigin::NeverEnrolled;
            self.non_mated.push(NonMatedSearch {
                label,
                probe,
                top_score,
                origin,
            });
            return;
        }
        let matches = |hit: &crate::deployment::Hit| hit.item.label == label;
        self.in_top_5 += usize::from(probed.hits.iter().any(matches));
        let top = probed.hits.first();
        let top = top.map(|hit| Top {
            score: hit.score,
            label_matches: matches(hit),
        });
        self.mated.push(MatedSearch {
            label: label.clone(),
            probe: probe.clone(),
            top,
        });
        if leave_out {
            let (top_score, origin) = (probed.left_out, StrangerOrigin::LeftOut);
            self.non_mated.push(NonMatedSearch {
                label,
                probe,
                top_score,
                origin,
            });
        }
    }
}
