//! libFuzzer over one way in, which `FUZZ_TARGET` names: `make fuzz TARGET=pictures SECONDS=300`.

#![no_main]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "what goes wrong is what is looked for, and a target has no configuration"
)]

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

use entries::{ENTRIES, Opened};

mod common;
#[path = "../../tests/it/fuzz/entries.rs"]
mod entries;

thread_local! {
    static OPENED: RefCell<Opened> = RefCell::new(opened());
}

/// The one that is asked for; its seeds are put into the corpus.
fn opened() -> Opened {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) else {
        let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        panic!("FUZZ_TARGET is none of {}", names.join(", "));
    };
    let opened = (entry.open)();
    if let Ok(corpus) = std::env::var("FUZZ_CORPUS") {
        for (number, seed) in opened.seeds.iter().enumerate() {
            fs::write(PathBuf::from(&corpus).join(format!("seed-{number}")), seed).unwrap();
        }
    }
    opened
}

fuzz_target!(
    init: OPENED.with(|_| ()),
    |input: &[u8]| {
        OPENED.with_borrow_mut(|opened| (opened.read)(input));
    }
);
