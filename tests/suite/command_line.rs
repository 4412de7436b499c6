//! The command line: what it prints to stdout and stderr, and its exit codes.

use crate::support::{KEY, Options, Server, binary, prebuilt, text};
use std::process::Command;

#[test]
fn exit_codes_tell_usage_function_and_server_apart() {
    let server = Server::shared();
    assert_eq!(server.cli(&["invoke", "hello"]).status.code(), Some(0));
    assert_eq!(
        server.cli(&["invoke", "faulty", "--path", "/nowhere"]).status.code(),
        Some(1),
        "the function's own 404"
    );
    assert_eq!(server.cli(&["invoke", "nothing"]).status.code(), Some(1));
    assert_eq!(server.cli(&["nonsense"]).status.code(), Some(2));
    assert_eq!(server.cli(&["deploy", "/nowhere.wasm"]).status.code(), Some(2));
    let unreachable = Command::new(binary()).args(["list", "--server", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(unreachable.status.code(), Some(3));
    let told = text(&unreachable.stderr);
    assert!(
        told.starts_with("error: no response from http://127.0.0.1:1\n  caused by: ") && told.contains("\nhint: "),
        "{told}"
    );
}

#[test]
fn a_name_is_one_segment_of_a_path_whatever_it_contains() {
    let server = Server::start();
    assert_eq!(server.put(KEY, "hello", "kept", "", "").status, 201);
    for name in ["kept#x", "kept?x", "kept/", "./kept", "../functions/kept", "kept%23", "x/../kept"] {
        let deleted = server.cli(&["delete", name]);
        assert_eq!(deleted.status.code(), Some(1), "{name}: {}", text(&deleted.stderr));
    }
    assert_eq!(server.cli(&["invoke", "kept"]).status.code(), Some(0));
}

#[test]
fn a_kernel_is_shown_as_it_runs() {
    let server = Server::shared();
    let list = server.cli(&["kernel", "list", "blur"]);
    assert!(text(&list.stdout).contains("blur.wgsl/horizontal"), "{}", text(&list.stdout));
    let shown = server.cli(&["kernel", "show", "blur", "blur.wgsl/horizontal"]);
    let hardened = text(&shown.stdout);
    for part in ["gannet_left", "gannet_exhausted", "@compute", "fn horizontal"] {
        assert!(hardened.contains(part), "{part} is not in {hardened}");
    }
    assert!(!hardened.contains("fn vertical"), "only the requested entry point is shown");
    let source = server.cli(&["kernel", "show", "blur", "blur.wgsl/horizontal", "--source"]);
    assert!(text(&source.stdout).starts_with("// A separable Gaussian"));
    let missing = server.cli(&["kernel", "show", "blur", "nothing"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("hint: gannet kernel list blur"), "{}", text(&missing.stderr));
}

#[test]
fn kernels_are_checked_without_a_server() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, wgsl: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, wgsl).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = write("good.wgsl", "@compute @workgroup_size(8, 2) fn main() { for (var i = 0u; i < 70000u; i++) { } }");
    let bad = write(
        "bad.wgsl",
        "@compute @workgroup_size(64)\nfn first(@builtin(local_invocation_index) lane: u32) {\n\tif lane == 0u { \
         workgroupBarrier(); }\n}\n@compute @workgroup_size(64) fn second() {}",
    );
    let half = write("half.wgsl", "enable f16;\n@compute @workgroup_size(1) fn main() { var x: f16; x += 1.0h; }");
    let check = |arguments: &[&str]| {
        let output = Command::new(binary()).args(["kernel", "check"]).args(arguments).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, told, _) = check(&[&good, &half]);
    assert_eq!(code, Some(0), "{told}");
    let valid = "good.wgsl: kernel main: valid; workgroups of 8 × 2 × 1, 0 bindings, loops with a budget on lines 1";
    assert!(told.contains(valid), "{told}");
    let (code, told, errors) = check(&[&bad, &good]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("bad.wgsl:3:18: kernel first: a barrier must be reached"), "{told}");
    assert!(told.contains("    3 | \tif lane == 0u { workgroupBarrier(); }\n      | \t                ^\n"), "{told}");
    assert!(told.contains("kernel second: valid") && told.contains("good.wgsl: kernel main: valid"), "{told}");
    assert!(errors.contains("1 of 3 kernels would be refused"), "{errors}");
    let (code, told, _) = check(&["--software", &half]);
    assert_eq!(code, Some(1), "the software driver has no f16: {told}");
    let (_, told, _) = check(&["--json", &bad]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["kernels"][0]["line"], &told["kernels"][1]["valid"]), (&3.into(), &true.into()), "{told}");
    assert_eq!(check(&["/nowhere.wgsl"]).0, Some(2));
    let (_, printed, _) = check(&["--print", &good]);
    assert!(printed.contains("gannet_exhausted"), "{printed}");
}

