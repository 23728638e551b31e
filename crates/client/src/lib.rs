//! The gRPC contract of Matchpoint, and a client for it.
//!
//! ```
//! use matchpoint_client::{Asked, Client, ClientError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! match Client::connect("127.0.0.1:9").await {
//!     Ok(client) => {
//!         let asked = Asked { deployment: String::new(), limit: 3, ..Asked::default() };
//!         let found = client.search(&asked, std::fs::read("photograph.jpg")?).await?;
//!         println!("{}", found.decision);
//!     }
//!     Err(ClientError::Unreachable { address, cause }) => println!("nobody at {address}: {cause}"),
//!     Err(other) => return Err(other.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`proto`] has the messages themselves, generated from `proto/` at the top of the repository.

#![forbid(unsafe_code)]

mod audit;
mod connection;
mod drift;
pub mod proto;
mod shadow;

pub use audit::{CanariesFound, Decided, DecisionFound, QueueAsked, Said, Told, TruthReport};
pub use connection::{Asked, Client, ClientError, Fault, Found, Served};
pub use drift::{
    DriftFound, EvidenceFound, FindingFound, GroupFound, RateFound, RatesAtFound,
    RecalibrationFound, ResetFound,
};
pub use shadow::{Candidate, Disagreed, ShadowCounted, ShadowFound, Side};
