//! `matchpoint bench`: what an index, and a server, do on this machine.

mod index;
mod load;
mod speed;

use super::exit::Exit;

/// Measure what a deployment's index, or a server, does on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Enrol vectors in a gallery and measure it: durable enrolment, opening, memory, recall and
    /// speed by ef, filters, and searches while items are enrolled
    Index(index::Index),
    /// Offer searches to a running server at fixed rates, beyond what it can do too
    Load(load::Load),
    /// Open a gallery, and print what that adds to the memory of this process
    #[command(hide = true)]
    Open(index::Open),
}

impl Bench {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.what {
            What::Index(index) => index.run(),
            What::Load(load) => load.run(),
            What::Open(open) => open.run(),
        }
    }
}
