//! The code is in the state that it promises to be in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails panics")]

use gannet_tidy::arrows::{arrows, not_understood, parents};
use gannet_tidy::circles::circles;
use gannet_tidy::code::Code;
use gannet_tidy::dependencies;
use gannet_tidy::examples::{Offered, offered};
use gannet_tidy::foreign::files_that_name;
use gannet_tidy::functions::{Function, functions};
use gannet_tidy::tree::Tree;
use gannet_tidy::workspace::{Package, all_packages, packages};
use gannet_tidy::{files, promises, strays};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A package, and what its build must not reach.
const UNREACHABLE: &[dependencies::Unreachable<'_>] = &[
    ("gannet-host-gpu", &["hyper*", "http*", "sled", "gannet"]),
    ("gannet-sdk", &["gannet", "gannet-host-gpu", "wasmtime*", "tokio"]),
];

/// A dependency, and the only packages that have it.
const OWNED: &[dependencies::Owned<'_>] =
    &[("wasmtime*", &["gannet", "gannet-host-gpu"]), ("sled", &["gannet"]), ("wgpu", &["gannet-host-gpu"])];

/// The rules for the crates that `gannet` becomes. When they are there, these take the place of the two tables above.
#[allow(dead_code, reason = "the crates are not there yet")]
mod later {
    use super::dependencies::{Owned, Unreachable};

    pub const UNREACHABLE: &[Unreachable<'_>] = &[
        ("gannet-base", &["gannet-*", "wasmtime*", "sled", "hyper*", "wgpu", "tokio"]),
        (
            "gannet-process",
            &["gannet-sandbox", "gannet-state", "gannet-fleet", "gannet-door", "wasmtime*", "sled", "hyper*"],
        ),
        ("gannet-sandbox", &["gannet-state", "gannet-fleet", "gannet-door", "sled"]),
        ("gannet-state", &["gannet-sandbox", "gannet-fleet", "gannet-door", "wasmtime*", "hyper*"]),
        ("gannet-fleet", &["gannet-sandbox", "gannet-door", "wasmtime*"]),
        ("gannet-door", &["gannet-sandbox", "wasmtime*"]),
        ("gannet-host-gpu", &["gannet-*", "hyper*", "http*", "sled"]),
        ("gannet-sdk", &["gannet-host-gpu", "wasmtime*", "tokio"]),
    ];

    pub const OWNED: &[Owned<'_>] = &[
        ("wasmtime*", &["gannet-sandbox", "gannet-host-gpu"]),
        ("sled", &["gannet-state"]),
        ("wgpu", &["gannet-host-gpu"]),
    ];
}

/// The only files that name HTTP statuses: that of refusals to clients, and that of a worker's answers to the front door.
const STATUSES: &[&str] = &["runtime/src/respond/mod.rs", "runtime/src/worker/answer.rs"];

/// The library of which every item has an example.
const WITH_EXAMPLES: &str = "gannet-sdk";

struct Repository {
    tree: Tree,
    /// The members of the workspace.
    packages: Vec<Package>,
    code: Code,
    /// All sources of all packages, those of the functions and the fuzz targets too.
    sources: BTreeMap<String, Source>,
    /// Those that nothing builds.
    strays: Vec<String>,
}

struct Source {
    functions: Vec<Function>,
    lines: usize,
    wrong: Vec<String>,
    offered: Vec<Offered>,
}

impl Source {
    fn of(text: &str) -> Self {
        match syn::parse_file(text) {
            Ok(file) => Self {
                functions: functions(&file),
                lines: files::own_lines(text, &file),
                wrong: files::wrong(text, &file),
                offered: offered(&file),
            },
            Err(error) => Self {
                functions: Vec::new(),
                lines: 0,
                wrong: vec![format!("is no Rust: {error}")],
                offered: Vec::new(),
            },
        }
    }
}

/// The checkout that Cargo runs this for. Not the one it was built in: checkouts may share a folder of build outputs.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).ancestors().nth(2).unwrap().to_owned()
}

