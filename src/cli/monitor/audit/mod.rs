//! `matchpoint audit`: annotate the decisions that were sampled for it.

mod annotate;
pub(in crate::cli) mod export;
mod import;
mod list;
mod sent;
mod show;

use self::annotate::Annotate;
use self::export::Export;
use self::import::Import;
use self::list::List;
use self::show::AuditShowArgs;
use crate::cli::exit::Exit;

/// Label sampled decisions: what FAR and FRR in service are computed from
///
/// The server samples some decisions, more of them near the threshold, each with a known probability.
/// Say what their queries really showed; `matchpoint drift report` says what follows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit list --limit 100 --csv to-label.csv --images to-label/
  matchpoint audit import to-label.csv --annotator anna
  matchpoint audit list --servers http://a:50051,http://b:50051,http://c:50051
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --stranger 'red coat'
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --feedback
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --json
  matchpoint audit export shop --csv decisions.csv --since 2026-11-01
  matchpoint audit export shop --for-calibration labelled/ --since 2026-11-01")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    /// List sampled decisions that wait for an annotation, newest first
    List(List),
    /// Show one decision with all its annotations
    Show(AuditShowArgs),
    /// Say what the query of one decision showed
    Annotate(Annotate),
    /// Say what the queries of many decisions showed, from a CSV file
    Import(Import),
    /// Write all recorded decisions, with their annotations, to a CSV file, or labelled pictures for a
    /// calibration
    Export(Export),
}

impl AuditArgs {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        match self.command {
            AuditCommand::List(list) => runtime.block_on(list.run()),
            AuditCommand::Show(show) => runtime.block_on(show.run()),
            AuditCommand::Annotate(annotate) => runtime.block_on(annotate.run()),
            AuditCommand::Import(import) => runtime.block_on(import.run()),
            AuditCommand::Export(export) => export.run(),
        }
    }
}
