//! Refuses barriers that only some invocations of a workgroup may reach, and subgroup operations that only some invocations
//! of a subgroup may reach. Finds the uniform loops: those that all invocations of a workgroup run together.
//!
//! naga accepts a barrier in non-uniform control flow, but its behavior on a GPU is undefined. The
//! analysis is coarser than WGSL's own and errs on the safe side:
//!
//! - *Scope.* It runs once for the invocations of a workgroup and, if the module has subgroup operations, once for those of
//!   a subgroup. "Uniform" means: the same in all invocations of the scope.
//! - *Sources.* These values are uniform: constants, `workgroup_id`, `num_workgroups`, `subgroup_size`, `num_subgroups`,
//!   values that are read from uniform and read-only storage variables at a uniform index, and the result of
//!   `workgroupUniformLoad`. In a subgroup, also `subgroup_id` and the results of votes, ballots, broadcasts and
//!   reductions. All other values from memory or the hardware are non-uniform.
//! - *Variables.* A local variable is uniform if every store to it has a uniform value and a uniform index and is in
//!   uniform control flow. A variable that a callee may write through a pointer is non-uniform. What a pointer argument
//!   points to is uniform if it is uniform at every call and the function does not write through it.
//! - *Branches.* The branches of an `if` or `switch` on a non-uniform value are non-uniform. Control flow joins after
//!   them.
//! - *Loops.* A loop that some invocations may leave or continue earlier than others is non-uniform in its whole body.
//! - *Returns.* After a `return` that only some invocations take, the rest of that function is non-uniform.
//! - *Calls.* A function's control flow and arguments are uniform only if they are uniform at every call.
//!
//! A misplaced subgroup operation is a mistake, but no danger: SPIR-V defines these operations for the active invocations,
//! and [`super::inactive_lanes`] hides the values of others. So an author may allow it, as in WGSL, with
//! `diagnostic(off, subgroup_uniformity)` for the module or a function.
//!
//! The analysis runs to a fixpoint, because variables carry values around loops. Values only change from uniform to
//! non-uniform, so it ends. After [`ROUNDS_MAX`] rounds it stops and treats all local variables, results and
//! loops of the function as non-uniform.

use super::message::{line, rejected};
use super::scope::{Given, Scope};
use super::written_arguments::{self, root};
use crate::error::Error;
use naga::{
    AddressSpace, Binding, Block, CollectiveOperation, Expression, Function, GatherMode, Handle, LocalVariable, Module,
    Span, Statement, StorageAccess, TypeInner,
};
use std::collections::{HashMap, HashSet};

/// Rounds before the analysis gives up on a fixpoint. Real kernels need two or three.
const ROUNDS_MAX: usize = 24;

/// Which loops are uniform, in the order in which they begin in the source.
#[derive(Debug, Default)]
pub(super) struct UniformLoops {
    /// Loops of the entry point.
    pub entry: Vec<bool>,
    /// Loops of each function.
    pub functions: HashMap<Handle<Function>, Vec<bool>>,
}

/// The uniformity of all calls of a function together.
#[derive(Debug, Clone)]
struct CallContext {
    /// A call in non-uniform control flow, if there is one.
    diverged: Option<Span>,
    /// Whether each argument is uniform at every call.
    arguments: Vec<bool>,
}

pub(super) fn analyse(module: &Module, wgsl: &str) -> Result<UniformLoops, Error> {
    let written = written_arguments::find(module);
    let given = Given { module, wgsl, scope: Scope::Workgroup, written: &written };
    let loops = analyse_scope(given)?;
    let mut functions =
        module.functions.iter().map(|(_, f)| f).chain(module.entry_points.iter().map(|entry| &entry.function));
    let has_subgroup_operations = functions.any(|function| {
        let is_result = |expression: &Expression| {
            matches!(expression, Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. })
        };
        function.expressions.iter().any(|(_, expression)| is_result(expression))
    });
    if has_subgroup_operations {
        analyse_scope(Given { scope: Scope::Subgroup, ..given })?;
    }
    Ok(loops)
}

