//! Small pictures for pages with many pictures. They are made one at a time, and kept up to a limit of memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use matchpoint_embed::pixels::{ImageLimits, stated_size, thumbnail};

/// The length of the longer side in pixels, for a tile on a high-resolution screen.
const SIDE: u32 = 320;
/// A file with fewer bytes is not reduced, unless its sides are too long.
const SMALL_BYTES: usize = 64 << 10;
/// The highest number of bytes that are kept; a small picture has about 100 KB.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// The bytes that an entry counts in addition to its picture, so that failures cannot accumulate without limit.
const ENTRY_BYTES: usize = 1 << 10;
/// Number of pictures decoded at once, which leaves the other cores to searches and limits memory.
const AT_ONCE: usize = 1;

/// Small pictures by the hash of the full ones.
#[derive(Debug)]
pub(super) struct Thumbnails {
    limits: ImageLimits,
    making: Arc<Semaphore>,
    kept: Arc<Mutex<KeptThumbnails>>,
}

#[derive(Debug, Default)]
struct KeptThumbnails {
    /// The small pictures; empty for a file that cannot be decoded.
    pictures: VecDeque<([u8; 32], Bytes)>,
    bytes: usize,
}

impl Thumbnails {
    pub(super) fn new(limits: ImageLimits) -> Self {
        Self {
            limits,
            making: Arc::new(Semaphore::new(AT_ONCE)),
            kept: Arc::default(),
        }
    }

    /// A picture of at most [`SIDE`] pixels; empty for a file that cannot be decoded.
    #[expect(
        clippy::disallowed_methods,
        reason = "decoded one at a time, hashed in milliseconds, and the workers of the pool belong to searches"
    )]
    pub(super) async fn of(&self, picture: Bytes) -> Bytes {
        if picture.is_empty() || is_small(&picture) {
            return picture;
        }
        // What was made before does not wait behind what is decoded now.
        let kept = Arc::clone(&self.kept);
        let known = tokio::task::spawn_blocking(move || {
            let digest = Sha256::digest(&picture).into();
            let known = lock(&kept).find(&digest);
            known.ok_or((picture, digest))
        });
        let (picture, digest) = match known.await {
            Ok(Ok(known)) => return known,
            Ok(Err(unknown)) => unknown,
            Err(_broken) => return Bytes::new(),
        };
        // The semaphore is never closed, so this never fails.
        let Ok(turn) = Arc::clone(&self.making).acquire_owned().await else {
            return Bytes::new();
        };
        let (kept, limits) = (Arc::clone(&self.kept), self.limits);
        let made = tokio::task::spawn_blocking(move || {
            // A browser that disconnects does not end the decoding, so the next one waits until it has ended.
            let _turn = turn;
            // Whoever waited for the same picture finds it.
            let found = lock(&kept).find(&digest);
            found.unwrap_or_else(|| {
                let small = Bytes::from(thumbnail(&picture, &limits, SIDE).unwrap_or_default());
                lock(&kept).keep(digest, small.clone());
                small
            })
        });
        made.await.unwrap_or_default()
    }
}

fn is_small(picture: &[u8]) -> bool {
    let fits = |(width, height): (u32, u32)| width.max(height) <= SIDE;
    picture.len() < SMALL_BYTES && stated_size(picture).is_some_and(fits)
}