/// The repository, read once for all tests.
fn repository() -> &'static Repository {
    static READ: OnceLock<Repository> = OnceLock::new();
    READ.get_or_init(|| {
        let tree = Tree::read(&root()).unwrap();
        let packages = packages(&tree, "").unwrap();
        let code = Code::read(&tree, &packages);
        let all = all_packages(&tree).unwrap();
        let mut sources = BTreeMap::new();
        for (path, text) in all.iter().flat_map(|package| tree.sources(&package.folder)) {
            sources.entry(path.to_owned()).or_insert_with(|| Source::of(text));
        }
        let strays = strays::strays(&tree, &all);
        Repository { tree, packages, code, sources, strays }
    })
}

#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_path_is_understood() {
    none(&not_understood(&repository().code));
}

#[test]
fn no_files_need_each_other_but_parents_and_children() {
    let code = &repository().code;
    let mut wrong = Vec::new();
    for (target, of) in code.targets.iter().enumerate() {
        let found = circles(&arrows(code, target), &parents(code, target));
        wrong.extend(found.into_iter().map(|circle| format!("{}: {circle}", of.package)));
    }
    none(&wrong);
}

#[test]
fn no_package_is_built_with_what_it_must_not_know() {
    none(&dependencies::wrong(&repository().packages, UNREACHABLE, OWNED));
}

#[test]
fn only_these_files_name_http_statuses() {
    let named = files_that_name(&repository().code, "StatusCode");
    let files: Vec<&str> = named.keys().map(String::as_str).collect();
    assert_eq!(files, STATUSES, "{named:?}");
}

#[test]
fn every_promise_of_the_specification_names_tests_and_all_of_them_exist() {
    let Repository { tree, sources, .. } = repository();
    let functions = sources.values().flat_map(|source| &source.functions);
    let tests = functions.filter(|function| function.is_test).map(|function| function.name.clone()).collect();
    let specification = tree.text("SPECIFICATION.md").unwrap();
    none(&promises::wrong(specification, &tests, |path| tree.has(path)));
    assert!(promises::promises(specification).len() > 100);
}

#[test]
fn every_source_belongs_to_something_that_is_built() {
    none(&repository().strays);
}

#[test]
fn files_say_what_they_are_are_not_long_and_hold_no_debt() {
    let sources = repository().sources.iter();
    let wrong = sources.flat_map(|(path, source)| source.wrong.iter().map(move |what| format!("{path}: {what}")));
    none(&wrong.collect::<Vec<_>>());
}

#[test]
fn half_of_the_files_are_short() {
    let mut lengths: Vec<usize> = repository().sources.values().map(|source| source.lines).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).unwrap();
    assert!(*median < 200, "the median is {median} lines");
}

/// Prints the functions of more than 70 lines: `cargo test -p gannet-tidy -- --ignored --nocapture long_functions`.
#[test]
#[ignore = "it only tells"]
fn long_functions() {
    for (path, source) in &repository().sources {
        for function in source.functions.iter().filter(|function| function.lines > 70) {
            eprintln!("{path}:{}: {} has {} lines", function.line, function.name, function.lines);
        }
    }
}

#[test]
fn every_item_of_the_sdk_has_an_example() {
    let Repository { packages, sources, .. } = repository();
    let sdk = packages.iter().find(|package| package.name == WITH_EXAMPLES).unwrap();
    let own = sources.iter().filter(|(path, _)| path.starts_with(&format!("{}/src/", sdk.folder)));
    let all: Vec<_> = own.flat_map(|(path, source)| source.offered.iter().map(move |item| (path, item))).collect();
    assert!(all.len() > 50, "{}", all.len());
    let without = all.iter().filter(|(_, item)| !item.has_example);
    none(
        &without.map(|(path, item)| format!("{path}:{}: no example for {}", item.line, item.name)).collect::<Vec<_>>(),
    );
}
