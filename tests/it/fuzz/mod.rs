//! What reads bytes of others, given bytes that nobody sends: whole inputs that are changed at random, from fixed
//! seeds. Nothing panics, aborts, hangs, or takes an input for more than it is. A moment each here, and minutes each in
//! `make test-long`; `make fuzz` lets coverage guide the changes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it has tried"
)]

mod entries;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::patience;
use crate::common::random::Random;
use entries::{ENTRIES, Entry};

/// Longer than any of these readers takes, on a machine with much else to do.
const ONE_MAX: Duration = Duration::from_secs(10);
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Numbers at which something changes.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes inputs of seeds.
struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        assert!(!seeds.is_empty(), "there are no seeds");
        Self {
            random: Random(seed),
            seeds,
        }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut input = self.seeds[self.random.below(self.seeds.len())].clone();
        for _ in 0..=self.random.below(6) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.below(input.len() + 1);
        let width = random.below(10);
        let some = 1 + random.below(1 << width);
        let end = input.len().min(at + some);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.bits().to_le_bytes()[0],
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let noise: Vec<u8> = (0..some).map(|_| random.bits().to_le_bytes()[0]).collect();
                input.splice(at..at, noise);
            }
            5 => {
                let edge = EDGES[random.below(EDGES.len())];
                let width = 1 << random.below(4);
                let mut bytes = edge.to_le_bytes()[..width].to_vec();
                if random.below(2) == 0 {
                    bytes.reverse();
                }
                let end = input.len().min(at + width);
                input.splice(at..end, bytes);
            }
            6 => {
                let other = &self.seeds[random.below(self.seeds.len())];
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + some);
                input.splice(at..end, other[from..to].iter().copied());
            }
            7 => input.truncate(at),
            _ => {
                // An ASCII digit becomes another number.
                if let Some(digit) = input[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b"0123456789-.e"[random.below(13)];
                }
            }
        }
    }
}

/// Gives changed inputs to what reads them, for a while. What it takes badly is written down with its number.
fn fuzz(entry: &Entry) {
    let name = entry.name;
    let mut opened = (entry.open)();
    let (seeds, read) = (std::mem::take(&mut opened.seeds), &mut opened.read);
    let taken = seeds.iter().filter(|seed| read(seed)).count();
    assert!(0 < taken, "{name}: no seed is taken, so nothing is tried");
    let mut mutator = Mutator::new(20_261_130, seeds);
    let (mut inputs, mut taken, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    let until = Instant::now() + patience(Duration::from_secs(1));
    while Instant::now() < until {
        let input = mutator.next();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let took = begun.elapsed();
        slowest = slowest.max(took);
        if outcome.is_err() || ONE_MAX < took {
            let kept = std::env::temp_dir().join(format!("matchpoint-fuzz-{name}-{inputs}"));
            fs::write(&kept, &input).unwrap();
            panic!("{name}: input {inputs} ({}) took {took:?}", kept.display());
        }
        inputs += 1;
        taken += u64::from(outcome.unwrap());
    }
    println!("{name}: {inputs} inputs, {taken} of them taken, the slowest in {slowest:?}");
}

#[test]
fn bytes_that_nobody_sends_do_no_harm_to_any_reader() {
    let next = AtomicUsize::new(0);
    let some = || {
        while let Some(entry) = ENTRIES.get(next.fetch_add(1, Ordering::Relaxed)) {
            fuzz(entry);
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(some);
        }
    });
}
