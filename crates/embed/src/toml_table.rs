//! Reads one table of a manifest. Each key is checked by its rule, and other keys are unknown.

use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

/// One table of the manifest, from which keys are removed as they are read. What is left at the end is unknown.
pub(super) struct TomlTable<'m> {
    name: &'m str,
    table: Table,
    keys: Vec<&'static str>,
    mistakes: &'m mut Vec<String>,
}

impl<'m> TomlTable<'m> {
    pub(super) fn new(name: &'m str, table: Table, mistakes: &'m mut Vec<String>) -> Self {
        Self {
            name,
            table,
            keys: Vec::new(),
            mistakes,
        }
    }

    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            let label = self.label(key);
            self.mistakes
                .push(format!("{label} is missing: allowed is {allowed}"));
        }
        self.optional(key, allowed, read)
    }

    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.keys.push(key);
        let value = self.table.remove(key)?;
        let found = read(&value);
        if found.is_none() {
            let label = self.label(key);
            self.mistakes
                .push(format!("{label} = {}: allowed is {allowed}", shown(&value)));
        }
        found
    }

    pub(super) fn finish(self) {
        let keys = self.keys.join(", ");
        for (key, value) in &self.table {
            let label = self.label(key);
            self.mistakes.push(format!(
                "{label} = {}: unknown key, allowed are {keys}",
                shown(value)
            ));
        }
    }

    fn label(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

/// A value as TOML, shortened if it is long.
fn shown(value: &Value) -> String {
    const CHARACTERS_MAX: usize = 80;
    if let Value::Table(_) = value {
        return "{ … }".to_owned();
    }
    let text = value.to_string();
    if text.chars().count() <= CHARACTERS_MAX {
        return text;
    }
    text.chars().take(CHARACTERS_MAX).chain(['…']).collect()
}

pub(super) const PATH: &str = "a relative path inside the model folder, without '..'";
pub(super) const COLOUR: &str = "three whole numbers from 0 to 255, in RGB order";

pub(super) fn words<T>(spellings: &[(&str, T)]) -> String {
    let quoted: Vec<String> = spellings
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    quoted.join(" or ")
}

pub(super) fn choose<T: Copy>(spellings: &[(&str, T)], value: &Value) -> Option<T> {
    let word = value.as_str()?;
    spellings
        .iter()
        .find(|(spelling, _)| *spelling == word)
        .map(|(_, choice)| *choice)
}

/// The word of a value.
pub(super) fn spelling<T: Copy + PartialEq>(
    spellings: &[(&'static str, T)],
    value: T,
) -> &'static str {
    spellings
        .iter()
        .find(|(_, candidate)| *candidate == value)
        .map_or("", |(word, _)| *word)
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

pub(super) fn table_of(value: &Value) -> Option<Table> {
    value.as_table().cloned()
}

pub(super) fn model_name(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    ((1..=64).contains(&name.len()) && name.bytes().all(plain)).then(|| name.to_owned())
}

/// A NUL character would make the runtime's binding panic.
pub(super) fn tensor_name(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|name| !name.is_empty() && !name.contains('\0'))
        .map(ToOwned::to_owned)
}

pub(super) fn inside(value: &Value) -> Option<PathBuf> {
    let path = Path::new(value.as_str()?);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    (path.components().next().is_some() && path.components().all(plain)).then(|| path.to_owned())
}

pub(super) fn whole(value: &Value, range: RangeInclusive<u32>) -> Option<u32> {
    u32::try_from(value.as_integer()?)
        .ok()
        .filter(|number| range.contains(number))
}

/// A number, with or without a decimal point; never NaN, which no range contains.
pub(super) fn number(value: &Value, range: RangeInclusive<f32>) -> Option<f32> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the precision it is used in"
    )]
    let number = match value {
        Value::Float(number) => *number as f32,
        Value::Integer(number) => f32::from(i16::try_from(*number).ok()?),
        Value::String(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_)
        | Value::Table(_) => return None,
    };
    range.contains(&number).then_some(number)
}

/// A list of this many numbers.
pub(super) fn numbers(value: &Value, count: usize, range: RangeInclusive<f32>) -> Option<Vec<f32>> {
    let items = value.as_array().filter(|items| items.len() == count)?;
    let numbers = items.iter().map(|item| number(item, range.clone()));
    numbers.collect()
}

fn triple<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<[T; 3]> {
    let items: Option<Vec<T>> = value.as_array()?.iter().map(read).collect();
    items?.try_into().ok()
}

pub(super) fn colour_of(value: &Value) -> Option<[u8; 3]> {
    triple(value, |item| u8::try_from(item.as_integer()?).ok())
}
