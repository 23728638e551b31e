//! The location of a file: on this machine, or in an object store.

use std::path::{Path, PathBuf};

/// The highest length of an address in bytes: S3 allows keys of 1,024 bytes in a bucket with a name of 63.
const ADDRESS_BYTES_MAX: usize = 1200;

/// The protocol of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// Amazon S3, and compatible stores.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

/// The text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address that begins with {scheme}:// {problem}")]
pub struct AddressError {
    /// The start of the text; the rest is not shown.
    pub scheme: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// The address of an object; it contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectAddress {
    text: String,
    kind: StoreKind,
    /// The position of the key.
    key_at: usize,
}

/// The location of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePlace {
    /// On this machine.
    File(PathBuf),
    /// In an object store.
    Object(ObjectAddress),
}

impl FilePlace {
    /// Reads a path, or an address, which contains `://`.
    ///
    /// # Errors
    /// Returns an error for another scheme than `file`, `s3`, `gs` and `az`, without a bucket or a key, and for
    /// credentials, which belong in the environment.
    pub fn parse(text: &Path) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = text.to_str().and_then(|text| text.split_once("://")) else {
            return Ok(Self::File(text.to_owned()));
        };
        let refuse = |problem| AddressError {
            scheme: scheme.to_owned(),
            problem,
        };
        let kind = match scheme {
            "file" if rest.starts_with('/') => return Ok(Self::File(PathBuf::from(rest))),
            "file" => return Err(refuse("names no absolute path: write file:///folder/name")),
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Google,
            "az" => StoreKind::Azure,
            _ => return Err(refuse("is none of file://, s3://, gs:// and az://")),
        };
        // The text is not shown, because it may contain a password.
        if rest.contains(['@', '?', '#']) {
            return Err(refuse(
                "has a user, a query or a fragment in it; credentials come from the environment alone",
            ));
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let printable = !rest.chars().any(|one| one.is_control() || one == '\\');
        if !plain(bucket) || !key.split('/').all(plain) || !printable {
            return Err(refuse(
                "names no bucket and key: write s3://bucket/folder/name",
            ));
        }
        let text = format!("{scheme}://{rest}");
        if ADDRESS_BYTES_MAX < text.len() {
            return Err(refuse("is too long"));
        }
        let key_at = text.len() - key.len();
        Ok(Self::Object(ObjectAddress { text, kind, key_at }))
    }
}

#[cfg_attr(
    not(feature = "object-stores"),
    expect(dead_code, reason = "nothing asks a store")
)]
impl ObjectAddress {
    pub(crate) fn kind(&self) -> StoreKind {
        self.kind
    }

    /// Scheme and bucket.
    pub(crate) fn bucket(&self) -> &str {
        self.text.get(..self.key_at).unwrap_or_default()
    }

    pub(crate) fn key(&self) -> &str {
        self.text.get(self.key_at..).unwrap_or_default()
    }
}

impl std::fmt::Display for ObjectAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_an_object_and_never_shows_a_password() {
        let parse = |text: &str| FilePlace::parse(Path::new(text));
        for path in ["shop", "a/b.snapshot", "./a:b"] {
            assert_eq!(parse(path).unwrap(), FilePlace::File(PathBuf::from(path)));
        }
        assert_eq!(
            parse("file:///a/b").unwrap(),
            FilePlace::File(PathBuf::from("/a/b"))
        );
        for text in ["s3://bucket/a", "gs://b/a/c.snapshot", "az://c/x=1/y"] {
            let FilePlace::Object(address) = parse(text).unwrap() else {
                unreachable!("{text}")
            };
            assert_eq!(address.to_string(), text);
            assert_eq!(format!("{}{}", address.bucket(), address.key()), text);
        }
        for text in [
            "file://a",
            "http://a/b",
            "S3://a/b",
            "s3://",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "s3://b/a//c",
            "s3://b/../c",
            "s3://b/a\n",
            "s3://id:hunter2@b/a",
            "s3://b/a?X-Amz-Signature=hunter2",
            "gs://b/a#hunter2",
            &format!("s3://b/{}", "a".repeat(1300)),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
