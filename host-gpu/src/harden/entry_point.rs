//! Adds a new entry point that calls the tenant's entry point, which becomes an ordinary function. The new one shifts
//! the ids, sets the budget counters before the call and checks them after it.
//!
//! Ids:
//!
//! - The base is added to `workgroup_id`. The base times the workgroup's size is added to `global_invocation_id`.
//!   `num_workgroups` is replaced by the whole grid. Base and grid come from immediates. All other arguments, above all
//!   ids within the workgroup or subgroup, are passed on unchanged.
//! - Ids may be arguments themselves or members of structures, any number of each, in any order.
//! - The module's workgroup size is known here, because its overrides are already resolved.
//! - Additions wrap as they would in the shader. None does: a grid has at most 65,535 workgroups in each dimension.
//! - Kernels cannot have immediates of their own: `check/reflect.rs` refuses that address space.
//! - The other entry points of the source are already removed.
//!
//! Subgroups: if the module needs the number of the invocation in its subgroup ([`super::inactive_lanes`]), the new entry
//! point keeps it in a private variable.
//!
//! Budgets: the counters are set from immediates before the call and checked after it, so an early `return` in the
//! tenant's function skips neither. If a counter is zero, the flag is set to the slice's number. The results of the
//! submission are then void, and the host reports that to the guest.
//!
//! A software driver runs eight invocations in step. If a workgroup has fewer left, it runs the missing ones too, hides
//! what they write, and counts their loops. They must not have a budget. The driver gives them zeros when they read a
//! storage buffer in a branch, so the budgets are multiplied there by a word that is always 1. The branch depends on the
//! grid, which is never empty, because a compiler must not remove it.

use super::cost::BudgetUnit;
use super::globals::{BASE, BUDGET, FLAG, GRID, Globals, ONE, SLICE, UNIFORM_BUDGET};
use crate::error::Error;
use naga::{
    BinaryOperator, Binding, Block, BuiltIn, Expression, Function, FunctionArgument, GlobalVariable, Handle, Literal,
    Module, Span, Statement, Type, TypeInner,
};

/// Which of the added variables the module uses. Nothing is added for an unused one.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsedVariables {
    /// The counter of divergent loops.
    pub(super) divergent: bool,
    /// The counter of uniform loops.
    pub(super) uniform: bool,
    /// The number of the invocation in its subgroup.
    pub(super) lane: bool,
    pub(super) unit: BudgetUnit,
}

/// Wraps the only entry point of the module. `shift`: whether to shift its ids; `used`: the variables to set and check.
pub(super) fn wrap(module: &mut Module, globals: &Globals, shift: bool, used: UsedVariables) -> Result<(), Error> {
    let count = used.divergent || used.uniform;
    for index in 0..module.entry_points.len() {
        let Some(entry) = module.entry_points.get_mut(index) else { continue };
        let size = entry.workgroup_size;
        let mut inner = std::mem::take(&mut entry.function);
        let shift = shift && inner.arguments.iter().any(|argument| shifts(&module.types, argument));
        if !shift && !count && !used.lane {
            entry.function = inner;
            continue;
        }
        let mut arguments = inner.arguments.clone();
        for argument in &mut inner.arguments {
            argument.binding = None;
        }
        if inner.result.is_some() {
            return Err(Error::KernelRejected("a compute entry point has a result".into()));
        }
        inner.name = Some(entry.name.clone());
        let inner = module.functions.append(inner, Span::UNDEFINED);
        let mut outer = EntryWriter { function: Function::default(), body: Block::new(), globals, size };
        let mut values = Vec::new();
        for (index, argument) in (0u32..).zip(&arguments) {
            let value = outer.add(Expression::FunctionArgument(index));
            values.push(if shift { outer.argument(&module.types, argument, value) } else { value });
        }
        if used.lane {
            outer.store_lane(&module.types, &mut arguments);
        }
        if count {
            outer.fill_counters(used);
        }
        outer.body.push(Statement::Call { function: inner, arguments: values, result: None }, Span::UNDEFINED);
        if count {
            outer.set_flag(used);
        }
        let EntryWriter { mut function, mut body, .. } = outer;
        body.push(Statement::Return { value: None }, Span::UNDEFINED);
        function.arguments = arguments;
        function.body = body;
        if let Some(entry) = module.entry_points.get_mut(index) {
            entry.function = function;
        }
    }
    Ok(())
}

