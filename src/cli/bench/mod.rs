//! `matchpoint bench`: what an index, and a server, do on this machine.

mod index;
mod load;
mod speed;

use super::exit::Exit;

/// Measure what a deployment's index, or a server, does on this machine
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Enrol vectors in a gallery and measure it: durable enrolment, opening, memory, recall and
    /// speed by ef, filters, and searches while items are enrolled
    Index(index::BenchIndexArgs),
    /// Offer searches to a running server at fixed rates, beyond what it can do too
    Load(load::BenchLoadArgs),
    /// Open a gallery, and print what that adds to the memory of this process
    #[command(hide = true)]
    Open(index::BenchOpenArgs),
}

impl BenchArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.what {
            BenchCommand::Index(index) => index.run(),
            BenchCommand::Load(load) => load.run(),
            BenchCommand::Open(open) => open.run(),
        }
    }
}
