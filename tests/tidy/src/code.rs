//! Reads the modules of each library and binary: what they declare, import and name.
//!
//! Input: a tree of files and its packages. Output: [`Code`]. Modules and items that only exist in tests are left out.
//! Names that a macro makes (`name!(TenantName)`) are not visible here; [`Module::macros`] says that a module may have
//! such names.

use crate::cfg::only_in_tests;
use crate::references::{Leaf, Reference, attributes, leaves, references};
use crate::tree::{Tree, folder_of, join};
use crate::workspace::Package;
use std::collections::HashMap;
use syn::spanned::Spanned;

/// All libraries and binaries.
#[derive(Debug, Default)]
pub struct Code {
    /// Libraries and binaries.
    pub targets: Vec<Target>,
    /// All modules of all targets.
    pub modules: Vec<Module>,
    /// One message for each file that is missing or cannot be parsed.
    pub unreadable: Vec<String>,
}

/// A library or a binary.
#[derive(Debug)]
pub struct Target {
    /// The package's name.
    pub package: String,
    /// The module of its root file.
    pub root: usize,
    /// The workspace's libraries that it can name, with their root modules.
    pub libraries: HashMap<String, usize>,
}

/// A module in its own file, or an inline one.
#[derive(Debug)]
pub struct Module {
    /// An index into [`Code::targets`].
    pub target: usize,
    /// The module that contains it.
    pub parent: Option<usize>,
    /// The file that holds its items.
    pub file: String,
    /// Its declarations and named imports.
    pub names: HashMap<String, Vec<Entry>>,
    /// Its `*` imports, each with its visibility.
    pub globs: Vec<(Leaf, Visibility)>,
    /// Whether it calls macros at item level, which may make more items.
    pub macros: bool,
    /// The paths in its items.
    pub references: Vec<Reference>,
    /// All its imports, each with whether it is private.
    pub imports: Vec<(Leaf, bool)>,
}

/// One meaning of a name in a module.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it can be used.
    pub visibility: Visibility,
    /// What it is.
    pub kind: Kind,
}

/// Where a name can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Anywhere.
    Everywhere,
    /// In this module and those inside it.
    Within(usize),
}

/// What kind of thing a name stands for.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A module.
    Module(usize),
    /// An item that is defined here. The list holds the variants of an `enum`.
    Item(Vec<String>),
    /// A `macro_rules!` macro, which modules inside see too.
    Macro,
    /// An import.
    Import(Leaf),
}

impl Code {
    /// Reads all libraries and binaries of the packages.
    pub fn read(tree: &Tree, packages: &[Package]) -> Self {
        let mut code = Self::default();
        let mut libraries = HashMap::new();
        for package in packages {
            let library = package.library.iter().map(|(_, file)| (file, true));
            for (file, is_library) in library.chain(package.binaries.iter().map(|file| (file, false))) {
                let root = code.modules.len();
                let target = code.targets.len();
                code.targets.push(Target { package: package.name.clone(), root, libraries: HashMap::new() });
                Reader { tree, code: &mut code, target }.file(file, None, folder_of(file).to_owned());
                if is_library {
                    libraries.insert(package.name.clone(), root);
                }
            }
        }
        for target in &mut code.targets {
            let Some(package) = packages.iter().find(|package| package.name == target.package) else { continue };
            let own = package.library.iter().map(|(name, _)| (name.clone(), &package.name));
            let known = package.dependencies.iter().map(|known| {
                let library =
                    packages.iter().find(|other| other.name == known.package).and_then(|p| p.library.as_ref());
                let name = library.filter(|_| known.key == known.package).map(|(name, _)| name.clone());
                (name.unwrap_or_else(|| known.key.replace('-', "_")), &known.package)
            });
            let roots = own.chain(known).filter_map(|(name, of)| Some((name, *libraries.get(of)?)));
            target.libraries = roots.filter(|(_, root)| *root != target.root).collect();
        }
        code
    }

