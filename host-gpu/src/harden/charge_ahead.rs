//! Charges a loop once, before it runs, if the number of its iterations can be computed there. Its body then needs no
//! code that counts.
//!
//! ```text
//!  for (var i = a; i < b; i += c) { … }
//!    ──▶  trips = b > i ? (b - i - 1) / c + 1 : 0
//!         if trips >= max(left / cost, 1) { left = 0; } else { left -= trips * cost; loop … }
//! ```
//!
//! All of this must hold:
//!
//! - The loop has the form of [`super::short_loop`], with any bound and any start.
//! - The bound does not change while the loop runs, and can be evaluated before it. It consists of values that were
//!   evaluated before the loop, constants, uniform and read-only storage variables, and local variables that the loop
//!   does not change.
//! - Nothing leaves the loop early. Otherwise a loop with a high bound and an early `break` would be charged for
//!   iterations that never run.
//!
//! If a step might wrap around at the end of the value range, the loop counts as `u32::MAX` trips, which no budget
//! covers.
//!
//! A loop with no trips costs nothing. A charge leaves at least the cost of one iteration, because `trips` is less than
//! `left / cost`. So a counter at zero still means that a loop was ended or skipped.
//!
//! Where budgets count iterations ([`BudgetUnit::Iterations`]), a loop is charged for one trip more, because the driver
//! also counts the time that the condition fails.

use super::code_writer::CodeWriter;
use super::cost::BudgetUnit;
use super::short_loop::{self, InductionLoop};
use super::unroll;
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, GlobalVariable, Handle, MathFunction, Module,
    ScalarKind, Span, Statement, StorageAccess,
};
use std::collections::{HashMap, HashSet};

/// What a loop is charged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Price {
    /// The budget.
    pub counter: Handle<GlobalVariable>,
    /// The cost of an iteration.
    pub cost: u32,
    pub unit: BudgetUnit,
    /// Whether the loop is unrolled: then an iteration is [`unroll::COPIES`] of the original loop.
    pub unrolled: bool,
}

/// Returns the loop with its charge before it, or as the error the unchanged loop, if it cannot be charged there.
pub(super) fn charge(
    module: &Module,
    function: &mut Function,
    price: Price,
    looped: (Block, Block, Span),
) -> Result<Block, (Block, Block)> {
    let (body, continuing, span) = looped;
    let Price { counter, cost, unit, unrolled } = price;
    // If `trips` returns None, the expressions that it appended are never emitted, and compaction removes them.
    match trips(module, function, &body, &continuing) {
        Some((mut before, mut trips)) => {
            let copies = if unrolled { unroll::unrolled(function, &body, &continuing) } else { None };
            let is_unrolled = copies.is_some();
            let body = copies.unwrap_or(body);
            let mut writer = CodeWriter { function, block: &mut before };
            if is_unrolled {
                let copies = writer.literal(unroll::COPIES);
                trips = writer.binary(BinaryOperator::Divide, trips, copies);
            }
            let counter = writer.add(Expression::GlobalVariable(counter));
            let cost = writer.literal(cost);
            let (zero, one) = (writer.literal(0), writer.literal(1));
            let left = writer.emit(Expression::Load { pointer: counter });
            let fits = writer.binary(BinaryOperator::Divide, left, cost);
            let mut fits = writer.math(MathFunction::Max, fits, one);
            if unit == BudgetUnit::Iterations {
                // The driver also counts the time that the condition fails.
                fits = writer.binary(BinaryOperator::Subtract, fits, one);
            }
            let condition = writer.binary(BinaryOperator::GreaterEqual, trips, fits);
            let mut accept = Block::new();
            accept.push(Statement::Store { pointer: counter, value: zero }, Span::UNDEFINED);
            let mut reject = Block::new();
            let mut writer = CodeWriter { function, block: &mut reject };
            let mut price = writer.binary(BinaryOperator::Multiply, trips, cost);
            if unit == BudgetUnit::Iterations {
                price = writer.binary(BinaryOperator::Add, price, cost);
            }
            let value = writer.binary(BinaryOperator::Subtract, left, price);
            reject.push(Statement::Store { pointer: counter, value }, Span::UNDEFINED);
            reject.push(Statement::Loop { body, continuing, break_if: None }, span);
            before.push(Statement::If { condition, accept, reject }, Span::UNDEFINED);
            Ok(before)
        }
        None => Err((body, continuing)),
    }
}

