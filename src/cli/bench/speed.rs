//! How fast something is, and on which machine.

use std::fs;

use serde::Serialize;

/// How many, and how long each took.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Speed {
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Speed {
    /// From the seconds of each, and of all together.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures to be shown"
    )]
    pub(super) fn of(mut times: Vec<f64>, took: f64) -> Self {
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

/// The processor: what a figure was measured on.
pub(super) fn machine() -> String {
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
