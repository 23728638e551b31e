//! `matchpoint config show`: every setting, and where its value came from.

use clap::Subcommand;
use serde::Serialize;

use super::exit::Exit;
use super::output::Output;
use crate::config::{ProcessEnvironment, ServerFlags, Setting, SettingValue, store_shown};

/// Show the server's configuration
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print every setting with its value and its source; mistakes go to standard error
    Show(Box<ConfigShowArgs>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint config show
  MATCHPOINT_WORKERS=4 matchpoint config show --config matchpoint.toml --json")]
struct ConfigShowArgs {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: ServerFlags,
}

/// One setting.
#[derive(Serialize)]
struct SettingRow {
    key: &'static str,
    value: Option<String>,
    source: String,
    flag: String,
    variable: String,
}

impl ConfigArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Verb::Show(show) = self.command;
        let gathered = show.settings.gather(&ProcessEnvironment);
        let rows: Vec<SettingRow> = gathered.rows().map(row).collect();
        Output::new(show.json).result(&rows, |rows| text(rows))?;
        // Refuses whatever the server would refuse to start with.
        show.settings.resolve(&ProcessEnvironment)?;
        Ok(Exit::Done)
    }
}

fn row((setting, given): (&'static Setting, &SettingValue)) -> SettingRow {
    SettingRow {
        key: setting.key,
        value: match (setting.key, &given.text) {
            ("store", Some(address)) => Some(store_shown(address)),
            (_, text) => text.clone(),
        },
        source: given.source.to_string(),
        flag: format!("--{}", setting.flag()),
        variable: setting.variable(),
    }
}

fn text(rows: &[SettingRow]) -> String {
    let shown = |row: &SettingRow| {
        let value = row.value.as_deref().unwrap_or("(not set)");
        format!("{value:<24}  {}", row.source)
    };
    // Each on a line of its own, however long: they are looked for by grep.
    let width = rows.iter().map(|row| row.key.len()).max().unwrap_or(0);
    rows.iter()
        .map(|row| format!("  {:<width$}  {}\n", row.key, shown(row)))
        .collect()
}
