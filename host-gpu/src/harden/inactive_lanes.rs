//! Makes subgroup operations that read another invocation's value give zero where that invocation is not active.
//!
//! SPIR-V defines subgroup operations for the active invocations of a subgroup, wherever these are in the code: sums, votes
//! and ballots only consist of values that active invocations gave. But a shuffle may name any invocation. If it is not
//! active, because it went another way or the workgroup has no more invocations, the value is undefined. In practice it is
//! what the register holds, and GPUs do not clear registers between the kernels of two tenants.
//!
//! ```text
//!  x = subgroupShuffle(v, i);    ──▶    raw = subgroupShuffle(v, i);
//!                                       active = subgroupBallot(true);
//!                                       x = select(zero, raw, i < 128 && active has bit i);
//! ```
//!
//! `subgroupBroadcastFirst` needs nothing: the first active invocation is active. The number of the own invocation, from
//! which some operations count, is kept in a private variable by [`super::entry_point`].

use super::copy_code::{CodeCopier, ReplaceGather};
use super::globals::Globals;
use naga::{
    BinaryOperator, Block, Direction, Expression, Function, GatherMode, GlobalVariable, Handle, Literal, Module, Span,
    Statement, Type,
};
use std::cell::Cell;

/// The most invocations of a subgroup that a ballot has bits for.
const LANES_MAX: u32 = 128;

/// Changes all functions of a module. Returns whether any reads the number of its invocation in the subgroup, or None if
/// a function has code that no kernel may have.
pub(super) fn clear(module: &mut Module, globals: &Globals) -> Option<bool> {
    let masks = Masks { lane: globals.lane, reads_lane: Cell::new(false) };
    let handles: Vec<_> = module.functions.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let mut function = std::mem::take(module.functions.get_mut(handle));
        change(&mut function, &masks)?;
        *module.functions.get_mut(handle) = function;
    }
    for entry in &mut module.entry_points {
        change(&mut entry.function, &masks)?;
    }
    Some(masks.reads_lane.get())
}

fn change(function: &mut Function, masks: &Masks) -> Option<()> {
    if function.expressions.iter().any(|(_, e)| matches!(e, Expression::SubgroupOperationResult { .. })) {
        let body = std::mem::take(&mut function.body);
        let names = std::mem::take(&mut function.named_expressions);
        let mut copier = CodeCopier::replacing(function, masks);
        let body = copier.block(&body)?;
        let names = names.into_iter().map(|(handle, name)| (copier.map(handle), name)).collect();
        (function.body, function.named_expressions) = (body, names);
    }
    Some(())
}

struct Masks {
    /// The variable with the number of the own invocation.
    lane: Handle<GlobalVariable>,
    /// Whether some code reads it.
    reads_lane: Cell<bool>,
}

impl ReplaceGather for Masks {
    fn replace(
        &self,
        function: &mut Function,
        block: &mut Block,
        mode: &GatherMode,
        raw: Handle<Expression>,
    ) -> Handle<Expression> {
        let Expression::SubgroupOperationResult { ty } = function.expressions[raw] else { return raw };
        let mut code = LaneWriter { function, block, masks: self };
        let Some((lane, in_range)) = code.lane(mode) else { return raw };
        code.masked(ty, raw, lane, in_range)
    }
}

/// Appends expressions to a function and emits them in a block.
struct LaneWriter<'a> {
    function: &'a mut Function,
    block: &'a mut Block,
    masks: &'a Masks,
}

