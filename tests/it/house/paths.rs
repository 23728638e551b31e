//! What one parsed file defines and names, without its unit tests.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::only_for_tests;

/// A path: its segments, as written.
pub type Segments = Vec<String>;

/// The paths that a file names.
#[derive(Default)]
pub struct Named {
    /// In private `use` and in code.
    pub used: Vec<Segments>,
    /// `pub use`: the name that it gives, and the path that it stands for.
    pub exported: Vec<(String, Segments)>,
}

pub fn named(file: &syn::File) -> Named {
    let mut named = Named::default();
    named.visit_file(file);
    named
}

impl Visit<'_> for Named {
    fn visit_item(&mut self, item: &syn::Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        if matches!(item.vis, syn::Visibility::Inherited) {
            self.used.extend(leaves.into_iter().map(|(_, path)| path));
        } else {
            self.exported.extend(leaves);
        }
    }

    fn visit_visibility(&mut self, _: &syn::Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let segments = path.segments.iter();
        let names = segments.map(|segment| segment.ident.to_string());
        self.used.push(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.visit_path(&call.path);
        paths_in(call.tokens.clone(), &mut self.used);
    }
}

/// The names that a `use` gives, each with the path that it stands for.
fn flatten(tree: &syn::UseTree, before: &mut Segments, into: &mut Vec<(String, Segments)>) {
    let path_to = |last: String| [before.clone(), vec![last]].concat();
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, into);
            before.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, into);
            }
        }
        syn::UseTree::Name(name) if name.ident == "self" => {
            into.push((before.last().cloned().unwrap_or_default(), before.clone()));
        }
        syn::UseTree::Name(name) => {
            into.push((name.ident.to_string(), path_to(name.ident.to_string())));
        }
        syn::UseTree::Rename(rename) => {
            into.push((rename.rename.to_string(), path_to(rename.ident.to_string())));
        }
        syn::UseTree::Glob(_) => into.push(("*".to_owned(), before.clone())),
    }
}

/// Paths in what is given to a macro, which is not parsed.
fn paths_in(tokens: TokenStream, into: &mut Vec<Segments>) {
    let mut path = Segments::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Ident(ident) => {
                into.push(std::mem::replace(&mut path, vec![ident.to_string()]));
                colons = 0;
            }
            TokenTree::Group(group) => {
                into.push(std::mem::take(&mut path));
                colons = 0;
                paths_in(group.stream(), into);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                into.push(std::mem::take(&mut path));
                colons = 0;
            }
        }
    }
    into.push(path);
}

/// The names of structs, enums, unions, traits and aliases that a file defines.
pub fn types_of(file: &syn::File) -> Vec<String> {
    let mut types = Types::default();
    types.visit_file(file);
    types.0
}

#[derive(Default)]
struct Types(Vec<String>);

impl Visit<'_> for Types {
    fn visit_item(&mut self, item: &syn::Item) {
        if only_for_tests(attributes(item)) {
            return;
        }
        let name = match item {
            syn::Item::Struct(item) => &item.ident,
            syn::Item::Enum(item) => &item.ident,
            syn::Item::Union(item) => &item.ident,
            syn::Item::Trait(item) => &item.ident,
            syn::Item::Type(item) => &item.ident,
            _ => return visit::visit_item(self, item),
        };
        self.0.push(name.to_string());
    }
}

/// The names of functions, once for each of their parameters that is a tuple.
pub fn tuple_parameters_of(file: &syn::File) -> Vec<String> {
    let mut found = TupleParameters::default();
    found.visit_file(file);
    found.0
}

#[derive(Default)]
struct TupleParameters(Vec<String>);

impl Visit<'_> for TupleParameters {
    fn visit_item(&mut self, item: &syn::Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_signature(&mut self, signature: &syn::Signature) {
        for input in &signature.inputs {
            let syn::FnArg::Typed(typed) = input else {
                continue;
            };
            let ty = match &*typed.ty {
                syn::Type::Reference(reference) => &*reference.elem,
                ty => ty,
            };
            if matches!(ty, syn::Type::Tuple(tuple) if !tuple.elems.is_empty()) {
                self.0.push(signature.ident.to_string());
            }
        }
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
