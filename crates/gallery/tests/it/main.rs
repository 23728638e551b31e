//! The gallery as its users have it, in one program: linked once.

mod durability;
mod gallery;
mod merge;
