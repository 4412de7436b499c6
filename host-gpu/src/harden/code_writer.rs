//! Writes code into a function: what the passes of hardening add.

use naga::{BinaryOperator, Block, Expression, Function, Handle, Literal, MathFunction, Span, Statement};

/// Appends expressions to a function and emits them in a block.
pub(super) struct CodeWriter<'a> {
    pub(super) function: &'a mut Function,
    pub(super) block: &'a mut Block,
}

impl CodeWriter<'_> {
    pub(super) fn add(&mut self, expression: Expression) -> Handle<Expression> {
        self.function.expressions.append(expression, Span::UNDEFINED)
    }

    pub(super) fn emit(&mut self, expression: Expression) -> Handle<Expression> {
        let from = self.function.expressions.len();
        let handle = self.add(expression);
        self.block.push(Statement::Emit(self.function.expressions.range_from(from)), Span::UNDEFINED);
        handle
    }

    pub(super) fn literal(&mut self, value: u32) -> Handle<Expression> {
        self.add(Expression::Literal(Literal::U32(value)))
    }

    pub(super) fn binary(
        &mut self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Handle<Expression> {
        self.emit(Expression::Binary { op, left, right })
    }

    pub(super) fn math(
        &mut self,
        fun: MathFunction,
        arg: Handle<Expression>,
        arg1: Handle<Expression>,
    ) -> Handle<Expression> {
        self.emit(Expression::Math { fun, arg, arg1: Some(arg1), arg2: None, arg3: None })
    }

    pub(super) fn select(
        &mut self,
        condition: Handle<Expression>,
        accept: Handle<Expression>,
        reject: Handle<Expression>,
    ) -> Handle<Expression> {
        self.emit(Expression::Select { condition, accept, reject })
    }
}
