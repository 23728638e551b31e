//! The result of a calibration.

use matchpoint_calibration::adjustment::Adjuster;
use matchpoint_calibration::monitoring::traffic::TrafficReference;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::recording::Recording;
use matchpoint_gallery::item_set::ItemSet;

/// The result of a calibration: a new operating point that is not stored yet.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The operating point.
    pub point: OperatingPoint,
    /// The searches that it was made from.
    pub recording: Recording,
    /// The items of the gallery that was searched.
    pub items: ItemSet,
    /// A description of its queries, to compare traffic with.
    pub traffic: TrafficReference,
    /// The adjustment of scores; `None` if the similarity is compared.
    pub adjuster: Option<Adjuster>,
}
