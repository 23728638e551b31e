//! Pixels and models as their users have them, in one program: linked once.

mod golden;
mod hostile;
mod model;