impl LaneWriter<'_> {
    fn add(&mut self, expression: Expression) -> Handle<Expression> {
        self.function.expressions.append(expression, Span::UNDEFINED)
    }

    fn emit(&mut self, expression: Expression) -> Handle<Expression> {
        let from = self.function.expressions.len();
        let handle = self.add(expression);
        self.block.push(Statement::Emit(self.function.expressions.range_from(from)), Span::UNDEFINED);
        handle
    }

    fn literal(&mut self, value: u32) -> Handle<Expression> {
        self.add(Expression::Literal(Literal::U32(value)))
    }

    fn binary(
        &mut self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Handle<Expression> {
        self.emit(Expression::Binary { op, left, right })
    }

    fn own_lane(&mut self) -> Handle<Expression> {
        self.masks.reads_lane.set(true);
        let pointer = self.add(Expression::GlobalVariable(self.masks.lane));
        self.emit(Expression::Load { pointer })
    }

    /// Returns the number of the invocation whose value is read, and a condition beyond being less than [`LANES_MAX`].
    /// None if it is always active.
    fn lane(&mut self, mode: &GatherMode) -> Option<(Handle<Expression>, Option<Handle<Expression>>)> {
        Some(match *mode {
            GatherMode::BroadcastFirst => return None,
            GatherMode::Broadcast(index) | GatherMode::Shuffle(index) => (index, None),
            GatherMode::ShuffleDown(delta) => {
                let own = self.own_lane();
                let most = self.literal(LANES_MAX);
                // The sum may not wrap around.
                let is_short = self.binary(BinaryOperator::Less, delta, most);
                (self.binary(BinaryOperator::Add, own, delta), Some(is_short))
            }
            GatherMode::ShuffleUp(delta) => {
                let own = self.own_lane();
                let is_short = self.binary(BinaryOperator::LessEqual, delta, own);
                (self.binary(BinaryOperator::Subtract, own, delta), Some(is_short))
            }
            GatherMode::ShuffleXor(mask) => {
                let own = self.own_lane();
                (self.binary(BinaryOperator::ExclusiveOr, own, mask), None)
            }
            GatherMode::QuadBroadcast(index) => {
                let own = self.own_lane();
                let (others, last) = (self.literal(!3), self.literal(3));
                let quad = self.binary(BinaryOperator::And, own, others);
                let index = self.binary(BinaryOperator::And, index, last);
                (self.binary(BinaryOperator::InclusiveOr, quad, index), None)
            }
            GatherMode::QuadSwap(direction) => {
                let own = self.own_lane();
                let mask = self.literal(match direction {
                    Direction::X => 1,
                    Direction::Y => 2,
                    Direction::Diagonal => 3,
                });
                (self.binary(BinaryOperator::ExclusiveOr, own, mask), None)
            }
        })
    }

    fn masked(
        &mut self,
        ty: Handle<Type>,
        raw: Handle<Expression>,
        lane: Handle<Expression>,
        in_range: Option<Handle<Expression>>,
    ) -> Handle<Expression> {
        let ballot = self.add(Expression::SubgroupBallotResult);
        self.block.push(Statement::SubgroupBallot { result: ballot, predicate: None }, Span::UNDEFINED);
        let (five, three, last, one) = (self.literal(5), self.literal(3), self.literal(31), self.literal(1));
        let zero = self.literal(0);
        let word = self.binary(BinaryOperator::ShiftRight, lane, five);
        let word = self.binary(BinaryOperator::And, word, three);
        let word = self.emit(Expression::Access { base: ballot, index: word });
        let bit = self.binary(BinaryOperator::And, lane, last);
        let bit = self.binary(BinaryOperator::ShiftRight, word, bit);
        let bit = self.binary(BinaryOperator::And, bit, one);
        let is_set = self.binary(BinaryOperator::NotEqual, bit, zero);
        let most = self.literal(LANES_MAX);
        let is_low = self.binary(BinaryOperator::Less, lane, most);
        let mut is_active = self.binary(BinaryOperator::LogicalAnd, is_set, is_low);
        if let Some(in_range) = in_range {
            is_active = self.binary(BinaryOperator::LogicalAnd, is_active, in_range);
        }
        let zero = self.add(Expression::ZeroValue(ty));
        self.emit(Expression::Select { condition: is_active, accept: raw, reject: zero })
    }
}
