//! Resolves paths: follows modules, imports, renames, `*` and re-exports, also across crates of the workspace.
//!
//! Input: a path and the module that contains it. Output: what the path names. This may be several things, because a
//! type, a value and a macro can share a name. A path that goes on behind a type (`Type::new`, a variant) resolves to
//! the type. Names are looked up as the language does it: declarations and named imports before `*`, and only what is
//! visible.

use crate::code::{Code, Entry, Kind, MODULE, Module, Visibility};
use crate::references::Leaf;
use std::cell::RefCell;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A module.
    Module(usize),
    /// An item, by its module and name.
    Item(usize, String),
    /// An item of a foreign crate. Also a name that is not declared, such as `Vec` or a variable.
    External(Vec<String>),
    /// A name that the path's last module does not have. Then this program has misunderstood the code.
    Nowhere(usize, String),
}

/// Resolves paths in some code.
pub struct Resolver<'a> {
    code: &'a Code,
    /// The imports that are being followed, so that none is followed into itself.
    under_way: RefCell<Vec<(usize, String)>>,
}

impl<'a> Resolver<'a> {
    /// Makes a resolver.
    pub fn new(code: &'a Code) -> Self {
        Self { code, under_way: RefCell::default() }
    }

    /// Returns what a path means in a module.
    pub fn resolve(&self, from: usize, path: &[String], global: bool) -> Vec<Meaning> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let start = if global {
            self.library(from, first).unwrap_or_default()
        } else if let Some(index) = first.strip_prefix(MODULE).and_then(|index| index.parse().ok()) {
            vec![Meaning::Module(index)]
        } else {
            match first.as_str() {
                "crate" => self.code.root_of(from).map(Meaning::Module).into_iter().collect(),
                "self" => vec![Meaning::Module(from)],
                "super" => self.parent(from).map(Meaning::Module).into_iter().collect(),
                name => self.first(from, name, rest.is_empty()),
            }
        };
        if start.is_empty() {
            return vec![Meaning::External(path.to_vec())];
        }
        rest.iter().fold(start, |known, name| self.step(known, name, from))
    }

    /// Resolves the first name of a path.
    fn first(&self, from: usize, name: &str, only: bool) -> Vec<Meaning> {
        let found = self.lookup(from, name, from);
        if !found.is_empty() {
            return found;
        }
        // `macro_rules!` macros are visible in the modules inside.
        let mut at = self.code.module(from).and_then(|module| module.parent);
        while let Some(index) = at.filter(|_| only) {
            let mut found = self.lookup(index, name, from);
            found.retain(|meaning| self.is_macro(meaning));
            if !found.is_empty() {
                return found;
            }
            at = self.parent(index);
        }
        if let Some(library) = self.library(from, name) {
            return library;
        }
        self.foreign_globs(from, name)
    }

    fn is_macro(&self, meaning: &Meaning) -> bool {
        let Meaning::Item(module, name) = meaning else { return false };
        let entries = self.code.module(*module).and_then(|module| module.names.get(name)).into_iter().flatten();
        entries.into_iter().any(|entry| matches!(entry.kind, Kind::Macro))
    }

    fn library(&self, from: usize, name: &str) -> Option<Vec<Meaning>> {
        let target = self.code.targets.get(self.code.module(from)?.target)?;
        target.libraries.get(name).map(|root| vec![Meaning::Module(*root)])
    }

    fn step(&self, known: Vec<Meaning>, name: &str, from: usize) -> Vec<Meaning> {
        // If a name is both a module and an item, the path goes on in the module.
        let modules = known.iter().any(|meaning| matches!(meaning, Meaning::Module(_)));
        let mut next = Vec::new();
        for meaning in known {
            match meaning {
                Meaning::Module(module) if name == "super" => next.extend(self.parent(module).map(Meaning::Module)),
                Meaning::Module(module) if name == "self" => next.push(Meaning::Module(module)),
                Meaning::Module(module) => {
                    let found = self.lookup(module, name, from);
                    next.extend(if found.is_empty() { self.macro_made(module, name) } else { found });
                }
                Meaning::Item(..) | Meaning::Nowhere(..) if modules => {}
                Meaning::External(mut path) => {
                    path.push(name.to_owned());
                    next.push(Meaning::External(path));
                }
                other => next.push(other),
            }
        }
        next
    }

    fn parent(&self, module: usize) -> Option<usize> {
        self.code.module(module).and_then(|module| module.parent)
    }

    fn is_visible(&self, visibility: Visibility, from: usize) -> bool {
        match visibility {
            Visibility::Everywhere => true,
            Visibility::Within(outer) => self.code.is_within(from, outer),
        }
    }

    /// Returns what a name means in a module, for code in the module `from`.
    fn lookup(&self, module: usize, name: &str, from: usize) -> Vec<Meaning> {
        let Some(content) = self.code.module(module) else { return Vec::new() };
        let mut found = Vec::new();
        for entry in
            content.names.get(name).into_iter().flatten().filter(|entry| self.is_visible(entry.visibility, from))
        {
            for meaning in self.entry(module, name, entry) {
                if !found.contains(&meaning) {
                    found.push(meaning);
                }
            }
        }
        if found.is_empty() { self.globs(content, module, name, from) } else { found }
    }

    fn entry(&self, module: usize, name: &str, entry: &Entry) -> Vec<Meaning> {
        match &entry.kind {
            Kind::Module(inner) => vec![Meaning::Module(*inner)],
            Kind::Item(_) | Kind::Macro => vec![Meaning::Item(module, name.to_owned())],
            Kind::Import(leaf) => self.follow(module, leaf, name),
        }
    }

    /// Follows an import, unless it is being followed already.
    fn follow(&self, module: usize, leaf: &Leaf, mark: &str) -> Vec<Meaning> {
        let mark = (module, mark.to_owned());
        if self.under_way.borrow().contains(&mark) {
            return Vec::new();
        }
        self.under_way.borrow_mut().push(mark);
        let found = self.resolve(module, &leaf.path, leaf.global);
        self.under_way.borrow_mut().pop();
        found
    }

    /// Returns what a name means by the `*` imports of a module.
    fn globs(&self, content: &Module, module: usize, name: &str, from: usize) -> Vec<Meaning> {
        let mut found = Vec::new();
        for (number, (leaf, visibility)) in content.globs.iter().enumerate() {
            if !self.is_visible(*visibility, from) {
                continue;
            }
            for meaning in self.follow(module, leaf, &format!("*{number}")) {
                let brought = match meaning {
                    Meaning::Module(inner) if inner != module => {
                        let mark = (inner, format!("*{name}"));
                        if self.under_way.borrow().contains(&mark) {
                            continue;
                        }
                        self.under_way.borrow_mut().push(mark);
                        let brought = self.lookup(inner, name, module);
                        self.under_way.borrow_mut().pop();
                        brought
                    }
                    Meaning::Item(inner, kind) if self.has_variant(inner, &kind, name) => {
                        vec![Meaning::Item(inner, kind)]
                    }
                    _ => Vec::new(),
                };
                found.extend(brought.into_iter().filter(|meaning| !matches!(meaning, Meaning::Nowhere(..))));
            }
        }
        found.dedup();
        found
    }

    fn has_variant(&self, module: usize, kind: &str, name: &str) -> bool {
        let entries = self.code.module(module).and_then(|module| module.names.get(kind)).into_iter().flatten();
        entries.into_iter().any(|entry| match &entry.kind {
            Kind::Item(variants) => variants.iter().any(|variant| variant == name),
            _ => false,
        })
    }

    /// Returns what a name means if the `*` import of a foreign crate provides it.
    fn foreign_globs(&self, module: usize, name: &str) -> Vec<Meaning> {
        let globs = self.code.module(module).map(|content| content.globs.as_slice()).unwrap_or_default();
        let roots = globs.iter().flat_map(|(leaf, _)| self.follow(module, leaf, "*"));
        let paths = roots.filter_map(|meaning| match meaning {
            Meaning::External(mut path) => {
                path.push(name.to_owned());
                Some(Meaning::External(path))
            }
            _ => None,
        });
        paths.collect()
    }

    /// Resolves a name that is not declared: a macro may have made it, here or in a module that a `*` imports.
    fn macro_made(&self, module: usize, name: &str) -> Vec<Meaning> {
        let Some(content) = self.code.module(module) else { return Vec::new() };
        if content.macros {
            return vec![Meaning::Item(module, name.to_owned())];
        }
        let foreign = self.foreign_globs(module, name);
        if !foreign.is_empty() {
            return foreign;
        }
        for (leaf, _) in &content.globs {
            for meaning in self.follow(module, leaf, "*") {
                if let Meaning::Module(inner) = meaning
                    && self.code.module(inner).is_some_and(|inner| inner.macros)
                {
                    return vec![Meaning::Item(inner, name.to_owned())];
                }
            }
        }
        vec![Meaning::Nowhere(module, name.to_owned())]
    }
}
