//! The input of a calibration report.

use crate::contents::Picture;
use matchpoint_calibration::analysis::Analysis;
use matchpoint_calibration::operating_point::Content;
use matchpoint_calibration::recording::Recording;

/// Everything that the report of a successful calibration needs.
#[derive(Clone, Copy)]
pub struct Findings<'a> {
    /// Id of the operating point; `None` if it was not recorded.
    pub id: Option<&'a str>,
    /// The operating point.
    pub content: &'a Content,
    /// The searches of the calibration.
    pub recording: &'a Recording,
    /// The analysis of the same searches.
    pub analysis: &'a Analysis,
    /// The pictures to show next to ids.
    pub pictures: &'a dyn ReportPictures,
}

/// Provides a report with pictures. Without a picture, only the id is shown.
pub trait ReportPictures {
    /// The picture of an item in the gallery.
    fn of_item(&self, id: &str) -> Option<Picture>;
    /// The picture of a query.
    fn of_query(&self, id: &str) -> Option<Picture>;
    /// Pictures of the label's items, at most `limit`.
    fn of_label(&self, label: &str, limit: usize) -> Vec<Picture>;
}

/// A report without pictures.
#[derive(Clone, Copy, Debug)]
pub struct NoPictures;

impl ReportPictures for NoPictures {
    fn of_item(&self, _id: &str) -> Option<Picture> {
        None
    }

    fn of_query(&self, _id: &str) -> Option<Picture> {
        None
    }

    fn of_label(&self, _label: &str, _limit: usize) -> Vec<Picture> {
        Vec::new()
    }
}
