//! The fields of one row of a list of images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where an image of a list is, and its path as an id: relative to the list, `~` for the own folder,
/// and with the separators of Windows where no file is called like that.
pub(super) fn resolved(folder: &Path, path: String) -> Result<(PathBuf, String), (String, String)> {
    let drive = match path.as_bytes() {
        [letter, b':', b'\\' | b'/', ..] => letter.is_ascii_alphabetic(),
        _ => false,
    };
    let literal = folder.join(&path);
    let special = drive || path.contains('\\') || path.starts_with("~/");
    if !special || literal.symlink_metadata().is_ok() {
        return Ok((literal, path));
    }
    if drive || path.starts_with("\\\\") {
        let what = "its path is on a drive or a share of Windows; copy the images beside the list, and write their paths relative to it";
        return Err((path, what.to_owned()));
    }
    let turned = path.replace('\\', "/");
    let own = turned.strip_prefix("~/").zip(std::env::home_dir());
    let found = own.map_or_else(|| folder.join(&turned), |(rest, home)| home.join(rest));
    Ok((found, turned))
}

/// The fields of an object, each named once: of two labels, neither can be believed.
pub(super) struct ObjectFields(pub(super) Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for ObjectFields {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> serde::de::Visitor<'de> for Object {
            type Value = ObjectFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<ObjectFields, A::Error> {
                let (mut fields, mut seen) = (Vec::new(), BTreeSet::new());
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if !seen.insert(name.clone()) {
                        let name = name.escape_debug();
                        let problem = format!("two fields are named `{name}`; rename one");
                        return Err(serde::de::Error::custom(problem));
                    }
                    fields.push((name, value));
                }
                Ok(ObjectFields(fields))
            }
        }
        from.deserialize_map(Object)
    }
}

/// An object's fields as text; those of `metadata` count as its own.
pub(super) fn flatten(
    object: impl IntoIterator<Item = (String, Value)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut fields = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "metadata" => metadata = flatten(inner)?,
            Value::Null => {}
            Value::String(text) => drop(fields.insert(name, text)),
            Value::Bool(_) | Value::Number(_) => drop(fields.insert(name, value.to_string())),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!(
                    "its `{name}` is nested; write a string, a number or a boolean"
                ));
            }
        }
    }
    for (name, value) in metadata {
        if let Some(taken) = fields.insert(name.clone(), value) {
            return Err(format!(
                "its metadata names `{name}` again (`{taken}`); call that otherwise"
            ));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_windows_and_of_a_home_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a\\b.jpg"), "x").unwrap();
        let at = |path: &str| resolved(folder.path(), path.to_owned());
        let found = at("a\\b.jpg").unwrap();
        assert_eq!(
            found,
            (folder.path().join("a\\b.jpg"), "a\\b.jpg".to_owned())
        );
        let found = at("cat\\1.jpg").unwrap();
        assert_eq!(
            found,
            (folder.path().join("cat/1.jpg"), "cat/1.jpg".to_owned())
        );
        let found = at("/photos/1.jpg").unwrap();
        assert_eq!(found.0, Path::new("/photos/1.jpg"));
        let home = std::env::home_dir().unwrap();
        assert_eq!(at("~/1.jpg").unwrap().0, home.join("1.jpg"));
        for path in ["C:\\photos\\1.jpg", "d:/1.jpg", "\\\\nas\\photos\\1.jpg"] {
            let (named, reason) = at(path).unwrap_err();
            assert_eq!(named, path);
            assert!(reason.contains("a drive or a share of Windows"), "{reason}");
        }
    }

    #[test]
    fn an_object_that_names_a_field_twice_is_refused() {
        let twice = r#"{"path":"a.jpg","label":"cat","label":"dog"}"#;
        let error = serde_json::from_str::<ObjectFields>(twice).err().unwrap();
        assert!(
            error.to_string().contains("two fields are named `label`"),
            "{error}"
        );
    }
}
