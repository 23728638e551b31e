//! The commands: one file or folder each. `input` and `output` are what they share.

mod adapt;
mod backup;
mod bench;
mod build;
mod calibrate;
mod compact;
mod config;
mod demo;
mod discover;
mod embed;
mod exit;
mod health;
mod help_groups;
mod input;
mod inspect;
mod keys;
mod model;
mod monitor;
mod output;
mod points;
mod runtime;
mod search;
mod serve;
mod served_info;
mod server_address;
mod shell;
mod signal;
mod standard_streams;
mod status;
mod switch;
mod threads;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::Exit;

/// Image matching with a calibrated accept or reject decision.
#[derive(Debug, Parser)]
#[command(name = "matchpoint", version, about, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Show all of it on sample photographs: build, calibrate, serve, decide
    Demo(demo::Demo),
    /// Embed images and enrol them in a deployment
    Build(Box<build::Build>),
    /// Make one deployment of the shards that `build --shard` made
    Merge(build::merge::Merge),
    /// Choose a threshold that keeps what it promises, or refuse
    Calibrate(Box<calibrate::Calibrate>),
    /// List, compare, activate and roll back operating points
    Points(points::PointsArgs),
    /// Serve deployments over gRPC
    Serve(Box<serve::Serve>),
    /// Make, list and revoke keys of the server's callers
    Keys(keys::KeysArgs),
    /// Ask a running server about images
    Search(search::SearchArgs),
    /// Show what a server serves, what it promises, and what needs a person
    Status(status::Status),
    /// Say whether a server answers requests: for probes and scripts
    Health(health::Health),
    /// Label sampled decisions: what FAR and FRR in service are computed from
    Audit(monitor::audit::AuditArgs),
    /// Have the server search for pictures whose truth is known, on a schedule
    Canaries(monitor::canaries::Canaries),
    /// Say whether the operating point keeps its promise in service
    Drift(monitor::drift::DriftArgs),
    /// Group rejected queries that belong together, as new labels to enrol
    Discover(Box<discover::Discover>),
    /// Fit a head to labelled pictures, so that one threshold fits all labels
    Adapt(Box<adapt::Adapt>),
    /// Measure recall, FAR, FRR and latency with labelled queries
    Evaluate(calibrate::evaluate::Evaluate),
    /// Show and verify what a deployment, or a model, consists of
    Inspect(inspect::Inspect),
    /// Describe a model of your own, and compare it with its author's pipeline
    Model(model::ModelArgs),
    /// Write a model's vectors of images to a .npy file
    Embed(embed::Embed),
    /// Verify a deployment: checksums, recall of its index, stray files
    Verify(verify::Verify),
    /// Rewrite a deployment's items and index without what was removed
    Compact(compact::Compact),
    /// Serve another folder in a deployment's place, without downtime
    Switch(switch::Switch),
    /// Compare a candidate with what is served, on a share of the live queries
    Shadow(monitor::shadow::ShadowArgs),
    /// Measure an index of vectors, or a server under load
    Bench(bench::BenchArgs),
    /// Copy a deployment into one file with checksums, also while it is served
    Snapshot(backup::Snapshot),
    /// Make a deployment of a snapshot
    Restore(backup::Restore),
    /// Show the server's configuration
    Config(config::ConfigArgs),
    /// Print completions for bash, zsh, fish and other shells
    Completions(shell::Completions),
    /// Write manual pages, one for each command
    Man(shell::Man),
}

const AFTER_HELP: &str = "\
Examples:
  matchpoint demo
  matchpoint build shop --images photos/ --model models/efficientnet-lite0
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01
  matchpoint serve --deployments shop
  matchpoint search photo.jpg

Exit codes:
  0  done                                 65  damaged or malformed data
  2  wrong usage                          66  an input is missing
  3  done, but some images failed         69  server unreachable, or its port taken
  4  model and gallery do not belong      70  internal error
     together                             74  disk or network failed
  5  the data cannot support the target,  77  not allowed by the server
     or a promise has ended               78  wrong configuration
  6  the device asked for is not there   130, 143  interrupted; run again to resume
Tasks of a scheduler (build --shard, merge) end with 75 if the same command may succeed next time,
and with 42 if it will not until something is fixed.";

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = help_groups::grouped(Arguments::command())
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are not errors, and clap knows where to print each.
            drop(error.print());
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    match run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&format!("error: {}", exit::message(&error)));
            Exit::of(&error).into()
        }
    }
}

