//! Small pictures of items and queries, for the report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;

use crate::cli::input::image_sources::ImageSources;
use matchpoint_calibration::analysis::EmbeddedSet;
use matchpoint_embed::pixels::{BYTES_MAX, DECODE_BYTES_MAX, ImageLimits, thumbnail};
use matchpoint_report::Picture;
use matchpoint_report::calibrated::ReportPictures;

/// The longer side of a picture.
const SIDE: u32 = 128;

/// Where the images are. Unreadable ones are left out: a report should not fail for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pictures {
    paths: BTreeMap<String, PathBuf>,
}

impl Pictures {
    /// Adds the images of a source, by id. Images that were added earlier have priority.
    pub(crate) fn add(&mut self, sources: &ImageSources) {
        for item in &sources.items {
            self.paths
                .entry(item.id.clone())
                .or_insert_with(|| item.path.clone());
        }
    }

    pub(crate) fn of(&self, id: &str) -> Option<Picture> {
        let limits = ImageLimits {
            bytes_max: BYTES_MAX,
            decode_bytes_max: DECODE_BYTES_MAX,
        };
        let bytes = std::fs::read(self.paths.get(id)?).ok()?;
        let png = thumbnail(&bytes, &limits, SIDE).ok()?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(png);
        Some(Picture {
            data_uri: format!("data:image/png;base64,{encoded}"),
            description: id.to_owned(),
        })
    }
}

/// The pictures of a gallery and of its queries.
pub(crate) struct LabelledPictures<'a> {
    items: &'a Pictures,
    queries: &'a Pictures,
    by_label: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> LabelledPictures<'a> {
    pub(crate) fn of(
        gallery: &'a EmbeddedSet,
        names: &'a [String],
        items: &'a Pictures,
        queries: &'a Pictures,
    ) -> Self {
        let mut by_label: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (row, id) in gallery.ids.iter().enumerate() {
            by_label
                .entry(gallery.label(row, names))
                .or_default()
                .push(id);
        }
        Self {
            items,
            queries,
            by_label,
        }
    }
}

impl ReportPictures for LabelledPictures<'_> {
    fn of_item(&self, id: &str) -> Option<Picture> {
        self.items.of(id)
    }

    fn of_query(&self, id: &str) -> Option<Picture> {
        self.queries.of(id)
    }

    fn of_label(&self, label: &str, limit: usize) -> Vec<Picture> {
        let items = self.by_label.get(label).into_iter().flatten();
        items
            .filter_map(|id| self.of_item(id))
            .take(limit)
            .collect()
    }
}
