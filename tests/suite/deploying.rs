//! Uploads, valid and invalid.

use crate::support::{KEY, Options, Server, prebuilt, text, wait_until};
use tempfile::TempDir;

fn put(server: &Server, name: &str, media_type: &str, body: &[u8]) -> crate::support::Response {
    server.send("PUT", &format!("/api/v1/functions/{name}"), &[("content-type", media_type)], body)
}

#[test]
fn what_is_no_component_is_refused_with_the_reason() {
    let server = Server::shared();
    // It imports what no server has, a version that is not served, and a call that its interface lacks; another that is
    // there is not named.
    let missing = wat::parse_str(
        r#"(component
            (import "acme:secret/thing@1.0.0" (instance (export "f" (func))))
            (import "wasi:http/types@0.9.0" (instance (export "g" (func))))
            (import "wasi:clocks/monotonic-clock@0.2.0"
                (instance (export "now" (func (result u64))) (export "no-such-call" (func))))
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#,
    )
    .unwrap();
    let core = wat::parse_str("(module)").unwrap();
    let no_handler = wat::parse_str("(component)").unwrap();
    for (bytes, part) in [
        (b"<html>this is not it</html>".as_slice(), "not WebAssembly: it starts with [3c 68 74 6d]"),
        (core.as_slice(), "a core module, not a component"),
        (b"\0asm\x0d\0\x01\0 a text with the right magic", "not valid at byte"),
        (no_handler.as_slice(), "no handler: a function exports wasi:http/incoming-handler 0.2; it exports nothing"),
        (missing.as_slice(), "missing imports: acme:secret/thing@1.0.0, "),
        (missing.as_slice(), "wasi:http/types@0.9.0 (the server provides wasi:http/types@0.2."),
        (
            missing.as_slice(),
            "wasi:clocks/monotonic-clock@0.2.0#no-such-call (the server provides wasi:clocks/monotonic-clock@0.2.",
        ),
        (missing.as_slice(), "it is a command, for the world wasi:cli/command"),
    ] {
        put(server, "bad", "application/wasm", bytes).is_problem(422, "component_invalid", part);
    }
    server.send("GET", "/api/v1/functions/bad", &[], b"").is_problem(404, "not_found", "no resource of that name");
}

/// A number as WebAssembly encodes it (LEB128).
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Returns the number of core modules at the top of a component: its sections with the id 1.
fn core_modules(component: &[u8]) -> usize {
    let (mut rest, mut count) = (&component[8..], 0);
    while let Some((id, after)) = rest.split_first() {
        let bytes = after.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let length = after[..bytes].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        count += usize::from(*id == 1);
        rest = &after[bytes + length..];
    }
    count
}

#[test]
fn a_component_may_be_composed_of_parts_with_memories_of_their_own() {
    let server = Server::start_with(&Options { config: Some("spares = 0"), ..Options::default() });
    let hello = std::fs::read(prebuilt("hello")).unwrap();
    let module = wat::parse_str("(module (memory 1) (table 1 funcref))").unwrap();
    let composed = |parts: usize| {
        let mut bytes = hello.clone();
        bytes.extend([&[1][..], &number(module.len()), &module].concat());
        let index = number(core_modules(&hello));
        for _ in 0..parts {
            // One more instance of that module, without arguments.
            let instance = [&[1, 0][..], &index, &[0]].concat();
            bytes.extend([&[2][..], &number(instance.len()), &instance].concat());
        }
        bytes
    };
    assert_eq!(server.put_bytes(KEY, &composed(7), "parts", "", "").status, 201);
    assert_eq!(server.call("parts", "/", b"").text(), "hello, world\n");
    let refused = server.put_bytes(KEY, &composed(8), "more", "", "");
    refused.is_problem(422, "component_invalid", "memories");
}

#[test]
fn an_upload_over_the_limit_is_refused_and_so_is_another_type() {
    let server =
        Server::start_with(&Options { config: Some("spares = 0\n[limits]\ncomponent_mib = 1"), ..Options::default() });
    let large = vec![0; (1 << 20) + 1];
    put(&server, "large", "application/wasm", &large).is_problem(413, "body_too_large", "the limit of 1048576 bytes");
    put(&server, "text", "text/plain", b"x").is_problem(415, "unsupported_media_type", "text/plain");
}

fn folder(manifest: &str, kernel: Option<&str>) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::copy(prebuilt("hello"), folder.path().join("hello.wasm")).unwrap();
    std::fs::write(folder.path().join("gannet.toml"), format!("{manifest}\n[build]\nartifact = \"hello.wasm\"\n"))
        .unwrap();
    if let Some(wgsl) = kernel {
        std::fs::write(folder.path().join("k.wgsl"), wgsl).unwrap();
    }
    folder
}

