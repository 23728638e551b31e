//! What a command does not use of a source, counted and named.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a command left out of a source; none of it is a mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LeftOut {
    /// Rows of a list, by the role for which they are not used here.
    pub(crate) by_role: BTreeMap<String, usize>,
    /// Files of a folder that are not images by name and content, by kind.
    pub(crate) ignored: BTreeMap<String, usize>,
    /// Files and folders of the system, by name.
    pub(crate) system: BTreeMap<String, usize>,
    /// Files and folders that `--exclude` names.
    pub(crate) excluded: usize,
    /// Labels that have files, but no image.
    pub(crate) labels_without_images: Vec<String>,
}

impl LeftOut {
    /// Counts a file of a kind.
    pub(crate) fn ignore(&mut self, kind: String) {
        /// More kinds help nobody.
        const KINDS_MAX: usize = 32;
        let full = KINDS_MAX <= self.ignored.len() && !self.ignored.contains_key(&kind);
        let kind = if full {
            "of other kinds".to_owned()
        } else {
            kind
        };
        *self.ignored.entry(kind).or_default() += 1;
    }

    /// Counts a file or folder of the system.
    pub(crate) fn skip(&mut self, name: &str) {
        *self.system.entry(name.to_owned()).or_default() += 1;
    }

    /// Counts a row of a role.
    pub(crate) fn pass(&mut self, role: &str) {
        *self.by_role.entry(role.to_owned()).or_default() += 1;
    }

    /// Files that are no images.
    pub(crate) fn ignored_files(&self) -> usize {
        self.ignored.values().sum()
    }

    /// Rows of names and values; empty if nothing was left out.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        /// Of many labels only this many are shown.
        const SHOWN: usize = 10;
        let mut rows = Vec::new();
        for (name, counts) in [
            ("by role", &self.by_role),
            ("ignored", &self.ignored),
            ("of the system", &self.system),
        ] {
            if !counts.is_empty() {
                rows.push((name, format!("{}, left out", counted(counts))));
            }
        }
        if 0 < self.excluded {
            rows.push(("excluded", format!("{} by --exclude", self.excluded)));
        }
        let labels = &self.labels_without_images;
        if !labels.is_empty() {
            let shown: Vec<&str> = labels.iter().take(SHOWN).map(String::as_str).collect();
            let more = match labels.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            rows.push((
                "no images",
                format!("of the labels {}{more}", shown.join(", ")),
            ));
        }
        rows
    }
}

/// Counts by name, in words.
pub(crate) fn counted(counts: &BTreeMap<String, usize>) -> String {
    let words = counts.iter().map(|(kind, count)| format!("{count} {kind}"));
    words.collect::<Vec<_>>().join(", ")
}
