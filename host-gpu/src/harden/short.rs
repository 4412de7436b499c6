//! Proves that a loop is short: `for (var i = a; i < b; i += c)` with constants, and its mirror images.
//!
//! What must hold, all of it:
//!
//! - The body begins by leaving when a comparison of a local integer variable with a constant fails; the
//!   variable is loaded right there, not before the loop.
//! - The continuing block steps the variable by a constant towards the bound, once, on every way through.
//! - Nothing else in the loop stores to the variable, and no pointer to it is passed on anywhere in the function.
//! - The step past the bound does not wrap around.
//! - Every other store to the variable is a constant; for an unsigned variable that counts up any value will
//!   do, since none lies below zero.

use naga::{BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Statement, TypeInner};

/// The most iterations that one run of the loop can make, if that can be proven.
pub(super) fn trips(module: &Module, function: &Function, body: &Block, continuing: &Block) -> Option<u64> {
    let (condition, emitted) = guard(body)?;
    let Expression::Binary { op, left, right } = function.expressions[condition] else { return None };
    let (op, pointer_load, bound) = match (constant(module, function, left), constant(module, function, right)) {
        (None, Some(bound)) => (op, left, bound),
        (Some(bound), None) => (mirrored(op)?, right, bound),
        _ => return None,
    };
    let local = loaded(function, pointer_load, &emitted)?;
    let signed = match module.types[function.local_variables[local].ty].inner {
        TypeInner::Scalar(naga::Scalar::I32) => true,
        TypeInner::Scalar(naga::Scalar::U32) => false,
        _ => return None,
    };
    let (step, step_value) = step(module, function, continuing, local)?;
    let mut stores = Stores { function, local, values: Vec::new(), escaped: false };
    stores.collect(body);
    if !stores.values.is_empty() {
        return None;
    }
    stores.collect(continuing);
    if stores.values.len() != 1 {
        return None;
    }
    stores.values.clear();
    stores.collect(&function.body);
    if stores.escaped {
        return None;
    }
    let mut starts = vec![match function.local_variables[local].init {
        Some(init) => constant(module, function, init),
        None => Some(0),
    }];
    starts.extend(stores.values.iter().filter(|value| **value != step_value).map(|v| constant(module, function, *v)));
    let (lowest, highest) =
        if signed { (i128::from(i32::MIN), i128::from(i32::MAX)) } else { (0, i128::from(u32::MAX)) };
    let distance = match op {
        BinaryOperator::Less | BinaryOperator::LessEqual if step > 0 => {
            let end = bound + i128::from(op == BinaryOperator::LessEqual);
            let start = if signed { known(&starts)?.min()? } else { 0.max(lowest) };
            (end - 1 + step <= highest).then_some(end - start)?
        }
        BinaryOperator::Greater | BinaryOperator::GreaterEqual if step < 0 => {
            let end = bound - i128::from(op == BinaryOperator::GreaterEqual);
            let start = known(&starts)?.max()?;
            (end + 1 + step >= lowest).then_some(start - end)?
        }
        _ => return None,
    };
    let step = step.abs();
    u64::try_from((distance.max(0) + step - 1) / step).ok()
}

fn known(starts: &[Option<i128>]) -> Option<impl Iterator<Item = i128>> {
    starts.iter().copied().collect::<Option<Vec<_>>>().map(Vec::into_iter)
}

/// The condition under which the loop goes on, and what is evaluated ahead of it in the body.
fn guard(body: &Block) -> Option<(Handle<Expression>, Vec<Handle<Expression>>)> {
    let mut emitted = Vec::new();
    for statement in body.iter() {
        match statement {
            Statement::Emit(range) => emitted.extend(range.clone()),
            Statement::If { condition, accept, reject } => {
                let leaves = matches!(reject.first(), Some(Statement::Break));
                return (accept.is_empty() && leaves).then_some((*condition, emitted));
            }
            _ => return None,
        }
    }
    None
}

/// The local variable that `value` loads, if it does so among `emitted`.
fn loaded(
    function: &Function,
    value: Handle<Expression>,
    emitted: &[Handle<Expression>],
) -> Option<Handle<LocalVariable>> {
    let Expression::Load { pointer } = function.expressions[value] else { return None };
    let Expression::LocalVariable(local) = function.expressions[pointer] else { return None };
    emitted.contains(&value).then_some(local)
}

/// The constant that the continuing block adds to the variable, and the value it stores.
fn step(
    module: &Module,
    function: &Function,
    continuing: &Block,
    local: Handle<LocalVariable>,
) -> Option<(i128, Handle<Expression>)> {
    let mut emitted = Vec::new();
    for statement in continuing.iter() {
        match statement {
            Statement::Emit(range) => emitted.extend(range.clone()),
            Statement::Store { pointer, value } if matches!(function.expressions[*pointer], Expression::LocalVariable(stored) if stored == local) =>
            {
                let Expression::Binary { op, left, right } = function.expressions[*value] else { return None };
                if loaded(function, left, &emitted)? != local || !emitted.contains(value) {
                    return None;
                }
                let by = constant(module, function, right)?;
                return match op {
                    BinaryOperator::Add if by != 0 => Some((by, *value)),
                    BinaryOperator::Subtract if by != 0 => Some((-by, *value)),
                    _ => None,
                };
            }
            Statement::Store { .. } => {}
            _ => return None,
        }
    }
    None
}

fn mirrored(op: BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Less => BinaryOperator::Greater,
        BinaryOperator::LessEqual => BinaryOperator::GreaterEqual,
        BinaryOperator::Greater => BinaryOperator::Less,
        BinaryOperator::GreaterEqual => BinaryOperator::LessEqual,
        _ => return None,
    })
}

fn constant(module: &Module, function: &Function, value: Handle<Expression>) -> Option<i128> {
    let literal = |expression: &Expression| match expression {
        Expression::Literal(Literal::I32(value)) => Some(i128::from(*value)),
        Expression::Literal(Literal::U32(value)) => Some(i128::from(*value)),
        Expression::ZeroValue(ty) => matches!(module.types[*ty].inner, TypeInner::Scalar(_)).then_some(0),
        _ => None,
    };
    match &function.expressions[value] {
        Expression::Constant(constant) => literal(&module.global_expressions[module.constants[*constant].init]),
        other => literal(other),
    }
}

/// The values stored to a local variable, and whether a pointer to it goes elsewhere.
struct Stores<'a> {
    function: &'a Function,
    local: Handle<LocalVariable>,
    values: Vec<Handle<Expression>>,
    escaped: bool,
}

impl Stores<'_> {
    fn is_pointer(&self, value: Handle<Expression>) -> bool {
        matches!(self.function.expressions[value], Expression::LocalVariable(local) if local == self.local)
    }

    fn collect(&mut self, block: &Block) {
        for statement in block.iter() {
            match statement {
                Statement::Store { pointer, value } if self.is_pointer(*pointer) => self.values.push(*value),
                Statement::Call { arguments, .. } => {
                    self.escaped |= arguments.iter().any(|argument| self.is_pointer(*argument));
                }
                Statement::Block(inner) => self.collect(inner),
                Statement::If { accept, reject, .. } => {
                    self.collect(accept);
                    self.collect(reject);
                }
                Statement::Switch { cases, .. } => cases.iter().for_each(|case| self.collect(&case.body)),
                Statement::Loop { body, continuing, .. } => {
                    self.collect(body);
                    self.collect(continuing);
                }
                _ => {}
            }
        }
    }
}
