//! Checks that every source belongs to a library, binary, test, example, benchmark or build script.
//!
//! Input: the files and the packages. Output: the sources in the packages' folders that no `mod` leads to. Nothing
//! compiles those, so a test in one never runs, and a promise that names it would not be kept. Missing files are not
//! reported here.

use crate::code::{file_of, parse};
use crate::tree::{Tree, folder_of, join};
use crate::workspace::Package;
use std::collections::BTreeSet;

/// Returns a message for each source that no `mod` leads to.
pub fn strays(tree: &Tree, packages: &[Package]) -> Vec<String> {
    let mut reached = BTreeSet::new();
    for package in packages {
        let library = package.library.iter().map(|(_, file)| file);
        for root in library.chain(&package.binaries).chain(&package.others) {
            follow(tree, root, folder_of(root), &mut reached);
        }
    }
    let sources = packages.iter().flat_map(|package| tree.sources(&package.folder));
    let all: BTreeSet<&str> = sources.map(|(path, _)| path).collect();
    all.into_iter().filter(|path| !reached.contains(*path)).map(|path| format!("no `mod` leads to {path}")).collect()
}

fn follow(tree: &Tree, path: &str, folder: &str, reached: &mut BTreeSet<String>) {
    if reached.insert(path.to_owned())
        && let Ok(file) = parse(tree, path)
    {
        modules(tree, &file.items, path, folder, reached);
    }
}

fn modules(tree: &Tree, items: &[syn::Item], path: &str, folder: &str, reached: &mut BTreeSet<String>) {
    for item in items {
        let syn::Item::Mod(child) = item else { continue };
        match &child.content {
            Some((_, inner)) => modules(tree, inner, path, &join(folder, &child.ident.to_string()), reached),
            None => {
                let (file, below) = file_of(tree, child, path, folder);
                follow(tree, &file, &below, reached);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::all_packages;

    #[test]
    fn a_source_that_no_mod_leads_to_is_reported() {
        let tree = Tree::of(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"a\"]"),
            ("a/Cargo.toml", "[package]\nname = \"a\"\n[[test]]\nname = \"suite\"\npath = \"suite/main.rs\""),
            ("a/src/lib.rs", "mod x; #[cfg(test)] mod y;"),
            ("a/src/x.rs", "mod inner { mod deep; }"),
            ("a/src/x/inner/deep.rs", ""),
            ("a/src/y/mod.rs", ""),
            ("a/src/z.rs", "#[test] fn never_runs() {}"),
            ("a/src/bin/tool.rs", ""),
            ("a/tests/one.rs", "mod shared;"),
            ("a/tests/shared/mod.rs", ""),
            ("a/tests/two/main.rs", "mod part;"),
            ("a/tests/two/part.rs", ""),
            ("a/tests/two/stray.rs", ""),
            ("a/suite/main.rs", ""),
            ("a/fuzz/Cargo.toml", "[package]\nname = \"fuzz\"\n[[bin]]\nname = \"f\"\npath = \"f.rs\"\n[workspace]"),
            ("a/fuzz/f.rs", ""),
        ]);
        let told = strays(&tree, &all_packages(&tree).unwrap());
        assert_eq!(told, ["no `mod` leads to a/src/z.rs", "no `mod` leads to a/tests/two/stray.rs"]);
    }
}
