//! The code is in the state that it promises to be in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails panics")]

use gannet_tidy::arrows::{arrows, not_understood, parents};
use gannet_tidy::circles::circles;
use gannet_tidy::code::Code;
use gannet_tidy::dependencies;
use gannet_tidy::foreign::files_that_name;
use gannet_tidy::tree::Tree;
use gannet_tidy::workspace::{Package, packages};
use std::path::Path;

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

fn tree() -> Tree {
    Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()).unwrap()
}

fn code() -> (Tree, Vec<Package>, Code) {
    let tree = tree();
    let packages = packages(&tree, "").unwrap();
    let code = Code::read(&tree, &packages).unwrap();
    (tree, packages, code)
}

#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_path_is_understood() {
    none(&not_understood(&code().2));
}

#[test]
fn no_files_need_each_other_but_parents_and_children() {
    let (_, _, code) = code();
    let mut wrong = Vec::new();
    for (target, of) in code.targets.iter().enumerate() {
        let found = circles(&arrows(&code, target), &parents(&code, target));
        wrong.extend(found.into_iter().map(|circle| format!("{}: {circle}", of.package)));
    }
    none(&wrong);
}

#[test]
fn no_package_is_built_with_what_it_must_not_know() {
    none(&dependencies::wrong(&code().1, UNREACHABLE, OWNED));
}

#[test]
fn only_these_files_name_http_statuses() {
    let named = files_that_name(&code().2, "StatusCode");
    let files: Vec<&str> = named.keys().map(String::as_str).collect();
    assert_eq!(files, STATUSES, "{named:?}");
}
