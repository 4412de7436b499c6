//! Checks what packages are built with.
//!
//! Input: the packages and two tables. Output: one message for each forbidden dependency, with the chain that leads to
//! it.
//!
//! The walk follows packages of the workspace; other packages are leaves. An optional dependency counts if a feature on
//! the chain turns it on. Each step has the features that its `Cargo.toml` asks for, as if no other package asked for
//! more. Dependencies of tests and build scripts do not count. A name that ends in `*` stands for all packages with
//! that prefix.

use crate::workspace::{Dependency, Package};
use std::collections::BTreeSet;

/// A package, and the packages that no chain of dependencies may lead to from it.
pub type Unreachable<'a> = (&'a str, &'a [&'a str]);
/// A dependency, and the only packages that may depend on it directly.
pub type Owned<'a> = (&'a str, &'a [&'a str]);

/// Returns a message for each violation of the two tables.
pub fn violations(packages: &[Package], unreachable: &[Unreachable<'_>], owned: &[Owned<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let find = |name: &str| packages.iter().find(|package| package.name == name);
    for (name, banned) in unreachable {
        let Some(package) = find(name) else {
            wrong.push(format!("the table names the package {name}, which does not exist"));
            continue;
        };
        let mut walk = Walk { packages, banned, seen: BTreeSet::new(), wrong: &mut wrong };
        walk.package(package, &BTreeSet::from(["default".to_owned()]), name);
    }
    for (dependency, owners) in owned {
        let missing = owners.iter().filter(|owner| find(owner).is_none());
        wrong.extend(missing.map(|owner| format!("the table names the package {owner}, which does not exist")));
        for package in packages.iter().filter(|package| !owners.contains(&package.name.as_str())) {
            let own = package.dependencies.iter().filter(|own| matches(dependency, &own.package));
            wrong.extend(
                own.map(|own| {
                    format!("{} depends on {}; only {} may", package.name, own.package, owners.join(" and "))
                }),
            );
        }
    }
    wrong
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

struct Walk<'a> {
    packages: &'a [Package],
    banned: &'a [&'a str],
    /// Packages that were visited, each with its features at that time.
    seen: BTreeSet<(String, BTreeSet<String>)>,
    wrong: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn package(&mut self, package: &Package, asked: &BTreeSet<String>, way: &str) {
        let on = features(package, asked);
        if !self.seen.insert((package.name.clone(), on.clone())) {
            return;
        }
        for dependency in package.dependencies.iter().filter(|dependency| is_on(dependency, &on)) {
            let way = format!("{way} -> {}", dependency.package);
            if self.banned.iter().any(|banned| matches(banned, &dependency.package)) {
                self.wrong.push(format!("forbidden: {way}"));
            } else if let Some(next) = self.packages.iter().find(|next| next.name == dependency.package) {
                let mut asked: BTreeSet<String> = dependency.features.iter().cloned().collect();
                if dependency.default_features {
                    asked.insert("default".to_owned());
                }
                for feature in &on {
                    let parts = feature.split_once('/').map(|(key, feature)| (key.trim_end_matches('?'), feature));
                    asked
                        .extend(parts.filter(|(key, _)| *key == dependency.key).map(|(_, feature)| feature.to_owned()));
                }
                self.package(next, &asked, &way);
            }
        }
    }
}

/// Returns whether a dependency is on with these features.
fn is_on(dependency: &Dependency, on: &BTreeSet<String>) -> bool {
    let key = &dependency.key;
    !dependency.optional
        || on.contains(key)
        || on.contains(&format!("dep:{key}"))
        || on.iter().any(|feature| feature.starts_with(&format!("{key}/")))
}

/// Returns all features that these turn on, themselves included.
fn features(package: &Package, asked: &BTreeSet<String>) -> BTreeSet<String> {
    let mut on = BTreeSet::new();
    let mut open: Vec<&String> = asked.iter().collect();
    while let Some(feature) = open.pop() {
        if on.insert(feature.clone()) {
            open.extend(package.features.get(feature).into_iter().flatten());
        }
    }
    on
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;
    use crate::workspace::packages;

    /// Makes up the packages `top`, `middle` and `low`. `low` depends on wasmtime by its default feature.
    fn example(top: &str, middle: &str) -> Vec<Package> {
        let root = "[workspace]\nmembers = [\"top\", \"middle\", \"low\"]\n\
                    [workspace.dependencies]\nlow = { path = \"low\", default-features = false }";
        let low = "[package]\nname = \"low\"\n[features]\ndefault = [\"wit\"]\nwit = [\"dep:wasmtime\"]\n\
                   [dependencies]\nwasmtime = { version = \"1\", optional = true }\n[dev-dependencies]\nsled = \"1\"";
        let files = [
            ("Cargo.toml", root),
            ("top/Cargo.toml", &format!("[package]\nname = \"top\"\n{top}")),
            ("middle/Cargo.toml", &format!("[package]\nname = \"middle\"\n{middle}")),
            ("low/Cargo.toml", low),
        ];
        packages(&Tree::of(&files), "").unwrap()
    }

    const TOP: &str = "[dependencies]\nmiddle = \"1\"";

    #[test]
    fn a_dependency_of_a_dependency_counts_and_its_chain_is_reported() {
        let packages = example(TOP, "[dependencies]\nlow = \"1\"");
        let told = violations(&packages, &[("top", &["wasmtime*"])], &[]);
        assert_eq!(told, ["forbidden: top -> middle -> low -> wasmtime"]);
        assert_eq!(violations(&packages, &[("top", &["low"])], &[]), ["forbidden: top -> middle -> low"]);
    }

    #[test]
    fn optional_dependencies_that_are_off_and_those_of_tests_do_not_count() {
        for middle in ["low = { version = \"1\", default-features = false }", "low.workspace = true"] {
            let packages = example(TOP, &format!("[dependencies]\n{middle}"));
            assert!(violations(&packages, &[("top", &["wasmtime", "sled"])], &[]).is_empty());
        }
    }

    #[test]
    fn features_are_followed_in_every_form() {
        for middle in [
            "[dependencies]\nlow = { workspace = true, features = [\"wit\"] }",
            "[dependencies]\nlow.workspace = true\n[features]\ndefault = [\"low/wit\"]",
            "[target.'cfg(unix)'.dependencies]\nlow = { version = \"1\", features = [\"wit\"] }",
        ] {
            let told = violations(&example(TOP, middle), &[("top", &["wasmtime"])], &[]);
            assert_eq!(told, ["forbidden: top -> middle -> low -> wasmtime"], "{middle}");
        }
    }

    #[test]
    fn only_the_owners_in_the_table_may_have_a_dependency() {
        let packages = example(TOP, "[dependencies]\nwasmtime-wasi = \"1\"");
        let told = violations(&packages, &[], &[("wasmtime*", &["low"])]);
        assert_eq!(told, ["middle depends on wasmtime-wasi; only low may"]);
    }

    #[test]
    fn a_rule_about_a_missing_package_is_an_error() {
        let told = violations(&example(TOP, ""), &[("gone", &["low"])], &[("sled", &["lost"])]);
        let gone = |name: &str| format!("the table names the package {name}, which does not exist");
        assert_eq!(told, [gone("gone"), gone("lost")]);
    }
}
