//! Computes what code costs, before it runs: for one iteration of each loop, and for all code outside of counted loops.
//!
//! - A loop that is provably short ([`super::short_loop`]) and cheap is not counted. The cost of all its iterations is
//!   added to the surrounding code.
//! - Any other loop is counted: each iteration costs as much as its body, without the iterations of nested counted
//!   loops.
//! - A call costs as much as its callee. Straight-line code can be exponential in the depth of calls: [`COST_MAX`]
//!   bounds its work at run time, and [`INLINED_MAX`] and [`CALLS_MAX`] bound the code that a compiler makes of it by
//!   inlining.
//!
//! The weights follow the worst case on a GPU: memory costs more than arithmetic, an atomic operation more than a load,
//! and copying an array costs in proportion to its length.

use super::message::rejected;
use super::short_loop;
use super::unroll;
use super::written_arguments;
use crate::error::Error;
use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    AddressSpace, Block, Expression, Function, GlobalVariable, Handle, MathFunction, Module, Statement, TypeInner,
};
use std::collections::{HashMap, HashSet};

/// What a loop budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetUnit {
    /// Weighted operations, as a measure of GPU time.
    Work,
    /// Loop iterations as a software driver counts them, because it silently ends all loops after 65,535 of them. It
    /// counts each time that it has come to the end of a loop's body: also when the loop's condition fails, and also if
    /// no invocation runs the loop, because it skips no code.
    Iterations,
}

/// Limit of expressions and statements of an entry point with all calls inlined.
pub const INLINED_MAX: u64 = 100_000;
/// Limit of calls of an entry point with all calls inlined. A driver took 7 s to compile 4,096 of them.
pub const CALLS_MAX: u64 = 2048;
/// Limit of the cost of an entry point outside of counted loops, in weighted operations.
pub const COST_MAX: u64 = 4 << 20;
/// A loop whose iterations cost more than this in total is counted, however short it is.
const SHORT_COST_MAX: u64 = 16 << 10;
/// A loop with more iterations than this in total, those of nested loops included, is counted.
const SHORT_ITERATIONS_MAX: u64 = 1024;
/// Limit of the iterations of an entry point outside of counted loops, if budgets count iterations.
const ITERATIONS_MAX: u64 = 32 << 10;

/// Limit of nested branches and loops if budgets count iterations: a software driver ignores those beyond 80 levels. Some
/// are left for the code that hardening and the driver add.
const SOFTWARE_DEPTH_MAX: u64 = 68;

/// Limit of an invocation's own memory that is indexed by a value that is not a constant, in four-byte words, if budgets
/// count iterations. A software driver makes branches of it: it took 0.5 s to compile 256 words, 10 s to compile 1,024.
const SOFTWARE_INDEXED_MAX: u64 = 1024;
/// Limit of those words, counted once for each place that indexes them: each place took 40 ms to compile with 256 words.
const SOFTWARE_ACCESSED_MAX: u64 = 16 << 10;

/// Cost of the code that counts one iteration.
const COUNTING_COST: u64 = 12;

/// Whether a loop is counted, and the cost of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopCost {
    /// Provably short and cheap: not counted.
    Uncounted,
    /// Counted: each iteration takes this much from the budget.
    Counted(u32),
    /// Counted, and each iteration costs 1. Several may be made in one ([`super::unroll`]).
    Unrolled,
}

/// Memory of an invocation that is indexed by a value that is not a constant.
#[derive(Debug, Clone, Copy, Default)]
struct Indexed {
    /// Words of it.
    words: u64,
    /// Words of it, counted once for each place that indexes it.
    accessed: u64,
}

impl Indexed {
    fn plus(self, other: Self) -> Self {
        Self { words: self.words.saturating_add(other.words), accessed: self.accessed.saturating_add(other.accessed) }
    }

    fn times(self, times: u64) -> Self {
        Self { words: self.words.saturating_mul(times), accessed: self.accessed.saturating_mul(times) }
    }
}

