//! `matchpoint model`: describing a model, and comparing it with its author's pipeline.

mod check;
mod configuration;
mod doubts;
mod golden;
mod keys;
mod new;

use crate::cli::exit::Exit;

/// Describe a model of your own, and compare it with its author's pipeline
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint model new resnet50.onnx --from config.json --golden photo.jpg --out models/resnet50
  matchpoint model check models/resnet50 --images photos/ --vectors reference.npy")]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Write a model folder for an ONNX file
    New(Box<new::New>),
    /// Compare a model's vectors with those of its author's pipeline
    Check(check::Check),
}

impl ModelArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            ModelCommand::New(command) => command.run(),
            ModelCommand::Check(command) => command.run(),
        }
    }
}
