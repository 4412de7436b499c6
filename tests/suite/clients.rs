//! Guests in other languages, built by `scripts/test` from `tests/clients/`. They use every function of the interface.
//! If they have not been built, a test prints that and checks nothing, unless `GANNET_TEST_CLIENTS` is set: then it
//! fails.

use crate::support::{Server, root, text};

fn check(language: &str) {
    let built = root().join(format!(".build/clients/{language}.wasm"));
    if !built.exists() {
        assert!(std::env::var_os("GANNET_TEST_CLIENTS").is_none(), "{} is missing", built.display());
        eprintln!("skipped: {} is not built; scripts/test builds it", built.display());
        return;
    }
    let server = Server::shared();
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::copy(&built, folder.path().join("guest.wasm")).unwrap();
    std::fs::write(folder.path().join("declared.wgsl"), "@compute @workgroup_size(1) fn main() {}").unwrap();
    let manifest = format!(
        "name = \"{language}\"\n[build]\nartifact = \"guest.wasm\"\n[limits]\nmemory_mib = 512\ncpu_ms = 30000\n[kernels]\ndeclared = \"declared.wgsl\"\n"
    );
    std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
    let output = server.cli(&["deploy", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer = server.call(language, "/?kernel=declared", b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let result = answer.json();
    assert_eq!(result["ok"], true, "{result}");
    assert!(result["checks"].as_array().unwrap().len() >= 20, "{result}");
}

#[test]
fn a_python_guest_uses_the_whole_interface() {
    check("python");
}

#[test]
fn a_javascript_guest_uses_the_whole_interface() {
    check("javascript");
}