fn lock(kept: &Mutex<KeptThumbnails>) -> MutexGuard<'_, KeptThumbnails> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeptThumbnails {
    fn find(&self, digest: &[u8; 32]) -> Option<Bytes> {
        let found = self.pictures.iter().find(|(of, _)| of == digest);
        found.map(|(_, small)| small.clone())
    }

    /// Drops the oldest if there is no room.
    fn keep(&mut self, digest: [u8; 32], small: Bytes) {
        self.bytes += small.len() + ENTRY_BYTES;
        self.pictures.push_back((digest, small));
        while KEPT_BYTES_MAX < self.bytes {
            let Some((_, oldest)) = self.pictures.pop_front() else {
                break;
            };
            self.bytes -= oldest.len() + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;
    use std::time::Duration;

    use matchpoint_embed::pixels::{BYTES_MAX, DECODE_BYTES_MAX};

    use super::*;

    fn thumbnails(bytes_max: usize) -> Thumbnails {
        Thumbnails::new(ImageLimits {
            bytes_max,
            decode_bytes_max: DECODE_BYTES_MAX,
        })
    }

    /// A BMP file of one colour.
    fn bmp(width: u32, height: u32) -> Bytes {
        let size = (width * 3).next_multiple_of(4) * height;
        let mut bmp = b"BM".to_vec();
        for number in [54 + size, 0, 54, 40, width, height] {
            bmp.extend_from_slice(&number.to_le_bytes());
        }
        bmp.extend_from_slice(&[1, 0, 24, 0]);
        for number in [0, size, 0, 0, 0, 0] {
            bmp.extend_from_slice(&number.to_le_bytes());
        }
        bmp.resize(54 + size as usize, 99);
        bmp.into()
    }

    #[tokio::test]
    async fn a_small_picture_stays_as_it_is() {
        let (thumbnails, small) = (thumbnails(BYTES_MAX), bmp(100, 50));
        assert_eq!(thumbnails.of(small.clone()).await, small);
        assert!(lock(&thumbnails.kept).pictures.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_or_is_over_the_limit_is_no_picture_and_remembered() {
        let thumbnails = thumbnails(SMALL_BYTES);
        let large = bmp(400, 300);
        let cut = Bytes::from(b"\xff\xd8\xff cut short".to_vec());
        for _ in 0..2 {
            assert!(thumbnails.of(large.clone()).await.is_empty());
            assert!(thumbnails.of(cut.clone()).await.is_empty());
        }
        assert_eq!(lock(&thumbnails.kept).pictures.len(), 2);
    }

    #[tokio::test]
    async fn a_large_picture_is_made_small_once() {
        let thumbnails = thumbnails(BYTES_MAX);
        let small = thumbnails.of(bmp(400, 300)).await;
        assert!(small.starts_with(b"\x89PNG"));
        assert_eq!(&small[16..24], [0, 0, 1, 64, 0, 0, 0, 240], "320 x 240");
        let again = thumbnails.of(bmp(400, 300)).await;
        assert_eq!(again.as_ptr(), small.as_ptr());
        // A small file with many pixels.
        let wide = bmp(1000, 10);
        assert!(wide.len() < SMALL_BYTES);
        assert_eq!(thumbnails.of(wide).await[16..20], [0, 0, 1, 64]);
    }

    #[tokio::test]
    async fn a_picture_that_was_made_before_waits_for_no_turn() {
        let thumbnails = thumbnails(BYTES_MAX);
        let small = thumbnails.of(bmp(400, 300)).await;
        let turn = thumbnails.making.acquire().await.unwrap();
        let again = thumbnails.of(bmp(400, 300));
        let again = tokio::time::timeout(Duration::from_secs(30), again).await;
        assert_eq!(again.unwrap(), small);
        drop(turn);
    }

    #[tokio::test]
    async fn a_browser_that_goes_away_frees_no_turn_before_the_decoding_ends() {
        let thumbnails = thumbnails(BYTES_MAX);
        let mut asked = Box::pin(thumbnails.of(bmp(1000, 1000)));
        // Drops the request once the decoding has begun.
        let begun = std::future::poll_fn(|context| {
            assert!(asked.as_mut().poll(context).is_pending());
            match thumbnails.making.available_permits() {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        begun.await;
        drop(asked);
        assert!(thumbnails.making.acquire().await.is_ok());
        assert_eq!(lock(&thumbnails.kept).pictures.len(), 1);
    }

    #[test]
    fn the_oldest_is_dropped_if_there_is_no_room() {
        let mut kept = KeptThumbnails::default();
        let half = Bytes::from(vec![0; KEPT_BYTES_MAX / 2 - ENTRY_BYTES]);
        for number in 0..3 {
            kept.keep([number; 32], half.clone());
        }
        assert!(kept.find(&[0; 32]).is_none());
        assert!(kept.find(&[1; 32]).is_some() && kept.find(&[2; 32]).is_some());
    }
}
