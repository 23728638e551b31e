//! Queries as they would be decided today.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::progress::ItemProgress;
use crate::cli::runtime::single_threaded;
use crate::deployment::{Deployment, DeploymentError, Query, SearchOptions};
use matchpoint_calibration::decision::Decision;
use matchpoint_embed::caller::Caller;
use matchpoint_vector::Embedding;

/// The nearest enrolled item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct NearestEnrolled {
    pub(super) label: String,
    pub(super) similarity: f32,
}

/// What became of a query.
pub(super) enum Found {
    Rejected(Vec<f32>, Option<NearestEnrolled>),
    Accepted,
    Undecided,
    NoPicture,
    Failed(String),
}

/// Searches for each of so many queries, at most `at_once` together, which the workers' queue has to hold. `None` is
/// one whose picture is not kept.
pub(super) fn searched(
    deployment: &Deployment,
    count: usize,
    at_once: usize,
    read: &(dyn Fn(usize) -> Result<Option<Query>, String> + Sync),
) -> anyhow::Result<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let progress = Mutex::new(ItemProgress::new("search", count));
    let found = Mutex::new(Vec::with_capacity(count));
    let work = || -> anyhow::Result<()> {
        // What it awaits is done by the model's own threads.
        let runtime = single_threaded()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if count <= number {
                return Ok(());
            }
            let one = match read(number) {
                Ok(Some(query)) => {
                    let found = runtime.block_on(search(deployment, query));
                    // Nobody needs the others any more.
                    found.inspect_err(|_| next.store(count, Ordering::Relaxed))?
                }
                Ok(None) => Found::NoPicture,
                Err(reason) => Found::Failed(reason),
            };
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.push((number, one));
            drop(found);
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.step();
        }
    };
    let hands = std::thread::available_parallelism().map_or(1, usize::from);
    let hands = hands.min(at_once).max(1);
    let worked: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..hands).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(fail(Exit::Internal, "a search panicked")))
        });
        joined.collect()
    });
    let progress = progress.into_inner();
    progress.unwrap_or_else(PoisonError::into_inner).finish();
    worked.into_iter().collect::<anyhow::Result<()>>()?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, found)| found).collect())
}

/// One query as it would be decided today; nothing is recorded.
async fn search(deployment: &Deployment, query: Query) -> Result<Found, DeploymentError> {
    let unit = match query {
        Query::Image(_) => match deployment.embed(Caller::default(), query).await {
            Ok((unit, _)) => unit,
            Err(error) if error.is_of_one_image() => return Ok(Found::Failed(error.to_string())),
            Err(error) => return Err(error),
        },
        Query::Embedding(vector) => match Embedding::normalise(vector) {
            Ok(unit) => unit,
            Err(problem) => return Ok(Found::Failed(problem.to_string())),
        },
    };
    let unit = unit.as_slice().to_vec();
    let options = SearchOptions {
        unrecorded: true,
        ..SearchOptions::nearest(1)
    };
    let query = Query::Embedding(unit.clone());
    let answer = deployment.search(Caller::default(), query, options).await?;
    let nearest = answer.hits.first().map(|hit| NearestEnrolled {
        label: hit.item.label.clone(),
        similarity: hit.score.get(),
    });
    Ok(match answer.decision {
        Decision::Reject => Found::Rejected(unit, nearest),
        Decision::Accept => Found::Accepted,
        Decision::Undecided => Found::Undecided,
    })
}
