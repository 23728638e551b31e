//! The calibration as a module of Python: `matchpoint_calibration._native`.
//!
//! Numbers come in as bytes, and results go out as JSON and HTML. The Python beside it checks what people give, and
//! makes classes of what comes back.

#![forbid(unsafe_code)]

mod outcome;
mod request;
mod scores;
mod vectors;
mod watched;

use pyo3::prelude::*;

/// The module.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::outcome::Outcome;
    #[pymodule_export]
    use super::request::InputError;
    #[pymodule_export]
    use super::scores::calibrate_scores;
    #[pymodule_export]
    use super::scores::similarities;
    #[pymodule_export]
    use super::vectors::calibrate_vectors;
}
