//! Small pictures of items and queries, for the report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;

use super::image_sources::ImageSources;
use matchpoint_embed::pixels::{BYTES_MAX, DECODE_BYTES_MAX, ImageLimits, thumbnail};
use matchpoint_report::Picture;

/// The longer side of a picture.
const SIDE: u32 = 128;

/// Where the images are. Unreadable ones are left out: a report should not fail for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pictures {
    paths: BTreeMap<String, PathBuf>,
}

impl Pictures {
    /// Adds the images of a source, by id. Images that were added earlier have priority.
    pub(super) fn add(&mut self, sources: &ImageSources) {
        for item in &sources.items {
            self.paths
                .entry(item.id.clone())
                .or_insert_with(|| item.path.clone());
        }
    }

    pub(super) fn of(&self, id: &str) -> Option<Picture> {
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
