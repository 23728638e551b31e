//! The values of flags, environment, file and defaults for each setting, as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::flags::Flags;
use super::settings::{SETTINGS, Setting};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingSource {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File(PathBuf),
    /// Nobody set it.
    Default,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as it was written, and where.
#[derive(Clone, Debug)]
pub struct SettingValue {
    /// The text; `None` if the setting has no default and was not set.
    pub text: Option<String>,
    /// Where it was set.
    pub source: SettingSource,
}

/// The strings of the environment: the process's own, or a test's.
pub trait Environment {
    /// The value of one variable.
    fn get(&self, name: &str) -> Option<String>;
    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads it"
    )]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect()
    }
}

impl Environment for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).map(|&value| value.to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(|&name| name.to_owned()).collect()
    }
}

/// Every setting as it was written, with its source, and the mistakes found on the way.
#[derive(Clone, Debug)]
pub struct RawSettings {
    pub(super) values: BTreeMap<&'static str, SettingValue>,
    pub(super) ort_dylib_path: Option<PathBuf>,
    /// Whether NVIDIA's libraries are told not to round to TF32.
    pub(super) tf32_forbidden: bool,
    pub(super) mistakes: Vec<String>,
}

impl RawSettings {
    /// Looks up each setting in the flags, the environment and the file, in that order.
    #[must_use]
    pub(super) fn new(flags: &Flags, environment: &dyn Environment) -> Self {
        let mut mistakes = Vec::new();
        let path = flags
            .config
            .clone()
            .or_else(|| environment.get("MATCHPOINT_CONFIG").map(PathBuf::from));
        let file = path
            .as_deref()
            .map(|path| read_file(path, &mut mistakes))
            .unwrap_or_default();
        refuse_unknown_variables(environment, &mut mistakes);

        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let given = |text: Option<String>, source| {
                let text = text.filter(|text| !text.is_empty());
                text.map(|text| SettingValue {
                    text: Some(text),
                    source,
                })
            };
            let value = given(flags.values.get(setting.key).cloned(), SettingSource::Flag)
                .or_else(|| {
                    given(
                        environment.get(&setting.variable()),
                        SettingSource::Environment,
                    )
                })
                .or_else(|| {
                    let source = SettingSource::File(path.clone().unwrap_or_default());
                    given(file.get(setting.key).cloned(), source)
                })
                .unwrap_or(SettingValue {
                    text: setting.default.map(ToOwned::to_owned),
                    source: SettingSource::Default,
                });
            values.insert(setting.key, value);
        }
        let ort_dylib_path = environment.get("ORT_DYLIB_PATH").map(PathBuf::from);
        Self {
            values,
            ort_dylib_path,
            tf32_forbidden: environment.get("NVIDIA_TF32_OVERRIDE").as_deref() == Some("0"),
            mistakes,
        }
    }

    /// Each setting with its value as written and its source, in the order of the table.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Setting, &SettingValue)> {
        SETTINGS
            .iter()
            .filter_map(|setting| Some((setting, self.values.get(setting.key)?)))
    }
}

/// Variables that are not settings: the path of the file, and those of commands that call a server.
const OTHER_VARIABLES: [&str; 7] = [
    "MATCHPOINT_CONFIG",
    "MATCHPOINT_SERVER",
    "MATCHPOINT_SERVER_CA",
    "MATCHPOINT_CLIENT_CERTIFICATE",
    "MATCHPOINT_CLIENT_CERTIFICATE_KEY",
    API_KEY_VARIABLE,
    "MATCHPOINT_API_KEY_FILE",
];

/// The variable of the key that commands send to a server.
pub const API_KEY_VARIABLE: &str = "MATCHPOINT_API_KEY";

fn refuse_unknown_variables(environment: &dyn Environment, mistakes: &mut Vec<String>) {
    for name in environment.names() {
        let known = OTHER_VARIABLES.contains(&name.as_str())
            || SETTINGS.iter().any(|s| s.variable() == name);
        // Kubernetes injects these into pods beside a Service that is named matchpoint.
        let injected =
            name.starts_with("MATCHPOINT_SERVICE_") || name.starts_with("MATCHPOINT_PORT");
        if name.starts_with("MATCHPOINT_") && !known && !injected {
            mistakes.push(format!(
                "environment: {name} is not a setting{}",
                nearest(&name, Setting::variable)
            ));
        }
    }
}

/// The file's keys, as text.
fn read_file(path: &Path, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("file {}: cannot be read: {error}", path.display()));
            return BTreeMap::new();
        }
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            mistakes.push(format!("file {}: is not TOML: {error}", path.display()));
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            let hint = nearest(&key, |setting| setting.key.to_owned());
            mistakes.push(format!(
                "file {}: `{key}` is not a setting{hint}",
                path.display()
            ));
            continue;
        }
        match as_text(&value) {
            Some(text) => drop(values.insert(key, text)),
            None => mistakes.push(format!(
                "file {}: `{key}` must be a string, a number, a boolean or a list of these",
                path.display()
            )),
        }
    }
    values
}

fn as_text(value: &toml::Value) -> Option<String> {
    if let toml::Value::Array(items) = value {
        let items: Option<Vec<String>> = items.iter().map(as_text).collect();
        return items.map(|items| items.join(","));
    }
    value
        .as_str()
        .map(ToOwned::to_owned)
        .or_else(|| value.as_integer().map(|number| number.to_string()))
        .or_else(|| value.as_float().map(|number| number.to_string()))
        .or_else(|| value.as_bool().map(|truth| truth.to_string()))
}

/// A hint at the setting that was probably meant.
fn nearest(written: &str, name: impl Fn(&Setting) -> String) -> String {
    let shared = |candidate: &str| {
        candidate
            .chars()
            .zip(written.chars())
            .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
            .count()
    };
    SETTINGS
        .iter()
        .map(name)
        // Of several with the same beginning, the one with the same length: `listenn` is `listen`, not
        // `listen_when`.
        .max_by_key(|candidate| {
            let longer = candidate.len().abs_diff(written.len());
            (shared(candidate), std::cmp::Reverse(longer))
        })
        .map(|candidate| format!("; did you mean {candidate}?"))
        .unwrap_or_default()
}