/// The costs of each function's loops, in the order in which they begin in the source.
#[derive(Debug, Default)]
pub(super) struct Costs {
    pub entry: Vec<LoopCost>,
    pub functions: HashMap<Handle<Function>, Vec<LoopCost>>,
    /// Iterations of the entry point's loops outside of counted loops.
    pub iterations: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Weighted operations at run time, without those in nested counted loops.
    work: u64,
    /// What a software driver counts: the iterations of loops that are not counted here, and one pass through each loop
    /// that is.
    iterations: u64,
    /// What a software driver counts if no invocation runs this code: one pass through each loop.
    passes: u64,
    /// Expressions and statements after inlining.
    size: u64,
    calls: u64,
    /// Own memory that is indexed by a value that is not a constant, after inlining.
    indexed: Indexed,
    /// Levels of nested branches and loops after inlining, as a software driver nests them.
    depth: u64,
    /// Whether invocations may leave the function here. What follows is then nested one level deeper.
    leaves: bool,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.work = self.work.saturating_add(other.work);
        self.iterations = self.iterations.saturating_add(other.iterations);
        self.passes = self.passes.saturating_add(other.passes);
        self.size = self.size.saturating_add(other.size);
        self.calls = self.calls.saturating_add(other.calls);
        self.indexed = self.indexed.plus(other.indexed);
        self.depth = self.depth.max(other.depth);
        self.leaves |= other.leaves;
    }

    /// Returns the cost of code that is nested some levels deeper.
    fn nested(self, levels: u64) -> Self {
        Self { depth: self.depth.saturating_add(levels), ..self }
    }
}

pub(super) fn weigh(module: &Module, info: &ModuleInfo, wgsl: &str, unit: BudgetUnit) -> Result<Costs, Error> {
    let mut known: HashMap<Handle<Function>, Cost> = HashMap::new();
    let mut costs = Costs::default();
    let mut indexed_globals = HashSet::new();
    for (handle, function) in module.functions.iter() {
        let mut weigher = Weigher { module, function, info: &info[handle], known: &known, unit, loops: Vec::new() };
        let mut cost = weigher.block(&function.body);
        cost.indexed = cost.indexed.plus(weigher.indexed(&mut indexed_globals));
        costs.functions.insert(handle, weigher.loops);
        known.insert(handle, cost);
    }
    for (index, entry) in module.entry_points.iter().enumerate() {
        let info = info.get_entry_point(index);
        let mut weigher = Weigher { module, function: &entry.function, info, known: &known, unit, loops: Vec::new() };
        let mut cost = weigher.block(&entry.function.body);
        cost.indexed = cost.indexed.plus(weigher.indexed(&mut indexed_globals));
        for global in &indexed_globals {
            let ty = &module.types[module.global_variables[*global].ty].inner;
            cost.indexed.words = cost.indexed.words.saturating_add(words(ty.try_size(module.to_ctx())));
        }
        costs.entry = weigher.loops;
        costs.iterations = cost.iterations;
        let [iterations_max, depth_max, indexed_max, accessed_max] = match unit {
            BudgetUnit::Iterations => [ITERATIONS_MAX, SOFTWARE_DEPTH_MAX, SOFTWARE_INDEXED_MAX, SOFTWARE_ACCESSED_MAX],
            BudgetUnit::Work => [u64::MAX; 4],
        };
        for (what, value, limit) in [
            ("calls, once inlined", cost.calls, CALLS_MAX),
            ("expressions and statements, once inlined", cost.size, INLINED_MAX),
            ("operations outside of counted loops", cost.work, COST_MAX),
            ("iterations of loops of constant length", cost.iterations, iterations_max),
            ("levels of nested branches and loops, once inlined", cost.depth, depth_max),
            (
                "words of arrays that are indexed by a variable, once inlined, for a software driver",
                cost.indexed.words,
                indexed_max,
            ),
            ("words of such arrays, counted for each place that indexes them", cost.indexed.accessed, accessed_max),
        ] {
            if value > limit {
                let place = entry.function.body.span_iter().next().map_or(naga::Span::UNDEFINED, |(_, span)| *span);
                let message = format!("entry point {:?} has {value} {what}; the limit is {limit}", entry.name);
                return Err(rejected(place, wgsl, &message));
            }
        }
    }
    Ok(costs)
}

/// Converts a size in bytes to four-byte words.
fn words(bytes: Option<u32>) -> u64 {
    u64::from(bytes.unwrap_or(u32::MAX)).div_ceil(4).max(1)
}

