//! Guests in other languages, built by `scripts/test` from `tests/clients/`. They use every function of the interface.
//! If they have not been built, a test prints that and checks nothing, unless `GANNET_TEST_CLIENTS` is set: then it
//! fails.

use crate::support::{Server, root, text, wait_until};
use serde_json::{Value, json};

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
    assert!(result["checks"].as_array().unwrap().len() >= 28, "{result}");
    check_job(server, language);
}

/// Checks that a job tells its progress and knows itself.
fn check_job(server: &Server, language: &str) {
    let submitted = server.send("POST", &format!("/v2/{language}/run"), &[], br#"{"input": 1}"#).json();
    let id = submitted["id"].as_str().unwrap();
    let mut seen = Value::Null;
    wait_until("the job has ended", || {
        let now = server.get_json(&format!("/v2/{language}/status/{id}"));
        if now["status"] == "IN_PROGRESS" && !now["output"].is_null() {
            seen = now["output"].clone();
        }
        match now["status"].as_str().unwrap() {
            "IN_QUEUE" | "IN_PROGRESS" => false,
            _ => {
                assert_eq!(now["output"], json!({ "job": id, "attempt": 1 }), "{now}");
                true
            }
        }
    });
    assert_eq!(seen, json!({ "percent": 50 }));
}

#[test]
fn a_python_guest_uses_the_whole_interface() {
    check("python");
}

#[test]
fn a_javascript_guest_uses_the_whole_interface() {
    check("javascript");
}
