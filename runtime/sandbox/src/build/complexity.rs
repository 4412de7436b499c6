//! Bounds, ahead of compiling, what compiling a component may cost. Compilers take a multiple of the usual time for code
//! with many values that live across many branches, deep nests of loops, or long lists of parameters.
//!
//! Measured: 300 nested loops over 1,000 locals take 11 KB, and more than 39 s of CPU time to compile; usual code of
//! that size takes 20 ms. Each limit is above what large programs have (CPython, ffmpeg, a 45 MB compiler, unoptimised
//! Rust). Accepted code may still be slow: then the limit on CPU time ends the build.
//!
//! It must stay safe code, because it runs before the builder's last layer of confinement is active.

use crate::build::component::invalid;
use gannet_base::hop::build::Rejected;
use wasmparser::{BinaryReaderError, CompositeInnerType, Encoding, FunctionBody, Operator, Parser, Payload};

/// Limits on one function: its bytes, its loops, how deep they are nested, the number of its branches times that of the
/// locals that are read across a branch, and the same with all locals that it uses.
const BODY_BYTES_MAX: u64 = 2 << 20;
const LOOPS_MAX: u64 = 4_000;
const LOOP_DEPTH_MAX: u64 = 64;
const READ_ACROSS_BRANCHES_MAX: u64 = 40_000_000;
const USED_ACROSS_BRANCHES_MAX: u64 = 400_000_000;
/// Parameters and results of a function or block together.
const PARAMETERS_MAX: u64 = 200;
/// Limits on the whole component.
const TYPES_MAX: u64 = 10_000;
const FUNCTIONS_MAX: u64 = 150_000;
const MODULES_MAX: u64 = 256;
const ADAPTERS_MAX: u64 = 2_000;

fn within(value: u64, limit: u64, what: impl FnOnce() -> String) -> Result<(), Rejected> {
    if value <= limit {
        return Ok(());
    }
    Err(invalid(format!("it would take too long to compile: {} = {value}; the limit is {limit}", what())))
}

fn malformed(error: BinaryReaderError) -> Rejected {
    invalid(format!("not valid at byte {}: {}", error.offset(), error.message()))
}

/// Checks a valid component.
pub(super) fn check(bytes: &[u8]) -> Result<(), Rejected> {
    let (mut types, mut functions, mut modules, mut adapters) = (0, 0, 0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding: Encoding::Module, .. } => {
                modules += 1;
                within(modules, MODULES_MAX, || "core modules".into())?;
            }
            Payload::TypeSection(section) => {
                for group in section {
                    for kind in group.map_err(malformed)?.into_types() {
                        types += 1;
                        within(types, TYPES_MAX, || "types".into())?;
                        if let CompositeInnerType::Func(function) = &kind.composite_type.inner {
                            let count = function.params().len() + function.results().len();
                            within(count as u64, PARAMETERS_MAX, || "parameters and results of a function".into())?;
                        }
                    }
                }
            }
            Payload::FunctionSection(section) => {
                functions += u64::from(section.count());
                within(functions, FUNCTIONS_MAX, || "functions".into())?;
            }
            Payload::ComponentCanonicalSection(section) => {
                adapters += u64::from(section.count());
                within(adapters, ADAPTERS_MAX, || "adapters between the component and its modules".into())?;
            }
            Payload::CodeSectionEntry(body) => check_function(&body)?,
            _ => {}
        }
    }
    Ok(())
}

/// Counts what makes a function slow to compile.
#[derive(Default)]
struct Function {
    /// For each local the straight piece of code in which it was last set; pieces are counted from 0.
    set_in: Vec<u32>,
    /// Whether a local was used, and whether it was read in another piece than it was set in.
    used: Vec<bool>,
    crosses: Vec<bool>,
    piece: u32,
    branches: u64,
    loops: u64,
    /// For each open block whether it is a loop.
    open: Vec<bool>,
    loop_depth: u64,
    loop_depth_max: u64,
}

impl Function {
    fn local(&mut self, index: u32) -> usize {
        let index = index as usize;
        // A function may declare many locals and use few.
        if index >= self.used.len() {
            self.set_in.resize(index + 1, 0);
            self.used.resize(index + 1, false);
            self.crosses.resize(index + 1, false);
        }
        if let Some(used) = self.used.get_mut(index) {
            *used = true;
        }
        index
    }

    fn branch(&mut self, count: u64) {
        self.branches += count;
        self.piece = self.piece.saturating_add(1);
    }

    fn open(&mut self, is_loop: bool) {
        self.open.push(is_loop);
        if is_loop {
            self.loops += 1;
            self.loop_depth += 1;
            self.loop_depth_max = self.loop_depth_max.max(self.loop_depth);
        }
        self.branch(if is_loop { 2 } else { 1 });
    }

