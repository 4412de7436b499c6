//! Attacks by a GPU function, tried through the real binary. Meanwhile another tenant sends requests, which must all
//! succeed.

use crate::support::{Options, Server, prebuilt, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A server with a tenant that attacks and a neighbour that must not be affected.
struct AttackServer {
    server: Server,
    attacker: String,
    neighbour: String,
}

impl AttackServer {
    fn begin() -> Self {
        let server = Server::start_with(&Options { not_dev: true, ..Options::default() });
        let operator = std::fs::read_to_string(server.data.join("operator.key")).unwrap();
        let tenant = |name: &str| {
            let made = server.cli_as(operator.trim(), &["tenant", "create", name, "--json"]);
            let made: Value = serde_json::from_slice(&made.stdout).unwrap();
            made["key"].as_str().unwrap().to_owned()
        };
        let (attacker, neighbour) = (tenant("attacker"), tenant("neighbour"));
        for (key, function) in [(&attacker, "wgsl"), (&neighbour, "blur")] {
            let folder = tempfile::TempDir::new().unwrap();
            std::fs::copy(prebuilt(function), folder.path().join("f.wasm")).unwrap();
            let manifest = "name = \"f\"\n[build]\nartifact = \"f.wasm\"\n[limits]\ngpu_time_ms = 1500\n";
            std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
            let output = server.cli_as(key, &["deploy", &folder.path().display().to_string()]);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        Self { server, attacker, neighbour }
    }

    /// Posts a kernel with one zeroed buffer of 4 KiB. Returns the response's status and JSON body.
    fn attack(&self, wgsl: &str, grid: [u32; 3]) -> (u16, Value) {
        let job = json!({
            "wgsl": wgsl, "grid": grid, "buffers": [{"group": 0, "binding": 0, "size": 4096, "read": true}],
        });
        let headers = [("x-gannet-key", self.attacker.as_str())];
        let answer = self.server.send_bare("POST", "/f/attacker/f/", &headers, job.to_string().as_bytes());
        (answer.status, answer.json())
    }

    /// Runs the attacks while the neighbour blurs a picture all the time.
    fn run(&self, attacks: impl FnOnce()) {
        let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let headers = [("x-gannet-key", self.neighbour.as_str())];
                let photo = std::fs::read(crate::support::root().join("tests/photo/small.png")).unwrap();
                while !over.load(Ordering::Relaxed) || served.load(Ordering::Relaxed) < 3 {
                    let answer = self.server.send_bare("POST", "/f/neighbour/f/?radius=2", &headers, &photo);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attacks));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

const HEAD: &str = "@group(0) @binding(0) var<storage, read_write> data: array<atomic<u32>>;\n";

fn kernel(body: &str) -> String {
    format!(
        "{HEAD}@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32, @builtin(global_invocation_id) id: vec3<u32>) {{ {body} }}"
    )
}

#[test]
fn no_kernel_runs_for_ever() {
    let attack_server = AttackServer::begin();
    attack_server.run(|| {
        let callee = format!(
            "{HEAD}fn forever() {{ loop {{ atomicAdd(&data[0], 1u); }} }}\n\
             @compute @workgroup_size(64) fn main() {{ forever(); }}"
        );
        for wgsl in [
            kernel("loop { atomicAdd(&data[lane], 1u); }"),
            kernel("loop { } atomicAdd(&data[lane], 1u);"),
            kernel("if lane == 5u { loop { atomicAdd(&data[lane], 1u); } }"),
            kernel("loop { continuing { loop { atomicAdd(&data[lane], 1u); } } }"),
            kernel("loop { atomicAdd(&data[lane], 1u); workgroupBarrier(); }"),
            kernel("loop { if atomicCompareExchangeWeak(&data[0], 5u, 6u).exchanged { break; } }"),
            callee,
        ] {
            let (status, answer) = attack_server.attack(&wgsl, [4, 1, 1]);
            assert_eq!((status, &answer["code"]), (502, &"loop_budget_exhausted".into()), "{wgsl}: {answer}");
            assert!(answer.get("buffers").is_none(), "the results are void: {answer}");
            let told = answer.to_string();
            assert!(told.contains(r#"in kernel \"main\" a loop ran out of the budget of "#), "{told}");
            assert!(told.contains("the loops that begin on lines 2;"), "{told}");
        }
        // The worker and its device still work.
        let (status, answer) = attack_server.attack(&kernel("atomicAdd(&data[0], 1u);"), [2, 1, 1]);
        let bytes = STANDARD.decode(answer["buffers"][0]["data"].as_str().unwrap_or_default()).unwrap_or_default();
        assert_eq!((status, bytes.get(..4)), (200, Some(&128u32.to_le_bytes()[..])), "{answer}");
    });
}

#[test]
fn a_huge_grid_ends_with_the_requests_gpu_time() {
    let attack_server = AttackServer::begin();
    attack_server.run(|| {
        let (status, answer) = attack_server.attack(&kernel("atomicAdd(&data[lane], id.x);"), [65535, 65535, 65535]);
        assert_eq!((status, &answer["code"]), (504, &"deadline_exceeded".into()), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("its limit is 1500 ms"), "{answer}");
    });
}

#[test]
fn what_no_driver_should_see_is_refused() {
    let attack_server = AttackServer::begin();
    attack_server.run(|| {
        let mut doubling = String::from(HEAD) + "fn f0(x: u32) -> u32 { return x + 1u; }\n";
        for depth in 1..25 {
            doubling += &format!("fn f{depth}(x: u32) -> u32 {{ return f{0}(x) + f{0}(x + 1u); }}\n", depth - 1);
        }
        doubling += "@compute @workgroup_size(1) fn main() { atomicStore(&data[0], f24(1u)); }";
        for (wgsl, part) in [
            (doubling, "once inlined"),
            (kernel("var a: array<u32, 100000000>; a[lane] = 1u; atomicStore(&data[0], a[id.x]);"), "private memory"),
            (
                format!(
                    "var<workgroup> w: array<u32, 100000000>;\n{}",
                    kernel("w[lane] = 1u; atomicStore(&data[0], w[id.x]);")
                ),
                "workgroup memory",
            ),
            (kernel("if lane == 0u { workgroupBarrier(); }"), "must be reached by all invocations"),
            (kernel(&"{".repeat(400)), ""),
            (kernel(&format!("let x = {}1u;", "-".repeat(100_000))), ""),
        ] {
            let (status, answer) = attack_server.attack(&wgsl, [1, 1, 1]);
            assert_eq!((status, &answer["code"]), (422, &"kernel_rejected".into()), "{answer}");
            assert!(answer["detail"].as_str().unwrap().contains(part), "{part}: {answer}");
        }
    });
}

#[test]
fn what_no_driver_should_see_is_refused_at_deploy_too() {
    let attack_server = AttackServer::begin();
    attack_server.run(|| {
        let mut doubling = String::from(HEAD) + "fn f0(x: u32) -> u32 { return x + 1u; }\n";
        for depth in 1..25 {
            doubling += &format!("fn f{depth}(x: u32) -> u32 {{ return f{0}(x) + f{0}(x + 1u); }}\n", depth - 1);
        }
        doubling += "@compute @workgroup_size(1) fn main() { atomicStore(&data[0], f24(1u)); }";
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::copy(prebuilt("wgsl"), folder.path().join("f.wasm")).unwrap();
        let manifest = "name = \"g\"\n[build]\nartifact = \"f.wasm\"\n[kernels]\nbad = \"bad.wgsl\"\n";
        std::fs::write(folder.path().join("gannet.toml"), manifest).unwrap();
        for (wgsl, part) in [
            (doubling, "once inlined"),
            (kernel("if lane == 0u { workgroupBarrier(); }"), "must be reached by all invocations"),
            (kernel(&"atomicAdd(&data[lane], 1u);\n".repeat(8000)), "use more and shorter functions"),
        ] {
            std::fs::write(folder.path().join("bad.wgsl"), wgsl).unwrap();
            let output =
                attack_server.server.cli_as(&attack_server.attacker, &["deploy", &folder.path().display().to_string()]);
            let error = text(&output.stderr);
            assert!(!output.status.success() && error.contains(part), "{part}: {error}");
        }
    });
}

#[test]
fn memory_begins_as_zeros_and_ends_at_its_bounds() {
    let attack_server = AttackServer::begin();
    attack_server.run(|| {
        let fill = kernel("for (var i = lane; i < 1024u; i += 64u) { atomicStore(&data[i], 3735928559u); }");
        let peek = format!(
            "var<workgroup> left: array<u32, 1024>;\n{}",
            kernel(
                "var own: array<u32, 64>;
                 for (var i = 0u; i < 16u; i++) { atomicMax(&data[0], left[lane * 16u + i]); }
                 atomicMax(&data[1], own[lane]);
                 for (var i = 0u; i < 64u; i++) { atomicMax(&data[2], atomicLoad(&data[3u + lane + i * 15u])); }"
            )
        );
        let outside = kernel("atomicMax(&data[1], atomicLoad(&data[id.x * 977u + 1024u]) % 2u); atomicStore(&data[4000000000u - id.x], 7u);");
        for _ in 0..4 {
            assert_eq!(attack_server.attack(&fill, [1, 1, 1]).0, 200);
            let (status, answer) = attack_server.attack(&peek, [1, 1, 1]);
            let bytes = STANDARD.decode(answer["buffers"][0]["data"].as_str().unwrap()).unwrap();
            assert_eq!((status, bytes.iter().all(|byte| *byte == 0)), (200, true), "{answer}");
            assert_eq!(attack_server.attack(&outside, [64, 1, 1]).0, 200);
        }
        let job = json!({"wgsl": kernel("atomicAdd(&data[0], 1u);"), "grid": [1, 1, 1],
            "buffers": [{"group": 0, "binding": 0, "size": 1u64 << 40}]});
        let headers = [("x-gannet-key", attack_server.attacker.as_str())];
        let answer = attack_server.server.send_bare("POST", "/f/attacker/f/", &headers, job.to_string().as_bytes());
        assert!(answer.status >= 400, "{}", answer.text());
    });
}