#[test]
fn a_failed_write_is_an_error_and_a_closed_pipe_is_not() {
    let kernel = crate::support::root().join("host-gpu/tests/corpus/scan.wgsl");
    let server = Server::shared();
    let commands: [&[&str]; 4] =
        [&["kernel", "check", kernel.to_str().unwrap()], &["completions", "bash"], &["list"], &["invoke", "hello"]];
    for arguments in commands {
        let run = |stdout: std::process::Stdio| {
            let mut command = Command::new(binary());
            command.args(arguments).env("GANNET_KEY", KEY).env("GANNET_SERVER", &server.url).stdout(stdout);
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(full.into()).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("No space left"), "{}", text(&output.stderr));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into()).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn invoke_keeps_bytes_as_they_are_and_the_receipt_apart() {
    let server = Server::shared();
    let folder = tempfile::TempDir::new().unwrap();
    let (photo, out) = (crate::support::root().join("tests/photo/astronaut.png"), folder.path().join("out.png"));
    let output = server.cli(&[
        "invoke",
        "blur",
        "--path",
        "/?radius=2",
        "-d",
        &format!("@{}", photo.display()),
        "-o",
        &out.display().to_string(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    assert_eq!(image::open(&out).unwrap().width(), 512);
    let receipt = text(&output.stderr);
    assert!(
        receipt.starts_with("request ") && receipt.contains("gpu ") && !receipt.contains("gpu 0.000 ms"),
        "{receipt}"
    );
    let hello = server.cli(&["invoke", "hello", "-i"]);
    assert_eq!(text(&hello.stdout), "hello, world\n");
    assert!(text(&hello.stderr).contains("x-request-id: "));
    let streamed = server.cli(&["invoke", "stream", "--path", "/?count=2&every_ms=10"]);
    assert_eq!(text(&streamed.stdout), "chunk 1 of 2\nchunk 2 of 2\n");
}

#[test]
fn every_reading_verb_has_json() {
    let server = Server::shared();
    let answer = server.call("faulty", "/say", b"");
    let id = answer.header("x-request-id").to_owned();
    for (arguments, field) in [
        (vec!["list", "--json"], "functions"),
        (vec!["versions", "hello", "--json"], "versions"),
        (vec!["whoami", "--json"], "tenant"),
        (vec!["gpu", "list", "--json"], "gpus"),
        (vec!["receipt", &id, "--json"], "request"),
    ] {
        let output = server.cli(&arguments);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output.stderr)));
        assert!(value.get(field).is_some(), "{arguments:?}: {value}");
    }
    let logs = server.cli(&["logs", "faulty", "--request", &id, "--json"]);
    let lines: Vec<serde_json::Value> =
        text(&logs.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> =
        lines.iter().map(|line| (line["stream"].as_str().unwrap(), line["text"].as_str().unwrap())).collect();
    assert_eq!(seen, [("stdout", "to stdout"), ("stderr", "to stderr")]);
}

#[test]
fn logs_can_be_followed() {
    let server = Server::shared();
    let mut following = Command::new(binary())
        .args(["logs", "faulty", "--follow", "--json"])
        .env("GANNET_SERVER", &server.url)
        .env("GANNET_KEY", crate::support::KEY)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = server.call("faulty", "/say", b"").header("x-request-id").to_owned();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().unwrap()));
    let found = lines.map_while(Result::ok).any(|line| line.contains(&id));
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(found);
}

#[test]
fn the_operator_makes_tenants_and_acts_for_them() {
    let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
    let key_file = server.data.join("operator.key");
    let operator = std::fs::read_to_string(&key_file).unwrap().trim().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key_file).unwrap().permissions());
    assert!(operator.starts_with("gnt_operator_") && mode & 0o777 == 0o600, "{operator} {mode:o}");
    let made = server.cli_as(&operator, &["tenant", "create", "acme", "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let key = made["key"].as_str().unwrap();
    assert!(made["tenant"] == "acme" && key.starts_with("gnt_acme_"), "{made}");
    assert_eq!(server.cli_as(&operator, &["tenant", "create", "acme"]).status.code(), Some(1), "it exists already");
    assert_eq!(
        server.cli_as(key, &["tenant", "create", "zoo"]).status.code(),
        Some(1),
        "only the operator makes tenants"
    );
    let component = prebuilt("hello").display().to_string();
    assert!(server.cli_as(&operator, &["deploy", &component, "--tenant", "acme"]).status.success());
    assert_eq!(text(&server.cli_as(key, &["invoke", "hello"]).stdout), "hello, world\n");
    assert_eq!(server.cli_as(&operator, &["invoke", "hello"]).status.code(), Some(2), "no tenant is named");
    // The key is nowhere in the data folder.
    let found = Command::new("grep").args(["-r", "--binary-files=text", "-l", key]).arg(&server.data).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", text(&found.stdout));
}
