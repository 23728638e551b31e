//! The code generated from `proto/` by `make protocol`. Nothing but this room and the server names it.

#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::large_enum_variant,
    clippy::missing_errors_doc,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    reason = "generated code"
)]

include!("../generated/matchpoint.v1.rs");

/// The part of google.longrunning that is served.
pub mod longrunning {
    include!("../generated/google.longrunning.rs");
}

/// The protocol for health checks by load balancers and probes, `grpc.health.v1`.
#[expect(missing_docs, reason = "generated code of a protocol that says less")]
pub mod health {
    include!("../generated/grpc.health.v1.rs");
}

/// The compiled contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("../generated/descriptors.bin");
