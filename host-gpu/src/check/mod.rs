//! Reads WGSL before any driver sees it: parse, validate, resolve overrides, keep what the entry point reaches, reflect,
//! harden.
//!
//! In: WGSL, an entry point, the values of its overrides, the [`Abilities`] of the device. Out: a [`CheckedKernel`].
//! [`crate::Device::kernel`] compiles nothing else, so no source of a tenant reaches the driver unchecked.
//! [`crate::harden`] is the last step; the hardened module is validated again. A module is valid WGSL as a whole, but
//! only what the entry point reaches is judged by what kernels and the device may do.
//!
//! Invariant: pure. It allocates no GPU memory, and no input makes it panic.

mod abilities;
mod big_stack;
mod directives;
mod tokens;
mod parse;
mod reached;
mod validate;
mod reflect;

use crate::error::Error;
use crate::harden::{self, HardeningReport, Passes};
use naga::valid::Capabilities;
use naga::{Module, ShaderStage};

pub use abilities::Abilities;
pub(crate) use big_stack::on_big_stack;
pub use directives::Directives;
pub use parse::SOURCE_BYTES_MAX;
pub use reflect::{Access, EXPRESSIONS_MAX, NESTING_MAX, PRIVATE_BYTES_MAX, Variable};
pub use tokens::TOKENS_MAX;

use parse::parse;
use reflect::reflect;
use validate::{capabilities, validate, validate_wgsl, validator, with_causes};

/// Limit of the compute entry points of a module.
pub const ENTRY_POINTS_MAX: usize = 64;

/// A kernel that passed all checks and was hardened.
#[derive(Debug)]
pub struct CheckedKernel {
    /// The hardened module. It has no other entry point.
    pub module: Module,
    /// Name of the entry point.
    pub entry: String,
    /// The variables that a dispatch must bind, sorted by group and index.
    pub variables: Vec<Variable>,
    /// Invocations of one workgroup.
    pub workgroup_size: [u32; 3],
    /// What hardening changed.
    pub report: HardeningReport,
}

impl CheckedKernel {
    /// Prints the hardened module as WGSL, so that people can read what will run.
    pub fn to_wgsl(&self) -> Result<String, Error> {
        on_big_stack(|| {
            let info = validator(Capabilities::all(), true)
                .validate(&self.module)
                .map_err(|error| Error::KernelRejected(with_causes(error.as_inner())))?;
            naga::back::wgsl::write_string(&self.module, &info, naga::back::wgsl::WriterFlags::EXPLICIT_TYPES)
                .map_err(|error| Error::Unsupported(format!("the kernel cannot be printed: {error}")))
        })
    }
}

/// Returns the names of a module's compute entry points: each is a kernel.
pub fn entry_points(wgsl: &str) -> Result<Vec<String>, Error> {
    on_big_stack(|| {
        let (module, _) = parse(wgsl)?;
        let compute = module.entry_points.iter().filter(|entry| entry.stage == ShaderStage::Compute);
        let names: Vec<String> = compute.map(|entry| entry.name.clone()).collect();
        // Each is checked and compiled by itself.
        if names.len() > ENTRY_POINTS_MAX {
            return Err(Error::KernelRejected(format!(
                "the module has {} compute entry points; the limit is {ENTRY_POINTS_MAX}",
                names.len()
            )));
        }
        Ok(names)
    })
}

/// Returns whether an entry point uses overrides without a default. It can only be compiled when their values are known.
/// Fails if the module is invalid.
pub fn needs_constants(wgsl: &str, entry: &str) -> Result<bool, Error> {
    on_big_stack(|| {
        let (mut module, directives) = parse(wgsl)?;
        validate_wgsl(&module, wgsl, &directives)?;
        reached::check_entry(&module, entry)?;
        reached::keep(&mut module, entry);
        Ok(module.overrides.iter().any(|(_, value)| value.init.is_none()))
    })
}

