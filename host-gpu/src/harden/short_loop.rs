//! Proves that a loop is short: `for (var i = a; i < b; i += c)` with constants, and its mirror images (counting down,
//! operands swapped).
//!
//! All of this must hold:
//!
//! - The body begins with a guard, which leaves the loop when a comparison of a local integer variable with a constant
//!   fails. The variable is loaded in the guard, not before the loop.
//! - The continuing block steps the variable by a constant towards the bound, exactly once, on every path.
//! - Nothing else in the loop stores to the variable, and no pointer to it is passed to a function, anywhere in the
//!   function.
//! - The step that reaches or passes the bound does not wrap around.
//! - The variable's initial value and every other value stored to it are constants. An unsigned variable that counts up
//!   may start with any value, because none is below zero.

use naga::{BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Statement, TypeInner};

/// A loop that steps a local integer variable towards a bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct InductionLoop {
    /// The variable.
    pub local: Handle<LocalVariable>,
    /// Whether the variable is an `i32`. If not, it is a `u32`.
    pub signed: bool,
    /// The loop continues while `variable op bound`.
    pub op: BinaryOperator,
    /// The value that the variable is compared with, as the body evaluates it.
    pub bound: Handle<Expression>,
    /// What each iteration adds to the variable. Its sign points towards the bound.
    pub step: i128,
    /// The value that the continuing block stores to the variable.
    stepped: Handle<Expression>,
}

/// Returns the parts of a loop of this form, with any bound and any start. None if the loop has another form.
pub(super) fn induction_loop(
    module: &Module,
    function: &Function,
    body: &Block,
    continuing: &Block,
) -> Option<InductionLoop> {
    let (condition, emitted) = guard(body)?;
    let Expression::Binary { op, left, right } = function.expressions[condition] else { return None };
    let sides = [(left, right, Some(op)), (right, left, mirrored(op))];
    sides.into_iter().find_map(|(variable, bound, op)| {
        let op = op?;
        let local = loaded(function, variable, &emitted)?;
        let signed = match module.types[function.local_variables[local].ty].inner {
            TypeInner::Scalar(naga::Scalar::I32) => true,
            TypeInner::Scalar(naga::Scalar::U32) => false,
            _ => return None,
        };
        let (step, stepped) = step(module, function, continuing, local)?;
        let towards = match op {
            BinaryOperator::Less | BinaryOperator::LessEqual => step > 0,
            BinaryOperator::Greater | BinaryOperator::GreaterEqual => step < 0,
            _ => false,
        };
        let mut stores = Stores { function, local, values: Vec::new(), escaped: false };
        stores.collect(body);
        if !towards || !stores.values.is_empty() {
            return None;
        }
        stores.collect(continuing);
        if stores.values.len() != 1 {
            return None;
        }
        stores.collect(&function.body);
        (!stores.escaped).then_some(InductionLoop { local, signed, op, bound, step, stepped })
    })
}

/// Returns the most iterations that one run of the loop can make. None if there is no proof.
pub(super) fn trips(module: &Module, function: &Function, body: &Block, continuing: &Block) -> Option<u64> {
    let InductionLoop { local, signed, op, bound, step, stepped } = induction_loop(module, function, body, continuing)?;
    let bound = constant(module, function, bound)?;
    let mut stores = Stores { function, local, values: Vec::new(), escaped: false };
    stores.collect(&function.body);
    let mut starts = vec![match function.local_variables[local].init {
        Some(init) => constant(module, function, init),
        None => Some(0),
    }];
    starts.extend(stores.values.iter().filter(|value| **value != stepped).map(|v| constant(module, function, *v)));
    let (lowest, highest) =
        if signed { (i128::from(i32::MIN), i128::from(i32::MAX)) } else { (0, i128::from(u32::MAX)) };
    let distance = if step > 0 {
        let end = bound + i128::from(op == BinaryOperator::LessEqual);
        let start = if signed { known(&starts)?.min()? } else { lowest };
        (end - 1 + step <= highest).then_some(end - start)?
    } else {
        let end = bound - i128::from(op == BinaryOperator::GreaterEqual);
        let start = known(&starts)?.max()?;
        (end + 1 + step >= lowest).then_some(start - end)?
    };
    let step = step.abs();
    u64::try_from((distance.max(0) + step - 1) / step).ok()
}

/// Returns whether a local variable of the function keeps its value while `blocks` run: nothing in them stores to it,
/// and no pointer to it is passed to a function anywhere.
pub(super) fn is_fixed(function: &Function, local: Handle<LocalVariable>, blocks: [&Block; 2]) -> bool {
    let mut stores = Stores { function, local, values: Vec::new(), escaped: false };
    stores.collect(&function.body);
    stores.values.clear();
    blocks.into_iter().for_each(|block| stores.collect(block));
    stores.values.is_empty() && !stores.escaped
}

fn known(starts: &[Option<i128>]) -> Option<impl Iterator<Item = i128>> {
    starts.iter().copied().collect::<Option<Vec<_>>>().map(Vec::into_iter)
}

/// Returns the condition under which the loop continues, and the expressions that the body evaluates before it.
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

/// Returns the local variable that `value` loads, if `emitted` contains that load.
fn loaded(
    function: &Function,
    value: Handle<Expression>,
    emitted: &[Handle<Expression>],
) -> Option<Handle<LocalVariable>> {
    let Expression::Load { pointer } = function.expressions[value] else { return None };
    let Expression::LocalVariable(local) = function.expressions[pointer] else { return None };
    emitted.contains(&value).then_some(local)
}

/// Returns the constant that the continuing block adds to the variable, and the value that it stores.
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

/// Collects the values stored to a local variable, and whether a pointer to it is passed to a function.
struct Stores<'a> {
    function: &'a Function,
    local: Handle<LocalVariable>,
    values: Vec<Handle<Expression>>,
    escaped: bool,
}

impl Stores<'_> {
    /// Returns whether `value` is a pointer to the variable or into it.
    fn is_pointer(&self, mut value: Handle<Expression>) -> bool {
        loop {
            match self.function.expressions[value] {
                Expression::LocalVariable(local) => return local == self.local,
                Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => value = base,
                _ => return false,
            }
        }
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
