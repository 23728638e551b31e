//! The other end of the contract: what commands and tests ask of a server. Knows no other room.

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
