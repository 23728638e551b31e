//! The fields of one row of a list of images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Where an image of a list is, and its path as an id: relative to the list, `~` for the home folder, and
/// with the separators of Windows unless a file has such a name.
pub(crate) fn resolved(folder: &Path, path: String) -> Result<(PathBuf, String), (String, String)> {
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

/// A larger number that is not a 64-bit integer has lost digits: 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The fields of an object, each once: of two labels, neither can be trusted.
pub(crate) struct ObjectFields(Vec<(String, FieldValue)>);

/// What a field holds.
enum FieldValue {
    Nothing,
    /// Text, also of a number or a boolean.
    Text(String),
    Object(ObjectFields),
    List,
}

impl<'de> serde::Deserialize<'de> for ObjectFields {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = ObjectFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ObjectFields, A::Error> {
                fields(map)
            }
        }
        from.deserialize_map(Object)
    }
}

impl<'de> serde::Deserialize<'de> for FieldValue {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = FieldValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<FieldValue, E> {
                Ok(FieldValue::Nothing)
            }

            fn visit_bool<E>(self, is: bool) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(is.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(number.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<FieldValue, E> {
                // Two identities could become one.
                if WHOLE_MAX <= number.abs() {
                    let what = "a number is too long to be kept as it is; write it in quotes";
                    return Err(E::custom(what));
                }
                // As JSON writes it.
                Ok(FieldValue::Text(
                    serde_json::Value::from(number).to_string(),
                ))
            }

            fn visit_str<E>(self, text: &str) -> Result<FieldValue, E> {
                Ok(FieldValue::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FieldValue, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FieldValue::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldValue, A::Error> {
                fields(map).map(FieldValue::Object)
            }
        }
        from.deserialize_any(Any)
    }
}

fn fields<'de, A: MapAccess<'de>>(mut map: A) -> Result<ObjectFields, A::Error> {
    let (mut fields, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some((name, value)) = map.next_entry::<String, FieldValue>()? {
        if !seen.insert(name.clone()) {
            let name = name.escape_debug();
            let problem = format!("two fields are named `{name}`; rename one");
            return Err(serde::de::Error::custom(problem));
        }
        fields.push((name, value));
    }
    Ok(ObjectFields(fields))
}

/// An object's fields as text; those of `metadata` count as its own. `known` names are recognised in any
/// case, as the columns of a table are: ignoring a `Role` would enrol strangers.
pub(crate) fn flatten(
    object: ObjectFields,
    known: &[&str],
) -> Result<BTreeMap<String, String>, String> {
    let mut fields = BTreeMap::new();
    for (name, value) in texts(object)? {
        let mut names = known.iter();
        let name = names
            .find(|known| known.eq_ignore_ascii_case(&name))
            .map_or(name.clone(), |known| (*known).to_owned());
        if fields.insert(name.clone(), value).is_some() {
            return Err(format!("two fields are named `{name}`; rename one"));
        }
    }
    Ok(fields)
}

fn texts(ObjectFields(object): ObjectFields) -> Result<BTreeMap<String, String>, String> {
    let mut fields = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in object {
        match value {
            FieldValue::Object(inner) if name == "metadata" => metadata = texts(inner)?,
            FieldValue::Nothing => {}
            FieldValue::Text(text) => drop(fields.insert(name, text)),
            FieldValue::List | FieldValue::Object(_) => {
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
        let within = r#"{"path":"a.jpg","label":"cat","metadata":{"hall":"a","hall":"b"}}"#;
        let error = serde_json::from_str::<ObjectFields>(within).err().unwrap();
        assert!(
            error.to_string().contains("two fields are named `hall`"),
            "{error}"
        );
    }

    #[test]
    fn values_are_text_as_json_writes_them() {
        let line =
            r#"{"a":"x","b":1,"c":-2,"d":0.50,"e":1e3,"f":true,"g":null,"metadata":{"h":2.0}}"#;
        let object: ObjectFields = serde_json::from_str(line).unwrap();
        let fields = flatten(object, &[]).unwrap();
        let values: Vec<&str> = fields.values().map(String::as_str).collect();
        assert_eq!(values, ["x", "1", "-2", "0.5", "1000.0", "true", "2.0"]);
        let known = ["path", "label", "role"];
        let object = serde_json::from_str(r#"{"Path":"a","LABEL":"b","Role":"c","Hall":"d"}"#);
        let names: Vec<String> = flatten(object.unwrap(), &known)
            .unwrap()
            .into_keys()
            .collect();
        assert_eq!(names, ["Hall", "label", "path", "role"]);
        let twice = serde_json::from_str(r#"{"label":"a","Label":"b"}"#).unwrap();
        assert!(
            flatten(twice, &known)
                .unwrap_err()
                .contains("two fields are named `label`")
        );
        let long = r#"{"label":12345678901234567890123}"#;
        let error = serde_json::from_str::<ObjectFields>(long).err().unwrap();
        assert!(error.to_string().contains("write it in quotes"), "{error}");
        for nested in [
            r#"{"a":[1]}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"metadata":{"a":[]}}"#,
        ] {
            let object: ObjectFields = serde_json::from_str(nested).unwrap();
            assert!(
                flatten(object, &[]).unwrap_err().contains("is nested"),
                "{nested}"
            );
        }
    }
}
