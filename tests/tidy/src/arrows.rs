//! Which file needs which other of its crate, and what of it.
//!
//! Comes in: the code. Goes out: for each target an arrow from a file to each file that defines something it names.
//! A path counts for the file that *defines* what it names, not for those that hand it on. Three things are therefore
//! no arrow: naming a module on the way to something in it; handing on what lies in modules below by a
//! `use` that others see (a table of contents needs nothing of what it lists, unless its own code names it); and
//! what is for tests only.

use crate::code::Code;
use crate::resolve::{Meaning, Resolver};
use std::collections::{BTreeMap, BTreeSet};

/// For each pair of files the names that the first takes from the second, with the lines that name them.
pub type Arrows = BTreeMap<(String, String), BTreeMap<String, BTreeSet<usize>>>;

/// The arrows of one target.
pub fn arrows(code: &Code, target: usize) -> Arrows {
    let resolver = Resolver::new(code);
    let mut arrows = Arrows::new();
    for (index, module) in code.modules.iter().enumerate().filter(|(_, module)| module.target == target) {
        let mut add = |to: usize, name: &str, line: usize| {
            let Some(other) = code.module(to).filter(|other| other.target == target) else { return };
            if other.file != module.file {
                let names = arrows.entry((module.file.clone(), other.file.clone())).or_default();
                names.entry(name.to_owned()).or_default().insert(line);
            }
        };
        for (leaf, private) in &module.imports {
            for meaning in resolver.resolve(index, &leaf.path, leaf.global) {
                match meaning {
                    Meaning::Item(to, name) if *private || !code.is_within(to, index) => add(to, &name, leaf.line),
                    Meaning::Module(to) if leaf.glob && (*private || !code.is_within(to, index)) => {
                        add(to, "*", leaf.line);
                    }
                    _ => {}
                }
            }
        }
        for reference in &module.references {
            for meaning in resolver.resolve(index, &reference.path, reference.global) {
                if let Meaning::Item(to, name) = meaning {
                    add(to, &name, reference.line);
                }
            }
        }
    }
    arrows
}

/// Paths that were parsed and lead into our code, but to nothing: what this program does not understand of the code.
pub fn not_understood(code: &Code) -> Vec<String> {
    let resolver = Resolver::new(code);
    let mut lost = Vec::new();
    for (index, module) in code.modules.iter().enumerate() {
        let parsed = module.references.iter().filter(|reference| reference.parsed);
        let written = parsed.map(|reference| (&reference.path, reference.global, reference.line));
        let imported = module.imports.iter().map(|(leaf, _)| (&leaf.path, leaf.global, leaf.line));
        for (path, global, line) in written.chain(imported) {
            let meanings = resolver.resolve(index, path, global);
            if meanings.is_empty() || meanings.iter().any(|meaning| matches!(meaning, Meaning::Nowhere(..))) {
                lost.push(format!("{}:{line}: {}", module.file, path.join("::")));
            }
        }
    }
    lost
}

/// The file whose module declares the module of a file.
pub fn parents(code: &Code, target: usize) -> BTreeMap<String, String> {
    let modules = code.modules.iter().filter(|module| module.target == target);
    let pairs = modules.filter_map(|module| {
        let parent = code.module(module.parent?)?;
        (parent.file != module.file).then(|| (module.file.clone(), parent.file.clone()))
    });
    pairs.collect()
}