/// Writes code that computes, before the loop, the number of its iterations. None if that is impossible.
fn trips(
    module: &Module,
    function: &mut Function,
    body: &Block,
    continuing: &Block,
) -> Option<(Block, Handle<Expression>)> {
    let form = short_loop::induction_loop(module, function, body, continuing)?;
    if leaves(body, true) > 1 {
        return None;
    }
    let mut inside = HashSet::new();
    defined(body, &mut inside);
    defined(continuing, &mut inside);
    let mut block = Block::new();
    let loops = [body, continuing];
    let mut copier = Copier { module, function, inside: &inside, loops, block: &mut block, copies: HashMap::new() };
    let bound = copier.copy(form.bound)?;
    let mut writer = CodeWriter { function, block: &mut block };
    let pointer = writer.add(Expression::LocalVariable(form.local));
    let start = writer.emit(Expression::Load { pointer });
    let trips = writer.trips(&form, start, bound)?;
    Some((block, trips))
}

/// Counts the exits in a loop's body: `break` of this loop and `return`. The guard is one of them.
fn leaves(block: &Block, breaks: bool) -> u32 {
    block.iter().fold(0, |sum: u32, statement| {
        sum + match statement {
            Statement::Return { .. } | Statement::Kill => 1,
            Statement::Break => u32::from(breaks),
            Statement::Block(inner) => leaves(inner, breaks),
            Statement::If { accept, reject, .. } => leaves(accept, breaks) + leaves(reject, breaks),
            Statement::Switch { cases, .. } => cases.iter().map(|case| leaves(&case.body, false)).sum(),
            Statement::Loop { body, continuing, .. } => leaves(body, false) + leaves(continuing, false),
            _ => 0,
        }
    })
}

/// Collects the expressions that are evaluated inside a block, nested blocks included.
fn defined(block: &Block, out: &mut HashSet<Handle<Expression>>) {
    for statement in block.iter() {
        match statement {
            Statement::Emit(range) => out.extend(range.clone()),
            Statement::Block(inner) => defined(inner, out),
            Statement::If { accept, reject, .. } => {
                defined(accept, out);
                defined(reject, out);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| defined(&case.body, out)),
            Statement::Loop { body, continuing, .. } => {
                defined(body, out);
                defined(continuing, out);
            }
            Statement::Call { result, .. } | Statement::Atomic { result, .. } => out.extend(*result),
            Statement::WorkGroupUniformLoad { result, .. }
            | Statement::SubgroupBallot { result, .. }
            | Statement::SubgroupGather { result, .. }
            | Statement::SubgroupCollectiveOperation { result, .. } => out.extend([*result]),
            _ => {}
        }
    }
}

/// Writes code that evaluates, before a loop, expressions that are evaluated inside it.
struct Copier<'a> {
    module: &'a Module,
    function: &'a mut Function,
    inside: &'a HashSet<Handle<Expression>>,
    loops: [&'a Block; 2],
    block: &'a mut Block,
    /// The copies so far. A value that is used twice must not be copied twice: the copies could double with each use.
    copies: HashMap<Handle<Expression>, Handle<Expression>>,
}

