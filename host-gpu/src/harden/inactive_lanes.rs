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

use super::code_writer::CodeWriter;
use super::copy_code::{CodeCopier, ReplaceGather};
use super::globals::Globals;
use naga::{
    BinaryOperator, Block, Direction, Expression, Function, GatherMode, GlobalVariable, Handle, Module, Span,
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
        let mut writer = LaneWriter { code: CodeWriter { function, block }, masks: self };
        let Some((lane, in_range)) = writer.lane(mode) else { return raw };
        writer.masked(ty, raw, lane, in_range)
    }
}

/// Writes the code that finds out which invocation is read, and whether it is active.
struct LaneWriter<'a> {
    code: CodeWriter<'a>,
    masks: &'a Masks,
}

impl LaneWriter<'_> {
    fn own_lane(&mut self) -> Handle<Expression> {
        self.masks.reads_lane.set(true);
        let pointer = self.code.add(Expression::GlobalVariable(self.masks.lane));
        self.code.emit(Expression::Load { pointer })
    }

    /// Returns the number of the invocation whose value is read, and a condition beyond being less than [`LANES_MAX`].
    /// None if it is always active.
    fn lane(&mut self, mode: &GatherMode) -> Option<(Handle<Expression>, Option<Handle<Expression>>)> {
        Some(match *mode {
            GatherMode::BroadcastFirst => return None,
            GatherMode::Broadcast(index) | GatherMode::Shuffle(index) => (index, None),
            GatherMode::ShuffleDown(delta) => {
                let own = self.own_lane();
                let most = self.code.literal(LANES_MAX);
                // The sum may not wrap around.
                let is_short = self.code.binary(BinaryOperator::Less, delta, most);
                (self.code.binary(BinaryOperator::Add, own, delta), Some(is_short))
            }
            GatherMode::ShuffleUp(delta) => {
                let own = self.own_lane();
                let is_short = self.code.binary(BinaryOperator::LessEqual, delta, own);
                (self.code.binary(BinaryOperator::Subtract, own, delta), Some(is_short))
            }
            GatherMode::ShuffleXor(mask) => {
                let own = self.own_lane();
                (self.code.binary(BinaryOperator::ExclusiveOr, own, mask), None)
            }
            GatherMode::QuadBroadcast(index) => {
                let own = self.own_lane();
                let (others, last) = (self.code.literal(!3), self.code.literal(3));
                let quad = self.code.binary(BinaryOperator::And, own, others);
                let index = self.code.binary(BinaryOperator::And, index, last);
                (self.code.binary(BinaryOperator::InclusiveOr, quad, index), None)
            }
            GatherMode::QuadSwap(direction) => {
                let own = self.own_lane();
                let mask = self.code.literal(match direction {
                    Direction::X => 1,
                    Direction::Y => 2,
                    Direction::Diagonal => 3,
                });
                (self.code.binary(BinaryOperator::ExclusiveOr, own, mask), None)
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
        let ballot = self.code.add(Expression::SubgroupBallotResult);
        self.code.block.push(Statement::SubgroupBallot { result: ballot, predicate: None }, Span::UNDEFINED);
        let (five, three, last, one) =
            (self.code.literal(5), self.code.literal(3), self.code.literal(31), self.code.literal(1));
        let zero = self.code.literal(0);
        let word = self.code.binary(BinaryOperator::ShiftRight, lane, five);
        let word = self.code.binary(BinaryOperator::And, word, three);
        let word = self.code.emit(Expression::Access { base: ballot, index: word });
        let bit = self.code.binary(BinaryOperator::And, lane, last);
        let bit = self.code.binary(BinaryOperator::ShiftRight, word, bit);
        let bit = self.code.binary(BinaryOperator::And, bit, one);
        let is_set = self.code.binary(BinaryOperator::NotEqual, bit, zero);
        let most = self.code.literal(LANES_MAX);
        let is_low = self.code.binary(BinaryOperator::Less, lane, most);
        let mut is_active = self.code.binary(BinaryOperator::LogicalAnd, is_set, is_low);
        if let Some(in_range) = in_range {
            is_active = self.code.binary(BinaryOperator::LogicalAnd, is_active, in_range);
        }
        let zero = self.code.add(Expression::ZeroValue(ty));
        self.code.emit(Expression::Select { condition: is_active, accept: raw, reject: zero })
    }
}
