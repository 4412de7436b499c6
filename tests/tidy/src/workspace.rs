//! Reads the packages of a workspace from their `Cargo.toml` files.
//!
//! Input: a tree of files. Output: the name, folder, targets, features and dependencies of each member.

use crate::tree::{Tree, folder_of, join};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// A member of the workspace.
#[derive(Debug)]
pub struct Package {
    /// Its name in Cargo, with `-`.
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: String,
    /// The name of its library in code, and its root file.
    pub library: Option<(String, String)>,
    /// The root files of the binaries.
    pub binaries: Vec<String>,
    /// The root files of tests, examples, benchmarks and the build script.
    pub others: Vec<String>,
    /// Its features, each with what it turns on.
    pub features: BTreeMap<String, Vec<String>>,
    /// Its normal dependencies, without those of tests and build scripts.
    pub dependencies: Vec<Dependency>,
}

/// A normal dependency.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// Its name in this package.
    pub key: String,
    /// The name of the package that it stands for.
    pub package: String,
    /// Whether a feature must turn it on.
    pub optional: bool,
    /// The features that this package asks for.
    pub features: Vec<String>,
    /// Whether its default features are on.
    pub default_features: bool,
}

fn parse(tree: &Tree, path: &str) -> Result<Table, String> {
    let text = tree.text(path).ok_or_else(|| format!("{path}: no such file"))?;
    text.parse().map_err(|error| format!("{path}: {error}"))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the members of the workspace in `folder`; `""` is the root of the tree.
pub fn packages(tree: &Tree, folder: &str) -> Result<Vec<Package>, String> {
    let root = parse(tree, &join(folder, "Cargo.toml"))?;
    let workspace = root.get("workspace").and_then(Value::as_table).ok_or("the root manifest has no [workspace]")?;
    let shared = workspace.get("dependencies").and_then(Value::as_table).cloned().unwrap_or_default();
    let mut members = Vec::new();
    for member in strings(workspace.get("members")) {
        match member.strip_suffix("/*") {
            Some(above) => {
                let above = join(folder, above);
                let folders =
                    tree.manifests().map(folder_of).filter(|inner| folder_of(inner) == above && *inner != above);
                // Members are relative to the workspace's folder.
                let relative = folders.filter_map(|inner| inner.get(folder.len()..));
                members.extend(relative.map(|inner| inner.trim_start_matches('/').to_owned()));
            }
            None => members.push(member),
        }
    }
    if root.contains_key("package") && !members.iter().any(|member| member == ".") {
        members.push(".".to_owned());
    }
    members.iter().map(|member| package(tree, &join(folder, member), &shared)).collect()
}

/// Returns the members of all workspaces in the tree. The functions and the fuzz targets have their own.
pub fn all_packages(tree: &Tree) -> Result<Vec<Package>, String> {
    let mut all = Vec::new();
    for path in tree.manifests() {
        if parse(tree, path)?.contains_key("workspace") {
            all.extend(packages(tree, folder_of(path))?);
        }
    }
    Ok(all)
}

fn package(tree: &Tree, folder: &str, shared: &Table) -> Result<Package, String> {
    let path = join(folder, "Cargo.toml");
    let manifest = parse(tree, &path)?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("{path}: no package.name"))?.to_owned();
    let mut tables = vec![manifest.get("dependencies")];
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|targets| targets.values());
    tables.extend(targets.map(|target| target.get("dependencies")));
    let dependencies = tables.into_iter().flatten().filter_map(Value::as_table).flatten();
    let dependencies = dependencies.map(|(key, value)| dependency(key, value, shared)).collect();
    let features = manifest.get("features").and_then(Value::as_table).into_iter().flatten();
    Ok(Package {
        library: library(tree, folder, &name, &manifest),
        binaries: roots(tree, folder, &manifest, &[("bin", "src/bin")], &["src/main.rs"]),
        others: roots(
            tree,
            folder,
            &manifest,
            &[("test", "tests"), ("example", "examples"), ("bench", "benches")],
            &["build.rs"],
        ),
        features: features.map(|(feature, on)| (feature.clone(), strings(Some(on)))).collect(),
        folder: folder.to_owned(),
        name,
        dependencies,
    })
}

fn dependency(key: &str, value: &Value, shared: &Table) -> Dependency {
    let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
    let base = inherits.then(|| shared.get(key)).flatten();
    let either = |name: &str| value.get(name).or_else(|| base.and_then(|base| base.get(name)));
    let mut features = strings(value.get("features"));
    features.extend(strings(base.and_then(|base| base.get("features"))));
    Dependency {
        key: key.to_owned(),
        package: either("package").and_then(Value::as_str).unwrap_or(key).to_owned(),
        optional: value.get("optional").and_then(Value::as_bool) == Some(true),
        features,
        default_features: either("default-features").and_then(Value::as_bool) != Some(false),
    }
}