fn analyse_scope(given: Given<'_>) -> Result<UniformLoops, Error> {
    let module = given.module;
    let mut results: HashMap<Handle<Function>, bool> = HashMap::new();
    let mut contexts = HashMap::new();
    for (handle, function) in module.functions.iter() {
        let context = CallContext { diverged: None, arguments: vec![true; function.arguments.len()] };
        let mut walk = FunctionWalk::new(given, function, Some(handle), &context, &results);
        walk.settle()?;
        let uniform = walk.result;
        results.insert(handle, uniform);
        contexts.insert(handle, context);
    }
    let mut uniform = UniformLoops::default();
    for entry in &module.entry_points {
        let arguments = entry.function.arguments.iter().map(|argument| match argument.binding {
            Some(Binding::BuiltIn(built_in)) => given.scope.is_uniform(built_in),
            _ => false,
        });
        let context = CallContext { diverged: None, arguments: arguments.collect() };
        uniform.entry = visit(given, &entry.function, None, &context, &results, &mut contexts)?;
    }
    // A function is only called by later functions and by the entry point, so callers are visited before callees.
    let handles: Vec<_> = module.functions.iter().map(|(handle, _)| handle).collect();
    for handle in handles.into_iter().rev() {
        let Some(context) = contexts.get(&handle).cloned() else { continue };
        let loops = visit(given, &module.functions[handle], Some(handle), &context, &results, &mut contexts)?;
        uniform.functions.insert(handle, loops);
    }
    Ok(uniform)
}

/// Analyses one function in its context, refuses its misplaced barriers, and adds its calls to its callees' contexts.
/// Returns whether each of its loops is uniform.
fn visit(
    given: Given<'_>,
    function: &Function,
    handle: Option<Handle<Function>>,
    context: &CallContext,
    results: &HashMap<Handle<Function>, bool>,
    contexts: &mut HashMap<Handle<Function>, CallContext>,
) -> Result<Vec<bool>, Error> {
    let mut walk = FunctionWalk::new(given, function, handle, context, results);
    walk.settle()?;
    walk.checking = true;
    walk.round()?;
    for (callee, diverged, arguments) in walk.calls {
        let Some(known) = contexts.get_mut(&callee) else { continue };
        known.diverged = known.diverged.or(diverged);
        for (known, uniform) in known.arguments.iter_mut().zip(arguments) {
            *known &= uniform;
        }
    }
    Ok(walk.loops)
}

/// Exits that some, but not all, invocations may have taken by the end of a block. Each has the place from which
/// control flow may differ.
#[derive(Debug, Clone, Copy, Default)]
struct PartialExits {
    broke: Option<Span>,
    continued: Option<Span>,
    returned: Option<Span>,
}

impl PartialExits {
    fn any(self) -> Option<Span> {
        self.returned.or(self.broke).or(self.continued)
    }

    fn and(self, other: Self) -> Self {
        Self {
            broke: self.broke.or(other.broke),
            continued: self.continued.or(other.continued),
            returned: self.returned.or(other.returned),
        }
    }
}

struct FunctionWalk<'a> {
    given: Given<'a>,
    function: &'a Function,
    /// Whether it is the entry point.
    is_entry: bool,
    /// The arguments through which the function writes.
    written: &'a [bool],
    context: &'a CallContext,
    results: &'a HashMap<Handle<Function>, bool>,
    /// Whether each expression, by index, is uniform, as of the latest round.
    values: Vec<bool>,
    /// Non-uniform results of calls and subgroup operations.
    varying_results: HashSet<Handle<Expression>>,
    varying_locals: HashSet<Handle<LocalVariable>>,
    loops: Vec<bool>,
    next_loop: usize,
    /// Whether the function's result is uniform.
    result: bool,
    changed: bool,
    checking: bool,
    calls: Vec<(Handle<Function>, Option<Span>, Vec<bool>)>,
}

