//! Runs many tasks at once, and delivers the results in the order of the inputs.

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::{JoinError, JoinHandle};
use tokio_stream::{Stream, StreamExt};

use super::DeploymentError;

/// A task with its key. It is aborted if nobody waits for it any more.
struct TaskUnderWay<K, T> {
    key: K,
    task: JoinHandle<Result<T, DeploymentError>>,
}

impl<K, T> Drop for TaskUnderWay<K, T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a task for each input as it arrives, at most `window` at once, and passes each result to `done` in
/// the order of the inputs. If an input fails or `done` returns an error, it ends early and aborts the running
/// tasks.
pub(super) async fn in_order<I, K, T, F, E>(
    inputs: impl Stream<Item = Result<I, E>>,
    window: usize,
    mut begin: impl FnMut(I) -> (K, F),
    mut done: impl FnMut(&K, Result<T, DeploymentError>) -> Result<(), E>,
) -> Result<(), E>
where
    F: Future<Output = Result<T, DeploymentError>> + Send + 'static,
    T: Send + 'static,
{
    tokio::pin!(inputs);
    let mut running: VecDeque<TaskUnderWay<K, T>> = VecDeque::new();
    let mut ended = false;
    while !ended || !running.is_empty() {
        tokio::select! {
            biased;
            input = inputs.next(), if !ended && running.len() < window.max(1) => match input {
                Some(input) => {
                    let (key, work) = begin(input?);
                    running.push_back(TaskUnderWay { key, task: tokio::spawn(work) });
                }
                None => ended = true,
            },
            Some(result) = first(&mut running) => {
                let result = result.unwrap_or_else(|panic| Err(broken(&panic)));
                if let Some(TaskUnderWay { key, .. }) = running.front() {
                    done(key, result)?;
                }
                drop(running.pop_front());
            }
        }
    }
    Ok(())
}

type TaskResult<T> = Result<Result<T, DeploymentError>, JoinError>;

/// Waits for the result of the first task; `None` if there is none.
async fn first<K, T>(running: &mut VecDeque<TaskUnderWay<K, T>>) -> Option<TaskResult<T>> {
    let TaskUnderWay { task, .. } = running.front_mut()?;
    Some(task.await)
}

fn broken(panic: &JoinError) -> DeploymentError {
    DeploymentError::Broken {
        reason: format!("a task ended early: {panic}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn results_come_in_the_order_of_the_inputs() {
        let mut seen = Vec::new();
        let begin = |number: u64| {
            (number, async move {
                tokio::time::sleep(Duration::from_millis(10 - number)).await;
                Ok(number)
            })
        };
        let done = |key: &u64, number: Result<u64, DeploymentError>| {
            seen.push((*key, number.unwrap()));
            Ok::<(), ()>(())
        };
        let inputs = tokio_stream::iter((0..10).map(Ok));
        in_order(inputs, 4, begin, done).await.unwrap();
        assert_eq!(seen, (0..10).map(|n| (n, n)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_input_that_cannot_be_had_ends_the_work() {
        let mut seen = 0;
        let begin = |number: u64| (number, async move { Ok(number) });
        let done = |_: &u64, _: Result<u64, DeploymentError>| {
            seen += 1;
            Ok(())
        };
        let inputs = tokio_stream::iter([Ok(1), Ok(2), Err("gone"), Ok(3)]);
        let ended = in_order(inputs, 1, begin, done).await;
        assert_eq!((ended, seen), (Err("gone"), 2));
    }
}