impl CliCommand {
    /// The threads that it takes for each core, beside those that compute; none if it computes nothing here.
    fn threads_of_core(&self) -> Option<usize> {
        match self {
            Self::Serve(_) | Self::Demo(_) => Some(1),
            Self::Build(_)
            | Self::Merge(_)
            | Self::Calibrate(_)
            | Self::Points(_)
            | Self::Adapt(_)
            | Self::Discover(_)
            | Self::Evaluate(_)
            | Self::Inspect(_)
            | Self::Model(_)
            | Self::Embed(_)
            | Self::Verify(_)
            | Self::Compact(_)
            | Self::Bench(_)
            | Self::Snapshot(_)
            | Self::Restore(_) => Some(0),
            Self::Keys(_)
            | Self::Search(_)
            | Self::Status(_)
            | Self::Health(_)
            | Self::Audit(_)
            | Self::Canaries(_)
            | Self::Drift(_)
            | Self::Switch(_)
            | Self::Shadow(_)
            | Self::Config(_)
            | Self::Completions(_)
            | Self::Man(_) => None,
        }
    }
}

fn run(command: CliCommand) -> anyhow::Result<Exit> {
    command.threads_of_core().map_or(Ok(()), threads::start)?;
    match command {
        CliCommand::Demo(command) => command.run(),
        CliCommand::Build(command) => command.run(),
        CliCommand::Merge(command) => command.run(),
        CliCommand::Calibrate(command) => command.run(),
        CliCommand::Points(command) => command.run(),
        CliCommand::Serve(command) => command.run(),
        CliCommand::Keys(command) => command.run(),
        CliCommand::Search(command) => command.run(),
        CliCommand::Status(command) => command.run(),
        CliCommand::Health(command) => command.run(),
        CliCommand::Audit(command) => command.run(),
        CliCommand::Canaries(command) => command.run(),
        CliCommand::Drift(command) => command.run(),
        CliCommand::Discover(command) => command.run(),
        CliCommand::Adapt(command) => command.run(),
        CliCommand::Evaluate(command) => command.run(),
        CliCommand::Inspect(command) => command.run(),
        CliCommand::Model(command) => command.run(),
        CliCommand::Embed(command) => command.run(),
        CliCommand::Verify(command) => command.run(),
        CliCommand::Compact(command) => command.run(),
        CliCommand::Switch(command) => command.run(),
        CliCommand::Shadow(command) => command.run(),
        CliCommand::Bench(command) => command.run(),
        CliCommand::Snapshot(command) => command.run(),
        CliCommand::Restore(command) => command.run(),
        CliCommand::Config(command) => command.run(),
        CliCommand::Completions(command) => command.run(Arguments::command()),
        CliCommand::Man(command) => command.run(Arguments::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    /// The words of a line as a shell takes them, without what follows a pipe, a redirection or a comment.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word) = (Vec::new(), None::<String>);
        let (mut quoted, mut within) = (false, false);
        for letter in line.chars() {
            match letter {
                '\'' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                ' ' if !quoted && !within => words.extend(word.take()),
                '#' if !quoted && word.is_none() => break,
                '|' | '>' | '&' | ';' if !quoted => break,
                // A command within is one word to the other.
                '(' | ')' if !quoted => within = !within,
                _ => word.get_or_insert_default().push(letter),
            }
        }
        words.extend(word);
        words
    }

    fn check_examples(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default().replace("\\\n", " ");
        let examples: Vec<&str> = help
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter_map(|line| Some(&line[line.find("matchpoint ")?..]))
            .collect();
        for example in &examples {
            if let Err(error) = Arguments::try_parse_from(words(example)) {
                panic!("{example}: {error}");
            }
        }
        if command.get_subcommands().next().is_none() {
            let own = examples.iter().any(|example| example.starts_with(path));
            assert!(own, "no example of {path}");
        }
        for inner in command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set())
        {
            check_examples(inner, &format!("{path} {}", inner.get_name()));
        }
    }

    #[test]
    fn every_command_has_an_example_of_its_own_and_every_example_can_be_typed() {
        check_examples(&Arguments::command(), "matchpoint");
    }

    #[test]
    fn settings_are_in_the_long_help_alone_and_options_are_grouped() {
        let mut command = Arguments::command();
        let calibrate = command.find_subcommand_mut("calibrate").unwrap();
        let short = calibrate.render_help().to_string();
        let long = calibrate.render_long_help().to_string();
        for hidden in ["--gpu-bytes-max", "--client-certificate", "--opis-band"] {
            assert!(!short.contains(hidden) && long.contains(hidden), "{hidden}");
        }
        for heading in ["\nTarget:\n", "\nWhich queries count:\n", "\nReport:\n"] {
            assert!(
                short.contains(heading) && long.contains(heading),
                "{heading}"
            );
        }
        let serve = command.find_subcommand_mut("serve").unwrap();
        let serve = serve.render_help().to_string();
        assert!(
            serve.contains("--deployments") && !serve.contains("--metrics-listen"),
            "{serve}"
        );
    }
}
