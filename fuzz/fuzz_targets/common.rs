//! What the entries have of the tests of the whole program.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "the tests use all of it"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "../../tests/it/common/raw.rs"]
pub mod raw;
#[path = "../../tests/it/common/running.rs"]
mod running;
#[path = "../../tests/it/common/shop.rs"]
pub mod shop;

pub use running::{Running, config};

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub fn model() -> PathBuf {
    Path::new(ROOT).join("models/efficientnet-lite0")
}

pub fn run(arguments: &[&str]) -> Output {
    let program = std::env::var("FUZZ_PROGRAM").unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(ROOT).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
