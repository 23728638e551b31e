//! `matchpoint completions` and `matchpoint man`: what a shell knows of the commands.

use std::path::PathBuf;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

use super::exit::Exit;
use super::output;

/// Print completions for a shell
///
/// Once they are loaded, the shell completes commands, flags and their values.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint completions bash > ~/.local/share/bash-completion/completions/matchpoint
  matchpoint completions zsh > ~/.zfunc/_matchpoint          # with fpath+=~/.zfunc before compinit
  matchpoint completions fish > ~/.config/fish/completions/matchpoint.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Write manual pages
///
/// One page for each command: `man matchpoint-calibrate` then shows what `matchpoint calibrate --help` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint man ~/.local/share/man/man1
  matchpoint man . && man ./matchpoint-calibrate.1")]
pub(super) struct Man {
    /// The folder to write them to; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Completions {
    pub(super) fn run(self, mut of: Command) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        let name = of.get_name().to_owned();
        clap_complete::generate(self.shell, &mut of, name, &mut script);
        output::raw(&script)?;
        Ok(Exit::Done)
    }
}

impl Man {
    pub(super) fn run(self, of: Command) -> anyhow::Result<Exit> {
        let shown = self.folder.display();
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(of, &self.folder))
            .with_context(|| format!("cannot write manual pages to {shown}"))?;
        output::error(&format!("manual pages: {shown}"));
        Ok(Exit::Done)
    }
}