    fn count(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::LocalGet { local_index } => {
                let index = self.local(*local_index);
                let crosses = self.set_in.get(index).is_some_and(|set_in| *set_in != self.piece);
                if let Some(known) = self.crosses.get_mut(index).filter(|_| crosses) {
                    *known = true;
                }
            }
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                let (index, piece) = (self.local(*local_index), self.piece);
                if let Some(set_in) = self.set_in.get_mut(index) {
                    *set_in = piece;
                }
            }
            Operator::Loop { .. } => self.open(true),
            Operator::Block { .. } => self.open(false),
            Operator::TryTable { try_table } => {
                self.open(false);
                self.branch(try_table.catches.len() as u64);
            }
            Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. }
            | Operator::BrOnCast { .. }
            | Operator::BrOnCastFail { .. } => self.branch(2),
            Operator::If { .. } => {
                self.open(false);
                self.branch(1);
            }
            Operator::End => {
                if self.open.pop() == Some(true) {
                    self.loop_depth -= 1;
                }
                self.branch(1);
            }
            Operator::Else | Operator::Br { .. } | Operator::Return => self.branch(1),
            Operator::BrIf { .. } => self.branch(2),
            Operator::BrTable { targets } => self.branch(u64::from(targets.len()) + 1),
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => self.branch(3),
            Operator::TableGet { .. } | Operator::TableSet { .. } => self.branch(2),
            _ => {}
        }
    }
}

fn check_function(body: &FunctionBody<'_>) -> Result<(), Rejected> {
    let range = body.range();
    let of = |what: &str| format!("{what} in the function at byte {}", range.start);
    within((range.end - range.start) as u64, BODY_BYTES_MAX, || of("bytes"))?;
    let mut function = Function::default();
    for operator in body.get_operators_reader().map_err(malformed)? {
        function.count(&operator.map_err(malformed)?);
    }
    within(function.loops, LOOPS_MAX, || of("loops"))?;
    within(function.loop_depth_max, LOOP_DEPTH_MAX, || of("nested loops"))?;
    let count = |locals: &[bool]| locals.iter().filter(|local| **local).count() as u64;
    let product = |locals: u64| locals.saturating_mul(function.branches);
    within(product(count(&function.crosses)), READ_ACROSS_BRANCHES_MAX, || {
        of("locals that are read across branches, times branches,")
    })?;
    within(product(count(&function.used)), USED_ACROSS_BRANCHES_MAX, || of("locals, times branches,"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn checked(functions: &str) -> Result<(), String> {
        let bytes = wat::parse_str(format!("(component (core module {functions}))")).unwrap();
        check(&bytes).map_err(|rejected| rejected.detail)
    }

    fn refused(functions: &str, part: &str) {
        let told = checked(functions).unwrap_err();
        assert!(told.contains(part), "{part} in {told}");
    }

    #[test]
    fn each_kind_of_code_that_is_slow_to_compile_is_refused_ahead() {
        let nest = |depth: usize| format!("(func {} {})", "loop ".repeat(depth), "end ".repeat(depth));
        assert_eq!(checked(&nest(64)), Ok(()));
        refused(&nest(65), "nested loops in the function at byte");
        refused(&format!("(func {})", "loop end ".repeat(4_001)), "= 4001; the limit is 4000");
        refused(&format!("(func (param {}))", "i32 ".repeat(201)), "parameters and results of a function = 201");
        // Locals that are set, and read behind each of many branches.
        let across = |locals: usize, branches: usize| {
            let names: Vec<String> = (0..locals).map(|at| at.to_string()).collect();
            let all = |kind: &str, with: &str| names.iter().map(|at| format!("{with}{kind} {at} ")).collect::<String>();
            let set = all("local.set", "i32.const 1 ");
            let get: String = names.iter().map(|at| format!("local.get {at} drop ")).collect();
            let branches = "block end ".repeat(branches);
            format!("(func (local {}) {set} {branches} {get})", "i32 ".repeat(locals))
        };
        assert_eq!(checked(&across(1_000, 10_000)), Ok(()));
        refused(&across(1_000, 21_000), "locals that are read across branches, times branches, in the function");
        // Those that are read where they are set count less.
        let local = "i32.const 1 local.set 0 local.get 0 drop block end ".repeat(60_000);
        assert_eq!(checked(&format!("(func (local i32) {local})")), Ok(()));
        // A table has as many branches as targets.
        let names: String = (0..1_000).map(|at| format!("local.get {at} drop ")).collect();
        let table = format!("block i32.const 0 br_table {}0 end", "0 ".repeat(41_000));
        refused(&format!("(func (local {}) {table} {names})", "i32 ".repeat(1_000)), "times branches");
        refused(&format!("(func {})", "nop ".repeat((2 << 20) + 1)), "bytes in the function at byte");
        refused(&"(type (func))".repeat(10_001), "types = 10001");
    }
}
