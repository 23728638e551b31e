//! Small pictures for pages with many: made one at a time, and kept up to a limit.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use matchpoint_embed::pixels::{BYTES_MAX, DECODE_BYTES_MAX, ImageLimits, thumbnail};

/// The longer side: a tile on a high-resolution screen.
const SIDE: u32 = 320;
/// A picture below this is small enough already.
const SMALL_BYTES: usize = 64 << 10;
/// Small pictures take some 100 KB each.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Leaves the other cores to searches, and limits the memory for decoding.
const AT_ONCE: usize = 1;

/// Small pictures by the hash of the full ones.
#[derive(Debug)]
pub(super) struct Thumbnails {
    making: Semaphore,
    kept: Mutex<KeptThumbnails>,
}

#[derive(Debug, Default)]
struct KeptThumbnails {
    pictures: VecDeque<([u8; 32], Bytes)>,
    bytes: usize,
}

impl Default for Thumbnails {
    fn default() -> Self {
        Self {
            making: Semaphore::new(AT_ONCE),
            kept: Mutex::default(),
        }
    }
}

impl Thumbnails {
    /// A small version of a picture; the picture itself if it is small already, or not readable.
    #[expect(
        clippy::disallowed_methods,
        reason = "one at a time, and the workers of the pool belong to searches"
    )]
    pub(super) async fn of(&self, picture: Bytes) -> Bytes {
        if picture.len() < SMALL_BYTES {
            return picture;
        }
        let digest: [u8; 32] = Sha256::digest(&picture).into();
        if let Some(small) = self.find(&digest) {
            return small;
        }
        // The semaphore is never closed. Another page may have made this one meanwhile.
        let Ok(_turn) = self.making.acquire().await else {
            return picture;
        };
        if let Some(small) = self.find(&digest) {
            return small;
        }
        let source = picture.clone();
        let limits = ImageLimits {
            bytes_max: BYTES_MAX,
            decode_bytes_max: DECODE_BYTES_MAX,
        };
        let made = tokio::task::spawn_blocking(move || thumbnail(&source, &limits, SIDE)).await;
        let Ok(Ok(small)) = made else {
            return picture;
        };
        let small = Bytes::from(small);
        self.keep(digest, small.clone());
        small
    }

    fn find(&self, digest: &[u8; 32]) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.pictures.iter().find(|(of, _)| of == digest);
        found.map(|(_, small)| small.clone())
    }

    /// Drops the oldest if there is no room.
    fn keep(&self, digest: [u8; 32], small: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += small.len();
        kept.pictures.push_back((digest, small));
        while KEPT_BYTES_MAX < kept.bytes {
            let Some((_, oldest)) = kept.pictures.pop_front() else {
                break;
            };
            kept.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_picture_and_a_file_that_is_no_picture_stay_as_they_are() {
        let thumbnails = Thumbnails::default();
        for picture in [vec![7; 10], vec![7; SMALL_BYTES]] {
            let picture = Bytes::from(picture);
            assert_eq!(thumbnails.of(picture.clone()).await, picture);
        }
        assert!(thumbnails.kept.lock().unwrap().pictures.is_empty());
    }

    #[tokio::test]
    async fn a_large_picture_is_made_small_once() {
        // A BMP of 400 x 300 pixels.
        let (width, height) = (400_u32, 300_u32);
        let size = width * height * 3;
        let mut bmp = b"BM".to_vec();
        for number in [54 + size, 0, 54, 40, width, height] {
            bmp.extend_from_slice(&number.to_le_bytes());
        }
        bmp.extend_from_slice(&[1, 0, 24, 0]);
        for number in [0, size, 0, 0, 0, 0] {
            bmp.extend_from_slice(&number.to_le_bytes());
        }
        bmp.resize(54 + size as usize, 99);
        let thumbnails = Thumbnails::default();
        let small = thumbnails.of(Bytes::from(bmp.clone())).await;
        assert!(small.starts_with(b"\x89PNG") && small.len() < bmp.len());
        assert_eq!(&small[16..24], [0, 0, 1, 64, 0, 0, 0, 240], "320 x 240");
        let again = thumbnails.of(Bytes::from(bmp)).await;
        assert_eq!(again.as_ptr(), small.as_ptr());
    }

    #[test]
    fn the_oldest_is_dropped_if_there_is_no_room() {
        let thumbnails = Thumbnails::default();
        let half = Bytes::from(vec![0; KEPT_BYTES_MAX / 2]);
        for number in 0..3 {
            thumbnails.keep([number; 32], half.clone());
        }
        assert!(thumbnails.find(&[0; 32]).is_none());
        assert!(thumbnails.find(&[1; 32]).is_some() && thumbnails.find(&[2; 32]).is_some());
    }
}
