//! The keys of a manifest that is being written, as TOML text.

use std::fmt::Write as _;

/// The tables of a manifest, in its order; the first has no name.
const TABLES: [&str; 6] = ["", "file", "input", "resize", "output", "golden"];

/// Tables that every manifest needs, and that are written by hand.
const REQUIRED: [&str; 3] = ["input", "resize", "output"];

/// Keys such as `input.width`, each with its value as TOML and who named it.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<(String, String)>);

impl Keys {
    /// Sets a key to a TOML value; an existing value is replaced.
    pub(super) fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Sets a key to a text.
    pub(super) fn set_text(&mut self, key: &str, text: &str) {
        self.set(key, quoted(text));
    }

    /// Sets a key if it is not set.
    pub(super) fn propose(&mut self, key: &str, value: impl Into<String>) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: &str) {
        self.0.retain(|(known, _)| known != key);
    }

    /// A key's value as TOML.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Sets a key from `KEY=VALUE` on the command line: numbers, lists, booleans and quoted texts as they
    /// are, everything else as text.
    pub(super) fn set_from_flag(&mut self, said: &str) -> Result<(), String> {
        let Some((key, value)) = said.split_once('=') else {
            return Err(format!(
                "--set {said}: write KEY=VALUE, such as resize.fit=crop"
            ));
        };
        let (key, value) = (key.trim(), value.trim());
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let mut parts = key.split('.');
        if !(1..=2).contains(&parts.clone().count()) || !parts.all(plain) {
            return Err(format!("--set {said}: `{key}` is no key of a manifest"));
        }
        let as_it_is = value.starts_with(['[', '"']) || value.parse::<f64>().is_ok();
        if as_it_is && value.contains('\n') {
            return Err(format!("--set {said}: a value is one line"));
        }
        if as_it_is {
            self.set(key, value);
        } else {
            self.set_text(key, value);
        }
        Ok(())
    }

    /// The manifest.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut others: Vec<&str> = self.0.iter().map(|(key, _)| table_of(key)).collect();
        others.retain(|table| !TABLES.contains(table));
        others.dedup();
        for table in TABLES.into_iter().chain(others) {
            let mut keys = self
                .0
                .iter()
                .filter(|(key, _)| table_of(key) == table)
                .peekable();
            // An empty table is better than none: the error then names each missing key.
            let due = REQUIRED.contains(&table) || keys.peek().is_some();
            if due && !table.is_empty() {
                text.push_str(&format!("\n[{table}]\n"));
            }
            for (key, value) in keys {
                let name = key.rsplit('.').next().unwrap_or(key);
                writeln!(text, "{name} = {value}").unwrap_or_default(); // a String takes every write
            }
        }
        text
    }
}

fn table_of(key: &str) -> &str {
    key.split_once('.').map_or("", |(table, _)| table)
}

/// A text as TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_table_by_table_and_the_last_value_holds() {
        let mut keys = Keys::default();
        keys.set("format", "1");
        keys.set("input.width", "224");
        keys.set_text("name", "a \"b\"");
        keys.set_from_flag("input.mean=[1, 2, 3]").unwrap();
        keys.set_from_flag("resize.fit = crop").unwrap();
        keys.set_from_flag("input.width=96").unwrap();
        keys.propose("input.width", "1");
        assert_eq!(
            keys.text(),
            "format = 1\nname = \"a \\\"b\\\"\"\n\n[input]\nwidth = 96\nmean = [1, 2, 3]\n\n\
             [resize]\nfit = \"crop\"\n\n[output]\n"
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for said in [
            "resize.fit",
            "a.b.c=1",
            "[x]=1",
            "=1",
            "in put=2",
            "x=[1\n]",
        ] {
            assert!(Keys::default().set_from_flag(said).is_err(), "{said}");
        }
    }
}
