//! Applies the rules about the code's structure to this repository. The tables of rules come first.

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

/// Packages, each with what it must not depend on, directly or through others of the workspace.
const UNREACHABLE: &[dependencies::Unreachable<'_>] = &[
    ("gannet-base", &["gannet-*", "wasmtime*", "sled", "hyper*", "wgpu", "naga"]),
    (
        "gannet-api",
        &[
            "gannet-process",
            "gannet-sandbox",
            "gannet-state",
            "gannet-fleet",
            "gannet-jobs",
            "gannet-door",
            "gannet-cli",
            "gannet-host-gpu",
            "wasmtime*",
            "hyper*",
            "sled",
        ],
    ),
    (
        "gannet-process",
        &[
            "gannet-host-gpu",
            "gannet-sandbox",
            "gannet-state",
            "gannet-fleet",
            "gannet-jobs",
            "gannet-door",
            "wasmtime*",
            "sled",
            "hyper*",
            "wgpu",
            "naga",
        ],
    ),
    ("gannet-sandbox", &["gannet-state", "gannet-fleet", "gannet-jobs", "gannet-door", "sled"]),
    (
        "gannet-state",
        &[
            "gannet-host-gpu",
            "gannet-sandbox",
            "gannet-fleet",
            "gannet-jobs",
            "gannet-door",
            "wasmtime*",
            "wgpu",
            "naga",
            "hyper*",
        ],
    ),
    ("gannet-fleet", &["gannet-host-gpu", "gannet-sandbox", "gannet-jobs", "gannet-door", "wasmtime*", "wgpu", "naga"]),
    (
        "gannet-jobs",
        &["gannet-host-gpu", "gannet-sandbox", "gannet-fleet", "gannet-door", "wasmtime*", "wgpu", "naga", "hyper*"],
    ),
    ("gannet-door", &["gannet-host-gpu", "gannet-sandbox", "wasmtime*", "wgpu", "naga"]),
    (
        "gannet-cli",
        &[
            "gannet-process",
            "gannet-sandbox",
            "gannet-state",
            "gannet-fleet",
            "gannet-jobs",
            "gannet-door",
            "wasmtime*",
            "hyper*",
            "sled",
        ],
    ),
    ("gannet-gpu-protocol", &["gannet-*", "wgpu", "naga", "wasmtime*", "tokio", "hyper*", "http*", "sled"]),
    (
        "gannet-host-gpu",
        &[
            "gannet",
            "gannet-base",
            "gannet-process",
            "gannet-sandbox",
            "gannet-state",
            "gannet-fleet",
            "gannet-jobs",
            "gannet-door",
            "hyper*",
            "http*",
            "sled",
        ],
    ),
    ("gannet-sdk", &["gannet", "gannet-host-gpu", "wasmtime*", "tokio"]),
];

/// Dependencies, each with the only packages that may depend on it directly.
const OWNED: &[dependencies::Owned<'_>] = &[
    ("gannet-host-gpu", &["gannet-sandbox"]),
    ("gannet-api", &["gannet-door", "gannet-cli"]),
    ("gannet-sandbox", &["gannet"]),
    ("wasmtime*", &["gannet-sandbox", "gannet-host-gpu"]),
    ("sled", &["gannet-state"]),
    ("wgpu", &["gannet-host-gpu"]),
    ("naga", &["gannet-host-gpu"]),
];

/// The only files that name HTTP statuses: one passes those of guests on, one chooses those for clients, and one those of
/// a worker's own responses to the front door.
const STATUSES: &[&str] = &[
    "runtime/base/src/hop/heads.rs",
    "runtime/door/src/respond.rs",
    "runtime/sandbox/src/worker/response/error_response.rs",
];

/// The example functions of background jobs, which show that little code is needed, and the most lines that each may have.
const SHORT_FUNCTIONS: &[&str] = &["documents", "nightly", "hook"];
const SHORT_LINES_MAX: usize = 119;

/// The library in which every public item must have an example.
const WITH_EXAMPLES: &str = "gannet-sdk";

struct Repository {
    tree: Tree,
    /// The members of the workspace.
    packages: Vec<Package>,
    code: Code,
    /// All sources by path, including those of the functions and the fuzz targets.
    sources: BTreeMap<String, Source>,
    /// Messages about sources that nothing builds.
    strays: Vec<String>,
}

struct Source {
    functions: Vec<Function>,
    lines: usize,
    violations: Vec<String>,
    offered: Vec<Offered>,
}

impl Source {
    fn of(text: &str) -> Self {
        match syn::parse_file(text) {
            Ok(file) => Self {
                functions: functions(&file),
                lines: files::own_lines(text, &file),
                violations: files::violations(text, &file),
                offered: offered(&file),
            },
            Err(error) => Self {
                functions: Vec::new(),
                lines: 0,
                violations: vec![format!("is not valid Rust: {error}")],
                offered: Vec::new(),
            },
        }
    }
}

/// Returns the root of the checkout that this runs in. It may have been built in another one, because checkouts can
/// share a target folder, so the value from build time is only used without Cargo.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).ancestors().nth(2).unwrap().to_owned()
}

/// Reads the repository, once for all tests.
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
fn no_files_use_each_other_in_a_circle_except_parents_and_children() {
    let code = &repository().code;
    let mut wrong = Vec::new();
    for (target, of) in code.targets.iter().enumerate() {
        let found = circles(&arrows(code, target), &parents(code, target));
        wrong.extend(found.into_iter().map(|circle| format!("{}: {circle}", of.package)));
    }
    none(&wrong);
}

#[test]
fn no_package_depends_on_what_it_must_not_know() {
    none(&dependencies::violations(&repository().packages, UNREACHABLE, OWNED));
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
    none(&promises::violations(specification, &tests, |path| tree.has(path)));
    assert!(promises::promises(specification).len() > 100);
}

#[test]
fn every_source_belongs_to_something_that_is_built() {
    none(&repository().strays);
}

#[test]
fn every_file_has_a_header_is_not_too_long_and_has_no_debt_markers() {
    let sources = repository().sources.iter();
    let wrong = sources.flat_map(|(path, source)| source.violations.iter().map(move |what| format!("{path}: {what}")));
    none(&wrong.collect::<Vec<_>>());
}

#[test]
fn the_functions_of_background_jobs_have_under_120_lines() {
    let Repository { tree, sources, .. } = repository();
    for name in SHORT_FUNCTIONS {
        let folder = format!("functions/{name}/src");
        let own = tree.sources(&folder).filter_map(|(path, _)| sources.get(path));
        let lines: usize = own.map(|source| source.lines).sum();
        assert!((1..=SHORT_LINES_MAX).contains(&lines), "{folder} has {lines} lines; the most is {SHORT_LINES_MAX}");
    }
}

#[test]
fn at_least_half_of_the_files_have_under_200_lines() {
    let mut lengths: Vec<usize> = repository().sources.values().map(|source| source.lines).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).unwrap();
    assert!(*median < 200, "the median is {median} lines");
}

/// Prints the functions with more than 70 lines: `cargo test -p gannet-tidy -- --ignored --nocapture long_functions`.
#[test]
#[ignore = "it only prints"]
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
