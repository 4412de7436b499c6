//! Collects the paths that an item names: in types, expressions, patterns, macros and attributes.
//!
//! Input: one parsed item. Output: its paths with their lines. If a path begins with a name that a `use` inside a
//! function imports, the import's path replaces that name. Code that only exists in tests is left out.

use crate::cfg::only_in_tests;
use crate::tokens::{self, Texts};
use std::collections::HashMap;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, UseTree};

/// A path that names something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its segments.
    pub path: Vec<String>,
    /// Whether it begins with `::`.
    pub global: bool,
    /// Its line.
    pub line: usize,
    /// Whether it was parsed as a path. If not, it comes from a macro's tokens and may be any word.
    pub parsed: bool,
}

/// One imported name of a `use`, or a `*`.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The path to it.
    pub path: Vec<String>,
    /// Whether it begins with `::`.
    pub global: bool,
    /// Its name in this module; None for `*` and `_`.
    pub name: Option<String>,
    /// Whether it is a `*`.
    pub glob: bool,
    /// Its line.
    pub line: usize,
}

/// Returns the imported names of a `use`.
pub fn leaves(item: &syn::ItemUse) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    tree(&item.tree, &mut Vec::new(), item.leading_colon.is_some(), &mut leaves);
    leaves
}

fn tree(tree_: &UseTree, prefix: &mut Vec<String>, global: bool, leaves: &mut Vec<Leaf>) {
    let line = tree_.span().start().line;
    let mut leaf = |last: Option<String>, name: Option<String>, glob: bool| {
        let mut path = prefix.clone();
        path.extend(last);
        // `use a::b::{self}` is `use a::b`.
        let mut name = name;
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
            if name.as_deref() == Some("self") {
                name = path.last().cloned();
            }
        }
        leaves.push(Leaf { path, global, name, glob, line });
    };
    match tree_ {
        UseTree::Name(name) => leaf(Some(name.ident.to_string()), Some(name.ident.to_string()), false),
        UseTree::Rename(rename) => {
            let name = Some(rename.rename.to_string()).filter(|name| name != "_");
            leaf(Some(rename.ident.to_string()), name, false);
        }
        UseTree::Glob(_) => leaf(None, None, true),
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            tree(&path.tree, prefix, global, leaves);
            prefix.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|item| tree(item, prefix, global, leaves)),
    }
}

/// Returns the paths that an item names.
pub fn references(item: &syn::Item) -> Vec<Reference> {
    let mut collector = Collector::default();
    collector.visit_item(item);
    collector.found
}

#[derive(Default)]
struct Collector {
    found: Vec<Reference>,
    /// The imports of the enclosing blocks, the innermost last.
    blocks: Vec<HashMap<String, Leaf>>,
}

impl Collector {
    fn add(&mut self, mut path: Vec<String>, mut global: bool, line: usize, parsed: bool) {
        let Some(first) = path.first() else { return };
        if first == "Self" {
            return;
        }
        if let Some(leaf) = self.blocks.iter().rev().find_map(|block| block.get(first))
            && !global
        {
            global = leaf.global;
            path.splice(..1, leaf.path.iter().cloned());
        }
        self.found.push(Reference { path, global, line, parsed });
    }

    fn add_path(&mut self, path: &syn::Path, segments: usize) {
        let names = path.segments.iter().take(segments).map(|segment| segment.ident.to_string()).collect();
        self.add(names, path.leading_colon.is_some(), path.span().start().line, true);
    }

    fn add_tokens(&mut self, tokens: proc_macro2::TokenStream, texts: Texts) {
        let mut written = Vec::new();
        tokens::paths(tokens, texts, &mut written);
        written.into_iter().for_each(|written| self.add(written.path, false, written.line, false));
    }

    /// Adds a path that may have a type and a trait in front, as in `<T as Trait>::Item`.
    fn qualified(&mut self, qself: Option<&syn::QSelf>, path: &syn::Path) {
        match qself {
            Some(qself) => {
                self.visit_type(&qself.ty);
                self.add_path(path, qself.position);
            }
            None => self.add_path(path, usize::MAX),
        }
        path.segments.iter().for_each(|segment| self.visit_path_arguments(&segment.arguments));
    }
}

macro_rules! unless_for_tests {
    ($($method:ident $kind:ident)*) => {
        $(fn $method(&mut self, node: &'ast syn::$kind) {
            if !only_in_tests(&node.attrs) {
                visit::$method(self, node);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Collector {
    unless_for_tests! {
        visit_field Field visit_variant Variant visit_arm Arm visit_local Local visit_field_value FieldValue
        visit_impl_item_fn ImplItemFn visit_impl_item_const ImplItemConst visit_trait_item_fn TraitItemFn
        visit_stmt_macro StmtMacro visit_expr_block ExprBlock
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        // Modules are read on their own, and `use`s by the module or block that contains them.
        if !only_in_tests(attributes(item)) && !matches!(item, syn::Item::Mod(_) | syn::Item::Use(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_block(&mut self, block: &'ast syn::Block) {
        let mut names = HashMap::new();
        let mut all = Vec::new();
        for statement in &block.stmts {
            if let syn::Stmt::Item(syn::Item::Use(item)) = statement
                && !only_in_tests(&item.attrs)
            {
                all.extend(leaves(item));
            }
        }
        for leaf in all {
            self.add(leaf.path.clone(), leaf.global, leaf.line, true);
            if let Some(name) = leaf.name.clone() {
                names.insert(name, leaf);
            }
        }
        self.blocks.push(names);
        visit::visit_block(self, block);
        self.blocks.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add_path(path, usize::MAX);
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, expression: &'ast syn::ExprPath) {
        self.qualified(expression.qself.as_ref(), &expression.path);
    }

    fn visit_type_path(&mut self, kind: &'ast syn::TypePath) {
        self.qualified(kind.qself.as_ref(), &kind.path);
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        let name = pattern.ident.to_string();
        // An upper-case name is a constant; a lower-case one is a new variable.
        if name.starts_with(char::is_uppercase) {
            self.add(vec![name], false, pattern.ident.span().start().line, true);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.add_path(&invocation.path, usize::MAX);
        self.add_tokens(invocation.tokens.clone(), Texts::Ignored);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let path = attribute.path();
        if path.is_ident("doc") || path.is_ident("cfg") {
            return;
        }
        if path.segments.len() > 1 {
            self.add_path(path, usize::MAX);
        }
        match &attribute.meta {
            syn::Meta::List(list) => self.add_tokens(list.tokens.clone(), Texts::ArePaths),
            syn::Meta::Path(_) | syn::Meta::NameValue(_) => {}
        }
    }
}

/// Returns the attributes of an item.
pub fn attributes(item: &syn::Item) -> &[Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::TraitAlias(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
