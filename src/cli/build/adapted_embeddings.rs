//! A new gallery behind a head: made from stored embeddings, without any image.

use std::collections::BTreeSet;
use std::iter;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rayon::prelude::*;

use crate::cli::exit::{Exit, fail};
use crate::cli::input::head::StoredHead;
use crate::deployment::{Folder, RefusedItem};
use matchpoint_adapt::{Head, LabelledRows};
use matchpoint_gallery::item::{Item, ItemHead};
use matchpoint_gallery::view::GalleryView;
use matchpoint_vector::Embedding;

/// Embeddings of one product, of which three are in memory: one is made, one waits and one is written.
const ROWS: usize = 4_096;

/// What another deployment holds, behind a head.
pub(crate) struct AdaptedEmbeddings {
    view: Arc<GalleryView>,
    head: Head,
    /// The precision of the model that embedded it, if it is not the model's own file.
    pub(crate) precision: Option<String>,
}

impl AdaptedEmbeddings {
    /// Opens the deployment, and the head in the folder of the model, which has to be made from the deployment's.
    pub(crate) fn open(deployment: &Path, model: &Path) -> anyhow::Result<Self> {
        let folder = Folder::open(deployment)?;
        let reference = &folder.record().model;
        let StoredHead { record, head } = StoredHead::read(model)?;
        let base = record.base.as_ref();
        if base.is_none_or(|base| base.fingerprint != reference.fingerprint) {
            let message = format!(
                "{} holds embeddings of model `{}` (fingerprint {}), and the head in {} was fitted to those of {}; another head \
                 would make nonsense of them: adapt this deployment, or embed its images again by --images-of",
                deployment.display(),
                reference.name,
                reference.fingerprint,
                model.display(),
                base.map_or("no model that is known".to_owned(), |base| format!(
                    "`{}` in {} (fingerprint {})",
                    base.name, base.precision, base.fingerprint
                )),
            );
            return Err(fail(Exit::Mismatch, message));
        }
        if let Some(tensor) = base.and_then(|base| base.second_layer.as_ref()) {
            let message = format!(
                "the head in {} reads a second layer ({tensor}), which no stored embedding has: embed the images again, by --images-of {} \
                 if it keeps them, or by --images",
                model.display(),
                deployment.display()
            );
            return Err(fail(Exit::Mismatch, message));
        }
        Ok(Self {
            view: folder.open_items()?.view(),
            head,
            precision: reference.precision.clone(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.view.len()
    }

    pub(crate) fn labels(&self) -> BTreeSet<&str> {
        self.view
            .items()
            .map(|(item, _)| item.label.as_str())
            .collect()
    }

    /// Every item with its embedding behind the head, or why it has none. They are made while the caller writes those before.
    pub(crate) fn items<'a>(
        &'a self,
        scope: &'a Scope<'a, '_>,
    ) -> impl Iterator<Item = Result<Item, RefusedItem>> {
        made_meanwhile(scope, move |give| {
            let mut items: Vec<_> = self.view.items().collect();
            items.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
            // Nobody takes them any more if the writing has ended.
            let mut rest = items.chunks(ROWS);
            while rest
                .next()
                .is_some_and(|some| give.send(self.behind(some)).is_ok())
            {}
        })
    }

    fn behind(&self, items: &[(&Arc<ItemHead>, &[f32])]) -> Vec<Result<Item, RefusedItem>> {
        let vectors: Vec<&[f32]> = items.iter().map(|(_, vector)| *vector).collect();
        let vectors = vectors.concat();
        let together = LabelledRows::normalise(self.head.from(), vectors, vec![0; items.len()])
            .and_then(|rows| self.head.apply_to(&rows));
        let one = |(row, (item, vector)): (usize, &(&Arc<ItemHead>, &[f32]))| {
            // If the head maps one of them to zero, each is mapped alone.
            let embedding = match &together {
                Ok(rows) => Embedding::from_unit(rows.row(row).unwrap_or_default().to_vec()),
                Err(_) => self.head.apply(vector),
            };
            let embedding = embedding.map_err(|cause| RefusedItem {
                item: item.id.clone(),
                reason: cause.to_string(),
            })?;
            Ok(Item {
                id: item.id.clone(),
                label: item.label.clone(),
                metadata: item.metadata.clone(),
                embedding,
                source_sha256: item.source_sha256,
                image: None,
            })
        };
        items.par_iter().enumerate().map(one).collect()
    }
}

/// What another thread makes while the caller takes it.
fn made_meanwhile<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    make: impl FnOnce(SyncSender<Vec<T>>) + Send + 'scope,
) -> impl Iterator<Item = T> {
    let (give, made) = sync_channel(1);
    let mut maker = Some(scope.spawn(move || make(give)));
    // A panic is not the end: a build with --prune would remove what was not made.
    let end = iter::from_fn(move || {
        if let Some(Err(panic)) = maker.take().map(ScopedJoinHandle::join) {
            resume_unwind(panic);
        }
        None
    });
    made.into_iter().chain(end).flatten()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    #[test]
    fn a_panic_is_not_the_end_of_what_is_made() {
        let (mut taken, mut ended) = (Vec::new(), false);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            thread::scope(|scope| {
                let made = made_meanwhile(scope, |give| {
                    give.send(vec![1, 2]).unwrap();
                    panic!("a mistake in the program");
                });
                taken.extend(made);
                ended = true;
            });
        }));
        assert!(outcome.is_err());
        assert!(!ended);
        assert_eq!(taken, [1, 2]);
    }
}
