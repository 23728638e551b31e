//! `matchpoint bench`: what an index, and a server, do on this machine.

mod index;
mod load;

use std::fs;

use serde::Serialize;

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

/// How many, and how long each took.
#[derive(Clone, Copy, Serialize)]
struct Speed {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Speed {
    /// Of the seconds that each took, and the seconds that all took.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures to be shown"
    )]
    fn of(mut times: Vec<f64>, took: f64) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            times.get(place).copied().unwrap_or(0.0) * 1e6
        };
        Self {
            per_second: times.len() as f64 / took,
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

fn machine() -> String {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        let line = about.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(": "));
        value.map_or("", |(_, value)| value).to_owned()
    };
    let flags = line("flags");
    let widest = ["avx512_vnni", "avx512f", "avx2"].into_iter();
    let widest = widest.into_iter().find(|flag| flags.contains(flag));
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {threads} threads, {}",
        line("model name"),
        widest.unwrap_or("no AVX2")
    )
}