impl Copier<'_> {
    /// Returns the value as evaluated before the loop. None if it may change while the loop runs.
    fn copy(&mut self, value: Handle<Expression>) -> Option<Handle<Expression>> {
        if !self.inside.contains(&value) {
            return Some(value);
        }
        if let Some(copy) = self.copies.get(&value) {
            return Some(*copy);
        }
        let copied = match self.function.expressions[value].clone() {
            Expression::Load { pointer } => {
                self.is_fixed(pointer).then_some(())?;
                Expression::Load { pointer: self.copy(pointer)? }
            }
            Expression::AccessIndex { base, index } => Expression::AccessIndex { base: self.copy(base)?, index },
            Expression::Access { base, index } => {
                Expression::Access { base: self.copy(base)?, index: self.copy(index)? }
            }
            Expression::Unary { op, expr } => Expression::Unary { op, expr: self.copy(expr)? },
            Expression::Binary { op, left, right } => {
                Expression::Binary { op, left: self.copy(left)?, right: self.copy(right)? }
            }
            Expression::As { expr, kind, convert } => Expression::As { expr: self.copy(expr)?, kind, convert },
            Expression::Math { fun, arg, arg1, arg2: None, arg3: None } => {
                let arg1 = match arg1 {
                    Some(arg) => Some(self.copy(arg)?),
                    None => None,
                };
                Expression::Math { fun, arg: self.copy(arg)?, arg1, arg2: None, arg3: None }
            }
            Expression::ArrayLength(array) => Expression::ArrayLength(self.copy(array)?),
            _ => return None,
        };
        let copy = CodeWriter { function: self.function, block: self.block }.emit(copied);
        self.copies.insert(value, copy);
        Some(copy)
    }

    /// Returns whether the memory that a pointer points to keeps its value while the loop runs.
    fn is_fixed(&self, mut pointer: Handle<Expression>) -> bool {
        loop {
            match self.function.expressions[pointer] {
                Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = base,
                Expression::GlobalVariable(global) => {
                    return match self.module.global_variables[global].space {
                        AddressSpace::Uniform => true,
                        AddressSpace::Storage { access } => !access.contains(StorageAccess::STORE),
                        _ => false,
                    };
                }
                Expression::LocalVariable(local) => return short_loop::is_fixed(self.function, local, self.loops),
                _ => return false,
            }
        }
    }
}

impl CodeWriter<'_> {
    /// Writes code that computes the number of iterations as a `u32`: `u32::MAX` if a step might wrap around. None if
    /// the step is larger than 2^30.
    fn trips(
        &mut self,
        form: &InductionLoop,
        start: Handle<Expression>,
        bound: Handle<Expression>,
    ) -> Option<Handle<Expression>> {
        let step = u32::try_from(form.step.unsigned_abs()).ok().filter(|step| *step <= 1 << 30)?;
        let runs = self.binary(form.op, start, bound);
        // The distance between two i32 values fits into u32, and a wrapping subtraction computes it correctly.
        let [first, last] = [start, bound].map(|value| {
            if !form.signed {
                return value;
            }
            self.emit(Expression::As { expr: value, kind: ScalarKind::Uint, convert: Some(4) })
        });
        let (zero, one, most) = (self.literal(0), self.literal(1), self.literal(u32::MAX));
        let distance = if form.step > 0 {
            self.binary(BinaryOperator::Subtract, last, first)
        } else {
            self.binary(BinaryOperator::Subtract, first, last)
        };
        let inclusive = matches!(form.op, BinaryOperator::LessEqual | BinaryOperator::GreaterEqual);
        let distance = if inclusive { distance } else { self.binary(BinaryOperator::Subtract, distance, one) };
        let full = if step == 1 {
            distance
        } else {
            let step = self.literal(step);
            self.binary(BinaryOperator::Divide, distance, step)
        };
        let count = self.binary(BinaryOperator::Add, full, one);
        let mut trips = self.select(runs, count, zero);
        if inclusive || step > 1 {
            // The end of the value range. If the last step passed it, the variable would wrap around and the loop would
            // continue.
            let reach = if form.step > 0 {
                let end = self.literal(if form.signed { i32::MAX.cast_unsigned() } else { u32::MAX });
                self.binary(BinaryOperator::Subtract, end, first)
            } else {
                let end = self.literal(if form.signed { i32::MIN.cast_unsigned() } else { 0 });
                self.binary(BinaryOperator::Subtract, first, end)
            };
            let steps = if step == 1 {
                reach
            } else {
                let step = self.literal(step);
                self.binary(BinaryOperator::Divide, reach, step)
            };
            let wraps = self.binary(BinaryOperator::GreaterEqual, full, steps);
            let counted = self.select(wraps, most, count);
            trips = self.select(runs, counted, zero);
        }
        Some(trips)
    }
}
