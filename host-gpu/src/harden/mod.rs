//! Makes a kernel safe to run on a GPU that other tenants use: passes over naga's IR, composed here and nowhere else.
//!
//! ```text
//!  module, overrides resolved
//!    │ pointed_to   pass pointers to whole variables only
//!    │ uniformity   refuse barriers that only some invocations of a workgroup reach, and subgroup operations that only
//!    │              some of a subgroup reach
//!    │ cost         compute the cost of each loop and call; refuse code that grows too large when inlined
//!    │ inactive_lanes  let subgroup operations read only what active invocations gave
//!    │ loop_budget  charge every loop that is not provably short to a budget, and leave it when the budget is used up
//!    │ entry_point  add a base to the workgroup ids, so that a dispatch can be cut into slices; set the budgets
//!    │              before the tenant's code, and set a flag after it if one ran out
//!    ▼ compact, validate again (in `check`)
//!  hardened module
//! ```
//!
//! The added code reads its parameters from immediates ([`Immediates`]), so one pipeline serves every
//! budget and every slice. A flag in a bind group of its own ([`FLAG_GROUP`]) reports that a budget ran out.
//! Added variables need no reserved prefix: the passes work on handles, and their names exist only for people who read
//! the printed WGSL.
//!
//! Invariant: pure. Whatever a pass does not know it refuses or treats as the worst case: `uniformity` refuses unknown
//! statements and takes unknown expressions for non-uniform, and a loop of unknown form is charged in each iteration.

mod written_arguments;
mod pointed_to;
mod scope;
mod uniformity;
mod cost;
mod short_loop;
mod code_writer;
mod copy_code;
mod inactive_lanes;
mod loop_budget;
mod unroll;
mod charge_ahead;
mod entry_point;
mod globals;
mod message;

use crate::error::Error;
use naga::{AddressSpace, Module};

pub use cost::{BudgetUnit, CALLS_MAX, COST_MAX, INLINED_MAX};
pub use globals::{FLAG_BUFFER, FLAG_GROUP, GROUPS_MAX, IMMEDIATES_SIZE, Immediates};
pub(crate) use message::{rejected, rejected_at};
pub(crate) use pointed_to::copy_pointed_to;

use globals::Globals;

/// Which passes change the module. The checks always run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Whether to insert loop budgets.
    pub budget: bool,
    /// Whether to add a base to the workgroup ids, so that a dispatch can be cut into slices.
    pub sliceable: bool,
    /// What budgets count.
    pub unit: BudgetUnit,
}

impl Passes {
    /// Enables all passes.
    pub fn all(unit: BudgetUnit) -> Self {
        Self { budget: true, sliceable: true, unit }
    }
}

/// What the passes changed, and what [`crate::kernel`] must know to choose the budgets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HardeningReport {
    /// Whether the module has loops that are charged to a budget. Then it writes the flag, which must be bound.
    pub has_counted_loops: bool,
    /// The lines on which the first of those loops begin.
    pub counted_lines: Vec<u32>,
    /// Whether the module reads immediates.
    pub immediates: bool,
    /// Iterations of the provably short loops outside of counted loops.
    pub iterations: u64,
    /// Whether some counted loops are uniform: all invocations of a workgroup run them together.
    pub uniform: bool,
    /// Whether some counted loops are divergent: each invocation runs them for itself.
    pub divergent: bool,
    /// Whether there is more than one divergent loop, or one inside another loop. Invocations that a processor
    /// runs in step may then make their iterations one after the other, so that their numbers add up.
    pub divergent_repeatedly: bool,
}