fn is_shifted(binding: Option<&Binding>) -> bool {
    matches!(
        binding,
        Some(Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::GlobalInvocationId | BuiltIn::NumWorkGroups))
    )
}

/// Returns whether an argument is, or contains, an id that depends on which part of a dispatch runs.
fn shifts(types: &naga::UniqueArena<Type>, argument: &FunctionArgument) -> bool {
    match &types[argument.ty].inner {
        TypeInner::Struct { members, .. } => members.iter().any(|member| is_shifted(member.binding.as_ref())),
        _ => is_shifted(argument.binding.as_ref()),
    }
}

/// Builds the new entry point.
struct EntryWriter<'a> {
    function: Function,
    body: Block,
    globals: &'a Globals,
    size: [u32; 3],
}

impl EntryWriter<'_> {
    fn add(&mut self, expression: Expression) -> Handle<Expression> {
        self.function.expressions.append(expression, Span::UNDEFINED)
    }

    /// Adds an expression that must be evaluated at this point.
    fn emit(&mut self, expression: Expression) -> Handle<Expression> {
        let from = self.function.expressions.len();
        let handle = self.add(expression);
        self.body.push(Statement::Emit(self.function.expressions.range_from(from)), Span::UNDEFINED);
        handle
    }

    fn argument(
        &mut self,
        types: &naga::UniqueArena<Type>,
        argument: &FunctionArgument,
        value: Handle<Expression>,
    ) -> Handle<Expression> {
        let TypeInner::Struct { members, .. } = &types[argument.ty].inner else {
            return self.shifted(argument.binding.as_ref(), value);
        };
        let components = (0u32..).zip(members).map(|(index, member)| {
            let value = self.emit(Expression::AccessIndex { base: value, index });
            self.shifted(member.binding.as_ref(), value)
        });
        let components = components.collect();
        self.emit(Expression::Compose { ty: argument.ty, components })
    }

    fn shifted(&mut self, binding: Option<&Binding>, value: Handle<Expression>) -> Handle<Expression> {
        match binding {
            Some(Binding::BuiltIn(BuiltIn::WorkGroupId)) => {
                let base = self.immediate(BASE);
                self.emit(Expression::Binary { op: BinaryOperator::Add, left: value, right: base })
            }
            Some(Binding::BuiltIn(BuiltIn::GlobalInvocationId)) => {
                let base = self.immediate(BASE);
                let components = self.size.map(|size| self.add(Expression::Literal(Literal::U32(size))));
                let ty = self.globals.uint3;
                let size = self.emit(Expression::Compose { ty, components: components.to_vec() });
                let offset = self.emit(Expression::Binary { op: BinaryOperator::Multiply, left: base, right: size });
                self.emit(Expression::Binary { op: BinaryOperator::Add, left: value, right: offset })
            }
            Some(Binding::BuiltIn(BuiltIn::NumWorkGroups)) => self.immediate(GRID),
            _ => value,
        }
    }

    /// Keeps the number of the invocation in its subgroup. If no argument holds it, one is added.
    fn store_lane(&mut self, types: &naga::UniqueArena<Type>, arguments: &mut Vec<FunctionArgument>) {
        let is_lane =
            |binding: &Option<Binding>| matches!(binding, Some(Binding::BuiltIn(BuiltIn::SubgroupInvocationId)));
        let found = (0u32..).zip(arguments.iter()).find_map(|(index, argument)| match &types[argument.ty].inner {
            TypeInner::Struct { members, .. } => {
                let member = (0u32..).zip(members).find(|(_, member)| is_lane(&member.binding))?.0;
                Some((index, Some(member)))
            }
            _ => is_lane(&argument.binding).then_some((index, None)),
        });
        let (index, member) = found.unwrap_or_else(|| {
            let binding = Some(Binding::BuiltIn(BuiltIn::SubgroupInvocationId));
            arguments.push(FunctionArgument { name: None, ty: self.globals.uint, binding });
            (u32::try_from(arguments.len() - 1).unwrap_or(u32::MAX), None)
        });
        let mut value = self.add(Expression::FunctionArgument(index));
        if let Some(index) = member {
            value = self.emit(Expression::AccessIndex { base: value, index });
        }
        let pointer = self.add(Expression::GlobalVariable(self.globals.lane));
        self.body.push(Statement::Store { pointer, value }, Span::UNDEFINED);
    }

    /// Returns the used counters, each with the index of the immediate that holds its budget.
    fn counters(&self, used: UsedVariables) -> Vec<(u32, Handle<GlobalVariable>)> {
        let both =
            [(used.divergent, BUDGET, self.globals.left), (used.uniform, UNIFORM_BUDGET, self.globals.uniform_left)];
        both.into_iter().filter(|(used, ..)| *used).map(|(_, member, counter)| (member, counter)).collect()
    }

    fn fill_counters(&mut self, used: UsedVariables) {
        let counters = self.counters(used);
        if used.unit == BudgetUnit::Work {
            self.store_budgets(&counters, None);
            return;
        }
        let zero = self.add(Expression::Literal(Literal::U32(0)));
        for (_, counter) in &counters {
            let pointer = self.add(Expression::GlobalVariable(*counter));
            self.body.push(Statement::Store { pointer, value: zero }, Span::UNDEFINED);
        }
        let grid = self.immediate(GRID);
        let width = self.emit(Expression::AccessIndex { base: grid, index: 0 });
        let condition = self.emit(Expression::Binary { op: BinaryOperator::Greater, left: width, right: zero });
        let before = std::mem::take(&mut self.body);
        let base = self.add(Expression::GlobalVariable(self.globals.flag));
        let pointer = self.emit(Expression::AccessIndex { base, index: ONE });
        let one = self.emit(Expression::Load { pointer });
        self.store_budgets(&counters, Some(one));
        let accept = std::mem::replace(&mut self.body, before);
        self.body.push(Statement::If { condition, accept, reject: Block::new() }, Span::UNDEFINED);
    }

    fn store_budgets(&mut self, counters: &[(u32, Handle<GlobalVariable>)], factor: Option<Handle<Expression>>) {
        for (member, counter) in counters {
            let budget = self.immediate(*member);
            let value = match factor {
                Some(right) => self.emit(Expression::Binary { op: BinaryOperator::Multiply, left: budget, right }),
                None => budget,
            };
            let pointer = self.add(Expression::GlobalVariable(*counter));
            self.body.push(Statement::Store { pointer, value }, Span::UNDEFINED);
        }
    }

    /// Adds code that sets the flag if a counter is zero.
    fn set_flag(&mut self, used: UsedVariables) {
        let mut least = None;
        for (_, counter) in self.counters(used) {
            let pointer = self.add(Expression::GlobalVariable(counter));
            let left = self.emit(Expression::Load { pointer });
            least = Some(match least {
                None => left,
                Some(other) => self.emit(Expression::Math {
                    fun: naga::MathFunction::Min,
                    arg: other,
                    arg1: Some(left),
                    arg2: None,
                    arg3: None,
                }),
            });
        }
        let Some(least) = least else { return };
        let zero = self.add(Expression::Literal(Literal::U32(0)));
        let condition = self.emit(Expression::Binary { op: BinaryOperator::Equal, left: least, right: zero });
        let value = self.immediate(SLICE);
        let base = self.add(Expression::GlobalVariable(self.globals.flag));
        let pointer = self.emit(Expression::AccessIndex { base, index: FLAG });
        let mut accept = Block::new();
        accept.push(Statement::Store { pointer, value }, Span::UNDEFINED);
        self.body.push(Statement::If { condition, accept, reject: Block::new() }, Span::UNDEFINED);
    }

    fn immediate(&mut self, index: u32) -> Handle<Expression> {
        let base = self.add(Expression::GlobalVariable(self.globals.immediates));
        let pointer = self.emit(Expression::AccessIndex { base, index });
        self.emit(Expression::Load { pointer })
    }
}
