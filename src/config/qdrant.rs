//! The index in Qdrant.

use super::SettingReader;
use matchpoint_qdrant::QdrantAddress;

impl SettingReader {
    /// `Some(None)` if each server has its own index.
    pub(super) fn qdrant(&mut self, read_only: Option<bool>) -> Option<Option<QdrantAddress>> {
        let chosen = self.one_of("index", &[("embedded", false), ("qdrant", true)]);
        let (urls, key_file) = (self.text("qdrant_urls"), self.text("qdrant_api_key_file"));
        if !chosen? {
            if urls.is_some() || key_file.is_some() {
                let mistake = "qdrant_urls and qdrant_api_key_file go with index = \"qdrant\"";
                self.mistakes.push(mistake.to_owned());
            }
            return Some(None);
        }
        if read_only == Some(true) {
            self.mistakes.push(
                "index = \"qdrant\" and read_only = true exclude each other: a server keeps the collection equal to its gallery; \
                 leave read_only out, and give callers no scope that enrols"
                    .to_owned(),
            );
        }
        let Some(urls) = urls else {
            let mistake = "index = \"qdrant\" needs qdrant_urls, such as http://127.0.0.1:6334";
            self.mistakes.push(mistake.to_owned());
            return None;
        };
        let key = key_file.map(std::fs::read_to_string).transpose();
        let key = key.inspect_err(|cause| {
            self.mistakes
                .push(format!("qdrant_api_key_file cannot be read: {cause}"));
        });
        let address = QdrantAddress::parse(&urls, key.ok()?.as_deref());
        let address = address.inspect_err(|error| self.mistakes.push(error.to_string()));
        Some(Some(address.ok()?))
    }
}
