//! `matchpoint --help`: the commands in groups, in the order in which they are needed.

use clap::Command;

use super::output::wrapped;

/// What a person wants, and the commands for it.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "From pictures to decisions",
        &["demo", "build", "calibrate", "evaluate", "serve", "search"],
    ),
    (
        "A running server",
        &["status", "health", "points", "switch", "keys", "config"],
    ),
    (
        "Whether the promise is kept in service",
        &["audit", "canaries", "drift", "shadow", "discover"],
    ),
    (
        "Files",
        &[
            "inspect", "verify", "compact", "snapshot", "restore", "merge",
        ],
    ),
    (
        "Models, measurements, shells",
        &["model", "adapt", "embed", "bench", "completions", "man"],
    ),
];

/// The program, with a help that lists its commands in groups.
pub(super) fn grouped(program: Command) -> Command {
    let header = *program.get_styles().get_header();
    let literal = *program.get_styles().get_literal();
    let mut listed = String::new();
    for (heading, names) in GROUPS {
        listed.push_str(&format!("{header}{heading}:{header:#}\n"));
        for name in names {
            let about = program.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            // The name is put in afterwards, since its colour has no width.
            let line = wrapped(&about, &format!("  {name:<11}  "));
            let rest = line.get(2 + name.len()..).unwrap_or_default();
            listed.push_str(&format!("  {literal}{name}{literal:#}{rest}"));
        }
        listed.push('\n');
    }
    program.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{listed}\
         {header}Options:{header:#}\n{{options}}{{after-help}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory as _;

    #[test]
    fn each_command_is_in_one_group_and_takes_one_line() {
        let program = Arguments::command();
        let mut grouped_names: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        grouped_names.sort_unstable();
        let mut names: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
        names.sort_unstable();
        assert_eq!(grouped_names, names);
        let help = grouped(program.clone()).render_help().to_string();
        let listed = help.split("Options:").next().unwrap();
        // As wide as a terminal is at least.
        assert!(listed.lines().all(|line| line.len() <= 88), "{listed}");
        assert_eq!(
            listed.lines().filter(|line| line.starts_with("  ")).count(),
            names.len()
        );
        assert!(
            help.contains("\nOptions:\n") && help.contains("Exit codes:"),
            "{help}"
        );
    }
}
