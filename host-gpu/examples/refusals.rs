//! Measures how long a refusal takes: checks kernels that no driver should see, and prints for each the median of nine
//! times in nanoseconds and the reason of the refusal.
#![expect(clippy::print_stdout, reason = "a program for measuring")]

use gannet_host_gpu::check::{Abilities, check};
use gannet_host_gpu::harden::BudgetUnit;
use std::fmt::Write;
use std::time::Instant;

fn kernels() -> Vec<(&'static str, String)> {
    let head = "@group(0) @binding(0) var<storage, read_write> data: array<u32>;\n";
    let main = |body: &str| {
        format!("{head}@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {{ {body} }}")
    };
    let mut doubling = format!("{head}fn f0(x: u32) -> u32 {{ return x + 1u; }}\n");
    for depth in 1..25 {
        let _ = writeln!(doubling, "fn f{depth}(x: u32) -> u32 {{ return f{0}(x) + f{0}(x + 1u); }}", depth - 1);
    }
    doubling += "@compute @workgroup_size(1) fn main() { data[0] = f24(1u); }";
    let mut long = String::new();
    while long.len() < 250 * 1024 {
        long += "data[lane] += 1u;\n";
    }
    vec![
        ("calls that double", doubling),
        ("private memory", main("var a: array<u32, 100000000>; a[lane] = 1u; data[0] = a[lane];")),
        (
            "workgroup memory",
            format!("var<workgroup> w: array<u32, 100000000>;\n{}", main("w[lane] = 1u; data[0] = w[lane];")),
        ),
        ("a barrier that not all reach", main("if lane == 0u { workgroupBarrier(); }")),
        ("braces 400 deep", main(&"{".repeat(400))),
        ("100,000 signs", main(&format!("let x = {}1u;", "-".repeat(100_000)))),
        ("parentheses 10,000 deep", main(&format!("data[0] = {}1u{};", "(".repeat(10_000), ")".repeat(10_000)))),
        ("a source of 250 KiB, then a barrier", main(&format!("{long} if lane == 0u {{ workgroupBarrier(); }}"))),
        ("as many statements as may be, then a barrier", {
            let most = "data[lane] += 1u;\n".repeat(4700);
            main(&format!("{most} if lane == 0u {{ workgroupBarrier(); }}"))
        }),
        ("a source of 1 MiB", main(&long.repeat(4))),
        (
            "a binding array",
            format!(
                "{head}@group(1) @binding(0) var<storage> many: binding_array<array<u32>>;\n@compute @workgroup_size(1) fn main() {{ data[0] = many[0][0]; }}"
            ),
        ),
    ]
}

fn main() {
    let abilities = Abilities {
        f16: true,
        subgroups: true,
        workgroup_memory_max: 32 << 10,
        workgroup_invocations_max: 1024,
        unit: BudgetUnit::Work,
    };
    for (name, wgsl) in kernels() {
        let mut times = Vec::new();
        let mut why = String::new();
        for _ in 0..9 {
            let began = Instant::now();
            let refused = check(&wgsl, "main", &[], abilities).err();
            times.push(began.elapsed().as_nanos());
            why = refused.map_or_else(|| "NOT REFUSED".to_owned(), |error| error.to_string());
        }
        times.sort_unstable();
        println!(
            "{}\t{name}\t{}",
            times.get(4).copied().unwrap_or_default(),
            why.chars().take(120).collect::<String>()
        );
    }
}
