//! The code is in the state that it promises to be in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that fails panics")]

use gannet_tidy::arrows::{arrows, not_understood, parents};
use gannet_tidy::circles::circles;
use gannet_tidy::code::Code;
use gannet_tidy::tree::Tree;
use gannet_tidy::workspace::{Package, packages};
use std::path::Path;

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
