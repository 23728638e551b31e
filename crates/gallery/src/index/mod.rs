//! A compact approximate index of unit vectors that is built once and then only searched.
//!
//! It is a graph of links between near vectors (HNSW, Malkov and Yashunin), stored so that a search waits for
//! memory as little as possible. Vectors are codes of eight bits, or of sixteen if the rows are too near to
//! each other for eight, and links are 32-bit numbers; each kind is in one block. The codes only propose
//! candidates, whose scores are then computed from the caller's vectors. A search takes no lock and, once its
//! [`scratch::Scratch`] has grown, allocates no memory.

pub mod bits;
pub mod breadth;
pub mod build;
pub mod codes;
pub mod error;
pub mod graph;
pub mod scan;
pub mod scratch;
pub mod search;

mod duplicates;
mod file;
mod links;
mod select;
#[cfg(test)]
mod tests;
mod traversal;
mod width;
