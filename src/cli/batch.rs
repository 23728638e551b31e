//! Many pieces of work at once, with the results in the order of the inputs.

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::JoinHandle;

/// Runs `work` on each input, at most `window` at a time, and hands each result to `done` in the
/// order of the inputs. Ends early, with what is under way given up, where `done` refuses.
pub(super) async fn in_order<I, T, F, E>(
    inputs: impl IntoIterator<Item = I>,
    window: usize,
    work: impl Fn(I) -> F,
    mut done: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
    E: From<tokio::task::JoinError>,
{
    let mut inputs = inputs.into_iter();
    let mut under_way: VecDeque<JoinHandle<T>> = VecDeque::new();
    loop {
        while under_way.len() < window.max(1) {
            let Some(input) = inputs.next() else { break };
            under_way.push_back(tokio::spawn(work(input)));
        }
        let Some(next) = under_way.pop_front() else {
            return Ok(());
        };
        done(next.await?)?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[tokio::test]
    async fn results_come_in_the_order_of_the_inputs() {
        let mut seen = Vec::new();
        let work = |number: u64| async move {
            tokio::time::sleep(Duration::from_millis(10 - number)).await;
            number
        };
        let done = |number| {
            seen.push(number);
            Ok::<(), anyhow::Error>(())
        };
        super::in_order(0..10, 4, work, done).await.unwrap();
        assert_eq!(seen, (0..10).collect::<Vec<u64>>());
    }
}
