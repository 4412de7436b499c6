//! Copies code within a function. A copy has expressions of its own, because naga's writers evaluate an expression only
//! once.

use naga::{AtomicFunction, Block, Expression, Function, GatherMode, Handle, Statement, SwitchCase};
use std::collections::HashMap;

/// Copies statements with all expressions that they evaluate.
pub(super) struct CodeCopier<'a> {
    pub(super) function: &'a mut Function,
    /// The copies of expressions that were evaluated in the copied statements.
    copies: HashMap<Handle<Expression>, Handle<Expression>>,
    /// Where a result of a gather is replaced.
    gathers: Option<&'a dyn ReplaceGather>,
}

/// Replaces the result of a [`Statement::SubgroupGather`].
pub(super) trait ReplaceGather {
    /// Appends code to `block` that computes the value to use instead of `result`.
    fn replace(
        &self,
        function: &mut Function,
        block: &mut Block,
        mode: &GatherMode,
        result: Handle<Expression>,
    ) -> Handle<Expression>;
}

impl<'a> CodeCopier<'a> {
    pub(super) fn new(function: &'a mut Function) -> Self {
        Self { function, copies: HashMap::new(), gathers: None }
    }

    /// A copier that replaces the results of gathers.
    pub(super) fn replacing(function: &'a mut Function, gathers: &'a dyn ReplaceGather) -> Self {
        Self { gathers: Some(gathers), ..Self::new(function) }
    }

    /// Returns the copy of an expression. One that was evaluated before the copied code has none.
    pub(super) fn map(&self, handle: Handle<Expression>) -> Handle<Expression> {
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
            | Expression::WorkGroupUniformLoadResult { .. }
            | Expression::SubgroupBallotResult
            | Expression::SubgroupOperationResult { .. }) => own,
            // No kernel has others: `uniformity` refuses the statements that they need.
            _ => return None,
        })
    }

    /// Copies a block. None if it has a statement that no kernel may have.
    pub(super) fn block(&mut self, block: &Block) -> Option<Block> {
        let mut out = Block::with_capacity(block.len());
        for (statement, span) in block.span_iter() {
            if let (Statement::SubgroupGather { mode, argument, result }, Some(gathers)) = (statement, self.gathers) {
                let (mode, argument, raw) = (self.gather_mode(mode), self.map(*argument), self.copy(*result)?);
                out.push(Statement::SubgroupGather { mode, argument, result: raw }, *span);
                let value = gathers.replace(self.function, &mut out, &mode, raw);
                self.copies.insert(*result, value);
                continue;
            }
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
            Statement::Loop { body, continuing, break_if } => Statement::Loop {
                body: self.block(body)?,
                continuing: self.block(continuing)?,
                break_if: break_if.map(|condition| self.map(condition)),
            },
            Statement::SubgroupBallot { result, predicate } => {
                let predicate = predicate.map(|predicate| self.map(predicate));
                Statement::SubgroupBallot { predicate, result: self.copy(*result)? }
            }
            Statement::SubgroupCollectiveOperation { op, collective_op, argument, result } => {
                Statement::SubgroupCollectiveOperation {
                    op: *op,
                    collective_op: *collective_op,
                    argument: self.map(*argument),
                    result: self.copy(*result)?,
                }
            }
            Statement::SubgroupGather { mode, argument, result } => Statement::SubgroupGather {
                mode: self.gather_mode(mode),
                argument: self.map(*argument),
                result: self.copy(*result)?,
            },
            same @ (Statement::Break
            | Statement::Continue
            | Statement::ControlBarrier(_)
            | Statement::MemoryBarrier(_)) => same.clone(),
            _ => return None,
        })
    }

    fn gather_mode(&self, mode: &GatherMode) -> GatherMode {
        match *mode {
            GatherMode::Shuffle(index) => GatherMode::Shuffle(self.map(index)),
            GatherMode::ShuffleDown(delta) => GatherMode::ShuffleDown(self.map(delta)),
            GatherMode::ShuffleUp(delta) => GatherMode::ShuffleUp(self.map(delta)),
            GatherMode::ShuffleXor(mask) => GatherMode::ShuffleXor(self.map(mask)),
            GatherMode::Broadcast(index) => GatherMode::Broadcast(self.map(index)),
            GatherMode::QuadBroadcast(index) => GatherMode::QuadBroadcast(self.map(index)),
            same @ (GatherMode::BroadcastFirst | GatherMode::QuadSwap(_)) => same,
        }
    }

    /// Copies the result of a statement, if it has one.
    fn result(&mut self, result: Option<Handle<Expression>>) -> Option<Option<Handle<Expression>>> {
        match result {
            Some(result) => self.copy(result).map(Some),
            None => Some(None),
        }
    }
}
