//! A session that all workers share. The images that wait while it runs form its next batch.
//!
//! No request waits for a batch to fill. The tensors that arrive while the session runs, up to the limit, form
//! the next run. So a single request is run at once, and batches grow with the load, when they are useful.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use super::error::ModelError;
use super::session::Session;

/// A handle for the shared session. Clones share it, and the thread of the session ends with the last clone.
#[derive(Clone)]
pub(super) struct Batcher {
    waiting: Sender<WaitingTensor>,
    batch_max: usize,
}

/// A tensor, and the channel for its embedding.
struct WaitingTensor {
    tensor: Vec<f32>,
    answer: Sender<Result<Vec<f32>, String>>,
}

impl Batcher {
    /// Starts the thread that owns the session. A model with a fixed number of images gets at most that many at
    /// once.
    pub(super) fn start(session: Session, batch_max: usize) -> Result<Self, ModelError> {
        if session.images_max() == 1 {
            tracing::warn!("the model takes one image at a time, so that no batches are formed");
        }
        let batch_max = batch_max.min(session.images_max());
        let mut session = session;
        Self::over(batch_max, move |tensors, images| {
            session.run_batch(tensors, images)
        })
    }

    fn over(batch_max: usize, run: impl RunBatch + Send + 'static) -> Result<Self, ModelError> {
        // If there is no place, the worker waits here, as it would for the result.
        let (waiting, tensors) = crossbeam_channel::bounded(batch_max);
        thread::Builder::new()
            .name("batch".to_owned())
            .spawn(move || serve(run, batch_max, &tensors))
            .map_err(|cause| ModelError::Thread { cause })?;
        Ok(Self { waiting, batch_max })
    }

    /// The highest number of images in one run.
    pub(super) fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// The embedding of one input tensor, as from [`Session::run`].
    pub(super) fn run(&self, tensor: &[f32]) -> Result<Vec<f32>, String> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let waiting = WaitingTensor {
            tensor: tensor.to_vec(),
            answer,
        };
        let ended = || String::from("the thread of the shared session has ended");
        self.waiting.send(waiting).map_err(|_gone| ended())?;
        answered.recv().map_err(|_gone| ended())?
    }
}

/// Computes the embeddings of this many input tensors, which are in one block.
trait RunBatch: FnMut(&[f32], usize) -> Result<Vec<Vec<f32>>, String> {}

impl<R: FnMut(&[f32], usize) -> Result<Vec<Vec<f32>>, String>> RunBatch for R {}

fn serve(mut run: impl RunBatch, batch_max: usize, waiting: &Receiver<WaitingTensor>) {
    let mut tensors = Vec::new();
    while let Ok(first) = waiting.recv() {
        let others = waiting.try_iter().take(batch_max - 1);
        let batch: Vec<WaitingTensor> = std::iter::once(first).chain(others).collect();
        answer(&mut run, &mut tensors, batch);
    }
}

/// Runs a batch. If that fails, each image is run alone, so that one image cannot make the others fail.
fn answer(run: &mut impl RunBatch, tensors: &mut Vec<f32>, batch: Vec<WaitingTensor>) {
    if 1 < batch.len() {
        tensors.clear();
        for waiting in &batch {
            tensors.extend_from_slice(&waiting.tensor);
        }
        match caught(run, tensors, batch.len()) {
            Ok(embeddings) => {
                for (waiting, embedding) in batch.into_iter().zip(embeddings) {
                    // A worker that has ended meanwhile needs no answer.
                    drop(waiting.answer.send(Ok(embedding)));
                }
                return;
            }
            Err(reason) => {
                tracing::warn!(
                    images = batch.len(),
                    reason,
                    "a batch failed; its images are run one by one"
                );
            }
        }
    }
    for waiting in batch {
        let embedding = caught(run, &waiting.tensor, 1).and_then(|embeddings| {
            let only = embeddings.into_iter().next();
            only.ok_or_else(|| String::from("no embedding"))
        });
        drop(waiting.answer.send(embedding));
    }
}

/// Turns a panic into a failure of this run; otherwise it would end the thread, and all later runs would fail.
/// The session has no state between runs that a panic could leave inconsistent.
fn caught(
    run: &mut impl RunBatch,
    tensors: &[f32],
    images: usize,
) -> Result<Vec<Vec<f32>>, String> {
    catch_unwind(AssertUnwindSafe(|| run(tensors, images)))
        .unwrap_or_else(|_message| Err(String::from("it panicked; the message is in the log")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Twice the input; fails if any number of the batch is not finite.
    fn twice(tensors: &[f32], images: usize) -> Result<Vec<Vec<f32>>, String> {
        if tensors.iter().any(|value| !value.is_finite()) {
            return Err(format!("not finite, in a batch of {images}"));
        }
        let rows = tensors.chunks(tensors.len() / images);
        Ok(rows
            .map(|row| row.iter().map(|value| 2.0 * value).collect())
            .collect())
    }

    #[test]
    fn what_waits_while_the_session_runs_is_the_next_batch() {
        let (go, gate) = crossbeam_channel::bounded::<()>(0);
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let batcher = Batcher::over(4, move |tensors: &[f32], images: usize| {
            seen.lock().unwrap().push(images);
            gate.recv().ok();
            twice(tensors, images)
        })
        .unwrap();
        let (arrived, arrivals) = crossbeam_channel::unbounded::<()>();
        thread::scope(|scope| {
            for index in 0..10_u8 {
                let (batcher, arrived) = (batcher.clone(), arrived.clone());
                scope.spawn(move || {
                    arrived.send(()).ok();
                    let value = f32::from(index);
                    assert_eq!(batcher.run(&[value, 1.0]), Ok(vec![2.0 * value, 2.0]));
                });
            }
            // All but those of the first run wait, or are about to.
            assert_eq!(arrivals.iter().take(10).count(), 10);
            let moment = std::time::Duration::from_millis(200);
            arrivals.recv_timeout(moment).ok();
            // Until each has been answered, let one run after another end.
            while sizes.lock().unwrap().iter().sum::<usize>() < 10 {
                go.send_timeout((), std::time::Duration::from_millis(20))
                    .ok();
            }
            drop(go);
        });
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.iter().sum::<usize>(), 10, "{sizes:?}");
        assert!(sizes.contains(&4), "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= 4), "{sizes:?}");
    }

    #[test]
    fn an_image_that_makes_its_batch_fail_fails_alone() {
        let mut answers = Vec::new();
        let batch = [1.0, f32::NAN, 3.0].map(|value| {
            let (answer, answered) = crossbeam_channel::bounded(1);
            answers.push(answered);
            WaitingTensor {
                tensor: vec![value],
                answer,
            }
        });
        answer(&mut twice, &mut Vec::new(), Vec::from(batch));
        let answers: Vec<_> = answers
            .iter()
            .map(|answer| answer.recv().unwrap())
            .collect();
        assert_eq!(answers[0], Ok(vec![2.0]));
        assert_eq!(answers[1], Err("not finite, in a batch of 1".to_owned()));
        assert_eq!(answers[2], Ok(vec![6.0]));
    }

    #[test]
    fn a_panic_costs_the_image_that_it_happened_in_and_no_later_one() {
        let batcher = Batcher::over(4, |tensors: &[f32], images: usize| {
            assert!(!tensors.contains(&13.0), "as the test wants it");
            twice(tensors, images)
        })
        .unwrap();
        let failed = batcher.run(&[13.0]).unwrap_err();
        assert!(failed.contains("panicked"), "{failed}");
        assert_eq!(batcher.run(&[2.0]), Ok(vec![4.0]));
    }
}
