//! The golden check: one shipped image must give the same embedding as when the model was made.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use crate::pixels::ImageLimits;
use matchpoint_vector::{Embedding, Similarity};

use super::embedder::tensor_of;
use super::error::{EmbedError, ModelError};
use super::folder::{self, GOLDEN_BYTES_MAX};
use super::manifest::{GoldenFiles, Manifest};
use super::runtime::Runtime;
use super::session::{Provider, Session};

/// The memory limit for decoding a golden image.
pub(super) const GOLDEN_DECODE_BYTES_MAX: u64 = 800_000_000;

/// The least cosine between the embedding of an image next to copies of itself and next to others: devices compute
/// the places of a batch in different orders, which costs some millionths.
const COMPANY_COSINE_MIN: f32 = 0.9999;

/// The data that every session is checked against before it serves. The image is kept as an input tensor, so
/// that it is decoded only once.
pub(super) struct GoldenCheck {
    path: PathBuf,
    tensor: Vec<f32>,
    reference: Embedding,
    cosine_min: f32,
    passed: AtomicU64,
    /// SHA-256 of the exact result of the first session.
    computed: OnceLock<String>,
}

impl GoldenCheck {
    /// Reads and decodes the files that the manifest names.
    pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Self, ModelError> {
        let GoldenFiles {
            image: file,
            embedding,
            cosine_min,
        } = &manifest.golden;
        let path = folder.join(file);
        let bytes = folder::read(folder, file, GOLDEN_BYTES_MAX)?;
        let reference = folder::read_reference(folder, embedding, manifest.output.dimension)?;
        let limits = ImageLimits {
            bytes_max: usize::try_from(GOLDEN_BYTES_MAX).unwrap_or(usize::MAX),
            decode_bytes_max: GOLDEN_DECODE_BYTES_MAX,
        };
        let tensor = tensor_of(&bytes, &limits, manifest).map_err(|cause| {
            ModelError::GoldenNotEmbedded {
                path: path.clone(),
                cause,
            }
        })?;
        Ok(Self {
            path,
            tensor,
            reference,
            cosine_min: *cosine_min,
            passed: AtomicU64::new(0),
            computed: OnceLock::new(),
        })
    }

    /// Embeds the image this many times in one run of a session, and compares each result. Only a session that
    /// passes may run without a time limit.
    pub(super) fn check(
        &self,
        session: &mut Session,
        images: usize,
        runtime: &Runtime,
        provider: Provider,
    ) -> Result<(), ModelError> {
        let failed = |reason| ModelError::GoldenNotEmbedded {
            path: self.path.clone(),
            cause: EmbedError::Model { reason },
        };
        let tensors = self.tensor.repeat(images);
        let embeddings = session.run_batch(&tensors, images).map_err(failed)?;
        if 1 < images
            && let Some(alike) = embeddings.first()
        {
            self.check_company(session, images, alike)?;
        }
        for raw in embeddings {
            let _first = self.computed.get_or_init(|| digest(&raw));
            let embedding = Embedding::normalise(raw).map_err(|cause| failed(cause.to_string()))?;
            let cosine = Similarity::between(embedding.as_slice(), self.reference.as_slice())
                .map_or(f32::NAN, Similarity::get);
            let passes = self.cosine_min <= cosine;
            if !passes {
                return Err(ModelError::GoldenDiffers {
                    path: self.path.clone(),
                    cosine,
                    cosine_min: self.cosine_min,
                    runtime: runtime.version().to_owned(),
                    provider: provider.name(),
                });
            }
        }
        session.set_time_max(None);
        self.passed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Embeds the image next to others in one run, first and last: `alike` is its result next to copies of itself.
    /// A model that normalises over the images of a run passes among copies, and then gives strangers' pictures a
    /// say in each other's embeddings.
    fn check_company(
        &self,
        session: &mut Session,
        images: usize,
        alike: &[f32],
    ) -> Result<(), ModelError> {
        let failed = |reason: String| ModelError::GoldenNotEmbedded {
            path: self.path.clone(),
            cause: EmbedError::Model { reason },
        };
        let unit = |raw: &[f32]| {
            Embedding::normalise(raw.to_vec()).map_err(|cause| failed(cause.to_string()))
        };
        let alike = unit(alike)?;
        let other: Vec<f32> = self.tensor.iter().rev().copied().collect();
        for place in [0, images - 1] {
            let tensors: Vec<f32> = (0..images)
                .flat_map(|at| if at == place { &self.tensor } else { &other })
                .copied()
                .collect();
            let among = session.run_batch(&tensors, images).map_err(failed)?;
            let among = unit(among.get(place).map_or(&[][..], Vec::as_slice))?;
            let cosine = Similarity::between(among.as_slice(), alike.as_slice())
                .map_or(f32::NAN, Similarity::get);
            let passes = COMPANY_COSINE_MIN <= cosine;
            if !passes {
                return Err(ModelError::MixesImages { images, cosine });
            }
        }
        Ok(())
    }

    /// SHA-256 of the exact result of the first session; empty before that.
    pub(super) fn computed(&self) -> &str {
        self.computed.get().map_or("", String::as_str)
    }

    /// The number of times that a session has passed the check.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

fn digest(embedding: &[f32]) -> String {
    let mut hash = Sha256::new();
    for value in embedding {
        hash.update(value.to_le_bytes());
    }
    encode_string(&hash.finalize())
}