/// Checks and changes a module with one entry point. `wgsl` is only used for the lines in messages.
pub fn harden(
    module: &mut Module,
    info: &naga::valid::ModuleInfo,
    wgsl: &str,
    passes: Passes,
) -> Result<HardeningReport, Error> {
    let uniform = uniformity::analyse(module, wgsl)?;
    let costs = cost::weigh(module, info, wgsl, passes.unit)?;
    let mut report = HardeningReport { iterations: costs.iterations, ..HardeningReport::default() };
    let immediates = (passes.budget || passes.sliceable).then(|| Globals::add(module));
    let Some(globals) = immediates else { return Ok(report) };
    let lane = inactive_lanes::clear(module, &globals)
        .ok_or_else(|| Error::KernelRejected("a kernel cannot use this code".into()))?;
    if passes.budget {
        let counted = loop_budget::insert(module, &globals, &uniform, &costs, passes.unit);
        report.uniform = counted.uniform > 0;
        report.divergent = counted.divergent > 0;
        report.counted_lines = message::lines(&counted.spans, wgsl);
        report.divergent_repeatedly = counted.divergent > 1 || counted.divergent_nested;
    }
    let (divergent, uniform, unit) = (report.divergent, report.uniform, passes.unit);
    let used = entry_point::UsedVariables { divergent, uniform, lane, unit };
    entry_point::wrap(module, &globals, passes.sliceable, used)?;
    naga::compact::compact(module, naga::compact::KeepUnused::No);
    let flag = Some(FLAG_GROUP);
    report.has_counted_loops =
        module.global_variables.iter().any(|(_, global)| global.binding.map(|at| at.group) == flag);
    report.immediates = module.global_variables.iter().any(|(_, global)| global.space == AddressSpace::Immediate);
    Ok(report)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::{Abilities, CheckedKernel, check};

    fn checked(wgsl: &str, unit: BudgetUnit) -> Result<CheckedKernel, Error> {
        let can =
            Abilities { f16: true, subgroups: true, workgroup_memory_max: 16384, workgroup_invocations_max: 256, unit };
        check(wgsl, "main", &[], can)
    }

    /// Puts `body` into a kernel of 64 invocations, with the variables and functions that the cases use.
    fn kernel(body: &str) -> String {
        format!(
            "enable f16, subgroups; @group(0) @binding(0) var<storage, read_write> data: array<u32>;
@group(0) @binding(1) var<storage, read> fixed: array<u32>;
var<workgroup> tile: array<u32, 64>;
fn wait() {{ workgroupBarrier(); }}
fn maybe(go: bool) {{ if go {{ workgroupBarrier(); }} }}
fn differs(lane: u32) -> u32 {{ if lane > 3u {{ return 1u; }} return 2u; }}
fn same(n: u32) -> u32 {{ return n * 2u; }}
fn touch(p: ptr<function, u32>, lane: u32) {{ *p = lane; }}
fn through(p: ptr<function, u32>, lane: u32) {{ touch(p, lane); }}
fn peek(p: ptr<function, u32>) -> u32 {{ return *p; }}
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>,
@builtin(subgroup_id) sub: u32, @builtin(subgroup_size) width: u32, @builtin(num_subgroups) subs: u32) {{
{body}
}}"
        )
    }

    #[test]
    fn barriers_that_not_all_reach_are_refused_with_the_line() {
        for body in [
            "if lane == 0u { workgroupBarrier(); }",
            "if lane == 0u { return; } workgroupBarrier();",
            "if data[0] == 0u { storageBarrier(); }",
            "if tile[0] == 0u { workgroupBarrier(); }",
            "if lane == 0u { wait(); }",
            "maybe(lane == 0u);",
            "maybe(true); maybe(lane < 2u);",
            "for (var i = 0u; i < lane; i++) { workgroupBarrier(); }",
            "for (var i = 0u; i < 9u; i++) { if i == lane { break; } workgroupBarrier(); }",
            "for (var i = 0u; i < 9u; i++) { if i == lane { continue; } workgroupBarrier(); }",
            "for (var i = 0u; i < 9u; i++) { workgroupBarrier(); if i == lane { return; } }",
            "loop { workgroupBarrier(); continuing { break if data[0] > 3u; } }",
            "var n = 0u; if lane > 2u { n = 1u; } if n == 0u { workgroupBarrier(); }",
            "var n = lane; var m = n; if m == 0u { workgroupBarrier(); }",
            "var n = 0u; for (var i = 0u; i < lane; i++) { n++; } if n == 3u { workgroupBarrier(); }",
            "var n = 0u; touch(&n, lane); if n == 0u { workgroupBarrier(); }",
            "if differs(group.x) == 1u { } if differs(lane) == 1u { workgroupBarrier(); }",
            "if same(lane) == 2u { workgroupBarrier(); }",
            "if fixed[lane] == 0u { workgroupBarrier(); }",
            "var a = array<u32, 4>(); a[lane % 4u] = 1u; if a[0] == 1u { workgroupBarrier(); }",
            "switch lane { case 0u: { workgroupBarrier(); } default: { } }",
            "switch group.x { case 0u: { if lane == 1u { break; } workgroupBarrier(); } default: { } }",
            "if atomicish() { workgroupBarrier(); }",
            "if lane < 8u { let sum = subgroupAdd(lane); data[0] = sum; }",
            "for (var i = 0u; i < lane; i++) { data[i] = subgroupBroadcastFirst(i); }",
            "let x = subgroupAdd(lane); if x > 3u { workgroupBarrier(); }",
            "if sub == 0u { workgroupBarrier(); }",
            "let x = workgroupUniformLoad(&tile[lane]); if x == 3u { workgroupBarrier(); }",
            "if sub == 0u { if lane == 1u { data[0] = subgroupAdd(lane); } }",
            "for (var row = sub; row < 9u; row += subs) { if row == lane { break; } data[row] = subgroupMax(lane); }",
            "let x = subgroupShuffle(lane, 1u); if x > 3u { data[0] = subgroupAdd(1u); }",
            "let x = subgroupInclusiveAdd(1u); if x > 3u { data[0] = subgroupAdd(1u); }",
            "var n = 0u; through(&n, lane); if n == 0u { workgroupBarrier(); }",
            "var n = lane; if peek(&n) == 0u { workgroupBarrier(); }",
            "var n = 0u; let m = peek(&n); n = lane; if peek(&n) + m == 0u { workgroupBarrier(); }",
            "var a = array<u32, 4>(); if peek(&a[lane & 3u]) == 0u { workgroupBarrier(); }",
        ] {
            let source = kernel(body) + "\nfn atomicish() -> bool { return data[1] > 2u; }";
            match checked(&source, BudgetUnit::Work) {
                Ok(_) => panic!("accepted: {body}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("must be reached by all invocations"), "{body}: {text}");
                    assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{body}: {text}");
                }
            }
        }
        let refused = checked(&kernel("\n\nif lane == 0u {\n  workgroupBarrier();\n}"), BudgetUnit::Work).unwrap_err();
        assert!(refused.to_string().starts_with("17:3: a barrier"), "{refused}");
        assert!(refused.to_string().contains("from line 16 on"), "{refused}");
    }

    #[test]
    fn barriers_that_all_reach_are_accepted() {
        for body in [
            "workgroupBarrier(); tile[lane] = 1u; workgroupBarrier();",
            "if group.x == 3u { workgroupBarrier(); }",
            "if group.x == 3u { return; } workgroupBarrier();",
            "for (var i = 0u; i < fixed[0]; i++) { workgroupBarrier(); if lane == 2u { data[0] = i; } }",
            "for (var i = 0u; i < fixed[group.x]; i++) { if i == 4u { break; } workgroupBarrier(); }",
            "var n = 0u; for (var i = 0u; i < lane; i++) { n++; } workgroupBarrier(); data[lane] = n;",
            "if lane < 4u { data[lane] = 1u; } else { data[lane] = 2u; } wait(); maybe(group.y == 1u);",
            "if same(group.x) == 2u { workgroupBarrier(); }",
            "let n = differs(lane); workgroupBarrier(); data[lane] = n;",
            "for (var s = 32u; s > 0u; s /= 2u) { if lane < s { tile[lane] += tile[lane + s]; } workgroupBarrier(); }",
            "let total = subgroupAdd(lane); data[lane] = total;",
            "if width == 0u || subs == 0u { return; } workgroupBarrier();",
            "let x = workgroupUniformLoad(&tile[3]); if x == 3u { workgroupBarrier(); }",
            "if sub == 0u { data[0] = subgroupAdd(lane); }",
            "for (var row = sub; row < 9u; row += subs) { data[row] = subgroupMax(lane); }",
            "let x = subgroupAdd(lane); if x > 3u { data[0] = subgroupMin(lane); }",
            "let x = subgroupBroadcast(lane, 1u); if x > 3u { data[0] = subgroupMin(lane); }",
            "if subgroupAny(lane > 7u) { data[0] = subgroupMin(lane); }",
            "var n = fixed[0]; if peek(&n) == 0u { workgroupBarrier(); }",
            "var a = array<u32, 4>(); if peek(&a[group.x & 3u]) == 0u { workgroupBarrier(); }",
        ] {
            let result = checked(&kernel(body), BudgetUnit::Work);
            assert!(result.is_ok(), "{body}: {}", result.unwrap_err());
        }
    }

    #[test]
    fn a_source_may_allow_subgroup_operations_in_any_place() {
        let body = "if lane < 8u { data[0] = subgroupAdd(lane); }";
        let allowed = |directive: &str| {
            let source = kernel(body).replacen("subgroups;", &format!("subgroups; {directive}"), 1);
            checked(&source, BudgetUnit::Work).map(|_| ())
        };
        assert_eq!(allowed("diagnostic(off, subgroup_uniformity);"), Ok(()));
        assert_eq!(allowed("diagnostic(warning, subgroup_uniformity);"), Ok(()));
        assert!(allowed("diagnostic(error, subgroup_uniformity);").is_err());
        assert!(allowed("diagnostic(off, derivative_uniformity);").is_err());
        let of_function = |severity: &str| {
            let attribute = format!("@diagnostic({severity}, subgroup_uniformity)\n@compute");
            checked(&kernel(body).replacen("@compute", &attribute, 1), BudgetUnit::Work).map(|_| ())
        };
        assert_eq!(of_function("off"), Ok(()));
        assert!(of_function("error").is_err());
        // Never a barrier.
        let barrier = kernel("if lane < 8u { workgroupBarrier(); }");
        let source = barrier.replacen("subgroups;", "subgroups; diagnostic(off, subgroup_uniformity);", 1);
        assert!(checked(&source, BudgetUnit::Work).is_err());
    }

    #[test]
    fn values_of_inactive_invocations_are_hidden() {
        for (gather, reads_lane) in [
            ("subgroupShuffle(lane, 3u)", false),
            ("subgroupShuffleUp(lane, 3u)", true),
            ("subgroupShuffleDown(lane, 3u)", true),
            ("subgroupShuffleXor(lane, 3u)", true),
            ("subgroupBroadcast(lane, 3u)", false),
            ("quadBroadcast(lane, 3u)", true),
            ("quadSwapDiagonal(lane)", true),
        ] {
            let source = kernel(&format!("let x = {gather}; data[lane] = x;"));
            let printed = checked(&source, BudgetUnit::Work).unwrap().to_wgsl().unwrap();
            assert!(printed.contains("subgroupBallot()"), "{gather}:\n{printed}");
            assert!(printed.contains("select("), "{gather}:\n{printed}");
            assert_eq!(printed.contains("gannet_lane = "), reads_lane, "{gather}:\n{printed}");
        }
        for harmless in ["subgroupAdd(lane)", "subgroupBroadcastFirst(lane)", "subgroupExclusiveMul(lane)"] {
            let source = kernel(&format!("let x = {harmless}; data[lane] = x;"));
            let printed = checked(&source, BudgetUnit::Work).unwrap().to_wgsl().unwrap();
            assert!(!printed.contains("subgroupBallot()"), "{harmless}:\n{printed}");
        }
    }

    #[test]
    fn the_members_of_ids_are_the_hardwares_only_in_the_entry_point() {
        let ids = "struct Ids { @builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32> }
            fn inner(ids: Ids) { if ids.group.x == 0u { workgroupBarrier(); } }
            @compute @workgroup_size(64) fn main(ids: Ids) {";
        assert!(checked(&format!("{ids} if ids.group.x == 0u {{ workgroupBarrier(); }} }}"), BudgetUnit::Work).is_ok());
        for call in ["inner(Ids(ids.lane, vec3<u32>(ids.lane)));", "var own = ids; own.group.x = own.lane; inner(own);"]
        {
            let refused = checked(&format!("{ids} {call} }}"), BudgetUnit::Work).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("must be reached by all invocations of a workgroup"), "{refused}");
        }
    }

    #[test]
    fn hardening_does_not_multiply_code() {
        let lets: String = (1..30).map(|n| format!("let a{n} = a{0} + a{0};", n - 1)).collect();
        let body = format!(
            "var i = 0u; loop {{ let a0 = fixed[0]; {lets} if i < a29 {{ }} else {{ break; }} data[i] = 1u; \
             continuing {{ i += 1u; }} }}"
        );
        let kernel = checked(&kernel(&body), BudgetUnit::Work).unwrap();
        let functions = kernel.module.functions.iter().map(|(_, function)| function.expressions.len());
        assert!(functions.max().unwrap() < 500);
    }

    #[test]
    fn provably_short_loops_are_left_alone_and_others_counted() {
        for (counts, body) in [
            (false, "for (var i = 0u; i < 16u; i++) { data[i] = i; }"),
            (false, "for (var i = 0; i < 16; i += 3) { data[i] = 1u; }"),
            (false, "for (var i = 20; i >= -3; i--) { data[lane] += u32(i); }"),
            (false, "for (var i = 0u; i < 8u; i++) { for (var j = 0u; j < 8u; j++) { data[i] = j; } }"),
            (false, "for (var i = lane; i < 64u; i += 1u) { data[i] = i; }"),
            (true, "for (var i = 0u; i < fixed[0]; i++) { data[i] = i; }"),
            (true, "for (var i = 0u; i < 100000u; i++) { data[i] = i; }"),
            (true, "for (var i = 0u; i < 200u; i++) { for (var j = 0u; j < 200u; j++) { data[i] = j; } }"),
            (true, "for (var i = 0u; i < 16u; i++) { data[i] = i; i = 0u; }"),
            (true, "for (var i = 0u; i < 16u; i++) { touch(&i, lane); }"),
            (true, "for (var i = 0u; i <= 4294967295u; i++) { data[i] = i; }"),
            (true, "for (var i = 0u; i < 4294967295u; i += 2u) { }"),
            (true, "for (var i = i32(lane); i < 16; i++) { data[i] = 1u; }"),
            (true, "for (var i = 5; i > 0; i++) { data[i] = 1u; }"),
            (true, "for (var i = 0u; i < 16u; i += lane) { data[i] = i; }"),
            (true, "var i = 0u; let go = i < 5u; while go { i++; }"),
            (true, "var i = 0u; while i < 5u { if lane > 2u { i++; } }"),
            (true, "var i = 0u; loop { if i < 5u { } else { break; } if lane == 3u { continue; } i++; }"),
            (true, "loop { if lane > 2u { break; } }"),
        ] {
            let result = checked(&kernel(body), BudgetUnit::Work).unwrap();
            assert_eq!(result.report.has_counted_loops, counts, "{body}");
        }
    }

    #[test]
    fn code_that_explodes_when_inlined_is_refused() {
        let mut source = String::from("fn f0(x: u32) -> u32 { return x * 3u + 1u; }\n");
        for depth in 1..18 {
            source += &format!("fn f{depth}(x: u32) -> u32 {{ return f{0}(x) + f{0}(x + 1u); }}\n", depth - 1);
        }
        source += "@group(0) @binding(0) var<storage, read_write> data: array<u32>;
            @compute @workgroup_size(1) fn main() { data[0] = f17(1u); }";
        let refused = checked(&source, BudgetUnit::Work).unwrap_err().to_string();
        assert!(refused.contains("calls, once inlined; the limit is 2048"), "{refused}");
        let long = (0..200).map(|_| "for (var i = 0u; i < 300u; i++) { }").collect::<String>();
        let refused = checked(&kernel(&long), BudgetUnit::Iterations).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("iterations of loops of constant length; the limit is 32768"), "{refused}");
    }

    #[test]
    fn what_a_software_driver_nests_too_deeply_is_refused_there() {
        let nested =
            |levels: usize| format!("{}data[0] = 1u;{}", "if fixed[0] > 1u {".repeat(levels), "}".repeat(levels));
        let chain = |levels: usize| {
            let branches: String = (0..levels).map(|n| format!("if fixed[0] == {n}u {{ return 1u; }}\n")).collect();
            format!("data[0] = chain();}}\nfn chain() -> u32 {{ {branches} return 0u;")
        };
        let switch = |levels: usize| {
            let breaks: String = (0..levels).map(|n| format!("if fixed[0] == {n}u {{ break; }}\n")).collect();
            format!("switch fixed[1] {{ case 1u: {{ {breaks} data[0] = 1u; }} default: {{ }} }}")
        };
        for body in [&nested as &dyn Fn(usize) -> String, &chain, &switch] {
            assert!(checked(&kernel(&body(60)), BudgetUnit::Iterations).is_ok());
            assert!(checked(&kernel(&body(80)), BudgetUnit::Work).is_ok());
            let refused = checked(&kernel(&body(80)), BudgetUnit::Iterations).map(|_| ()).unwrap_err().to_string();
            assert!(
                refused.contains("levels of nested branches and loops, once inlined; the limit is 68"),
                "{refused}"
            );
        }
    }

    #[test]
    fn tables_too_long_for_a_software_driver_are_refused_there() {
        let table = |rows: usize| {
            let body = "data[lane] = TABLE[data[0] % 16u];";
            let rows = "1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 11u, 12u, 13u, 14u, 15u, 16u,\n".repeat(rows);
            kernel(body) + &format!("const TABLE = array<u32, {}>({rows});", rows.lines().count() * 16)
        };
        assert!(checked(&table(256), BudgetUnit::Work).is_ok());
        assert!(checked(&table(64), BudgetUnit::Iterations).is_ok());
        let own = "var a = array<u32, 2000>(); a[lane] = 1u; data[0] = a[data[1] % 99u];";
        let inlined = "for (var i = 0u; i < data[9]; i++) { data[lane] = inner(lane) + inner(i); }}\n\
            fn inner(n: u32) -> u32 { var a = array<u32, 300>(); a[n % 9u] = 1u; return a[n & 3u]; ";
        let private =
            "scratch[lane] = 1u; data[0] = scratch[data[1] % 99u]; } var<private> scratch: array<u32, 1500>; fn x() {";
        for source in [table(256), kernel(own), kernel(inlined), kernel(private)] {
            assert!(checked(&source, BudgetUnit::Work).is_ok());
            let refused = checked(&source, BudgetUnit::Iterations).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("words of arrays that are indexed by a variable"), "{refused}");
            assert!(refused.contains("the limit is 1024"), "{refused}");
        }
        let places = "a[data[lane] & 15u] += 1u; ".repeat(200);
        let many = kernel(&format!("var a = array<u32, 256>(); {places} data[0] = a[1];"));
        let refused = checked(&many, BudgetUnit::Iterations).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("counted for each place that indexes them; the limit is 16384"), "{refused}");
        let constant = "var a = array<u32, 2000>(); a[7] = lane; data[0] = a[7] + a[8];";
        assert!(checked(&kernel(constant), BudgetUnit::Iterations).is_ok(), "indexed by constants");
    }

    #[test]
    fn what_will_run_can_be_printed() {
        let source = kernel("for (var i = 0u; i < fixed[0]; i++) { data[group.x] = i; }");
        let printed = checked(&source, BudgetUnit::Work).unwrap().to_wgsl().unwrap();
        for part in ["gannet_uniform_left", "gannet_exhausted", "@group(4)", "var<immediate>", "fn main_1("] {
            assert!(printed.contains(part), "{part} is not in:\n{printed}");
        }
    }
}
