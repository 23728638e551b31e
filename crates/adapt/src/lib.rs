//! Fits a head for embeddings to labelled data, and accepts it only if it is better on labels that had no part
//! in the fit.
//!
//! A calibration can only find that the data do not support a target; how much they support depends on the
//! embedding. A head is a linear map after the model. It makes pictures of one label more alike, and makes one
//! threshold suit all labels. One fit of 20,000 embeddings of 1,280 components took 7 s on two busy cores. With the
//! choice among four recipes and the judging, 1,989 pictures took 43 s and 6,970 took 81 s. The labels are split once into three parts: fitting
//! labels, labels left for a calibration, and judging labels.
//!
//! ```
//! use matchpoint_adapt::{AdaptRequest, COMPONENTS, LabelledRows, Parts, Recipe};
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
//!     components: COMPONENTS,
//!     eight_bits: false,
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
//! The code is pure: it has no input or output and no clock, and all random choices depend only on the seed. No
//! result depends on the number of threads.

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
pub use recipe::{COMPONENTS, RECIPES, Recipe};
pub use record::{HeadBase, HeadRecord};
pub use supported::SupportedTargets;
