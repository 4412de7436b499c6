//! Lets an innermost loop make several iterations in each one that a software driver counts.
//!
//! ```text
//!  loop {                            loop {
//!    body                   ──▶        { body  continuing }    three times
//!    continuing { … }                  body
//!  }                                   continuing { … }
//!                                    }
//! ```
//!
//! The driver ends all loops of an invocation after 65,535 iterations, so kernels with more could not run there at all.
//! The guard of a copy leaves the loop as it did before. Each copy has expressions of its own, because naga's writers
//! evaluate an expression only once.
//!
//! A loop with a `continue` is left alone: in a copy it would skip the others. So is a loop that decides in its
//! `continuing` block; one that contains or calls loops; and a long one, because its copies must be compiled.

use naga::{AtomicFunction, Block, Expression, Function, Handle, Span, Statement, SwitchCase};
use std::collections::HashMap;

/// Iterations of a loop in each one that the driver counts. The more it is, the more iterations are run in vain at the
/// end of each loop: the driver skips no code.
pub(super) const COPIES: u32 = 4;
/// Limit on the statements and expressions of a loop.
pub(super) const SIZE_MAX: u64 = 400;
/// Limit on the calls in a loop: a driver inlines them, which takes long.
pub(super) const CALLS_MAX: u64 = 4;

/// Returns a body for the loop that makes [`COPIES`] iterations. None if it cannot be copied.
pub(super) fn unrolled(function: &mut Function, body: &Block, continuing: &Block) -> Option<Block> {
    let mut out = Block::new();
    for _ in 1..COPIES {
        let mut copier = Copier { function, copies: HashMap::new() };
        let mut copy = copier.block(body)?;
        copy.append(&mut copier.block(continuing)?);
        out.push(Statement::Block(copy), Span::UNDEFINED);
    }
    out.append(&mut body.clone());
    Some(out)
}

/// Returns whether the statements of a loop can be copied. Its expressions are only known when they are.
pub(super) fn is_possible(body: &Block) -> bool {
    body.iter().all(|statement| match statement {
        Statement::Continue | Statement::Loop { .. } => false,
        Statement::Block(inner) => is_possible(inner),
        Statement::If { accept, reject, .. } => is_possible(accept) && is_possible(reject),
        Statement::Switch { cases, .. } => cases.iter().all(|case| is_possible(&case.body)),
        _ => true,
    })
}

/// Copies statements with all expressions that they evaluate.
struct Copier<'a> {
    function: &'a mut Function,
    /// The copies of expressions that were evaluated in the copied statements.
    copies: HashMap<Handle<Expression>, Handle<Expression>>,
}

