//! Settings as flags of the command line.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, FromArgMatches};

use super::settings::{SETTINGS, SettingScope};

/// What the command line set, for commands that embed images.
#[derive(Clone, Debug, Default)]
pub struct EngineFlags(pub(super) Flags);

impl EngineFlags {
    /// The same as arguments of another command.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let flag = |name: &str, value: &OsStr| {
            let mut argument = OsString::from(format!("--{name}="));
            argument.push(value);
            argument
        };
        let config = self.0.config.iter();
        let settings = SETTINGS.iter().filter_map(|setting| {
            let value = self.0.values.get(setting.key)?;
            Some(flag(&setting.flag(), value.as_ref()))
        });
        let config = config.map(|file| flag("config", file.as_os_str()));
        config.chain(settings).collect()
    }
}

/// What the command line set, for the server.
#[derive(Clone, Debug, Default)]
pub struct ServerFlags(pub(super) Flags);

#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    pub(super) config: Option<PathBuf>,
    pub(super) values: BTreeMap<&'static str, String>,
}

const HEADING: &str = "Settings (also MATCHPOINT_* and the config file)";
/// The most important settings; all others are in the long help.
const IN_SHORT_HELP: [&str; 2] = ["deployments", "listen"];

impl Flags {
    fn augment(command: Command, takes: fn(SettingScope) -> bool) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file with settings [env: MATCHPOINT_CONFIG]")
            .help_heading(HEADING)
            .hide_short_help(true);
        let flags = SETTINGS
            .iter()
            .filter(|setting| takes(setting.scope))
            .map(|setting| {
                let default = setting
                    .default
                    .map(|d| format!(" [default: {d}]"))
                    .unwrap_or_default();
                Arg::new(setting.key)
                    .long(setting.flag())
                    .value_name("VALUE")
                    .help(format!("{}{default}", setting.help))
                    .help_heading(HEADING)
                    .hide_short_help(!IN_SHORT_HELP.contains(&setting.key))
            });
        command.arg(file).args(flags)
    }

    fn from(matches: &ArgMatches, takes: fn(SettingScope) -> bool) -> Self {
        let get = |name: &str| matches.get_one::<String>(name).cloned();
        let values = SETTINGS
            .iter()
            .filter(|setting| takes(setting.scope))
            .filter_map(|setting| Some((setting.key, get(setting.key)?)))
            .collect();
        Self {
            config: get("config").map(PathBuf::from),
            values,
        }
    }
}

macro_rules! clap_args {
    ($type:ident, $takes:expr) => {
        impl clap::Args for $type {
            fn augment_args(command: Command) -> Command {
                Flags::augment(command, $takes)
            }
            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(Flags::from(matches, $takes)))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

clap_args!(EngineFlags, |scope| scope == SettingScope::Engine);
clap_args!(ServerFlags, |_| true);