/// Checks and hardens one entry point with the given override values.
pub fn check(wgsl: &str, entry: &str, constants: &[(String, f64)], can: Abilities) -> Result<CheckedKernel, Error> {
    check_with(wgsl, entry, constants, can, Passes::all(can.unit))
}

/// Like [`check`], with a choice of passes, for comparing their results.
pub fn check_with(
    wgsl: &str,
    entry: &str,
    constants: &[(String, f64)],
    can: Abilities,
    passes: Passes,
) -> Result<CheckedKernel, Error> {
    on_big_stack(|| check_here(wgsl, entry, constants, can, passes))
}

fn check_here(
    wgsl: &str,
    entry: &str,
    constants: &[(String, f64)],
    can: Abilities,
    passes: Passes,
) -> Result<CheckedKernel, Error> {
    let (module, directives) = parse(wgsl)?;
    let info = validate_wgsl(&module, wgsl, &directives)?;
    reached::check_entry(&module, entry)?;
    let values = constants.iter().cloned().collect();
    let stage = Some((ShaderStage::Compute, entry));
    // Before anything is removed, because a constant may be meant for an override that only another entry point uses.
    let (module, _) = naga::back::pipeline_constants::process_overrides(&module, &info, stage, &values)
        .map_err(|error| Error::KernelRejected(with_causes(&error)))?;
    let mut module = module.into_owned();
    reached::keep(&mut module, entry);
    harden::copy_pointed_to(&mut module);
    let info = validate(&module, wgsl, can)?;
    let (variables, workgroup_size) = reflect(&module, &info, wgsl, can)?;
    let report = harden::harden(&mut module, &info, wgsl, passes)?;
    let mut capabilities = capabilities(can);
    capabilities.insert(Capabilities::IMMEDIATES);
    validator(capabilities, can.subgroups).validate(&module).map_err(|error| {
        tracing::error!(error = with_causes(error.as_inner()), "a hardened kernel is not valid");
        Error::KernelRejected(format!("the kernel cannot be hardened: {}", with_causes(error.as_inner())))
    })?;
    Ok(CheckedKernel { entry: entry.to_owned(), variables, workgroup_size, module, report })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::harden::BudgetUnit;

    const CAN: Abilities = Abilities {
        f16: false,
        subgroups: false,
        workgroup_memory_max: 16384,
        workgroup_invocations_max: 256,
        unit: BudgetUnit::Work,
    };

    fn refused(wgsl: &str) -> String {
        match check(wgsl, "main", &[], CAN) {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.code(), "kernel_rejected");
                error.to_string()
            }
        }
    }

    #[test]
    fn variables_are_reflected_in_order_and_unused_ones_left_out() {
        let wgsl = "
            struct Size { x: u32, y: u32 }
            @group(1) @binding(0) var<uniform> size: Size;
            @group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
            @group(0) @binding(1) var<storage, read> in: array<u32>;
            @group(0) @binding(7) var<storage, read> unused: array<u32>;
            override N: u32 = 8;
            @compute @workgroup_size(N, 2) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                out[id.x] = vec4<f32>(f32(in[id.x] + size.x));
            }";
        let checked = check(wgsl, "main", &[("N".into(), 16.0)], CAN).unwrap();
        assert_eq!(checked.workgroup_size, [16, 2, 1]);
        let seen: Vec<_> = checked.variables.iter().map(|v| (v.group, v.index, v.access, v.size_min)).collect();
        assert_eq!(seen, [(0, 1, Access::Read, 4), (0, 2, Access::ReadWrite, 16), (1, 0, Access::Uniform, 8)]);
    }

    #[test]
    fn an_override_without_default_needs_a_constant() {
        let wgsl = |init: &str| format!("override N: u32{init}; @compute @workgroup_size(N) fn main() {{}}");
        assert!(needs_constants(&wgsl(""), "main").unwrap());
        assert!(!needs_constants(&wgsl(" = 4"), "main").unwrap());
        let other = wgsl("") + "@compute @workgroup_size(1) fn other() {}";
        assert!(!needs_constants(&other, "other").unwrap(), "an entry point that does not use it");
        assert!(check(&other, "other", &[("N".into(), 4.0)], CAN).is_ok(), "a value that it does not need");
        assert!(check(&wgsl(""), "main", &[], CAN).is_err());
        assert_eq!(check(&wgsl(""), "main", &[("N".into(), 4.0)], CAN).unwrap().workgroup_size, [4, 1, 1]);
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let message = refused("@compute @workgroup_size(1)\nfn main() { let x = ; }");
        assert!(message.starts_with("2:21: "), "{message}");
    }

    #[test]
    fn a_type_error_names_line_and_column() {
        let message = refused("@compute @workgroup_size(1)\nfn main() { var x: u32 = 1.5; }");
        assert!(message.starts_with("2:"), "{message}");
    }

    #[test]
    fn what_would_crash_a_driver_is_refused_with_value_and_limit() {
        for (wgsl, part) in [
            (
                "var<workgroup> a: array<u32, 100000000>; @compute @workgroup_size(1) fn main() { a[0] = 1u; }",
                "400000000 bytes of workgroup memory; the limit is 16384",
            ),
            (
                "@compute @workgroup_size(1) fn main() { var a: array<u32, 100000000>; a[0] = 1u; }",
                "bytes of private memory",
            ),
            (
                "@group(0) @binding(0) var<storage, read_write> o: array<u32>; @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) { let z = array<u32, 100000000>(); o[0] = z[id.x]; }",
                "a value has 400000000 bytes; the limit",
            ),
            ("@compute @workgroup_size(64, 64) fn main() {}", "4096 workgroup invocations; the limit is 256"),
            (
                "@group(9) @binding(0) var<storage> a: array<u32>; @compute @workgroup_size(1) fn main() { _ = a[0]; }",
                "groups go up to 3",
            ),
            (
                "@group(0) @binding(0) var t: texture_2d<f32>;\n@compute @workgroup_size(1) fn main() { _ = textureLoad(t, vec2(0), 0); }",
                "1:23: variable \"t\" is a texture, which kernels cannot use",
            ),
            ("@vertex fn main() -> @builtin(position) vec4<f32> { return vec4<f32>(); }", "no compute entry point"),
        ] {
            let message = refused(wgsl);
            assert!(message.contains(part), "{message}");
        }
        assert!(refused(&" ".repeat(SOURCE_BYTES_MAX + 1)).contains("the limit is 262144"));
    }

    #[test]
    fn a_long_chain_of_else_if_is_refused_as_deep() {
        let chain: String = (0..400).map(|n| format!(" else if x == {n}u {{ x = 1u; }}")).collect();
        let wgsl = format!("@compute @workgroup_size(1) fn main() {{ var x = 1u; if x == 0u {{ }}{chain} }}");
        assert!(refused(&wgsl).contains("nested more than 128 deep"));
    }

    #[test]
    fn subgroups_may_be_enabled_as_the_language_wants_it() {
        let wgsl = "enable subgroups;\n@group(0) @binding(0) var<storage, read_write> o: array<u32>;\n\
            @compute @workgroup_size(32) fn main() { o[0] = subgroupAdd(1u); }";
        assert!(check(wgsl, "main", &[], Abilities { subgroups: true, ..CAN }).is_ok());
        assert!(check(wgsl, "main", &[], Abilities { subgroups: false, ..CAN }).is_err());
        let without = wgsl.replace("enable subgroups;", "");
        let refused = check(&without, "main", &[], Abilities { subgroups: true, ..CAN }).unwrap_err().to_string();
        assert!(refused.starts_with("3:49: subgroup operations"), "{refused}");
        let built_in = "@compute @workgroup_size(32) fn main(@builtin(subgroup_size) n: u32) { _ = n; }";
        let refused = check(built_in, "main", &[], Abilities { subgroups: true, ..CAN }).unwrap_err().to_string();
        assert!(refused.starts_with("1:47: subgroup operations"), "{refused}");
    }

    #[test]
    fn what_an_entry_point_does_not_reach_is_not_judged() {
        let other = "
            @group(8) @binding(0) var picture: texture_2d<f32>;
            var<workgroup> enormous: array<u32, 1000000>;
            fn misplaced(go: bool) { if go { workgroupBarrier(); } enormous[0] = 1u; }
            @fragment fn color(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
                return textureLoad(picture, vec2<i32>(at.xy), 0);
            }";
        let wgsl = format!("@compute @workgroup_size(64) fn main() {{ }}{other}");
        assert!(check(&wgsl, "main", &[], CAN).is_ok());
        let second = "@compute @workgroup_size(64) fn second(@builtin(local_invocation_index) lane: u32) { misplaced(lane == 0u); }";
        assert!(check(&format!("{wgsl}{second}"), "main", &[], CAN).is_ok(), "beside a kernel that is refused");
        assert!(check(&format!("{wgsl}{second}"), "second", &[], CAN).is_err());
        assert!(check(&format!("{wgsl} fn broken() -> u32 {{ return 1.5; }}"), "main", &[], CAN).is_err());
    }

    #[test]
    fn honest_long_functions_are_accepted() {
        // The size of the largest tiled matrix products that compilers of models generate.
        let body: String = (0..2200).map(|n| format!("acc{} += tile[{}u] * f32(lane);\n", n % 8, n % 64)).collect();
        let vars: String = (0..8).map(|n| format!("var acc{n} = 0.0;")).collect();
        let wgsl = format!(
            "var<workgroup> tile: array<f32, 64>;
            @group(0) @binding(0) var<storage, read_write> o: array<f32>;
            @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {{
            {vars} {body} o[lane] = acc0 + acc1 + acc2 + acc3 + acc4 + acc5 + acc6 + acc7; }}"
        );
        assert!(wgsl.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count() > 11_000);
        check(&wgsl, "main", &[], CAN).unwrap();
    }

    #[test]
    fn a_comment_ends_at_every_line_break_so_nothing_hides_behind_one() {
        let long = format!("var a = 0u; a = a{};", "+a".repeat(130_000));
        for end in ["\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
            let refused = refused(&format!("//{end}@compute @workgroup_size(1) fn main() {{ {long} }}"));
            assert!(refused.contains("tokens"), "{end:?}: {refused}");
        }
        let members =
            format!("@compute @workgroup_size(1) fn main() {{ var v = vec2(0u); v = v{}; }}", ".xy".repeat(80_000));
        assert!(refused(&members).contains("tokens"));
        let entries: String = (0..65).map(|n| format!("@compute @workgroup_size(1) fn e{n}() {{}}\n")).collect();
        assert!(entry_points(&entries).unwrap_err().to_string().contains("65 compute entry points; the limit is 64"));
    }

    #[test]
    fn many_calls_with_pointers_to_parts_share_their_copies() {
        let calls = "f(&s.a, 1u);".repeat(100);
        let wgsl = format!(
            "struct S {{ a: array<u32, 256>, b: u32 }} fn f(p: ptr<function, array<u32, 256>>, i: u32) {{ (*p)[i] += 1u; }}
            @group(0) @binding(0) var<storage, read_write> o: array<u32>;
            @compute @workgroup_size(1) fn main() {{ var s = S(); {calls} o[0] = s.a[1]; }}"
        );
        check(&wgsl, "main", &[], CAN).unwrap();
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_panics() {
        let deep = format!(
            "@compute @workgroup_size(1) fn main() {{ let x = {}1{}; }}",
            "(".repeat(50_000),
            ")".repeat(50_000)
        );
        let _ = check(&deep, "main", &[], CAN);
        let blocks =
            format!("@compute @workgroup_size(1) fn main() {{ {} {} }}", "{".repeat(50_000), "}".repeat(50_000));
        let _ = check(&blocks, "main", &[], CAN);
    }
}