fn library(tree: &Tree, folder: &str, package: &str, manifest: &Table) -> Option<(String, String)> {
    let table = manifest.get("lib");
    let text = |key: &str| table.and_then(|lib| lib.get(key)).and_then(Value::as_str);
    let file = join(folder, text("path").unwrap_or("src/lib.rs"));
    let name = text("name").unwrap_or(package).replace('-', "_");
    tree.text(&file).map(|_| (name, file))
}

/// Returns the root files of some kinds of target: those listed, those in the kind's folder, and single files.
fn roots(tree: &Tree, folder: &str, manifest: &Table, kinds: &[(&str, &str)], single: &[&str]) -> Vec<String> {
    let mut files: Vec<String> = single.iter().map(|path| join(folder, path)).collect();
    for (kind, place) in kinds {
        let listed = manifest.get(*kind).and_then(Value::as_array).into_iter().flatten();
        let paths = listed.filter_map(|target| target.get("path")).filter_map(Value::as_str);
        files.extend(paths.map(|path| join(folder, path)));
        let place = join(folder, place);
        let is_root = |path: &&str| {
            let below = path.get(place.len() + 1..).unwrap_or("");
            !below.contains('/') || (below.ends_with("/main.rs") && below.matches('/').count() == 1)
        };
        files.extend(tree.sources(&place).map(|(path, _)| path).filter(is_root).map(str::to_owned));
    }
    files.retain(|file| tree.text(file).is_some());
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_name_and_by_folder() {
        let tree = Tree::of(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"many/*\"]\nexclude = [\"other\"]"),
            ("a/Cargo.toml", "[package]\nname = \"a\""),
            ("many/b/Cargo.toml", "[package]\nname = \"b\""),
            ("many/c/Cargo.toml", "[package]\nname = \"c\""),
            ("many/c/deep/Cargo.toml", "[package]\nname = \"deep\""),
            ("other/Cargo.toml", "[workspace]\nmembers = [\"in/*\"]\n[package]\nname = \"other\""),
            ("other/in/d/Cargo.toml", "[package]\nname = \"d\""),
        ]);
        let names = |packages: Vec<Package>| packages.into_iter().map(|p| (p.name, p.folder)).collect::<Vec<_>>();
        let pair = |name: &str, folder: &str| (name.to_owned(), folder.to_owned());
        let own = [pair("a", "a"), pair("b", "many/b"), pair("c", "many/c")];
        assert_eq!(names(packages(&tree, "").unwrap()), own);
        let others = [pair("d", "other/in/d"), pair("other", "other")];
        assert_eq!(names(all_packages(&tree).unwrap()), [&own[..], &others[..]].concat());
    }

    #[test]
    fn a_member_that_is_not_there_is_an_error() {
        let tree = Tree::of(&[("Cargo.toml", "[workspace]\nmembers = [\"gone\"]")]);
        assert_eq!(packages(&tree, "").unwrap_err(), "gone/Cargo.toml: no such file");
    }

    #[test]
    fn targets_and_dependencies_are_read_as_cargo_reads_them() {
        let manifest = "[package]\nname = \"a-b\"\n[[bin]]\nname = \"x\"\npath = \"src/x.rs\"\n\
                        [dependencies]\nlow = { workspace = true, features = [\"more\"] }\n\
                        other = { package = \"real\", version = \"1\", optional = true }\n[dev-dependencies]\nwat = \"1\"";
        let tree = Tree::of(&[
            (
                "Cargo.toml",
                "[workspace]\nmembers = [\"a\"]\n[workspace.dependencies]\n\
                 low = { version = \"1\", default-features = false, features = [\"some\"] }",
            ),
            ("a/Cargo.toml", manifest),
            ("a/src/lib.rs", ""),
            ("a/src/x.rs", ""),
            ("a/src/bin/tool/main.rs", ""),
            ("a/src/bin/tool/part.rs", ""),
            ("a/build.rs", ""),
        ]);
        let package = packages(&tree, "").unwrap().remove(0);
        assert_eq!(package.library, Some(("a_b".to_owned(), "a/src/lib.rs".to_owned())));
        assert_eq!(package.binaries, ["a/src/bin/tool/main.rs", "a/src/x.rs"]);
        assert_eq!(package.others, ["a/build.rs"]);
        let [low, other] = package.dependencies.as_slice() else { panic!("{:?}", package.dependencies) };
        assert_eq!(low.features, ["more", "some"]);
        assert!(!low.default_features && !low.optional);
        assert_eq!((other.key.as_str(), other.package.as_str()), ("other", "real"));
        assert!(other.default_features && other.optional);
    }
}
