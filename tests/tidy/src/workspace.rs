//! The packages of a workspace, read from their `Cargo.toml` files.
//!
//! Comes in: a tree of files. Goes out: for each member its name, folder, targets, features and dependencies.

use crate::tree::{Tree, join};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// A member of the workspace.
#[derive(Debug)]
pub struct Package {
    /// As Cargo knows it, with `-`.
    pub name: String,
    /// Relative to the root.
    pub folder: String,
    /// The root file of the library, with the name that other crates write.
    pub library: Option<(String, String)>,
    /// The root files of the binaries.
    pub binaries: Vec<String>,
    /// Each feature, with what it turns on.
    pub features: BTreeMap<String, Vec<String>>,
    /// What the package is built with; those for tests only are not here.
    pub dependencies: Vec<Dependency>,
}

/// A normal dependency.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// The name by which the package knows it.
    pub key: String,
    /// The package's own name.
    pub package: String,
    /// Only there when a feature turns it on.
    pub optional: bool,
    /// Features that are turned on in it.
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

/// The members of the workspace whose root manifest lies in `folder` (`""` is the root of the tree).
pub fn packages(tree: &Tree, folder: &str) -> Result<Vec<Package>, String> {
    let root = parse(tree, &join(folder, "Cargo.toml"))?;
    let workspace = root.get("workspace").and_then(Value::as_table).ok_or("the root manifest has no [workspace]")?;
    let shared = workspace.get("dependencies").and_then(Value::as_table).cloned().unwrap_or_default();
    let members = strings(workspace.get("members"));
    members.iter().map(|member| package(tree, &join(folder, member), &shared)).collect()
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
        binaries: binaries(tree, folder, &manifest),
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

fn binaries(tree: &Tree, folder: &str, manifest: &Table) -> Vec<String> {
    let listed = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    let mut files: Vec<String> =
        listed.filter_map(|bin| bin.get("path")).filter_map(Value::as_str).map(|path| join(folder, path)).collect();
    files.push(join(folder, "src/main.rs"));
    let below = join(folder, "src/bin");
    let loose = tree.sources(&below).map(|(path, _)| path);
    let is_root = |path: &&str| !path.get(below.len() + 1..).unwrap_or("").contains('/') || path.ends_with("/main.rs");
    files.extend(loose.filter(is_root).map(str::to_owned));
    files.retain(|file| tree.text(file).is_some());
    files.sort();
    files.dedup();
    files
}