impl<'a> FunctionWalk<'a> {
    fn new(
        given: Given<'a>,
        function: &'a Function,
        handle: Option<Handle<Function>>,
        context: &'a CallContext,
        results: &'a HashMap<Handle<Function>, bool>,
    ) -> Self {
        let written = handle.and_then(|handle| given.written.get(&handle)).map(Vec::as_slice).unwrap_or_default();
        Self {
            given,
            function,
            is_entry: handle.is_none(),
            written,
            context,
            results,
            values: Vec::new(),
            varying_results: HashSet::new(),
            varying_locals: HashSet::new(),
            loops: Vec::new(),
            next_loop: 0,
            result: true,
            changed: false,
            checking: false,
            calls: Vec::new(),
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            if !self.changed {
                return Ok(());
            }
        }
        self.varying_locals.extend(self.function.local_variables.iter().map(|(handle, _)| handle));
        self.varying_results.extend(self.function.expressions.iter().map(|(handle, _)| handle));
        self.loops.fill(false);
        self.result = false;
        Ok(())
    }

    fn round(&mut self) -> Result<(), Error> {
        self.changed = false;
        self.next_loop = 0;
        self.calls.clear();
        self.evaluate();
        let function = self.function;
        let left = self.block(&function.body, self.context.diverged)?;
        if left.returned.is_some() {
            self.result = false;
        }
        Ok(())
    }

    /// Computes the uniformity of all expressions. They only refer to earlier ones, so one pass in order is enough.
    fn evaluate(&mut self) {
        self.values.clear();
        for (handle, expression) in self.function.expressions.iter() {
            let uniform = self.expression(handle, expression);
            self.values.push(uniform);
        }
    }

    fn value(&self, handle: Handle<Expression>) -> bool {
        self.values.get(handle.index()).copied().unwrap_or(false)
    }

