//! Which file refers to which, and where that goes round in circles.
//!
//! What a file takes from the front of its own room (`mod.rs` or `lib.rs` above it) is not counted: the
//! front speaks for the room, and its files are its insides. A name that the front only exports anew is
//! a reference to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{Named, Segments};
use super::{SourceFile, named_paths};

/// Follow at most so many re-exports from one to the next.
const EXPORTS_MAX: usize = 8;

/// Groups of files of one package in which each leads to every other, by what they name.
pub fn circles(files: &[SourceFile]) -> Vec<Vec<&str>> {
    let packages: BTreeSet<&str> = files.iter().map(|file| file.package.as_str()).collect();
    let mut circles = Vec::new();
    for package in packages {
        let modules = Modules::of(files.iter().filter(|file| file.package == package));
        circles.extend(modules.circles());
    }
    circles
}

/// The modules of one package that are files.
struct Modules<'a>(BTreeMap<&'a [String], Module<'a>>);

struct Module<'a> {
    path: &'a str,
    named: Named,
}

type References<'a> = BTreeMap<&'a [String], BTreeSet<&'a [String]>>;

impl<'a> Modules<'a> {
    fn of(files: impl Iterator<Item = &'a SourceFile>) -> Self {
        let modules = files.map(|file| {
            let (path, named) = (file.path.as_str(), named_paths(file));
            (file.module.as_slice(), Module { path, named })
        });
        Self(modules.collect())
    }

    /// The file in which `path` ends, as seen from `module`; re-exports are followed.
    fn file_of(&self, module: &[String], path: &[String], depth: usize) -> Option<&'a [String]> {
        let (first, mut rest) = path.split_first()?;
        let mut at: Segments = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name => {
                let child = [module, &[name.to_owned()]].concat();
                if !self.0.contains_key(child.as_slice()) {
                    // Perhaps a name that this file exports anew, and uses.
                    return self.exported(module, name, depth);
                }
                child
            }
        };
        while let Some((next, further)) = rest.split_first() {
            rest = further;
            if next == "super" {
                at.pop();
                continue;
            }
            let child = [at.as_slice(), std::slice::from_ref(next)].concat();
            if !self.0.contains_key(child.as_slice()) {
                return self.exported(&at, next, depth).or_else(|| self.key(&at));
            }
            at = child;
        }
        self.key(&at)
    }

    fn exported(&self, module: &[String], name: &str, depth: usize) -> Option<&'a [String]> {
        let exported = &self.0.get(module)?.named.exported;
        let (_, path) = exported.iter().find(|(export, _)| export == name)?;
        self.file_of(module, path, depth.checked_sub(1)?)
    }

    fn key(&self, module: &[String]) -> Option<&'a [String]> {
        self.0.get_key_value(module).map(|(key, _)| *key)
    }

    fn references(&self) -> References<'a> {
        let of = |(module, this): (&&'a [String], &Module<'a>)| {
            let used = this.named.used.iter();
            let files = used.filter_map(|path| self.file_of(module, path, EXPORTS_MAX));
            (
                *module,
                files.filter(|file| !module.starts_with(file)).collect(),
            )
        };
        self.0.iter().map(of).collect()
    }

    fn circles(&self) -> Vec<Vec<&'a str>> {
        let references = self.references();
        let from_each = references
            .keys()
            .map(|from| (*from, reached(from, &references)));
        let reached: References<'a> = from_each.collect();
        let mut circles = BTreeSet::new();
        for (module, others) in &reached {
            let and_back = others
                .iter()
                .filter(|other| reached[*other].contains(module));
            let mut circle: Vec<&str> = and_back.map(|other| self.0[*other].path).collect();
            circle.sort_unstable();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }
}

/// What one reference after the other leads to.
fn reached<'a>(from: &'a [String], references: &References<'a>) -> BTreeSet<&'a [String]> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for other in references.get(module).into_iter().flatten() {
            if reached.insert(*other) {
                open.push(other);
            }
        }
    }
    reached
}

#[test]
fn two_files_that_name_each_other_are_a_circle_and_a_front_and_its_insides_are_none() {
    let file = |module: &[&str], code: &str| SourceFile {
        path: module.join("/"),
        package: "p".to_owned(),
        module: module.iter().map(|part| (*part).to_owned()).collect(),
        code: code.to_owned(),
        syntax: syn::parse_file(code).unwrap(),
    };
    let mut files = vec![
        file(
            &[],
            "mod a; mod b; mod c; pub use c::Third; pub struct Front; fn f() { a::g(); }",
        ),
        file(
            &["a"],
            "use super::{Front, Third}; fn g() { let _ = format!(\"{}\", super::b::h()); }",
        ),
        file(
            &["b"],
            "fn h(of: Third) {} #[cfg(test)] mod tests { use crate::a::g; }",
        ),
        file(&["c"], "pub struct Third;"),
    ];
    assert_eq!(circles(&files), Vec::<Vec<&str>>::new());
    files[3] = file(
        &["c"],
        "pub struct Third; impl Third { fn of() { crate::a::g() } }",
    );
    assert_eq!(circles(&files), [["a", "c"]]);
}