impl Copier<'_> {
    /// Returns the copy of an expression. One that was evaluated before the loop has none.
    fn map(&self, handle: Handle<Expression>) -> Handle<Expression> {
        self.copies.get(&handle).copied().unwrap_or(handle)
    }

    fn map_all(&self, handles: &[Handle<Expression>]) -> Vec<Handle<Expression>> {
        handles.iter().map(|handle| self.map(*handle)).collect()
    }

    /// Copies an expression.
    fn copy(&mut self, handle: Handle<Expression>) -> Option<Handle<Expression>> {
        let (expression, span) = (self.expression(handle)?, self.function.expressions.get_span(handle));
        let copy = self.function.expressions.append(expression, span);
        self.copies.insert(handle, copy);
        Some(copy)
    }

    fn expression(&self, handle: Handle<Expression>) -> Option<Expression> {
        Some(match self.function.expressions[handle].clone() {
            Expression::Compose { ty, components } => Expression::Compose { ty, components: self.map_all(&components) },
            Expression::Access { base, index } => Expression::Access { base: self.map(base), index: self.map(index) },
            Expression::AccessIndex { base, index } => Expression::AccessIndex { base: self.map(base), index },
            Expression::Splat { size, value } => Expression::Splat { size, value: self.map(value) },
            Expression::Swizzle { size, vector, pattern } => {
                Expression::Swizzle { size, vector: self.map(vector), pattern }
            }
            Expression::Load { pointer } => Expression::Load { pointer: self.map(pointer) },
            Expression::Unary { op, expr } => Expression::Unary { op, expr: self.map(expr) },
            Expression::Binary { op, left, right } => {
                Expression::Binary { op, left: self.map(left), right: self.map(right) }
            }
            Expression::Select { condition, accept, reject } => Expression::Select {
                condition: self.map(condition),
                accept: self.map(accept),
                reject: self.map(reject),
            },
            Expression::Relational { fun, argument } => Expression::Relational { fun, argument: self.map(argument) },
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let [arg1, arg2, arg3] = [arg1, arg2, arg3].map(|arg| arg.map(|arg| self.map(arg)));
                Expression::Math { fun, arg: self.map(arg), arg1, arg2, arg3 }
            }
            Expression::As { expr, kind, convert } => Expression::As { expr: self.map(expr), kind, convert },
            Expression::ArrayLength(array) => Expression::ArrayLength(self.map(array)),
            own @ (Expression::CallResult(_)
            | Expression::AtomicResult { .. }
            | Expression::WorkGroupUniformLoadResult { .. }) => own,
            // Those of subgroup operations, which are rare in innermost loops.
            _ => return None,
        })
    }

    fn block(&mut self, block: &Block) -> Option<Block> {
        let mut out = Block::with_capacity(block.len());
        for (statement, span) in block.span_iter() {
            out.push(self.statement(statement)?, *span);
        }
        Some(out)
    }

    fn statement(&mut self, statement: &Statement) -> Option<Statement> {
        Some(match statement {
            Statement::Emit(range) => {
                let from = self.function.expressions.len();
                for handle in range.clone() {
                    self.copy(handle)?;
                }
                Statement::Emit(self.function.expressions.range_from(from))
            }
            Statement::Block(inner) => Statement::Block(self.block(inner)?),
            Statement::If { condition, accept, reject } => Statement::If {
                condition: self.map(*condition),
                accept: self.block(accept)?,
                reject: self.block(reject)?,
            },
            Statement::Switch { selector, cases } => {
                let mut copies = Vec::with_capacity(cases.len());
                for SwitchCase { value, body, fall_through } in cases {
                    copies.push(SwitchCase { value: *value, body: self.block(body)?, fall_through: *fall_through });
                }
                Statement::Switch { selector: self.map(*selector), cases: copies }
            }
            Statement::Return { value } => Statement::Return { value: value.map(|value| self.map(value)) },
            Statement::Store { pointer, value } => {
                Statement::Store { pointer: self.map(*pointer), value: self.map(*value) }
            }
            Statement::Call { function, arguments, result } => Statement::Call {
                function: *function,
                arguments: self.map_all(arguments),
                result: self.result(*result)?,
            },
            Statement::Atomic { pointer, fun, value, result } => {
                let fun = match *fun {
                    AtomicFunction::Exchange { compare } => {
                        AtomicFunction::Exchange { compare: compare.map(|value| self.map(value)) }
                    }
                    other => other,
                };
                let (pointer, value) = (self.map(*pointer), self.map(*value));
                Statement::Atomic { pointer, fun, value, result: self.result(*result)? }
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                Statement::WorkGroupUniformLoad { pointer: self.map(*pointer), result: self.copy(*result)? }
            }
            same @ (Statement::Break | Statement::ControlBarrier(_) | Statement::MemoryBarrier(_)) => same.clone(),
            _ => return None,
        })
    }

    /// Copies the result of a statement, if it has one.
    fn result(&mut self, result: Option<Handle<Expression>>) -> Option<Option<Handle<Expression>>> {
        match result {
            Some(result) => self.copy(result).map(Some),
            None => Some(None),
        }
    }
}
