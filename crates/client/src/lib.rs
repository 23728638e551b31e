//! The gRPC contract of Matchpoint, and a client for it.
//!
//! ```
//! use matchpoint_client::proto::SearchRequest;
//! use matchpoint_client::proto::search_request::Query;
//! use matchpoint_client::{Client, ClientError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! match Client::connect("127.0.0.1:9").await {
//!     Ok(client) => {
//!         let image = std::fs::read("photograph.jpg")?;
//!         let query = Some(Query::Image(image.into()));
//!         let request = SearchRequest { query, limit: 3, ..SearchRequest::default() };
//!         let answer = client.search(request, None).await?;
//!         println!("{}", answer.decision().name());
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

mod calibration;
mod codec;
mod connection;
mod credentials;
mod enum_names;
mod ground_truth;
mod monitoring;
mod operating_points;
mod operations;
pub mod proto;
mod snapshots;

pub use calibration::CalibrationEnd;
pub use codec::{CountingCodec, CountingDecoder};
pub use connection::{Client, ClientError, Fault};
pub use credentials::{ClientCertificate, Credentials};
pub use snapshots::SnapshotPieces;
