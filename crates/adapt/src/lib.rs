//! A head for embeddings, learned from labelled ones, that is taken only where it is better on labels it has not seen.
//!
//! Calibration can say that the data do not support a target; the embedding decides how much they support. A head is a
//! linear map behind the model, fitted in seconds: it makes pictures of one label alike, and one threshold fit all labels.
//! Labels are split once, by label: those that fit, those that are left for a calibration, those that judge.
//!
//! ```
//! use matchpoint_adapt::{AdaptRequest, LabelledRows, Parts, Recipe};
//!
//! // 60 labels with four pictures each: a direction of each label's own, and one that says nothing.
//! let noise = |at: usize| (at * 7_919 % 101) as f32 / 101.0 - 0.5;
//! let mut vectors = Vec::new();
//! for row in 0..240 {
//!     vectors.extend((0..16).map(|axis| noise(row / 4 * 16 + axis) + 0.2 * noise(row * 31 + axis * 7)));
//!     vectors.push(3.0 * noise(row * 3 + 1));
//! }
//! let names: Vec<String> = (0..240).map(|row| format!("label {}", row / 4)).collect();
//! let rows = LabelledRows::normalise(17, vectors, (0..240).map(|row| row / 4).collect())?;
//! let labels: Vec<&str> = names.iter().map(String::as_str).collect();
//! let parts = Parts::deal(&labels, 0)?;
//! let request = AdaptRequest {
//!     rows: &rows,
//!     names: &names,
//!     parts: &parts,
//!     recipe: Some(Recipe::named("whitening")?),
//!     seed: 0,
//! };
//! let adapted = request.run(&|_, _, _| true)?;
//! match &adapted.judgement.refused {
//!     Some(why) => println!("the embeddings stay as they are: {why}"),
//!     None => println!("better on {} labels that it had not seen", adapted.judgement.labels),
//! }
//! let unit = adapted.head.apply(rows.row(0).unwrap_or_default())?;
//! assert_eq!(unit.dimension(), adapted.head.to());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Pure: no input or output, no clock, and nothing random that does not follow from the seed. No result depends on the
//! number of threads.

#![forbid(unsafe_code)]

mod curves;
mod dense;
mod eigen;
mod error;
mod figures;
mod fitting;
mod head;
mod judgement;
mod labelled_rows;
mod loss;
mod parts;
mod recipe;
mod record;
mod supported;
mod training;
mod whitening;

pub use curves::{JudgedCurves, LabelUtility, TradePoint};
pub use error::AdaptError;
pub use figures::HeadFigures;
pub use fitting::{AdaptProgress, AdaptRequest, AdaptStage, AdaptedHead, Candidate};
pub use head::{Head, vector_sha256};
pub use judgement::{JudgedFigure, Judgement};
pub use labelled_rows::LabelledRows;
pub use parts::{Part, Parts};
pub use recipe::{RECIPES, Recipe};
pub use record::{HeadBase, HeadRecord};
pub use supported::SupportedTargets;