/// Whether code returns from its function.
fn returns(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Return { .. } => true,
        Statement::Block(inner) => returns(inner),
        Statement::If { accept, reject, .. } => returns(accept) || returns(reject),
        Statement::Switch { cases, .. } => cases.iter().any(|case| returns(&case.body)),
        Statement::Loop { body, continuing, .. } => returns(body) || returns(continuing),
        _ => false,
    })
}

struct Weigher<'a> {
    module: &'a Module,
    function: &'a Function,
    info: &'a FunctionInfo,
    known: &'a HashMap<Handle<Function>, Cost>,
    unit: BudgetUnit,
    loops: Vec<LoopCost>,
}

impl Weigher<'_> {
    fn block(&mut self, block: &Block) -> Cost {
        let (mut sum, mut left) = (Cost::default(), 0);
        for statement in block.iter() {
            let cost = self.statement(statement);
            sum.add(cost.nested(left));
            left += u64::from(cost.leaves);
        }
        sum
    }

    fn statement(&mut self, statement: &Statement) -> Cost {
        let mut cost = Cost { work: 1, size: 1, ..Cost::default() };
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    cost.work = cost.work.saturating_add(self.expression(handle));
                    cost.size += 1;
                }
            }
            Statement::Block(inner) => cost.add(self.block(inner)),
            // The cost of both branches: invocations that run in step execute both.
            Statement::If { accept, reject, .. } => {
                cost.add(self.block(accept).nested(1));
                cost.add(self.block(reject).nested(1));
            }
            Statement::Return { .. } | Statement::Break => cost.leaves = true,
            Statement::Switch { cases, .. } => {
                for case in cases {
                    let case = self.block(&case.body);
                    cost.add(Cost { leaves: cost.leaves, ..case.nested(1) });
                }
                cost.leaves = cases.iter().any(|case| returns(&case.body));
            }
            Statement::Loop { body, continuing, break_if } => cost.add(self.looped(body, continuing, *break_if)),
            Statement::Call { function, .. } => {
                cost.calls = 1;
                let callee = self.known.get(function).copied().unwrap_or_default();
                cost.add(Cost { leaves: false, ..callee.nested(1) });
            }
            Statement::Store { pointer, value } => {
                let words = self.words(*value);
                cost.work = cost.work.saturating_add(self.memory(*pointer).saturating_mul(words));
            }
            Statement::Atomic { .. } => cost.work += 64,
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) | Statement::WorkGroupUniformLoad { .. } => {
                cost.work += 16;
            }
            // With the code that `inactive_lanes` adds.
            Statement::SubgroupGather { .. } => {
                cost.work += 32;
                cost.size += 24;
            }
            _ => cost.work += 8,
        }
        cost
    }

    fn looped(&mut self, body: &Block, continuing: &Block, break_if: Option<Handle<Expression>>) -> Cost {
        let index = self.loops.len();
        self.loops.push(LoopCost::Uncounted);
        let mut once = self.block(body);
        once.add(self.block(continuing));
        // The loop, the branch around it that a charge adds, and its guard.
        once = once.nested(2);
        once.leaves = returns(body);
        let proven = short_loop::trips(self.module, self.function, body, continuing);
        let whole = proven.map(|trips| {
            // The condition is evaluated once more than the body runs.
            let trips = trips.saturating_add(1);
            let work = once.work.saturating_mul(trips);
            (work, once.iterations.saturating_add(1).saturating_mul(trips))
        });
        if let Some((work, iterations)) = whole
            && work <= SHORT_COST_MAX
            && iterations <= SHORT_ITERATIONS_MAX
        {
            return Cost { work, iterations, passes: once.passes.saturating_add(1), ..once };
        }
        // Counting costs work too, so that an empty loop is not free.
        let cost = match self.unit {
            BudgetUnit::Work => once.work.saturating_add(COUNTING_COST),
            BudgetUnit::Iterations => once.iterations.saturating_add(1),
        };
        let is_short =
            once.passes == 0 && once.size <= unroll::SIZE_MAX && once.calls <= unroll::CALLS_MAX && break_if.is_none();
        let unrolled = self.unit == BudgetUnit::Iterations
            && is_short
            && unroll::is_possible(body)
            && unroll::is_possible(continuing);
        if let Some(entry) = self.loops.get_mut(index) {
            let counted = LoopCost::Counted(u32::try_from(cost).unwrap_or(u32::MAX));
            *entry = if unrolled { LoopCost::Unrolled } else { counted };
        }
        if unrolled {
            once.size = once.size.saturating_mul(u64::from(unroll::COPIES));
            once.calls = once.calls.saturating_mul(u64::from(unroll::COPIES));
            once.indexed = once.indexed.times(u64::from(unroll::COPIES));
        }
        // If it is run, it is charged for more than this one pass.
        let passes = once.passes.saturating_add(1);
        Cost { work: 1, iterations: passes, passes, ..once }
    }

    /// Returns the words of the function's own variables and values that it indexes by a value that is not a constant, and
    /// collects the private variables of the module that it indexes so.
    fn indexed(&self, globals: &mut HashSet<Handle<GlobalVariable>>) -> Indexed {
        let mut seen = HashSet::new();
        let mut sum = Indexed::default();
        for (_, expression) in self.function.expressions.iter() {
            let Expression::Access { base, .. } = *expression else { continue };
            let inner = self.info[base].ty.inner_with(&self.module.types);
            let root = written_arguments::root(self.function, base);
            let (ty, number) = match (inner.pointer_space(), root) {
                (Some(AddressSpace::Private), Expression::GlobalVariable(global)) => {
                    globals.insert(*global);
                    (self.module.global_variables[*global].ty, None)
                }
                (Some(AddressSpace::Function), Expression::LocalVariable(local)) => {
                    (self.function.local_variables[*local].ty, Some((local.index(), true)))
                }
                (None, _) if !matches!(inner, TypeInner::Vector { .. } | TypeInner::Matrix { .. }) => {
                    let Some(ty) = self.info[base].ty.handle() else { continue };
                    (ty, Some((base.index(), false)))
                }
                // The variable of a caller. It counts in each function that indexes it.
                (Some(AddressSpace::Function | AddressSpace::Private), Expression::FunctionArgument(index)) => {
                    let declared = self.function.arguments.get(*index as usize).map(|argument| argument.ty);
                    let Some(TypeInner::Pointer { base: ty, .. }) = declared.map(|ty| &self.module.types[ty].inner)
                    else {
                        continue;
                    };
                    (*ty, Some((*index as usize, false)))
                }
                _ => continue,
            };
            let size = words(self.module.types[ty].inner.try_size(self.module.to_ctx()));
            let is_new = number.is_some_and(|number| seen.insert((ty, number)));
            sum = sum.plus(Indexed { words: if is_new { size } else { 0 }, accessed: size });
        }
        sum
    }

    /// Returns the size of a value in four-byte words.
    fn words(&self, value: Handle<Expression>) -> u64 {
        let inner = self.info[value].ty.inner_with(&self.module.types);
        if inner.pointer_space().is_some() {
            return 1;
        }
        words(inner.try_size(self.module.to_ctx()))
    }

    /// Returns the cost of accessing one word in the address space that a pointer points to.
    fn memory(&self, pointer: Handle<Expression>) -> u64 {
        let space = self.info[pointer].ty.inner_with(&self.module.types).pointer_space();
        match space {
            Some(AddressSpace::Storage { .. }) => 16,
            Some(AddressSpace::WorkGroup) => 4,
            Some(AddressSpace::Uniform) => 2,
            _ => 1,
        }
    }

    fn expression(&self, handle: Handle<Expression>) -> u64 {
        match &self.function.expressions[handle] {
            Expression::Load { pointer } => self.memory(*pointer).saturating_mul(self.words(handle)),
            Expression::Math { fun, .. } => match fun {
                MathFunction::Abs | MathFunction::Min | MathFunction::Max | MathFunction::Fma => 1,
                _ => 8,
            },
            Expression::Binary { op: naga::BinaryOperator::Divide | naga::BinaryOperator::Modulo, .. } => {
                8_u64.saturating_mul(self.words(handle))
            }
            Expression::AccessIndex { .. } | Expression::ArrayLength(_) => 1,
            _ => self.words(handle),
        }
    }
}