    fn expression(&self, handle: Handle<Expression>, expression: &Expression) -> bool {
        let value = |handle: &Handle<Expression>| self.value(*handle);
        let maybe = |handle: &Option<Handle<Expression>>| handle.as_ref().is_none_or(value);
        match expression {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_)
            // A pointer is uniform if its indices are. The uniformity of the memory it points to counts at the load.
            | Expression::GlobalVariable(_)
            | Expression::LocalVariable(_) => true,
            // The same for all if they load from the same place; see the statement.
            Expression::WorkGroupUniformLoadResult { .. } => !self.varying_results.contains(&handle),
            Expression::ArrayLength(base) => value(base),
            Expression::Compose { components, .. } => components.iter().all(value),
            Expression::Access { base, index } => value(base) && value(index),
            Expression::AccessIndex { base, index } => self.member(*base, *index).unwrap_or_else(|| value(base)),
            Expression::Splat { value: inner, .. }
            | Expression::Swizzle { vector: inner, .. }
            | Expression::Unary { expr: inner, .. }
            | Expression::Relational { argument: inner, .. }
            | Expression::As { expr: inner, .. } => value(inner),
            Expression::Binary { left, right, .. } => value(left) && value(right),
            Expression::Select { condition, accept, reject } => value(condition) && value(accept) && value(reject),
            Expression::Math { arg, arg1, arg2, arg3, .. } => value(arg) && maybe(arg1) && maybe(arg2) && maybe(arg3),
            Expression::FunctionArgument(index) => {
                self.context.arguments.get(*index as usize).copied().unwrap_or(false)
            }
            Expression::Load { pointer } => value(pointer) && self.holds_uniform(*pointer),
            Expression::CallResult(_) => !self.varying_results.contains(&handle),
            Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. } => {
                self.given.scope == Scope::Subgroup && !self.varying_results.contains(&handle)
            }
            _ => false,
        }
    }

    /// Returns the uniformity of a member, if `base` is an entry point's argument that is a structure of built-in
    /// values.
    fn member(&self, base: Handle<Expression>, index: u32) -> Option<bool> {
        // In other functions, the members of such a structure may have any value.
        if !self.is_entry {
            return None;
        }
        let Expression::FunctionArgument(argument) = self.function.expressions[base] else { return None };
        let argument = self.function.arguments.get(argument as usize)?;
        let TypeInner::Struct { members, .. } = &self.given.module.types[argument.ty].inner else { return None };
        let Some(Binding::BuiltIn(built_in)) = &members.get(index as usize)?.binding else { return None };
        Some(self.given.scope.is_uniform(*built_in))
    }

    /// Returns whether the variable that a pointer points into has the same value in all invocations.
    fn holds_uniform(&self, pointer: Handle<Expression>) -> bool {
        match root(self.function, pointer) {
            Expression::LocalVariable(local) => !self.varying_locals.contains(local),
            Expression::GlobalVariable(global) => match self.given.module.global_variables[*global].space {
                AddressSpace::Uniform => true,
                AddressSpace::Storage { access } => !access.contains(StorageAccess::STORE),
                _ => false,
            },
            Expression::FunctionArgument(index) => {
                let is_written = self.written.get(*index as usize).copied().unwrap_or(true);
                !is_written && self.context.arguments.get(*index as usize).copied().unwrap_or(false)
            }
            _ => false,
        }
    }

    fn vary(&mut self, pointer: Handle<Expression>) {
        if let Expression::LocalVariable(local) = *root(self.function, pointer) {
            self.changed |= self.varying_locals.insert(local);
        }
    }

    fn block(&mut self, block: &Block, mut diverged: Option<Span>) -> Result<PartialExits, Error> {
        let mut left = PartialExits::default();
        for (statement, span) in block.span_iter() {
            let now = self.statement(statement, *span, diverged)?;
            left = left.and(now);
            diverged = diverged.or(now.any());
        }
        Ok(left)
    }

    fn statement(&mut self, statement: &Statement, span: Span, diverged: Option<Span>) -> Result<PartialExits, Error> {
        let mut left = PartialExits::default();
        match statement {
            Statement::Emit(_) | Statement::Atomic { .. } => {}
            Statement::Block(block) => return self.block(block, diverged),
            Statement::If { condition, accept, reject } => {
                let inside = diverged.or((!self.value(*condition)).then_some(span));
                return Ok(self.block(accept, inside)?.and(self.block(reject, inside)?));
            }
            Statement::Switch { selector, cases } => {
                let inside = diverged.or((!self.value(*selector)).then_some(span));
                for case in cases {
                    left = left.and(self.block(&case.body, inside)?);
                }
                left.broke = None;
            }
            Statement::Loop { body, continuing, break_if } => {
                return self.looped(body, continuing, break_if.as_ref(), span, diverged);
            }
            Statement::Break => left.broke = diverged,
            Statement::Continue => left.continued = diverged,
            Statement::Return { value } => {
                left.returned = diverged;
                self.result &= diverged.is_none() && value.is_none_or(|value| self.value(value));
            }
            Statement::Store { pointer, value } => {
                if diverged.is_some() || !self.value(*value) || !self.value(*pointer) {
                    self.vary(*pointer);
                }
            }
            Statement::ControlBarrier(_) => self.barrier(span, diverged)?,
            Statement::WorkGroupUniformLoad { pointer, result } => {
                if !self.value(*pointer) {
                    self.changed |= self.varying_results.insert(*result);
                }
                self.barrier(span, diverged)?;
            }
            Statement::SubgroupBallot { result, .. } => self.subgroup_operation(*result, true, span, diverged)?,
            Statement::SubgroupCollectiveOperation { collective_op, result, .. } => {
                self.subgroup_operation(*result, *collective_op == CollectiveOperation::Reduce, span, diverged)?;
            }
            Statement::SubgroupGather { mode, result, .. } => {
                let same = matches!(mode, GatherMode::BroadcastFirst | GatherMode::Broadcast(_));
                self.subgroup_operation(*result, same, span, diverged)?;
            }
            Statement::Call { function, arguments, result } => {
                self.call(*function, arguments, *result, span, diverged);
            }
            _ => return Err(rejected(span, self.given.wgsl, "kernels cannot use this statement")),
        }
        Ok(left)
    }

    fn looped(
        &mut self,
        body: &Block,
        continuing: &Block,
        break_if: Option<&Handle<Expression>>,
        span: Span,
        diverged: Option<Span>,
    ) -> Result<PartialExits, Error> {
        let index = self.next_loop;
        self.next_loop += 1;
        if self.loops.len() <= index {
            self.loops.push(true);
        }
        let known = self.loops.get(index).copied().unwrap_or(false);
        let inside = diverged.or((!known).then_some(span));
        let in_body = self.block(body, inside)?;
        // Invocations that continue early meet the others again at the continuing block, unless some have left the
        // loop. In either case `left` makes the loop non-uniform below.
        let in_continuing = self.block(continuing, inside)?;
        let exits = break_if.is_none_or(|condition| self.value(*condition));
        let left = in_body.and(in_continuing);
        let uniform = inside.is_none() && exits && left.any().is_none();
        if known && !uniform {
            self.changed = true;
            if let Some(entry) = self.loops.get_mut(index) {
                *entry = false;
            }
        }
        Ok(PartialExits { returned: left.returned, ..PartialExits::default() })
    }

    fn call(
        &mut self,
        callee: Handle<Function>,
        arguments: &[Handle<Expression>],
        result: Option<Handle<Expression>>,
        span: Span,
        diverged: Option<Span>,
    ) {
        let module = self.given.module;
        let declared = &module.functions[callee].arguments;
        let written = self.given.written.get(&callee).map(Vec::as_slice).unwrap_or_default();
        let mut uniform = Vec::with_capacity(arguments.len());
        for (index, argument) in arguments.iter().enumerate() {
            let is_pointer =
                declared.get(index).is_some_and(|declared| module.types[declared.ty].inner.pointer_space().is_some());
            uniform.push(self.value(*argument) && (!is_pointer || self.holds_uniform(*argument)));
            if is_pointer && written.get(index).copied().unwrap_or(true) {
                self.vary(*argument);
            }
        }
        let same = diverged.is_none()
            && uniform.iter().all(|uniform| *uniform)
            && self.results.get(&callee).copied().unwrap_or(false);
        if let Some(result) = result.filter(|_| !same) {
            self.changed |= self.varying_results.insert(result);
        }
        self.calls.push((callee, diverged.map(|_| span), uniform));
    }

    fn subgroup_operation(
        &mut self,
        result: Handle<Expression>,
        same_for_all: bool,
        span: Span,
        diverged: Option<Span>,
    ) -> Result<(), Error> {
        if !same_for_all || diverged.is_some() {
            self.changed |= self.varying_results.insert(result);
        }
        if self.given.scope == Scope::Workgroup || self.given.allows_divergence(self.function) {
            return Ok(());
        }
        self.check_place("a subgroup operation", "a subgroup", span, diverged)
    }

    fn barrier(&self, span: Span, diverged: Option<Span>) -> Result<(), Error> {
        match self.given.scope {
            Scope::Workgroup => self.check_place("a barrier", "a workgroup", span, diverged),
            Scope::Subgroup => Ok(()),
        }
    }

    fn check_place(&self, what: &str, scope: &str, span: Span, diverged: Option<Span>) -> Result<(), Error> {
        match diverged {
            Some(cause) if self.checking => {
                let cause = line(cause, self.given.wgsl);
                let message = format!(
                    "{what} must be reached by all invocations of {scope} or by none: the control flow that \
                     leads here may differ between them from {cause} on"
                );
                Err(rejected(span, self.given.wgsl, &message))
            }
            _ => Ok(()),
        }
    }
}
