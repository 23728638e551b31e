//! Unit vectors, their exact scores, and the kernels that compute them.
//!
//! An [`Embedding`] cannot hold NaN, zero or another length than one; a [`Similarity`] cannot hold
//! NaN. So nothing that takes one has to check. Every score comes from [`kernels::dot`], which gives
//! the same bits on every CPU.
//!
//! ```
//! use matchpoint_vector::{Embedding, Similarity};
//!
//! let a = Embedding::normalise(vec![3.0, 4.0])?;
//! let b = Embedding::normalise(vec![4.0, 3.0])?;
//! let score = Similarity::between(a.as_slice(), b.as_slice()).ok_or("of different lengths")?;
//! assert!((score.get() - 0.96).abs() < 1e-6);
//! assert!(Embedding::normalise(vec![f32::NAN, 1.0]).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The only crate of the workspace that has `unsafe` code: SIMD instructions, and the memory map.

mod eight_bits;
mod embedding;
pub mod kernels;

pub use eight_bits::EightBits;
pub use embedding::{Embedding, NotAnEmbedding, Similarity};
