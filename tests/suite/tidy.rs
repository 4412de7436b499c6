//! The code is in the state that it promises to be in.

use crate::support::root;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in
        ["runtime/src", "host-gpu/src", "guest-sdk/src", "guest-sdk/macros/src", "host-gpu/tests", "tests/suite"]
    {
        sources(&root().join(folder), &mut files);
    }
    for name in ["hello", "blur", "matmul", "mandelbrot", "stream", "wgsl", "measure", "service"] {
        files.push(root().join("functions").join(name).join("src/lib.rs"));
    }
    files
}

#[test]
fn files_say_what_they_are_and_are_not_long() {
    for path in all() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no header", path.display());
        let own = text.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(own <= 500, "{} has {own} lines", path.display());
    }
}

#[test]
fn no_debt_is_left_in_the_code() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for path in all() {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in words {
            assert!(!text.contains(word), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn each_part_knows_only_what_it_may() {
    // A folder, and what its files must not name.
    for (folder, banned) in [
        ("host-gpu/src", vec!["hyper", "sled", "TenantName"]),
        ("runtime/src/worker", vec!["crate::store", "crate::registry", "crate::control", "crate::pool", "crate::auth"]),
        ("runtime/src/front", vec!["wgpu", "wasmtime", "sled", "gannet_host_gpu"]),
        ("runtime/src/pool", vec!["wasmtime::", "sled", "StatusCode"]),
        ("runtime/src/store", vec!["wasmtime", "hyper"]),
    ] {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files);
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let code: String =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            for word in &banned {
                assert!(!code.contains(word), "{} names {word}", path.display());
            }
        }
    }
    // Only one file names statuses; the worker's answers to the front door are not for clients.
    let mut files = Vec::new();
    sources(&root().join("runtime/src"), &mut files);
    for path in files {
        let named = std::fs::read_to_string(&path).unwrap().contains("StatusCode");
        let may = path.ends_with("respond/mod.rs") || path.ends_with("worker/answer.rs");
        assert!(may || !named, "{} names status codes", path.display());
    }
}

#[test]
fn every_promise_of_the_specification_names_a_test_that_exists() {
    let specification = std::fs::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let mut code = String::new();
    for path in all() {
        code.push_str(&std::fs::read_to_string(path).unwrap());
    }
    let mut promises = 0;
    for line in specification.lines().filter(|line| line.starts_with("- **S")) {
        promises += 1;
        let tests: Vec<&str> = line.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        let known = tests.iter().filter(|name| code.contains(&format!("fn {name}("))).count();
        assert!(known > 0, "no test of this promise exists: {line}");
    }
    assert!(promises >= 20, "{promises}");
}

#[test]
fn every_item_of_the_sdk_has_an_example() {
    let mut files = Vec::new();
    sources(&root().join("guest-sdk/src"), &mut files);
    let mut items = 0;
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut docs = String::new();
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("///") || line.starts_with("#[") {
                docs.push_str(line);
                continue;
            }
            let public = ["pub fn", "pub struct", "pub enum", "pub trait", "pub type", "pub const fn"];
            let hidden = docs.contains("#[doc(hidden)]");
            if public.iter().any(|start| line.starts_with(start)) && !hidden {
                assert!(docs.contains("```"), "{}: no example for: {line}", path.display());
                items += 1;
            }
            docs.clear();
        }
    }
    assert!(items > 50, "{items}");
}