    /// Returns a module by its index.
    pub fn module(&self, index: usize) -> Option<&Module> {
        self.modules.get(index)
    }

    /// Returns whether `module` is `outer` or is inside it.
    pub fn is_within(&self, module: usize, outer: usize) -> bool {
        let mut at = Some(module);
        while let Some(index) = at {
            if index == outer {
                return true;
            }
            at = self.module(index).and_then(|module| module.parent);
        }
        false
    }

    /// Returns the root module of a module's target.
    pub fn root_of(&self, module: usize) -> Option<usize> {
        self.targets.get(self.module(module)?.target).map(|target| target.root)
    }
}

/// Reads the modules of one target.
struct Reader<'a> {
    tree: &'a Tree,
    code: &'a mut Code,
    target: usize,
}

impl Reader<'_> {
    /// Reads a module from its own file; the files of its children are in `folder`. If the file is missing or broken,
    /// the module may contain anything.
    fn file(&mut self, path: &str, parent: Option<usize>, folder: String) -> usize {
        let parsed = parse(self.tree, path);
        let items = parsed.as_ref().map(|file| file.items.as_slice()).unwrap_or_default();
        let index = self.module(items, parent, path, &folder);
        if let Err(message) = parsed {
            self.code.unreadable.push(message);
            if let Some(module) = self.code.modules.get_mut(index) {
                module.macros = true;
            }
        }
        index
    }

    fn module(&mut self, items: &[syn::Item], parent: Option<usize>, file: &str, folder: &str) -> usize {
        let index = self.code.modules.len();
        self.code.modules.push(Module {
            target: self.target,
            parent,
            file: file.to_owned(),
            names: HashMap::new(),
            globs: Vec::new(),
            macros: false,
            references: Vec::new(),
            imports: Vec::new(),
        });
        for item in items.iter().filter(|item| !only_in_tests(attributes(item))) {
            match item {
                syn::Item::Mod(child) => self.child(child, index, file, folder),
                syn::Item::Use(import) => self.import(import, index),
                item => self.declare(item, index),
            }
        }
        index
    }

    fn child(&mut self, child: &syn::ItemMod, index: usize, file: &str, folder: &str) {
        let name = child.ident.to_string();
        let module = match &child.content {
            Some((_, items)) => self.module(items, Some(index), file, &join(folder, &name)),
            None => {
                let (path, below) = file_of(self.tree, child, file, folder);
                self.file(&path, Some(index), below)
            }
        };
        let visibility = self.visibility(&child.vis, index);
        self.add(index, name, Entry { visibility, kind: Kind::Module(module) });
        // `#[macro_use]` makes the child's macros visible in this module.
        if child.attrs.iter().any(|attribute| attribute.path().is_ident("macro_use")) {
            let inner = self.code.module(module).map(|module| &module.names).into_iter().flatten();
            let macros = inner.filter(|(_, entries)| entries.iter().any(|entry| matches!(entry.kind, Kind::Macro)));
            for name in macros.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                let leaf = Leaf { path: vec!["self".into(), child.ident.to_string(), name.clone()], ..nothing() };
                self.add(index, name, Entry { visibility: Visibility::Within(index), kind: Kind::Import(leaf) });
            }
        }
    }

    fn import(&mut self, import: &syn::ItemUse, index: usize) {
        let visibility = self.visibility(&import.vis, index);
        for leaf in leaves(import) {
            if leaf.glob {
                if let Some(module) = self.code.modules.get_mut(index) {
                    module.globs.push((leaf.clone(), visibility));
                }
            } else if let Some(name) = leaf.name.clone() {
                self.add(index, name, Entry { visibility, kind: Kind::Import(leaf.clone()) });
            }
            if let Some(module) = self.code.modules.get_mut(index) {
                module.imports.push((leaf, matches!(import.vis, syn::Visibility::Inherited)));
            }
        }
    }

    fn declare(&mut self, item: &syn::Item, index: usize) {
        if let Some(module) = self.code.modules.get_mut(index) {
            module.references.extend(references(item));
        }
        let (name, visibility, kind) = match item {
            syn::Item::Const(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Enum(item) => {
                let variants = item.variants.iter().map(|variant| variant.ident.to_string()).collect();
                (&item.ident, &item.vis, Kind::Item(variants))
            }
            syn::Item::Fn(item) => (&item.sig.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Static(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Struct(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Trait(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::TraitAlias(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Type(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::Union(item) => (&item.ident, &item.vis, Kind::Item(Vec::new())),
            syn::Item::ExternCrate(item) => {
                let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
                let leaf = Leaf { path: vec![item.ident.to_string()], global: true, ..nothing() };
                (name, &item.vis, Kind::Import(leaf))
            }
            syn::Item::Macro(item) => match &item.ident {
                Some(name) => {
                    self.exported(item, name, index);
                    // Treated as visible in the whole crate. A reference still needs a path to it.
                    let visibility = Visibility::Within(self.code.root_of(index).unwrap_or(index));
                    self.add(index, name.to_string(), Entry { visibility, kind: Kind::Macro });
                    return;
                }
                None => {
                    if let Some(module) = self.code.modules.get_mut(index) {
                        module.macros = true;
                    }
                    return;
                }
            },
            _ => return,
        };
        let visibility = self.visibility(visibility, index);
        self.add(index, name.to_string(), Entry { visibility, kind });
    }

    /// `#[macro_export]` puts a macro into the root module.
    fn exported(&mut self, item: &syn::ItemMacro, name: &syn::Ident, index: usize) {
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"))
            && let Some(root) = self.code.root_of(index)
        {
            let line = item.span().start().line;
            let leaf = Leaf { path: vec![format!("{MODULE}{index}"), name.to_string()], line, ..nothing() };
            if root != index {
                self.add(
                    root,
                    name.to_string(),
                    Entry { visibility: Visibility::Everywhere, kind: Kind::Import(leaf) },
                );
            }
        }
    }

    fn add(&mut self, module: usize, name: String, entry: Entry) {
        if let Some(module) = self.code.modules.get_mut(module) {
            module.names.entry(name).or_default().push(entry);
        }
    }

    fn visibility(&self, written: &syn::Visibility, index: usize) -> Visibility {
        let root = self.code.root_of(index).unwrap_or(index);
        let parent = self.code.module(index).and_then(|module| module.parent).unwrap_or(root);
        match written {
            syn::Visibility::Public(_) => Visibility::Everywhere,
            syn::Visibility::Inherited => Visibility::Within(index),
            syn::Visibility::Restricted(within) if within.path.is_ident("super") => Visibility::Within(parent),
            syn::Visibility::Restricted(within) if within.path.is_ident("self") => Visibility::Within(index),
            // `pub(in path)` is treated as `pub(crate)`.
            syn::Visibility::Restricted(_) => Visibility::Within(root),
        }
    }
}

/// A path that begins with this and a number starts at the module with that index.
pub const MODULE: &str = "#";

fn nothing() -> Leaf {
    Leaf { path: Vec::new(), global: false, name: None, glob: false, line: 0 }
}

/// Parses a file.
pub fn parse(tree: &Tree, path: &str) -> Result<syn::File, String> {
    let text = tree.text(path).ok_or_else(|| format!("{path}: no such file"))?;
    syn::parse_file(text).map_err(|error| format!("{path}:{}: {error}", error.span().start().line))
}

/// Returns the file of a module that `file` declares with `mod name;`, and the folder of that module's own children.
/// The children of `file` are in `folder`.
pub fn file_of(tree: &Tree, child: &syn::ItemMod, file: &str, folder: &str) -> (String, String) {
    if let Some(path) = path_attribute(&child.attrs) {
        let path = join(folder_of(file), &path);
        let below = folder_of(&path).to_owned();
        return (path, below);
    }
    let below = join(folder, &child.ident.to_string());
    let own = format!("{below}.rs");
    (if tree.text(&own).is_some() { own } else { format!("{below}/mod.rs") }, below)
}

fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}
