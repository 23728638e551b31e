//! A compact approximate index of unit vectors: built once, then only searched.
//!
//! A graph of links between near vectors (HNSW, Malkov and Yashunin), laid out so that a search
//! waits for memory as little as can be: vectors as codes of eight bits, or sixteen if the rows are
//! too near each other for eight, and links as 32-bit numbers, each in one
//! block. The codes only propose; the scores of those proposed are computed from the caller's
//! vectors. Searching takes no lock and, once its [`scratch::Scratch`] has grown, no memory.

pub mod bits;
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