#[test]
fn a_bad_kernel_is_a_deploy_error_with_line_and_column() {
    let server = Server::shared();
    for (wgsl, part) in [
        ("@compute @workgroup_size(1)\nfn main() { let x = ; }", "2:21: "),
        ("@compute @workgroup_size(1)\nfn main() {\n  var x: u32 = 1.5;\n}", "3:"),
        (
            "var<workgroup> a: array<u32, 100000000>; @compute @workgroup_size(1) fn main() { a[0] = 1u; }",
            "bytes of workgroup memory; the limit is",
        ),
    ] {
        let folder = folder("name = \"badkernel\"\n[kernels]\nk = \"k.wgsl\"", Some(wgsl));
        let output = server.cli(&["deploy", &folder.path().display().to_string()]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("kernel_rejected") && told.contains("kernel \"k\"") && told.contains(part), "{told}");
    }
}

#[test]
fn kernels_of_the_manifest_are_declared_like_those_of_the_macro() {
    let server = Server::shared();
    let wgsl = "@compute @workgroup_size(1) fn a() {} @compute @workgroup_size(1) fn b() {}";
    let folder = folder("name = \"kernels\"\n[kernels]\nk = \"k.wgsl\"", Some(wgsl));
    let output = server.cli(&["deploy", &folder.path().display().to_string(), "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["kernels"], serde_json::json!(["k/a", "k/b"]));
    let blur = server.get_json("/api/v1/functions/blur");
    assert_eq!(blur["kernels"], serde_json::json!(["blur.wgsl/horizontal", "blur.wgsl/vertical"]));
}

#[test]
fn the_same_bytes_again_are_the_same_version_and_another_setting_is_a_new_one() {
    let server = Server::shared();
    let deploy = |manifest: &str| -> serde_json::Value {
        let folder = folder(manifest, None);
        let output = server.cli(&["deploy", &folder.path().display().to_string(), "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = deploy("name = \"again\"");
    let second = deploy("name = \"again\"");
    let third = deploy("name = \"again\"\n[limits]\ntimeout_ms = 5000");
    assert_eq!((&first["version"], &second["version"], &third["version"]), (&1.into(), &1.into(), &2.into()));
    assert_eq!(first["digest"], third["digest"]);
    let versions = server.get_json("/api/v1/functions/again/versions");
    let listed: Vec<_> =
        versions["versions"].as_array().unwrap().iter().map(|v| (v["version"].clone(), v["current"].clone())).collect();
    assert_eq!(listed, [(2.into(), true.into()), (1.into(), false.into())]);
}

#[test]
fn a_manifest_with_an_unknown_key_names_the_nearest_known_one() {
    let server = Server::shared();
    let boundary = "b";
    let body = format!(
        "--{boundary}\r\ncontent-disposition: form-data; name=\"manifest\"\r\n\r\n[limits]\ntimout_ms = 1\r\n--{boundary}--\r\n"
    );
    put(server, "x", "multipart/form-data; boundary=b", body.as_bytes()).is_problem(
        400,
        "invalid",
        "the nearest known one is `timeout_ms`",
    );
    put(server, "x", "multipart/form-data; boundary=b", b"--b--\r\n").is_problem(
        400,
        "invalid",
        "one of the parts component and digest is needed",
    );
    put(server, "x--y", "application/wasm", b"x").is_problem(400, "invalid", "x--y");
}

#[test]
fn a_list_comes_in_pages_and_a_deleted_function_is_gone() {
    let server = Server::start();
    for name in ["one", "two", "three"] {
        let output = server.cli(&["deploy", &prebuilt("hello").display().to_string(), "--name", name]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let page = server.get_json("/api/v1/functions?limit=2");
    let names: Vec<_> = page["functions"].as_array().unwrap().iter().map(|f| f["name"].clone()).collect();
    assert_eq!(names, ["one", "three"]);
    let rest = server.get_json(&format!("/api/v1/functions?limit=2&cursor={}", page["cursor"].as_str().unwrap()));
    assert_eq!((rest["functions"][0]["name"].clone(), rest["cursor"].clone()), ("two".into(), serde_json::Value::Null));
    assert_eq!(server.call("two", "/", b"").status, 200);
    assert!(server.cli(&["delete", "two"]).status.success());
    server.call("two", "/", b"").is_problem(404, "not_found", "no such function");
    assert_eq!(server.cli(&["delete", "two"]).status.code(), Some(1));
}

#[test]
fn a_component_for_wasi_http_0_3_runs_where_the_operator_has_enabled_it() {
    let component = std::fs::read(prebuilt("service")).unwrap();
    put(Server::shared(), "service", "application/wasm", &component).is_problem(
        422,
        "component_invalid",
        "has not enabled",
    );
    let server = Server::start_with(&Options { config: Some("wasi_http_0_3 = true"), ..Options::default() });
    let deployed = put(&server, "service", "application/wasm", &component);
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    let answer = server.call("service", "/here?x=1", b"");
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain"), "{}", answer.text());
    assert_eq!(answer.text(), "0.3 was asked for /here?x=1\n");
    let logs = format!("/api/v1/functions/service/logs?request={}", answer.header("x-request-id"));
    wait_until("its task has gone on after the answer", || server.get_json(&logs).to_string().contains("went on"));
    // A component for 0.2 still runs beside it.
    server.deploy("hello");
    assert_eq!(server.call("hello", "/", b"").text(), "hello, world\n");
}
