//! The sources as the tests of the house read them: every production file of the workspace, parsed.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and the syntax of Rust has more kinds of items than matter"
)]

mod paths;
mod references;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub use references::circles;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// One file of production code.
pub struct SourceFile {
    /// From the repository's root.
    pub path: String,
    /// The package's name without `matchpoint-`; `matchpoint` for the program.
    pub package: String,
    /// The modules that lead to it from its crate's root; empty for `lib.rs`.
    pub module: Vec<String>,
    /// What it holds but for comments and unit tests.
    pub code: String,
    /// The same, parsed.
    pub syntax: syn::File,
}

/// Every production file: `src/`, `crates/*/src` and the module for Python, without what only tests compile.
pub fn sources() -> Vec<SourceFile> {
    let mut packages = vec![("matchpoint".to_owned(), "src".to_owned())];
    for entry in fs::read_dir(Path::new(ROOT).join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        packages.push((name.clone(), format!("crates/{name}/src")));
    }
    let module = "calibration-python";
    packages.push((module.to_owned(), format!("clients/{module}/src")));
    packages.sort();
    let mut found = Vec::new();
    for (package, folder) in packages {
        let mut paths = Vec::new();
        rust_files(&Path::new(ROOT).join(&folder), &mut paths);
        paths.sort();
        let files = paths.iter().map(|path| read(path, &package, &folder));
        let files: Vec<SourceFile> = files.collect();
        let tests: Vec<Vec<String>> = files.iter().flat_map(modules_of_tests).collect();
        let production =
            |file: &SourceFile| !tests.iter().any(|test| file.module.starts_with(test));
        found.extend(files.into_iter().filter(production));
    }
    found
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

fn read(path: &Path, package: &str, folder: &str) -> SourceFile {
    let text = fs::read_to_string(path).unwrap();
    let within = path.strip_prefix(Path::new(ROOT).join(folder)).unwrap();
    let stem = within.with_extension("");
    let parts = stem.iter().map(|part| part.to_str().unwrap().to_owned());
    let mut module: Vec<String> = parts.collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    SourceFile {
        path: format!("{folder}/{}", within.display()),
        package: package.to_owned(),
        module,
        code: without_comments_and_tests(&text),
        syntax: syn::parse_file(&text).unwrap(),
    }
}

/// Unit tests stand in modules that begin and end at the first column.
fn without_comments_and_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().unwrap_or(&"");
        if line == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            lines.by_ref().find(|line| *line == "}");
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The modules that a file declares under `#[cfg(test)]`, in files of their own.
fn modules_of_tests(file: &SourceFile) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for item in &file.syntax.items {
        if let syn::Item::Mod(module) = item
            && module.content.is_none()
            && only_for_tests(&module.attrs)
        {
            found.push([file.module.clone(), vec![module.ident.to_string()]].concat());
        }
    }
    found
}

/// Whether attributes keep what they stand before out of the program.
pub fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let given = attribute.parse_args::<syn::Path>();
        attribute.path().is_ident("cfg") && given.is_ok_and(|path| path.is_ident("test"))
    })
}

/// The types that the sources define, by name: each with the files that do.
pub fn types(files: &[SourceFile]) -> BTreeMap<String, Vec<&str>> {
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files {
        for name in paths::types_of(&file.syntax) {
            types.entry(name).or_default().push(&file.path);
        }
    }
    types
}

/// Functions that take a tuple: `path: function`, once for each such parameter.
pub fn tuple_parameters(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let names = paths::tuple_parameters_of(&file.syntax);
        found.extend(names.iter().map(|name| format!("{}: {name}", file.path)));
    }
    found
}

/// The paths that a file names outside its unit tests, and what it exports anew.
pub fn named_paths(file: &SourceFile) -> paths::Named {
    paths::named(&file.syntax)
}
