//! Which part of a list a task builds, and what it reports.

use serde::Serialize;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::table;
use crate::config::Environment;
use crate::deployment::{PublishedShard, RefusedItem, Shard};

/// Unreadable images that are named; the log of a task is long enough.
const NAMED_MAX: usize = 10;

/// Which part of the list to build.
#[derive(Debug, clap::Args)]
pub(crate) struct ShardFlags {
    /// Build part I of N, from 0/N to N-1/N, into DIR/shard-I-of-N.tar. `auto` takes both from `SLURM_ARRAY_TASK_ID` and
    /// `SLURM_ARRAY_TASK_COUNT` of an array that begins with 0, `auto/N` the number from that or `JOB_COMPLETION_INDEX`
    #[arg(long, value_name = "I/N", conflicts_with_all = ["embeddings_of", "prune", "name"])]
    shard: Option<String>,
    /// Make the shard also if images could not be read; they are missing from it, and named. Without this nothing is made
    /// then, since another attempt or another machine may well read them
    #[arg(long, requires = "shard")]
    skip_unread: bool,
}

/// What is printed of a shard.
#[derive(Serialize)]
pub(crate) struct ShardOutcome {
    #[serde(flatten)]
    pub(crate) published: PublishedShard,
    /// Images that were embedded now.
    pub(crate) enrolled: usize,
    /// Images that an earlier attempt had embedded.
    pub(crate) unchanged: usize,
    /// Duration of embedding, in seconds.
    pub(crate) seconds: f64,
    /// Images embedded a second.
    pub(crate) images_per_second: f64,
}

impl ShardFlags {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.shard.is_some()
    }

    /// The requested part, by its number or by the scheduler's variables.
    pub(crate) fn choose(&self, environment: &dyn Environment) -> anyhow::Result<Shard> {
        let text = self.shard.as_deref().unwrap_or_default();
        let chosen = match text.strip_prefix("auto") {
            None => text.parse(),
            Some("") => of_array(environment),
            Some(of) => match of.strip_prefix('/') {
                None => text.parse(),
                Some(of) => {
                    number_of_task(environment).and_then(|index| format!("{index}/{of}").parse())
                }
            },
        };
        chosen.map_err(|problem: String| fail(Exit::Usage, format!("--shard: {problem}")))
    }

    /// A machine that cannot read what others can must not make an incomplete shard.
    pub(crate) fn check_read(&self, failed: &[RefusedItem], unread: usize) -> anyhow::Result<()> {
        if unread == 0 || self.skip_unread {
            return Ok(());
        }
        let named = failed.iter().take(NAMED_MAX).map(ToString::to_string);
        let named: Vec<String> = named.collect();
        Err(fail(
            Exit::Again,
            format!(
                "{unread} images could not be read or embedded, and no shard was made; what is embedded is kept. Run the same \
                 command again where they can be read, or with --skip-unread if they are gone for good. Among what failed: {}",
                named.join("; ")
            ),
        ))
    }
}

/// The number that a scheduler gave this task.
fn number_of_task(environment: &dyn Environment) -> Result<String, String> {
    let known = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];
    let said = known.into_iter().find_map(|name| environment.get(name));
    said.ok_or_else(|| {
        format!(
            "`auto` is for tasks of a scheduler, and neither {} is set; say the number, such as 3/64",
            known.join(" nor ")
        )
    })
}

/// The part that a task of a Slurm array builds. A subset of the tasks would be taken for all, so the array
/// has to be whole.
fn of_array(environment: &dyn Environment) -> Result<Shard, String> {
    let said = |name: &str| {
        environment.get(name).ok_or_else(|| {
            format!("`auto` needs {name}, which Slurm sets in array jobs; say auto/N, or the number, such as 3/64")
        })
    };
    let id = said("SLURM_ARRAY_TASK_ID")?;
    let count = said("SLURM_ARRAY_TASK_COUNT")?;
    let last: Option<u32> = count
        .parse()
        .ok()
        .and_then(|count: u32| count.checked_sub(1));
    let is_whole = |(name, expected): (&str, Option<u32>)| {
        let found = environment.get(name).map(|value| value.parse().ok());
        found.is_none_or(|value| value == expected)
    };
    let ends = [
        ("SLURM_ARRAY_TASK_MIN", Some(0)),
        ("SLURM_ARRAY_TASK_MAX", last),
    ];
    if !ends.into_iter().all(is_whole) {
        return Err(format!(
            "`auto` takes an array of 0 to N-1, and this one has {count} tasks with other numbers; say --shard auto/N with the N of all shards"
        ));
    }
    format!("{id}/{count}").parse()
}

impl ShardOutcome {
    pub(crate) fn text(&self) -> String {
        let manifest = &self.published.manifest;
        let mut text = String::new();
        for one in &manifest.failed {
            text.push_str(&format!("failed: {one}\n"));
        }
        let was_there = if self.published.was_there {
            ", as another attempt had made it"
        } else {
            ""
        };
        let rows = [
            ("shard", format!("{}{was_there}", manifest.source.shard)),
            (
                "list",
                format!(
                    "{} rows, hash {}",
                    manifest.source.list_rows, manifest.source.list_sha256
                ),
            ),
            (
                "embedded",
                format!("{} items, {:.1}/s", self.enrolled, self.images_per_second),
            ),
            ("by earlier attempts", self.unchanged.to_string()),
            ("failed", manifest.failed.len().to_string()),
            ("items", manifest.items.to_string()),
            ("digest", manifest.digest.clone()),
        ];
        text.push_str(&format!(
            "{}\n{}",
            self.published.archive.display(),
            table(&rows)
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_task_finds_its_part_by_what_the_scheduler_says() {
        let chosen = |shard: &str, said: &[(&str, &str)]| {
            let flags = ShardFlags {
                shard: Some(shard.to_owned()),
                skip_unread: false,
            };
            let environment: BTreeMap<&str, &str> = said.iter().copied().collect();
            let chosen = flags.choose(&environment);
            chosen.map_or_else(|error| error.to_string(), |shard| shard.to_string())
        };
        let slurm = |id, count, min, max| {
            [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_MAX", max),
            ]
        };
        let kubernetes = [("JOB_COMPLETION_INDEX", "7")];
        assert_eq!(chosen("3/64", &[]), "3/64");
        assert_eq!(chosen("auto", &slurm("3", "8", "0", "7")), "3/8");
        assert_eq!(chosen("auto/8", &slurm("3", "2", "3", "7")), "3/8");
        assert_eq!(chosen("auto/8", &kubernetes), "7/8");
        for (shard, said, want) in [
            ("8/8", vec![], "the last one is 7/8"),
            ("0/0", vec![], "there can be 1 to"),
            ("3", vec![], "such as 3/64"),
            ("-1/8", vec![], "such as 3/64"),
            ("automatic", vec![], "such as 3/64"),
            ("auto", vec![], "needs SLURM_ARRAY_TASK_ID"),
            ("auto", kubernetes.to_vec(), "needs SLURM_ARRAY_TASK_ID"),
            ("auto/7", kubernetes.to_vec(), "the last one is 6/7"),
            // Two of eight tasks, begun again by themselves, and an array that counts from 1.
            (
                "auto",
                slurm("3", "2", "3", "7").to_vec(),
                "an array of 0 to N-1",
            ),
            (
                "auto",
                slurm("1", "8", "1", "8").to_vec(),
                "an array of 0 to N-1",
            ),
        ] {
            let refused = chosen(shard, &said);
            assert!(refused.contains(want), "{shard}: {refused}");
        }
    }
}
